"""The two drivers: they carry out what the engine decides, one in plain code, one awaiting. Nothing is decided here.

The load runs in the caller's own frame and context, so tracebacks and context variables are the caller's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .backends.base import AsyncBackend, Backend, Leased
from .core import NO_UPDATES, Core, Update
from .envelope import Outcome, Raised
from .flight import Flight, loading, running_loop
from .pending import Plan
from .steps import Abandon, Ask, Failed, Load, Pause, Step, Steps, Wait

if TYPE_CHECKING:
    import asyncio

GIVING_BACK = 0.1  # seconds that a cancelled caller waits at most until the lease it had is released

_background: set[asyncio.Task[Any]] = set()  # asyncio itself keeps only weak references to tasks


class _Closed(BaseException):
    """GeneratorExit in a form in which the engine's generators may still yield their `Abandon`.

    `yield from` turns a real one into close(), after which they may not.
    """


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
        except _Closed:
            raise GeneratorExit from None
        send = steps.send
        try:
            answer = _perform(step, backend, load)
        except BaseException as error:
            send, answer = steps.throw, _Closed() if isinstance(error, GeneratorExit) else error


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
            del step, outer  # an error's traceback holds this frame, and a flight holds the error: a cycle
    if isinstance(step, Wait):
        ended = threading.Event()
        return not step.flight.when_done(ended.set) or ended.wait(min(step.seconds, threading.TIMEOUT_MAX))
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
    closing = False
    while True:
        try:
            step = send(answer)
        except StopIteration as end:
            return end.value
        except _Closed:
            raise GeneratorExit from None
        send = steps.send
        try:
            if local is not None and isinstance(step, (Ask, Abandon)):
                answer = _perform(step, local, _no_load)
            elif isinstance(step, Abandon):
                assert remote is not None  # as seen above
                await _given_back(_release(remote, step.key, step.token), closing)
            else:
                answer = await _aperform(step, remote, load)
        except BaseException as error:
            closing = isinstance(error, GeneratorExit)
            send, answer = steps.throw, _Closed() if closing else error


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
            del step, outer  # an error's traceback holds this frame, and a flight holds the error: a cycle
    if isinstance(step, Wait):
        return await _wait(step.flight, step.seconds)
    if isinstance(step, Pause):
        await asyncio.sleep(step.seconds)
        return None
    assert backend is not None  # `adrive` has made sure of it
    assert isinstance(step, Ask)
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
    except (asyncio.CancelledError, GeneratorExit) as error:
        await _given_back(_give_back(backend, key, task), isinstance(error, GeneratorExit))
        raise


async def _give_back(backend: AsyncBackend, key: str, task: asyncio.Task[Any]) -> None:
    import asyncio

    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is None and isinstance(task.result(), Leased):
        await _release(backend, key, task.result().token)


async def _release(backend: AsyncBackend, key: str, token: Any) -> None:
    with suppress(Exception):
        await backend.release(key, token)


async def _given_back(work: Coroutine[Any, Any, None], closing: bool) -> None:
    """Do `work` in a task of its own, which the caller, cancelled itself, awaits for a moment.

    It cannot be left to the background alone: a loop that is about to end, as asyncio.run cancels what is left in it,
    goes on until its tasks have ended, and no further; and the lease of a dead caller stands for `lease` seconds.
    """
    import asyncio

    if running_loop() is None:  # nothing can be sent any more: the lease expires
        work.close()
        return
    task = _spawn(work)
    if not closing:  # one that is closed may not await
        await asyncio.wait([task], timeout=GIVING_BACK)


def _spawn(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    import asyncio

    task = asyncio.get_running_loop().create_task(work)
    _background.add(task)
    task.add_done_callback(_background.discard)
    return task


def invalidate(core: Core, keys: Collection[str]) -> None:
    """Deliver the invalidation of `keys` (as the backend knows them), or note them as pending. Never raises for a
    broken cache."""
    finish(core, dict.fromkeys(keys))


async def ainvalidate(core: Core, keys: Collection[str]) -> None:
    """`invalidate`, awaitable. It is shielded: a caller that is cancelled meanwhile does not stop the delivery."""
    await afinish(core, dict.fromkeys(keys))


def finish(core: Core, plan: Plan, updates: Mapping[str, Update] = NO_UPDATES) -> None:
    """Deliver what a write has to tell the cache: see `Core.finish`."""
    if plan:
        drive(core.finish(plan, updates), core)


async def afinish(core: Core, plan: Plan, updates: Mapping[str, Update] = NO_UPDATES) -> None:
    """`finish`, awaitable and shielded."""
    if not plan:
        return
    if "in_process" in core.capabilities:
        drive(core.finish(plan, updates), core)
        return
    import asyncio

    try:
        await asyncio.shield(_spawn(adrive(core.finish(plan, updates), core)))
    except asyncio.CancelledError:
        # The delivery goes on, but whether it arrives, or has even begun as its loop ends, is not known here.
        core.undelivered(plan)
        raise
