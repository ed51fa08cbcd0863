"""How a Redis cache is reached: URLs and their secrets, clients of the user's, pools, crowds, event loops, `clear`."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import traceback
from collections.abc import Callable
from typing import Any

import pytest
import redis
import redis.asyncio
from colours import Colour, until
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis_tools import LOOKUP, MakeCache, Proxy, named, say
from servers import HOST, RedisServer

from cacheside import Cache, CacheUnavailable, ConfigurationError
from cacheside.backends.base import AsyncBackend, Backend, Hit, Leased
from cacheside.backends.redis import RedisBackend
from cacheside.backends.redis.routes import OneServer

NewRedis = Callable[..., RedisServer]


def reader(colour: Colour, cache: Cache) -> Any:
    """A cached function that returns ten times its argument."""

    def times_ten(number: int) -> int:
        return number * 10

    return colour.decorate(cache.cached(key="number:{number}"), times_ten)


def works(colour: Colour, cache: Cache) -> bool:
    """Whether a value that was filled is a hit, with no error on the way."""
    read = reader(colour, cache)
    assert [colour.run(read, 1), colour.run(read, 1)] == [10, 10]
    info = cache.stats().totals
    return (info.hits, info.errors) == (1, 0)


# --- URLs ---


def test_addresses(colour: Colour, make_cache: MakeCache, new_redis: NewRedis) -> None:
    """TCP, TLS and a unix socket all lead to the same server."""
    server = new_redis(tls=True)
    for name in ("url", "tls_url", "unix_url"):
        assert works(colour, make_cache(getattr(server, name), namespace=name, timeout=5))
        assert say(server, "EXISTS", f"{name}:number:1") == 1


def test_tls_tickets(colour: Colour, make_cache: MakeCache, new_redis: NewRedis) -> None:
    """What TLS itself sends after its handshake does not make a new connection unusable."""
    cache = make_cache(new_redis(tls=True).tls_url, timeout=5)
    close = cache.close if colour.name == "sync" else cache.aclose
    read = reader(colour, cache)
    for number in range(100):
        assert colour.run(read, number) == number * 10
        colour.run(close)
    assert cache.stats().totals.errors == 0


def test_tls_is_verified(colour: Colour, make_cache: MakeCache, new_redis: NewRedis) -> None:
    """A server whose certificate nobody vouches for is not spoken to; the store answers."""
    server = new_redis(tls=True)
    cache = make_cache(server.tls_url.partition("?")[0], timeout=5)
    assert colour.run(reader(colour, cache), 1) == 10
    assert cache.stats().totals.errors == 1
    assert say(server, "DBSIZE") == 0


@pytest.mark.parametrize("url", ["redis://{host}:{port}/3", "redis://{host}:{port}?db=3", "unix://{path}?db=3"])
def test_database(colour: Colour, make_cache: MakeCache, redis_server: RedisServer, namespace: str, url: str) -> None:
    """The number in the URL is the database that is used."""
    url = url.format(host=HOST, port=redis_server.port, path=redis_server.socket_path)
    assert works(colour, make_cache(url, namespace=namespace, timeout=5))
    with redis.Redis(host=HOST, port=redis_server.port, db=3) as client:
        assert client.exists(f"{namespace}:number:1") == 1


@pytest.mark.parametrize(
    "where", ["redis://reader:{secret}@{host}:{port}/0", "unix://{path}?username=reader&password={secret}"]
)
@pytest.mark.parametrize("good", [True, False], ids=["good", "bad"])
def test_secrets_stay_secret(
    colour: Colour,
    make_cache: MakeCache,
    new_redis: NewRedis,
    caplog: pytest.LogCaptureFixture,
    where: str,
    good: bool,
) -> None:
    """A name and password log in; right or wrong they are shown nowhere: no repr, error, log line, nor figure."""
    caplog.set_level(logging.DEBUG)
    server = new_redis("--user", "reader", "on", ">s3cret", "~*", "&*", "+@all", "--requirepass", "for others")
    secret = "s3cret" if good else "wr0ng"
    url = where.format(secret=secret, host=HOST, port=server.port, path=server.socket_path)
    cache = make_cache(url, timeout=5)
    assert works(colour, cache) is good
    shown = [repr(cache), str(cache.stats()), caplog.text, repr(cache._core.backend)]
    if not good:
        with pytest.raises(CacheUnavailable, match="invalid username-password") as raised:
            colour.run(cache.clear if colour.name == "sync" else cache.aclear)
        shown += traceback.format_exception(raised.value)
        assert "fails" in caplog.text
    assert not any(text in "\n".join(shown) for text in ("s3cret", "wr0ng", "reader"))


@pytest.mark.parametrize(
    "url",
    [
        "redis://",
        "redis:///0",
        "redis://u:s3cret@/0",
        "redis://u:s3cret@host/zero",
        "redis://u:s3cret@host:port/0",
        "redis://u:s3cret@host:99999/0",
        "redis://u:s3cret@[::1/0",
        "redis://u:s3cret@host/0?nonsense=1",
        "redis://u:s3cret@host/0?max_connections=0",
        "redis://u:s3cret@host/0?max_connections=many",
        "redis://u:s3cret@host/0?max_connections=1&max_connections=2",
        "redis://u:s3cret@host/0?db=zero",
        "redis://u:s3cret@host/0?protocol=9",
        "redis://u:s3cret@host/0?socket_timeout=soon",
        "redis://u:s3cret@host/0?ssl_ca_certs=/no",
        "rediss://u:s3cret@host/0?ssl_cert_reqs=maybe",
        "rediss://u:s3cret@host/0?ssl_min_version=new",
        "rediss://host/0?ssl_validate_ocsp=true",
        "redis://host/0?password=s3cret&retry=3",
        "redis://host/0?decode_responses=true",
        "redis://host/0?connection_class=x",
        "unix://",
        "unix:///tmp/x.sock?ssl_ca_certs=/no&password=s3cret",
    ],
)
def test_bad_urls(url: str) -> None:
    """What cannot work is refused at once, without a connection and without the password."""
    with pytest.raises(ConfigurationError) as raised:
        Cache(url)
    assert "s3cret" not in "".join(traceback.format_exception(raised.value))


def test_unknown_option_lists_the_known() -> None:
    """An option that nobody knows is named, and those that exist are listed."""
    with pytest.raises(ConfigurationError, match=r"'max_conections'.*known are: .*max_connections"):
        Cache("redis://host/0?max_conections=3")


def test_options_of_the_connection(
    colour: Colour, make_cache: MakeCache, redis_server: RedisServer, namespace: str
) -> None:
    """Options of redis-py's connections in the URL reach them, RESP 3 among them."""
    options = f"client_name={namespace}&protocol=3&socket_keepalive=no&socket_timeout=7"
    cache = make_cache(f"{redis_server.url}?{options}", namespace=namespace, timeout=1)
    assert works(colour, cache)
    assert named(redis_server, namespace) == (1 if colour.name == "sync" else 2)  # lookups of a loop have their own


