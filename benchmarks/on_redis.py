"""Part "redis": hits and misses on a Redis of our own, beside its plain client and beside the peers.

The value is a small dict. redis-py finds its key spelled out, where cacheside has to make it from the argument. Both of
redis-py's clients are as their documentation says, with hiredis. A miss of redis-py is `get`, `set` with an expiry, and
a pack; the key is new each time, the load returns what is there, and is not subtracted on either side.

Client and server share one CPU, see `one_cpu`; the rows without a limit show what the system makes of two.

Of 200 tasks at once each reads a key of its own. What 200 tasks take that do nothing is subtracted, as the empty loop
is elsewhere, on all sides.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it has no types
import redis
import redis.asyncio

from cacheside import Cache
from cacheside.progress import Progress

from . import peers
from .effort import Effort
from .measure import compare, times
from .peers import TTL, Decorator
from .servers import HOST, one_cpu, redis_server
from .sides import Loads, NotVerified, Side, all_hits, awaited, plain

TASKS = 200
POOL = 50
PATIENCE = 5.0  # seconds: cacheside's time-out, which a busy machine should not reach


def value_of(product_id: int) -> dict[str, Any]:
    """What the store has."""
    return {"id": product_id, "name": "a product", "price": 12.5}


@dataclass(frozen=True)
class Bench:
    """What all sides share."""

    runner: asyncio.Runner
    cache: Cache
    client: redis.Redis
    aclient: redis.asyncio.Redis
    pooled: redis.asyncio.Redis


def run(effort: Effort, progress: Progress) -> dict[str, Any]:
    """Measure all of it, on servers of its own."""
    rows = []
    with one_cpu(), redis_server() as server:
        url = f"redis://{HOST}:{server.port}/0"
        with _bench(url) as bench:
            for number, (name, ours, other, at_most) in enumerate(_pairs(bench)):
                rows.append(compare(name, ours, other, effort, at_most))
                progress(0.12 * (number + 1))
            alone = times(_peers(bench, url, server.port), effort)
            progress(0.7)
            together = times(_peers_together(bench, url, server.port), effort)
            progress(0.8)
            bench.runner.run(peers.close())
    with redis_server() as server, _bench(f"redis://{HOST}:{server.port}/0") as bench:
        for name, ours, other, _ in _pairs(bench)[:2]:
            rows.append(compare(f"{name}, on any CPU", ours, other, effort))
        progress(1.0)
        return {
            "servers": [server.version],
            "rows": [asdict(row) for row in rows],
            "peers": {
                "hit on Redis": [asdict(time) for time in alone],
                f"hit on Redis, {TASKS} tasks at once": [asdict(time) for time in together],
            },
        }


@contextmanager
def _bench(url: str) -> Iterator[Bench]:
    with (
        asyncio.Runner() as runner,
        redis.Redis.from_url(url) as client,
        Cache(url, namespace="bench", ttl=TTL, timeout=PATIENCE) as cache,
    ):
        pool = redis.asyncio.BlockingConnectionPool.from_url(url, max_connections=POOL, timeout=PATIENCE)
        bench = Bench(runner, cache, client, redis.asyncio.Redis.from_url(url), redis.asyncio.Redis.from_pool(pool))
        for number in range(TASKS):
            client.set(_raw(number), msgpack.packb(value_of(number)), ex=TTL)

        async def leave() -> None:
            await cache.aclose()
            await bench.aclient.aclose()
            await bench.pooled.aclose()

        try:
            yield bench
        finally:
            runner.run(leave())


def _pairs(bench: Bench) -> list[tuple[str, Side, Side, float]]:
    async_client = "redis.asyncio get + unpackb"
    return [
        ("Redis, sync", sync_hits("cacheside", bench.cache.cached("product:{product_id}")), _raw_sync(bench), 0.80),
        (
            "Redis, async, one at a time",
            async_hits(bench.runner, "cacheside", bench.cache.cached("product:{product_id}")),
            _raw_async(bench, async_client),
            0.80,
        ),
        (
            "Redis, async, 200 tasks at once",
            _crowd(bench, "cacheside", bench.cache.cached("product:{product_id}")),
            _raw_crowd(bench),
            0.12,
        ),
        (
            "miss on Redis, everything besides the load",
            _miss(bench),
            _raw_miss(bench, "redis-py get + set + packb"),
            1.50,
        ),
    ]


def _peers(bench: Bench, url: str, port: int) -> list[Side]:
    """All that have a decorator for Redis, and the plain clients."""
    cached = bench.cache.cached
    return [
        sync_hits("cacheside", cached("product:{product_id}")),
        _raw_sync(bench),
        sync_hits("dogpile.cache", peers.dogpile_redis(url)),
        async_hits(bench.runner, "cacheside, async", cached("product:{product_id}")),
        _raw_async(bench, "redis.asyncio get + unpackb"),
        async_hits(bench.runner, "cashews, async", peers.cashews_redis(url)),
        async_hits(bench.runner, "aiocache, async", peers.aiocache_redis(HOST, port)),
    ]


def _peers_together(bench: Bench, url: str, port: int) -> list[Side]:
    """The async ones again; cashews has a pool of 50 as well, and aiocache one of 256, for it does not wait."""
    return [
        _crowd(bench, "cacheside", bench.cache.cached("product:{product_id}")),
        _raw_crowd(bench),
        _crowd(bench, "cashews", peers.cashews_redis(url)),
        _crowd(bench, "aiocache", peers.aiocache_redis(HOST, port)),
    ]


def _raw(product_id: int) -> str:
    """As long as the key that cacheside uses."""
    return f"bench:product#{product_id}"


def sync_hits(name: str, decorate: Decorator) -> Side:
    """One key, one thread."""
    loads = Loads()

    def load(product_id: int) -> dict[str, Any]:
        loads.add()
        return value_of(product_id)

    f = decorate(load)
    return plain(name, "f(7)", all_hits(name, lambda: [f(7)], [value_of(7)], loads), f=f)


def _raw_sync(bench: Bench) -> Side:
    name, get, unpack = "redis-py get + unpackb", bench.client.get, msgpack.unpackb
    check = all_hits(name, lambda: [unpack(get(_raw(7)))], [value_of(7)], None)
    return plain(name, f"unpack(get({_raw(7)!r}))", check, get=get, unpack=unpack)


def async_hits(runner: asyncio.Runner, name: str, decorate: Decorator) -> Side:
    """One key, one task."""
    loads = Loads()

    async def load(product_id: int) -> dict[str, Any]:
        loads.add()
        return value_of(product_id)

    f = decorate(load)

    async def once() -> list[Any]:
        return [await f(7)]

    check = all_hits(name, lambda: runner.run(once()), [value_of(7)], loads)
    return awaited(runner, name, "await f(7)", check, f=f)


def _raw_async(bench: Bench, name: str) -> Side:
    get, unpack = bench.aclient.get, msgpack.unpackb

    async def once() -> list[Any]:
        return [unpack(await get(_raw(7)))]

    check = all_hits(name, lambda: bench.runner.run(once()), [value_of(7)], None)
    return awaited(bench.runner, name, f"unpack(await get({_raw(7)!r}))", check, get=get, unpack=unpack)


def _crowd(bench: Bench, name: str, decorate: Decorator) -> Side:
    loads = Loads()

    async def load(product_id: int) -> dict[str, Any]:
        loads.add()
        return value_of(product_id)

    return _together(bench, name, decorate(load), loads)


def _raw_crowd(bench: Bench) -> Side:
    get, unpack = bench.pooled.get, msgpack.unpackb

    async def f(product_id: int) -> Any:
        return unpack(await get(_raw(product_id)))

    return _together(bench, f"redis.asyncio get + unpackb, pool of {POOL}", f, None)


def _together(bench: Bench, name: str, f: Any, loads: Loads | None) -> Side:
    """All tasks at once, each with a key of its own."""
    ids = range(TASKS)

    async def once() -> list[Any]:
        return await asyncio.gather(*[f(number) for number in ids])

    check = all_hits(name, lambda: bench.runner.run(once()), [value_of(number) for number in ids], loads)
    statement = "await gather(*[f(number) for number in ids])"
    return awaited(
        bench.runner, name, statement, check, TASKS, "await gather(*[nothing(number) for number in ids])",
        gather=asyncio.gather, f=f, ids=ids, nothing=_nothing,
    )  # fmt: skip


async def _nothing(product_id: int) -> None:
    """A task without work."""


def _miss(bench: Bench) -> Side:
    loads, fresh = Loads(), itertools.count()

    def load(product_id: int) -> dict[str, Any]:
        loads.add()
        return value_of(product_id)

    f = bench.cache.cached("fresh:{product_id}")(load)
    return plain("cacheside", "f(next(fresh))", _all_misses("cacheside", f, fresh, loads), f=f, fresh=fresh)


def _raw_miss(bench: Bench, name: str) -> Side:
    loads, fresh = Loads(), itertools.count()
    get, put, pack, unpack = bench.client.get, bench.client.set, msgpack.packb, msgpack.unpackb

    def f(product_id: int) -> Any:
        key = f"bench:fresh#{product_id}"
        found = get(key)
        if found is not None:
            return unpack(found)
        loads.add()
        value = value_of(product_id)
        put(key, pack(value), ex=TTL)
        return value

    return plain(name, "f(next(fresh))", _all_misses(name, f, fresh, loads), f=f, fresh=fresh)


def _all_misses(name: str, f: Any, fresh: itertools.count[int], loads: Loads) -> Callable[[], None]:
    """A check that each call with a new key, counted from 0, has loaded once, and that its value is stored."""

    def check() -> None:
        number = next(fresh)
        for _ in range(2):
            if f(number) != value_of(number):
                raise NotVerified(f"{name} gave another value than it loaded")
            if loads.count != number + 1:
                raise NotVerified(f"{name} loaded {loads.count} times for {number + 1} keys")

    return check
