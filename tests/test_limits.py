"""What a store gets to see when a cache is cold and everybody comes at once: no more loads than `max_loads` allows."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest
from servers import MemcachedServer, RedisServer

from cacheside import Cache, ConfigurationError, TooManyLoads

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
