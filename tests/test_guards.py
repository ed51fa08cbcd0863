"""Guards: what readers do while one stands, what becomes of it in memory, and who takes it back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from colours import Colour, Row, results, until
from redis_tools import MakeCache
from wire import Wire, interrupted, lost

from cacheside import Cache, CacheUnavailable
from cacheside.backends.base import Busy, Guarded, Hit, Leased
from cacheside.backends.memory import MemoryBackend
from cacheside.backends.null import NullBackend
from cacheside.testing import FakeClock

TOKEN = "writer-and-token"


# --- readers ---


@pytest.fixture
def row() -> Row:
    """A row whose loads the test holds open."""
    return Row()


@pytest.fixture
def wire() -> Wire:
    """A server."""
    return Wire()


@pytest.fixture
def read(colour: Colour, wire: Wire, row: Row, make_cache: MakeCache) -> Any:
    """A cached read of the row."""
    return colour.decorate(make_cache(wire, namespace="n").cached(key="row:{row_id}"), row.load)


def test_a_crowd_on_a_guarded_key(colour: Colour, wire: Wire, row: Row, read: Any) -> None:
    """However many read a guarded key: one load runs and one is next; who came late gets nothing older than itself."""
    wire.memory.guard(["n:row:1"], TOKEN, 60)
    first = colour.call(read, 1)
    assert row.reading.wait(20)
    others = [colour.call(read, 1) for _ in range(20)]
    until(lambda: read.cache_info().guarded == 21)
    time.sleep(0.1)  # they have looked up; let them queue as well
    row.value = "new"
    row.gate.set()
    assert results([first, *others]) == ["old"] + ["new"] * 20
    info = read.cache_info()
    assert (row.loads, info.loads, info.coalesced, info.bypassed) == (2, 2, 19, 21)
    assert wire.memory.size().entries == 0


def test_a_load_under_guard_is_not_for_those_who_come_after_it(colour: Colour, wire: Wire, row: Row, read: Any) -> None:
    """Who calls after the write has ended loads for itself, though a load from before it is still under way."""
    wire.memory.guard(["n:row:1"], TOKEN, 60)
    slow = colour.call(read, 1)
    assert row.reading.wait(20)
    row.value = "new"
    wire.memory.unguard([("n:row:1", TOKEN)])
    row.reading.clear()
    fresh = colour.call(read, 1)
    assert row.reading.wait(20)
    row.gate.set()
    assert results([slow, fresh]) == ["old", "new"]
    assert colour.run(read, 1) == "new"
    assert (row.loads, read.cache_info().hits) == (2, 1)


def test_a_guard_ends_the_wait_for_a_lease(colour: Colour, wire: Wire, row: Row, read: Any) -> None:
    """A reader that waits for another process's load goes to the store when a strict write takes the key."""
    row.gate.set()
    assert isinstance(wire.memory.lookup("n:row:1", 60), Leased)
    waiting = colour.call(read, 1)
    until(lambda: wire.asked.count("lookup") > 2)
    assert row.loads == 0
    wire.memory.guard(["n:row:1"], TOKEN, 60)
    assert results([waiting]) == ["old"]
    assert (row.loads, read.cache_info().guarded) == (1, 1)


def test_a_guard_refuses_the_flight_it_came_into(colour: Colour, wire: Wire, row: Row, read: Any) -> None:
    """A load that was to be shared when the guard came is not: those who waited for it load once, for all of them."""
    leader = colour.call(read, 1)
    assert row.reading.wait(20)
    others = [colour.call(read, 1) for _ in range(10)]
    until(lambda: read.cache_info().misses == 11)
    time.sleep(0.1)  # they have looked up; let them join as well
    wire.memory.guard(["n:row:1"], TOKEN, 60)
    row.value = "new"
    row.gate.set()
    assert results([leader, *others]) == ["old"] + ["new"] * 10
    assert (row.loads, read.cache_info().refused) == (2, 1)


def test_errors_under_guard_are_the_callers(colour: Colour, wire: Wire, row: Row, read: Any) -> None:
    """An exception of a load under guard is raised, and stored nowhere."""
    wire.memory.guard(["n:row:1"], TOKEN, 60)
    row.gate.set()
    row.error = LookupError("mine")
    with pytest.raises(LookupError, match="mine"):
        colour.run(read, 1)
    row.error = None
    wire.memory.unguard([("n:row:1", TOKEN)])
    assert colour.run(read, 1) == "old"


# --- in memory ---


