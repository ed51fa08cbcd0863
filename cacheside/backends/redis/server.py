"""One Redis server, in each colour: connections of redis-py, a bound on them, and the breaker.

Commands go below `client.execute_command`, whose retries would send the same bytes again (see `wire.py`). Replies are
bytes whatever a user's client has for decode_responses.

Waiting for a connection is ours, not the pool's: whoever has waited asks the breaker before it connects, so that
callers in a queue do not stand one after another before a server that is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, NamedTuple

from redis.asyncio import ConnectionPool as AsyncPool
from redis.exceptions import InvalidResponse, RedisError, ResponseError

from ... import forks
from ...breaker import Breaker
from ...errors import CacheUnavailable
from ..patience import Patience
from .wire import Command

POOL_WAIT = 5.0
"""Seconds that callers wait for a connection of our own pools, which are bounded."""


def _crowded(name: str, limit: int) -> CacheUnavailable:
    return CacheUnavailable(
        f"{name}: all {limit} connections were busy for {POOL_WAIT:g} seconds (max_connections)", sent=False
    )


def _known(error: Exception) -> Exception:
    """The error itself, if it is of a kind that is expected; at garbage redis-py's parsers raise all sorts."""
    if isinstance(error, (RedisError, OSError, CacheUnavailable)):
        return error
    return InvalidResponse(f"not the protocol of Redis: {error!r}")


class SyncServer:
    """One server, for plain code. Threads share it.

    Args:
        name: how errors call it.
        breaker: shared with the other colour.
        make_pool: makes redis-py's pool, or gives that of a user's client; it fails rather than waits where it has no
            connection to give.
        limit: how many connections it has; None: it is the pool of a user's client, not ours to bound or to close.
    """

    def __init__(self, name: str, breaker: Breaker, make_pool: Callable[[], Any], limit: int | None) -> None:
        self._name = name
        self._breaker = breaker
        self._make_pool = make_pool
        self._limit = limit
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """A new pool: a thread of the parent may have held the lock of the old one. (A user's is the user's.)"""
        self._pool = self._make_pool()
        self._turns = None if self._limit is None else threading.BoundedSemaphore(self._limit)

    def exchange(self, commands: Sequence[Command], probe: bool) -> list[Any]:
        """Send commands, and read their replies; see `Send`."""
        replies: list[Any] = []
        turns = self._turns
        try:
            if turns is None:
                self._exchange(commands, replies)
            else:
                if not turns.acquire(timeout=POOL_WAIT):
                    raise _crowded(self._name, self._limit or 0)
                try:
                    if self._breaker.open and not probe:
                        self._breaker.admit()
                    self._exchange(commands, replies)
                finally:
                    turns.release()
        except Exception as error:
            replies += [_known(error)] * (len(commands) - len(replies))
        return replies

    def _exchange(self, commands: Sequence[Command], replies: list[Any]) -> None:
        connection = self._pool.get_connection()
        try:
            _send(connection, commands)
            while len(replies) < len(commands):
                try:
                    replies.append(connection.read_response(disable_decoding=True))
                except ResponseError as error:
                    replies.append(error)
                if self._breaker.open:
                    self._breaker.succeeded()
        except BaseException:
            connection.disconnect()  # a reply may still be under way: nobody must take it for theirs
            raise
        finally:
            self._pool.release(connection)

    def close(self) -> None:
        """Close its connections; a user's client stays open."""
        if self._limit is not None:
            self._pool.disconnect()

    def retire(self) -> None:
        """Close what nobody uses now; for a server that is no longer a part of its cluster."""
        if self._limit is not None:
            self._pool.disconnect(inuse_connections=False)


def _send(connection: Any, commands: Sequence[Command]) -> Any:
    """Send commands together; what it returns has to be awaited where the connection is of that colour."""
    if len(commands) == 1:
        return connection.send_command(*commands[0])
    return connection.send_packed_command(connection.pack_commands(commands))


