"""Decorated writes: what is told to the cache before a write and after it.

Keys are made before the write, so that bad input raises before anything is written, and once more after it: a write may
change its arguments (`user.email = ...`), and then the entry under the old text is as stale as the one under the new
text.

The invalidation is sent after the write has returned, and also when it raised (an error does not prove that nothing was
written) or was cancelled. Sent before, it would be too early: a reader could take a lease after it, load the old row
and fill it.

A **strict** write closes what is left open by that: an invalidation that cannot be delivered, a writer that dies after
its commit. It puts a guard on its keys first, and takes it back last. While the guard stands readers load and fill
nothing, so there is nothing to be stale; if it cannot be placed, nothing is written.

An **update** puts its result into the entry instead of dropping it. It too guards first, and the value goes in only if
this writer's mark stood alone and untouched from before the write to after it: then no other write can have come
between. ("Only my mark is left" would not do: another writer may have come, committed after this one, and gone.)
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any, TypeVar

from . import drivers, scopes, telling
from .core import Core, Update
from .errors import CacheUnavailable, ConfigurationError
from .functions import Home
from .health import logger
from .keymaker import is_coroutine, is_generator
from .scopes import Change, Changes, Delivery
from .steps import Failed
from .targets import Entry, Make, Targets, Terms

T = TypeVar("T")


class Write:
    """One write, as a context manager, plain and async: at its end the keys are invalidated, however it ends.

    Args:
        home: gives the cache whose counters tell of unknown targets.
        name: what the log calls it.
        terms: how it treats its keys.
        early: makes keys from the arguments alone.
        late: makes keys from the arguments and the result.
        values: the arguments by name.
    """

    def __init__(
        self,
        home: Callable[[], Home],
        name: str,
        terms: Terms,
        early: Collection[Make],
        late: Collection[Make] = (),
        values: dict[str, Any] | None = None,
    ) -> None:
        self._home = home
        self._name = name
        self._terms = terms
        self._early = early
        self._late = late
        self._values = values or {}
        self._plan: dict[Core, dict[str, str | None]] = {}
        self._proofs: dict[Core, dict[str, Any]] = {}
        self._made: list[Entry] = []  # after the write
        self._real = True  # False: the block was no write after all
        self._changing: list[tuple[Core, list[str]]] = []  # as they were added to `core.held`
        self.open: bool = False
        """See `Scope`: reads of its keys inside it go to the store."""
        self.committed: bool = False
        """Whether a transaction has been committed inside it."""

    def returned(self, result: Any) -> Any:
        """Note what the write returned; gives it back."""
        self._values = {**self._values, "result": result}
        return result

    def called_off(self) -> None:
        """The block was no write after all: its end invalidates nothing, and only takes back its marks."""
        self._early, self._late = (), ()
        self._real = False
        self._keep_marks_only()

    def __enter__(self) -> Write:
        self._begin(sync=True)
        if self._terms.guards:
            try:
                for core, plan in self._plan.items():
                    self._guarded(core, drivers.drive(core.guard(plan, self._terms.hold), core))
            except BaseException:
                self._keep_marks_only()
                try:
                    for core, plan in self._plan.items():
                        telling.finish(core, plan)
                except BaseException:  # Ctrl-C while it takes them back
                    self._postpone()
                    raise
                raise
        self._open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            failures = telling.deliver(self._ended())
        finally:
            self._close()
        telling.raise_first(failures)

    async def __aenter__(self) -> Write:
        self._begin(sync=False)
        if self._terms.guards:
            try:
                for core, plan in self._plan.items():
                    self._guarded(core, await drivers.adrive(core.guard(plan, self._terms.hold), core))
            except BaseException as error:
                self._keep_marks_only()
                try:
                    if isinstance(error, GeneratorExit):  # nothing can be awaited any more
                        self._postpone()
                    else:
                        for core, plan in self._plan.items():
                            await telling.afinish(core, plan)
                except BaseException:  # cancelled once more, or Ctrl-C
                    self._postpone()
                    raise
                raise
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is GeneratorExit:  # the coroutine is being thrown away: nothing can be awaited any more
                return telling.postpone(self._ended())
            failures = await telling.adeliver(self._ended())
        finally:
            self._close()
        return telling.raise_first(failures)

    def changes(self, core: Core, key: str) -> bool:
        """See `Scope.changes`."""
        return key in self._plan.get(core, ())

    def early(self) -> list[tuple[Core, Changes]]:
        """What its end will tell, as far as it is known before: for a transaction that is committed inside it.

        Without keys that are guarded: these are safe until its end.
        """
        return [
            (core, {key: Change(stale=self._terms.stale) for key, mark in plan.items() if mark is None})
            for core, plan in self._plan.items()
        ]

    def _open(self) -> None:
        """The write begins."""
        self.open = True
        scopes.enter(self)
        for core, plan in self._plan.items():
            self._changing.append((core, list(plan)))
            core.hold(plan)

    def _close(self) -> None:
        """The write is over, and its end has been told, or is pending or held."""
        self.open = False
        scopes.leave(self)
        for core, keys in self._changing:
            core.unhold(keys)

    def _ended(self) -> list[Delivery]:
        """What has to be told now that the write is over; what has to wait for a commit a transaction keeps."""
        told: list[Delivery] = []
        try:
            self._finish()
            around = scopes.transactions(self._values) if self._real else []
            for core, plan in self._plan.items():
                updates = self._updates(core)
                changes = {
                    key: Change(() if mark is None else (mark,), self._terms.stale, updates.get(key))
                    for key, mark in plan.items()
                }
                told += scopes.settle(core, changes, around, self.committed)
        except BaseException:  # Ctrl-C, or a transaction that cannot keep them
            self._postpone()
            raise
        return told

    def _postpone(self) -> None:
        """Leave the keys to a later delivery; until then they are bypassed."""
        for core, plan in self._plan.items():
            if plan:
                core.undelivered(plan)

    def _keep_marks_only(self) -> None:
        for core, plan in self._plan.items():
            self._plan[core] = {key: mark for key, mark in plan.items() if mark is not None}

    def _begin(self, sync: bool) -> None:
        for make in self._early:
            self._add(make)
        around = scopes.transactions(self._values)
        for core, plan in self._plan.items():
            core.require(sync)
            self._terms.require(self._name, core)
            for each in around:
                each.require(core)
                each.touch(core, plan)

    def _guarded(self, core: Core, answer: Any) -> None:
        """What became of the guard in one cache."""
        if type(answer) is not Failed:
            self._proofs[core] = answer
        elif self._terms.strict:
            core.book.writes_refused += 1
            raise CacheUnavailable(
                f"{self._name} was not called: its guard could not be placed: {answer.error}"
            ) from answer.error

    def _finish(self) -> None:
        makes = [*self._early, *(self._late if "result" in self._values else ())]
        if len(makes) < len(self._early) + len(self._late):
            self._unknown("it raised, so its result is not known")
        for make in makes:
            try:
                self._made.extend(self._add(make))
            except Exception as error:  # raised now it would hide that the write was done
                self._unknown(str(error))

    def _add(self, make: Make) -> list[Entry]:
        made = list(make(self._values))
        for entry in made:
            self._plan.setdefault(entry.core, {}).setdefault(entry.key, None)
        return made

    def _updates(self, core: Core) -> dict[str, Update]:
        """The result as it goes into the entries of one cache: under keys that were guarded, and are the same now."""
        updates: dict[str, Update] = {}
        if self._terms.update and "result" in self._values:
            proofs = self._proofs.get(core, {})
            for entry in self._made:
                if entry.core is core and entry.key in proofs and entry.keeper is not None:
                    kept = self._quietly(entry.keeper.keep, self._values["result"])
                    if kept is not None:
                        refused = functools.partial(self._quietly, entry.keeper.uncacheable)
                        updates[entry.key] = Update(proofs[entry.key], *kept, refused)
        return updates

    def _quietly(self, call: Callable[[Any], T], argument: Any) -> T | None:
        """Call what may run the user's cache_if= or ttl=, or warn: raised now it would hide that the write was done."""
        try:
            return call(argument)
        except Exception as error:
            logger().warning("%s: its result is not put into the cache: %s", self._name, error)
            return None

    def _unknown(self, why: str) -> None:
        self._home().core.book.unknown_targets += 1
        logger().warning("%s: not all targets of its invalidation can be known, the rest expires: %s", self._name, why)


