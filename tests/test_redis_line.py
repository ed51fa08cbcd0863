"""The line: the one connection on which the lookups of an event loop go out, together where there are many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from colours import Colour
from redis.exceptions import ConnectionError, InvalidResponse, TimeoutError
from redis_tools import MakeCache, say
from servers import RedisServer, free_port

from cacheside import Cache
from cacheside.backends.base import Busy, Hit, Leased
from cacheside.backends.redis import RedisBackend
from cacheside.backends.redis.commands import REFUSAL
from cacheside.backends.redis.line import CROWD, Line
from cacheside.backends.redis.routes import OneServer
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
    """A line of the running loop over no network. The command of a lookup is its key and a comma."""
    line = Line(asyncio.get_running_loop(), timeout, lambda key, token, lease: f"{key},".encode())
    return line, Wire(line)


def ask(line: Line, *keys: object) -> list[asyncio.Future[Any]]:
    """Look up several keys."""
    return [line.ask(str(key), b"token", 1.0) for key in keys]


def bulk(*texts: str | None) -> bytes:
    """Replies as the server sends them."""
    return b"".join([b"$-1\r\n" if each is None else b"$%d\r\n%b\r\n" % (len(each), each.encode()) for each in texts])


async def replies(*asked: asyncio.Future[Any]) -> list[Any]:
    """In time, or not at all."""
    async with asyncio.timeout(20):
        return [await each for each in asked]


# --- without a network ---


def test_alone_at_once() -> None:
    """A lookup on an idle line is written before `ask` returns: nobody waits for company."""

    async def scenario() -> None:
        line, wire = on_a_line()
        asked = ask(line, 1)
        assert wire.written == [b"1,"]
        line.data_received(bulk("x"))
        assert await replies(*asked) == [b"x"]
        ask(line, 2)
        assert wire.written == [b"1,", b"2,"]

    asyncio.run(scenario())


def test_some_in_two_writes() -> None:
    """Lookups of one turn of the loop are two writes, in the order in which their callers came."""

    async def scenario() -> None:
        line, wire = on_a_line()
        asked = ask(line, *range(CROWD))
        await asyncio.sleep(0)
        assert wire.written == [b"0,", b"1,2,3,4,5,6,7,"]
        said = bulk(*"abcdefgh")
        for start in range(0, len(said), 5):  # however the bytes are cut
            line.data_received(said[start : start + 5])
        assert await replies(*asked) == [each.encode() for each in "abcdefgh"]

    asyncio.run(scenario())


def test_crowd_asks_together() -> None:
    """Two hundred lookups of one turn ask with one MGET what there is, and send their commands for what is not."""

    async def scenario() -> None:
        line, wire = on_a_line()
        asked = ask(line, *range(200))
        await asyncio.sleep(0)
        first, together = wire.written
        assert first == b"0,"
        assert together == b"*200\r\n$4\r\nMGET\r\n" + bulk(*map(str, range(1, 200)))
        asked[7].cancel()
        odd = [str(number) if number % 2 else None for number in range(1, 200)]
        line.data_received(bulk("0") + b"*199\r\n" + bulk(*odd))
        even = range(2, 200, 2)
        assert wire.written[2:] == [b"".join([b"%d," % number for number in even])]
        line.data_received(bulk(*[f"lease {number}" for number in even]))
        del asked[7]
        said = [f"lease {number}" if number in even else str(number) for number in range(200) if number != 7]
        assert await replies(*asked) == [each.encode() for each in said]

    asyncio.run(scenario())


def test_crowd_that_may_not_ask_together() -> None:
    """Where MGET is refused, as in a cluster, each lookup is sent by itself; and from then on at once."""

    async def scenario() -> None:
        line, wire = on_a_line()
        numbers = range(CROWD + 1)
        commands = b"".join([b"%d," % number for number in numbers[1:]])
        for turn in range(2):
            asked = ask(line, *numbers)
            await asyncio.sleep(0)
            line.data_received(bulk("0"))
            if not turn:
                assert wire.written[-1].startswith(b"*9\r\n$4\r\nMGET")
                line.data_received(b"-CROSSSLOT no\r\n")
            assert wire.written[-1] == commands
            line.data_received(bulk(*map(str, numbers[1:])))
            assert await replies(*asked) == [b"%d" % number for number in numbers]

    asyncio.run(scenario())


def test_cancelled_caller_leaves_its_reply() -> None:
    """The reply to a caller that was cancelled is nobody else's, and can still be waited for by who cleans up."""

    async def scenario() -> None:
        line, wire = on_a_line()
        first, *others = ask(line, *range(CROWD + 1))
        first.cancel()
        others[0].cancel()
        late = [line.again(first), line.again(others[0])]
        await asyncio.sleep(0)
        others[1].cancel()
        others[2].cancel()
        late.append(line.again(others[1]))
        line.data_received(bulk("0") + b"*8\r\n" + bulk("1", None, None, "4", "5", "6", "7", "8"))
        assert wire.written[-1] == b"2,"  # nobody waits for the third any more
        line.data_received(bulk("2"))
        assert await replies(*late, *others[3:]) == [b"0", b"1", b"2", b"4", b"5", b"6", b"7", b"8"]
        assert line.again(others[3]) is others[3]  # it has come already
        assert isinstance(await line.again(others[2]), ConnectionError)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", InvalidResponse),
        (bulk("0", "1"), InvalidResponse),  # no list of values
        (bulk("0") + b"*1\r\n$-1\r\n", InvalidResponse),  # fewer values than keys
        (None, ConnectionError),
    ],
    ids=["garbage", "no list", "too few", "closed"],
)
def test_end_of_the_line(data: bytes | None, kind: type[Exception]) -> None:
    """Garbage, a reply of another kind, a closed connection: whoever waits is told, and the line carries no more."""

    async def scenario() -> None:
        line, wire = on_a_line()
        asked = ask(line, *range(CROWD + 1))
        await asyncio.sleep(0)
        asked += ask(line, "late")
        if data is None:
            line.connection_lost(None)
        else:
            line.data_received(data)
        first, *others = await replies(*asked)
        assert first == b"0" if data is not None and data.startswith(b"$") else isinstance(first, kind)
        assert all(isinstance(each, kind) for each in others)
        assert line.closed
        line.close()
        line.connection_lost(None)  # as asyncio says in the end
        await asyncio.sleep(0)
        assert len(wire.written) == 2  # the late one was never sent
        assert wire.disconnects == 1

    asyncio.run(scenario())


