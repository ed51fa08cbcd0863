"""What `test_fork.py` runs in processes of their own, since a test's process has threads that a fork should not meet.

    python fork_program.py SCENARIO URL NAMESPACE [PID OF THE SERVER]

Whoever reads a row writes its own name into the key, so that a connection that two processes used gives itself away.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

from cacheside import Cache

fork = multiprocessing.get_context("fork")
ROUNDS = 35


def make(url: str, namespace: str, timeout: float = 5.0) -> Cache:
    return Cache(url, namespace=namespace, timeout=timeout, lease=10)


def ended(child: Any) -> None:
    child.join(30)
    if child.exitcode is None:
        child.kill()
        raise AssertionError("the child hangs")
    assert child.exitcode == 0, child.exitcode


def rows(cache: Cache) -> tuple[Any, list[str]]:
    """A cached function, and the rows it loaded."""
    loads: list[str] = []

    @cache.cached("by-{who}:{row}")
    def get(who: str, row: int) -> str:
        loads.append(f"{who} {row}")
        return f"{who} {row}"

    return get, loads


def arows(cache: Cache) -> tuple[Any, list[str]]:
    loads: list[str] = []

    @cache.cached("by-{who}:{row}")
    async def get(who: str, row: int) -> str:
        loads.append(f"{who} {row}")
        return f"{who} {row}"

    return get, loads


def sync(url: str, namespace: str) -> None:
    """Plain code, from several threads; the fork comes while all of their connections are open."""
    cache = make(url, namespace)
    get, loads = rows(cache)

    def use(who: str) -> None:
        for row in range(ROUNDS):
            assert get(who, row % 7) == f"{who} {row % 7}"
            get.invalidate(who, row % 7)

    def crowd(who: str) -> None:
        errors: list[BaseException] = []

        def one() -> None:
            try:
                use(who)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=one) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert get.cache_info().errors == 0

    crowd("parent")
    child = fork.Process(target=crowd, args=("child",))
    child.start()
    crowd("parent")
    ended(child)
    assert not any(load.startswith("child") for load in loads)
    crowd("parent")
    cache.close()


async def ause(get: Any, who: str) -> None:
    async def one(row: int) -> None:
        assert await get(who, row) == f"{who} {row}"
        await get.invalidate(who, row)

    for _ in range(ROUNDS // 7):
        await asyncio.gather(*map(one, range(7)))
    assert get.cache_info().errors == 0


def loops(url: str, namespace: str) -> None:
    """Async code: the parent's loop was closed before the fork, as by asyncio.run at import."""
    cache = make(url, namespace)
    get, _ = arows(cache)

    def run(who: str) -> None:
        for _ in range(2):
            asyncio.run(ause(get, who))

    run("parent")
    child = fork.Process(target=run, args=("child",))
    child.start()
    run("parent")
    ended(child)
    run("parent")


def running(url: str, namespace: str) -> None:
    """Async code: the fork comes in the middle of the parent's loop, which goes on; the child has loops of its own.

    The selector of the parent's loop is shared with the child. What the child did to it the parent would feel.
    """
    cache = make(url, namespace)
    get, _ = arows(cache)

    async def in_child() -> None:
        gc.collect()
        await ause(get, "child")
        gc.collect()
        await cache.aclose()
        await ause(get, "child")

    def child_main() -> None:
        for _ in range(2):
            asyncio.run(in_child())

    async def parent() -> None:
        await ause(get, "parent")
        child = fork.Process(target=child_main)
        child.start()
        while child.is_alive():
            await ause(get, "parent")
            await asyncio.sleep(0.01)
        ended(child)
        await ause(get, "parent")
        await cache.aclose()

    asyncio.run(parent())


def both(url: str, namespace: str) -> None:
    """One cache in both colours, on both sides; the child forks once more."""
    cache = make(url, namespace)
    get, _ = rows(cache)
    aget, _ = arows(cache)

    def use(who: str) -> None:
        for row in range(ROUNDS):
            assert get(who, row) == f"{who} {row}"
        asyncio.run(ause(aget, who))

    def child_main() -> None:
        use("child")
        grandchild = fork.Process(target=use, args=("grandchild",))
        grandchild.start()
        use("child")
        ended(grandchild)

    use("parent")
    child = fork.Process(target=child_main)
    child.start()
    use("parent")
    ended(child)
    cache.close()


