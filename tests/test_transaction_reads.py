"""Reads inside a transaction, and what they may share: nothing that was never committed leaves it, by no race."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from transaction_rows import Rows
from wire import Wire

from cacheside import Cache, scopes
from cacheside.backends.memory import MemoryBackend
from cacheside.transactions import Transaction


@pytest.fixture
def rows() -> Iterator[Rows]:
    """A store. At the end of the test no key may count as being changed."""
    made = Rows(Cache("memory://"))
    yield made
    assert made.held() == []


def elsewhere(call: Callable[..., Any], *args: Any) -> Any:
    """Call in a context that is inside nothing."""
    return contextvars.Context().run(call, *args)


def aelsewhere(call: Callable[..., Awaitable[Any]], *args: Any) -> asyncio.Task[Any]:
    """The same in a task."""

    async def run() -> Any:
        return await call(*args)

    return asyncio.create_task(run(), context=contextvars.Context())


async def in_nested_block(rows: Rows) -> None:
    """Change row 1, and roll it back, in a block inside the block of this context."""
    async with rows.cache.transaction() as savepoint:
        before = dict(rows.stored)
        await rows.awrite(1, "uncommitted")
        rows.during = lambda: None
        await asyncio.sleep(0.01)  # the others load
        rows.stored = before
        savepoint.rollback()


@pytest.mark.parametrize("nested", [False, True])
def test_load_beside_a_write_that_is_rolled_back(rows: Rows, nested: bool) -> None:
    """A task of the block loads while another one writes and rolls back: what it has seen is stored for none."""

    async def main() -> None:
        seen, go = asyncio.Event(), asyncio.Event()

        async def loads() -> Any:
            return await rows.aread(1)

        def wait() -> Awaitable[bool]:
            seen.set()
            return go.wait()

        async with rows.cache.transaction() as block:
            rows.during = wait
            if nested:
                rows.stored[1] = "uncommitted"  # by a write of the block that has not told yet
                load = asyncio.create_task(loads())
                await seen.wait()
                del rows.stored[1]
                await asyncio.create_task(in_nested_block(rows))
            else:
                go_on = asyncio.Event()
                rows.writing = go_on.wait
                write = asyncio.create_task(rows.awrite(1, "uncommitted"))
                await asyncio.sleep(0)
                load = asyncio.create_task(loads())
                await asyncio.sleep(0.01)
                go_on.set()
                await write
                del rows.stored[1]
                block.rollback()
        go.set()
        assert await load == "uncommitted"
        rows.during = lambda: None
        assert await rows.aread(1) == "old"

    asyncio.run(main())


def test_nobody_shares_a_load_of_what_is_uncommitted(rows: Rows) -> None:
    """A caller from outside that stands behind a load of the block, whose key is then written, loads by itself."""

    async def main() -> None:
        first, second = asyncio.Event(), asyncio.Event()
        gates = [first, second]
        rows.during = lambda: gates.pop(0).wait() if gates else None
        async with rows.cache.invalidating("row:1", strict=True), rows.cache.transaction() as block:
            # Another writer's guard stands: one load runs, and one is next.
            running = aelsewhere(rows.aread, 1)
            await asyncio.sleep(0.01)
            inside = asyncio.create_task(rows.aread(1), context=only(block))
            await asyncio.sleep(0.01)
            outside = aelsewhere(rows.aread, 1)
            await asyncio.sleep(0.01)
            rows.stored[1] = "uncommitted"
            first.set()
            await asyncio.sleep(0.01)
            await asyncio.create_task(rows.awrite(1, "uncommitted"), context=only(block))
            del rows.stored[1]
            second.set()
            assert [await each for each in (running, inside, outside)] == ["old", "uncommitted", "old"]
            block.rollback()

    asyncio.run(main())


def only(block: Transaction) -> contextvars.Context:
    """A context that is inside nothing but `block`."""
    context = contextvars.Context()
    context.run(scopes.enter, block)
    return context


def test_row_made_while_the_key_is_changed() -> None:
    """A caller elsewhere that has found the old entry makes no row by which the block would find it."""
    found: list[Any] = []

    class Slow(MemoryBackend):
        armed = False

        def attach(self, *args: Any) -> None:
            armed, self.armed = self.armed, False
            if armed:
                block.run(writes)  # just before
            super().attach(*args)
            if armed:
                found.append(block.run(rows.read, 1))

    backend = Slow()
    rows, block = Rows(Cache(backend)), contextvars.copy_context()
    transaction = rows.cache.transaction()

    def writes() -> None:
        transaction.__enter__()
        rows.write(1, "new")

    for row in (2, 2, 2, 1):
        elsewhere(rows.read, row)
    backend.armed = True
    assert [elsewhere(rows.read, 1) for _ in range(3)] == ["old"] * 3
    assert (backend.armed, found) == (False, ["new"])
    block.run(transaction.__exit__, None, None, None)
    assert [rows.read(1) for _ in range(2)] == ["new"] * 2


def test_others_hit_until_the_end(rows: Rows) -> None:
    """Until the end the block reads what it has written, and everybody else goes on hitting the old entry."""
    for _ in range(3):
        rows.read(1)  # by a row
    with rows.cache.transaction():
        rows.write(1, "new")
        for _ in range(3):
            assert rows.read(1) == "new"
            assert elsewhere(rows.read, 1) == "old"
        assert rows.loads == 4
    assert [rows.read(1) for _ in range(3)] == ["new"] * 3
    assert rows.loads == 5


def test_reads_while_it_delivers() -> None:
    """Whatever of the block still reads while its end is delivering does not find the old entry."""
    wire = Wire()
    seen: list[Any] = []
    rows = Rows(Cache(wire))
    assert rows.read(1) == "old"

    def read_first(do: Callable[[], Any]) -> Any:
        seen.append(inside.run(rows.read, 1))
        return do()

    with rows.cache.transaction():
        rows.write(1, "new")
        inside = contextvars.copy_context()
        wire.breaks("invalidate", fault=read_first)
    assert (seen, inside.run(rows.read, 1), inside.run(rows.read, 1)) == (["new"], "new", "new")
    assert (rows.loads, rows.held()) == (3, [])


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("later", [False, True])
def test_updates_that_overlap_another_write(rows: Rows, nested: bool, later: bool) -> None:
    """Two writes of one block that overlap: whose value is the newer one nobody knows, so none is put in."""

    async def main() -> None:
        go = asyncio.Event()

        @rows.cache.updates(rows.aread)
        async def change(row: int, value: str) -> str:
            rows.stored[row] = value
            await go.wait()
            return value

        async def changes() -> None:
            async with rows.cache.transaction() if nested else contextlib.nullcontext():
                await change(1, "older")

        async with rows.cache.transaction():
            update = asyncio.create_task(changes())
            await asyncio.sleep(0)
            write = asyncio.create_task(rows.awrite(1, "newer"))
            if later:
                await write
            go.set()
            await asyncio.gather(write, update)
        assert await rows.aread(1) == "newer"

    asyncio.run(main())
    assert rows.cache.stats().updates == 0


def test_reads_in_the_background(rows: Rows) -> None:
    """A load with a time limit, and a refresh of an old value, that the block has begun fill nothing of it."""
    go, seen = threading.Event(), threading.Event()

    @rows.cache.cached("row:{row}", load_timeout=30)
    def bounded(row: int) -> Any:
        found = rows.load(row)
        seen.set()
        assert go.wait(10)
        return found

    with Transaction() as block:
        rows.stored[1] = "uncommitted"
        reader = threading.Thread(target=contextvars.copy_context().run, args=(bounded, 1))
        reader.start()
        assert seen.wait(10)
        rows.write(1, "uncommitted")
        del rows.stored[1]
        block.rollback()
    go.set()
    reader.join()
    assert bounded(1) == "old"
