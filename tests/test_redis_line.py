"""The line: the one connection on which the lookups of an event loop go out, together where there are many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import hiredis
import pytest
from redis.exceptions import ConnectionError, InvalidResponse, TimeoutError
from redis_tools import say
from servers import RedisServer

from cacheside.backends.base import Busy, Hit, Leased
from cacheside.backends.redis import RedisBackend
from cacheside.backends.redis.line import Line
from cacheside.backends.redis.routes import OneServer
from cacheside.backends.redis.wire import REFUSAL
from cacheside.errors import CacheUnavailable

NewRedis = Callable[..., RedisServer]


class Wire:
    """Stands for the transport and for redis-py's connection."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.written: list[bytes] = []
        self.disconnects = 0
        line._connection = line._transport = self

    def write(self, data: bytes) -> None:
        """See asyncio."""
        self.written.append(data)

    def abort(self) -> None:
        """See asyncio."""

    async def disconnect(self, nowait: bool) -> None:
        """See redis-py."""
        assert nowait
        self.disconnects += 1


def on_a_line(timeout: float = 20) -> tuple[Line, Wire]:
    """A line of the running loop over no network."""
    line = Line(asyncio.get_running_loop(), timeout)
    return line, Wire(line)


async def reply(asked: asyncio.Future[Any]) -> Any:
    """In time, or not at all."""
    async with asyncio.timeout(20):
        return await asked


# --- without a network ---


def test_alone_at_once() -> None:
    """A lookup on an idle line is written before `ask` returns: nobody waits for company."""

    async def scenario() -> None:
        line, wire = on_a_line()
        asked = line.ask(b"1")
        assert wire.written == [b"1"]
        line.data_received(b"$1\r\nx\r\n")
        assert await reply(asked) == b"x"
        line.ask(b"2")
        assert wire.written == [b"1", b"2"]

    asyncio.run(scenario())


def test_a_crowd_in_two_writes() -> None:
    """Two hundred lookups of one turn of the loop are two writes, in the order in which their callers came."""

    async def scenario() -> None:
        line, wire = on_a_line()
        crowd = [line.ask(b"%d," % number) for number in range(200)]
        await asyncio.sleep(0)
        assert wire.written == [b"0,", b"".join(b"%d," % number for number in range(1, 200))]
        replies = b"".join(b"$%d\r\n%d\r\n" % (len(str(number)), number) for number in range(200))
        for start in range(0, len(replies), 7):  # however the bytes are cut
            line.data_received(replies[start : start + 7])
        assert [await reply(asked) for asked in crowd] == [b"%d" % number for number in range(200)]

    asyncio.run(scenario())


def test_cancelled_caller_leaves_its_reply() -> None:
    """The reply to a caller that was cancelled is nobody else's, and can still be waited for by who cleans up."""

    async def scenario() -> None:
        line, _ = on_a_line()
        first, second, third = line.ask(b"1"), line.ask(b"2"), line.ask(b"3")
        first.cancel()
        late = line.again(first)
        second.cancel()
        line.data_received(b"$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n")
        assert await late == b"a"
        assert await reply(third) == b"c"
        assert line.again(third) is third  # it has come already
        assert isinstance(await line.again(second), ConnectionError)  # nobody was there to take it

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", InvalidResponse),
        (b"$1\r\na\r\n$1\r\nb\r\n$1\r\nc\r\n", InvalidResponse),  # a reply that nobody has asked for
        (None, ConnectionError),
    ],
    ids=["garbage", "one too many", "closed"],
)
def test_end_of_the_line(data: bytes | None, kind: type[Exception]) -> None:
    """Garbage, a reply too many, a closed connection: whoever waits is told, and the line carries nothing more."""

    async def scenario() -> None:
        line, wire = on_a_line()
        first, second = line.ask(b"1"), line.ask(b"2")
        if data is None:
            line.connection_lost(None)
        else:
            line.data_received(data)
        replies = [await reply(first), await reply(second)]
        if data is None or data.startswith(b"HTTP"):
            assert all(isinstance(each, kind) for each in replies)
        else:
            assert replies == [b"a", b"b"]
        assert line.closed
        assert wire.disconnects == 1
        line.close()
        line.connection_lost(None)  # as asyncio says in the end
        await asyncio.sleep(0)
        assert wire.written == [b"1"]  # the second was never sent
        assert wire.disconnects == 1

    asyncio.run(scenario())


