"""The lookups of one event loop on one server: a single connection, on which commands and replies keep their order.

Nobody waits for a connection or needs a task of its own, and a caller that is cancelled leaves only a reply behind.
The first lookup goes out at once; those that come while it is under way go out together, at the end of the loop's turn:
two hundred tasks cost two writes. Each is sent after its caller has arrived, so nothing is promised less than alone.

A crowd asks with one MGET what there is, which costs the server a fifth, and sends the commands that could win a lease
only for what is not there: on a hit one round trip as ever, on a miss one more than alone. The race that there could
be: something is filled or invalidated between the two. Then the second says so; the first is not used for it.

Other commands go over the connections of a pool (`server.py`): a value of some megabytes on its way to the server, or
a script over a thousand keys, would hold up the lookups behind it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, NamedTuple

import hiredis
from redis.exceptions import ConnectionError, InvalidResponse, TimeoutError

from ..base import new
from ..patience import Patience
from .commands import REFUSAL, packed

CROWD = 8  # lookups that are asked together by MGET
_NOT_YET = object()


class _Asked(NamedTuple):
    """A lookup that has not been sent as such: its reply, and its command."""

    reply: asyncio.Future[Any]
    key: str
    token: bytes
    lease: float


class Line(asyncio.Protocol):
    """One connection, and the lookups that are under way on it.

    Args:
        loop: the running one.
        timeout: seconds that the server may take to answer.
        pack: makes the command of a lookup, of its key, token and lease.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, timeout: float, pack: Callable[[str, bytes, float], bytes]
    ) -> None:
        self._loop = loop
        self._timeout = timeout
        self._pack = pack
        self._reader = hiredis.Reader(notEnoughData=_NOT_YET)
        self._outbox: list[_Asked] = []
        self._under_way: deque[asyncio.Future[Any] | list[_Asked]] = deque()
        self._mget = True
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

    def ask(self, key: str, token: bytes, lease: float) -> asyncio.Future[Any]:
        """Look up. The reply is that of the lookup's command, or what came instead as a value; REFUSAL for an error."""
        loop = self._loop
        reply = loop.create_future()
        if self._under_way:
            if not self._outbox:
                loop.call_soon(self._flush)
            self._outbox.append(new(_Asked, (reply, key, token, lease)))
        else:
            self._write(self._pack(key, token, lease), (reply,))
        return reply

    def again(self, reply: asyncio.Future[Any]) -> asyncio.Future[Any]:
        """The same reply for somebody else: he who waited for it has been cancelled."""
        if reply.done() and not reply.cancelled():
            return reply  # it came just then
        late = self._loop.create_future()
        if reply in self._under_way:
            self._under_way[self._under_way.index(reply)] = late
            return late
        for asked in (self._outbox, *[each for each in self._under_way if isinstance(each, list)]):
            for index, one in enumerate(asked):
                if one.reply is reply:
                    asked[index] = one._replace(reply=late)
                    return late
        late.set_result(ConnectionError("The reply has gone."))  # it came after the cancellation, and nobody was there
        return late

    def data_received(self, data: bytes) -> None:
        """Replies, or parts of them."""
        reader, under_way = self._reader, self._under_way
        self._since = self._loop.time()
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not _NOT_YET:
                if isinstance(reply, hiredis.PushNotification):
                    continue
                asked = under_way.popleft()
                if isinstance(asked, list):
                    self._found(asked, reply)
                elif not asked.done():  # else its caller has been cancelled
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
        asked, self._outbox = self._outbox, []
        if self.closed:
            return
        if self._mget and len(asked) >= CROWD:
            self._write(packed([b"MGET", *[one.key.encode() for one in asked]]), (asked,))
        else:
            self._send(asked)

    def _found(self, asked: list[_Asked], values: Any) -> None:
        """What MGET says. Whatever stands there is what the lookup would say; if nothing does, that is sent."""
        if isinstance(values, hiredis.HiredisError):  # as of a cluster, for keys of several slots, or forbidden
            self._mget = False
            self._send(asked)
            return
        if type(values) is not list or len(values) != len(asked):
            self._under_way.appendleft(asked)  # they are told
            raise ValueError("this does not answer MGET")
        left = []
        for one, value in zip(asked, values, strict=True):
            if value is None:
                left.append(one)
            elif not one.reply.done():
                one.reply.set_result(value)
        self._send(left)

    def _send(self, asked: list[_Asked]) -> None:
        asked = [one for one in asked if not one.reply.done()]  # their callers have been cancelled
        commands = [self._pack(one.key, one.token, one.lease) for one in asked]
        self._write(b"".join(commands), [one.reply for one in asked])

    def _write(self, data: bytes, asked: Sequence[asyncio.Future[Any] | list[_Asked]]) -> None:
        if not self._under_way:
            self._since = self._loop.time()
        self._transport.write(data)
        self._under_way.extend(asked)
        if not self._watching:
            self._watching = True
            self._loop.call_later(self._timeout, self._watch, Patience.TURNS)

    def _watch(self, turns: int) -> None:
        """Time out, unless nothing is under way, or the server has said something within the time.

        What has arrived counts though the loop was too busy to look: see `Patience`.
        """
        self._watching = bool(self._under_way)
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
        replies = [one.reply for one in self._outbox]
        for each in self._under_way:
            replies += [one.reply for one in each] if isinstance(each, list) else [each]
        self._outbox.clear()
        self._under_way.clear()
        for reply in replies:
            if not reply.done():
                reply.set_result(error)


def _at_once(work: Coroutine[Any, Any, Any]) -> None:
    """Carry out what does not wait for anything."""
    with contextlib.suppress(StopIteration):
        work.send(None)
    work.close()
