"""`updates`: the result of a write goes into the entry, or the entry is dropped; it never hides the write."""

from __future__ import annotations

import asyncio
import itertools
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from colours import Colour
from redis_tools import MakeCache
from wire import Wire
from write_shop import Shop

from cacheside import Cache, CacheWarning
from cacheside.errors import NotCacheableError
from cacheside.testing import FakeClock

# --- what is sent, and what is found after it ---


def test_guard_write_update(shop: Shop) -> None:
    """One command before the write and one after it; then its result is a hit."""
    assert shop.run(shop.read, 1) == "old"
    shop.asked()
    assert shop.run(shop.writer(shop.cache.updates(shop.read)), 1, "new") == "new"
    assert shop.asked() == ["guard", "write", "update"]
    assert shop.wire.holds == [30]
    assert [shop.run(shop.read, 1) for _ in range(2)] == ["new", "new"]
    stats, info = shop.cache.stats(), shop.read.cache_info()
    assert (stats.updates, stats.updates_refused, stats.invalidations, stats.guards_lost) == (1, 0, 0, 0)
    assert (info.loads, info.hits, shop.wire.guarded) == (1, 2, [])


def test_none(shop: Shop) -> None:
    """None is a value like any other."""
    shop.run(shop.writer(shop.cache.updates(shop.read)), 1, None)
    assert shop.run(shop.read, 1) is None
    assert shop.read.cache_info().hits == 1


def test_targets(shop: Shop) -> None:
    """A template, a function, a callable of one key or of several: the value goes under each."""
    reads = [shop.reader(shop.cache, f"{name}:{{row}}") for name in "abcd"]
    targets = ("a:{row}", reads[1], lambda row, value: [f"c:{row}", "none"], lambda row, value: f"d:{row}")
    shop.run(shop.writer(shop.cache.updates(*targets)), 1, "new")
    assert shop.asked() == ["guard", "write", *["update"] * 5]
    assert [shop.run(read, 1) for read in reads] == ["new"] * 4
    assert shop.loads == 0


def test_targets_in_several_caches(shop: Shop, make_cache: MakeCache) -> None:
    """A cached function gets the value in its own cache, whatever its colour."""
    other = Wire()
    elsewhere = shop.new_cache(make_cache, other)

    @elsewhere.cached(key="plain:{row}")
    def plain(row: int) -> str:
        return "loaded"

    @elsewhere.cached(key="async:{row}")
    async def awaitable(row: int) -> str:
        return "loaded"

    write = shop.writer(shop.cache.updates(shop.read, plain, awaitable))
    shop.run(write, 1, "new")
    assert (plain(1), asyncio.run(awaitable(1)), shop.run(shop.read, 1)) == ("new", "new", "new")
    assert (shop.cache.stats().updates, elsewhere.stats().updates) == (1, 2)


def test_version_and_serializer_of_the_target(shop: Shop) -> None:
    """The value is kept as the target keeps it: one of another version, or serializer, does not find it."""
    mine, other = (shop.reader(shop.cache, version=version, serializer="json") for version in (1, 2))
    write = shop.writer(shop.cache.updates(mine))
    shop.run(write, 1, "new")
    assert shop.run(mine, 1) == "new"
    assert shop.loads == 0
    assert shop.run(other, 1) == "new"
    assert shop.loads == 1
    shop.run(write, 1, "newer")
    assert [shop.run(read, 1) for read in (mine, other)] == ["newer", "newer"]
    assert shop.loads == 2


def test_text_targets_keep_values_as_a_function_without_options_does(shop: Shop) -> None:
    """Under a text a value is of no version: a function with one loads its own, and is not served it."""
    versioned = shop.reader(shop.cache, version=3)
    shop.run(shop.writer(shop.cache.updates("row:{row}")), 1, "new")
    assert (shop.run(shop.read, 1), shop.loads) == ("new", 0)
    assert (shop.run(versioned, 1), shop.loads) == ("new", 1)


def test_two_targets_that_are_one_key(shop: Shop) -> None:
    """Two targets with one key are one entry, guarded once and filled once."""
    shop.run(shop.writer(shop.cache.updates(shop.read, "row:{row}")), 1, "new")
    assert shop.asked() == ["guard", "write", "update"]
    assert (shop.run(shop.read, 1), shop.loads) == ("new", 0)


