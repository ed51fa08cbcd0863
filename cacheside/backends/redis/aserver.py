"""One Redis server, for async code: a line for lookups, connections of redis-py for all else, and the breaker."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from redis.asyncio import ConnectionPool as AsyncPool
from redis.exceptions import RedisError, ResponseError
from redis.utils import HIREDIS_AVAILABLE

from ... import forks
from ...breaker import Breaker
from ..patience import Patience
from . import server
from .commands import Command

if TYPE_CHECKING:
    from .line import Line


class _Place:
    """What one event loop has of a server.

    Args:
        pool: connections of our own.
        limit: how many in all. One of them is for lookups, unless there is only one.

    Attributes:
        turns: the bound on those of the pool.
        lines: the connection for lookups, once there is one.
        opening: whether somebody is opening that.
        keeper: closes all of it as the loop ends.
    """

    def __init__(self, pool: AsyncPool, limit: int) -> None:
        self.pool = pool
        self.turns = asyncio.Semaphore(max(1, limit - 1))
        self.may_have_line = limit > 1 and HIREDIS_AVAILABLE
        self.lines: list[Line] = []
        self.opening = False
        self.keeper: AsyncGenerator[None, None] = _keep(pool, self.lines)


async def _keep(pool: AsyncPool, lines: list[Line]) -> AsyncGenerator[None, None]:
    """Close all as the loop ends, be it without `close`: asyncio then ends all asynchronous generators.

    A connection can be closed without a ResourceWarning only while its loop runs. If all of this is thrown away
    earlier, asyncio ends the generator then: so it must not be part of a cycle.
    """
    try:
        yield
    finally:
        _hang_up(lines)
        with contextlib.suppress(RedisError, OSError):
            await pool.aclose()


def _hang_up(lines: list[Line]) -> None:
    while lines:
        lines.pop().close()


class AsyncServer:
    """One server, for async code, from several event loops; each has connections of its own.

    Args:
        name: how errors call it.
        breaker: shared with the other colour.
        make_pool: makes our own pool for one event loop, or gives that of the user's client.
        limit: connections of one loop, one of them for lookups alone; None: they are not ours to bound or to close.
        timeout: seconds that the server may take to answer; None: the pool's connections see to that.
    """

    def __init__(
        self, name: str, breaker: Breaker, make_pool: Callable[[], Any], limit: int | None, timeout: float | None
    ) -> None:
        self._name = name
        self.breaker: Breaker = breaker
        self._make_pool = make_pool
        self._limit = limit
        self._timeout = timeout
        self.places: dict[asyncio.AbstractEventLoop, _Place] = {}
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """A loop of the parent's does not run here: its connections stay unused."""
        self._lock = threading.Lock()  # loops may run in several threads

    def line(self) -> Line | None:
        """The connection for lookups, if there is one and it is open."""
        place = self.places.get(asyncio.get_running_loop())
        return place.lines[0] if place is not None and place.lines and not place.lines[0].closed else None

    async def open_line(self, pack: Callable[[str, bytes, float], bytes]) -> Line | None:
        """Open one; None: somebody is doing that, or these are the connections of a user's client.

        Raises:
            RedisError, OSError: it cannot be opened.
        """
        if self._limit is None or self._timeout is None:
            return None
        place = await self._place(self._limit)
        if place.opening or not place.may_have_line:
            return None
        _hang_up(place.lines)  # what is in there is closed
        from .line import Line  # it needs hiredis

        place.opening = True
        line = Line(asyncio.get_running_loop(), self._timeout, pack)
        try:
            await line.open(place.pool.connection_class(**place.pool.connection_kwargs))
        except AttributeError:  # a redis-py that keeps its transport elsewhere: then all goes over the pool
            place.may_have_line = False
            return None
        finally:
            place.opening = False
        place.lines.append(line)
        return line

    async def exchange(self, commands: Sequence[Command], probe: bool) -> list[Any]:
        """Send commands, and read their replies; see `Send`."""
        replies: list[Any] = []
        try:
            if self._limit is None:
                await self._exchange(self._make_pool(), commands, replies)
            else:
                place = await self._place(self._limit)
                pool, turns = place.pool, place.turns
                if turns.locked():
                    await self._wait(turns, self._limit)
                else:
                    await turns.acquire()  # at once
                try:
                    if self.breaker.open and not probe:
                        self.breaker.admit()
                    await self._exchange(pool, commands, replies)
                finally:
                    turns.release()
        except Exception as error:
            replies += [server.known(error)] * (len(commands) - len(replies))
        return replies

    async def _exchange(self, pool: Any, commands: Sequence[Command], replies: list[Any]) -> None:
        connection = await pool.get_connection()
        try:
            # Not redis-py's socket_timeout: that would take a busy loop for a dead server.
            async with Patience(self._timeout):
                await server.send(connection, commands)
                while len(replies) < len(commands):
                    try:
                        replies.append(await connection.read_response(disable_decoding=True))
                    except ResponseError as error:
                        replies.append(error)
                    if self.breaker.open:
                        self.breaker.succeeded()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        finally:
            # Shielded: cancelled while it waits for the pool's own lock, the connection would never come back to it.
            await asyncio.shield(pool.release(connection))

    async def _wait(self, turns: asyncio.Semaphore, limit: int) -> None:
        try:
            async with asyncio.timeout(server.POOL_WAIT):
                await turns.acquire()
        except TimeoutError:
            raise server.crowded(self._name, limit) from None

    async def _place(self, limit: int) -> _Place:
        loop = asyncio.get_running_loop()
        found = self.places.get(loop)
        if found is None:
            found = _Place(self._make_pool(), limit)
            await anext(found.keeper)  # it does not wait, so no other task of this loop comes in between
            with self._lock:
                for other in [each for each in self.places if each.is_closed()]:
                    del self.places[other]
                self.places[loop] = found
        return found

    async def close(self) -> None:
        """Close the connections of the running loop; a user's client stays open."""
        found = self.places.get(asyncio.get_running_loop())
        if found is not None:
            _hang_up(found.lines)
            with contextlib.suppress(RedisError, OSError):  # of a TLS connection that does not say goodbye
                await found.pool.disconnect()  # the pool is kept: a call that is under way may open one again
