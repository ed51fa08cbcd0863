"""What becomes of a lease that was won for an async caller who has been cancelled meanwhile: it is released.

A lease won by a caller that has gone would make all others wait until it expires.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any

from .backends.base import AsyncBackend, Leased
from .flight import running_loop
from .health import logger

if TYPE_CHECKING:
    import asyncio

    from .backends.beyond import AsyncBatching

GIVING_BACK = 0.1  # seconds that a cancelled caller waits at most until the lease it had is released

_background: dict[Any, dict[asyncio.Task[Any], tuple[Context, object]]] = {}
"""By their loops, the tasks that go on by themselves, each with its context and its owner: asyncio itself keeps only
weak references to tasks. Only the loop touches what is under it; once it is closed, who takes it out."""
TRIES = 10  # a load that is broken off may await something in its `finally`, and then something else


async def lease_or_give_back(backend: AsyncBackend, key: str, asked: Coroutine[Any, Any, Any]) -> Any:
    """Let the command finish even if this caller is cancelled, and release what it won."""

    async def give_back(answer: Any) -> None:
        if isinstance(answer, Leased):
            await release(backend, key, answer.token)

    return await _shielded(give_back, asked)


async def leases_or_give_back(
    backend: AsyncBatching, keys: Sequence[str], asked: Coroutine[Any, Any, Any], looked: bool = True
) -> Any:
    """The same for a `lookup_many` of `keys`; or, unless it `looked` for them, a `replace_many` or `claim_many`."""

    async def give_back(found: Any) -> None:
        answers = found[0] if looked else found
        won = [(key, each.token) for key, each in zip(keys, answers, strict=True) if isinstance(each, Leased)]
        if won:
            await release_many(backend, won)

    return await _shielded(give_back, asked)


async def _shielded(give_back: Callable[[Any], Coroutine[Any, Any, None]], asked: Coroutine[Any, Any, Any]) -> Any:
    import asyncio

    async def work() -> None:
        if task.get_loop() is not asyncio.get_running_loop():  # that one was closed: the task will never end
            return
        await asyncio.wait([task])
        if not task.cancelled() and task.exception() is None:
            await give_back(task.result())

    task = asyncio.ensure_future(asked)
    try:
        return await asyncio.shield(task)
    except (asyncio.CancelledError, GeneratorExit) as error:
        await given_back(work(), isinstance(error, GeneratorExit))
        raise


async def release(backend: AsyncBackend, key: str, token: Any) -> None:
    """Release a lease; if that fails, it expires."""
    with suppress(Exception):
        await backend.release(key, token)


async def release_many(backend: Any, leases: Sequence[tuple[str, Any]]) -> None:
    """The same for many of them, given as key and token."""
    with suppress(Exception):
        await backend.release_many(leases)


async def given_back(work: Coroutine[Any, Any, None], closing: bool) -> None:
    """Do `work` in a task of its own, which the caller, cancelled itself, awaits for a moment.

    It cannot be left to the background alone: a loop that is about to end, as asyncio.run cancels what is left in it,
    goes on until its tasks have ended, and no further; and the lease of a dead caller stands for `lease` seconds.
    """
    import asyncio

    if running_loop() is None:  # nothing can be sent any more: the lease expires
        work.close()
        return
    task = spawn(work)
    if not closing:  # one that is closed may not await
        await asyncio.wait([task], timeout=GIVING_BACK)


def spawn(work: Coroutine[Any, Any, Any], context: Context | None = None, owner: object = None) -> asyncio.Task[Any]:
    """A task that goes on by itself; in `context`, or in a copy of the caller's. See `owned`."""
    import asyncio

    sweep()
    loop = asyncio.get_running_loop()
    context = copy_context() if context is None else context  # an empty one is false
    task = loop.create_task(work, context=context)
    _background.setdefault(loop, {})[task] = context, owner
    task.add_done_callback(_ended)
    return task


def _ended(task: asyncio.Task[Any]) -> None:
    loop = task.get_loop()
    tasks = _background[loop]
    del tasks[task]
    if not tasks:
        del _background[loop]


def owned(owner: object) -> list[asyncio.Task[Any]]:
    """The tasks of `owner` that go on in the running loop."""
    return [task for task, (_, whose) in _background.get(running_loop(), {}).items() if whose is owner]


def sweep() -> None:
    """Break off the tasks of loops that were closed without cancelling them: they would hold on to all they have."""
    for loop in list(_background):
        if not loop.is_closed():
            continue
        found = _background.pop(loop, {})  # of several threads that come together one gets them
        left = [(task.get_coro(), context) for task, (context, _) in found.items() if not task.done()]
        for task in found:
            told: Any = task
            with suppress(AttributeError):  # a task of another kind
                told._log_destroy_pending = False  # asyncio's own: else it tells once more, when the task is collected
        if left:
            logger().warning(
                "%d tasks in the background are broken off, since their event loop was closed under them: cancel what "
                "is left before closing a loop, as asyncio.run does, or call `await cache.aclose()` in it",
                len(left),
            )
        for work, context in left:
            context.run(_close, work)


def _close(work: Any) -> None:
    from asyncio import CancelledError

    problem: BaseException | None = None
    for _ in range(TRIES):
        try:
            work.close()
            return
        except RuntimeError as error:  # it awaits something on its way out, which will never come: it is told again
            problem = error
        except (Exception, CancelledError) as error:
            problem = error
            break
    logger().error("a load in the background failed as it was broken off", exc_info=problem)
