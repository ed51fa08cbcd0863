"""What all functions on one cache share in this process, and the deliveries of its invalidations.

As in `engine.py`, what takes I/O is a generator of steps for the drivers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Coroutine, Generator, Mapping
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

from . import forks, hitpath, scopes, tokens
from .backends.base import AsyncBackend, Backend, Capability, Size
from .errors import ConfigurationError, NotCacheableError
from .flight import Flights, loading
from .giveback import owned, spawn, sweep
from .health import Health, logger
from .pending import Pending, Plan, Snapshot
from .stats import StatsBook
from .steps import Ask, Failed, Step, Steps

if TYPE_CHECKING:
    import asyncio


LONGEST_TAG = 65_535  # bytes of the key of a tag: entries hold it after its length in two; longer ones get a hash


class Update:
    """A value to put in the place of a writer's mark; `refused` is told if it is not cacheable after all."""

    def __init__(
        self, proof: Any, stored: Any, ttl: float | None, refused: Callable[[NotCacheableError], object]
    ) -> None:
        self.proof: Any = proof
        self.stored: Any = stored
        self.ttl: float | None = ttl
        self.refused: Callable[[NotCacheableError], object] = refused


NO_UPDATES: Mapping[str, Update] = {}


class _Failure:
    def __init__(self, error: Exception, keys: frozenset[str]) -> None:
        self.error = error
        self.keys = keys


