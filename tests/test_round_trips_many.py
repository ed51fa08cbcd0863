"""What batches, tags and the other verbs cost on the wire: a thousand rows two round trips, then one."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from colours import Colour, until
from many_tools import Table
from redis_tools import MakeCache
from test_round_trips import Count, RedisMeter

from cacheside import MISSING, Cache
from cacheside.backends.memcached import aio, sync
from cacheside.backends.redis.aserver import AsyncServer
from cacheside.backends.redis.server import SyncServer

pytestmark = pytest.mark.server

NUMBERS = range(1000)
ROWS = {number: number * 10 for number in NUMBERS}


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One for each exchange with a server, of whichever kind."""
    seen: list[int] = []

    def watch(cls: type, method: str) -> None:
        real: Callable[..., Any] = getattr(cls, method)

        def exchange(self: Any, *args: Any) -> Any:
            seen.append(1)
            return real(self, *args)

        monkeypatch.setattr(cls, method, exchange)

    for cls in (SyncServer, AsyncServer):
        watch(cls, "exchange")
    for node in (sync.Node, aio.Node):
        watch(node, "run")
    return seen


@pytest.fixture(params=["redis_server", "memcached_server"])
def cache(request: pytest.FixtureRequest, make_cache: MakeCache, namespace: str) -> Cache:
    """In each colour, on each kind of server."""
    return make_cache(request.getfixturevalue(request.param).url, namespace=namespace, timeout=20)


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


def test_more_rows_than_go_together(colour: Colour, cache: Cache, exchanges: list[int]) -> None:
    """Of 2,500 rows each look and each store is three round trips to a Redis, 1,200 in each; to memcached it is one."""
    numbers, table = range(2500), Table()

    def read(numbers: Any) -> Any:
        return table.read(numbers)

    many = colour.decorate(cache.cached_many("{number}"), read)
    colour.run(many, [-1])
    del exchanges[:]
    three = 3 if "redis" in cache._core.label else 1
    for trips in (2 * three, three):
        assert len(colour.run(many, numbers)) == 2500
        assert len(exchanges) == trips
        del exchanges[:]


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


class Exchanges:
    """A meter that counts in the client."""

    def __init__(self, seen: list[int]) -> None:
        self._seen = seen

    def reset(self) -> None:
        """Begin to count."""
        del self._seen[:]

    def count(self) -> Count:
        """The count."""
        return Count(len(self._seen), Counter())


@pytest.fixture(params=["redis", "memcached"])
def metered(
    request: pytest.FixtureRequest, make_cache: MakeCache, exchanges: list[int]
) -> Iterator[tuple[Cache, RedisMeter | Exchanges]]:
    """A cache on a server for this test alone, and its meter."""
    server = request.getfixturevalue(f"new_{request.param}")()
    cache = make_cache(server.url, timeout=20)
    if request.param == "memcached":
        yield cache, Exchanges(exchanges)
    else:
        with contextlib.closing(RedisMeter(server)) as meter:
            yield cache, meter


def test_calls_with_tags_and_other_verbs(colour: Colour, metered: tuple[Cache, RedisMeter | Exchanges]) -> None:
    """A hit with tags is one round trip, a miss two; so are a peek, and a `set`: one, and two (memcached: three).

    Invalidating tags, however many, is one (memcached: two).
    """
    cache, meter = metered
    redis = isinstance(meter, RedisMeter)

    def read(number: int) -> int:
        return number * 10

    def drop() -> Any:
        return (cache.invalidate if colour.name == "sync" else cache.ainvalidate)("plain:-1", tags=["all", "even"])

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
    assert cost(plain.set, 5, 1) == (True, 2 if redis else 3)
    assert cost(plain, 1) == (5, 1)
    assert cost(drop) == (None, 1 if redis else 2)
    assert cost(tagged.peek, 1) == (MISSING, 1)
