"""A cache that several event loops use: one after another, with and without aclose, and at once in threads."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from colours import TIMEOUT, until
from wire import Wire

from cacheside import Cache

KINDS = [
    "memory",
    pytest.param("redis_server", marks=pytest.mark.server),
    pytest.param("memcached_server", marks=pytest.mark.server),
]


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest) -> str:
    """Each backend."""
    return "memory://" if request.param == "memory" else str(request.getfixturevalue(request.param).url)


@pytest.fixture
def cache(url: str, namespace: str) -> Iterator[Cache]:
    """Whatever it leaves open at the end would warn, and warnings are errors."""
    with Cache(url, namespace=namespace, timeout=5, lease=60) as made:
        yield made
    gc.collect()


class Store:
    """Rows, and how often they were read."""

    def __init__(self, cache: Cache) -> None:
        self.value = "old"
        self.loads = 0
        self.gate: threading.Event | None = None
        self.reading = threading.Event()

        @cache.cached("row:{row}")
        async def get(row: int) -> str:
            self.loads += 1
            value = self.value
            self.reading.set()
            while self.gate is not None and not self.gate.is_set():
                await asyncio.sleep(0.002)
            return value

        @cache.cached("row:{row}")
        def plain(row: int) -> str:
            self.loads += 1
            return self.value

        self.get: Any = get
        self.plain: Any = plain


def in_thread(work: Callable[[], Awaitable[Any]]) -> Future[Any]:
    """Run `work` in an event loop of its own, in a thread of its own."""
    future: Future[Any] = Future()

    async def awaited() -> Any:
        return await work()

    def run() -> None:
        try:
            future.set_result(asyncio.run(awaited()))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


@pytest.mark.parametrize("closing", [True, False], ids=["aclose", "no aclose"])
def test_one_after_another(cache: Cache, closing: bool) -> None:
    """Each asyncio.run finds what the one before stored; loops that are over are let go, with what belonged to them."""
    store = Store(cache)
    gone: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def use() -> None:
        gone.append(weakref.ref(asyncio.get_running_loop()))
        assert await asyncio.gather(*map(store.get, range(10))) == ["old"] * 10
        if closing:
            await cache.aclose()
            assert await store.get(1) == "old"  # it works again
            await cache.aclose()

    for _ in range(12):
        asyncio.run(use())
    assert store.loads == 10
    assert store.get.cache_info().errors == 0
    gc.collect()
    assert sum(loop() is not None for loop in gone) <= 1  # the last one may be known until there is another


def test_a_loop_that_dies_in_a_load(cache: Cache) -> None:
    """A loop that ends while its task leads a load strands nobody: it gives the lease back, and another takes over."""
    store = Store(cache)
    store.gate = threading.Event()

    async def give_up() -> None:
        task = asyncio.ensure_future(store.get(1))
        while not store.reading.is_set():
            await asyncio.sleep(0.002)
        del task  # asyncio.run cancels what still runs

    in_thread(give_up).result(TIMEOUT)
    store.gate.set()
    assert in_thread(lambda: store.get(1)).result(TIMEOUT) == "old"
    assert store.plain(1) == "old"
    assert store.get.cache_info().errors == 0


class Slow:
    """The awaitable form of a `Wire` whose releases take `steps` turns of the loop; a loop stops soon after its end."""

    def __init__(self, wire: Wire, steps: float) -> None:
        self._aio: Any = wire.aio
        self._steps = steps

    def __getattr__(self, name: str) -> Any:
        return getattr(self._aio, name)

    async def release(self, key: str, token: Any) -> bool:
        """See `AsyncBackend.release`."""
        step = 0
        while step < self._steps:
            await asyncio.sleep(0)
            step += 1
        released: bool = await self._aio.release(key, token)
        return released


@pytest.mark.parametrize("where", ["lookup", "load"])
def test_a_dying_loop_has_time_to_give_a_lease_back(where: str) -> None:
    """asyncio.run does not end before the lease of a call that it cancels, in its lookup or its load, is released."""
    wire = Wire()
    wire.aio = Slow(wire, 50)  # type: ignore[assignment]  # it answers all of AsyncBackend's calls
    cache = Cache(wire, lease=60)
    loads = []

    @cache.cached("row:{row}")
    async def get(row: int) -> str:
        loads.append(row)
        if len(loads) == 1 and where == "load":
            await asyncio.Event().wait()
        return "value"

    async def give_up() -> None:
        task = asyncio.ensure_future(get(1))
        while not wire.asked:
            await asyncio.sleep(0)
        while where == "load" and not loads:
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    assert wire.asked[-1] == "release"
    assert asyncio.run(get(1)) == "value"
    assert len(loads) == 1 + (where == "load")


def test_a_cancelled_call_does_not_wait_for_a_broken_cache() -> None:
    """It ends although the release of its lease never does."""
    wire = Wire()
    wire.aio = Slow(wire, float("inf"))  # type: ignore[assignment]  # as above
    cache = Cache(wire, lease=60)
    begun = threading.Event()

    @cache.cached("row:{row}")
    async def get(row: int) -> str:
        begun.set()
        await asyncio.Event().wait()
        return "never"

    async def give_up() -> None:
        task = asyncio.ensure_future(get(1))
        while not begun.is_set():
            await asyncio.sleep(0.002)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(task), TIMEOUT)

    in_thread(give_up).result(TIMEOUT)


def test_followers_outlive_the_leaders_loop(cache: Cache) -> None:
    """Followers in other loops are woken when the leader's loop ends under it, and one of them takes over."""
    store = Store(cache)
    store.gate = threading.Event()
    stop = threading.Event()

    async def lead() -> None:
        task = asyncio.ensure_future(store.get(1))
        while not stop.is_set():
            await asyncio.sleep(0.002)
        del task

    leader = in_thread(lead)
    assert store.reading.wait(TIMEOUT)
    followers = [in_thread(lambda: store.get(1)) for _ in range(5)]
    until(lambda: store.get.cache_info().misses == 6)
    stop.set()
    leader.result(TIMEOUT)
    store.gate.set()
    assert [follower.result(TIMEOUT) for follower in followers] == ["old"] * 5
    assert store.loads <= 6  # the leader's; and nobody loads twice


