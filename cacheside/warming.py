"""Filling a cache before it is needed: many calls of one function, several at a time, whose results nobody wants."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Iterator, Mapping, Sized
from typing import Any, NamedTuple, TypeAlias

from .errors import ConfigurationError, MissingExtraError


class Warmed(NamedTuple):
    """What came of warming a cache, or has come of it so far."""

    calls: int
    """Calls that are over."""
    failed: int
    """Those of them that raised."""
    error: Exception | None
    """What the first of those raised."""


WarmProgress: TypeAlias = "bool | Callable[[Warmed], object]"
"""True: a progress bar on the terminal (package ``rich``). Or what is told after each call how it stands."""


class _Tally:
    """How it stands."""

    def __init__(self, items: Any, progress: WarmProgress) -> None:
        self.state: Warmed = Warmed(0, 0, None)
        self._bar: Any = None
        self._tell = progress if callable(progress) else None
        if progress is True:
            try:
                from rich.progress import Progress
            except ImportError as error:
                raise MissingExtraError("progress=True needs the package rich: pip install 'cacheside[cli]'") from error
            self._bar = Progress()
            total = len(items) if isinstance(items, Sized) else None
            self._task = self._bar.add_task("warming", total=total)

    def __enter__(self) -> _Tally:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def add(self, error: Exception | None) -> None:
        """One more call is over."""
        calls, failed, first = self.state
        self.state = Warmed(calls + 1, failed + (error is not None), first or error)
        if self._bar is not None:
            self._bar.advance(self._task)
        if self._tell is not None:
            self._tell(self.state)


def warm(call: Callable[..., object], items: Iterable[Any], concurrency: int, progress: WarmProgress) -> Warmed:
    """Call for each of `items`, in `concurrency` threads."""
    from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
    from contextvars import copy_context

    _check(concurrency)
    with _Tally(items, progress) as tally, ThreadPoolExecutor(concurrency, "cacheside-warm") as threads:
        running: set[Future[Any]] = set()

        def collect(most: int) -> None:
            nonlocal running
            while len(running) > most:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    error = future.exception()
                    if error is not None and not isinstance(error, Exception):
                        raise error
                    tally.add(error)

        for item in items:
            args, kwargs = _arguments(item)
            collect(concurrency - 1)
            running.add(threads.submit(copy_context().run, call, *args, **kwargs))
        collect(0)
    return tally.state


async def awarm(
    call: Callable[..., Awaitable[object]],
    items: Iterable[Any] | AsyncIterable[Any],
    concurrency: int,
    progress: WarmProgress,
) -> Warmed:
    """`warm`, in `concurrency` tasks."""
    import asyncio

    _check(concurrency)
    with _Tally(items, progress) as tally:
        # One at a time: an async generator cannot be asked for two items at once.
        each, turn = _each(items), asyncio.Lock()

        async def work() -> None:
            while True:
                async with turn:
                    item = await anext(each, _END)
                if item is _END:
                    return
                args, kwargs = _arguments(item)
                error = None
                try:
                    await call(*args, **kwargs)
                except Exception as raised:
                    error = raised
                tally.add(error)

        error: BaseException | None = None
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(concurrency):
                    group.create_task(work())
        except BaseExceptionGroup as several:  # what `items` or `progress` raised; the other tasks are cancelled
            error = several.exceptions[0]
        finally:
            await each.aclose()
        if error is not None:
            try:
                raise error
            finally:
                del error  # as in `drivers.read`
    return tally.state


_END = object()


async def _each(items: Iterable[Any] | AsyncIterable[Any]) -> AsyncGenerator[Any, None]:
    if isinstance(items, AsyncIterable):
        given: Any = aiter(items)
        try:
            async for item in given:
                yield item
        finally:
            if hasattr(given, "aclose"):  # a generator; what it holds is not left to the garbage collector
                await given.aclose()
    else:
        iterator: Iterator[Any] = iter(items)
        for item in iterator:
            yield item


def _arguments(item: Any) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """The arguments of one call: a tuple of them, a mapping by name, or the only one itself."""
    if isinstance(item, tuple):
        return item, {}
    if isinstance(item, Mapping):
        return (), item
    return (item,), {}


def _check(concurrency: object) -> None:
    if isinstance(concurrency, bool) or not isinstance(concurrency, int) or concurrency < 1:
        raise ConfigurationError(f"concurrency= is how many calls are made at once, 1 or more, not {concurrency!r}")
