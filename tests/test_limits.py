"""What a store gets to see when a cache is cold and everybody comes at once: no more loads than `max_loads` allows."""

from __future__ import annotations

import asyncio
import threading
import time
import types
from collections.abc import Iterator
from typing import Any, cast

import pytest
from colours import TIMEOUT, Colour, results, until
from servers import MemcachedServer, RedisServer

from cacheside import Cache, ConfigurationError, LoadTimeout, TooManyLoads, invalidates
from cacheside.backends.base import Capability
from cacheside.backends.memory import MemoryBackend
from cacheside.flight import Flight
from cacheside.steps import Ask, Spawn, Wait
from cacheside.testing import FakeClock, disabled

CALLERS, ROWS, LIMIT = 500, 5_000, 20
PLACES = ["memory", *(pytest.param(name, marks=pytest.mark.server) for name in ("redis", "memcached"))]


class Store:
    """Rows, and how many are being read at once: now, and at most."""

    def __init__(self) -> None:
        self.reads: dict[int, int] = {}
        self.running = self.most = 0
        self._lock = threading.Lock()

    def read(self, row: int) -> str:
        """Read a row, which takes its time."""
        self._enter(row)
        time.sleep(0.0005)
        return self._leave(row)

    async def aread(self, row: int) -> str:
        """`read`, awaitable."""
        self._enter(row)
        await asyncio.sleep(0.0005)
        return self._leave(row)

    def _enter(self, row: int) -> None:
        with self._lock:
            self.reads[row] = self.reads.get(row, 0) + 1
            self.running += 1
            self.most = max(self.most, self.running)

    def _leave(self, row: int) -> str:
        with self._lock:
            self.running -= 1
        return f"row {row}"


def opened(request: pytest.FixtureRequest, place: str, namespace: str) -> Cache:
    """A cache in this process, or on a server; patient, since the machine may be busy."""
    if place == "memory":
        return Cache("memory://", lease=110)
    server: RedisServer | MemcachedServer = request.getfixturevalue(f"{place}_server")
    return Cache(server.url, namespace=namespace, timeout=60, lease=110)


def rows_of(caller: int) -> list[int]:
    """The rows that a caller wants: ten of its own, and one that a hundred want."""
    own = ROWS // CALLERS
    return [caller * own + number for number in range(own)] + [caller % 5]


def check(store: Store, found: dict[int, list[str]], read: Any) -> None:
    """All callers have what they came for, and the store has seen what it can stand."""
    assert found == {caller: [f"row {row}" for row in rows_of(caller)] for caller in range(CALLERS)}
    assert 1 < store.most <= LIMIT
    assert store.running == 0
    assert store.reads == dict.fromkeys(range(ROWS), 1)
    info = read.cache_info()
    assert (info.loads, info.rejected, info.errors) == (ROWS, 0, 0)
    assert info.hits + info.misses == CALLERS * len(rows_of(0))


