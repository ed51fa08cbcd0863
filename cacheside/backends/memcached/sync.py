"""Memcached for plain functions: moves the bytes of `wire.py`, with one connection per thread that is in a command."""

from __future__ import annotations

import itertools
import math
import os
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar, cast

from pymemcache.client.base import Client  # type: ignore[import-untyped]  # pymemcache ships no types

from ...errors import CacheUnavailable, ConfigurationError, NotCacheableError
from .. import base
from . import wire
from .pool import GONE, OPEN, PATIENCE, Pool, Verdict, Waiter
from .ring import Ring, Server, parse_url

T = TypeVar("T")

DEFAULT_LIMIT = 64


class _Connection(Client):  # type: ignore[misc]  # the base is untyped
    """One connection to one server. `connect` is the only thing that opens it: its stamp must not lie."""

    opened = 0

    def __init__(self, server: Server, timeout: float) -> None:
        self._target = server
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
        self.opened = clock()

    def meta(self, data: bytes, count: int) -> list[wire.Reply]:
        """Send `data` and return the `count` replies to it. After any exception the connection is of no use."""
        sock = cast(socket.socket, self.sock)
        sock.sendall(data)
        inbox = wire.Inbox(count)
        while not inbox.feed(sock.recv(65536)):
            pass
        return inbox.replies

    def __del__(self) -> None:
        self.close()


_Pool: TypeAlias = Pool[_Connection, threading.Event]


