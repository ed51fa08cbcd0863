"""`cache.transaction()`: what belongs to a block, and nesting. (What each backend does: the suite.)"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from recorder import Recorder
from transaction_rows import Rows

from cacheside import Cache


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


# --- what belongs to a block ---


def test_tasks_made_in_the_block(rows: Rows, backend: Recorder) -> None:
    """Tasks made in the block belong to it, and threads that get a copy of its context; others do not."""

    async def main() -> None:
        go = asyncio.Event()

        async def later() -> None:
            await go.wait()
            await rows.awrite(5, "other")

        elsewhere = asyncio.create_task(later())
        async with rows.cache.transaction():
            await asyncio.gather(rows.awrite(1, "new"), rows.awrite(2, "new"))
            await asyncio.to_thread(rows.write, 3, "new")
            assert backend.dropped == []
            thread = threading.Thread(target=rows.write, args=(4, "new"))
            thread.start()
            thread.join()
            go.set()
            await elsewhere
            assert backend.dropped == ["row:4", "row:5"]
        assert sorted(backend.dropped[2:]) == ["row:1", "row:2", "row:3"]

    asyncio.run(main())


def test_task_that_outlives_the_block(rows: Rows, backend: Recorder) -> None:
    """What a background task writes after the block has ended is delivered at the end of that write."""

    async def main() -> None:
        over = asyncio.Event()

        async def background() -> None:
            await over.wait()
            await rows.awrite(1, "new")
            assert backend.dropped == ["row:1"]
            assert [await rows.aread(1) for _ in range(2)] == ["new"] * 2

        async with rows.cache.transaction():
            task = asyncio.create_task(background())
            await asyncio.sleep(0)
        over.set()
        await task

    asyncio.run(main())
    assert rows.loads == 1


def test_write_that_outlives_the_block(rows: Rows, backend: Recorder) -> None:
    """A write that began in the block and ends after it is delivered at its own end."""

    async def main() -> None:
        go = asyncio.Event()
        rows.writing = go.wait
        async with rows.cache.transaction():
            task = asyncio.create_task(rows.awrite(1, "new"))
            await asyncio.sleep(0)
        assert (backend.dropped, rows.held()) == ([], ["row:1"])
        go.set()
        await task
        assert backend.dropped == ["row:1"]

    asyncio.run(main())


def test_end_in_another_context(rows: Rows, backend: Recorder) -> None:
    """A block may end in another context than it began in; the first one is not inside it any more."""
    block = rows.cache.transaction()
    block.__enter__()
    rows.write(1, "new")
    contextvars.Context().run(block.__exit__, None, None, None)
    assert backend.dropped == ["row:1"]
    rows.write(2, "new")
    assert backend.dropped == ["row:1", "row:2"]
    assert [rows.read(1) for _ in range(2)] == ["new"] * 2
    assert rows.loads == 1


def test_block_in_a_generator(rows: Rows, backend: Recorder) -> None:
    """A dependency that yields inside the block: what is written until it goes on belongs to it."""

    @contextlib.contextmanager
    def dependency() -> Iterator[None]:
        with rows.cache.transaction():
            yield

    @contextlib.asynccontextmanager
    async def adependency() -> AsyncIterator[None]:
        async with rows.cache.transaction():
            yield

    async def main() -> None:
        async with adependency():
            await rows.awrite(2, "new")
            assert backend.dropped == ["row:1"]

    with dependency():
        rows.write(1, "new")
        assert backend.dropped == []
    asyncio.run(main())
    assert backend.dropped == ["row:1", "row:2"]


def test_every_kind_of_invalidation(rows: Rows, backend: Recorder) -> None:
    """Decorated writes, blocks, functions' own verbs, keys and tags by name: all wait, of every cache."""
    elsewhere = Recorder()
    other = Cache(elsewhere)

    async def main() -> None:
        async with rows.cache.transaction() as block:
            await rows.awrite(1, "new")
            await rows.aread.invalidate(2)
            await rows.cache.ainvalidate("row:3", tags=["red"])
            await other.ainvalidate("theirs")
            async with rows.cache.invalidating("row:4"):
                pass
            rows.write(5, "new")
            rows.read.invalidate(6)
            rows.cache.invalidate("row:7")
            other.invalidate("theirs:2")
            assert (backend.dropped, elsewhere.dropped) == ([], [])
            assert len(block.keys(rows.cache._core)) == rows.cache.stats().held == 8
            assert block.keys(other._core) == ["theirs", "theirs:2"]

    asyncio.run(main())
    assert sorted(backend.dropped) == ["%tag:red", *(f"row:{row}" for row in range(1, 8))]
    assert elsewhere.dropped == ["theirs", "theirs:2"]
    assert (rows.cache.stats().invalidations, other._core.held.counts) == (8, {})


# --- nesting ---


def test_nested_blocks(rows: Rows, backend: Recorder) -> None:
    """A block inside another one joins it: nothing is delivered before the outermost ends."""
    with rows.cache.transaction():
        with rows.cache.transaction():
            with rows.cache.transaction():
                rows.write(1, "new")
            rows.write(2, "new")
        assert backend.dropped == []
        assert rows.read(1) == "new"
    assert sorted(backend.dropped) == ["row:1", "row:2"]


def test_nested_rollback(rows: Rows, backend: Recorder) -> None:
    """A nested block that rolls back drops what was made in it, and in the blocks inside it, and nothing else."""
    with rows.cache.transaction():
        rows.write(1, "new")
        with rows.cache.transaction() as savepoint:
            rows.write(2, "new")
            with rows.cache.transaction():
                rows.write(3, "new")
            savepoint.rollback()
            rows.write(4, "new")
    assert sorted(backend.dropped) == ["row:1", "row:4"]
    assert rows.cache.stats().rolled_back == 2


def test_outer_rollback(rows: Rows, backend: Recorder) -> None:
    """A block that rolls back drops what the blocks inside it have handed over."""
    with rows.cache.transaction() as block:
        with rows.cache.transaction():
            rows.write(1, "new")
        block.rollback()
    assert backend.dropped == []


def test_blocks_that_end_in_another_order(rows: Rows, backend: Recorder) -> None:
    """Where a block ends before one inside it, what is left inside waits for the next one around them."""
    with rows.cache.transaction():
        middle, inner = rows.cache.transaction(), rows.cache.transaction()
        middle.__enter__()
        inner.__enter__()
        rows.write(1, "new")
        middle.__exit__(None, None, None)
        rows.write(2, "new")
        inner.__exit__(None, None, None)
        assert backend.dropped == []
    assert sorted(backend.dropped) == ["row:1", "row:2"]


def test_block_is_entered_once(rows: Rows) -> None:
    """A block that is entered again says what to do instead."""
    block = rows.cache.transaction()
    with block, pytest.raises(RuntimeError, match="make one for each"):
        block.__enter__()
    with pytest.raises(RuntimeError, match="make one for each"), block:
        pass
