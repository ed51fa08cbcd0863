"""Strict writes: the guard comes before the write and goes after it; if it cannot be placed, nothing is written."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from redis_tools import MakeCache
from wire import Fault, Wire, late, lost, unsent
from write_shop import Shop

from cacheside import Cache, CacheUnavailable, InvalidKeyError

# --- what is sent ---


def test_guard_write_release(shop: Shop) -> None:
    """One command guards all keys before the write, one frees them after it; each write has a token of its own."""
    targets = ("row:{row}", shop.read, lambda row, value: [f"a:{row}", "b"], lambda row, value: "c")
    seen: list[list[str]] = []
    write = shop.writer(shop.cache.invalidates(*targets, strict=True), lambda: seen.append(shop.wire.guarded))
    assert shop.run(write, 1, "new") == "new"
    assert shop.asked() == ["guard", "write", "unguard"]
    prefix = shop.cache._core.prefix
    assert [[key.removeprefix(prefix) for key in keys] for keys in seen] == [["a:1", "b", "c", "row:1"]]
    assert shop.wire.guarded == []
    shop.run(write, 1, "newer")
    assert len(set(shop.wire.tokens)) == 2
    assert all(len(token) == 16 and token.isascii() and token.isprintable() for token in shop.wire.tokens)
    assert shop.wire.holds == [30, 30]
    assert shop.cache.stats().invalidations == 8


def test_hold(shop: Shop) -> None:
    """`hold` is what the guard is given: seconds, or a timedelta."""
    for hold in (5, 2.5, timedelta(minutes=1)):
        shop.run(shop.writer(shop.cache.invalidates(shop.read, strict=True, hold=hold)), 1, "new")
    assert shop.wire.holds == [5, 2.5, 60]


def test_no_keys(shop: Shop) -> None:
    """A write that finds out that it touches nothing asks nothing."""
    write = shop.writer(shop.cache.invalidates(lambda row, value: (), strict=True))
    assert shop.run(write, 1, "new") == "new"
    assert shop.asked() == ["write"]


def test_bad_keys_come_before_guards(shop: Shop) -> None:
    """A key that cannot be made is an error before anything is guarded or written."""
    write = shop.writer(shop.cache.invalidates(shop.read, lambda row, value: "two words", strict=True))
    with pytest.raises(InvalidKeyError):
        shop.run(write, 1, "new")
    assert shop.asked() == []


def test_targets_in_several_caches(shop: Shop, make_cache: MakeCache) -> None:
    """A cached function is guarded in its own cache, whatever its colour."""
    other = Wire()
    elsewhere = shop.new_cache(make_cache, other)

    @elsewhere.cached(key="plain:{row}")
    def plain(row: int) -> None: ...

    @elsewhere.cached(key="async:{row}")
    async def awaitable(row: int) -> None: ...

    seen: list[list[str]] = []
    targets = (shop.read, plain, awaitable)
    write = shop.writer(shop.cache.invalidates(*targets, strict=True), lambda: seen.append(other.guarded))
    shop.run(write, 1, "new")
    assert seen == [["n:async:1", "n:plain:1"]]
    assert (shop.asked(), other.asked) == (["guard", "write", "unguard"], ["guard", "unguard"])
    assert other.guarded == []


# --- readers ---


def test_reads_inside_a_strict_write(shop: Shop) -> None:
    """In a strict write its own key can be read, refreshed and dropped: it comes from the store, and is not stored."""
    found: list[Any] = []

    def during() -> None:
        found.extend(shop.run(fn, 1) for fn in (shop.read, shop.read.refresh, shop.read.invalidate, shop.read))
        shop.rows[1] = "newer"
        found.append(shop.run(shop.read, 1))

    shop.run(shop.read, 1)
    shop.run(shop.writer(shop.cache.invalidates(shop.read, strict=True), during), 1, "new")
    assert found == ["new", "new", None, "new", "newer"]
    info = shop.read.cache_info()
    assert (info.guarded, info.bypassed, info.loads, info.hits) == (4, 4, 5, 0)
    assert [shop.run(shop.read, 1) for _ in range(2)] == ["newer", "newer"]
    assert shop.loads == 6
    assert shop.cache.stats().totals.errors == 0


def test_reads_in_the_frame_of_a_strict_write(wire: Wire) -> None:
    """The same in one thread, and in one task: the call that reads stands inside the one that writes."""
    cache, row = Cache(wire), ["old"]

    @cache.cached(key="row")
    def read() -> str:
        return row[0]

    @cache.cached(key="row")
    async def aread() -> str:
        return row[0]

    @cache.invalidates(read, strict=True)
    def write(value: str) -> list[str]:
        before = read()
        row[0] = value
        return [before, read()]

    @cache.invalidates(aread, strict=True)
    async def awrite(value: str) -> list[str]:
        before = await aread()
        row[0] = value
        return [before, await aread()]

    assert write("new") == ["old", "new"]
    assert asyncio.run(awrite("newer")) == ["new", "newer"]
    assert [read(), read()] == ["newer", "newer"]
    assert wire.guarded == []


def test_nested_strict_writes(shop: Shop) -> None:
    """A strict write inside another on the same key has a mark of its own; the key is free after the outer one."""
    marks: list[int] = []
    key = shop.cache._core.prefix + "row:1"
    decorator = shop.cache.invalidates(shop.read, strict=True)
    inner = shop.writer(decorator, lambda: marks.append(shop.wire.marks(key)))

    def during() -> None:
        shop.run(inner, 1, "newer")
        marks.append(shop.wire.marks(key))

    shop.run(shop.writer(decorator, during), 1, "new")
    assert marks == [2, 1]
    assert shop.wire.guarded == []
    assert [shop.run(shop.read, 1) for _ in range(2)] == ["newer", "newer"]
    assert shop.cache.stats().guards_lost == 0


def test_stacked_strict_writes(shop: Shop) -> None:
    """Decorators may stand over one another, on the same key too: each guards and frees."""
    shop.run(shop.read, 1)
    decorate: Any = shop.cache.invalidates
    both = lambda fn: decorate("row:{row}", strict=True)(decorate(shop.read, "all", strict=True)(fn))  # noqa: E731  # one decorator made of two
    shop.asked()
    assert shop.run(shop.writer(both), 1, "new") == "new"
    assert shop.asked() == ["guard", "guard", "write", "unguard", "unguard"]
    assert [shop.run(shop.read, 1) for _ in range(2)] == ["new", "new"]
    assert shop.wire.guarded == []


# --- refused ---


@pytest.mark.parametrize("fault", [lost, late, unsent])
def test_refused(shop: Shop, make_cache: MakeCache, fault: Fault) -> None:
    """If the guard cannot be placed the write is not called, says so, and leaves no mark, in whatever cache."""
    first = Wire()
    in_first = shop.reader(shop.new_cache(make_cache, first))
    write = shop.writer(shop.cache.invalidates(in_first, shop.read, strict=True))
    shop.wire.breaks("guard", fault=fault)
    with pytest.raises(
        CacheUnavailable, match=r"\.decorate\.<.* was not called: its guard could not be placed: no"
    ) as refused:
        shop.run(write, 1, "new")
    assert isinstance(refused.value.__cause__, CacheUnavailable)
    assert shop.asked() == (["guard"] if fault is unsent else ["guard", "unguard"])
    assert first.asked == ["guard", "unguard"]
    assert (shop.rows, first.guarded, shop.wire.guarded) == ({}, [], [])
    stats = shop.cache.stats()
    assert (stats.writes_refused, stats.pending) == (1, 0)
    shop.wire.breaks()
    assert [shop.run(read, 1) for read in (shop.read, in_first) * 2] == ["old"] * 4
    assert shop.loads == 2
    assert shop.run(write, 1, "new") == "new"


def test_refused_and_not_taken_back(shop: Shop, make_cache: MakeCache) -> None:
    """A mark that may stand, and cannot be taken back now, is taken back later; until then its key is bypassed."""
    elsewhere = shop.reader(shop.new_cache(make_cache))
    write = shop.writer(shop.cache.invalidates(shop.read, strict=True))
    shop.wire.breaks("guard", "unguard", fault=late)
    shop.wire.faults["unguard"] = lost
    with pytest.raises(CacheUnavailable):
        shop.run(write, 1, "new")
    assert (shop.rows, shop.cache.stats().pending, len(shop.wire.guarded)) == ({}, 1, 1)
    assert shop.run(shop.read, 1) == "old"
    assert shop.read.cache_info().bypassed == 1
    shop.wire.breaks()
    assert [shop.run(shop.read, 1) for _ in range(2)] == ["old", "old"]
    assert (shop.cache.stats().pending, shop.wire.guarded, shop.cache.stats().guards_lost) == (0, [], 0)
    assert shop.read.cache_info().hits == 1
    assert (shop.run(elsewhere, 1), elsewhere.cache_info().hits) == ("old", 1)


def test_refused_block(shop: Shop) -> None:
    """`cache.invalidating(strict=True)` refuses as well: the block does not run."""
    shop.wire.breaks("guard")
    ran = []

    def block() -> None:
        with shop.cache.invalidating("row:1", strict=True):
            ran.append(1)

    async def ablock() -> None:
        async with shop.cache.invalidating("row:1", strict=True):
            ran.append(1)

    with pytest.raises(CacheUnavailable, match=r"cache\.invalidating was not called"):
        block() if shop.colour.name == "sync" else shop.run(ablock)
    assert (ran, shop.cache.stats().writes_refused, shop.wire.guarded) == ([], 1, [])


def test_plain_writes_are_not_refused(shop: Shop) -> None:
    """Without `strict` nothing is guarded, and a write goes on whatever the cache does."""
    shop.wire.breaks("guard", "unguard", "invalidate")
    assert shop.run(shop.writer(shop.cache.invalidates(shop.read)), 1, "new") == "new"
    assert shop.asked() == ["write", "invalidate"]
    assert shop.cache.stats().writes_refused == 0
