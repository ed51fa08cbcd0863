"""How a `cache.transaction()` ends: exceptions, cancellation, Ctrl-C, a broken cache, a fork."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from recorder import Recorder
from transaction_rows import Rows
from wire import Wire, interrupted

from cacheside import Cache, ConfigurationError


@pytest.fixture
def backend() -> Recorder:
    """Tells what was invalidated."""
    return Recorder()


@pytest.fixture
def rows(backend: Recorder) -> Iterator[Rows]:
    """A store. At the end of the test no key may count as being changed."""
    made = Rows(Cache(backend))
    yield made
    assert made.held() == []


def test_exception(rows: Rows, backend: Recorder) -> None:
    """A block that raises delivers all the same, as something may have been committed; unless it was rolled back."""

    def work(row: int, rolled_back: bool) -> None:
        with rows.cache.transaction() as block:
            rows.write(row, "new")
            if rolled_back:
                block.rollback()
            raise LookupError

    for row, rolled_back in ((1, False), (2, True)):
        with pytest.raises(LookupError):
            work(row, rolled_back)
    assert backend.dropped == ["row:1"]


def test_cancelled_block(rows: Rows, backend: Recorder) -> None:
    """A block that is cancelled delivers at its end."""

    async def main() -> None:
        async def work() -> None:
            async with rows.cache.transaction():
                await rows.awrite(1, "new")
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        await asyncio.sleep(0.01)
        assert backend.dropped == []
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert backend.dropped == ["row:1"]

    asyncio.run(main())


def test_update_in_a_cancelled_block() -> None:
    """No value of an update goes in at the end of a block that is cancelled: it is rolled back, as far as is known."""
    rows = Rows(Cache("memory://"))

    @rows.cache.updates(rows.aread)
    async def update(row: int, value: str) -> str:
        rows.stored[row] = value
        return value

    async def main() -> None:
        async def work() -> None:
            async with rows.cache.transaction():
                await update(1, "never")
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        await asyncio.sleep(0.01)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        rows.stored.clear()
        assert await rows.aread(1) == "old"

    asyncio.run(main())


def test_cancelled_at_its_end() -> None:
    """Cancelled while it is delivering, the delivery goes on, and the key is bypassed here until it is known to be."""
    wire = Wire()
    rows = Rows(Cache(wire))

    async def main() -> None:
        async def work() -> None:
            async with rows.cache.transaction():
                await rows.awrite(1, "new")
                wire.breaks("invalidate", fault=lambda do: (task.cancel(), do()))

        assert await rows.aread(1) == "old"
        task = asyncio.create_task(work())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (rows.cache.stats().pending, rows.held()) == (1, [])
        wire.breaks()
        assert [await rows.aread(1) for _ in range(2)] == ["new"] * 2

    asyncio.run(main())
    assert rows.cache.stats().pending == 0


def test_coroutine_thrown_away() -> None:
    """A block whose coroutine is closed awaits nothing any more: its keys are pending."""
    wire = Wire()
    rows = Rows(Cache(wire))

    async def work() -> None:
        async with rows.cache.transaction():
            await rows.awrite(1, "new")
            await asyncio.Event().wait()

    async def main() -> None:
        assert await rows.aread(1) == "old"
        coroutine = work()
        coroutine.send(None)
        coroutine.close()
        assert (rows.cache.stats().pending, rows.held()) == (1, [])
        assert await rows.aread(1) == "new"

    asyncio.run(main())
    assert rows.cache.stats().pending == 0


def test_interrupted_at_its_end() -> None:
    """Ctrl-C during the delivery leaves all keys pending, those of every cache."""
    wires = Wire(in_process=True), Wire(in_process=True)
    first, second = [Rows(Cache(wire)) for wire in wires]

    def work() -> None:
        with first.cache.transaction():
            first.write(1, "new")
            second.write(1, "new")
            wires[0].breaks("invalidate", fault=interrupted)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert [rows.cache.stats().pending for rows in (first, second)] == [1, 1]
    assert first.held() + second.held() == []
    wires[0].breaks()
    assert [rows.read(1) for rows in (first, second)] == ["new"] * 2


def test_broken_cache(rows: Rows, backend: Recorder) -> None:
    """A delivery that fails at the end raises nothing: the key is pending, and the other cache is told."""
    elsewhere = Recorder()
    with rows.cache.transaction():
        rows.write(1, "new")
        Cache(elsewhere).invalidate("theirs")
        backend.broken = True
    assert (rows.cache.stats().pending, elsewhere.dropped) == (1, ["theirs"])


def plain_only(wire: Wire) -> Any:
    """A backend with a plain client only."""
    wire.aio = None
    return wire


def awaitable_only(wire: Wire) -> Any:
    """A backend with an awaitable client only."""
    return wire.aio


@pytest.mark.parametrize(("form", "cure"), [(plain_only, "`with cache"), (awaitable_only, "`async with cache")])
def test_client_of_the_other_colour(form: Callable[[Wire], Any], cure: str) -> None:
    """A block that could not deliver at its end refuses the write before it is made, and says what would do."""
    rows = Rows(Cache(form(Wire())))

    async def main() -> None:
        async with rows.cache.transaction():
            rows.write(1, "new")

    async def amain() -> None:
        with rows.cache.transaction():
            await rows.awrite(1, "new")

    with pytest.raises(ConfigurationError, match=cure):
        asyncio.run(main() if form is plain_only else amain())
    assert (rows.stored, rows.held()) == ({}, [])


def test_block_inside_one_of_the_other_colour(rows: Rows, backend: Recorder) -> None:
    """What counts is the block that delivers: the outermost."""
    wire = Wire()
    rows = Rows(Cache(awaitable_only(wire)))

    async def main() -> None:
        async with rows.cache.transaction():
            with rows.cache.transaction():
                await rows.awrite(1, "new")
            assert "invalidate" not in wire.asked

    asyncio.run(main())
    assert wire.asked.count("invalidate") == 1


FORK = """
import os, sys, warnings
sys.path.insert(0, sys.argv[1])
warnings.simplefilter("ignore", DeprecationWarning)
from recorder import Recorder
from transaction_rows import Rows
from cacheside import Cache
from cacheside.transactions import Transaction

backend = Recorder()
rows = Rows(Cache(backend))
guarded = rows.cache.invalidates("row:{row}", strict=True)(lambda row: None)
delivered = []
class Notes:
    def record(self, core, keys): pass
    def delivered(self): delivered.append(None)
with Transaction(recorder=Notes()) as block:
    rows.write(1, "new")
    guarded(2)
    block._lock.acquire()  # as another thread might have it
    child = os.fork()
    if child:
        block._lock.release()
    else:
        assert rows.held() == []
        rows.write(3, "new")
        assert backend.dropped == ["row:3"], backend.dropped
        assert rows.read(3) == rows.read(3) == "new" and rows.loads == 1
if child:
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert (backend.dropped, delivered) == (["row:1"], [None]), backend.dropped
else:
    assert (backend.dropped, rows.held(), delivered) == (["row:3"], [], []), backend.dropped
    os._exit(0)
"""


def test_fork() -> None:
    """A forked child is in no block of its parent: what it writes is delivered at once, the rest is not its own."""
    folder = str(__file__).rpartition("/")[0]
    done = subprocess.run([sys.executable, "-c", FORK, folder], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
