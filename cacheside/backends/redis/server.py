"""One Redis server, for plain code: connections of redis-py, a bound on them, and the breaker. (`aserver.py`: async.)

Commands go below `client.execute_command`, whose retries would send the same bytes again (see `wire.py`). Replies are
bytes whatever a user's client has for decode_responses.

Waiting for a connection is ours, not the pool's: whoever has waited asks the breaker before it connects, so that
callers in a queue do not stand one after another before a server that is gone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ConnectionError, InvalidResponse, RedisError, ResponseError
from redis.utils import HIREDIS_AVAILABLE

from ... import forks
from ...breaker import Breaker
from ...errors import CacheUnavailable
from ..pool import OPEN, Pool, Waiter
from .commands import REFUSAL, Command

POOL_WAIT = 5.0
"""Seconds that callers wait for a connection of our own pools, which are bounded."""


def crowded(name: str, limit: int) -> CacheUnavailable:
    """What a caller is told who has waited in vain for a connection."""
    return CacheUnavailable(
        f"{name}: all {limit} connections were busy for {POOL_WAIT:g} seconds (max_connections)", sent=False
    )


def known(error: Exception) -> Exception:
    """The error itself, if it is of a kind that is expected; at garbage redis-py's parsers raise all sorts."""
    if isinstance(error, (RedisError, OSError, CacheUnavailable)):
        return error
    return InvalidResponse(f"not the protocol of Redis: {error!r}")


class _Link:
    """A connection, as redis-py uses it; `shortcut.py` has a faster one."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def ask(self, packed: bytes) -> Any:
        """Send one command; its reply, or REFUSAL for an error."""
        self._connection.send_packed_command((packed,))
        try:
            return self._connection.read_response(disable_decoding=True)
        except ResponseError:
            return REFUSAL

    def lend(self) -> Any:
        """The connection."""
        return self._connection

    def close(self) -> None:
        """Close it."""
        self._connection.disconnect()


class _Theirs:
    """The connections of a user's client: not ours to bound, to close, or to keep from a forked child."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    def take(self, probe: bool) -> Any:
        """A connection; open, as far as redis-py can tell."""
        return _Link(self._pool.get_connection())

    def check(self, connection: Any) -> None:
        """That has been done."""

    def give(self, link: Any) -> None:
        """It is in good order, and no longer in use."""
        self._pool.release(link.lend())

    def drop(self, link: Any, error: BaseException) -> None:
        """A reply may still be under way: nobody must take it for theirs."""
        link.close()
        self._pool.release(link.lend())

    def close(self) -> None:
        """A user's client stays open."""


class _Ours:
    """Connections of our own to one server, at most `limit` of them. Threads share them.

    They are redis-py's; its pools are not used, for they cost more than all else of a lookup.
    """

    def __init__(self, name: str, breaker: Breaker, make: Callable[[], Any], limit: int) -> None:
        self._name = name
        self._breaker = breaker
        self._make = make
        self._lock = threading.Lock()
        self._limit = limit
        self._pool: Pool[Any, threading.Event] = Pool(limit, threading.Event)

    def take(self, probe: bool) -> Any:
        """A connection, which may not be open (any more)."""
        with self._lock:
            granted = self._pool.take(None)
        if isinstance(granted, Waiter):
            granted = self._wait(granted, probe)
        if granted is not OPEN:
            return granted
        try:
            link = self._make()
        except BaseException:
            with self._lock:
                self._pool.failed()
            raise
        with self._lock:
            self._pool.opened(link)
        return link

    def check(self, connection: Any) -> None:
        """Have it opened anew if the server has closed it meanwhile: for commands that must not be sent twice."""
        try:
            if not connection.is_connected or not connection.can_read():
                return
        except (RedisError, OSError):
            pass
        connection.disconnect()

    def give(self, link: Any) -> None:
        """It is in good order, and no longer in use."""
        with self._lock:
            kept = self._pool.give(link)
        if not kept:
            link.close()

    def drop(self, link: Any, error: BaseException) -> None:
        """A reply may still be under way: nobody must take it for theirs."""
        link.close()
        with self._lock:
            self._pool.drop(link)
            # If the server has closed this one, it may have closed all.
            idle = self._pool.purge() if isinstance(error, ConnectionError) else []
        _close(idle)

    def close(self) -> None:
        """Keep no connection: those in use are closed as soon as they no longer are."""
        with self._lock:
            idle = self._pool.retire()
        _close(idle)

    def _wait(self, waiter: Waiter[Any, threading.Event], probe: bool) -> Any:
        try:
            waiter.event.wait(POOL_WAIT)
            if waiter.granted is None:
                raise crowded(self._name, self._limit)
            if self._breaker.open and not probe:
                self._breaker.admit()
            return waiter.granted
        except BaseException:
            with self._lock:
                unused = self._pool.leave(waiter)
            if unused is not None:
                unused.close()
            raise


