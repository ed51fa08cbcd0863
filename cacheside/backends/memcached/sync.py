"""Memcached for plain functions: moves the bytes of `wire.py`, with one connection per thread that is in a command."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

from pymemcache.client.base import Client  # type: ignore[import-untyped]  # pymemcache ships no types

from ...errors import CachesideError, CacheUnavailable, NotCacheableError
from .. import sockets
from ..pool import GONE, OPEN, PATIENCE, Pool, Verdict, Waiter
from . import wire
from .both_ways import AT_ONCE, BothWays
from .known import Known
from .replies import Inbox, Reply
from .ring import Server

T = TypeVar("T")

RECEIVED = 16384  # bytes at a time: room for as many is made before it is known how many come


class _Connection(Client):  # type: ignore[misc]  # the base is untyped
    """One connection to one server. `connect` is the only thing that opens it: its stamp must not lie."""

    opened = 0

    def __init__(self, server: Server, timeout: float) -> None:
        self._target = server
        self._patience = timeout
        super().__init__(  # pyright: ignore[reportUnknownMemberType]  # pymemcache ships no types
            server.path or (server.host, server.port),
            connect_timeout=timeout,
            timeout=timeout,
            no_delay=server.path is None,
            default_noreply=False,
        )

    def connect(self, clock: Callable[[], int]) -> None:
        """Open the connection, then take its stamp from `clock`."""
        target = self._target
        if target.path is not None:
            self._connect()
        else:
            found = socket.getaddrinfo(target.host, target.port, type=socket.SOCK_STREAM)
            for left, (*_, address) in zip(reversed(range(len(found))), found, strict=True):
                # pymemcache itself tries the first address of a name only
                self.server: tuple[str, int] | tuple[int, bytes] = address[:2]
                try:
                    self._connect()
                    break
                except OSError:
                    if not left:
                        raise
        sockets.bound(cast(socket.socket, self.sock), self._patience)
        self.opened = clock()

    def carry(self, command: wire.Command[T], sent: int, name: str) -> T:
        """Send a command, and return its result. After most exceptions the connection is of no use."""
        sock: Any = self.sock
        try:
            if command.replies > 1 and len(command.data) > AT_ONCE:
                return command.decide(self._both_ways(sock, command), sent, name)
            sock.sendall(command.data)
            received = sock.recv(RECEIVED)
            if command.looks_up and (hit := wire.hit(command.looks_up, received, sent)) is not None:
                return cast(T, hit)
            inbox = Inbox(command.replies)
            while not inbox.feed(received):
                received = sock.recv(RECEIVED)
        except BlockingIOError as error:
            raise TimeoutError("timed out") from error
        return command.decide(inbox.replies, sent, name)

    def _both_ways(self, sock: socket.socket, command: wire.Command[Any]) -> list[Reply]:
        exchange = BothWays(command.data, command.replies)
        waiting = sock.gettimeout()
        sock.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
            while True:
                if not selector.select(self._patience):
                    raise TimeoutError("timed out")
                if exchange.move(sock):
                    break
                if not exchange.sending:
                    selector.modify(sock, selectors.EVENT_READ)
        sock.settimeout(waiting)
        return exchange.replies

    def __del__(self) -> None:
        self.close()


_Pool: TypeAlias = Pool[_Connection, threading.Event]


class Node:
    """One server and the connections to it."""

    def __init__(self, server: Server, known: Known, timeout: float, limit: int, clock: Callable[[], int]) -> None:
        self._server = server
        self._known = known
        self._timeout = timeout
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._pool: _Pool = Pool(limit, threading.Event)

    def carry_out(self, operation: wire.Operation[T]) -> T:
        """Run the commands of `operation`, one after another. It is told of errors, and raises them as a rule."""
        try:
            command = operation.send(None)
            while True:
                if isinstance(command, wire.Pause):
                    time.sleep(command.seconds)
                    command = operation.send(None)
                    continue
                try:
                    result = self.run(command)
                except CachesideError as error:
                    command = operation.throw(error)
                else:
                    command = operation.send(result)
        except StopIteration as end:
            return cast(T, end.value)

    def run(self, command: wire.Command[T]) -> T:
        """One exchange with the server."""
        known, again = self._known, command.again
        if known.breaker.open:
            known.breaker.admit(command.urgent)
        while True:
            pool = self._pool
            with self._lock:
                granted = pool.take(command.before)
            connection: _Connection | None
            if type(granted) is _Connection:
                connection, fresh = granted, False
            else:
                connection, fresh = self._obtain(pool, granted, command.urgent)
            if connection is None:
                return cast(T, command.otherwise)
            sent = self._clock()
            try:
                result = connection.carry(command, sent, known.name)
            except NotCacheableError:
                known.refused_size()
                self._give(pool, connection)
                raise
            except BaseException as error:
                try:
                    once_more = known.ended(error, pooled=not fresh, again=again)
                finally:  # after the breaker has been told: whom the pool wakes now looks at it
                    self._drop(pool, connection)
                if not once_more:
                    raise
                again = False
                self._close_all(pool.purge)
                continue
            if known.breaker.open:
                known.answered()
            self._give(pool, connection)
            return result

    def close(self) -> None:
        """Close the connections: those in use as soon as they no longer are."""
        with self._lock:
            old, self._pool = self._pool, Pool(self._limit, threading.Event)
        self._close_all(old.retire)

    def abandon(self) -> None:
        """Close this process's copies of its parent's connections; no lock is taken, for nobody is left to free it."""
        for connection in self._pool.forget():
            connection.close()

    def _obtain(
        self, pool: _Pool, granted: _Connection | Verdict | Waiter[_Connection, threading.Event], urgent: bool
    ) -> tuple[_Connection | None, bool]:
        """A connection, and whether it is new; None if no connection may carry the command."""
        if isinstance(granted, Waiter):
            granted = self._wait(pool, granted, urgent)
        if granted is GONE:
            return None, False
        if granted is OPEN:
            return self._open(pool), True
        return granted, False

    def _wait(self, pool: _Pool, waiter: Waiter[_Connection, threading.Event], urgent: bool) -> _Connection | Verdict:
        try:
            waited = waiter.event.wait(PATIENCE)
            if self._known.breaker.open:  # it failed meanwhile: all who queue for it need not find out one by one
                self._known.breaker.admit(urgent)
            if waited and waiter.granted is not None:
                return waiter.granted
            raise CacheUnavailable(
                f"all {self._limit} connections to the memcached {self._known.name} were in use for {PATIENCE:g} "
                "seconds: raise max_connections"
            )
        except BaseException:
            with self._lock:
                unused = pool.leave(waiter)
            if unused is not None:
                unused.close()
            raise

    def _open(self, pool: _Pool) -> _Connection:
        connection = _Connection(self._server, self._timeout)
        try:
            connection.connect(self._clock)
        except BaseException as error:
            connection.close()
            try:
                if isinstance(error, OSError):
                    raise self._known.unreachable(error) from error
                raise
            finally:  # as above
                with self._lock:
                    pool.failed()
        with self._lock:
            pool.opened(connection)
        return connection

    def _give(self, pool: _Pool, connection: _Connection) -> None:
        with self._lock:
            kept = pool.give(connection)
        if not kept:
            connection.close()

    def _drop(self, pool: _Pool, connection: _Connection) -> None:
        connection.close()
        with self._lock:
            pool.drop(connection)

    def _close_all(self, remove: Callable[[], list[_Connection]]) -> None:
        with self._lock:
            connections = remove()
        for connection in connections:
            connection.close()