def test_guards_are_no_entries() -> None:
    """Guards are neither counted nor evicted: a full cache keeps them, and keeps its values."""
    memory = MemoryBackend(max_entries=2)
    keys = [f"guarded{number}" for number in range(10)]
    memory.guard(keys, TOKEN, 60)
    for key in "abc":
        answer = memory.lookup(key, 60)
        assert isinstance(answer, Leased)
        memory.fill(key, answer.token, key, None)
    assert memory.size() == (2, 2)
    assert all(isinstance(memory.lookup(key, 60), Guarded) for key in keys)
    assert [isinstance(memory.lookup(key, 60), Hit) for key in "bc"] == [True, True]


def test_updates_are_entries() -> None:
    """A value that an update puts in is counted, and evicted in its turn."""
    memory = MemoryBackend(max_entries=2)
    for key in "abc":
        memory.guard([key], TOKEN, 60)
        assert memory.update(key, TOKEN, None, key, None)
    assert memory.size() == (2, 2)
    assert isinstance(memory.lookup("a", 60), Leased)


def test_deadlines_are_kept_to_the_moment() -> None:
    """A mark stands until its deadline, and not for a moment longer."""
    clock = FakeClock()
    memory = MemoryBackend(clock=clock)
    memory.guard(["k"], TOKEN, 30)
    clock.advance(29.999)
    assert isinstance(memory.lookup("k", 1), Guarded)
    clock.advance(0.001)
    assert isinstance(memory.lookup("k", 1), Leased)
    assert memory._guards == {}


def test_a_mark_may_be_renewed() -> None:
    """A writer that guards again after its mark was lost stands by itself again."""
    clock = FakeClock()
    memory = MemoryBackend(clock=clock)
    memory.guard(["k"], TOKEN, 1)
    clock.advance(1)
    memory.guard(["k"], "another-token---", 1)
    assert memory.update("k", "another-token---", None, "new", None)


def test_a_forked_child_forgets_guards() -> None:
    """The parent's writers do not exist in a child, whose memory is its own: their marks would stay for nothing."""
    memory = MemoryBackend()
    memory.guard(["k"], TOKEN, 60)
    memory.after_fork()
    assert isinstance(memory.lookup("k", 1), Leased)


def test_null_guards_everything() -> None:
    """Where nothing is kept every guard can be placed, no mark is lost, and no value goes in."""
    null = NullBackend()
    assert null.guard(["a", "b"], TOKEN, 1) == [None, None]
    assert null.update("a", TOKEN, None, "new", None) is False
    assert null.unguard([("a", TOKEN), ("b", TOKEN)]) == 0


def test_answers_differ() -> None:
    """Somebody's lease and a guard are different answers (though equal as tuples: code looks at the type)."""
    assert type(Busy()) is not type(Guarded())
    assert not isinstance(Guarded(), (Busy, Leased, Hit))


# --- who takes marks back ---


def strict_on(wires: list[Wire], write: Callable[[], Any]) -> tuple[list[Cache], Any]:
    """A strict write over several caches."""
    caches = [Cache(wire) for wire in wires]
    for cache in caches:
        cache._core.pending._retry_every = 0.0
    reads = [cache.cached(key="row")(lambda: "value") for cache in caches]
    return caches, caches[0].invalidates(*reads, strict=True)(write)


def test_marks_of_all_caches_when_a_release_is_interrupted() -> None:
    """Of three caches the last cannot be guarded, and Ctrl-C comes while the first is freed: no mark is forgotten."""
    wires = [Wire(), Wire(), Wire()]
    caches, write = strict_on(wires, lambda: None)
    wires[0].breaks("unguard", fault=interrupted)
    wires[2].breaks("guard", fault=lost)
    with pytest.raises(KeyboardInterrupt):
        write()
    for wire, cache in zip(wires, caches, strict=True):
        wire.breaks()
        cache.invalidate("other")
        assert (wire.guarded, cache.stats().pending) == ([], 0)


@pytest.mark.parametrize("steps", range(4, 20))
def test_marks_of_all_caches_when_a_release_is_cancelled(steps: int) -> None:
    """The same with a task that is cancelled again while it takes its marks back."""
    wires = [Wire(), Wire(), Wire()]

    async def nothing() -> None: ...

    caches, write = strict_on(wires, nothing)
    wires[2].breaks("guard", fault=lost)

    async def main() -> None:
        task = asyncio.create_task(write())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(4):
            await asyncio.sleep(0)  # what was on its way arrives
        for wire, cache in zip(wires, caches, strict=True):
            wire.breaks()
            await cache.ainvalidate("other")
            assert (wire.guarded, cache.stats().pending) == ([], 0)

    asyncio.run(main())


def test_a_refusal_says_which_write_and_why(wire: Wire) -> None:
    """The error names the write, and what the cache said is its cause."""
    _, write = strict_on([wire], lambda: None)
    wire.breaks("guard")
    with pytest.raises(CacheUnavailable, match=r"lambda.* was not called: .*no answer") as refused:
        write()
    assert str(refused.value.__cause__) == "no answer"
