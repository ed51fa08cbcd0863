"""What becomes of a lease that was won for an async caller who has been cancelled meanwhile: it is released.

A lease won by a caller that has gone would make all others wait until it expires.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .backends.base import AsyncBackend, Leased
from .flight import running_loop

if TYPE_CHECKING:
    import asyncio
    from contextvars import Context

    from .backends.beyond import AsyncBatching

GIVING_BACK = 0.1  # seconds that a cancelled caller waits at most until the lease it had is released

_background: set[asyncio.Task[Any]] = set()  # asyncio itself keeps only weak references to tasks


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


def spawn(work: Coroutine[Any, Any, Any], context: Context | None = None) -> asyncio.Task[Any]:
    """A task that goes on by itself; in `context`, or in a copy of the caller's."""
    import asyncio

    task = asyncio.get_running_loop().create_task(work, context=context)
    _background.add(task)
    task.add_done_callback(_background.discard)
    return task
