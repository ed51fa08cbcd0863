"""The same scenario in threads and in tasks: each test of flights is written once and run in both colours.

A scenario is plain code in the main thread. `call` starts a call of a decorated function in a thread of its own, or as
a task of one event loop that runs in a background thread; both give a `Future`.
"""

from __future__ import annotations

import asyncio
import ctypes
import inspect
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

import pytest

TIMEOUT = 20  # seconds; far more than anything takes, so that a deadlock fails the test instead of hanging it


class Colour(Protocol):
    """Sync or async."""

    name: str

    def decorate(self, decorator: Any, load: Callable[..., Any]) -> Any:
        """`load` (plain code) as a function of this colour, decorated."""

    def call(self, fn: Callable[..., Any], *args: Any) -> Future[Any]:
        """Start a call."""

    def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Call and wait for the result."""

    def close(self) -> None:
        """Stop what runs in the background."""


class Threads:
    """Plain functions, each call in a thread."""

    name = "sync"

    def decorate(self, decorator: Any, load: Callable[..., Any]) -> Any:
        def plain(*args: Any) -> Any:
            return load(*args)

        plain.__signature__ = _signature(load)  # type: ignore[attr-defined]  # what inspect reads
        return decorator(plain)

    def call(self, fn: Callable[..., Any], *args: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(fn(*args))
            except BaseException as error:
                future.set_exception(error)

        threading.Thread(target=run, daemon=True).start()
        return future

    def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self.call(fn, *args).result(TIMEOUT)

    def close(self) -> None:
        """Threads end by themselves."""


class Tasks:
    """Async functions, each call a task of one loop. A load's plain code runs in a thread, as a driver's would."""

    name = "async"

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def decorate(self, decorator: Any, load: Callable[..., Any]) -> Any:
        async def awaitable(*args: Any) -> Any:
            return await _in_thread(load, *args)

        awaitable.__signature__ = _signature(load)  # type: ignore[attr-defined]  # what inspect reads
        return decorator(awaitable)

    def call(self, fn: Callable[..., Any], *args: Any) -> Future[Any]:
        async def run() -> Any:
            return await fn(*args)

        return asyncio.run_coroutine_threadsafe(run(), self.loop)

    def run(self, fn: Callable[..., Any], *args: Any) -> Any:
        return self.call(fn, *args).result(TIMEOUT)

    def close(self) -> None:
        async def cancel_all() -> None:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(cancel_all(), self.loop).result(TIMEOUT)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(TIMEOUT)
        self.loop.close()


async def _in_thread(load: Callable[..., Any], *args: Any) -> Any:
    """Like asyncio.to_thread, without its bound on threads: a test may hold many loads open."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if not done.done():
            done.set_result(result) if error is None else done.set_exception(error)

    def run() -> None:
        try:
            outcome: tuple[Any, BaseException | None] = (load(*args), None)
        except Exception as error:
            outcome = (None, error)
        try:
            loop.call_soon_threadsafe(settle, *outcome)
        except RuntimeError:  # the loop is closed: the test is over
            return

    threading.Thread(target=run, daemon=True).start()
    return await done


def _signature(load: Callable[..., Any]) -> Any:
    return inspect.signature(load)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that other threads bring about."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < end, "it never came about"
        time.sleep(0.002)


class Row:
    """One row of a store, and a load that the test holds open while it likes."""

    def __init__(self) -> None:
        self.value: Any = "old"
        self.loads = 0
        self.reading = threading.Event()
        self.gate = threading.Event()
        self.error: Exception | None = None

    def load(self, row_id: int) -> Any:
        """Read the row, then take as long as the test wants: the slow reader of every race."""
        self.loads += 1
        value, error = self.value, self.error
        self.reading.set()
        assert self.gate.wait(TIMEOUT)
        if error is not None:
            raise error
        return value


def crowd(cache: Any, colour: Colour, fn: Any, row: Row, size: int = 20) -> list[Any]:
    """A leader inside its load, and `size` others that wait for it."""
    leader = colour.call(fn, 1)
    assert row.reading.wait(TIMEOUT)
    followers = [colour.call(fn, 1) for _ in range(size)]
    until(lambda: fn.cache_info().misses == size + 1)
    time.sleep(0.1)  # they have looked up; let them join as well
    return [leader, *followers]


def results(calls: list[Any]) -> list[Any]:
    """What each call ended with."""
    return [call.exception(TIMEOUT) or call.result(TIMEOUT) for call in calls]


def killable(fn: Any, row: Row) -> threading.Thread:
    """A thread that leads the load and dies in it of an exception that is none of the program's."""

    def run() -> None:
        with pytest.raises(SystemExit):
            fn(1)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert row.reading.wait(TIMEOUT)
    assert thread.ident is not None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
    return thread
