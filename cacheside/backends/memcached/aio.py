"""Memcached for async functions: moves the bytes of `wire.py` over the running loop's own connections.

Plain non-blocking sockets, and not asyncio's streams: an application that ends its loop without `aclose` (one
`asyncio.run` after another) then leaves nothing behind that only the dead loop could close.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar, cast
from weakref import WeakKeyDictionary

from ...errors import CachesideError, CacheUnavailable, NotCacheableError
from .. import base
from ..patience import LOOP_SLACK, Patience
from ..pool import GONE, OPEN, PATIENCE, Pool, Verdict, Waiter
from . import wire
from .changes import Change, Failures, Guarding, Invalidation, Release
from .known import Known
from .protocol import Protocol, Task
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
        async with Patience(timeout):
            await loop.sock_sendall(self._sock, data)
            await asyncio.sleep(0)  # a near server answers at once: without this, hit after hit would hold up the loop
            while not inbox.feed(await loop.sock_recv(self._sock, 65536)):
                pass
        return inbox.replies

    def close(self) -> None:
        """Close it; in a command only after that was cancelled."""
        self._sock.close()

    def __del__(self) -> None:
        self.close()


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


class _Node:
    """One server and the running loop's connections to it."""

    def __init__(self, server: Server, known: Known, timeout: float, limit: int, clock: Callable[[], int]) -> None:
        self._server = server
        self._known = known
        self._timeout = timeout
        self._limit = limit
        self._clock = clock
        self._pool: _Pool = Pool(limit, asyncio.Event)

    async def carry_out(self, operation: wire.Operation[T]) -> T:
        """Run the commands of `operation`, one after another; the first error ends it."""
        result: Any = None
        while True:
            try:
                command = operation.send(result)
            except StopIteration as end:
                return cast(T, end.value)
            if isinstance(command, wire.Pause):
                await asyncio.sleep(command.seconds)
                result = None
            else:
                result = await self.run(command)

    async def run(self, command: wire.Command[T]) -> T:
        """One exchange with the server."""
        known, again = self._known, command.again
        if known.breaker.open:
            known.breaker.admit()
        while True:
            pool = self._pool
            connection, fresh = await self._take(pool, command.before)
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
                _close_all(pool.purge())
                continue
            known.answered()
            self._give(pool, connection)
            return result

    def close(self) -> None:
        """Close the connections: those in use as soon as they no longer are."""
        old, self._pool = self._pool, Pool(self._limit, asyncio.Event)
        _close_all(old.retire())

    def abandon(self) -> None:
        """Close all connections, for their loop runs no more."""
        _close_all(self._pool.forget())

    async def _take(self, pool: _Pool, before: int | None) -> tuple[Connection | None, bool]:
        """A connection, and whether it is new; None if no connection may carry the command."""
        granted = pool.take(before)
        if isinstance(granted, Waiter):
            granted = await self._wait(pool, granted)
        if granted is GONE:
            return None, False
        if granted is OPEN:
            return await self._open(pool), True
        return granted, False

    async def _wait(self, pool: _Pool, waiter: Waiter[Connection, asyncio.Event]) -> Connection | Verdict:
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await waiter.event.wait()
            if self._known.breaker.open:  # it failed meanwhile: all who queue for it need not find out one by one
                self._known.breaker.admit()
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


def _close_all(connections: Sequence[Connection]) -> None:
    for connection in connections:
        connection.close()


class AsyncMemcachedBackend:
    """The same cache as a `MemcachedBackend`, which makes this object: its attribute `aio`.

    Tasks may share it, and so may event loops: each has its own connections. A cancelled call closes the connection
    that it used, for the answer is still on its way.
    """

    def __init__(self, protocol: Protocol, timeout: float, limit: int, clock: Callable[[], int]) -> None:
        self._protocol = protocol
        self._timeout = timeout
        self._limit = limit
        self._clock = clock
        self._forget_loops()

    @property
    def capabilities(self) -> frozenset[base.Capability]:
        """See `Backend.capabilities`."""
        return wire.CAPABILITIES

    async def lookup(self, key: str, lease: float) -> base.Answer:
        """See `MemcachedBackend.lookup`."""
        place, command = self._protocol.lookup(key, lease)
        node = self._nodes()[place]
        answer = await node.run(command)
        if isinstance(answer, wire.Held):
            return await node.carry_out(self._protocol.held(place, answer, lease))
        return answer

    async def replace(self, key: str, seen: Any, lease: float) -> base.Leased | base.Busy:
        """See `MemcachedBackend.replace`."""
        return await self._run(self._protocol.replace(key, seen, lease))

    async def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        """See `MemcachedBackend.fill`."""
        return await self._run(self._protocol.fill(key, token, stored, ttl))

    async def release(self, key: str, token: Any) -> bool:
        """See `MemcachedBackend.release`."""
        return await self._run(self._protocol.release(key, token))

    async def invalidate(self, keys: Sequence[str]) -> None:
        """See `MemcachedBackend.invalidate`."""
        await self._change([Invalidation(key) for key in keys])

    async def guard(self, keys: Sequence[str], token: str, hold: float) -> Sequence[Any]:
        """See `MemcachedBackend.guard`."""
        changes = [Guarding(key, token, hold) for key in keys]
        await self._change(changes)
        return [change.proof for change in changes]

    async def unguard(self, marks: Sequence[tuple[str, str]]) -> int:
        """See `MemcachedBackend.unguard`."""
        changes = [Release(key, token) for key, token in marks]
        await self._change(changes)
        return sum(change.lost for change in changes)

    async def update(self, key: str, token: str, proof: Any, stored: Any, ttl: float | None) -> bool:
        """See `MemcachedBackend.update`."""
        return await self._run(self._protocol.update(key, proof, stored, ttl))

    async def clear(self, prefix: str | None) -> None:
        """See `MemcachedBackend.clear`."""
        await self._run_all(self._protocol.clear(prefix))

    async def close(self) -> None:
        """Close the connections of the running loop. The next call opens new ones."""
        for node in self._nodes():
            node.close()

    def __repr__(self) -> str:
        return f"AsyncMemcachedBackend({self._protocol.names!r}, timeout={self._timeout:g})"

    async def _run(self, task: Task[T]) -> T:
        place, operation = task
        return await self._nodes()[place].carry_out(operation)

    async def _change(self, changes: Sequence[Change]) -> None:
        await self._run_all(self._protocol.change(changes), changes)

    async def _run_all(self, tasks: Sequence[Task[None]], changes: Sequence[Change] = ()) -> None:
        """Carry out all of it, then raise the first error if there was one."""
        failures = Failures()
        for task in tasks:
            try:
                await self._run(task)
            except CachesideError as error:
                failures.add(error)
        failures.check(changes)

    def _nodes(self) -> tuple[_Node, ...]:
        """The running loop's nodes. Those of loops that were closed are given up."""
        if self._pid != os.getpid():
            self._forget_loops()  # what was the parent's is closed here as it is collected: see Connection.__del__
        loop = asyncio.get_running_loop()
        nodes = self._loops.get(loop)
        if nodes is None:
            with self._lock:
                for other in [other for other in self._loops if other.is_closed()]:
                    for node in self._loops.pop(other):
                        node.abandon()
                nodes = tuple(
                    _Node(server, known, self._timeout, self._limit, self._clock)
                    for server, known in zip(self._protocol.ring.servers, self._protocol.known, strict=True)
                )
                self._loops[loop] = nodes
        return nodes

    def _forget_loops(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, tuple[_Node, ...]] = WeakKeyDictionary()
