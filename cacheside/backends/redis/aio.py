"""Redis from async code: moves the commands of `wire.py` over redis.asyncio's own connections, a pool for each loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from redis.asyncio import ConnectionPool
from redis.exceptions import RedisError, ResponseError

from ..base import AsyncBackend, Busy, Capability, Hit, Leased
from ..patience import Patience
from .wire import Command, Operation, Protocol


class AsyncRedis(AsyncBackend):
    """The awaitable calls of `RedisBackend`, usable from several event loops.

    Args:
        protocol: shared with the plain calls.
        capabilities: as those of the plain form.
        make_pool: makes our own pool for one event loop, or gives that of the user's client.
        owned: whether the pools are ours to close.
        timeout: seconds that the server may take to answer; None: the pool's connections see to that.
    """

    def __init__(
        self,
        protocol: Protocol,
        capabilities: frozenset[Capability],
        make_pool: Callable[[], ConnectionPool],
        owned: bool,
        timeout: float | None,
    ) -> None:
        self._protocol = protocol
        self._capabilities = capabilities
        self._make_pool = make_pool
        self._owned = owned
        self._timeout = timeout
        # Pools of our own: for each loop one, and the generator that closes it as the loop ends.
        self._pools: dict[asyncio.AbstractEventLoop, tuple[ConnectionPool, AsyncGenerator[ConnectionPool, None]]] = {}
        self._lock = threading.Lock()  # loops may run in several threads

    @property
    def capabilities(self) -> frozenset[Capability]:
        """See `Backend.capabilities`."""
        return self._capabilities

    async def lookup(self, key: str, lease: float) -> Hit | Leased | Busy:
        """See `Backend.lookup`."""
        answer: Hit | Leased | Busy = await self._run(self._protocol.lookup(key, lease))
        return answer

    async def replace(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        """See `Backend.replace`."""
        answer: Leased | Busy = await self._run(self._protocol.replace(key, seen, lease))
        return answer

    async def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        """See `Backend.fill`."""
        return bool(await self._run(self._protocol.fill(key, token, stored, ttl)))

    async def release(self, key: str, token: Any) -> bool:
        """See `Backend.release`."""
        return bool(await self._run(self._protocol.release(key, token)))

    async def invalidate(self, keys: Sequence[str]) -> None:
        """See `Backend.invalidate`."""
        await self._run(self._protocol.invalidate(keys))

    async def clear(self, prefix: str | None) -> None:
        """See `Backend.clear`."""
        await self._run(self._protocol.clear(prefix))

    async def close(self) -> None:
        """Close the connections of the running loop; a client of the user's stays open."""
        found = self._pools.get(asyncio.get_running_loop())
        if found is not None:
            with contextlib.suppress(RedisError, OSError):  # of a TLS connection that does not say goodbye
                await found[0].disconnect()  # the pool is kept: a call that is under way may open one again

    async def _pool(self) -> ConnectionPool:
        if not self._owned:
            return self._make_pool()
        loop = asyncio.get_running_loop()
        found = self._pools.get(loop)
        if found is None:
            keeper = _keep(self._make_pool())
            found = await anext(keeper), keeper  # it does not wait, so no other task of this loop comes in between
            with self._lock:
                for other in [each for each in self._pools if each.is_closed()]:
                    del self._pools[other]
                self._pools[loop] = found
        return found[0]

    async def _run(self, operation: Operation) -> Any:
        send: Callable[[Any], Command] = operation.send
        reply: Any = None
        while True:
            try:
                command = send(reply)
            except StopIteration as end:
                return end.value
            send = operation.send
            try:
                reply = await self._execute(command)
            except (RedisError, OSError) as error:
                reply = error
            except BaseException as error:
                send, reply = operation.throw, error

    async def _execute(self, command: Command) -> Any:
        # Why not client.execute_command: see sync.py.
        pool: Any = await self._pool()  # Any: redis-py's hints are incomplete
        connection = await pool.get_connection()
        try:
            async with Patience(self._timeout):
                await connection.send_command(*command)
                return await connection.read_response(disable_decoding=True)
        except ResponseError:
            raise
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            # Shielded: cancelled while it waits for the pool's own lock, the connection would never come back to it.
            await asyncio.shield(pool.release(connection))


async def _keep(pool: ConnectionPool) -> AsyncGenerator[ConnectionPool, None]:
    """Close `pool` as its loop ends, be it without `close`: asyncio then ends all asynchronous generators.

    A connection can be closed without a ResourceWarning only while its loop runs. (If all of this is thrown away
    earlier, asyncio ends the generator then.)
    """
    try:
        yield pool
    finally:
        with contextlib.suppress(RedisError, OSError):
            await pool.aclose()
