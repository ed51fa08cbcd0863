"""What becomes of a lease that was won for an async caller who has been cancelled meanwhile: it is released.

A lease won by a caller that has gone would make all others wait until it expires.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .backends.base import AsyncBackend, Leased
from .flight import running_loop

if TYPE_CHECKING:
    import asyncio

    from .backends.beyond import AsyncBatching

GIVING_BACK = 0.1  # seconds that a cancelled caller waits at most until the lease it had is released

_background: set[asyncio.Task[Any]] = set()  # asyncio itself keeps only weak references to tasks


async def lease_or_give_back(backend: AsyncBackend, key: str, asked: Coroutine[Any, Any, Any]) -> Any:
    """Let the command finish even if this caller is cancelled, and release what it won."""
    import asyncio

    task = asyncio.ensure_future(asked)
    try:
        return await asyncio.shield(task)
    except (asyncio.CancelledError, GeneratorExit) as error:
        await given_back(_give_back(backend, key, task), isinstance(error, GeneratorExit))
        raise


async def _give_back(backend: AsyncBackend, key: str, task: asyncio.Task[Any]) -> None:
    import asyncio

    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is None and isinstance(task.result(), Leased):
        await release(backend, key, task.result().token)


async def leases_or_give_back(backend: AsyncBatching, keys: Sequence[str], asked: Coroutine[Any, Any, Any]) -> Any:
    """The same for the lookup of many keys, whose answers come first in `asked`'s."""
    import asyncio

    task = asyncio.ensure_future(asked)
    try:
        return await asyncio.shield(task)
    except (asyncio.CancelledError, GeneratorExit) as error:
        await given_back(_give_all_back(backend, keys, task), isinstance(error, GeneratorExit))
        raise


async def _give_all_back(backend: AsyncBatching, keys: Sequence[str], task: asyncio.Task[Any]) -> None:
    import asyncio

    await asyncio.wait([task])
    if not task.cancelled() and task.exception() is None:
        won = [(key, found.token) for key, found in zip(keys, task.result(), strict=False) if isinstance(found, Leased)]
        if won:
            with suppress(Exception):
                await backend.release_many(won)


async def release(backend: AsyncBackend, key: str, token: Any) -> None:
    """Release a lease; if that fails, it expires."""
    with suppress(Exception):
        await backend.release(key, token)


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


def spawn(work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task that goes on by itself."""
    import asyncio

    task = asyncio.get_running_loop().create_task(work)
    _background.add(task)
    task.add_done_callback(_background.discard)
    return task
