"""Single flight: every way a load can end, in both colours, over memory, Redis and memcached."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest
from colours import TIMEOUT, Colour, Row, Tasks, Threads, crowd, killable, results, until

from cacheside import Cache
from cacheside.backends.memory import MemoryBackend


@pytest.fixture(
    params=[
        "memory",
        pytest.param("redis_server", marks=pytest.mark.server),
        pytest.param("memcached_server", marks=pytest.mark.server),
    ]
)
def cache(request: pytest.FixtureRequest, namespace: str, colour: Colour) -> Iterator[Cache]:
    """A cache of its own on each kind of backend."""
    url = "memory://" if request.param == "memory" else request.getfixturevalue(request.param).url
    made = Cache(url, namespace=namespace, lease=5, timeout=2)
    yield made
    made.close()
    if isinstance(colour, Tasks):
        colour.run(made.aclose)


def test_value_and_fill_accepted(cache: Cache, colour: Colour) -> None:
    """A crowd on one cold key costs the store one load, and all get its value."""
    row = Row()
    fn = colour.decorate(cache.cached(key="row:{row_id}"), row.load)
    calls = crowd(cache, colour, fn, row)
    row.gate.set()
    assert results(calls) == ["old"] * 21
    assert row.loads == 1
    assert colour.run(fn, 1) == "old"
    info = fn.cache_info()
    assert (info.hits, info.misses, info.loads, info.coalesced) == (1, 21, 1, 20)


def test_value_and_fill_refused(cache: Cache, colour: Colour) -> None:
    """After a write during the load its value is not stored, callers that came after the write never get it, and the
    whole crowd costs two more loads at most."""
    row = Row()
    fn = colour.decorate(cache.cached(key="row:{row_id}"), row.load)
    calls = crowd(cache, colour, fn, row)
    row.value = "new"
    cache.invalidate("row:1")
    late = colour.call(fn, 1)
    time.sleep(0.1)
    row.gate.set()
    assert late.result(TIMEOUT) == "new"
    assert set(results(calls)) <= {"old", "new"}
    assert row.loads <= 3  # the first, that of the late caller, and one for the whole crowd
    assert colour.run(fn, 1) == "new"
    assert fn.cache_info().refused >= 1


def test_uncacheable_value_is_shared_while_its_lease_lives(cache: Cache, colour: Colour) -> None:
    """A crowd of 50 on a value that is not to be cached costs two loads at most, not fifty in a row."""
    row = Row()
    fn = colour.decorate(cache.cached(key="row:{row_id}", cache_if=lambda value: False), row.load)
    calls = crowd(cache, colour, fn, row, size=49)
    row.gate.set()
    assert results(calls) == ["old"] * 50
    assert row.loads <= 2
    assert fn.cache_info().uncacheable == row.loads


def test_uncacheable_value_is_not_shared_after_a_write(cache: Cache, colour: Colour) -> None:
    """Where nothing is filled the release proves the lease: if a write killed it, late callers do not get the value."""
    row = Row()
    fn = colour.decorate(cache.cached(key="row:{row_id}", cache_if=lambda value: False), row.load)
    leader = colour.call(fn, 1)
    assert row.reading.wait(TIMEOUT)
    row.value = "new"
    cache.invalidate("row:1")
    late = [colour.call(fn, 1) for _ in range(20)]
    time.sleep(0.1)
    row.gate.set()
    assert leader.result(TIMEOUT) == "old"
    assert results(late) == ["new"] * 20
    assert row.loads <= 4


def test_exception_is_shared_and_not_stored(cache: Cache, colour: Colour) -> None:
    """A failing load fails those who waited for it, once; it is neither stored nor replayed later."""
    row = Row()
    row.error = LookupError("no such row")
    fn = colour.decorate(cache.cached(key="row:{row_id}"), row.load)
    calls = crowd(cache, colour, fn, row)
    row.gate.set()
    assert [str(error) for error in results(calls)] == ["no such row"] * 21
    assert row.loads <= 2
    row.error = None
    assert colour.run(fn, 1) == "old"


def test_exception_is_not_shared_after_a_write(cache: Cache, colour: Colour) -> None:
    """An exception from before a write does not reach callers that came after it."""
    row = Row()
    row.error = LookupError("no such row")
    fn = colour.decorate(cache.cached(key="row:{row_id}"), row.load)
    leader = colour.call(fn, 1)
    assert row.reading.wait(TIMEOUT)
    row.error = None
    cache.invalidate("row:1")
    late = [colour.call(fn, 1) for _ in range(20)]
    time.sleep(0.1)
    row.gate.set()
    assert isinstance(leader.exception(TIMEOUT), LookupError)
    assert results(late) == ["old"] * 20


def test_killed_leader_strands_nobody(cache: Cache, colour: Colour) -> None:
    """A leader that is cancelled, or whose thread is killed, gives its lease back: a follower takes over at once."""
    row = Row()
    fn = colour.decorate(cache.cached(key="row:{row_id}"), row.load)
    if isinstance(colour, Threads):
        leader = killable(fn, row)
    else:
        leader = colour.call(fn, 1)
        assert row.reading.wait(TIMEOUT)
    followers = [colour.call(fn, 1) for _ in range(20)]
    until(lambda: fn.cache_info().misses == 21)
    began = time.monotonic()
    if isinstance(colour, Threads):
        row.gate.set()
        leader.join(TIMEOUT)
    else:
        assert leader.cancel()
        with pytest.raises(CancelledError):
            leader.result(TIMEOUT)
        row.gate.set()
    assert results(followers) == ["old"] * 20
    assert row.loads == 2
    assert time.monotonic() - began < 4  # not a timing of ours: the lease is 5 s, and nobody waited for its end
    assert colour.run(fn, 1) == "old"
    assert row.loads == 2


@pytest.mark.parametrize("colour", [Tasks], indirect=True)  # a thread cannot be cancelled
def test_cancelled_follower_cancels_nobody(cache: Cache, colour: Colour) -> None:
    """A follower that goes away takes neither the load nor the other followers with it."""
    row = Row()
    fn = colour.decorate(cache.cached(key="row:{row_id}"), row.load)
    calls = crowd(cache, colour, fn, row)
    assert calls[3].cancel()
    row.gate.set()
    rest = calls[:3] + calls[4:]
    assert results(rest) == ["old"] * 20
    assert row.loads == 1


def test_a_wait_ends_after_the_lease(colour: Colour) -> None:
    """A load that hangs holds its followers no longer than the lease: then they load themselves, and fill nothing."""
    cache = Cache(lease=0.3)
    row = Row()
    fn = colour.decorate(cache.cached(key="row:{row_id}"), row.load)
    stuck = colour.call(fn, 1)
    assert row.reading.wait(TIMEOUT)
    row.reading.clear()
    follower = colour.call(fn, 1)
    assert row.reading.wait(TIMEOUT)  # the follower's own load has begun while the first still hangs
    assert not stuck.done()
    row.gate.set()
    assert follower.result(TIMEOUT) == "old"
    assert stuck.result(TIMEOUT) == "old"
    assert fn.cache_info().refused == 1  # the first came too late to fill


class OtherProcess(MemoryBackend):
    """Memory that another process can write to between the server's acceptance of a fill and its reply."""

    meddle: Any = None

    def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        accepted = super().fill(key, token, stored, ttl)
        if self.meddle is not None:
            meddle, self.meddle = self.meddle, None
            meddle(key)
        return accepted