def wrap(fn: Any, targets: tuple[Any, ...], home: Callable[[], Home], terms: Terms, bound: bool = False) -> Any:
    """The decorated form of the write function `fn`: a plain function, `async def` if it is one.

    `bound`: whether `home` always gives the same cache.
    """
    if isinstance(fn, (classmethod, staticmethod)):
        return type(fn)(wrap(fn.__func__, targets, home, terms, bound))
    if not callable(fn):
        raise ConfigurationError(f"{terms.decorator}(...) decorates a function, not {fn!r}")
    name = f"{getattr(fn, '__module__', '?')}.{getattr(fn, '__qualname__', type(fn).__qualname__)}"
    if is_generator(fn):
        raise ConfigurationError(f"{name} is a generator: its write is not over when it returns")
    plan = Targets(fn, name, targets, home, terms, bound)
    inner: Any = fn

    def begin(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Write:
        return Write(home, name, terms, plan.early, plan.late, plan.bind(args, kwargs))

    if is_coroutine(fn):

        async def acall(*args: Any, **kwargs: Any) -> Any:
            async with begin(args, kwargs) as write:
                return write.returned(await inner(*args, **kwargs))

        return functools.wraps(fn)(acall)

    def call(*args: Any, **kwargs: Any) -> Any:
        with begin(args, kwargs) as write:
            result = inner(*args, **kwargs)
            if not hasattr(type(result), "__await__"):
                return write.returned(result)
            write.called_off()
        # A plain function that returns a coroutine (a decorator in between, perhaps): the write is still to come.
        return _awaited(begin(args, kwargs), result)

    return functools.wraps(fn)(call)


async def _awaited(write: Write, result: Any) -> Any:
    async with write:
        return write.returned(await result)
