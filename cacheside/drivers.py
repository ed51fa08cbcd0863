"""The two drivers: they carry out what the engine decides, one in plain code, one awaiting. Nothing is decided here.

The load runs in the caller's own frame and context, so tracebacks and context variables are the caller's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from .backends.base import AsyncBackend, Backend, Leased
from .core import Core
from .envelope import Outcome, Raised
from .flight import Flight, loading
from .steps import Abandon, Ask, Failed, Load, Pause, Step, Steps, Wait

if TYPE_CHECKING:
    import asyncio

_background: set[asyncio.Task[Any]] = set()  # asyncio itself keeps only weak references to tasks


def _no_load() -> Any:
    raise AssertionError("these steps load nothing")


def drive(steps: Steps, core: Core, load: Callable[[], Any] = _no_load) -> Outcome:
    """Carry out `steps` in plain code; `load` calls the user's function."""
    backend = core.backend
    if backend is None:
        core.require(sync=True)
    send: Callable[[Any], Step] = steps.send
    answer: Any = None
    while True:
        try:
            step = send(answer)
        except StopIteration as end:
            return end.value
        send = steps.send
        try:
            answer = _perform(step, backend, load)
        except BaseException as error:
            send, answer = steps.throw, error


def _perform(step: Step, backend: Backend | None, load: Callable[[], Any]) -> Any:
    if isinstance(step, Ask):
        try:
            return getattr(backend, step.verb)(*step.args)
        except Exception as error:
            return Failed(error)
    if isinstance(step, Load):
        outer = loading.get()
        loading.set((*outer, step.flight))
        try:
            return load()
        except Exception as error:
            return Raised(error)
        finally:
            loading.set(outer)
    if isinstance(step, Wait):
        ended = threading.Event()
        return not step.flight.when_done(ended.set) or ended.wait(step.seconds)
    if isinstance(step, Pause):
        time.sleep(step.seconds)
    elif backend is not None:
        with suppress(Exception):
            backend.release(step.key, step.token)
    return None


async def adrive(steps: Steps, core: Core, load: Callable[[], Awaitable[Any]] = _no_load) -> Outcome:
    """Carry out `steps` awaiting. Over a backend in this process a hit awaits nothing."""
    local = core.backend if "in_process" in core.capabilities else None
    remote = core.aio
    if remote is None:
        core.require(sync=False)
    send: Callable[[Any], Step] = steps.send
    answer: Any = None
    while True:
        try:
            step = send(answer)
        except StopIteration as end:
            return end.value
        send = steps.send
        try:
            if local is not None and isinstance(step, (Ask, Abandon)):
                answer = _perform(step, local, _no_load)
            else:
                answer = await _aperform(step, remote, load)
        except BaseException as error:
            send, answer = steps.throw, error


async def _aperform(step: Step, backend: AsyncBackend | None, load: Callable[[], Awaitable[Any]]) -> Any:
    import asyncio

    if isinstance(step, Load):
        outer = loading.get()
        loading.set((*outer, step.flight))
        try:
            return await load()
        except Exception as error:
            return Raised(error)
        finally:
            loading.set(outer)
    if isinstance(step, Wait):
        return await _wait(step.flight, step.seconds)
    if isinstance(step, Pause):
        await asyncio.sleep(step.seconds)
        return None
    assert backend is not None  # `adrive` has made sure of it
    if isinstance(step, Abandon):
        _spawn(_quietly(backend.release(step.key, step.token)))
        return None
    asked: Coroutine[Any, Any, Any] = getattr(backend, step.verb)(*step.args)
    try:
        if step.verb in ("lookup", "replace"):
            return await _lease_or_give_back(backend, step.args[0], asked)
        return await asked
    except Exception as error:
        return Failed(error)


async def _wait(flight: Flight, seconds: float) -> bool:
    import asyncio

    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def wake() -> None:  # called in the thread where the flight ends
        with suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits any more
            loop.call_soon_threadsafe(_settle, ended)

    if flight.when_done(wake):
        try:
            async with asyncio.timeout(seconds):
                await ended
        except TimeoutError:
            return False
    return True


def _settle(ended: asyncio.Future[None]) -> None:
    if not ended.done():
        ended.set_result(None)


async def _lease_or_give_back(backend: AsyncBackend, key: str, asked: Coroutine[Any, Any, Any]) -> Any:
    """Let the command finish even if this caller is cancelled, and release what it won.

    A lease won by a caller that has gone would make all others wait until it expires.
    """
    import asyncio

    task = asyncio.ensure_future(asked)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        task.add_done_callback(partial(_give_back, backend, key))
        raise


def _give_back(backend: AsyncBackend, key: str, task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and task.exception() is None and isinstance(task.result(), Leased):
        _spawn(_quietly(backend.release(key, task.result().token)))


async def _quietly(work: Awaitable[object]) -> None:
    with suppress(Exception):
        await work


def _spawn(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any] | None:
    """Run in the background; None if there is no loop any more to run it."""
    import asyncio

    try:
        task = asyncio.get_running_loop().create_task(work)
    except RuntimeError:
        work.close()
        return None
    _background.add(task)
    task.add_done_callback(_background.discard)
    return task


def invalidate(core: Core, keys: Collection[str]) -> None:
    """Deliver the invalidation of `keys` (as the backend knows them), or note them as pending. Never raises for a
    broken cache."""
    if keys:
        drive(core.invalidate(keys), core)


async def ainvalidate(core: Core, keys: Collection[str]) -> None:
    """`invalidate`, awaitable. It is shielded: a caller that is cancelled meanwhile does not stop the delivery."""
    if not keys:
        return
    if "in_process" in core.capabilities:
        drive(core.invalidate(keys), core)
        return
    import asyncio

    task = _spawn(adrive(core.invalidate(keys), core))
    assert task is not None  # we are in a coroutine: its loop runs
    await asyncio.shield(task)
