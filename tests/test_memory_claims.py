"""Marks, claims and tags in the memory of this process, where the conformance suite does not reach."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest

from cacheside import Cache
from cacheside.backends.base import Busy, Fill, Hit, Leased, Stale
from cacheside.backends.beyond import Batching, Claiming
from cacheside.backends.memory import MemoryBackend
from cacheside.backends.null import NullBackend
from cacheside.entries import DEAD, Table
from cacheside.errors import NotCacheableError
from cacheside.testing import FakeClock

POLICIES = ("s3fifo", "sieve", "lru", "lfu", "fifo")


def fill(backend: MemoryBackend, key: str, stored: Any, ttl: float | None = 60) -> None:
    answer = backend.lookup(key, 60)
    assert isinstance(answer, Leased)
    assert backend.fill(key, answer.token, stored, ttl)


def found(backend: MemoryBackend, key: str) -> Hit | Stale:
    answer = backend.lookup(key, 60)
    assert isinstance(answer, (Hit, Stale))
    return answer


# --- marks ---


def test_marked_entries_have_no_rows() -> None:
    """A mark kills the rows of an entry, and no row is made for a stale one: no hit finds it without asking."""
    backend, table = MemoryBackend(), Table()
    fill(backend, "k", "old")
    entry = found(backend, "k").seen
    backend.attach(entry, table, ("raw",), (str,), "old")
    row = table.rows[("raw",)]
    backend.mark_stale(["k"], 60)
    assert table.rows == {}
    assert row.deadline == entry.deadline == DEAD
    backend.attach(entry, table, ("raw",), (str,), "old")
    stale = found(backend, "k")
    assert type(stale) is Stale
    backend.attach(stale.seen, table, ("raw",), (str,), "old")
    assert table.rows == {}


def test_function_sees_a_mark() -> None:
    """A decorated function that has a row for its entry does not find it any more once it is marked."""
    backend = MemoryBackend()
    cache, rows = Cache(backend), ["old"]
    read = cache.cached(key="k:{a}")(lambda a: rows[-1])
    assert [read(1) for _ in range(3)] == ["old"] * 3
    rows.append("new")
    backend.mark_stale([read.key(1)], 60)
    backend.replace(read.key(1), found(backend, read.key(1)).seen, 0)
    assert [read(1) for _ in range(3)] == ["new"] * 3


@pytest.mark.parametrize("policy", POLICIES)
def test_marks_evict_nothing(policy: str) -> None:
    """In a full cache all entries can be marked, again and again; new ones push them out as any other."""
    backend = MemoryBackend(20, policy)
    for number in range(20):
        fill(backend, str(number), number)
    for _ in range(3):
        backend.mark_stale([str(number) for number in range(20)], 60)
        assert [found(backend, str(number)).stored for number in range(20)] == list(range(20))
    for number in range(20, 60):
        fill(backend, str(number), number)
        assert backend.size().entries == 20


def test_marks_weigh_nothing() -> None:
    """A mark does not measure the value again, and keeps its weight."""
    sizes: list[int] = []

    def size(value: int) -> int:
        sizes.append(value)
        return 100

    backend = MemoryBackend(max_bytes=2000, size=size)
    fill(backend, "a", 1)
    weight = backend._entries._store.get("a").weight  # type: ignore[union-attr]
    backend.mark_stale(["a"], 60)
    assert found(backend, "a").seen.weight == weight
    assert sizes == [1]


def test_marked_entries_expire() -> None:
    """Stale entries give their memory back at the end of the grace, though nobody asks for them."""
    clock = FakeClock()
    backend = MemoryBackend(clock=clock)
    for number in range(100):
        fill(backend, str(number), number, None if number % 2 else 3600)
    backend.mark_stale([str(number) for number in range(100)], 5)
    assert backend.size().entries == 100
    clock.advance(6)
    assert backend.size().entries == 0


# --- claims ---


def test_claim_on_an_evicted_entry() -> None:
    """The claim outlives its entry: others wait for it as for a lease, and it fills."""
    backend = MemoryBackend(1)
    fill(backend, "k", "old")
    answer = backend.claim("k", found(backend, "k").seen, 60)
    assert isinstance(answer, Leased)
    fill(backend, "other", "pushes it out")
    assert type(backend.lookup("k", 60)) is Busy
    assert backend.fill("k", answer.token, "new", 60)
    assert found(backend, "k").stored == "new"


def test_dead_claims_are_forgotten() -> None:
    """Claims of refreshes that died do not pile up."""
    clock = FakeClock()
    backend = MemoryBackend(clock=clock)
    for number in range(1000):
        fill(backend, str(number), number, None)
        assert isinstance(backend.claim(str(number), found(backend, str(number)).seen, 5), Leased)
        clock.advance(1)
    assert len(backend._leases) < 10


def test_value_that_is_too_large_in_a_batch() -> None:
    """One value that cannot be kept fails by itself, and its lease can be given back."""
    backend = MemoryBackend(max_bytes=1000, size=len)
    tokens = [backend.lookup(key, 60).token for key in "ab"]  # type: ignore[union-attr]  # they are free
    done, _ = backend.fill_many([Fill("a", tokens[0], b"x" * 2000, 60), Fill("b", tokens[1], b"x", 60)])
    assert isinstance(done[0], NotCacheableError)
    assert done[1] is True
    assert backend.release_many([("a", tokens[0])]) == [True]


# --- tags ---


@pytest.mark.parametrize(
    ("options", "most"),
    [({"max_entries": 5}, 10_000), ({"max_entries": 3000}, 12_000), ({"max_bytes": 1000}, 100_000)],
)
def test_tags_are_bounded(options: dict[str, int], most: int) -> None:
    """There are never more versions than the bound; those planted first go, however often they were asked for."""
    backend = MemoryBackend(**options)  # type: ignore[arg-type]
    tags = [f"t{number}" for number in range(most + 10)]
    first = backend.plant(tags[:most])
    backend.invalidate(tags[:1])
    (again,) = backend.plant(tags[:1])  # by which it is the last
    backend.lookup_many([], None, tags[1:11])
    backend.plant(tags[most:])
    assert len(backend._tags) == most
    _, versions = backend.lookup_many([], None, tags[:most])
    assert list(versions) == [again, *[None] * 10, *first[11:]]


def test_tags_take_no_entries() -> None:
    """Versions stand beside the entries: they push none out, and are not counted."""
    backend = MemoryBackend(2)
    for key in "ab":
        fill(backend, key, key)
    backend.plant([f"t{number}" for number in range(1000)])
    assert backend.size().entries == 2
    assert [found(backend, key).stored for key in "ab"] == ["a", "b"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("busy", [False, True])
def test_tags_after_fork(busy: bool) -> None:
    """A child keeps the versions of its parent, unless a thread of that was just changing them."""
    backend = MemoryBackend()
    (version,) = backend.plant(["t"])
    if busy:
        entered, leave = threading.Event(), threading.Event()

        def hold() -> None:
            with backend._lock:
                entered.set()
                leave.wait(30)

        thread = threading.Thread(target=hold)
        thread.start()
        entered.wait(30)
    pid = os.fork()
    if pid == 0:
        _, (seen,) = backend.lookup_many([], None, ["t"])
        os._exit(0 if seen == (None if busy else version) else 1)
    if busy:
        leave.set()
        thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert backend.plant(["t"]) == [version]


# --- null ---


def test_null_can_do_it_all() -> None:
    """Switching off by ``null://`` takes nothing away that a decorator may ask for; and nothing is kept."""
    backend = NullBackend()
    assert {"claims", "batches"} <= backend.capabilities
    assert isinstance(backend, Claiming)
    assert isinstance(backend, Batching)
    assert backend.lookup_many(["a", "b"], 60, ["t"]) == ([Leased(None)] * 2, [None])
    assert backend.lookup_many(["a", "b"], None) == ([None] * 2, [])
    assert backend.fill_many([Fill("a", None, 1, 60)], ["t"]) == ([False], [None])
    assert backend.release_many([("a", None)]) == [False]
    first, second = backend.plant(["t", "t"])
    assert type(first) is bytes
    assert first != second
    backend.mark_stale(["a"], 60)
    assert backend.claim("a", None, 60) == Leased(None)
