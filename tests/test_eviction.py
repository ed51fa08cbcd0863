"""What a memory cache keeps: each policy against the textbook, bounds by number and by size, expiry without a scan."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheside import Cache, CacheWarning, ConfigurationError, eviction
from cacheside.backends.memory import MemoryBackend
from cacheside.deadlines import SLACK, Deadlines
from cacheside.entries import Entry
from cacheside.shelf import AT_ONCE, OVERHEAD, Shelf
from cacheside.sizes import size_of
from cacheside.testing import FakeClock

POLICIES = ("s3fifo", "sieve", "lru", "lfu", "fifo")


class Lru:
    """The textbook, in its simplest form: what is there, and what an access does to it."""

    moves_on_hit = True

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.order: OrderedDict[str, None] = OrderedDict()

    def keys(self) -> set[str]:
        return set(self.order)

    def access(self, key: str) -> None:
        if key in self.order:
            if self.moves_on_hit:
                self.order.move_to_end(key)
            return
        if len(self.order) == self.capacity:
            self.order.popitem(last=False)
        self.order[key] = None

    def remove(self, key: str) -> None:
        self.order.pop(key, None)


class Fifo(Lru):
    moves_on_hit = False


class Sieve:
    """By the pseudocode of the paper, on a list: new at the end, the hand an index."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.queue: list[str] = []
        self.visited: set[str] = set()
        self.hand = 0

    def keys(self) -> set[str]:
        return set(self.queue)

    def access(self, key: str) -> None:
        if key in self.queue:
            self.visited.add(key)
            return
        if len(self.queue) == self.capacity:
            self.hand %= len(self.queue)
            while self.queue[self.hand] in self.visited:
                self.visited.remove(self.queue[self.hand])
                self.hand = (self.hand + 1) % len(self.queue)
            del self.queue[self.hand]  # the hand points to the next one now
            if self.hand == len(self.queue):
                self.hand = 0
        self.queue.append(key)

    def remove(self, key: str) -> None:
        if key in self.queue:
            number = self.queue.index(key)
            del self.queue[number]
            self.visited.discard(key)
            if number < self.hand:
                self.hand -= 1
            elif self.hand == len(self.queue):
                self.hand = 0