def test_at_once_in_threads(cache: Cache) -> None:
    """Eight loops in eight threads and plain threads meet on a cold key: one load; and again after an invalidation."""
    store = Store(cache)
    for number in range(3):
        store.loads, store.value, store.gate = 0, f"value {number}", threading.Event()
        misses = store.get.cache_info().misses

        async def crowd() -> set[str]:
            return set(await asyncio.gather(*(store.get(7) for _ in range(5))))

        calls = [in_thread(crowd) for _ in range(8)]
        until(lambda: store.get.cache_info().misses == misses + 40)  # noqa: B023  # called at once
        store.gate.set()
        assert [call.result(TIMEOUT) for call in calls] == [{f"value {number}"}] * 8
        assert store.loads == 1
        assert store.plain(7) == f"value {number}"
        in_thread(lambda: store.get.invalidate(7)).result(TIMEOUT)
    assert cache.stats().totals.errors == 0


def test_invalidation_from_another_loop(cache: Cache) -> None:
    """What one loop invalidates no other loop, and no thread, gets again; also while they all go on."""
    store = Store(cache)
    written = 0
    stop = threading.Event()

    async def read() -> int:
        reads = 0
        while not stop.is_set():
            before = written
            value = await store.get(1)
            assert int(value) >= before, (value, before)
            reads += 1
            await asyncio.sleep(0)
        return reads

    store.value = "0"
    readers = [in_thread(read) for _ in range(3)]

    async def write() -> None:
        nonlocal written
        for number in range(1, 101):
            store.value = str(number)
            await store.get.invalidate(1)
            written = number
            assert await store.get(1) == str(number)

    in_thread(write).result(TIMEOUT)
    stop.set()
    assert all(reader.result(TIMEOUT) > 0 for reader in readers)
    assert store.plain(1) == "100"
    assert cache.stats().totals.errors == 0


def test_loops_in_turn_in_many_threads(cache: Cache) -> None:
    """Threads that each run loop after loop, some closing and some not, leave nothing behind that would warn."""
    store = Store(cache)
    gone: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def use(closing: bool) -> None:
        gone.append(weakref.ref(asyncio.get_running_loop()))
        assert await store.get(1) == "old"
        await store.get.invalidate(1)
        if closing:
            await cache.aclose()

    def loops() -> None:
        try:
            for number in range(6):
                asyncio.run(use(number % 2 == 0))
        except BaseException as error:
            failures.append(error)

    failures: list[BaseException] = []
    threads = [threading.Thread(target=loops) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    asyncio.run(use(True))
    gc.collect()
    assert sum(loop() is not None for loop in gone) <= 1
    assert cache.stats().totals.errors == 0