class _Place(NamedTuple):
    """What one event loop has of a server: a pool, a bound on it, and the generator that closes it as the loop ends."""

    pool: AsyncPool
    turns: asyncio.Semaphore
    keeper: AsyncGenerator[AsyncPool, None]


class AsyncServer:
    """One server, for async code, from several event loops; each has connections of its own.

    Args:
        name: how errors call it.
        breaker: shared with the other colour.
        make_pool: makes our own pool for one event loop, or gives that of the user's client.
        limit: connections of one loop; None: the pools are not ours to bound or to close.
        timeout: seconds that the server may take to answer; None: the pool's connections see to that.
    """

    def __init__(
        self, name: str, breaker: Breaker, make_pool: Callable[[], Any], limit: int | None, timeout: float | None
    ) -> None:
        self._name = name
        self._breaker = breaker
        self._make_pool = make_pool
        self._limit = limit
        self._timeout = timeout
        self.places: dict[asyncio.AbstractEventLoop, _Place] = {}
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """A loop of the parent's does not run here: its connections stay unused."""
        self._lock = threading.Lock()  # loops may run in several threads

    async def exchange(self, commands: Sequence[Command], probe: bool) -> list[Any]:
        """Send commands, and read their replies; see `Send`."""
        replies: list[Any] = []
        try:
            if self._limit is None:
                await self._exchange(self._make_pool(), commands, replies)
            else:
                pool, turns, _ = await self._place(self._limit)
                if turns.locked():
                    await self._wait(turns, self._limit)
                else:
                    await turns.acquire()  # at once
                try:
                    if self._breaker.open and not probe:
                        self._breaker.admit()
                    await self._exchange(pool, commands, replies)
                finally:
                    turns.release()
        except Exception as error:
            replies += [_known(error)] * (len(commands) - len(replies))
        return replies

    async def _exchange(self, pool: Any, commands: Sequence[Command], replies: list[Any]) -> None:
        connection = await pool.get_connection()
        try:
            # Not redis-py's socket_timeout: that would take a busy loop for a dead server.
            async with Patience(self._timeout):
                await _send(connection, commands)
                while len(replies) < len(commands):
                    try:
                        replies.append(await connection.read_response(disable_decoding=True))
                    except ResponseError as error:
                        replies.append(error)
                    if self._breaker.open:
                        self._breaker.succeeded()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            # Shielded: cancelled while it waits for the pool's own lock, the connection would never come back to it.
            await asyncio.shield(pool.release(connection))

    async def _wait(self, turns: asyncio.Semaphore, limit: int) -> None:
        try:
            async with asyncio.timeout(POOL_WAIT):
                await turns.acquire()
        except TimeoutError:
            raise _crowded(self._name, limit) from None

    async def _place(self, limit: int) -> _Place:
        loop = asyncio.get_running_loop()
        found = self.places.get(loop)
        if found is None:
            keeper = _keep(self._make_pool())
            # It does not wait, so no other task of this loop comes in between.
            found = _Place(await anext(keeper), asyncio.Semaphore(limit), keeper)
            with self._lock:
                for other in [each for each in self.places if each.is_closed()]:
                    del self.places[other]
                self.places[loop] = found
        return found

    async def close(self) -> None:
        """Close the connections of the running loop; a user's client stays open."""
        found = self.places.get(asyncio.get_running_loop())
        if found is not None:
            with contextlib.suppress(RedisError, OSError):  # of a TLS connection that does not say goodbye
                await found.pool.disconnect()  # the pool is kept: a call that is under way may open one again


async def _keep(pool: AsyncPool) -> AsyncGenerator[AsyncPool, None]:
    """Close `pool` as its loop ends, be it without `close`: asyncio then ends all asynchronous generators.

    A connection can be closed without a ResourceWarning only while its loop runs. (If all of this is thrown away
    earlier, asyncio ends the generator then.)
    """
    try:
        yield pool
    finally:
        with contextlib.suppress(RedisError, OSError):
            await pool.aclose()
