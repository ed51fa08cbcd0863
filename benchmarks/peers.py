"""Each library as its documentation says, with its fastest honest setting: a decorator by name.

Honest: bounded, expiring, and safe among threads where threads may come. Nothing is imported before it is asked for:
what a library takes in memory is measured in a process that has no other.

- cachebox hands out the object that it holds (``postprocess=None``), as cacheside does; by default it copies lists,
  dicts and sets.
- theine goes without its locks (``nolock=True``) in an event loop, where there is one thread.
- functools has no expiry and no single flight: it is there to show how fast C can be.
- aiocache and cashews have no sync decorator; async-lru is for async functions only.
- cashews is given a key template, which is its fast form; without one it makes the key by the function's signature.
"""

from __future__ import annotations

import functools
import inspect
import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeAlias

Decorator: TypeAlias = Callable[[Callable[..., Any]], Any]
Make: TypeAlias = Callable[[int], Decorator]
"""Makes a decorator with a cache of its own for so many entries."""

TTL = 3600  # seconds: nothing expires while it is timed
ENTRIES = 10_000  # cacheside's default


def cacheside(entries: int) -> Decorator:
    """The default key."""
    from cacheside import Cache

    return Cache(f"memory://?max_entries={entries}", ttl=TTL).cached()


def cacheside_template(entries: int) -> Decorator:
    """A template of the parameters a and b."""
    from cacheside import Cache

    return Cache(f"memory://?max_entries={entries}", ttl=TTL).cached("item:{a}:{b}")


def lru_cache(entries: int) -> Decorator:
    """No expiry."""
    return functools.lru_cache(entries)


def cachetools(entries: int) -> Decorator:
    """Not safe among threads without the lock."""
    import cachetools

    return cachetools.cached(cachetools.TTLCache(entries, TTL), lock=threading.Lock())


def cachetools_condition(entries: int) -> Decorator:
    """With the condition, others wait for the thread that loads."""
    import cachetools

    return cachetools.cached(cachetools.TTLCache(entries, TTL), condition=threading.Condition())


def cachebox(entries: int) -> Decorator:
    """For both colours."""
    import cachebox

    return cachebox.cached(cachebox.TTLCache(entries, TTL), postprocess=None)


def theine(entries: int) -> Decorator:
    """For threads."""
    import theine

    return theine.Memoize(entries, timedelta(seconds=TTL))


def theine_async(entries: int) -> Decorator:
    """For one thread."""
    import theine

    return theine.Memoize(entries, timedelta(seconds=TTL), nolock=True)


def dogpile(entries: int) -> Decorator:
    """Its memory backend has no bound."""
    from dogpile.cache import make_region

    region = make_region().configure("dogpile.cache.memory", expiration_time=TTL)
    decorator: Decorator = region.cache_on_arguments()
    return decorator


def async_lru(entries: int) -> Decorator:
    """For tasks."""
    from async_lru import alru_cache

    return alru_cache(maxsize=entries, ttl=TTL)


def aiocache(entries: int) -> Decorator:
    """Its memory backend has no bound."""
    from aiocache import cached  # type: ignore[import-untyped]  # it has no types

    decorator: Decorator = cached(ttl=TTL)
    return decorator


def aiocache_stampede(entries: int) -> Decorator:
    """Others wait for the task that loads, for `lease` seconds."""
    from aiocache import cached_stampede

    decorator: Decorator = cached_stampede(lease=10, ttl=TTL)
    return decorator


def cashews(entries: int) -> Decorator:
    """A template of the parameters a and b. Others wait for the task that loads: `protected` is the default."""
    from cashews import Cache

    cache = Cache()
    cache.setup("mem://", size=entries)
    return cache(ttl=TTL, key="item:{a}:{b}")


SYNC: dict[str, Make] = {
    "functools.lru_cache": lru_cache,
    "cacheside": cacheside,
    "cachebox": cachebox,
    "cachetools": cachetools,
    "theine": theine,
    "dogpile.cache": dogpile,
}
ASYNC: dict[str, Make] = {
    "cacheside": cacheside,
    "cachebox": cachebox,
    "async-lru": async_lru,
    "theine": theine_async,
    "aiocache": aiocache,
    "cashews": cashews,
}
THREADS: dict[str, Make] = {
    "cacheside": cacheside,
    "cachebox": cachebox,
    "cachetools": cachetools_condition,
    "theine": theine,
    "dogpile.cache": dogpile,
}
"""In all of these threads wait for the one that loads."""
TASKS: dict[str, Make] = ASYNC | {"aiocache": aiocache_stampede}
"""In all of these tasks wait for the one that loads."""


def dogpile_redis(url: str, distributed: bool = False) -> Decorator:
    """Pickles. With `distributed` its lock is one on the server, at which it looks every hundredth of a second."""
    from dogpile.cache import make_region

    options: dict[str, Any] = {"url": url, "redis_expiration_time": 2 * TTL}
    if distributed:
        options |= {"distributed_lock": True, "thread_local_lock": False, "lock_timeout": 30, "lock_sleep": 0.01}
    region = make_region().configure("dogpile.cache.redis", expiration_time=TTL, arguments=options)
    decorator: Decorator = region.cache_on_arguments()
    at_end(region.backend.reader_client.close)
    return decorator


def cashews_redis(url: str, lock: bool = False) -> Decorator:
    """Pickles. A template of the parameter product_id; with `lock` one process loads. Waits for a connection."""
    from cashews import Cache

    cache = Cache()
    cache.setup(url, client_side=False, max_connections=50, socket_timeout=5)
    at_end(cache.close)
    return cache(ttl=TTL, key="product:{product_id}", lock=lock)


def aiocache_redis(host: str, port: int) -> Decorator:
    """In JSON. Where there are no connections left it fails: it may have as many as there are tasks."""
    from aiocache import Cache, cached

    decorator = cached(ttl=TTL, cache=Cache.REDIS, endpoint=host, port=port, pool_max_size=256)
    return _closed_by_us(decorator)


def aiocache_memcached(host: str, port: int) -> Decorator:
    """In JSON."""
    from aiocache import Cache, cached

    decorator = cached(ttl=TTL, cache=Cache.MEMCACHED, endpoint=host, port=port)
    return _closed_by_us(decorator)


def _closed_by_us(decorator: Any) -> Decorator:
    def decorate(fn: Callable[..., Any]) -> Any:
        decorated = decorator(fn)
        at_end(decorated.cache.close)
        return decorated

    return decorate


_closing: list[Callable[[], Any]] = []


def at_end(close: Callable[[], Any]) -> None:
    """Have `close` called by `close`, and awaited if need be."""
    _closing.append(close)


async def close() -> None:
    """Give back the connections of all peers that were made, in the event loop that has used them."""
    while _closing:
        closed = _closing.pop()()
        if inspect.isawaitable(closed):
            await closed