class _Node:
    """One server and the connections to it."""

    def __init__(self, server: Server, timeout: float, limit: int, clock: Callable[[], int]) -> None:
        self.name = server.name
        self._server = server
        self._timeout = timeout
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._pool: _Pool = Pool(limit, threading.Event)

    def run(self, command: wire.Command[T]) -> T:
        """Carry out `command`."""
        again = command.again
        while True:
            pool = self._pool
            connection, fresh = self._take(pool, command.before)
            if connection is None:
                return cast(T, command.otherwise)  # a command with `before` has one
            sent = self._clock()
            try:
                result = command.decide(connection.meta(command.data, command.replies), sent, self.name)
            except NotCacheableError:
                self._give(pool, connection)
                raise
            except BaseException as error:
                self._drop(pool, connection)
                if isinstance(error, ConnectionError) and again and not fresh:
                    again = False
                    self._close_all(pool.purge)
                    continue
                if isinstance(error, OSError):
                    raise CacheUnavailable(f"the memcached {self.name} failed: {error}") from error
                raise
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

    def _take(self, pool: _Pool, before: int | None) -> tuple[_Connection | None, bool]:
        """A connection, and whether it is new; None if no connection may carry the command."""
        with self._lock:
            granted = pool.take(before)
        if isinstance(granted, Waiter):
            granted = self._wait(pool, granted)
        if granted is GONE:
            return None, False
        if granted is OPEN:
            return self._open(pool), True
        return granted, False

    def _wait(self, pool: _Pool, waiter: Waiter[_Connection, threading.Event]) -> _Connection | Verdict:
        try:
            if waiter.event.wait(PATIENCE) and waiter.granted is not None:
                return waiter.granted
            raise CacheUnavailable(
                f"all {self._limit} connections to the memcached {self.name} were in use for {PATIENCE:g} seconds: "
                "raise max_connections"
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
            with self._lock:
                pool.failed()
            if isinstance(error, OSError):
                raise CacheUnavailable(f"cannot connect to the memcached {self.name}: {error}") from error
            raise
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


def _check_options(timeout: object, limit: object) -> None:
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < math.inf:
        raise ConfigurationError(f"timeout must be a positive number of seconds, not {timeout!r}")
    if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
        raise ConfigurationError(f"max_connections must be a whole number of at least 1, not {limit!r}")


class MemcachedBackend:
    """A cache on one memcached (1.6.10 or later), or on several that share the keys.

    Threads may share it. After a fork the child opens its own connections. A server that is down or frozen makes the
    calls for its own keys raise `CacheUnavailable`; those for other servers' keys go on.

    Args:
        servers: "host:port", "host", "[IPv6]:port" or "/path/to.sock"; spelled alike in all processes.
        timeout: seconds for opening a connection, and for each answer.
        max_connections: to each server, from the threads of this process; and as many from each event loop.

    Raises:
        ConfigurationError: a server or a number that cannot be; nothing is connected before the first call.
    """

    def __init__(self, servers: Sequence[str], *, timeout: float = 0.25, max_connections: int = DEFAULT_LIMIT) -> None:
        _check_options(timeout, max_connections)
        self._ring = Ring(servers)
        self._timeout = float(timeout)
        self._limit = max_connections
        self._clock = itertools.count(1).__next__
        self._state = self._new_state()

    @classmethod
    def from_url(cls, url: str, *, timeout: float = 0.25, clock: Callable[[], float] | None = None) -> MemcachedBackend:
        """The backend that a URL describes.

        Args:
            url: ``memcached://host:port,host:port`` or ``memcached:///path/to.sock``; option ``?max_connections=64``.
            timeout: as above.
            clock: every backend is offered one; this one needs none, for the servers keep the time.

        Raises:
            ConfigurationError: it is malformed, or has an option, a user or a password that memcached does not know.
        """
        servers, limit = parse_url(url)
        return cls(servers, timeout=timeout, max_connections=DEFAULT_LIMIT if limit is None else limit)

    @property
    def capabilities(self) -> frozenset[base.Capability]:
        """See `Backend.capabilities`."""
        return wire.CAPABILITIES

    @property
    def aio(self) -> base.AsyncBackend:
        """The same cache for async functions."""
        made = self.__dict__.get("_aio")
        if made is None:
            from .aio import AsyncMemcachedBackend  # asyncio is slow to import, and plain functions do not need it

            made = AsyncMemcachedBackend(self._ring, self._timeout, self._limit, self._clock)
            made = self.__dict__.setdefault("_aio", made)  # one step: threads that come together get the same one
        return cast(base.AsyncBackend, made)

    def lookup(self, key: str, lease: float) -> base.Answer:
        """See `Backend.lookup`. One round trip; sent again if the server closed the pooled connection."""
        return self._run(wire.lookup(wire.wire_key(key), lease))

    def replace(self, key: str, seen: Any, lease: float) -> base.Leased | base.Busy:
        """See `Backend.replace`. `Busy` also where the key holds nothing any more: the next lookup gets the lease."""
        return self._run(wire.replace(wire.wire_key(key), seen, lease))

    def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        """See `Backend.fill`. The item stays up to two seconds longer than `ttl`."""
        return self._run(wire.fill(wire.wire_key(key), token, stored, ttl))

    def release(self, key: str, token: Any) -> bool:
        """See `Backend.release`."""
        return self._run(wire.release(wire.wire_key(key), token))

    def invalidate(self, keys: Sequence[str]) -> None:
        """See `Backend.invalidate`. One round trip to each server for every thousand of its keys."""
        nodes = self._nodes()
        groups = self._ring.split(map(wire.wire_key, keys))
        work = [(nodes[index], command) for index, group in groups.items() for command in wire.invalidate(group)]
        self._run_all(work)

    def clear(self, prefix: str | None) -> None:
        """Drop everything on all servers, other programs' entries included.

        Raises:
            ConfigurationError: a prefix is given: memcached cannot list its keys.
        """
        command = wire.clear(prefix)
        self._run_all([(node, command) for node in self._nodes()])

    def size(self) -> base.Size:
        """See `Backend.size`: not known without asking the servers."""
        return base.Size(None, None)

    def close(self) -> None:
        """See `Backend.close`. Leases that were won before are lost: a later fill under them is refused."""
        for node in self._nodes():
            node.close()

    def __repr__(self) -> str:
        return f"MemcachedBackend({[server.name for server in self._ring.servers]!r}, timeout={self._timeout:g})"

    def _run(self, command: wire.Command[T]) -> T:
        return self._nodes()[self._ring.index(command.key)].run(command)

    def _run_all(self, work: Sequence[tuple[_Node, wire.Command[None]]]) -> None:
        """Carry out all of it, then raise the first error if there was one. A server that failed is not asked again."""
        failed: dict[_Node, CacheUnavailable] = {}
        for node, command in work:
            if node not in failed:
                try:
                    node.run(command)
                except CacheUnavailable as error:
                    failed[node] = error
        if failed:
            raise next(iter(failed.values()))

    def _nodes(self) -> tuple[_Node, ...]:
        pid, nodes = self._state
        if pid != os.getpid():
            for node in nodes:
                node.abandon()
            self._state = self._new_state()
            nodes = self._state[1]
        return nodes

    def _new_state(self) -> tuple[int, tuple[_Node, ...]]:
        nodes = [_Node(server, self._timeout, self._limit, self._clock) for server in self._ring.servers]
        return os.getpid(), tuple(nodes)
