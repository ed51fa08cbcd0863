"""Batches whose callers go away in the middle: what they held is given back, all at once, and nobody waits for it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from many_tools import BatchWire, Table

from cacheside import Cache


async def cancelled(cache: Cache, items: int, **options: Any) -> None:
    """A batch that was cancelled while it loaded."""
    loading = asyncio.Event()

    async def load(numbers: list[int]) -> dict[int, int]:
        loading.set()
        await asyncio.sleep(3600)
        return {}

    task = asyncio.create_task(cache.cached_many(key="row:{number}", **options)(load)(list(range(items))))
    await loading.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_leases_are_given_back_together() -> None:
    """A cancelled batch gives all its leases back in one command, and the rows are free."""
    wire, table = BatchWire(), Table()
    cache = Cache(wire)

    async def main() -> None:
        await cancelled(cache, 200)
        assert (wire.asked.count("release_many"), wire.asked.count("release")) == (1, 0)
        read = cache.cached_many(key="row:{number}")(_awaitable(table.read))
        assert len(await read(list(range(200)))) == 200
        assert (len(table.calls), read.cache_info().bypassed) == (1, 0)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("verb", "before"), [("replace_many", {"version": "old"}), ("claim_many", {"ttl": 0.02, "stale_if_error": 60})]
)
def test_cancelled_while_leases_are_won(verb: str, before: dict[str, Any]) -> None:
    """What a batch wins on rows that it found, as its caller goes, is given back in one command."""
    wire, table = BatchWire(), Table()
    cache = Cache(wire)

    async def main() -> None:
        load = _awaitable(table.read)
        await cache.cached_many(key="row:{number}", **before)(load)([1, 2])
        await asyncio.sleep(0.03)
        read = cache.cached_many(key="row:{number}", stale_if_error=60)(load)
        task = asyncio.create_task(read([1, 2]))
        async with asyncio.timeout(15):
            while verb not in wire.asked:
                await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert wire.asked.count("release_many") == 1
        assert await read([1, 2]) == {1: 10, 2: 20}
        assert (table.calls, read.cache_info().bypassed) == ([[1, 2], [1, 2]], 0)

    asyncio.run(main())


def test_cancelled_while_the_server_hangs() -> None:
    """A cancelled batch does not wait for each row: one moment for all of them, when the server does not answer."""
    wire = BatchWire()
    wire.aio.stuck = {"release_many", "release"}  # type: ignore[union-attr]

    async def main() -> None:
        async with asyncio.timeout(15):  # 1,000 moments are 100 s
            await cancelled(Cache(wire), 1000)

    asyncio.run(main())
    assert wire.asked.count("release_many") == 1


def test_interrupted_in_the_load() -> None:
    """Ctrl-C in the load of a plain batch reaches the caller, and leaves all its rows free."""
    wire, table = BatchWire(), Table()
    cache = Cache(wire)

    @cache.cached_many(key="row:{number}")
    def interrupted(numbers: list[int]) -> dict[int, int]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted([1, 2, 3])
    assert wire.asked == ["lookup_many", "release_many"]
    read = cache.cached_many(key="row:{number}")(table.read)
    assert read([1, 2, 3]) == {1: 10, 2: 20, 3: 30}
    assert (table.calls, read.cache_info().bypassed) == ([[1, 2, 3]], 0)


def _awaitable(load: Any) -> Any:
    async def call(numbers: list[int]) -> Any:
        return load(numbers)

    return call


def test_interrupted_before_a_load_in_the_background() -> None:
    """With `load_timeout`: whoever goes while one row asks for a claim leaves the rows free that were about to load."""
    wire, table = BatchWire(), Table()
    cache = Cache(wire)
    options: dict[str, Any] = {"ttl": 0.02, "stale_if_error": 60, "load_timeout": 20}
    read = cache.cached_many(key="row:{number}", **options)(table.read)
    assert read([1]) == {1: 10}
    time.sleep(0.03)
    wire.breaks("claim_many", fault=interrupted)
    with pytest.raises(KeyboardInterrupt):
        read([1, 2, 3])
    wire.breaks()
    assert read([2, 3]) == {2: 20, 3: 30}
    assert (table.calls, read.cache_info().bypassed, read.cache_info().timed_out) == ([[1], [2, 3]], 0, 0)


def test_interrupted_before_a_refresh() -> None:
    """Whoever goes before its refresh of an old row has begun keeps nobody else here from making it."""
    wire, table = BatchWire(), Table()
    cache = Cache(wire)
    other = cache.cached_many(key="row:{number}", version="other")(table.read)
    read = cache.cached_many(key="row:{number}", ttl=0.02, stale_while_revalidate=60)(table.read)
    assert (read([1]), other([2])) == ({1: 10}, {2: 20})
    time.sleep(0.03)
    wire.breaks("replace_many", fault=interrupted)  # of the row of another version
    with pytest.raises(KeyboardInterrupt):
        read([1, 2])
    wire.breaks()
    for _ in range(300):
        assert read([1]) == {1: 10}
        if table.calls[2:]:
            break
        time.sleep(0.01)
    assert table.calls[:3] == [[1], [2], [1]]


def interrupted(do: object) -> None:
    """Ctrl-C before anything was sent."""
    raise KeyboardInterrupt
