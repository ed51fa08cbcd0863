"""What a call costs on the wire, as the servers themselves count it: a hit one round trip, a miss two.

Redis counts the calls of each command, and includes those that a script makes inside the server; so a fill shows as one
`evalsha` and the two commands in it. It also counts how often it has read from a client: as every command waits for its
reply here, that is the number of round trips, and scripts do not blur it.

memcached counts gets, sets, touches and deletes, in the meta commands too. It has no count of round trips, so there it
is commands; several deletes for one server go in one packet.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import pymemcache
import pytest
import redis
from servers import MemcachedServer, RedisServer

from cacheside import Cache


class Count(NamedTuple):
    """What a server has been asked since `reset`."""

    round_trips: int
    commands: Counter[str]


class RedisMeter:
    """The statistics of a Redis."""

    def __init__(self, server: RedisServer) -> None:
        self._client = redis.Redis.from_url(server.url)
        self._reads = 0

    def reset(self) -> None:
        """Begin to count."""
        self._client.config_resetstat()
        self._reads = self._client.info("stats")["total_reads_processed"]

    def count(self) -> Count:
        """The count, without what this meter sends itself."""
        found = self._client.info("all")
        calls = {name[8:]: seen["calls"] for name, seen in found.items() if name.startswith("cmdstat_")}
        del calls["info"], calls["config|resetstat"]
        return Count(found["total_reads_processed"] - self._reads - 1, Counter(calls))

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


class MemcachedMeter:
    """The statistics of a memcached."""

    COUNTS = (
        "cmd_get", "cmd_set", "cmd_touch", "cmd_flush", "delete_hits", "delete_misses", "incr_hits", "incr_misses",
        "decr_hits", "decr_misses",
    )  # fmt: skip

    def __init__(self, server: MemcachedServer) -> None:
        self._client = pymemcache.Client(server.address)
        self._before: Counter[str] = Counter()

    def _now(self) -> Counter[str]:
        found = self._client.stats()
        return Counter({name: found[name.encode()] for name in self.COUNTS})

    def reset(self) -> None:
        """Begin to count."""
        self._before = self._now()

    def count(self) -> Count:
        """The count; asking for it is not counted by the server."""
        commands = self._now() - self._before
        return Count(commands.total(), commands)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


Meter: TypeAlias = RedisMeter | MemcachedMeter


@pytest.fixture(
    params=[pytest.param("redis", marks=pytest.mark.server), pytest.param("memcached", marks=pytest.mark.server)]
)
def served(request: pytest.FixtureRequest) -> Iterator[tuple[Cache, Meter]]:
    """A cache on a server that nobody else talks to, and its meter."""
    server = request.getfixturevalue(f"new_{request.param}")()
    meter = RedisMeter(server) if request.param == "redis" else MemcachedMeter(server)
    with contextlib.closing(meter), Cache(server.url, timeout=5) as cache:
        yield cache, meter


Run: TypeAlias = Callable[..., Any]


class Sync:
    """Plain functions."""

    def __init__(self, cache: Cache) -> None:
        @cache.cached(key="k:{number}")
        def read(number: int) -> int:
            if number < 0:
                raise LookupError(number)
            return number

        @cache.invalidates("k:{first}", "k:{second}", "k:{third}")
        def write(first: int, second: int, third: int) -> None:
            """Three entries are stale after it."""

        @cache.invalidates(read, strict=True)
        def strict(number: int) -> None:
            """Guarded."""

        @cache.updates(read)
        def update(number: int) -> int:
            return number

        self.read: Run = read
        self.write: Run = write
        self.strict: Run = strict
        self.update: Run = update
        self.invalidate: Run = read.invalidate
        self.invalidate_keys: Run = cache.invalidate

    def close(self) -> None:
        """Nothing runs in the background."""


class Async:
    """Async functions, in one event loop."""

    def __init__(self, cache: Cache) -> None:
        runner = self._runner = asyncio.Runner()
        self._cache = cache

        @cache.cached(key="k:{number}")
        async def read(number: int) -> int:
            if number < 0:
                raise LookupError(number)
            return number

        @cache.invalidates("k:{first}", "k:{second}", "k:{third}")
        async def write(first: int, second: int, third: int) -> None:
            """Three entries are stale after it."""

        @cache.invalidates(read, strict=True)
        async def strict(number: int) -> None:
            """Guarded."""

        @cache.updates(read)
        async def update(number: int) -> int:
            return number

        self.strict: Run = lambda *args: runner.run(strict(*args))
        self.update: Run = lambda *args: runner.run(update(*args))
        self.read: Run = lambda *args: runner.run(read(*args))
        self.write: Run = lambda *args: runner.run(write(*args))
        self.invalidate: Run = lambda *args: runner.run(read.invalidate(*args))
        self.invalidate_keys: Run = lambda *keys: runner.run(cache.ainvalidate(*keys))

    def close(self) -> None:
        """End the loop."""
        self._runner.run(self._cache.aclose())
        self._runner.close()


@pytest.fixture(params=[Sync, Async], ids=["sync", "async"])
def calls(request: pytest.FixtureRequest, served: tuple[Cache, Meter]) -> Iterator[Any]:
    """The decorated functions of one colour; connected, and with their scripts known to the server."""
    cache, _ = served
    with contextlib.closing(request.param(cache)) as made:
        made.read(0)
        with pytest.raises(LookupError):
            made.read(-1)
        made.invalidate(-2)
        made.update(-2)
        made.strict(-2)
        yield made


@pytest.fixture
def meter(served: tuple[Cache, Meter], calls: Any) -> Meter:
    """The meter, after the functions have warmed up."""
    served[1].reset()
    return served[1]


def expect(meter: Meter, round_trips: int, on_redis: dict[str, int], on_memcached: dict[str, int]) -> None:
    """That the server counted this, and nothing else."""
    assert meter.count() == (round_trips, on_redis if isinstance(meter, RedisMeter) else on_memcached)


def script(keys: int) -> dict[str, int]:
    """What the invalidation of so many keys is on Redis."""
    return {"evalsha": 1, "time": 1, "getrange": keys, "unlink": keys}


def test_hit(calls: Any, meter: Meter) -> None:
    """100 hits are 100 round trips, of one command each."""
    assert [calls.read(0) for _ in range(100)] == [0] * 100
    expect(meter, 100, {"set": 100}, {"cmd_get": 100})


def test_miss(calls: Any, meter: Meter) -> None:
    """A miss is two: one looks up and takes the lease, one fills."""
    assert calls.read(1) == 1
    expect(meter, 2, {"set": 2, "evalsha": 1, "getrange": 1}, {"cmd_get": 1, "cmd_set": 1})


def test_failed_load(calls: Any, meter: Meter) -> None:
    """A load that raises is two as well: one takes the lease, one gives it back."""
    with pytest.raises(LookupError):
        calls.read(-1)
    expect(meter, 2, {"set": 1, "evalsha": 1, "getrange": 1, "del": 1}, {"cmd_get": 1, "delete_hits": 1})


def test_invalidate(calls: Any, meter: Meter) -> None:
    """The invalidation of a call is one on Redis; on memcached one looks what is there, and one deletes just that."""
    calls.invalidate(0)
    expect(meter, 1 if isinstance(meter, RedisMeter) else 2, script(1), {"cmd_get": 1, "delete_hits": 1})


def test_write_with_three_targets(calls: Any, meter: Meter) -> None:
    """All targets of one write go together: one command on Redis; on memcached one each, and one for what is there."""
    calls.write(0, 1, 2)
    four = 1 if isinstance(meter, RedisMeter) else 4
    expect(meter, four, script(3), {"cmd_get": 3, "delete_hits": 1})


def test_invalidation_of_many_keys(calls: Any, meter: Meter) -> None:
    """So do the keys of one `cache.invalidate`."""
    calls.invalidate_keys("k:0", "k:1")
    three = 1 if isinstance(meter, RedisMeter) else 3
    expect(meter, three, script(2), {"cmd_get": 2, "delete_hits": 1})


def test_strict_write(calls: Any, meter: Meter) -> None:
    """A strict write is two on Redis: the guard and its release. On memcached each looks first, which makes four."""
    calls.strict(0)
    on_redis = {"evalsha": 2, "time": 2, "getrange": 2, "get": 1, "set": 1, "unlink": 1}
    two = 2 if isinstance(meter, RedisMeter) else 4
    expect(meter, two, on_redis, {"cmd_get": 2, "cmd_set": 1, "delete_hits": 1})


def test_update(calls: Any, meter: Meter) -> None:
    """So is an update: the guard, and the value in its place. On memcached it is three: the guard looks first."""
    calls.update(0)
    on_redis = {"evalsha": 2, "time": 2, "getrange": 2, "get": 1, "set": 2}
    two = 2 if isinstance(meter, RedisMeter) else 3
    expect(meter, two, on_redis, {"cmd_get": 1, "cmd_set": 2})