def test_ttl() -> None:
    """A function's value is kept for that function's ttl, one under a text for ttl=, and else for the cache's."""
    clock = FakeClock()
    cache = Cache("memory://", ttl=100, clock=clock)
    loads: list[str] = []

    def reader(name: str, **options: Any) -> Any:
        return cache.cached(key=name, **options)(lambda: loads.append(name))

    function, default = reader("function", ttl=10), reader("default")
    number, delta, endless, each = (reader(name) for name in ("number", "delta", "endless", "each"))
    cache.updates(function, "default")(lambda: None)()
    cache.updates(function, "number", ttl=20)(lambda: None)()
    cache.updates("delta", ttl=timedelta(seconds=30))(lambda: None)()
    cache.updates("endless", ttl=None)(lambda: None)()
    cache.updates("each", ttl=lambda result: 40 if result is None else 0)(lambda: None)()
    gone = []
    for _ in range(11):
        clock.advance(10.001)
        for read in (function, default, number, delta, endless, each):
            read()
        gone.append([name for name in loads if name not in itertools.chain(*gone)])
    assert gone == [["function"], ["number"], ["delta"], ["each"], [], [], [], [], [], ["default"], []]


def test_ttl_and_jitter_of_the_result(shop: Shop) -> None:
    """A target whose ttl is made of the result has it made of what the write returned."""
    asked: list[Any] = []

    def ttl(value: Any) -> float:
        asked.append(value)
        return 0 if value == "never" else 60

    read = shop.reader(shop.cache, ttl=ttl, jitter=0.5)
    write = shop.writer(shop.cache.updates(read))
    for value, loads in (("new", 0), ("never", 1)):
        shop.run(write, 1, value)
        assert shop.run(read, 1) == value
        assert shop.loads == loads
    assert asked == ["new", "never", "never"]


def test_copies() -> None:
    """With copy=true a hit returns a copy of what the write returned, and never the writer's own object."""
    cache = Cache("memory://?copy=true")
    read = cache.cached(key="row")(lambda: ["loaded"])
    mine = ["new"]
    result = cache.updates(read)(lambda: mine)()
    assert result is mine
    mine.append("changed")
    found = read()
    assert found == ["new"]
    found.append("changed")
    assert read() == ["new"]


# --- not put in ---


@pytest.mark.parametrize("strict", [False, True])
def test_nested_updates(shop: Shop, strict: bool) -> None:
    """A write to the key inside another, whose mark it meets: neither value goes in, and nothing waits for ever."""
    decorator = shop.cache.updates(shop.read, strict=strict)
    inner = shop.writer(decorator)
    outer = shop.writer(decorator, lambda: shop.run(inner, 1, "inner"))
    assert shop.run(outer, 1, "outer") == "outer"
    assert (shop.cache.stats().updates, shop.cache.stats().updates_refused) == (0, 2)
    assert [shop.run(shop.read, 1) for _ in range(2)] == ["inner", "inner"]
    assert (shop.loads, shop.wire.guarded) == (1, [])


def test_invalidation_in_between(shop: Shop) -> None:
    """An invalidation of the key while the write is under way: the value is dropped."""
    write = shop.writer(shop.cache.updates(shop.read), lambda: shop.run(shop.read.invalidate, 1))
    shop.run(write, 1, "new")
    assert shop.asked() == ["guard", "write", "invalidate", "update", "unguard"]
    assert [shop.run(shop.read, 1) for _ in range(2)] == ["new", "new"]
    assert shop.loads == 1


def test_stacked_over_an_invalidation(shop: Shop) -> None:
    """Over `invalidates` on another key both do their work; on the same key nothing is put in."""
    for key, loads in (("other", 0), ("row:{row}", 1)):
        shop.loads = 0
        both = lambda fn, key=key: shop.cache.updates(shop.read)(shop.cache.invalidates(key)(fn))  # noqa: E731  # one decorator made of two
        assert shop.run(shop.writer(both), 1, "new") == "new"
        assert [shop.run(shop.read, 1) for _ in range(2)] == ["new", "new"]
        assert shop.loads == loads


def test_lost_guard(shop: Shop) -> None:
    """A guard that is gone before the write ends leaves the value out, drops what was filled, and is counted."""

    def during() -> None:
        shop.wire.memory._guards.clear()
        shop.rows[1] = "older"
        shop.run(shop.read, 1)
        shop.rows[1] = "new"

    assert shop.run(shop.writer(shop.cache.updates(shop.read), during), 1, "new") == "new"
    assert shop.run(shop.read, 1) == "new"
    stats = shop.cache.stats()
    assert (stats.updates, stats.updates_refused, stats.guards_lost) == (0, 1, 1)


def test_write_that_raises(shop: Shop) -> None:
    """No result, no value: the entry is dropped, and the error passes."""

    def fail() -> None:
        raise LookupError("mine")

    shop.run(shop.read, 1)
    shop.asked()
    with pytest.raises(LookupError, match="mine"):
        shop.run(shop.writer(shop.cache.updates(shop.read), fail), 1, "new")
    assert shop.asked() == ["guard", "write", "unguard"]
    assert shop.run(shop.read, 1) == "new"
    assert (shop.cache.stats().unknown_targets, shop.wire.guarded) == (0, [])


