"""`updates` that go wrong: a broken cache, a cancelled or interrupted write."""

from __future__ import annotations

import asyncio

import pytest
from redis_tools import MakeCache
from wire import Fault, Wire, interrupted, late, lost, unsent
from write_shop import Shop

from cacheside import Cache, CacheUnavailable

# --- a broken cache ---


@pytest.mark.parametrize("fault", [lost, late, unsent])
def test_guard_that_fails(shop: Shop, fault: Fault) -> None:
    """Without a guard the write goes on, and invalidates; with `strict` it is refused."""
    shop.run(shop.read, 1)
    shop.asked()
    shop.wire.breaks("guard", fault=fault)
    back = [] if fault is unsent else ["unguard"]
    assert shop.run(shop.writer(shop.cache.updates(shop.read)), 1, "new") == "new"
    assert shop.asked() == ["guard", *back, "write", "invalidate"]
    assert shop.run(shop.read, 1) == "new"
    shop.asked()
    with pytest.raises(CacheUnavailable, match="was not called"):
        shop.run(shop.writer(shop.cache.updates(shop.read, strict=True)), 1, "newer")
    assert shop.asked() == ["guard", *back]
    assert shop.rows == {1: "new"}
    stats = shop.cache.stats()
    assert (stats.writes_refused, stats.updates, stats.pending, shop.wire.guarded) == (1, 0, 0, [])


def test_everything_fails(shop: Shop, make_cache: MakeCache) -> None:
    """With the cache down the write goes on, its keys are bypassed here, and all is delivered when it is back."""
    shop.run(shop.read, 1)
    shop.wire.breaks("guard", "unguard", "update", "invalidate")
    shop.wire.faults["guard"] = late
    assert shop.run(shop.writer(shop.cache.updates(shop.read)), 1, "new") == "new"
    assert shop.run(shop.read, 1) == "new"
    assert shop.cache.stats().pending == 1
    shop.wire.breaks()
    assert [shop.run(shop.read, 1) for _ in range(2)] == ["new", "new"]
    assert (shop.cache.stats().pending, shop.wire.guarded) == (0, [])
    elsewhere = shop.reader(shop.new_cache(make_cache))
    assert (shop.run(elsewhere, 1), elsewhere.cache_info().hits) == ("new", 1)


@pytest.mark.parametrize("fault", [lost, late, unsent])
def test_update_that_fails(shop: Shop, fault: Fault) -> None:
    """An update without an answer counts as refused: whether it arrived or not, the entry is dropped."""
    shop.wire.breaks("update", fault=fault)
    assert shop.run(shop.writer(shop.cache.updates(shop.read)), 1, "new") == "new"
    assert shop.asked() == ["guard", "write", "update", "unguard"]
    assert (shop.wire.guarded, shop.wire.memory.size().entries) == ([], 0)
    stats = shop.cache.stats()
    assert (stats.updates, stats.updates_refused, stats.pending) == (0, 1, 0)


@pytest.mark.parametrize("fault", [lost, late])
def test_update_and_release_that_fail(shop: Shop, fault: Fault) -> None:
    """If the release fails as well its mark is pending: the key is bypassed until it has been taken back."""
    shop.wire.breaks("update", "unguard", fault=fault)
    assert shop.run(shop.writer(shop.cache.updates(shop.read)), 1, "new") == "new"
    assert shop.cache.stats().pending == 1
    shop.rows[1] = "newer"
    assert shop.run(shop.read, 1) == "newer"
    shop.wire.breaks()
    assert [shop.run(shop.read, 1) for _ in range(2)] == ["newer", "newer"]
    assert (shop.cache.stats().pending, shop.wire.guarded) == (0, [])


def test_update_of_a_pending_key(shop: Shop) -> None:
    """A key whose invalidation is pending is not served from an update that came after it before it was delivered."""
    shop.wire.breaks("invalidate")
    shop.run(shop.read.invalidate, 1)
    shop.run(shop.writer(shop.cache.updates(shop.read)), 1, "new")
    shop.rows[1] = "newer"
    assert shop.run(shop.read, 1) == "newer"
    shop.wire.breaks()
    assert [shop.run(shop.read, 1) for _ in range(2)] == ["newer", "newer"]
    assert shop.cache.stats().pending == 0


# --- ended from outside ---


@pytest.mark.parametrize("where", ["guard", "update", "unguard"])
def test_interrupted(wire: Wire, where: str) -> None:
    """Ctrl-C in any command: it passes, and what is read after it is what the store holds."""
    cache, rows = Cache(wire), ["old"]
    read = cache.cached(key="row")(lambda: rows[0])

    @cache.updates(read)
    def write() -> str:
        rows[0] = "new"
        if where == "unguard":
            read.invalidate()
        return "new"

    read()
    wire.breaks(where, fault=interrupted)
    with pytest.raises(KeyboardInterrupt):
        write()
    wire.breaks()
    assert [read(), read()] == [rows[0]] * 2
    assert rows == ["old" if where == "guard" else "new"]
    assert (wire.guarded, cache.stats().pending) == ([], 0)


@pytest.mark.parametrize("steps", range(14))
def test_cancelled_at_every_step(steps: int) -> None:
    """Wherever a write is cancelled, once or twice: reads after it get what the store holds; no mark stays."""
    wire, row = Wire(), ["old"]
    cache = Cache(wire)
    cache._core.pending._retry_every = 0.0

    @cache.cached(key="row")
    async def read() -> str:
        return row[0]

    @cache.updates(read)
    async def put() -> str:
        await asyncio.sleep(0)
        row[0] = "new"
        await asyncio.sleep(0)
        return "new"

    async def main(times: int) -> None:
        row[0] = "old"
        await read.refresh()
        task = asyncio.create_task(put())
        for _ in range(steps):
            await asyncio.sleep(0)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0)
        await asyncio.gather(task, return_exceptions=True)
        assert [await read() for _ in range(3)] == [row[0]] * 3
        row[0] = "newer"  # by a write elsewhere
        await cache.ainvalidate("row")
        for _ in range(8):
            await asyncio.sleep(0)  # what was on its way arrives
        assert [await read() for _ in range(3)] == ["newer"] * 3
        assert (wire.guarded, cache.stats().pending) == ([], 0)

    for times in (1, 2):
        asyncio.run(main(times))