# --- clients of the user's ---


def clients(colour: Colour, **options: Any) -> tuple[Any, RedisBackend]:
    """A client of this colour, and the backend on it."""
    if colour.name == "sync":
        plain = redis.Redis(**options)
        return plain, RedisBackend(client=plain)
    aio = redis.asyncio.Redis(**options)
    return aio, RedisBackend(aclient=aio)


def close_client(colour: Colour, client: Any) -> None:
    """Close it as its user would."""
    colour.run(client.close if colour.name == "sync" else client.aclose)


@pytest.mark.parametrize("options", [{"decode_responses": True}, {"protocol": 2}, {"protocol": 3}], ids=str)
def test_users_client(
    colour: Colour, make_cache: MakeCache, redis_server: RedisServer, namespace: str, options: dict[str, Any]
) -> None:
    """Clients work whatever they are set to for their other uses, `decode_responses=True` above all."""
    client, backend = clients(colour, host=HOST, port=redis_server.port, **options)
    cache = make_cache(backend, namespace=namespace)
    assert works(colour, cache)
    colour.run(cache.clear if colour.name == "sync" else cache.aclear)
    assert say(redis_server, "EXISTS", f"{namespace}:number:1") == 0
    close_client(colour, client)


def test_users_client_stays_open(colour: Colour, redis_server: RedisServer) -> None:
    """Closing the cache closes no connection of the user's client."""
    client, backend = clients(colour, host=HOST, port=redis_server.port, single_connection_client=False)
    before = colour.run(client.client_id)
    cache = Cache(backend)
    colour.run(cache.close if colour.name == "sync" else cache.aclose)
    assert colour.run(client.client_id) == before
    close_client(colour, client)


