"""What batches, tags and the other verbs cost on the wire: a thousand rows two round trips, then one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from colours import Colour, until
from many_tools import Table
from redis_tools import MakeCache
from test_round_trips import RedisMeter

from cacheside import MISSING, Cache
from cacheside.backends.redis.aserver import AsyncServer
from cacheside.backends.redis.server import SyncServer

pytestmark = pytest.mark.server

NUMBERS = range(1000)
ROWS = {number: number * 10 for number in NUMBERS}


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many commands went together, for each exchange with a server."""
    seen: list[int] = []

    def watch(cls: type) -> None:
        real: Callable[..., Any] = cls.exchange  # type: ignore[attr-defined]

        def exchange(self: Any, commands: Any, probe: bool) -> Any:
            seen.append(len(commands))
            return real(self, commands, probe)

        monkeypatch.setattr(cls, "exchange", exchange)

    watch(SyncServer)
    watch(AsyncServer)
    return seen


@pytest.fixture
def cache(make_cache: MakeCache, redis_server: Any, namespace: str) -> Cache:
    """In each colour."""
    return make_cache(redis_server.url, namespace=namespace, timeout=20)


@pytest.mark.parametrize(("count", "tags"), [(1000, ()), (1000, ("all",)), (500, ("all", "row:{number}"))])
def test_thousand_rows(colour: Colour, cache: Cache, exchanges: list[int], count: int, tags: tuple[str, ...]) -> None:
    """Cold they cost one call and two round trips, one more for tags that are new; warm one round trip, and no call."""
    numbers, table = range(count), Table()
    rows = {number: number * 10 for number in numbers}

    def read(numbers: Any) -> Any:
        return table.read(numbers)

    many = colour.decorate(cache.cached_many("{number}", tags=tags), read)
    assert colour.run(many, [-1]) == {-1: -10}  # connected, and its scripts known
    del exchanges[:], table.calls[:]
    assert colour.run(many, numbers) == rows
    assert table.calls == [list(numbers)]
    assert len(exchanges) == 2 + (len(tags) == 2)
    del exchanges[:]
    assert colour.run(many, numbers) == rows
    assert (len(table.calls), len(exchanges)) == (1, 1)
    colour.run(many.invalidate, [5, 7])
    del exchanges[:]
    assert colour.run(many, numbers) == rows
    assert (table.calls[1:], len(exchanges)) == ([[5, 7]], 2)


def test_rows_that_are_of_no_use(colour: Colour, cache: Cache, exchanges: list[int]) -> None:
    """A thousand rows whose tag was turned cost three round trips, and one for the tag: they are replaced together."""
    table = Table()

    def read(numbers: Any) -> Any:
        return table.read(numbers)

    many = colour.decorate(cache.cached_many("{number}", tags=("all",)), read)
    for numbers in ([-1], [-1], NUMBERS):
        colour.run(many, numbers)
        colour.run(partial(cache.invalidate if colour.name == "sync" else cache.ainvalidate, tags=["all"]))
    del exchanges[:]
    assert colour.run(many, NUMBERS) == ROWS
    assert (len(table.calls), len(exchanges)) == (4, 4)


def test_refresh_of_a_thousand_rows(colour: Colour, cache: Cache, exchanges: list[int]) -> None:
    """Old rows cost the caller one round trip; in the background they are claimed by one, and filled by another."""
    table = Table()

    def read(numbers: Any) -> Any:
        return table.read(numbers)

    many = colour.decorate(cache.cached_many("{number}", ttl=0.2, stale_while_revalidate=600), read)
    for numbers in ([-1], NUMBERS, [-1]):
        colour.run(many, numbers)
        time.sleep(0.3)
    until(lambda: len(table.calls) == 3)  # one refresh has been made: the scripts are known
    time.sleep(1)
    del exchanges[:], table.calls[:]
    assert colour.run(many, NUMBERS) == ROWS
    until(lambda: len(exchanges) == 3)
    assert table.calls == [list(NUMBERS)]
    assert many.cache_info().failed_refreshes == 0


def test_absent_rows(colour: Colour, cache: Cache, exchanges: list[int]) -> None:
    """Absent rows cost what others do."""
    asked: list[Any] = []

    def read(numbers: Any) -> Any:
        asked.append(len(numbers))
        return {}

    many = colour.decorate(cache.cached_many("{number}"), read)
    colour.run(many, [-1])
    del exchanges[:]
    assert [colour.run(many, NUMBERS) for _ in range(3)] == [{}] * 3
    assert (asked, len(exchanges)) == ([1, 1000], 4)


def test_hits_are_not_written(colour: Colour, cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thousand rows of which two are missing, two are filled."""
    filled: list[int] = []
    for form in (type(cache._core.backend), type(cache._core.aio)):
        real: Callable[..., Any] = form.fill_many  # type: ignore[attr-defined]

        def fill_many(self: Any, fills: Any, *args: Any, real: Callable[..., Any] = real) -> Any:
            filled.append(len(fills))
            return real(self, fills, *args)

        monkeypatch.setattr(form, "fill_many", fill_many)
    table = Table()

    def read(numbers: Any) -> Any:
        return table.read(numbers)

    many = colour.decorate(cache.cached_many("{number}"), read)
    assert colour.run(many, NUMBERS) == ROWS
    colour.run(many.invalidate, [5, 7])
    for _ in range(2):
        assert colour.run(many, NUMBERS) == ROWS
    assert filled == [1000, 2]


# --- one row ---


@pytest.fixture
def meter(new_redis: Any) -> Iterator[RedisMeter]:
    """Of a server for this test alone."""
    with contextlib.closing(RedisMeter(new_redis())) as meter:
        yield meter


def test_calls_with_tags_and_other_verbs(colour: Colour, make_cache: MakeCache, meter: RedisMeter) -> None:
    """A hit with tags is one round trip, a miss two; so are a peek, and a `set`: one, and two."""
    where = meter._client.connection_pool.connection_kwargs
    cache = make_cache(f"redis://{where['host']}:{where['port']}/0", timeout=20)

    def read(number: int) -> int:
        return number * 10

    tagged = colour.decorate(cache.cached("tagged:{number}", tags=("all", "even")), read)
    plain = colour.decorate(cache.cached("plain:{number}"), read)
    for one in (tagged, plain):
        colour.run(one, 0)
        colour.run(one.set, 0, -1)
        colour.run(one.invalidate, -1)

    def cost(fn: Any, *args: Any) -> tuple[Any, int]:
        meter.reset()
        return colour.run(fn, *args), meter.count().round_trips

    assert cost(tagged, 1) == (10, 2)
    for _ in range(3):
        assert cost(tagged, 1) == (10, 1)
        assert (cost(tagged.peek, 1), cost(plain.peek, 0)) == ((10, 1), (0, 1))
    assert cost(plain.peek, 7) == (MISSING, 1)
    assert cost(plain.set, 5, 1) == (True, 2)
    assert cost(plain, 1) == (5, 1)
