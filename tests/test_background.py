"""Refreshes at an end: of the program, of a loop, of a fork. They hold up nothing, and leave no claim behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from colours import TIMEOUT, until
from servers import RedisServer

from cacheside import Cache, LoadTimeout, giveback
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


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What a test has left in closed loops is collected in it, since asyncio tells of it in the log."""
    yield
    giveback.sweep()
    gc.collect()


def closed_under(work: Any) -> None:
    """Run `work`, and close its loop without a word to what is left in it."""
    with contextlib.closing(asyncio.new_event_loop()) as loop:
        loop.run_until_complete(work)


@pytest.mark.parametrize("patient", [False, True], ids=["plain", "awaits in finally"])
def test_loop_closed_under_a_refresh(patient: bool, caplog: pytest.LogCaptureFixture) -> None:
    """What it held is free as soon as another asks, and it is told of once; asyncio does not run what is left there."""
    clock, hanging, ended = FakeClock(), [False], list[str]()
    cache = Cache(MemoryBackend(clock=clock), lease=3600)

    @cache.cached(**WINDOWS, max_loads=1)
    async def read(row: int) -> str:
        if hanging[0]:
            try:
                await asyncio.sleep(3600)
            finally:
                if patient:
                    await asyncio.sleep(0)
                    await asyncio.sleep(0)
                ended.append("the load")
        return f"row {row}"

    async def begin() -> None:
        assert await read(1) == "row 1"
        clock.advance(61)
        hanging[0] = True
        assert await read(1) == "row 1"
        while not read.cache_info().refreshes or read._function.limiter._running == set():
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        hanging[0] = False

    async def others() -> None:
        assert await asyncio.wait_for(read(2), TIMEOUT) == "row 2"
        clock.advance(61)
        loads = read.cache_info().loads
        while read.cache_info().loads == loads:
            assert await asyncio.wait_for(read(1), TIMEOUT) == "row 1"
            await asyncio.sleep(0.002)

    closed_under(begin())
    asyncio.run(others())
    assert patient or ended == ["the load"]
    gc.collect()
    warnings = [record.getMessage() for record in caplog.records]  # and nothing of asyncio's
    assert len(warnings) == 1
    assert "1 tasks in the background are broken off, since their event loop was closed" in warnings[0]
    assert not giveback._background
    assert not cache._core.flights._open
    assert not read._function.limiter._running


def test_loop_closed_under_a_refresh_on_a_server(redis_server: RedisServer, namespace: str) -> None:
    """Its claim is given back by the loop that comes after it."""
    cache = Cache(redis_server.url, namespace=namespace, timeout=TIMEOUT, lease=3600)
    loads: list[int] = []

    @cache.cached(key="row:{row}", ttl=3600, stale_while_revalidate=3600)
    async def read(row: int) -> str:
        loads.append(row)
        if len(loads) == 2:
            await asyncio.sleep(3600)
        return f"load {len(loads)}"

    async def begin() -> None:
        assert await read(1) == "load 1"
        async with cache.invalidating("row:1", stale=3600):
            pass
        assert await read(1) == "load 1"
        while len(loads) < 2:
            await asyncio.sleep(0.002)

        assert cache._core.aio is not None
        await cache._core.aio.close()  # only the connections, which would complain

    async def after() -> None:
        async with cache:
            await read(2)
            async with cache.invalidating("row:2", stale=3600):
                pass
            await read(2)  # begins a refresh, and with it finds what the other loop has left
            while await read(1) == "load 1":
                await asyncio.sleep(0.01)

    closed_under(begin())
    asyncio.run(asyncio.wait_for(after(), TIMEOUT))


ENDINGS = ["aclose", "run", "close"]


async def end(cache: Cache, ending: str) -> None:
    """The end of a loop: by `aclose`, or at once, so that no task of it has another turn."""
    if ending != "aclose":
        raise SystemExit
    await cache.aclose()


def loop_of(work: Any, ending: str) -> None:
    """Run `work` in a loop that ends like that."""
    with contextlib.nullcontext() if ending == "aclose" else pytest.raises(SystemExit):
        if ending == "close":
            closed_under(work)
        else:
            asyncio.run(work)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_end_just_after_a_refresh_was_begun(ending: str, many: bool) -> None:
    """A refresh whose task never had its turn leaves nothing behind: another is begun."""
    clock, loads = FakeClock(), [0]
    cache = Cache(MemoryBackend(clock=clock), lease=3600)

    @cache.cached(**WINDOWS)
    async def one(row: int) -> int:
        loads[0] += 1
        return loads[0]

    @cache.cached_many(**WINDOWS)
    async def several(rows: list[int]) -> dict[int, int]:
        return {row: await one.__wrapped__(row) for row in rows}

    async def read() -> int:
        return (await several([1]))[1] if many else await one(1)

    async def first() -> None:
        assert await read() == 1
        clock.advance(61)
        assert await read() == 1
        await end(cache, ending)

    async def second() -> None:
        while await read() == 1:
            await asyncio.sleep(0.01)

    loop_of(first(), ending)
    assert loads == [1], "the refresh had its turn"
    asyncio.run(asyncio.wait_for(second(), TIMEOUT))


@pytest.mark.parametrize(
    ("place", "ending"),
    [
        *(("memory", ending) for ending in ENDINGS),
        *(pytest.param("redis_server", ending, marks=pytest.mark.server) for ending in ("aclose", "run")),
    ],
)
def test_end_just_after_a_load_was_begun(
    request: pytest.FixtureRequest, ending: str, place: str, namespace: str
) -> None:
    """A load with `load_timeout` whose task never had its turn gives its lease back, and its caller waits no longer."""
    url = "memory://" if place == "memory" else request.getfixturevalue(place).url
    cache, callers = Cache(url, namespace=namespace, timeout=TIMEOUT, lease=3600), list[asyncio.Task[str]]()

    @cache.cached(key="row:{row}", load_timeout=TIMEOUT)
    async def read(row: int) -> str:
        return f"row {row}"

    async def first() -> None:
        callers.append(asyncio.ensure_future(read(1)))
        while not giveback.owned(cache._core):
            await asyncio.sleep(0)
        await end(cache, ending)
        if ending == "aclose":
            with pytest.raises(LoadTimeout, match="broken off"):
                await callers[0]

    async def second() -> None:
        async with cache:
            assert await read(1) == "row 1"

    loop_of(first(), ending)
    assert read.cache_info().loads == 0
    asyncio.run(asyncio.wait_for(second(), TIMEOUT))


# --- fork ---

FORK = """
import os, sys, threading, time, warnings
from cacheside import Cache
from cacheside.backends.memory import MemoryBackend
from cacheside.testing import FakeClock

warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of forking beside threads: it is the point
clock, held, parent = FakeClock(), threading.Event(), os.getpid()
cache = Cache(MemoryBackend(clock=clock), lease=3600)
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
assert {read(row) for row in range(20)} == {"old"}  # 4 refreshes run, 16 wait
deadline = time.monotonic() + 20
while len(running) < 4 and time.monotonic() < deadline:
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