def test_users_retries_are_not_used(colour: Colour, redis_server: RedisServer, namespace: str) -> None:
    """A client that would send again by itself does not: each attempt of a lookup has a token of its own."""
    retry = Retry if colour.name == "sync" else redis.asyncio.retry.Retry
    with Proxy(redis_server) as proxy:
        client, backend = clients(colour, host=HOST, port=proxy.port, retry=retry(NoBackoff(), 3), protocol=2)
        form: Any = backend if colour.name == "sync" else backend.aio
        assert colour.run(client.ping)
        proxy.lose = 4
        with pytest.raises(CacheUnavailable):
            colour.run(form.lookup, namespace, 10.0)
        sent = [command for command in proxy.commands if LOOKUP in command]
        assert len(sent) == len(set(sent)) == 2
        close_client(colour, client)


def test_missing_colour(colour: Colour, redis_server: RedisServer) -> None:
    """Without a client of its colour a call says which one to give; a write says so before it writes."""
    options = {"host": HOST, "port": redis_server.port}
    backend: RedisBackend
    if colour.name == "sync":
        backend, cure = RedisBackend(aclient=redis.asyncio.Redis(**options)), "plain functions need a plain one"
    else:
        backend, cure = RedisBackend(client=redis.Redis(**options)), "async functions need an async one"
    cache, written = Cache(backend), []
    with pytest.raises(ConfigurationError, match=cure):
        colour.run(reader(colour, cache), 1)

    def write(number: int) -> None:
        written.append(number)

    with pytest.raises(ConfigurationError, match=cure):
        colour.run(colour.decorate(cache.invalidates("number:{number}"), write), 1)
    assert written == []


def test_bad_clients() -> None:
    """No client at all, or one of the wrong kind, is refused, with what was expected."""
    with pytest.raises(ConfigurationError, match=r"needs client=.*aclient="):
        RedisBackend()
    with pytest.raises(ConfigurationError, match=r"client= must be a redis\.client\.Redis, not .*asyncio"):
        RedisBackend(client=redis.asyncio.Redis())  # type: ignore[arg-type]  # that is the test
    with pytest.raises(ConfigurationError, match=r"aclient= must be a redis\.asyncio\.client\.Redis"):
        RedisBackend(aclient=redis.Redis())  # type: ignore[arg-type]  # that is the test


def test_meets_the_protocol() -> None:
    """It is a `Backend`, its attribute `aio` an `AsyncBackend`."""
    backend = RedisBackend(client=redis.Redis(), aclient=redis.asyncio.Redis())
    assert isinstance(backend, Backend)
    assert isinstance(backend.aio, AsyncBackend)
    assert backend.capabilities == backend.aio.capabilities == {"batches", "claims", "clear", "gives_back", "stores"}


# --- crowds ---


@pytest.mark.parametrize("crowd", [200, 500])
def test_crowd_on_few_connections(
    colour: Colour, make_cache: MakeCache, redis_server: RedisServer, namespace: str, crowd: int
) -> None:
    """However many call at once, they share the connections there are, and none of them meets an error."""
    if colour.name == "sync" and crowd > 200:
        crowd = 250  # threads are dearer than tasks
    options = f"max_connections=4&client_name={namespace}"
    cache = make_cache(f"{redis_server.url}?{options}", namespace=namespace, timeout=20)
    read = reader(colour, cache)
    for _ in range(2):
        calls = [colour.call(read, number) for number in range(crowd)]
        assert [call.result(20) for call in calls] == [number * 10 for number in range(crowd)]
    info = cache.stats().totals
    assert (info.errors, info.bypassed, info.loads, info.hits) == (0, 0, crowd, crowd)
    assert 1 <= named(redis_server, namespace) <= 4


def test_close_under_traffic(colour: Colour, make_cache: MakeCache, redis_server: RedisServer, namespace: str) -> None:
    """Closing while others call costs them nothing but a new connection: every call has its answer."""
    cache = make_cache(f"{redis_server.url}?client_name={namespace}", namespace=namespace, timeout=5)
    read = reader(colour, cache)
    close = cache.close if colour.name == "sync" else cache.aclose
    for _ in range(5):
        calls = [colour.call(read, number) for number in range(60)]
        colour.run(close)
        assert [call.result(20) for call in calls] == [number * 10 for number in range(60)]
    colour.run(close)
    until(lambda: named(redis_server, namespace) == 0)


