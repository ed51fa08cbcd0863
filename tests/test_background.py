"""Refreshes at an end: of the program, of a loop, of a fork. They hold up nothing, and leave no claim behind."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from typing import Any

import pytest
from colours import TIMEOUT, until
from servers import RedisServer

from cacheside import Cache
from cacheside.backends.memory import MemoryBackend
from cacheside.testing import FakeClock

WINDOWS: dict[str, Any] = {"key": "row:{row}", "ttl": 60, "stale_while_revalidate": 3600}


# --- the end of a program ---

SYNC_EXIT = """
import sys, threading
from cacheside import Cache
from cacheside.backends.memory import MemoryBackend
from cacheside.testing import FakeClock

clock, begun = FakeClock(), threading.Event()
cache = Cache(MemoryBackend(clock=clock))

@cache.cached(key="row:{row}", ttl=60, stale_while_revalidate=3600)
def read(row):
    if clock() > FakeClock()():
        begun.set()
        threading.Event().wait()  # for ever
    return "old"

read(1)
clock.advance(61)
assert read(1) == "old" and begun.wait(20) and read(1) == "old"
print("the end")
"""

ASYNC_EXIT = """
import asyncio, sys
from cacheside import Cache
from cacheside.backends.memory import MemoryBackend
from cacheside.testing import FakeClock

clock = FakeClock()
cache = Cache(MemoryBackend(clock=clock))

@cache.cached(key="row:{row}", ttl=60, stale_while_revalidate=3600)
async def read(row):
    if clock() > FakeClock()():
        begun.set()
        await asyncio.Event().wait()  # for ever
    return "old"

async def main():
    global begun
    begun = asyncio.Event()
    await read(1)
    clock.advance(61)
    assert await read(1) == "old"
    await begun.wait()
    assert await read(1) == "old"

asyncio.run(main())
print("the end")
"""

TIMED_OUT = """
import threading
from cacheside import Cache, LoadTimeout

cache = Cache("memory://")

@cache.cached(key="row:{row}", load_timeout=0.05)
def read(row):
    threading.Event().wait()

try:
    read(1)
except LoadTimeout:
    print("the end")
"""


@pytest.mark.parametrize("program", [SYNC_EXIT, ASYNC_EXIT, TIMED_OUT], ids=["sync", "async", "load_timeout"])
def test_exit_waits_for_no_load(program: str) -> None:
    """A load in the background that hangs does not keep the program from ending, and its end says nothing of it."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "the end", "")


# --- the end of a loop ---


@pytest.mark.parametrize("closing", [False, True], ids=["run", "aclose"])
def test_loop_ends_with_a_refresh_under_way(redis_server: RedisServer, namespace: str, closing: bool) -> None:
    """A refresh that ends with its loop, or by `aclose`, gives its claim back: the next process refreshes at once."""
    loads: list[asyncio.Event] = []

    def make() -> tuple[Cache, Any]:
        cache = Cache(redis_server.url, namespace=namespace, timeout=TIMEOUT, lease=3600)

        @cache.cached(key="row:{row}", ttl=3600, stale_while_revalidate=3600)
        async def read(row: int) -> str:
            loads.append(asyncio.Event())
            if len(loads) == 2:
                loads[0].set()
                await asyncio.sleep(3600)
            return f"load {len(loads)}"

        return cache, read

    async def first() -> None:
        cache, read = make()
        assert await read(1) == "load 1"
        async with cache.invalidating("row:1", stale=3600):
            pass
        assert await read(1) == "load 1"
        await loads[0].wait()
        assert len(asyncio.all_tasks()) == 2
        if closing:
            await cache.aclose()
            assert asyncio.all_tasks() == {asyncio.current_task()}
            await cache.aclose()

    async def second() -> None:
        cache, read = make()
        async with cache:
            while await read(1) == "load 1":
                await asyncio.sleep(0.01)
            assert await read(1) == "load 3"

    asyncio.run(first())
    asyncio.run(asyncio.wait_for(second(), TIMEOUT))


def test_aclose_leaves_other_loops_alone() -> None:
    """`aclose` breaks off the refreshes of its own loop, and no others."""
    clock = FakeClock()
    cache, released = Cache(MemoryBackend(clock=clock)), threading.Event()
    running: list[int] = []

    @cache.cached(**WINDOWS)
    async def read(row: int) -> str:
        if clock() > FakeClock()():
            running.append(row)
            while not released.is_set():
                await asyncio.sleep(0.002)
            return "new"
        return "old"

    async def begin(row: int) -> None:
        assert await read(row) == "old"
        while row not in running:
            await asyncio.sleep(0.002)

    async def other() -> str:
        await begin(1)
        while not released.is_set():
            await asyncio.sleep(0.002)
        while (found := await read(1)) == "old":
            await asyncio.sleep(0.002)
        return found

    async def closing() -> None:
        await begin(2)
        await cache.aclose()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    async def fill() -> None:
        assert [await read(1), await read(2)] == ["old", "old"]

    asyncio.run(fill())
    clock.advance(61)
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(other())))
    thread.start()
    until(lambda: running == [1])
    asyncio.run(closing())
    released.set()
    thread.join(TIMEOUT)
    assert found == ["new"]


# --- fork ---

FORK = """
import os, sys, threading, time, warnings
from cacheside import Cache
from cacheside.backends.memory import MemoryBackend
from cacheside.testing import FakeClock

warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of forking beside threads: it is the point
clock, held, parent = FakeClock(), threading.Event(), os.getpid()
cache = Cache(MemoryBackend(clock=clock))
running = []

@cache.cached(key="row:{row}", ttl=60, stale_while_revalidate=3600)
def read(row):
    if clock() == FakeClock()():
        return "old"
    if os.getpid() == parent:
        running.append(row)
        held.wait(60)
    return "new"

for row in range(20):
    read(row)
clock.advance(61)
assert {read(row) for row in range(20)} == {"old"}  # 8 refreshes run, 12 wait
deadline = time.monotonic() + 20
while len(running) < 8 and time.monotonic() < deadline:
    time.sleep(0.002)
child = os.fork()
if not child:
    while {read(row) for row in range(20)} != {"new"}:
        if time.monotonic() > deadline:
            os._exit(1)
        time.sleep(0.002)
    os._exit(0)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
assert {read(row) for row in range(20)} == {"old"}
held.set()
while {read(row) for row in range(20)} != {"new"}:
    assert time.monotonic() < deadline
    time.sleep(0.002)
print("the end")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_fork() -> None:
    """A child refreshes by itself what the threads of its parent are refreshing, or have not come to yet."""
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=90, check=False)
    assert (done.stdout.strip(), done.stderr) == ("the end", "")