@pytest.mark.parametrize("place", PLACES)
def test_crowd_of_threads(request: pytest.FixtureRequest, place: str, namespace: str) -> None:
    """500 threads that want 5,000 cold rows get them all, and the store never reads more than 20 at once."""
    store, found = Store(), dict[int, list[str]]()
    with opened(request, place, namespace) as cache:
        read = cache.cached(key="row:{row}", max_loads=LIMIT)(store.read)

        def caller(number: int) -> None:
            found[number] = [read(row) for row in rows_of(number)]

        threads = [threading.Thread(target=caller, args=(number,)) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        check(store, found, read)


@pytest.mark.parametrize("place", PLACES)
def test_crowd_of_tasks(request: pytest.FixtureRequest, place: str, namespace: str) -> None:
    """The same for 500 tasks."""
    store = Store()

    async def main() -> None:
        async with opened(request, place, namespace) as cache:
            read = cache.cached(key="row:{row}", max_loads=LIMIT)(store.aread)

            async def caller(number: int) -> list[str]:
                return [await read(row) for row in rows_of(number)]

            answers = await asyncio.gather(*(caller(number) for number in range(CALLERS)))
            check(store, dict(enumerate(answers)), read)

    asyncio.run(main())


def test_limit_is_of_a_function_in_all_its_loops() -> None:
    """Threads with event loops of their own share the limit of a function, and wake each other."""
    store, cache = Store(), Cache("memory://", lease=110)
    read = cache.cached(key="row:{row}", max_loads=3)(store.aread)

    async def caller(first: int) -> list[str]:
        return await asyncio.gather(*(read(row) for row in range(first, first + 50)))

    threads = [threading.Thread(target=asyncio.run, args=(caller(50 * number),)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (store.most, store.reads) == (3, dict.fromkeys(range(200), 1))


def test_caller_that_is_cancelled_while_it_waits() -> None:
    """One that is cancelled while it waits, or while it loads, gives its place to the next."""
    cache, order = Cache("memory://", lease=60), []

    @cache.cached(key="row:{row}", max_loads=1)
    async def read(row: int) -> int:
        order.append(row)
        if row == 0:
            await asyncio.sleep(3600)
        return row

    async def main() -> None:
        tasks = [asyncio.ensure_future(read(row)) for row in range(4)]
        while order != [0]:
            await asyncio.sleep(0)
        await asyncio.sleep(0.01)  # the others stand in line, too
        for task in (tasks[1], tasks[0]):
            task.cancel()
        assert await asyncio.wait_for(asyncio.gather(*tasks[2:]), 30) == [2, 3]
        assert order == [0, 2, 3]
        assert await asyncio.wait_for(read(1), 30) == 1

    asyncio.run(main())


def test_refusal_names_what_to_do() -> None:
    """Who is refused is told by which option, and of which function."""
    cache, held, going = Cache("memory://"), threading.Event(), threading.Event()

    @cache.cached(key="row:{row}", max_loads=1, max_loads_wait=0.01)
    def read(row: int) -> int:
        held.set()
        assert going.wait(30)
        return row

    thread = threading.Thread(target=read, args=(1,))
    thread.start()
    assert held.wait(30)
    with pytest.raises(TooManyLoads, match=r"read: 1 loads are running, as many as max_loads allows"):
        read(2)
    going.set()
    thread.join()
    assert (read(1), read(2)) == (1, 2)


@pytest.fixture(params=["null", "disabled"])
def switched_off(request: pytest.FixtureRequest) -> Iterator[Cache]:
    """A cache that is none, or one with caching switched off."""
    if request.param == "null":
        yield Cache("null://")
    else:
        with disabled():
            yield Cache("memory://")


def test_max_loads_without_a_cache(colour: Colour, switched_off: Cache) -> None:
    """The store is spared where caching is switched off as well: every call loads, in its turn."""
    store, gate = Store(), threading.Event()

    def read(row: int) -> str:
        store._enter(row)
        assert gate.wait(TIMEOUT)
        return store._leave(row)

    limited = colour.decorate(switched_off.cached(key="row:{row}", max_loads=2, max_loads_wait=TIMEOUT), read)
    rows = [1, 2, 3, 1, 2, 3]
    calls = [colour.call(limited, row) for row in rows]
    until(lambda: limited.cache_info().misses == len(rows))
    gate.set()
    assert results(calls) == [f"row {row}" for row in rows]
    assert (store.most, store.reads) == (2, {1: 2, 2: 2, 3: 2})
    info = limited.cache_info()
    assert (info.hits, info.misses, info.loads, info.bypassed) == (0, 6, 6, 6)


def test_load_timeout_without_a_cache(colour: Colour, switched_off: Cache) -> None:
    """Nor does a caller wait longer than `load_timeout` there, of one row or of many."""
    gate = threading.Event()

    def read(row: int) -> int:
        assert gate.wait(TIMEOUT)
        return row

    def read_many(rows: list[int]) -> dict[int, int]:
        return {row: read(row) for row in rows}

    for seconds in (0.05, TIMEOUT):
        one = colour.decorate(switched_off.cached(key="row:{row}", load_timeout=seconds), read)
        many = colour.decorate(switched_off.cached_many("row:{row}", load_timeout=seconds), read_many)
        found = results([colour.call(one, 1), colour.call(many, [1, 2])])
        if gate.is_set():
            assert found == [1, {1: 1, 2: 2}]
            assert colour.run(many, []) == {}
        else:
            assert [type(each) for each in found] == [LoadTimeout] * 2
        assert many.cache_info().misses == 2
        gate.set()


@pytest.mark.parametrize("lease", [100, 8])
def test_one_load_timeout_for_the_whole_call(monkeypatch: pytest.MonkeyPatch, lease: int) -> None:
    """A caller who has to wait for several loads in turn, each refused by a write, waits for `load_timeout` in all."""
    clock = FakeClock()
    for module in ("engine", "freshness"):
        monkeypatch.setattr(f"cacheside.{module}.time", types.SimpleNamespace(monotonic=clock))
    cache = Cache("memory://", lease=lease)
    runtime = cache.cached(key="row:{row}", load_timeout=10)(lambda row: row)._function.runtime()
    core, backend = runtime.core, cast("Any", runtime.core.backend)
    backend.lookup("row:1", lease)  # another has the lease
    flights, lane = core.flights, "row:1" + runtime.reader.codec.identity
    refused = flights.lead(lane, None)
    running, _ = flights.enqueue(lane)
    steps, answer = runtime.reader.read("row:1", sync=True), None
    waits: list[float] = []
    while True:
        try:
            step = steps.send(answer)
        except StopIteration as end:
            outcome = end.value
            break
        answer = True
        if isinstance(step, Ask):
            answer = getattr(backend, step.verb)(*step.args)
        elif isinstance(step, Wait):
            waits.append(step.seconds)
            answer = step.flight in (refused, running)
            clock.advance({refused: 6, running: 1}.get(cast("Flight", step.flight), step.seconds))
            if answer:
                flights.end(cast("Flight", step.flight), "old")
        else:
            assert isinstance(step, Spawn)  # its own load, which takes for ever
    assert waits == pytest.approx([min(lease, 10), 4, 3])
    assert isinstance(outcome.error, LoadTimeout)


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"max_loads": 0}, "1 or more"),
        ({"max_loads": True}, "1 or more"),
        ({"max_loads": 1.5}, "1 or more"),
        ({"max_loads_wait": 1}, "is for max_loads="),
        ({"max_loads": 1, "max_loads_wait": 0}, "max_loads_wait must be a positive"),
        ({"load_timeout": 0}, "load_timeout must be a positive"),
        ({"load_timeout": "5"}, "load_timeout must be seconds"),
        ({"stale_while_revalidate": -1}, "stale_while_revalidate must be 0, or a positive"),
        ({"stale_if_error": float("inf")}, "stale_if_error must be 0, or a positive"),
        ({"early_refresh": "1"}, "early_refresh must be"),
        ({"early_refresh": float("nan")}, "early_refresh must be"),
        ({"ttl": None, "stale_if_error": 5}, "ttl=None means"),
        ({"tags": "org:{org_id}"}, "is a tuple of templates"),
        ({"tags": (5,)}, "is a tuple of templates"),
        ({"tags": [f"tag{number}" for number in range(256)]}, "up to 255"),
        ({"tags": ("org:{org_id}",)}, "org_id"),
    ],
)
def test_bad_options(options: dict[str, Any], cure: str) -> None:
    """Each mistake is refused at decoration, and the message says what to write instead."""
    with pytest.raises(ConfigurationError, match=cure):
        Cache("memory://").cached(key="row:{row}", **options)(lambda row: row)