def test_one_reply_too_many() -> None:
    """A reply that nobody has asked for ends the line: whose is the next?"""

    async def scenario() -> None:
        line, _ = on_a_line()
        asked = ask(line, 1)
        line.data_received(bulk("1", "2"))
        assert await replies(*asked) == [b"1"]
        assert line.closed

    asyncio.run(scenario())


def test_time_out_of_all() -> None:
    """Without an answer all that are under way end after one time-out, however many; a busy loop is no dead server."""

    async def scenario() -> None:
        line, _ = on_a_line(0.05)
        asked = ask(line, *range(50))
        assert all(isinstance(each, TimeoutError) for each in await replies(*asked))
        assert line.closed

        line, _ = on_a_line(0.05)
        asked = ask(line, 1)
        loop = asyncio.get_running_loop()
        busy_until = loop.time() + 0.2
        while loop.time() < busy_until:
            pass
        loop.call_soon(line.data_received, bulk("x"))  # it was there all the time
        assert await replies(*asked) == [b"x"]
        assert not line.closed

    asyncio.run(scenario())


def test_errors_and_pushes() -> None:
    """An error of the server says that nothing was carried out; what it pushes unasked is no reply."""

    async def scenario() -> None:
        line, _ = on_a_line()
        asked = ask(line, 1, 2)
        await asyncio.sleep(0)
        line.data_received(b">2\r\n$1\r\nx\r\n$1\r\ny\r\n-MOVED 1 host:1\r\n_\r\n")
        assert await replies(*asked) == [REFUSAL, None]

    asyncio.run(scenario())


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
        assert len(line._under_way) + len(line._outbox) == 200
        for each in crowd:
            each.close()
        async with asyncio.timeout(20):
            while line._under_way or line._outbox or await asyncio.to_thread(say, server, "DBSIZE") != 1:
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


def test_frozen_server_before_the_first(new_redis: NewRedis) -> None:
    """A server that takes no connection costs the first lookup one time-out for it, not one for each way to connect."""
    server = new_redis()
    backend = RedisBackend.from_url(server.url.replace(str(server.port), str(free_port())), timeout=0.3, clock=float)

    async def scenario() -> None:
        aio: Any = backend.aio
        opened: list[object] = []
        form: Any = aio._servers.get(OneServer.HERE) or aio._open(OneServer.HERE)
        connect, form.open_line = form.open_line, lambda pack: opened.append(pack) or connect(pack)
        with pytest.raises(CacheUnavailable):
            await aio.lookup("k", 60)
        assert len(opened) == 1
        assert form.breaker.open
        await aio.close()

    asyncio.run(scenario())


# --- where there is no short way ---


@pytest.mark.parametrize("lacking", ["hiredis", "what redis-py does not promise"])
def test_the_long_way(
    colour: Colour,
    make_cache: MakeCache,
    redis_server: RedisServer,
    namespace: str,
    monkeypatch: pytest.MonkeyPatch,
    lacking: str,
) -> None:
    """Without hiredis, or with a redis-py that keeps its socket elsewhere, all goes as redis-py would have it."""
    if lacking == "hiredis":
        monkeypatch.setattr("cacheside.backends.redis.server.HIREDIS_AVAILABLE", False)
        monkeypatch.setattr("cacheside.backends.redis.aserver.HIREDIS_AVAILABLE", False)
    else:
        monkeypatch.setattr("cacheside.backends.redis.server.hasattr", lambda *of: False, raising=False)

        async def opens_elsewhere(self: Line, connection: object) -> None:
            raise AttributeError("_writer")

        monkeypatch.setattr(Line, "open", opens_elsewhere)
    cache = make_cache(redis_server.url, namespace=namespace, timeout=20)
    loads: list[int] = []
    read = colour.decorate(cache.cached("row:{number}"), lambda number: loads.append(number) or len(loads))
    write = colour.decorate(cache.invalidates("row:{number}"), lambda number: None)
    assert [colour.run(read, 7) for _ in range(3)] == [1, 1, 1]
    colour.run(write, 7)
    assert [colour.run(read, 7) for _ in range(3)] == [2, 2, 2]
    assert cache.stats().totals.errors == 0
    if colour.name == "async":
        assert colour.run(a_line_of, cache) is None


async def a_line_of(cache: Cache) -> Line | None:
    """The line of a cache in the running loop."""
    backend: Any = cache._core.backend
    return a_line(backend)
