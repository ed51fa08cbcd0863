"""Writes that go wrong: cancelled, interrupted, thrown away, undelivered. No invalidation is ever lost in silence."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Sequence
from typing import Any

import pytest
from recorder import Recorder

import cacheside
from cacheside import Cache, cached, invalidates
from cacheside.backends.base import AsyncBackend
from cacheside.health import Health


class Slow(AsyncBackend):
    """An awaitable cache that takes `delay` seconds to invalidate; all else is that of a Recorder."""

    delay = 0.0

    def __init__(self) -> None:
        self.memory = Recorder()

    capabilities = frozenset({"objects", "clear", "stores"})  # type: ignore[assignment]  # a constant is a property too

    async def lookup(self, key: str, lease: float) -> Any:
        return self.memory.lookup(key, lease)

    async def replace(self, key: str, seen: Any, lease: float) -> Any:
        return self.memory.replace(key, seen, lease)

    async def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        return self.memory.fill(key, token, stored, ttl)

    async def release(self, key: str, token: Any) -> bool:
        return self.memory.release(key, token)

    async def invalidate(self, keys: Sequence[str]) -> None:
        await asyncio.sleep(self.delay)
        self.memory.invalidate(keys)

    async def clear(self, prefix: str | None) -> None:
        self.memory.clear(prefix)

    async def close(self) -> None:
        self.memory.close()


@pytest.fixture(autouse=True)
def backend() -> Recorder:
    """The backend of a fresh default cache."""
    made = Recorder()
    cacheside.configure(made)
    return made


@cached("user:{user_id}")
def get_user(user_id: int) -> dict[str, int]:
    return {"id": user_id}


class Row:
    """A row behind an awaitable cache: a read and a write."""

    def __init__(self) -> None:
        self.value = "old"
        self.backend = Slow()
        self.cache = Cache(self.backend)
        self.cache._core.pending._retry_every = 0.0

        @self.cache.cached("row:{row_id}")
        async def get(row_id: int) -> str:
            return self.value

        @self.cache.invalidates("row:{row_id}")
        async def put(row_id: int, value: str) -> None:
            self.value = value

        self.get, self.put = get, put


def test_loop_that_ends_before_the_delivery_begins() -> None:
    """A write whose loop is shut down before its invalidation was sent leaves the key pending, not stale."""
    row = Row()

    async def write() -> None:
        asyncio.get_running_loop().create_task(row.put(1, "new"))
        await asyncio.sleep(0)

    assert asyncio.run(row.get(1)) == "old"
    asyncio.run(write())
    assert row.value == "new"
    assert asyncio.run(row.get(1)) == "new"


def test_write_that_times_out_in_its_delivery() -> None:
    """A write cancelled while its invalidation is on the way: the key is bypassed until one has surely arrived."""
    row = Row()

    async def main() -> list[str]:
        values = [await row.get(1)]
        row.backend.delay = 0.2
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await row.put(1, "new")
        assert row.cache.stats().pending == 1
        return [*values, await row.get(1), await row.get(1)]

    assert asyncio.run(main()) == ["old", "new", "new"]
    assert row.cache.stats().pending == 0


@pytest.mark.parametrize("steps", range(12))
def test_cancelled_at_every_step(steps: int) -> None:
    """Wherever a write is cancelled, once or twice, a read that starts after its end never gets an older value than
    the store has."""
    row = Row()

    async def main() -> None:
        await row.get(1)
        task = asyncio.create_task(row.put(1, "new"))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await row.get(1) == row.value

    asyncio.run(main())
    assert asyncio.run(row.get(1)) == row.value


def test_plain_function_that_returns_a_coroutine(backend: Recorder) -> None:
    """Under a plain decorator a write may return a coroutine: it is invalidated after that was awaited, not before."""

    def traced(fn: Any) -> Any:
        @functools.wraps(fn)
        def call(*args: Any) -> Any:
            return fn(*args)

        return call

    @invalidates("user:{user_id}", "row:{result}")
    @traced
    async def write(user_id: int) -> int:
        assert not backend.dropped
        return 7

    async def main() -> int:
        pending = write(5)
        assert not backend.dropped
        result: int = await pending
        return result

    assert asyncio.run(main()) == 7
    assert backend.dropped == ["user:5", "row:7"]
    assert cacheside.default_cache().stats().unknown_targets == 0


def test_interrupted_invalidation_is_pending(backend: Recorder) -> None:
    """Ctrl-C after the write, while its keys are made or delivered: they are bypassed until they were delivered."""

    def interrupt(user_id: int, result: Any) -> str:
        raise KeyboardInterrupt

    @invalidates("user:{user_id}", interrupt)
    def write(user_id: int) -> None: ...

    with pytest.raises(KeyboardInterrupt):
        write(5)
    assert (backend.dropped, cacheside.default_cache().stats().pending) == ([], 1)
    get_user(1)
    assert (backend.dropped, cacheside.default_cache().stats().pending) == (["user:5"], 0)


def test_unknown_targets_are_counted_also_when_there_are_no_others(caplog: pytest.LogCaptureFixture) -> None:
    """A write that raises, all of whose targets need its result, is counted and logged."""

    @invalidates("user:{result}")
    def write() -> int:
        raise OSError("lost")

    with pytest.raises(OSError, match="lost"):
        write()
    assert cacheside.default_cache().stats().unknown_targets == 1
    assert "not known" in caplog.text


def test_cancelled_write_is_delivered(backend: Recorder) -> None:
    """A task that is cancelled inside a write still invalidates, before the cancellation goes on."""

    @invalidates("user:{user_id}")
    async def write(user_id: int) -> None:
        await asyncio.sleep(60)

    async def main() -> list[str]:
        task = asyncio.create_task(write(5))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return list(backend.dropped)

    assert asyncio.run(main()) == ["user:5"]


def test_a_write_that_is_thrown_away_is_pending(backend: Recorder) -> None:
    """A coroutine that is closed in its write cannot await the delivery: the key is bypassed until it was delivered."""
    cache = cacheside.default_cache()

    @invalidates("user:{user_id}")
    async def write(user_id: int) -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        coroutine = write(5)
        coroutine.send(None)
        coroutine.close()

    asyncio.run(main())
    assert (backend.dropped, cache.stats().pending) == ([], 1)
    assert get_user(1) == {"id": 1}
    assert (backend.dropped, cache.stats().pending) == (["user:5"], 0)


def test_undelivered_is_pending_and_bypassed(
    backend: Recorder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write whose invalidation fails succeeds; its key is read from the store here until the delivery succeeded."""
    caplog.set_level(logging.INFO, "cacheside")
    monkeypatch.setattr(Health, "SETTLED", 0.0)
    cache, row = cacheside.default_cache(), {"value": "old"}
    cache._core.pending._retry_every = 0.0

    @cached("row:{row_id}")
    def get(row_id: int) -> str:
        return row["value"]

    @invalidates("row:{row_id}")
    def put(row_id: int, value: str) -> None:
        row["value"] = value

    assert get(1) == "old"
    backend.broken = True
    put(1, "new")
    assert [get(1), get(1)] == ["new", "new"]
    assert (get.cache_info().bypassed, cache.stats().pending) == (2, 1)
    assert backend.lookup("row:1", 1).stored == "old"  # type: ignore[union-attr]  # a Hit: what a server would say
    backend.broken = False
    assert [get(1), get(1)] == ["new", "new"]
    stats = cache.stats()
    assert (stats.pending, stats.undelivered, get.cache_info().hits) == (0, 1, 1)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]


def test_a_delivery_is_followed_by_what_is_pending(backend: Recorder) -> None:
    """An invalidation that gets through has the pending ones delivered as well; but not in one command, in which a part
    of the cache that is down would fail all of them."""
    cache = cacheside.default_cache()
    backend.broken = True
    cache.invalidate("user:1", "user:2")
    backend.broken = False
    cache.invalidate("user:3")
    assert (backend.dropped, cache.stats().pending) == (["user:3", "user:1", "user:2"], 0)


def test_every_cache_is_told() -> None:
    """A target in a broken cache does not keep the targets in other caches from their invalidation."""
    first, second = Recorder(), Recorder()
    one, two = Cache(first), Cache(second)

    @one.cached("row:{row}")
    def get(row: int) -> int:
        return row

    @two.cached("row:{row}")
    def get_too(row: int) -> int:
        return row

    @invalidates(get, get_too)
    def write(row: int) -> None: ...

    first.broken = True
    write(1)
    assert (first.dropped, one.stats().pending, second.dropped) == ([], 1, ["row:1"])
