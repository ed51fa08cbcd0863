"""Single flight when things break: outages, interrupts, loads that are thrown away; and that nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import time
import weakref
from concurrent.futures import CancelledError
from typing import Any

import pytest
from colours import TIMEOUT, Colour, Row, Tasks, Threads, crowd, killable, results, until

from cacheside import Cache
from cacheside.backends.base import Leased
from cacheside.backends.memory import MemoryBackend
from cacheside.errors import CacheUnavailable


class Broken(MemoryBackend):
    """A cache that does not answer."""

    def lookup(self, key: str, lease: float) -> Any:
        raise CacheUnavailable("no answer")


def test_outage_does_not_multiply_loads(colour: Colour) -> None:
    """With the cache down a crowd costs one load running and one next, and nobody gets a value that was read before it
    came."""
    cache = Cache(Broken())
    row = Row()
    fn = colour.decorate(cache.cached(key="row:{row_id}"), row.load)
    first = colour.call(fn, 1)
    assert row.reading.wait(TIMEOUT)
    row.value = "new"
    others = [colour.call(fn, 1) for _ in range(50)]
    until(lambda: fn.cache_info().misses == 51)
    time.sleep(0.1)
    row.gate.set()
    assert first.result(TIMEOUT) == "old"
    assert results(others) == ["new"] * 50
    assert row.loads == 2
    assert fn.cache_info().bypassed == fn.cache_info().errors == 51


def test_outage_leader_cancelled(colour: Colour) -> None:
    """Also in the queue of an outage a leader that dies strands nobody."""
    cache = Cache(Broken())
    row = Row()
    fn = colour.decorate(cache.cached(key="row:{row_id}"), row.load)
    if isinstance(colour, Threads):
        leader = killable(fn, row)
    else:
        leader = colour.call(fn, 1)
        assert row.reading.wait(TIMEOUT)
    others = [colour.call(fn, 1) for _ in range(10)]
    until(lambda: fn.cache_info().misses == 11)
    time.sleep(0.05)
    if not isinstance(colour, Threads):
        leader.cancel()
    row.gate.set()
    assert results(others) == ["old"] * 10
    assert row.loads == 2


def test_a_load_that_is_thrown_away_gives_its_lease_back() -> None:
    """A coroutine that is closed inside its load (a loop that is gone) raises nothing, and leaves no lease behind."""
    cache = Cache(lease=30)
    never: asyncio.Future[None]

    @cache.cached("row:{row}")
    async def fetch(row: int) -> str:
        if row == 1:
            await never
        return "value"

    async def begin() -> Any:
        nonlocal never
        never = asyncio.get_running_loop().create_future()
        coroutine = fetch(1)
        coroutine.send(None)
        return coroutine

    coroutine = asyncio.run(begin())
    coroutine.close()
    assert isinstance(cache._core.backend.lookup("row:1", 1), Leased)  # type: ignore[union-attr]  # it is memory
    assert not cache._core.flights._open


def test_interrupt_as_the_flight_ends() -> None:
    """Ctrl-C in the very last step of a load, in the cache's own code, leaves no flight that others would wait for."""
    for backend in (MemoryBackend(), Broken()):
        cache = Cache(backend)
        fn = cache.cached(key="row:{row_id}")(lambda row_id: row_id)
        flights, end = cache._core.flights, cache._core.flights.end
        strikes = [KeyboardInterrupt]

        def strike(*args: Any, end: Any = end, strikes: Any = strikes, **kwargs: Any) -> None:
            if strikes:
                raise strikes.pop()
            end(*args, **kwargs)

        flights.end = strike  # type: ignore[method-assign]  # the interrupt
        with pytest.raises(KeyboardInterrupt):
            fn(1)
        assert fn(1) == 1
        assert not flights._open
        assert not flights._queue


def test_errors_keep_nothing_alive(colour: Colour) -> None:
    """An exception that a load raised is no part of a cycle: what its frames hold goes when it goes."""

    class Big:
        """Something that a load has at hand as it fails."""

    alive: list[Any] = []

    def load(row_id: int) -> int:
        big = Big()
        alive.append(weakref.ref(big))
        raise LookupError(row_id)

    fn = Cache().cached(key="row:{row_id}")(load)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(LookupError):
            fn(1)
        assert alive[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("tags", [(), ("all",)])
def test_stored_errors_are_no_part_of_a_cycle(tags: tuple[str, ...]) -> None:
    """An exception that the cache held goes with its last caller, in both colours, with tags or without."""

    class Gone(Exception):
        """What is stored."""

    decorate = Cache().cached(key="row:{row_id}", cache_exceptions=(Gone,), tags=tags)

    def load(row_id: int) -> int:
        raise Gone(row_id)

    async def aload(row_id: int) -> int:
        raise Gone(row_id)

    plain, awaited = decorate(load), decorate(aload)
    ways: list[Any] = [plain, lambda row_id: awaited(row_id).send(None)]  # over memory it never waits
    for way in ways:
        with pytest.raises(Gone):
            way(1)
        gc.collect()
        gc.disable()
        try:
            try:
                way(1)
            except Gone as error:
                seen = weakref.ref(error)
            assert seen() is None
        finally:
            gc.enable()
    assert [fn.cache_info().hits for fn in (plain, awaited)] == [1, 2]


def test_coalesced_callers_get_exceptions_of_their_own(colour: Colour) -> None:
    """Each caller raises an object of its own: one for all would collect the tracebacks of all threads."""
    row = Row()
    row.error = LookupError("no such row")
    cache = Cache()
    fn = colour.decorate(cache.cached(key="row:{row_id}"), row.load)
    calls = crowd(cache, colour, fn, row)
    row.gate.set()
    errors = results(calls)
    assert len({id(error) for error in errors}) == 21
    assert {str(error) for error in errors} == {"no such row"}


def test_tables_are_empty_after_a_storm(colour: Colour) -> None:
    """After many calls that end in every way there is, no flight is left behind."""
    cache = Cache()
    dice = random.Random(7)

    def load(row_id: int) -> int:
        time.sleep(dice.random() / 500)
        if dice.random() < 0.3:
            raise LookupError(row_id)
        return row_id

    fn = colour.decorate(cache.cached(key="row:{row_id}", cache_if=lambda value: dice.random() < 0.7), load)
    calls = []
    for _ in range(600):
        calls.append(colour.call(fn, dice.randrange(5)))
        if dice.random() < 0.2:
            cache.invalidate(f"row:{dice.randrange(5)}")
        if isinstance(colour, Tasks) and dice.random() < 0.1:
            calls[-1].cancel()
    for call in calls:
        with contextlib.suppress(LookupError, CancelledError):
            call.result(TIMEOUT)
    until(lambda: not cache._core.flights._open and not cache._core.flights._queue)
    until(lambda: not cache._core.backend._leases)  # type: ignore[union-attr]  # it is memory