# --- event loops ---


@pytest.mark.parametrize("closing", [True, False], ids=["aclose", "no aclose"])
def test_loop_after_loop(redis_server: RedisServer, namespace: str, closing: bool) -> None:
    """Each event loop has connections of its own, in turn and at once; they go with it, closed or not, in silence."""
    cache = Cache(f"{redis_server.url}?client_name={namespace}", namespace=namespace, timeout=5)

    @cache.cached(key="number:{number}")
    async def times_ten(number: int) -> int:
        return number * 10

    async def scenario() -> None:
        assert await asyncio.gather(*map(times_ten, range(20))) == [number * 10 for number in range(20)]
        if closing:
            await cache.aclose()

    def loops() -> None:
        try:
            for _ in range(5):
                asyncio.run(scenario())
        except BaseException as error:
            failures.append(error)

    failures: list[BaseException] = []
    loops()
    threads = [threading.Thread(target=loops) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert cache.stats().totals.errors == 0
    until(lambda: named(redis_server, namespace) == 0)
    asyncio.run(scenario())
    assert len(cache._core.aio._servers[OneServer.HERE].places) == 1  # those of dead loops are not kept
    gc.collect()  # what was left open would warn now


def test_dropped_cache(redis_server: RedisServer, namespace: str) -> None:
    """A cache that is thrown away while the loop goes on leaves no connection behind."""

    async def scenario() -> None:
        backend = RedisBackend.from_url(f"{redis_server.url}?client_name={namespace}", timeout=5, clock=lambda: 0.0)
        assert isinstance(await backend.aio.lookup(namespace, 10), Leased)
        assert named(redis_server, namespace) == 1
        del backend
        gc.collect()
        async with asyncio.timeout(20):
            while named(redis_server, namespace):
                await asyncio.sleep(0.01)

    asyncio.run(scenario())


# --- clear ---


def test_clear_one_namespace(colour: Colour, make_cache: MakeCache, redis_server: RedisServer, namespace: str) -> None:
    """Only this namespace goes, thousands of keys of it, whatever patterns its name would make; leases die too."""
    names = [f"{namespace}{tail}" for tail in ("*", "", "x", "[x]", "?", "\\", "*:")]
    caches = [make_cache(redis_server.url, namespace=name, timeout=20) for name in names]
    for cache in caches:
        assert works(colour, cache)
    mine = caches[0]
    prefix = mine._core.prefix
    with redis.Redis(host=HOST, port=redis_server.port) as client:
        client.mset({f"{prefix}more:{number}": "x" for number in range(5000)})
    form: Any = mine._core.backend if colour.name == "sync" else mine._core.aio
    lease = colour.run(form.lookup, f"{prefix}leased", 60.0)
    colour.run(mine.clear if colour.name == "sync" else mine.aclear)
    with redis.Redis(host=HOST, port=redis_server.port) as client:
        assert [key for key in client.scan_iter(count=1000) if key.startswith(prefix.encode())] == []
    assert colour.run(form.fill, f"{prefix}leased", lease.token, b"old", 60.0) is False
    for cache in caches[1:]:
        colour.run(reader(colour, cache), 1)
        assert cache.stats().totals.hits == 2


@pytest.mark.parametrize("text", ["*", "?", "[a]", "\\", "a[^b-c]\\*"])
def test_clear_takes_patterns_literally(colour: Colour, redis_server: RedisServer, namespace: str, text: str) -> None:
    """A prefix is a text, not a pattern."""
    backend = RedisBackend.from_url(redis_server.url, timeout=5, clock=lambda: 0.0)
    form: Any = backend if colour.name == "sync" else backend.aio
    mine, other = f"{namespace}{text}:1", f"{namespace}a:1"
    for key in (mine, other):
        lease = colour.run(form.lookup, key, 10.0)
        colour.run(form.fill, key, lease.token, b"value", 60.0)
    colour.run(form.clear, f"{namespace}{text}")
    assert isinstance(colour.run(form.lookup, mine, 10.0), Leased)
    assert isinstance(colour.run(form.lookup, other, 10.0), Hit)
    colour.run(form.close)
