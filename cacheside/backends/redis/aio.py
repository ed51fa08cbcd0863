"""Redis from async code: moves the commands of `wire.py` over redis.asyncio's own connections, a pool for each loop."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from redis.asyncio import BlockingConnectionPool, ConnectionPool
from redis.exceptions import RedisError, ResponseError

from ..base import AsyncBackend, Busy, Capability, Hit, Leased
from .wire import Command, Operation, Protocol


class AsyncRedis(AsyncBackend):
    """The awaitable calls of `RedisBackend`, usable from several event loops.

    Args:
        protocol: shared with the plain calls.
        capabilities: as those of the plain form.
        make_pool: makes our own pool for one event loop, or gives that of the user's client.
        owned: whether the pools are ours to close.
    """

    def __init__(
        self,
        protocol: Protocol,
        capabilities: frozenset[Capability],
        make_pool: Callable[[], ConnectionPool],
        owned: bool,
    ) -> None:
        self._protocol = protocol
        self._capabilities = capabilities
        self._make_pool = make_pool
        self._owned = owned
        # A client belongs to the loop it was first used in; one of a dead loop is dropped.
        self._pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, ConnectionPool] = weakref.WeakKeyDictionary()

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
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        if pool is not None and self._owned:
            await pool.aclose()

    def _pool(self) -> ConnectionPool:
        loop = asyncio.get_running_loop()
        pool = self._pools.get(loop)
        if pool is None:
            for other in [each for each in list(self._pools) if each.is_closed()]:
                self._pools.pop(other, None)
            pool = self._pools[loop] = self._make_pool()
        return pool

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
        pool: Any = self._pool()  # Any: redis-py's hints are incomplete. Why not client.execute_command: see sync.py
        connection = await pool.get_connection()
        try:
            await connection.send_command(*command)
            return await connection.read_response(disable_decoding=True)
        except ResponseError:
            raise
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)


def own_pool(url: str, timeout: float, max_connections: int, wait: float, **options: Any) -> ConnectionPool:
    """A bounded pool whose callers wait for a connection, instead of failing as redis-py's default pool does."""
    return BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=wait,
        socket_timeout=timeout,
        socket_connect_timeout=timeout,
        **options,
    )
