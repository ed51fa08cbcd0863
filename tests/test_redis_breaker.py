"""The breaker of a Redis server, where commands are sent: who opens it, who closes it, whom it spares what."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from adapter import COLOURS
from colours import Colour
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis_tools import MakeCache, Open, Proxy, Table, ask_again, opener, say
from servers import HOST, RedisServer

from cacheside import CacheUnavailable
from cacheside.backends.base import Hit, Leased
from cacheside.backends.redis import RedisBackend
from cacheside.backends.redis.routes import OneServer
from cacheside.breaker import Breaker

NewRedis = Callable[..., RedisServer]


@pytest.fixture(params=COLOURS)
def open_backend(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Make an adapter of either colour: `open_backend(server)`."""
    with opener(request.param) as make:
        yield make


def breaker_of(backend: Any) -> Breaker:
    """That of its one server."""
    breaker: Breaker = backend._route.breaker(OneServer.HERE)
    return breaker


def test_opens_and_closes(open_backend: Open, redis_server: RedisServer, namespace: str) -> None:
    """One command without an answer opens it; then nothing is sent until its probe, whose answer closes it."""
    with Proxy(redis_server) as proxy:
        cache = open_backend(proxy)
        cache.store(namespace, b"value")
        proxy.down = True
        with pytest.raises(CacheUnavailable) as raised:
            cache.lookup(namespace, 10)
        assert raised.value.sent is True
        assert breaker_of(cache.backend).open
        proxy.down = False
        before = len(proxy.commands)
        breaker_of(cache.backend)._next_probe = float("inf")
        with pytest.raises(CacheUnavailable, match="not asked") as raised:
            cache.lookup(namespace, 10)
        assert raised.value.sent is False
        assert len(proxy.commands) == before
        ask_again(cache.backend)
        assert type(cache.lookup(namespace, 10)) is Hit
        assert not breaker_of(cache.backend).open


def test_an_error_is_an_answer(open_backend: Open, new_redis: NewRedis) -> None:
    """A server that refuses a command is there: the breaker stays closed, or closes."""
    server = new_redis("--maxmemory-policy", "noeviction")
    cache = open_backend(server)
    say(server, "CONFIG", "SET", "maxmemory", 1)
    breaker_of(cache.backend).failed("a test")
    ask_again(cache.backend)
    for _ in range(2):
        with pytest.raises(CacheUnavailable, match="OutOfMemory"):
            cache.lookup("k", 10)
        assert not breaker_of(cache.backend).open


def test_closed_connection_does_not_open_it(open_backend: Open, redis_server: RedisServer, namespace: str) -> None:
    """A reply that is lost once is tried again, and that is all."""
    with Proxy(redis_server) as proxy:
        cache = open_backend(proxy)
        cache.store(namespace, b"value")
        proxy.lose = 1
        assert type(cache.lookup(namespace, 10)) is Hit
        assert not breaker_of(cache.backend).open


def test_both_colours_share_it(redis_server: RedisServer, namespace: str) -> None:
    """What plain code found out spares async code the time-out, and the other way round."""
    with Proxy(redis_server) as proxy:
        backend = RedisBackend.from_url(proxy.url, timeout=5, clock=lambda: 0.0)
        proxy.down = True
        with pytest.raises(CacheUnavailable):
            backend.lookup(namespace, 10)
        breaker_of(backend)._next_probe = float("inf")
        proxy.down = False

        async def scenario() -> None:
            with pytest.raises(CacheUnavailable, match="not asked"):
                await backend.aio.lookup(namespace, 10)
            assert proxy.commands == []
            ask_again(backend)
            assert type(await backend.aio.lookup(namespace, 10)) is Leased
            await backend.aio.close()

        asyncio.run(scenario())
        assert not breaker_of(backend).open
        backend.close()


def test_clients_of_the_user_have_one(redis_server: RedisServer, namespace: str) -> None:
    """Two clients of the application are one server, with one breaker."""
    once = Retry(NoBackoff(), 0)
    with Proxy(redis_server) as proxy, redis.Redis(host=HOST, port=proxy.port, retry=once) as client:
        backend = RedisBackend(client=client, aclient=redis.asyncio.Redis(host=HOST, port=proxy.port))
        proxy.down = True
        with pytest.raises(CacheUnavailable):
            backend.lookup(namespace, 10)
        breaker_of(backend)._next_probe = float("inf")
        with pytest.raises(CacheUnavailable, match="not asked"):
            asyncio.run(backend.aio.lookup(namespace, 10))


def test_cancelled_command_does_not_open_it(new_redis: NewRedis) -> None:
    """A caller that goes away says nothing about the server."""
    server = new_redis()
    backend = RedisBackend.from_url(server.url, timeout=20, clock=lambda: 0.0)

    async def scenario() -> None:
        assert type(await backend.aio.lookup("k", 10)) is Leased
        server.freeze()
        task = asyncio.create_task(backend.aio.lookup("other", 10))
        await asyncio.sleep(0.05)  # now it has sent, and waits
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        server.thaw()
        assert not breaker_of(backend).open
        await backend.aio.close()

    asyncio.run(scenario())


def test_queue_before_a_frozen_server(
    colour: Colour, make_cache: MakeCache, new_redis: NewRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many callers only those that had a connection, and probes, wait for a time-out; the queue is let go."""
    server = new_redis()
    table = Table(colour, make_cache(f"{server.url}?max_connections=2", timeout=0.3))
    table.read("row")
    failures: list[object] = []
    failed = Breaker.failed
    monkeypatch.setattr(Breaker, "failed", lambda self, why, **how: failures.append(why) or failed(self, why, **how))
    server.freeze()
    calls = [colour.call(table._read, str(number)) for number in range(60)]
    assert [call.result(20) for call in calls] == [0] * 60
    assert table.counts.errors == 60
    assert 1 <= len({id(each) for each in failures}) <= 10  # all that one connection carries fail together
    server.thaw()
    ask_again(table.cache._core.backend)
    table.read("row")


def test_crowded_pool_is_no_outage(
    colour: Colour, make_cache: MakeCache, new_redis: NewRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers that wait in vain for a connection are told so, and the breaker stays closed."""
    monkeypatch.setattr("cacheside.backends.redis.server.POOL_WAIT", 0.05)
    server = new_redis()
    cache = make_cache(f"{server.url}?max_connections=1", timeout=30)
    backend: Any = cache._core.backend if colour.name == "sync" else cache._core.aio
    assert type(colour.run(backend.lookup, "k", 10.0)) is Leased
    server.freeze()
    first = colour.call(backend.lookup, "k", 10.0)
    others = [colour.call(backend.lookup, "other", 10.0) for _ in range(3)]
    errors = [call.exception(20) for call in others]
    assert sum("max_connections" in str(error) for error in errors) >= 2  # one may have been the first
    server.thaw()
    assert isinstance(first.exception(20), (CacheUnavailable, type(None)))
    assert not breaker_of(cache._core.backend).open