def busy(url: str, namespace: str) -> None:
    """The fork comes while other threads are inside the cache: every lock of ours and of the clients may be taken."""
    warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of forking beside threads, rightly
    cache = make(url, namespace)
    get, _ = rows(cache)
    # So that what a first connection imports is imported: Python's own locks of imports would hang a child.
    get("parent", 0)
    stop = threading.Event()

    def hammer(start: int) -> None:
        row = start
        while not stop.is_set():
            row += 1
            get("parent", row % 50)
            get.invalidate("parent", row % 50)

    def child_main() -> None:
        for row in range(20):
            assert get("child", row) == f"child {row}"
        get.invalidate("child", 3)
        assert get.cache_info().errors == 0

    threads = [threading.Thread(target=hammer, args=(n,), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(15):
        child = fork.Process(target=child_main)
        child.start()
        ended(child)
    stop.set()
    for thread in threads:
        thread.join(10)
    assert get.cache_info().errors == 0
    cache.close()


def locked(url: str, namespace: str) -> None:
    """The fork comes at the worst moment for redis-py: another thread holds the lock of a connection pool."""
    import redis

    cache = make(url, namespace)
    get, _ = rows(cache)
    assert get("parent", 1) == "parent 1"
    locks = [each._lock for each in gc.get_objects() if isinstance(each, redis.ConnectionPool)]
    assert locks
    holding, stop = threading.Event(), threading.Event()

    def hold() -> None:
        for lock in locks:
            lock.acquire()
        holding.set()
        stop.wait(30)
        for lock in locks:
            lock.release()

    thread = threading.Thread(target=hold)
    thread.start()
    holding.wait(10)
    warnings.simplefilter("ignore", DeprecationWarning)  # as in `busy`

    def child_main() -> None:
        assert get("child", 1) == "child 1"
        assert get.cache_info().errors == 0

    child = fork.Process(target=child_main)
    child.start()
    try:
        ended(child)
    finally:
        stop.set()
        thread.join(10)
    cache.close()


def broken(url: str, namespace: str, pid: int, sync: bool) -> None:
    """The fork comes in an outage: an invalidation is pending and the breaker is open; both sides get over it."""
    cache = make(url, namespace, timeout=0.1)
    store = {"row": "old"}

    @cache.cached("row")
    def get() -> str:
        return store["row"]

    @cache.cached("row")
    async def aget() -> str:
        return store["row"]

    def call(plain: Callable[[], Any], awaitable: Callable[[], Awaitable[Any]]) -> Any:
        return plain() if sync else asyncio.run(_awaited(awaitable))

    def read() -> Any:
        return call(get, aget)

    def get_over_it(thaw: bool) -> None:
        # The server still has the old value. Nobody here may see it again.
        if thaw:
            for _ in range(3):
                assert read() == "new"
            assert cache.stats().pending == 1
            os.kill(pid, signal.SIGCONT)
        info = get.cache_info if sync else aget.cache_info
        end, hits = time.monotonic() + 20, info().hits
        while cache.stats().pending or info().hits == hits:
            assert time.monotonic() < end, (cache.stats().pending, info())
            assert read() == "new"
            time.sleep(0.005)

    assert read() == "old"
    assert read() == "old"
    os.kill(pid, signal.SIGSTOP)
    store["row"] = "new"
    call(get.invalidate, aget.invalidate)
    child = fork.Process(target=get_over_it, args=(True,))
    child.start()
    ended(child)
    assert cache.stats().pending == 1, "the child's delivery is not the parent's"
    get_over_it(False)
    cache.close()


async def _awaited(awaitable: Callable[[], Awaitable[Any]]) -> Any:
    return await awaitable()


def main(scenario: str, url: str, namespace: str, *rest: str) -> None:
    scenarios: dict[str, Callable[..., None]] = {
        "sync": sync, "loops": loops, "running": running, "both": both, "busy": busy,
        "locked": locked,
        "broken-sync": lambda *args: broken(*args, sync=True), "broken-async": lambda *args: broken(*args, sync=False),
    }  # fmt: skip
    scenarios[scenario](url, namespace, *map(int, rest))


if __name__ == "__main__":
    main(*sys.argv[1:])