@pytest.mark.parametrize("window", ["stale_while_revalidate", "stale_if_error", "early_refresh"])
def test_windows_on_a_cache_without_ttl(window: str) -> None:
    """A window past a ttl that the cache says never ends is refused like one past the function's own."""
    cache = Cache("memory://", ttl=None)
    options: dict[str, Any] = {window: 1.0}
    for decorator in (cache.cached(key="row:{row}", **options), cache.cached_many("{item}", **options)):
        with pytest.raises(
            ConfigurationError, match=r"ttl=None means .*memory:// has that ttl: give the function its own"
        ):
            decorator(lambda row: row)
    assert cache.cached(key="row:{row}", ttl=60, **options)(lambda row: row)(1) == 1


@pytest.mark.parametrize(
    ("options", "cure"),
    [
        ({"stale": -1}, "stale must be a positive"),
        ({"stale": 5, "strict": True}, "stale= keeps the old values for a while"),
        ({"stale": 5, "tags": ("org",)}, "stale= keeps the old values for a while"),
        ({"tags": "org"}, "is a tuple of templates"),
        ({"tags": ("org:{result}",), "strict": True}, "an @invalidates of its own"),
        ({"tags": ("org:{nobody}",)}, "nobody"),
    ],
)
def test_bad_writes(options: dict[str, Any], cure: str) -> None:
    """The same for writes."""
    with pytest.raises(ConfigurationError, match=cure):
        Cache("memory://").invalidates("row:{row}", **options)(lambda row: row)


class Plain(MemoryBackend):
    """A backend without claims."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        """See `Backend.capabilities`."""
        return super().capabilities - {"claims"}


def test_stale_on_a_cache_without_claims(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a backend cannot do is said as soon as the cache is known: where it is the write's own, or the target's."""
    plain, able = Cache(Plain()), Cache("memory://")
    reads = [cache.cached(key="row:{row}")(lambda row: row) for cache in (plain, able)]

    def write(row: int) -> None:
        """Nothing."""

    for refused in (
        lambda: plain.invalidates("row:{row}", stale=5)(write),
        lambda: plain.invalidates(lambda row: "k", stale=5)(write),
        lambda: able.invalidates(reads[0], stale=5)(write),
        lambda: plain.invalidating("row:1", stale=5),
    ):
        with pytest.raises(ConfigurationError, match=r"stale= needs .* 'claims', which memory://"):
            refused()
    plain.invalidates(reads[1], stale=5)(write)(1)
    monkeypatch.setattr("cacheside.cache._default", plain)
    late = invalidates("row:{row}", stale=5)(write)
    with pytest.raises(ConfigurationError, match="capability 'claims'"):
        late(1)
