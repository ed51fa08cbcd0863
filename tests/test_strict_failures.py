"""Strict writes that go wrong: whatever ends them, their marks are taken back, now or later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from redis_tools import MakeCache
from wire import Fault, Wire, interrupted, late, lost, unsent
from write_shop import Shop

from cacheside import Cache, CacheUnavailable

# --- releases that fail ---


@pytest.mark.parametrize("fault", [lost, unsent])
def test_failed_release(shop: Shop, make_cache: MakeCache, fault: Fault) -> None:
    """A mark that cannot be taken back is pending, and that very mark goes later; nobody gets an older value."""
    theirs = shop.reader(shop.new_cache(make_cache))
    write = shop.writer(shop.cache.invalidates(shop.read, strict=True))
    shop.run(shop.read, 1)
    shop.wire.breaks("unguard", fault=fault)
    assert shop.run(write, 1, "new") == "new"
    assert (shop.cache.stats().pending, shop.cache.stats().undelivered) == (1, 1)
    assert [shop.run(read, 1) for read in (shop.read, theirs)] == ["new", "new"]
    assert (shop.read.cache_info().bypassed, theirs.cache_info().guarded) == (1, 1)
    assert len(shop.wire.guarded) == 1
    shop.wire.breaks()
    shop.rows[1] = "newer"
    assert [shop.run(shop.read, 1) for _ in range(2)] == ["newer", "newer"]
    stats = shop.cache.stats()
    assert (stats.pending, stats.guards_lost, shop.wire.guarded) == (0, 0, [])
    assert shop.read.cache_info().hits == 1


def test_release_without_an_answer(shop: Shop) -> None:
    """A release whose answer was lost is sent again: it drops what was filled since, and all is well."""
    write = shop.writer(shop.cache.invalidates(shop.read, strict=True))
    shop.wire.breaks("unguard", fault=late)
    assert shop.run(write, 1, "new") == "new"
    assert shop.cache.stats().pending == 1
    shop.wire.breaks()
    assert [shop.run(shop.read, 1) for _ in range(2)] == ["new", "new"]
    assert (shop.cache.stats().pending, shop.wire.guarded, shop.loads) == (0, [], 1)


def test_failed_release_of_some_keys(shop: Shop) -> None:
    """Where a server says which keys failed, only those are pending."""
    prefix = shop.cache._core.prefix

    def partly(do: Callable[[], Any]) -> Any:
        do()
        raise CacheUnavailable("one of two nodes", keys=[prefix + "b"])

    shop.wire.breaks("unguard", fault=partly)
    shop.run(shop.writer(shop.cache.invalidates("a", "b", strict=True)), 1, "new")
    stats = shop.cache.stats()
    assert (stats.pending, stats.invalidations) == (1, 1)
    assert [shop.cache._core.pending.blocks(prefix + key) for key in "ab"] == [False, True]


# --- writes that end badly ---


def test_write_that_raises(shop: Shop) -> None:
    """The error of a strict write passes, and its mark goes."""

    def fail() -> None:
        raise LookupError("mine")

    shop.run(shop.read, 1)
    with pytest.raises(LookupError, match="mine"):
        shop.run(shop.writer(shop.cache.invalidates(shop.read, strict=True), fail), 1, "new")
    assert shop.wire.guarded == []
    assert [shop.run(shop.read, 1) for _ in range(2)] == ["new", "new"]


@pytest.mark.parametrize("where", ["guard", "write", "unguard"])
def test_interrupted(wire: Wire, where: str) -> None:
    """Ctrl-C in the guard, in the write or in the release: it passes, and no mark is left once the cache was used."""
    first, wrote = Wire(), []
    caches = [Cache(first), Cache(wire)]
    reads = [cache.cached(key="row:{row}")(lambda row: len(wrote)) for cache in caches]

    @caches[1].invalidates(*reads, strict=True)
    def write(row: int) -> None:
        wrote.append(row)
        if where == "write":
            raise KeyboardInterrupt

    wire.breaks(where, fault=interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(1)
    assert len(wrote) == (where != "guard")
    wire.breaks()
    assert [read(1) for read in reads * 2] == [len(wrote)] * 4
    assert (first.guarded, wire.guarded) == ([], [])
    assert [cache.stats().pending for cache in caches] == [0, 0]
    assert [read.cache_info().hits for read in reads] == [1, 1]


@pytest.mark.parametrize("steps", range(16))
def test_cancelled_at_every_step(steps: int) -> None:
    """Wherever a strict write is cancelled, once or twice: no older value is read after it, and no mark is left."""
    wires = [Wire(), Wire()]
    caches = [Cache(wire) for wire in wires]
    for cache in caches:
        cache._core.pending._retry_every = 0.0
    row = ["old"]

    async def load() -> str:
        return row[0]

    reads = [cache.cached(key="row")(load) for cache in caches]

    @caches[0].invalidates(*reads, strict=True)
    async def put() -> None:
        await asyncio.sleep(0)
        row[0] = "new"
        await asyncio.sleep(0)

    async def main(times: int) -> None:
        row[0] = "old"
        for read in reads:
            await read.refresh()
        task = asyncio.create_task(put())
        for _ in range(steps):
            await asyncio.sleep(0)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(3):
            assert [await read() for read in reads] == [row[0]] * 2
        assert [wire.guarded for wire in wires] == [[], []]
        assert [cache.stats().pending for cache in caches] == [0, 0]

    for times in (1, 2):
        asyncio.run(main(times))


@pytest.mark.parametrize("steps", range(8))
def test_thrown_away_at_every_step(wire: Wire, steps: int) -> None:
    """A coroutine that is closed in a strict write can await nothing any more: its mark is pending, and goes later."""
    cache, row = Cache(wire), ["old"]

    @cache.cached(key="row")
    async def read() -> str:
        return row[0]

    @cache.invalidates(read, strict=True)
    async def put() -> None:
        row[0] = "new"
        await asyncio.sleep(60)

    async def main() -> None:
        await read()
        coroutine = put()
        coroutine.send(None)
        for _ in range(steps):
            if row[0] == "old":
                coroutine.send(None)
        coroutine.close()
        assert [await read(), await read()] == [row[0]] * 2

    asyncio.run(main())
    assert (wire.guarded, cache.stats().pending) == ([], 0)


@pytest.mark.parametrize("steps", range(6))
def test_thrown_away_in_its_guards(steps: int) -> None:
    """A coroutine that is closed while it guards in one cache after the other leaves no mark in either."""
    wires = [Wire(), Wire()]
    caches = [Cache(wire) for wire in wires]
    reads = [cache.cached(key="row")(lambda: "value") for cache in caches]

    @caches[0].invalidates(*reads, strict=True)
    async def put() -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        coroutine = put()
        for _ in range(steps):
            if len(wires[1].asked) == 0:
                coroutine.send(None)
        coroutine.close()

    asyncio.run(main())
    assert [read() for read in reads] == ["value"] * 2
    assert [wire.guarded for wire in wires] == [[], []]
    assert [cache.stats().pending for cache in caches] == [0, 0]


def test_changed_arguments(shop: Shop) -> None:
    """A write that changes what its key is made of frees the old key, and drops the entry under the new one."""
    holder = {"row": 1}
    key = "row:{where[row]}"
    read = shop.colour.decorate(shop.cache.cached(key=key), lambda where: shop.rows.get(where["row"], "old"))

    def move(where: dict[str, int], row: int) -> None:
        where["row"] = row
        shop.rows = {1: "new", 2: "new"}

    assert [shop.run(read, {"row": row}) for row in (1, 2)] == ["old", "old"]
    shop.asked()
    shop.run(shop.colour.decorate(shop.cache.invalidates(key, strict=True), move), holder, 2)
    assert shop.asked() == ["guard", "invalidate", "unguard"]
    assert [shop.run(read, {"row": row}) for row in (1, 2)] == ["new", "new"]
    assert shop.wire.guarded == []


def test_targets_that_fail_after_the_write(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    """A target that can be made before the write and not after it hides nothing: it is logged, and the mark goes."""
    calls: list[int] = []

    def target(row: int, value: Any) -> str:
        calls.append(row)
        if len(calls) > 1:
            raise OSError("gone")
        return f"row:{row}"

    assert shop.run(shop.writer(shop.cache.invalidates(target, strict=True)), 1, "new") == "new"
    assert shop.wire.guarded == []
    assert shop.cache.stats().unknown_targets == 1
    assert "gone" in caplog.text