class Core:
    """What all functions on one cache share in this process.

    Args:
        label: how the log calls the cache; never with a password.
        backend: the plain form; None if it has only the awaitable one.
        aio: the awaitable form; None if it has only the plain one.
        prefix: what every key begins with on the backend: the namespace, escaped, and a colon; empty in memory.
        lease: seconds after which a load may no longer be filled, and every wait ends.
    """

    def __init__(
        self, label: str, backend: Backend | None, aio: AsyncBackend | None, prefix: str, lease: float
    ) -> None:
        self.label = label
        self.backend = backend
        self.aio = aio
        self.prefix = prefix
        self.lease = lease
        either = backend or aio
        assert either is not None  # Cache has made sure of it
        self.capabilities: frozenset[Capability] = either.capabilities
        self.in_process: bool = "in_process" in self.capabilities
        self.gives_back: bool = "gives_back" in self.capabilities
        self.flights: Flights = Flights()
        self.pending: Pending = Pending()
        self.health: Health = Health(label)
        self.book: StatsBook = StatsBook()
        self.held: scopes.Held = scopes.Held()
        self.refreshes: dict[str, float] = {}
        """For what is being refreshed by this process, until when nobody else here needs to try."""
        forks.register(self)

    def after_fork(self) -> None:
        """What is being refreshed is so by the parent."""
        self.refreshes = {}

    def tag_key(self, text: str) -> str:
        """The key of a tag, as the backend knows it. No template can render it: there `%` begins a number."""
        key = f"{self.prefix}%tag:{text}"
        if len(key) <= LONGEST_TAG:
            return key
        from hashlib import blake2b  # costly to import

        return f"{self.prefix}%long:{blake2b(text.encode(), digest_size=32).hexdigest()}"

    def spawn(self, work: Coroutine[Any, Any, Any], at_once: bool) -> None:
        """Do `work` in a task of the running loop, in a copy of this context.

        It has begun when this returns, and stands where it first waits: so it has its way out in whatever manner it is
        ended. (A task that is cancelled at once would never have begun.)

        Args:
            work: at first it only waits for its turn, see `steps.Begin`.
            at_once: somebody waits for it; so it is inside the loads that the caller is inside of.
        """
        context = copy_context()
        if not at_once:
            context.run(loading.set, ())
        context.run(work.send, None)
        spawn(work, context, self).add_done_callback(_spawned)

    async def stop(self) -> None:
        """Break off what is done in the background in the running loop."""
        import asyncio

        sweep()
        tasks = owned(self)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def hold(self, keys: Collection[str]) -> None:
        """A scope in this process changes `keys`: from now on reads inside it go to the store (`scopes.py`).

        Race: a call elsewhere finds a value, and makes a row for it. Either it sees the key here and makes none, or the
        row was there before and is dropped here.
        """
        self.held.add(keys)
        self.detach(keys)

    def detach(self, keys: Collection[str]) -> None:
        """No call finds `keys` by a row any more."""
        if "rows" in self.capabilities:
            backend: Any = self.backend
            backend.detach(keys)

    def unhold(self, keys: Collection[str]) -> None:
        """A scope that changed `keys` is over."""
        self.held.remove(keys)

    def guard(self, plan: dict[str, str | None], hold: float) -> Steps:
        """Put a mark of this writer on all keys of `plan`, and note it there; before the write.

        Returns:
            a proof for each key, to be given to `finish` with the value of an update; or Failed: then no mark is left,
            or it is pending. Races: a command that arrives late, after the release that followed its failure, leaves a
            mark for `hold` seconds, and with it loads, never an old value.
        """
        token = tokens.fresh().decode()
        marked = dict.fromkeys(plan, token)
        try:
            answer = yield Ask("guard", (tuple(plan), token, hold))
        except BaseException:  # cancelled in it: the marks may stand
            self.undelivered(marked)
            raise
        if type(answer) is Failed:
            if getattr(answer.error, "sent", True):
                yield from self.finish(marked, begun=False)
            self.failed(answer.error)
            return answer
        self.recovered()
        plan.update(marked)
        return dict(zip(plan, answer, strict=True))

    def finish(
        self, plan: Plan, updates: Mapping[str, Update] = NO_UPDATES, stale: float = 0.0, begun: bool = True
    ) -> Steps:
        """A write is over: put in the values of `updates`, take back the other marks of `plan`, invalidate the rest.

        What fails is pending: bypassed until it succeeds. What is pending already is not sent along: a part of the
        cache that is down must not fail this delivery too.

        An update that was refused or unanswered is a release: had the value been accepted after all, the release finds
        no mark and drops it.

        What was to be marked stale, and could not, is invalidated later: that is more than was asked for.

        Args:
            stale: seconds that values may be kept, marked stale, for readers who ask for that; 0: they are dropped.
            begun: False if the marks of `plan` may never have been placed: that one is missing then says nothing.

        Returns:
            the keys whose new values are in the cache.
        """
        left, updated = dict(plan), set[str]()
        try:
            for key, update in updates.items():
                if (yield from self._update(key, str(left[key]), update)):
                    del left[key]
                    updated.add(key)
            failures, lost = yield from self._tell(*_parts(left), stale)
        except BaseException:  # cancelled in it: whether it arrived is not known, so it counts as failed
            self.undelivered(left)
            raise
        failed = {key for failure in failures for key in failure.keys}
        self.book.invalidations += len(left.keys() - failed)
        if begun:
            self.book.guards_lost += lost
        if failures:
            self.undelivered({key: mark for key, mark in left.items() if key in failed})
            for failure in failures:
                self.failed(failure.error)
        else:
            self.recovered()
            if self.pending:
                yield from self.deliver()
        return updated

    def _update(self, key: str, token: str, update: Update) -> Steps:
        """Whether the value is in the cache now."""
        answer = yield Ask("update", (key, token, update.proof, update.stored, update.ttl))
        if answer is True:
            self.book.updates += 1
            return True
        self.book.updates_refused += 1
        if type(answer) is Failed:
            if isinstance(answer.error, NotCacheableError):
                update.refused(answer.error)
            else:
                self.failed(answer.error)
        return False

    def deliver(self) -> Steps:
        """Try to deliver what is pending, if it is time to."""
        due = self.pending.due(time.monotonic())
        if due is None:
            return None
        if due.overflowed:
            if "clear" in self.capabilities:  # else only `cache.clear(everything=True)` helps; the log has said so
                yield from self._clear(self.prefix or None, due)
            return None
        # A mark that is missing may have been taken back by a command whose answer was lost: it is not counted.
        failures, _ = yield from self._tell(due.keys, due.marks)
        failed = {key for failure in failures for key in failure.keys}
        for failure in failures:
            self.failed(failure.error)
        if not failures:
            self.recovered()
        self.book.invalidations += len({*due.keys, *(key for key, _ in due.marks)} - failed)
        self.pending.settle(due, but=failed)
        return None

    def _tell(
        self, keys: tuple[str, ...], marks: tuple[tuple[str, str], ...], stale: float = 0.0
    ) -> Generator[Step, Any, tuple[list[_Failure], int]]:
        """Invalidate keys and take back marks; returns what failed, and how many marks were not there any more."""
        failures, lost = [], 0
        marked = frozenset(key for key, _ in marks)
        drop: tuple[str, tuple[Any, ...]] = ("mark_stale", (keys, stale)) if stale else ("invalidate", (keys,))
        for (verb, args), concerned in ((drop, frozenset(keys)), (("unguard", (marks,)), marked)):
            if concerned:
                answer = yield Ask(verb, args)
                if type(answer) is Failed:
                    known = getattr(answer.error, "keys", None) or ()
                    failures.append(_Failure(answer.error, concerned.intersection(known) or concerned))
                elif verb == "unguard":
                    lost += answer
        return failures, lost

    def clear(self, prefix: str | None) -> Steps:
        """Drop all keys that begin with `prefix`; None: everything.

        Raises:
            CacheUnavailable: the server did not answer.
        """
        answer = yield from self._clear(prefix, self.pending.snapshot())
        if type(answer) is Failed:
            raise answer.error
        return None

    def _clear(self, prefix: str | None, before: Snapshot) -> Steps:
        answer = yield Ask("clear", (prefix,))
        if type(answer) is Failed:
            self.failed(answer.error)
            return answer
        self.recovered()
        self.pending.settle(before, cleared=True)
        return None

    def require(self, sync: bool) -> None:
        """That there is a client of the caller's colour.

        Raises:
            ConfigurationError: there is none.
        """
        if self.backend is None and sync:
            raise ConfigurationError(f"{self.label} has only an async client: plain functions need a plain one as well")
        if not sync and self.aio is None and not self.in_process:
            raise ConfigurationError(f"{self.label} has only a plain client: async functions need an async one as well")

    def size(self) -> Size:
        """Entries now and at most, as far as is known without I/O."""
        return Size(None, None) if self.backend is None else self.backend.size()

    def failed(self, error: Exception) -> None:
        """A command failed. Mistakes of configuration are raised: no waiting will mend them."""
        if isinstance(error, ConfigurationError):
            raise error
        self.health.failed(error)

    def recovered(self) -> None:
        """A command succeeded."""
        if self.health.failing:
            self.health.recovered()

    def undelivered(self, plan: Plan) -> None:
        """Note that what `plan` says did not arrive, as far as is known."""
        overflowed = self.pending.overflowed
        self.pending.add(plan)
        self.book.undelivered += 1
        if "rows" in self.capabilities:
            hitpath.reset()  # whoever asks for a pending key by a row would get the old value
        if self.pending.overflowed and not overflowed:
            self.health.overflowed("clear" in self.capabilities)


def _spawned(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger().error("a load in the background failed", exc_info=task.exception())


def _parts(plan: Plan) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    keys = tuple(key for key, mark in plan.items() if mark is None)
    return keys, tuple((key, mark) for key, mark in plan.items() if mark is not None)
