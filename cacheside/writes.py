"""Decorated writes: which keys a write makes stale, and their invalidation after it.

A target is a template over the write function's parameters and `result`, a cached function, or a callable. Keys are
made before the write, so that bad input raises before anything is written, and once more after it: a write may change
its arguments (`user.email = ...`), and then the entry under the old text is as stale as the one under the new text.

The invalidation is sent after the write has returned, and also when it raised (an error does not prove that nothing was
written) or was cancelled. Sent before, it would be too early: a reader could take a lease after it, load the old row
and fill it.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Iterable
from types import TracebackType
from typing import Any, TypeAlias

from . import drivers
from .core import Core
from .errors import ConfigurationError
from .functions import Home
from .health import logger
from .keymaker import is_coroutine, is_generator, signature_of
from .keys import Binder, Template, check_key, split_version
from .wrappers import AsyncCached, Cached

Keys: TypeAlias = Iterable[tuple[Core, str]]
"""Pairs of a cache and a key as its backend knows it."""

Make: TypeAlias = Callable[[dict[str, Any]], Keys]
"""From the arguments of the write by name (and "result", where there is one) to keys."""


class Write:
    """One write, as a context manager, plain and async: at its end the keys are invalidated, however it ends.

    Args:
        home: gives the cache whose counters tell of unknown targets.
        name: what the log calls it.
        early: makes keys from the arguments alone.
        late: makes keys from the arguments and the result.
        values: the arguments by name.
    """

    def __init__(
        self,
        home: Callable[[], Home],
        name: str,
        early: Collection[Make],
        late: Collection[Make] = (),
        values: dict[str, Any] | None = None,
    ) -> None:
        self._home = home
        self._name = name
        self._early = early
        self._late = late
        self._values = values or {}
        self._plan: dict[Core, dict[str, None]] = {}

    def returned(self, result: Any) -> Any:
        """Note what the write returned; gives it back."""
        self._values = {**self._values, "result": result}
        return result

    def called_off(self) -> None:
        """The block was no write after all: its end invalidates nothing."""
        self._early, self._late = (), ()
        self._plan.clear()

    def __enter__(self) -> Write:
        self._begin(sync=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failures: list[Exception] = []
        try:
            self._finish()
            for core, keys in self._plan.items():
                try:
                    drivers.invalidate(core, keys)
                except Exception as failure:  # the other caches have to be told all the same
                    failures.append(failure)
        except BaseException:  # Ctrl-C: what was delivered is not known
            self._postpone()
            raise
        if failures:
            raise failures[0]

    async def __aenter__(self) -> Write:
        self._begin(sync=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failures: list[Exception] = []
        try:
            self._finish()
            if kind is GeneratorExit:  # the coroutine is being thrown away: nothing can be awaited any more
                return self._postpone()
            for core, keys in self._plan.items():
                try:
                    await drivers.ainvalidate(core, keys)
                except Exception as failure:
                    failures.append(failure)
        except BaseException:  # cancelled once more, or Ctrl-C
            self._postpone()
            raise
        if failures:
            raise failures[0]
        return None

    def _postpone(self) -> None:
        """Leave the keys to a later delivery; until then they are bypassed."""
        for core, keys in self._plan.items():
            core.undelivered(keys)

    def _begin(self, sync: bool) -> None:
        for make in self._early:
            self._add(make)
        for core in self._plan:
            core.require(sync)

    def _finish(self) -> None:
        makes = [*self._early, *(self._late if "result" in self._values else ())]
        if len(makes) < len(self._early) + len(self._late):
            self._unknown("it raised, so its result is not known")
        for make in makes:
            try:
                self._add(make)
            except Exception as error:  # raised now it would hide that the write was done
                self._unknown(str(error))

    def _add(self, make: Make) -> None:
        for core, key in make(self._values):
            self._plan.setdefault(core, {})[key] = None

    def _unknown(self, why: str) -> None:
        self._home().core.book.unknown_targets += 1
        logger().warning("%s: not all targets of its invalidation can be known, the rest expires: %s", self._name, why)


class Targets:
    """The targets of one write function.

    Args:
        fn: the write function; of a classmethod or staticmethod, the function inside.
        name: what messages call it.
        targets: as the user gave them.
        home: gives the cache of templates and callables at each call.

    Raises:
        ConfigurationError: a target that does not fit the function.
    """

    def __init__(self, fn: Callable[..., Any], name: str, targets: tuple[Any, ...], home: Callable[[], Home]) -> None:
        if not targets:
            raise ConfigurationError("@invalidates needs a target: a key template, a cached function, or a callable")
        self._binder = Binder(signature_of(fn, name))
        self._names = list(self._binder.signature.parameters)
        self._name = name
        self._home = home
        if "result" in self._names:
            raise ConfigurationError(f"{name}: rename its parameter 'result': {{result}} means what the write returned")
        self._early: list[Make] = []
        self._late: list[Make] = []
        for target in targets:
            make, needs_result = self._made(target)
            (self._late if needs_result else self._early).append(make)

    def write(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Write:
        """One call of the write function."""
        return Write(self._home, self._name, self._early, self._late, self._binder.bind(args, kwargs))

    def _made(self, target: Any) -> tuple[Make, bool]:
        if isinstance(target, str):
            return self._template(Template(target, [*self._names, "result"], self._name))
        if isinstance(target, (Cached, AsyncCached)):
            return self._function(target), False
        if callable(target) and not is_coroutine(target):
            return self._callable(target)
        raise ConfigurationError(
            f"{self._name}: a target is a key template, a cached function or a plain callable, not {target!r}"
        )

    def _template(self, template: Template) -> tuple[Make, bool]:
        def make(values: dict[str, Any]) -> Keys:
            core = self._home().core
            yield core, core.prefix + template.render(values)

        return make, "result" in template.fields

    def _function(self, target: Cached[..., Any] | AsyncCached[..., Any]) -> Make:
        function = target._function
        parameters = list(function.keys.binder.signature.parameters)
        bound = dict(zip(parameters, target.args, strict=False))
        if missing := [name for name in function.keys.needs if name not in self._names and name not in bound]:
            raise ConfigurationError(
                f"{self._name}: the key of {function.name} needs {missing}, which are no parameters of the write: give "
                "the target as a template or a callable"
            )

        def make(values: dict[str, Any]) -> Keys:
            runtime = function.runtime()
            text = function.keys.text({**values, **bound}, runtime.in_process)
            yield runtime.core, runtime.core.prefix + text

        return make

    def _callable(self, target: Callable[..., Any]) -> tuple[Make, bool]:
        asks = "result" in signature_of(target, f"{self._name}: target {target!r}").parameters
        signature = self._binder.signature

        def make(values: dict[str, Any]) -> Keys:
            core = self._home().core
            bound = inspect.BoundArguments(signature, {name: values[name] for name in self._names})
            extra = {"result": values["result"]} if asks else {}
            answer = target(*bound.args, **bound.kwargs, **extra)
            for text in (answer,) if isinstance(answer, str) else answer:
                yield core, server_key(core, text)

        return make, asks


def server_key(core: Core, text: str) -> str:
    """A key as `.key()` shows it, as the backend of `core` knows it.

    The version is left out: one entry holds whatever version was filled last, so that a write of any version drops it.

    Raises:
        InvalidKeyError: the text can be no key.
    """
    return core.prefix + split_version(check_key(text))[0]


def wrap(fn: Any, targets: tuple[Any, ...], home: Callable[[], Home]) -> Any:
    """The decorated form of the write function `fn`: a plain function, `async def` if it is one."""
    if isinstance(fn, (classmethod, staticmethod)):
        return type(fn)(wrap(fn.__func__, targets, home))
    if not callable(fn):
        raise ConfigurationError(f"@invalidates(...) decorates a function, not {fn!r}")
    name = f"{getattr(fn, '__module__', '?')}.{getattr(fn, '__qualname__', type(fn).__qualname__)}"
    if is_generator(fn):
        raise ConfigurationError(f"{name} is a generator: its write is not over when it returns")
    plan = Targets(fn, name, targets, home)
    inner: Any = fn
    if is_coroutine(fn):

        async def acall(*args: Any, **kwargs: Any) -> Any:
            async with plan.write(args, kwargs) as write:
                return write.returned(await inner(*args, **kwargs))

        return functools.wraps(fn)(acall)

    def call(*args: Any, **kwargs: Any) -> Any:
        with plan.write(args, kwargs) as write:
            result = inner(*args, **kwargs)
            if not hasattr(type(result), "__await__"):
                return write.returned(result)
            write.called_off()
        # A plain function that returns a coroutine (a decorator in between, perhaps): the write is still to come.
        return _awaited(plan.write(args, kwargs), result)

    return functools.wraps(fn)(call)


async def _awaited(write: Write, result: Any) -> Any:
    async with write:
        return write.returned(await result)
