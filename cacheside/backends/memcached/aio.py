"""Memcached for async functions: moves the bytes of `wire.py` over the running loop's own connections.

Plain non-blocking sockets, and not asyncio's streams: an application that ends its loop without `aclose` (one
`asyncio.run` after another) then leaves nothing behind that only the dead loop could close.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar, cast

from ...errors import CachesideError, CacheUnavailable, NotCacheableError
from ..patience import LOOP_SLACK, Patience
from ..pool import GONE, OPEN, PATIENCE, Pool, Verdict, Waiter
from . import wire
from .both_ways import AT_ONCE, BothWays
from .known import Known
from .replies import Inbox, Reply
from .ring import Server

T = TypeVar("T")


class Connection:
    """One open connection to one server; `opened` is the stamp taken when it had been opened."""

    def __init__(self, sock: socket.socket, opened: int) -> None:
        self.opened = opened
        self._sock = sock

    async def meta(self, data: bytes, count: int, timeout: float) -> list[Reply]:
        """Send `data` and return the `count` replies to it. After any exception the connection is of no use."""
        loop = asyncio.get_running_loop()
        inbox = Inbox(count)
        async with Patience(timeout) as patience:
            if count > 1 and len(data) > AT_ONCE:
                with contextlib.suppress(NotImplementedError):  # of a loop that cannot: then it sends all first
                    return await self._both_ways(BothWays(data, count), patience)
            await loop.sock_sendall(self._sock, data)
            await asyncio.sleep(0)  # a near server answers at once: without this, hit after hit would hold up the loop
            while not inbox.feed(await loop.sock_recv(self._sock, 65536)):
                if count > 1:  # the whole may take its time, if only it goes on
                    patience.renew()
                    await asyncio.sleep(0)
        return inbox.replies

    async def _both_ways(self, exchange: BothWays, patience: Patience) -> list[Reply]:
        loop = asyncio.get_running_loop()
        while True:
            ready: asyncio.Future[None] = loop.create_future()
            loop.add_reader(self._sock, _set, ready)
            if exchange.sending:
                loop.add_writer(self._sock, _set, ready)
            try:
                await ready
            finally:
                loop.remove_reader(self._sock)
                loop.remove_writer(self._sock)
            if exchange.move(self._sock):
                return exchange.replies
            patience.renew()

    def close(self) -> None:
        """Close it; in a command only after that was cancelled."""
        self._sock.close()

    def __del__(self) -> None:
        self.close()


def _set(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _connect(server: Server) -> socket.socket:
    loop = asyncio.get_running_loop()
    if server.path is not None:
        return await _connect_to(socket.AF_UNIX, server.path)
    try:  # an address in digits needs no thread to look it up
        found = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except socket.gaierror:
        found = await loop.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)
    for left, (family, _, _, _, address) in zip(reversed(range(len(found))), found, strict=True):
        try:
            return await _connect_to(family, address)
        except OSError:
            if not left:
                raise
    raise OSError("the name has no address")


async def _connect_to(family: int, address: Any) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


_Pool: TypeAlias = Pool[Connection, asyncio.Event]


class Node:
    """One server and the running loop's connections to it."""

    def __init__(self, server: Server, known: Known, timeout: float, limit: int, clock: Callable[[], int]) -> None:
        self._server = server
        self._known = known
        self._timeout = timeout
        self._limit = limit
        self._clock = clock
        self._pool: _Pool = Pool(limit, asyncio.Event)

    async def carry_out(self, operation: wire.Operation[T]) -> T:
        """Run the commands of `operation`, one after another. It is told of errors, and raises them as a rule."""
        try:
            command = operation.send(None)
            while True:
                if isinstance(command, wire.Pause):
                    await asyncio.sleep(command.seconds)
                    command = operation.send(None)
                    continue
                try:
                    result = await self.run(command)
                except CachesideError as error:
                    command = operation.throw(error)
                else:
                    command = operation.send(result)
        except StopIteration as end:
            return cast(T, end.value)

    async def run(self, command: wire.Command[T]) -> T:
        """One exchange with the server."""
        known, again = self._known, command.again
        if known.breaker.open:
            known.breaker.admit(command.urgent)
        while True:
            pool = self._pool
            connection, fresh = await self._take(pool, command.before, command.urgent)
            if connection is None:
                return cast(T, command.otherwise)
            sent = self._clock()
            try:
                replies = await connection.meta(command.data, command.replies, self._timeout)
                result = command.decide(replies, sent, known.name)
            except NotCacheableError:
                known.refused_size()
                self._give(pool, connection)
                raise
            except BaseException as error:
                connection.close()
                pool.drop(connection)  # whom this wakes runs later, and finds the breaker told
                if not known.ended(error, pooled=not fresh, again=again):
                    raise
                again = False
                close_all(pool.purge())
                continue
            known.answered()
            self._give(pool, connection)
            return result

    def close(self) -> None:
        """Close the connections: those in use as soon as they no longer are."""
        old, self._pool = self._pool, Pool(self._limit, asyncio.Event)
        close_all(old.retire())

    def abandon(self) -> None:
        """Close all connections, for their loop runs no more."""
        close_all(self._pool.forget())

    async def _take(self, pool: _Pool, before: int | None, urgent: bool) -> tuple[Connection | None, bool]:
        """A connection, and whether it is new; None if no connection may carry the command."""
        granted = pool.take(before)
        if isinstance(granted, Waiter):
            granted = await self._wait(pool, granted, urgent)
        if granted is GONE:
            return None, False
        if granted is OPEN:
            return await self._open(pool), True
        return granted, False

    async def _wait(self, pool: _Pool, waiter: Waiter[Connection, asyncio.Event], urgent: bool) -> Connection | Verdict:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await waiter.event.wait()
            if self._known.breaker.open:  # it failed meanwhile: all who queue for it need not find out one by one
                self._known.breaker.admit(urgent)
            if waiter.granted is not None:
                return waiter.granted
            raise CacheUnavailable(
                f"all {self._limit} connections to the memcached {self._known.name} were in use for {PATIENCE:g} "
                "seconds: raise max_connections"
            )
        except BaseException:
            unused = pool.leave(waiter)
            if unused is not None:
                unused.close()
            raise

    async def _open(self, pool: _Pool) -> Connection:
        try:
            async with asyncio.timeout(self._timeout * LOOP_SLACK):
                sock = await _connect(self._server)
        except BaseException as error:
            pool.failed()
            if isinstance(error, OSError):
                raise self._known.unreachable(error) from error
            raise
        connection = Connection(sock, self._clock())
        pool.opened(connection)
        return connection

    def _give(self, pool: _Pool, connection: Connection) -> None:
        if not pool.give(connection):
            connection.close()


def close_all(connections: Sequence[Connection]) -> None:
    for connection in connections:
        connection.close()
