"""A connection of redis-py's, and the short way over its socket: for lookups from plain code.

redis-py connects, logs in and carries all other commands. A lookup uses the socket itself: what redis-py does around
sending and receiving takes longer than all the rest of a hit.
"""

from __future__ import annotations

import builtins
from typing import Any

import hiredis
from redis.exceptions import ConnectionError, InvalidResponse, TimeoutError

from .. import sockets
from .commands import REFUSAL

RECEIVED = 16384  # bytes at a time: room for as many is made before it is known how many come
_NOT_YET = object()


class Shortcut:
    """One connection.

    Args:
        connection: redis-py's. It may be closed, and open itself again, as it likes.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._sock: Any = None
        self._blocks = False
        self._lent = False
        self._reader: Any = None

    def ask(self, packed: bytes) -> Any:
        """Send one command; its reply, or REFUSAL for an error.

        Raises:
            RedisError, OSError: it got no answer; then the connection is of no use any more.
        """
        # The only thing of redis-py that we use though it is not public; a test would miss it.
        sock = self._connection._sock
        if sock is None or sock is not self._sock or self._lent:
            sock = self._take()
        reader = self._reader
        try:
            sock.sendall(packed)
            reader.feed(_received(sock))
            while (reply := reader.gets()) is _NOT_YET or isinstance(reply, hiredis.PushNotification):
                if reply is _NOT_YET:
                    reader.feed(_received(sock))
        except OSError as error:
            if isinstance(error, (BlockingIOError, builtins.TimeoutError)):
                seconds = self._connection.socket_timeout
                raise TimeoutError(f"timed out: no answer within {seconds:g} seconds") from error
            raise ConnectionError(str(error) or repr(error)) from error
        if reader.has_data():
            raise InvalidResponse("not the protocol of Redis: more came than was asked for")
        return REFUSAL if isinstance(reply, hiredis.ReplyError) else reply

    def lend(self) -> Any:
        """The connection, for redis-py to use: its socket has time-outs of the usual kind then."""
        if self._blocks and not self._lent and self._sock is self._connection._sock:
            self._sock.settimeout(self._connection.socket_timeout)
            self._lent = True
        return self._connection

    def close(self) -> None:
        """Close it."""
        self._connection.disconnect()

    def __del__(self) -> None:
        # redis-py's connection does the same; but thrown away together, the socket may be told before it.
        self.close()

    def _take(self) -> Any:
        connection = self._connection
        if connection._sock is None:
            connection.connect()
        if connection._sock is not self._sock:
            self._sock = connection._sock
            self._reader = hiredis.Reader(notEnoughData=_NOT_YET)
            self._blocks = sockets.bound(self._sock, connection.socket_timeout)
        elif self._blocks:
            self._sock.settimeout(None)
        self._lent = False
        return self._sock


def _received(sock: Any) -> bytes:
    data: bytes = sock.recv(RECEIVED)
    if not data:
        raise ConnectionResetError("the server closed the connection")
    return data
