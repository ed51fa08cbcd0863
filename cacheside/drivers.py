"""The two drivers: they carry out what the engine decides, one in plain code, one awaiting. Nothing is decided here.

The load runs in the caller's own frame and context, so tracebacks and context variables are the caller's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import suppress
from types import coroutine
from typing import TYPE_CHECKING, Any

from . import background
from .backends.base import AsyncBackend
from .core import Core
from .envelope import Miss, Outcome, Raised
from .flight import loading
from .giveback import given_back, lease_or_give_back, leases_or_give_back, release, release_many
from .steps import Abandon, AbandonMany, Ask, Awaited, Begin, Failed, Load, LoadMany, Pause, Spawn, Step, Steps, Wait

if TYPE_CHECKING:
    import asyncio

    from .engine import Found, Reader
    from .freshness import FreshReader


class _Closed(BaseException):
    """GeneratorExit in a form in which the engine's generators may still yield their `Abandon`.

    `yield from` turns a real one into close(), after which they may not.
    """


def _no_load() -> Any:
    raise AssertionError("these steps load nothing")


def read(reader: Reader, key: str, found: Found | None, load: Callable[[], Any]) -> Any:
    """A call of a cached function in plain code. The first lookup goes without steps: it is all there is to a hit."""
    core = reader.core
    backend = core.backend
    if core.pending.any or core.held.counts or backend is None:
        outcome = drive(reader.read(key, True, found), core, load)
    else:
        answer: Any
        try:
            answer = backend.lookup(key, core.lease)
        except Exception as error:
            answer = Failed(error)
        outcome = reader.hit(answer, found)
        if type(outcome) is Miss:
            outcome = drive(reader.miss(key, answer, outcome, True), core, load)
    if type(outcome) is Raised:
        try:
            raise outcome.error
        finally:
            del outcome  # the traceback holds this frame, and the frame must not hold the error: a cycle
    return outcome


async def aread(reader: Reader, key: str, found: Found | None, load: Callable[[], Awaitable[Any]]) -> Any:
    """`read`, awaiting."""
    core = reader.core
    local, remote = core.backend if core.in_process else None, core.aio
    if core.pending.any or core.held.counts or (local is None and remote is None):
        outcome = await adrive(reader.read(key, False, found), core, load)
    else:
        answer: Any
        try:
            if local is not None:
                answer = local.lookup(key, core.lease)
            else:
                assert remote is not None  # as seen above
                answer = remote.lookup(key, core.lease)
                if not core.gives_back:
                    answer = lease_or_give_back(remote, key, answer)
                answer = await answer
        except Exception as error:
            answer = Failed(error)
        outcome = reader.hit(answer, found)
        if type(outcome) is Miss:
            outcome = await adrive(reader.miss(key, answer, outcome, False), core, load)
    if type(outcome) is Raised:
        try:
            raise outcome.error
        finally:
            del outcome  # as in `read`
    return outcome


def read_tagged(reader: FreshReader, key: str, tags: Sequence[str], load: Callable[[], Any]) -> Any:
    """`read` of a function with tags: as there, there are no steps to a hit."""
    core = reader.core
    backend: Any = core.backend
    if core.pending.any or core.held.counts or backend is None:
        return _given(drive(reader.read(key, True, None, tags), core, load))
    answer: Any
    try:
        (answer,), versions = backend.lookup_many((key,), core.lease, tags)
    except Exception as error:
        answer, versions = Failed(error), [None] * len(tags)
    outcome = reader.first(answer, tags, versions)
    if type(outcome) is Miss:
        visit = reader.visit(key, True, tags, versions)
        return _given(drive(reader.go_on(visit, answer), core, load))
    if type(outcome) is Raised:
        try:
            raise outcome.error
        finally:
            del outcome  # as in `read`; so `_given` would not do, during which it is held here
    return outcome


async def aread_tagged(reader: FreshReader, key: str, tags: Sequence[str], load: Callable[[], Awaitable[Any]]) -> Any:
    """`read_tagged`, awaiting."""
    core = reader.core
    local: Any = core.backend if core.in_process else None
    remote: Any = core.aio
    if core.pending.any or core.held.counts or (local is None and remote is None):
        return _given(await adrive(reader.read(key, False, None, tags), core, load))
    answer: Any
    try:
        if local is not None:
            (answer,), versions = local.lookup_many((key,), core.lease, tags)
        else:
            (answer,), versions = await remote.lookup_many((key,), core.lease, tags)
    except Exception as error:
        answer, versions = Failed(error), [None] * len(tags)
    outcome = reader.first(answer, tags, versions)
    if type(outcome) is Miss:
        visit = reader.visit(key, False, tags, versions)
        return _given(await adrive(reader.go_on(visit, answer), core, load))
    if type(outcome) is Raised:
        try:
            raise outcome.error
        finally:
            del outcome  # as in `read_tagged`
    return outcome


def run(steps: Steps, core: Core, load: Callable[..., Any] = _no_load) -> Any:
    """Carry out `steps` in plain code, and return or raise their outcome."""
    return _given(drive(steps, core, load))


async def arun(steps: Steps, core: Core, load: Callable[..., Awaitable[Any]] = _no_load) -> Any:
    """`run`, awaiting."""
    return _given(await adrive(steps, core, load))


def _given(outcome: Outcome) -> Any:
    if type(outcome) is Raised:
        try:
            raise outcome.error
        finally:
            del outcome  # as in `read`
    return outcome


def drive(steps: Steps, core: Core, load: Callable[..., Any] = _no_load) -> Outcome:
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
            answer = _perform(step, core, load)
        except BaseException as error:
            send, answer = steps.throw, _Closed() if isinstance(error, GeneratorExit) else error


def _perform(step: Step, core: Core, load: Callable[..., Any]) -> Any:
    backend = core.backend
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
    if isinstance(step, LoadMany):
        outer = loading.get()
        loading.set((*outer, *step.flights))
        try:
            return load(step.numbers)
        except Exception as error:
            return Raised(error)
        finally:
            loading.set(outer)
            del step, outer  # as above
    if isinstance(step, Spawn):
        steps = step.steps
        return background.submit(lambda: drive(steps, core, load), step.whose)
    if isinstance(step, Wait):
        ended = threading.Lock()  # an Event is made of more than one, and a thousand threads may wait
        ended.acquire()
        return not step.flight.when_done(ended.release) or ended.acquire(
            timeout=min(step.seconds, threading.TIMEOUT_MAX)
        )
    if isinstance(step, Pause):
        time.sleep(step.seconds)
    elif isinstance(step, Abandon) and backend is not None:
        with suppress(Exception):
            backend.release(step.key, step.token)
    elif isinstance(step, AbandonMany) and backend is not None:
        batching: Any = backend
        with suppress(Exception):
            batching.release_many(step.leases)
    return None


async def adrive(steps: Steps, core: Core, load: Callable[..., Awaitable[Any]] = _no_load) -> Outcome:
    """Carry out `steps` awaiting. Over a backend in this process a hit awaits nothing."""
    local = core.backend if core.in_process else None
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
            if local is not None and isinstance(step, (Ask, Abandon, AbandonMany)):
                answer = _perform(step, core, _no_load)
            elif isinstance(step, Spawn):
                core.spawn(adrive(step.steps, core, load), at_once=step.whose is None)
                answer = True
            elif isinstance(step, Abandon):
                assert remote is not None  # as seen above
                await given_back(release(remote, step.key, step.token), closing)
            elif isinstance(step, AbandonMany):
                assert remote is not None  # as above
                await given_back(release_many(remote, step.leases), closing)
            else:
                answer = await _aperform(step, remote, load)
        except BaseException as error:
            closing = isinstance(error, GeneratorExit)
            send, answer = steps.throw, _Closed() if closing else error


async def _aperform(step: Step, backend: AsyncBackend | None, load: Callable[..., Awaitable[Any]]) -> Any:
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
    if isinstance(step, LoadMany):
        outer = loading.get()
        loading.set((*outer, *step.flights))
        try:
            return await load(step.numbers)
        except Exception as error:
            return Raised(error)
        finally:
            loading.set(outer)
            del step, outer  # as above
    if isinstance(step, Wait):
        return await _wait(step.flight, step.seconds)
    if isinstance(step, Pause):
        await asyncio.sleep(step.seconds)
        return None
    if isinstance(step, Begin):
        await _turn()
        return None
    assert backend is not None  # `adrive` has made sure of it
    assert isinstance(step, Ask)
    asked: Coroutine[Any, Any, Any] = getattr(backend, step.verb)(*step.args)
    try:
        if step.verb in ("replace", "claim") or (step.verb == "lookup" and "gives_back" not in backend.capabilities):
            return await lease_or_give_back(backend, step.args[0], asked)
        if step.verb in ("replace_many", "claim_many"):
            batching: Any = backend
            return await leases_or_give_back(batching, [key for key, _ in step.args[0]], asked, looked=False)
        return await asked
    except Exception as error:
        return Failed(error)


@coroutine
def _turn() -> Generator[None, None, None]:
    """The next turn of the loop, whoever calls: a task that is made of a coroutine that stands here goes on from it."""
    yield


async def _wait(flight: Awaited, seconds: float) -> bool:
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