def refuse(value: Any) -> Any:
    """A `cache_if` or ttl that fails."""
    raise ZeroDivisionError("of the user's")


@pytest.mark.parametrize(
    ("options", "value", "why"),
    [
        ({"cache_if": lambda value: False}, "new", ""),
        ({"ttl": lambda value: 0}, "new", ""),
        ({}, iter("new"), ""),
        ({"serializer": "json"}, object(), ""),
        ({"cache_if": refuse}, "new", "of the user's"),
        ({"ttl": refuse}, "new", "of the user's"),
        ({"ttl": lambda value: "soon"}, "new", "must be seconds"),
    ],
)
@pytest.mark.filterwarnings("ignore::cacheside.CacheWarning")
def test_not_cacheable(
    colour: Colour,
    make_cache: MakeCache,
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
    value: Any,
    why: str,
) -> None:
    """A result that is not to be cached, or cannot be: the write returns it all the same, and the entry is dropped;
    it is counted, or if the user's own code fails, logged."""
    shop = Shop(colour, Wire(), make_cache)
    read = shop.reader(shop.cache, **options)
    assert shop.run(shop.writer(shop.cache.updates(read)), 1, value) is value
    assert shop.asked() == ["guard", "write", "unguard"]
    assert (shop.wire.guarded, shop.wire.memory.size().entries, shop.cache.stats().updates) == ([], 0, 0)
    assert read.cache_info().uncacheable == (not why)
    assert [why in record.getMessage() for record in caplog.records] == ([True] if why else [])


def test_not_cacheable_is_said_once(shop: Shop) -> None:
    """What cannot be cached is warned of where the target was defined, as for its loads; the first time only."""
    write = shop.writer(shop.cache.updates(shop.read))
    with pytest.warns(CacheWarning, match="not cached"):
        shop.run(write, 1, iter(()))
    shop.run(write, 1, iter(()))  # a second warning would be an error
    assert shop.read.cache_info().uncacheable == 2


@pytest.mark.parametrize("action", ["ignore", "error"])
def test_too_large_for_the_server(shop: Shop, action: Any) -> None:
    """A value that only the server finds not cacheable is dropped too; the write returns, whatever warnings do."""

    def too_large(do: Callable[[], Any]) -> Any:
        raise NotCacheableError("too large")

    shop.wire.breaks("update", fault=too_large)
    with warnings.catch_warnings():
        warnings.simplefilter(action, CacheWarning)
        assert shop.run(shop.writer(shop.cache.updates(shop.read)), 1, "new") == "new"
    assert shop.asked() == ["guard", "write", "update", "unguard"]
    assert (shop.wire.guarded, shop.cache.stats().pending) == ([], 0)
    assert shop.read.cache_info().uncacheable == 1
    assert [shop.run(shop.read, 1) for _ in range(2)] == ["new", "new"]


def test_changed_arguments(shop: Shop) -> None:
    """A write that changes what its key is made of: both entries are dropped, and its value goes under neither."""
    key = "row:{where[row]}"
    read = shop.colour.decorate(shop.cache.cached(key=key), lambda where: shop.rows.get(where["row"], "old"))

    def move(where: dict[str, int], row: int) -> str:
        where["row"] = row
        shop.rows = {1: "one", 2: "two"}
        return "moved"

    assert [shop.run(read, {"row": row}) for row in (1, 2)] == ["old", "old"]
    shop.asked()
    assert shop.run(shop.colour.decorate(shop.cache.updates(key), move), {"row": 1}, 2) == "moved"
    assert shop.asked() == ["guard", "invalidate", "unguard"]
    assert [shop.run(read, {"row": row}) for row in (1, 2)] == ["one", "two"]


def test_some_keys_change(shop: Shop) -> None:
    """Only a key that was guarded, and is still one of the write's keys after it, gets the value."""
    names = iter([["a", "b"], ["b", "c"]])
    reads = {name: shop.reader(shop.cache, name + "{row:.0f}") for name in "abc"}
    for read in reads.values():
        shop.run(read, 1)
    shop.asked()
    shop.run(shop.writer(shop.cache.updates(lambda row, value: [f"{name}1" for name in next(names)])), 1, "new")
    assert shop.asked() == ["guard", "write", "update", "invalidate", "unguard"]
    assert shop.loads == 3
    assert [shop.run(reads[name], 1) for name in "bac"] == ["new"] * 3
    assert shop.loads == 5