def _close(links: Sequence[Any]) -> None:
    for link in links:
        link.close()


def _link(connection: Any) -> Any:
    """For a connection of our own: the short way over its socket, if it shows that, or redis-py's."""
    if not HIREDIS_AVAILABLE or not hasattr(connection, "_sock"):
        return _Link(connection)
    from .shortcut import Shortcut  # it needs hiredis

    return Shortcut(connection)


class SyncServer:
    """One server, for plain code. Threads share it.

    Args:
        name: how errors call it.
        breaker: shared with the other colour.
        make_pool: makes a pool of redis-py's, from which only its kind of connection is taken; or gives that of a
            user's client.
        limit: how many connections it has; None: it is the pool of a user's client.
    """

    def __init__(self, name: str, breaker: Breaker, make_pool: Callable[[], Any], limit: int | None) -> None:
        self._name = name
        self.breaker: Breaker = breaker
        self._make_pool = make_pool
        self._limit = limit
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """Other connections: those we have are the parent's. (A user's client is the user's.)"""
        self._source = self._new_source()

    def ask(self, packed: bytes) -> Any:
        """Send one command, and return its reply, REFUSAL for an error, or what came instead of it.

        It may have to be sent again, since nobody looks beforehand whether the server has closed the connection.
        """
        source = self._source
        try:
            link = source.take(False)
            try:
                reply = link.ask(packed)
            except BaseException as error:
                source.drop(link, error)
                raise
            source.give(link)
        except Exception as error:
            return known(error)
        if self.breaker.open:
            self.breaker.succeeded()
        return reply

    def exchange(self, commands: Sequence[Command], probe: bool) -> list[Any]:
        """Send commands, and read their replies; see `Send`."""
        replies: list[Any] = []
        source = self._source
        try:
            link = source.take(probe)
            try:
                connection = link.lend()
                source.check(connection)
                send(connection, commands)
                while len(replies) < len(commands):
                    try:
                        replies.append(connection.read_response(disable_decoding=True))
                    except ResponseError as error:
                        replies.append(error)
                    if self.breaker.open:
                        self.breaker.succeeded()
            except BaseException as error:
                source.drop(link, error)
                raise
            source.give(link)
        except Exception as error:
            replies += [known(error)] * (len(commands) - len(replies))
        return replies

    def close(self) -> None:
        """Close its connections, those in use as soon as they no longer are; a user's client stays open."""
        old, self._source = self._source, self._new_source()
        old.close()

    def _new_source(self) -> _Ours | _Theirs:
        pool = self._make_pool()
        if self._limit is None:
            return _Theirs(pool)

        def make() -> Any:
            return _link(pool.connection_class(**pool.connection_kwargs))

        return _Ours(self._name, self.breaker, make, self._limit)


def send(connection: Any, commands: Sequence[Command]) -> Any:
    """Send commands together; what it returns has to be awaited where the connection is of that colour."""
    if len(commands) == 1:
        return connection.send_command(*commands[0])
    return connection.send_packed_command(connection.pack_commands(commands))
