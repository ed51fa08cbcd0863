"""The lookups of one event loop on one server: a single connection, on which commands and replies keep their order.

Nobody waits for a connection or needs a task of its own, and a caller that is cancelled leaves only a reply behind.
The first lookup goes out at once; those that come while it is under way go out together, at the end of the loop's turn:
two hundred tasks cost two writes. Each is sent after its caller has arrived, so nothing is promised less than alone.

Other commands go over the connections of a pool (`server.py`): a value of some megabytes on its way to the server, or
a script over a thousand keys, would hold up the lookups behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Coroutine
from typing import Any

import hiredis
from redis.exceptions import ConnectionError, InvalidResponse, TimeoutError

from ..patience import Patience
from .wire import REFUSAL

_NOT_YET = object()


class Line(asyncio.Protocol):
    """One connection, and the lookups that are under way on it.

    Args:
        loop: the running one.
        timeout: seconds that the server may take to answer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, timeout: float) -> None:
        self._loop = loop
        self._timeout = timeout
        self._reader = hiredis.Reader(notEnoughData=_NOT_YET)
        self._asked: deque[asyncio.Future[Any]] = deque()
        self._outbox: list[bytes] = []
        self._since = 0.0  # when the server was asked something, or last said something, while it owes a reply
        self._watching = False
        self._connection: Any = None
        self._transport: Any = None
        self.closed: bool = False
        """It carries no further lookups."""

    async def open(self, connection: Any) -> None:
        """Have redis-py connect and log in, then take its transport over.

        Raises:
            RedisError, OSError: it cannot.
        """
        self._connection = connection
        try:
            await connection.connect()
            # The only thing of redis-py that we use though it is not public; a test would miss it.
            self._transport = connection._writer.transport
            self._transport.set_protocol(self)
        except BaseException:
            self.close()
            raise

    def ask(self, packed: bytes) -> asyncio.Future[Any]:
        """Send a lookup; its reply, or what came instead of one, as a value: REFUSAL for an error."""
        loop = self._loop
        reply = loop.create_future()
        if not self._asked:
            self._since = loop.time()
            self._transport.write(packed)
        else:
            if not self._outbox:
                loop.call_soon(self._flush)
            self._outbox.append(packed)
        self._asked.append(reply)
        if not self._watching:
            self._watching = True
            loop.call_later(self._timeout, self._watch, Patience.TURNS)
        return reply

    def again(self, reply: asyncio.Future[Any]) -> asyncio.Future[Any]:
        """The same reply for somebody else: he who waited for it has been cancelled."""
        if reply.done() and not reply.cancelled():
            return reply  # it came just then
        late = self._loop.create_future()
        if reply in self._asked:
            self._asked[self._asked.index(reply)] = late
        else:  # it came after the cancellation, and was thrown away
            late.set_result(ConnectionError("The reply has gone."))
        return late

    def data_received(self, data: bytes) -> None:
        """Replies, or parts of them."""
        reader, waiting = self._reader, self._asked
        self._since = self._loop.time()
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _NOT_YET:
                if isinstance(reply, hiredis.PushNotification):
                    continue
                asked = waiting.popleft()
                if not asked.done():  # else its caller has been cancelled
                    asked.set_result(REFUSAL if isinstance(reply, hiredis.HiredisError) else reply)
        except Exception as error:  # also one reply too many
            self._fail(InvalidResponse(f"not the protocol of Redis: {error!r}"))

    def connection_lost(self, exc: Exception | None) -> None:
        """The server closed it, or we did."""
        self._fail(ConnectionError(f"Connection closed by server{'.' if exc is None else f': {exc}'}"))

    def close(self) -> None:
        """Close the connection. Whoever waits for a reply is told that it is closed."""
        self._fail(ConnectionError("Connection closed."))

    def _flush(self) -> None:
        together, self._outbox = b"".join(self._outbox), []
        if not self.closed:
            self._transport.write(together)

    def _watch(self, turns: int) -> None:
        """Time out, unless nothing is under way, or the server has said something within the time.

        What has arrived counts though the loop was too busy to look: see `Patience`.
        """
        self._watching = bool(self._asked)
        if not self._watching:
            return
        left = self._since + self._timeout - self._loop.time()
        if left > 0:
            self._loop.call_later(left, self._watch, Patience.TURNS)
        elif turns:
            self._loop.call_soon(self._watch, turns - 1)
        else:
            self._fail(TimeoutError(f"timed out: no answer within {self._timeout:g} seconds"))

    def _fail(self, error: Exception) -> None:
        if not self.closed:
            self.closed = True
            _at_once(self._connection.disconnect(nowait=True))
            if self._transport is not None:
                self._transport.abort()
        while self._asked:
            asked = self._asked.popleft()
            if not asked.done():
                asked.set_result(error)


def _at_once(work: Coroutine[Any, Any, Any]) -> None:
    """Carry out what does not wait for anything."""
    with contextlib.suppress(StopIteration):
        work.send(None)
    work.close()