def test_time_out_of_all() -> None:
    """Without an answer all that are under way end after one time-out, however many; a busy loop is no dead server."""

    async def scenario() -> None:
        line, _ = on_a_line(0.05)
        crowd = [line.ask(b"x") for _ in range(50)]
        assert all([isinstance(await reply(asked), TimeoutError) for asked in crowd])
        assert line.closed

        line, _ = on_a_line(0.05)
        asked = line.ask(b"x")
        loop = asyncio.get_running_loop()
        busy_until = loop.time() + 0.2
        while loop.time() < busy_until:
            pass
        loop.call_soon(line.data_received, b"$1\r\nx\r\n")  # it was there all the time
        assert await reply(asked) == b"x"
        assert not line.closed

    asyncio.run(scenario())


def test_errors_and_pushes() -> None:
    """An error of the server says that nothing was carried out; what it pushes unasked is no reply."""

    async def scenario() -> None:
        line, _ = on_a_line()
        asked, other = line.ask(b"1"), line.ask(b"2")
        line.data_received(b">2\r\n$1\r\nx\r\n$1\r\ny\r\n-MOVED 1 host:1\r\n_\r\n")
        assert await reply(asked) is REFUSAL
        assert await reply(other) is None

    asyncio.run(scenario())
    assert issubclass(hiredis.ReplyError, hiredis.HiredisError)


# --- on a server ---


def a_line(backend: RedisBackend) -> Line | None:
    """The line of the running loop."""
    form: Any = backend.aio
    line: Line | None = form._servers[OneServer.HERE].line()
    return line


@pytest.mark.parametrize("address", ["url", "tls_url", "unix_url"])
def test_lookups_go_over_it(new_redis: NewRedis, address: str) -> None:
    """Whatever the connection, redis-py's is taken over: a crowd of lookups is one connection, and no task more.

    What they win after they have been given up is released.
    """
    server = new_redis(tls=address == "tls_url")
    backend = RedisBackend.from_url(getattr(server, address), timeout=20, clock=lambda: 0.0)

    async def scenario() -> None:
        aio: Any = backend.aio
        assert isinstance(await aio.lookup("k", 60), Leased)
        line = a_line(backend)
        assert line is not None
        before = len(asyncio.all_tasks())
        crowd = [aio.lookup(f"k{number}", 60) for number in range(200)]
        for each in crowd:
            each.send(None)  # as a task would, up to where it waits
        assert len(asyncio.all_tasks()) == before
        assert len(line._asked) == 200
        for each in crowd:
            each.close()
        async with asyncio.timeout(20):
            while line._asked or await asyncio.to_thread(say, server, "DBSIZE") != 1:
                await asyncio.sleep(0.01)
        await aio.close()
        assert line.closed

    asyncio.run(scenario())


def test_what_is_no_string(new_redis: NewRedis) -> None:
    """What an error is the reply to is asked for again in the usual way, which knows what errors mean."""
    server = new_redis()
    backend = RedisBackend.from_url(server.url, timeout=20, clock=lambda: 0.0)
    say(server, "LPUSH", "list", "x")

    async def scenario() -> None:
        aio: Any = backend.aio
        assert isinstance(await aio.lookup("k", 60), Leased)
        assert await aio.lookup("k", 60) == Busy()
        assert a_line(backend) is not None
        foreign = await aio.lookup("list", 60)
        assert isinstance(foreign, Hit)
        assert isinstance(await aio.replace("list", foreign.seen, 60), Leased)
        await aio.close()

    asyncio.run(scenario())


def test_server_restarts_behind_it(new_redis: NewRedis) -> None:
    """A line that the server has closed costs its callers nothing but a second try, and then there is a new one."""
    server = new_redis()
    backend = RedisBackend.from_url(server.url, timeout=20, clock=lambda: 0.0)

    async def scenario() -> None:
        aio: Any = backend.aio
        assert isinstance(await aio.lookup("k", 60), Leased)
        line = a_line(backend)
        assert line is not None
        await asyncio.to_thread(server.restart)
        answers = await asyncio.gather(*[aio.lookup(f"k{number}", 60) for number in range(20)])
        assert all(isinstance(answer, Leased) for answer in answers)
        assert line.closed
        assert await aio.lookup("k1", 60) == Busy()
        assert a_line(backend) not in (None, line)
        await aio.close()

    asyncio.run(scenario())


def test_frozen_server_costs_one_time_out(new_redis: NewRedis) -> None:
    """All whose lookups are under way when the server freezes wait for one time-out together."""
    server = new_redis()
    backend = RedisBackend.from_url(server.url, timeout=0.3, clock=lambda: 0.0)

    async def scenario() -> None:
        aio: Any = backend.aio
        assert isinstance(await aio.lookup("k", 60), Leased)
        assert a_line(backend) is not None
        server.freeze()
        asked = [aio.lookup(f"k{number}", 60) for number in range(50)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        server.thaw()
        assert all(isinstance(answer, CacheUnavailable) for answer in answers)
        assert len({id(answer.__cause__) for answer in answers if isinstance(answer, Exception)}) == 1
        await aio.close()

    asyncio.run(scenario())
