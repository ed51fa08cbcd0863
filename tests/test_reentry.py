"""Calls that would wait for themselves: a clear error, never a deadlock; and sync code on an event loop's thread."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from cacheside import Cache, RecursiveLoadError
from cacheside.backends.memory import MemoryBackend
from cacheside.errors import CacheUnavailable


class Broken(MemoryBackend):
    """A cache that does not answer."""

    def lookup(self, key: str, lease: float) -> Any:
        raise CacheUnavailable("no answer")


@pytest.fixture(params=[MemoryBackend, Broken])
def cache(request: pytest.FixtureRequest) -> Cache:
    """A cache that works, and one that is down: both would wait for a load."""
    return Cache(request.param())


def test_same_thread(cache: Cache) -> None:
    """A load that calls its own cached function for the same key gets an error that names the key and the cure."""

    @cache.cached(key="node:{node}")
    def walk(node: int) -> int:
        return walk(node)

    with pytest.raises(RecursiveLoadError, match=r"node:1.*__wrapped__"):
        walk(1)


def test_same_thread_in_another_context(cache: Cache) -> None:
    """It is seen too where the load leaves its context behind."""

    @cache.cached(key="node:{node}")
    def walk(node: int) -> int:
        return contextvars.Context().run(walk, node)

    with pytest.raises(RecursiveLoadError):
        walk(1)


def test_same_task(cache: Cache) -> None:
    """An async load that calls itself for the same key gets the error."""

    @cache.cached(key="node:{node}")
    async def walk(node: int) -> int:
        return await walk(node)

    with pytest.raises(RecursiveLoadError):
        asyncio.run(walk(1))


def test_child_task(cache: Cache) -> None:
    """Child tasks of a load count as inside it."""

    @cache.cached(key="node:{node}")
    async def walk(node: int) -> list[int]:
        return await asyncio.gather(walk(node), walk(node))  # type: ignore[arg-type]  # never returns

    with pytest.raises(RecursiveLoadError):
        asyncio.run(walk(1))


def test_child_thread_of_a_task(cache: Cache) -> None:
    """So does a thread that `asyncio.to_thread` starts in a load, also through a sync function that shares the key."""

    @cache.cached(key="node:{node}")
    def plain(node: int) -> int:
        return 0

    @cache.cached(key="node:{node}")
    async def walk(node: int) -> int:
        return await asyncio.to_thread(plain, node)

    with pytest.raises(RecursiveLoadError):
        asyncio.run(walk(1))


def test_nested_loop(cache: Cache) -> None:
    """And an event loop that a sync load runs."""

    @cache.cached(key="node:{node}")
    async def inner(node: int) -> int:
        return 0

    @cache.cached(key="node:{node}")
    def outer(node: int) -> int:
        return asyncio.run(inner(node))

    with pytest.raises(RecursiveLoadError):
        outer(1)


def test_error_passes_and_works_afterwards() -> None:
    """The error is not stored, and leaves no lease behind."""
    cache, again = Cache(), [True]

    @cache.cached(key="node:{node}")
    def walk(node: int) -> int:
        return walk(node) if again.pop() else node

    with pytest.raises(RecursiveLoadError):
        walk(1)
    again.append(False)
    assert walk(1) == 1


def test_other_keys_may_recurse(cache: Cache) -> None:
    """A load may call its function for other keys, as deep as it likes."""

    @cache.cached(key="fib:{n}")
    def fib(n: int) -> int:
        return n if n < 2 else fib(n - 1) + fib(n - 2)

    assert fib(20 if "Broken" not in type(cache._core.backend).__name__ else 8) in (6765, 21)


def test_background_task_of_a_finished_load() -> None:
    """A task that a load left behind may call the function for the same key once the load is over."""
    cache, later = Cache(), []

    @cache.cached(key="node:{node}", cache_if=lambda value: False)
    async def get(node: int) -> int:
        async def work() -> int:
            await asyncio.sleep(0.05)
            return await get(node)

        if not later:
            later.append(asyncio.create_task(work()))
        return node

    async def main() -> int:
        await get(1)
        return await later[0]

    assert asyncio.run(main()) == 1


def test_sync_code_never_waits_for_a_task_of_its_own_loop() -> None:
    """Waiting there would block the loop that has to finish the load: sync code loads for itself and fills nothing."""
    cache = Cache(lease=30)
    loads: list[str] = []

    @cache.cached(key="row:{row}")
    async def fetch(row: int) -> str:
        loads.append("async")
        await asyncio.sleep(0.05)
        return "async"

    @cache.cached(key="row:{row}")
    def get(row: int) -> str:
        loads.append("sync")
        return "sync"

    async def main() -> list[str]:
        task = asyncio.create_task(fetch(1))
        await asyncio.sleep(0.01)
        mine = get(1)  # on the loop's own thread, while the task is in its load
        return [mine, await task, get(1)]

    assert asyncio.run(asyncio.wait_for(main(), 10)) == ["sync", "async", "async"]
    assert loads == ["async", "sync"]


def test_sync_code_on_a_loop_never_sleeps_for_a_lease() -> None:
    """A lease that another process holds is not waited for on a loop's thread either."""
    cache = Cache(lease=30)
    backend: Any = cache._core.backend

    @cache.cached(key="row:{row}")
    def get(row: int) -> str:
        return "loaded"

    async def main() -> str:
        assert backend.lookup("row:1", 30).token
        return get(1)

    assert asyncio.run(asyncio.wait_for(main(), 10)) == "loaded"
    assert get.cache_info().bypassed == 1


def test_sync_code_in_a_loop_may_wait_for_another_thread() -> None:
    """A flight that a thread leads ends without the loop, so sync code on the loop shares it."""
    cache, loads = Cache(), []
    reading, gate = threading.Event(), threading.Event()

    @cache.cached(key="row:{row}")
    def get(row: int) -> str:
        loads.append(row)
        reading.set()
        assert gate.wait(10)
        return "value"

    async def main() -> str:
        thread = threading.Thread(target=get, args=(1,))
        thread.start()
        assert reading.wait(10)
        threading.Timer(0.05, gate.set).start()
        value = get(1)
        thread.join()
        return value

    assert asyncio.run(main()) == "value"
    assert loads == [1]


def test_two_keys_that_wait_for_each_other() -> None:
    """Two loads that need each other's keys are a deadlock of the program's own; it ends after the lease."""
    cache = Cache(lease=0.3)
    barrier = threading.Barrier(2)
    depth = threading.local()

    @cache.cached(key="key:{name}")
    def load(name: str) -> str:
        if getattr(depth, "nested", False):
            return name
        depth.nested = True
        barrier.wait(10)
        return name + load("b" if name == "a" else "a")

    results: list[str] = []
    threads = [threading.Thread(target=lambda name=name: results.append(load(name))) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(results) == ["ab", "ba"]