class S3Fifo:
    """By the algorithm of the paper, on ordered dicts."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.small: OrderedDict[str, int] = OrderedDict()
        self.main: OrderedDict[str, int] = OrderedDict()
        self.left: list[str | None] = []  # the last that left the small queue; None for what has come back
        self.main_capacity = capacity - max(1, capacity // 10)

    def keys(self) -> set[str]:
        return {*self.small, *self.main}

    def access(self, key: str) -> None:
        for queue in (self.small, self.main):
            if key in queue:
                queue[key] = min(3, queue[key] + 1)
                return
        while len(self.small) + len(self.main) >= self.capacity:
            self.evict()
        queue = self.main if key in self.left else self.small
        self.left = [None if each == key else each for each in self.left]
        queue[key] = 0

    def evict(self) -> None:
        if len(self.main) <= self.main_capacity:
            while self.small:
                key, hits = self.small.popitem(last=False)
                if hits < 2:
                    self.left.append(key)
                    del self.left[: max(0, len(self.left) - self.main_capacity)]
                    return
                self.main[key] = 0
        while True:
            key, hits = self.main.popitem(last=False)
            if not hits:
                return
            self.main[key] = hits - 1

    def remove(self, key: str) -> None:
        self.small.pop(key, None)
        self.main.pop(key, None)


TEXTBOOK: dict[str, Any] = {"lru": Lru, "fifo": Fifo, "sieve": Sieve, "s3fifo": S3Fifo}


@given(
    st.integers(1, 25),
    st.lists(st.tuples(st.sampled_from("aaaaar"), st.one_of(st.integers(0, 8), st.integers(0, 60))), max_size=300),
)
@pytest.mark.parametrize("policy", TEXTBOOK)
def test_policies(policy: str, capacity: int, events: list[tuple[str, int]]) -> None:
    """After every access and every removal exactly those keys are there that the textbook says."""
    expected = TEXTBOOK[policy](capacity)
    shelf = Shelf(capacity, policy, None, FakeClock())
    for event, number in events:
        key = str(number)
        if event == "r":
            shelf.pop(key)
            expected.remove(key)
        else:
            if shelf.hit(key) is None:
                shelf.put(key, number, None)
            expected.access(key)
        assert set(shelf) == expected.keys()


@pytest.mark.parametrize("policy", POLICIES)
@given(
    st.lists(
        st.tuples(st.integers(0, 30), st.integers(1, 30), st.sampled_from((1.0, 5.0, None)), st.booleans()),
        max_size=120,
    )
)
def test_bounds(policy: str, events: list[tuple[int, int, float | None, bool]]) -> None:
    """Whatever comes, the weights never exceed the capacity, no entry is dead, and none that has left is alive."""
    clock = FakeClock()
    alive: dict[str, Entry] = {}
    shelf = Shelf(OVERHEAD * 10, policy, lambda weight: weight * 40 - OVERHEAD - 2, clock)
    for number, weight, ttl, later in events:
        key = f"{number:02}"
        if shelf.hit(key) is None:
            shelf.put(key, weight, ttl)
            entry = shelf.get(key)
            assert entry is not None
            alive[key] = entry
        if later:
            clock.advance(1.5)
        entries = [shelf._store.get(key) for key in shelf]
        assert sum(entry.weight for entry in entries if entry) <= shelf.capacity
        for known, entry in alive.items():
            assert (entry.deadline > float("-inf")) == (shelf._store.get(known) is entry)


@pytest.mark.parametrize("policy", POLICIES)
def test_a_scan_and_hot_keys(policy: str) -> None:
    """A thousand keys that are asked for once: what is asked for all the time stays, but for "fifo"."""
    cache = Cache(f"memory://?max_entries=20&policy={policy}")
    loads: list[int] = []

    @cache.cached(key="k:{key}")
    def get(key: int) -> int:
        loads.append(key)
        return key

    for key in range(100, 1100):
        get(key)
        for hot in range(5):
            get(hot)
    again = sum(loads.count(hot) for hot in range(5))
    assert again == 5 if policy != "fifo" else again > 50
    assert cache.stats().totals.currsize == 20


def test_unknown_policy() -> None:
    """The message lists the policies that there are."""
    with pytest.raises(ConfigurationError, match=r"'clock'.*fifo, lfu, lru, s3fifo, sieve"):
        Cache("memory://?policy=clock")


def test_own_policy() -> None:
    """A policy that was registered is found by its name."""

    class Newest:
        touch = False

        def __init__(self, capacity: int, evicted: eviction.Evicted) -> None:
            self.capacity, self.evicted = capacity, evicted
            self.entries: dict[str, Entry] = {}

        def get(self, key: str) -> Entry | None:
            return self.entries.get(key)

        def hit(self, entry: Entry) -> None: ...

        def add(self, entry: Entry) -> None:
            if len(self.entries) == self.capacity:
                self.evicted(self.entries.popitem()[1])
            self.entries[entry.key] = entry

        def remove(self, entry: Entry) -> None:
            del self.entries[entry.key]

        def __len__(self) -> int:
            return len(self.entries)

        def __iter__(self) -> Any:
            return iter(self.entries.values())

    eviction.register("newest", Newest)
    cache = Cache("memory://?max_entries=2&policy=newest")
    get = cache.cached(key="k:{a}")(lambda a: [a])
    kept = get(1)
    get(2), get(3), get(4)
    assert get(1) is kept
    assert get.cache_info().currsize == 2


# --- max_bytes


def test_max_bytes() -> None:
    """As many values are kept as fit; the number is not limited, and the number in `cache_info` has no maximum."""
    cache = Cache(MemoryBackend(max_bytes=100_000))
    get = cache.cached(key="k:{a}")(lambda a: bytes(a * 1000))
    for size in (30, 30.5, 31):  # three keys of about 30 kB
        get(int(size)), get(int(size))
    assert get.cache_info().maxsize is None
    for number in range(1000):
        cache.cached(key="small:{a}")(lambda a: None)(number)
    assert 100 < get.cache_info().currsize < 100_000 // OVERHEAD


def test_too_large() -> None:
    """A value larger than everything is returned, not cached, and a warning says why; the lease is given back."""
    get = Cache("memory://?max_bytes=10000").cached(key="k:{a}")(lambda a: bytes(a))
    with pytest.warns(CacheWarning, match="max_bytes is 10000"):
        assert get(20_000) == bytes(20_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert get(20_000) == bytes(20_000)
    assert get.cache_info()[:5] == (0, 2, None, 0, 2)
    assert get.cache_info().uncacheable == 2


def test_too_large_for_an_update() -> None:
    """An update with such a value is an invalidation."""
    cache = Cache("memory://?max_bytes=10000")
    get = cache.cached(key="k")(lambda: b"old")
    put = cache.updates(get)(lambda value: value)
    assert get() == b"old"
    with pytest.warns(CacheWarning, match="max_bytes"):
        put(bytes(20_000))
    assert get.cache_info().currsize == 0
    assert cache.stats().updates_refused == 1


def test_size_function() -> None:
    """`size=` says how much a value takes, in whatever unit `max_bytes` is meant."""
    backend = MemoryBackend(max_bytes=10 * (OVERHEAD + 3 + 100), size=lambda value: 100, policy="fifo")
    get = Cache(backend).cached(key="k:{a}")(lambda a: a)
    for number in range(30):
        get(number % 10)
    assert get.cache_info()[:4] == (20, 10, None, 10)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_entries": 5, "max_bytes": 5}, "give one of them"),
        ({"max_bytes": 0}, "max_bytes must be a positive integer"),
        ({"max_bytes": True}, "max_bytes must be a positive integer"),
        ({"max_entries": 0}, "max_entries must be a positive integer"),
        ({"size": len}, "size= is for max_bytes="),
    ],
)
def test_bad_bounds(options: dict[str, Any], words: str) -> None:
    """Bounds that cannot work are refused where they are given."""
    with pytest.raises(ConfigurationError, match=words):
        MemoryBackend(**options)


def test_size_of() -> None:
    """A value counts with all that it refers to, each object once, and without classes and modules."""
    text = "x" * 1000

    class Thing:
        def __init__(self) -> None:
            self.text = text
            self.me = self
            self.kind = Thing
            self.module = pytest

    assert 1000 < size_of(text) < 1100
    assert size_of([text] * 10) < 1300
    assert size_of(["x" * 1000 + str(n) for n in range(10)]) > 10_000
    assert 1000 < size_of(Thing()) < 3000


# --- expiry


def test_expired_entries_give_their_memory_back() -> None:
    """What has expired goes as others come, a few at a time, so that no operation takes long; asked, all of it goes."""
    clock = FakeClock()
    shelf = Shelf(10_000, "s3fifo", None, clock)
    for number in range(1000):
        shelf.put(str(number), number, 10)
    clock.advance(12)
    shelf.put("next", 0, 10)
    assert len(shelf) == 1001 - AT_ONCE
    for number in range(200):
        shelf.put(f"next{number}", 0, 10)
    assert len(shelf) == 201
    clock.advance(12)
    shelf.reclaim()
    assert len(shelf) == 0


def test_dropped_entries_are_forgotten() -> None:
    """A key that is filled and invalidated for ever leaves nothing behind, however long its ttl."""
    shelf = Shelf(100, "s3fifo", None, FakeClock())
    for number in range(20 * SLACK):
        shelf.put(str(number % 7), number, 86_400)
    noted = sum(len(entries) for entries in shelf._deadlines._entries.values())
    assert noted <= 3 * SLACK
    for number in range(20 * SLACK):
        shelf.put(str(number % 7), number, None)
    assert sum(len(entries) for entries in shelf._deadlines._entries.values()) <= 3 * SLACK


@given(st.lists(st.tuples(st.sampled_from(("add", "drop", "wait")), st.floats(0.01, 50)), max_size=200))
def test_deadlines(events: list[tuple[str, float]]) -> None:
    """After any time exactly those are told of whose second is over and which were not dropped; each once."""
    deadlines, now = Deadlines(), 0.0
    live: list[Entry] = []
    for event, number in events:
        if event == "add":
            live.append(Entry("k", None, now + number, 1))
            deadlines.add(live[-1])
        elif event == "drop" and live:
            entry = live.pop(int(number) % len(live))
            deadline = entry.deadline
            entry.die()
            deadlines.dropped(deadline)
        elif event == "wait":
            now += number
            told = deadlines.expired(now, None)
            assert all(entry.deadline <= now for entry in told)
            assert len({id(entry) for entry in told}) == len(told)
            live = [entry for entry in live if entry not in told]
            assert all(entry.deadline > now - 1 for entry in live)
