"""Every call form, as a user writes it: mypy --strict and pyright must accept all of it, with these very types."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import Any, Literal, assert_type

import cacheside
from cacheside import (
    MISSING,
    AsyncCached,
    AsyncCachedMany,
    Cache,
    Cached,
    CachedMany,
    CacheUnavailable,
    cached,
    cached_many,
    configure,
    invalidates,
    updates,
)
from cacheside.envelope import Missing
from cacheside.warming import Warmed

cache: Cache = configure("memory://", ttl=60, namespace="shop")


@cached
def bare(user_id: int) -> str:
    return str(user_id)


@cached()
def called(user_id: int, *, flag: bool = False) -> str:
    return str(user_id)


@cached(ttl=60, jitter=0.1, cache_if=lambda value: value is not None)
def with_options(user_id: int) -> str | None:
    return None


@cached("user:{user_id}", 60)
def positional(user_id: int) -> dict[str, int]:
    return {}


@cached(key=lambda user_id: f"user:{user_id}", ttl=timedelta(minutes=1), version=2)
def by_callable(user_id: int) -> str:
    return ""


@cached(ttl=lambda value: 5.0, cache_exceptions=(KeyError,), negative_ttl=5, ignore=("session",), serializer="json")
def by_result(user_id: int, session: object) -> str:
    return ""


@cache.cached(key="user:{user_id}", ttl=None)
async def fetch(user_id: int, name: str = "") -> bytes:
    return b""


@cached
async def fetch_bare(user_id: int) -> bytes:
    return b""


class Repository:
    @cached(key="user:{user_id}")
    def get(self, user_id: int, deep: bool = False) -> str:
        return ""

    @cache.cached(key="user:{user_id}")
    async def aget(self, user_id: int) -> str:
        return ""

    @cached
    @classmethod
    def count(cls, where: str) -> int:
        return 0

    @cached(ttl=5)
    @classmethod
    async def acount(cls, where: str) -> int:
        return 0

    @cached
    @staticmethod
    def version(name: str) -> float:
        return 0.0

    @cached(ttl=5)
    @staticmethod
    async def aversion(name: str) -> float:
        return 0.0

    @invalidates(get, "users:all")
    @cache.invalidates("user:{user_id}")
    def rename(self, user_id: int, name: str) -> bool:
        return True

    @invalidates(lambda self, user_id: [f"user:{user_id}"])
    async def arename(self, user_id: int) -> bool:
        return True

    @invalidates(get, "users:all", strict=True, hold=5)
    def strict(self, user_id: int, name: str = "") -> bool:
        return True

    @cache.updates(get, "users:all", strict=False, hold=timedelta(seconds=5), ttl=None)
    def replace(self, user_id: int, name: str = "") -> str:
        return name

    @updates(aget)
    async def areplace(self, user_id: int, name: str = "") -> str:
        return name

    @updates("count:{where}", ttl=lambda value: 5.0)
    @classmethod
    def recount(cls, where: str) -> int:
        return 0

    @cache.invalidates(lambda user_id: f"user:{user_id}", strict=True)
    @staticmethod
    async def adrop(user_id: int) -> None: ...


assert_type(bare(1), str)
assert_type(bare.__wrapped__(1), str)
assert_type(called(1, flag=True), str)
assert_type(with_options(1), str | None)
assert_type(positional(user_id=1), dict[str, int])
assert_type(by_callable(1), str)
assert_type(by_result(1, session=None), str)
assert_type(bare.refresh(1), str)
assert_type(bare.key(1), str)
assert_type(bare.cache_info().hits, int)
assert_type(bare.cache_info().hit_rate, float)
bare.invalidate(1)

repository = Repository()
assert_type(repository.get(1, deep=True), str)
assert_type(repository.get.refresh(1), str)
assert_type(repository.get.key(1, deep=True), str)
repository.get.invalidate(42)
assert_type(Repository.get(repository, 1), str)
assert_type(Repository.count("x"), int)
assert_type(repository.count("x"), int)
Repository.count.invalidate("x")
assert_type(Repository.version("x"), float)
assert_type(repository.rename(1, name="x"), bool)
assert_type(repository.strict(1, name="x"), bool)
assert_type(repository.replace(1, name="x"), str)
assert_type(repository.recount("x"), int)
assert_type(Repository.recount("x"), int)


async def main() -> None:
    assert_type(await fetch(1, name="x"), bytes)
    assert_type(await fetch.refresh(1), bytes)
    await fetch.invalidate(1, name="x")
    assert_type(await repository.aget(1), str)
    await repository.aget.invalidate(1)
    assert_type(await Repository.acount("x"), int)
    assert_type(await repository.aversion("x"), float)
    await repository.aversion.invalidate("x")
    assert_type(await repository.arename(1), bool)
    assert_type(await repository.areplace(1, name="x"), str)
    assert_type(await Repository.adrop(1), None)
    task: asyncio.Task[bytes] = asyncio.create_task(fetch(1))
    assert_type(await task, bytes)
    async with cache.invalidating("user:7", strict=True, hold=timedelta(minutes=1)):
        pass
    await cache.ainvalidate("user:7", "user:8")
    await cache.aclear()
    async with cache as again:
        assert_type(again, Cache)


plain: Callable[[int], str] = bare
held: Cached[[int], str] = bare
aheld: AsyncCached[[int], bytes] = fetch_bare
awaitable: Callable[[int], Coroutine[Any, Any, bytes]] = fetch_bare
with cache.invalidating("user:7", "user:8", strict=True, hold=5.0):
    cache.invalidate("user:7")
with cache as same:
    assert_type(same, Cache)
assert_type(cache.stats().functions["x"].coalesced, int)
assert_type(cacheside.default_cache(), Cache)
assert_type(cache.stats().updates, int)
assert_type(cache.stats().guards_lost, int)
assert_type(bare.cache_info().guarded, int)
try:
    repository.strict(1)
except CacheUnavailable as error:
    assert_type(error.keys, frozenset[str] | None)
    assert_type(error.sent, bool)


# Batches.


@cached_many(key="user:{user_id}", ttl=60)
def get_users(user_ids: Sequence[int]) -> Mapping[int, str]:
    return {}


@cached_many("user:{org}:{user_id}", 60, tags=("org:{org}", "user:{user_id}"), stale_while_revalidate=60)
def get_users_of(org: int, user_ids: Sequence[int], *, session: object = None) -> dict[int, str | None]:
    return {}


@cache.cached_many(
    key="user:{user_id}",
    ttl=lambda value: 5.0,
    jitter=0.1,
    cache_if=lambda value: value is not None,
    negative_ttl=timedelta(minutes=1),
    ignore=("session",),
    version=2,
    serializer="json",
    compress=None,
    stale_if_error=timedelta(hours=1),
    early_refresh=1.0,
    load_timeout=5,
)
async def fetch_users(user_ids: Sequence[int], session: object = None) -> dict[int, bytes]:
    return {}


class Users:
    @cached_many(key="user:{user_id}")
    def get(self, user_ids: Sequence[int]) -> dict[int, str]:
        return {}

    @cache.cached_many("user:{user_id}")
    async def aget(self, user_ids: Sequence[int]) -> dict[int, str]:
        return {}

    @cached_many("counts:{where}")
    @classmethod
    def counts(cls, places: Sequence[str]) -> dict[str, int]:
        return {}

    @cached_many("sizes:{where}")
    @staticmethod
    async def asizes(places: Sequence[str]) -> dict[str, int]:
        return {}

    @cached(key="one:{user_id}")
    def one(self, user_id: int) -> str | None:
        return None

    @cached(key="one:{user_id}")
    async def aone(self, user_id: int) -> bytes:
        return b""


users = Users()
assert_type(get_users([1, 2]), Mapping[int, str])
assert_type(get_users.__wrapped__([1]), Mapping[int, str])
assert_type(get_users.keys((1, 2)), list[str])
assert_type(get_users.key([1]), str)
assert_type(get_users.refresh([1]), Mapping[int, str])
assert_type(get_users.cache_info().hits, int)
get_users.invalidate([1, 2])
assert_type(get_users_of(7, range(5), session=None), dict[int, str | None])
assert_type(get_users_of.keys(7, user_ids=[1]), list[str])
assert_type(users.get([1]), dict[int, str])
assert_type(users.get.keys([1]), list[str])
users.get.invalidate([1])
assert_type(Users.get(users, [1]), dict[int, str])
assert_type(Users.counts(["x"]), dict[str, int])
assert_type(users.counts.refresh(["x"]), dict[str, int])
assert_type(Users.counts.keys(["x"]), list[str])
many: CachedMany[[Sequence[int]], Mapping[int, str]] = get_users
amany: AsyncCachedMany[[Sequence[int], object], dict[int, bytes]]
rows: Callable[[Sequence[int]], Mapping[int, str]] = get_users


async def batches() -> None:
    assert_type(await fetch_users([1], session=None), dict[int, bytes])
    assert_type(fetch_users.keys([1]), list[str])
    assert_type(await fetch_users.refresh([1]), dict[int, bytes])
    await fetch_users.invalidate([1])
    assert_type(await users.aget([1]), dict[int, str])
    assert_type(users.aget.keys([1]), list[str])
    await users.aget.invalidate([1])
    assert_type(await Users.asizes(["x"]), dict[str, int])
    await Users.asizes.invalidate(["x"])


# Other verbs, and options.

seen = bare.peek(1)
assert_type(seen, str | Literal[Missing.MISSING])
if seen is not MISSING:
    assert_type(seen, str)
else:
    assert_type(seen, Literal[Missing.MISSING])
maybe = users.one.peek(1)
assert_type(maybe, str | None | Literal[Missing.MISSING])
if maybe is not MISSING:
    assert_type(maybe, str | None)
assert_type(bare.set("known", 1), bool)
assert_type(called.set("known", 1, flag=True), bool)
assert_type(users.one.set(None, user_id=1), bool)
assert_type(bare.warm([1, (2,), {"user_id": 3}]), Warmed)
assert_type(bare.warm(range(5), concurrency=2, progress=True).error, Exception | None)
assert_type(users.one.warm([1], progress=print).failed, int)


@cached(
    key="user:{user_id}",
    tags=("user:{user_id}",),
    stale_while_revalidate=timedelta(minutes=5),
    stale_if_error=3600,
    early_refresh=1.0,
    load_timeout=2.5,
    max_loads=4,
    max_loads_wait=timedelta(seconds=1),
)
def with_windows(user_id: int) -> str:
    return ""


@cached("user:{user_id}", 60, tags=["user:{user_id}"], max_loads=1)
async def fetch_with_tags(user_id: int) -> str:
    return ""


@invalidates("user:{user_id}", tags=("org:{org}",))
def write_with_tags(user_id: int, org: int) -> None: ...


@invalidates("user:{user_id}", stale=timedelta(minutes=1))
def write_and_mark(user_id: int) -> None: ...


async def verbs(numbers: AsyncIterator[int]) -> None:
    found = await fetch_bare.peek(1)
    assert_type(found, bytes | Literal[Missing.MISSING])
    if found is not MISSING:
        assert_type(found, bytes)
    assert_type(await fetch_bare.set(b"", 1), bool)
    assert_type(await users.aone.set(b"", 1), bool)
    assert_type(await fetch_bare.warm([1, 2], concurrency=2), Warmed)
    assert_type(await fetch_bare.warm(numbers, progress=lambda warmed: print(warmed.calls)), Warmed)
    assert_type(await fetch_with_tags(1), str)
    await cache.ainvalidate(tags=["org:7"])


cache.invalidate(tags=("org:7",))
assert_type(with_windows(1), str)
assert_type(with_windows.cache_info().rescued, int)