def test_flight_is_sealed_before_its_fill_is_sent(colour: Colour) -> None:
    """A caller that comes after a write of another process, between a fill's acceptance and its reply, does not get
    the value from before that write. (Sealed after the fill, the flight would let it join.)"""
    backend = OtherProcess()
    cache = Cache(backend, lease=2)
    row = Row()
    fn = colour.decorate(cache.cached(key="row:{row_id}"), row.load)
    late: list[Any] = []
    # The late caller comes from a thread in both colours: the loop's own thread is inside the fill.
    threads = Threads()
    sync_fn = threads.decorate(cache.cached(key="row:{row_id}"), row.load)

    def write_elsewhere(key: str) -> None:
        row.value = "new"
        backend.invalidate([key])
        leased: Any = backend.lookup(key, 0.3)  # a reader elsewhere takes the lease, so that callers here find it taken
        assert leased.token
        late.append(threads.call(sync_fn, 1))
        until(lambda: sync_fn.cache_info().misses == 1)
        time.sleep(0.05)

    backend.meddle = write_elsewhere
    row.gate.set()
    assert colour.run(fn, 1) == "old"
    assert late[0].result(TIMEOUT) == "new"


def test_threads_and_tasks_share_a_flight() -> None:
    """A thread waits for a load that a task leads, and a task for one that a thread leads: one load either way."""
    tasks, threads = Tasks(), Threads()
    try:
        for leader, follower in ((tasks, threads), (threads, tasks)):
            cache, row = Cache(), Row()
            leading = leader.decorate(cache.cached(key="row:{row_id}"), row.load)
            following = follower.decorate(cache.cached(key="row:{row_id}"), row.load)
            first = leader.call(leading, 1)
            assert row.reading.wait(TIMEOUT)
            second = follower.call(following, 1)
            until(lambda following=following: following.cache_info().misses == 1)
            time.sleep(0.05)
            row.gate.set()
            assert (first.result(TIMEOUT), second.result(TIMEOUT), row.loads) == ("old", "old", 1)
    finally:
        tasks.close()
