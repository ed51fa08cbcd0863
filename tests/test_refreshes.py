"""Refreshes in the background: few threads make them, failures are logged once, and they are inside no load."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import Any

import pytest
from colours import TIMEOUT, Colour, Threads, until

from cacheside import Cache, background
from cacheside.backends.memory import MemoryBackend
from cacheside.testing import FakeClock

WINDOWS: dict[str, Any] = {"key": "row:{row}", "ttl": 60, "stale_while_revalidate": 3600}


class Rows:
    """Rows that are past their ttl, and whose refresh takes until the gate is opened."""

    def __init__(self, colour: Colour, count: int = 1) -> None:
        self.clock = FakeClock()
        self.cache = Cache(MemoryBackend(clock=self.clock))
        self.value: Any = "old"
        self.error: Exception | None = None
        self.loads = self.running = self.most = 0
        self.gate = threading.Event()
        self._lock = threading.Lock()
        self.read = colour.decorate(self.cache.cached(**WINDOWS), self._load)
        self.gate.set()
        for row in range(count):
            assert colour.run(self.read, row) == "old"
        self.gate.clear()
        self.loads = self.most = 0
        self.clock.advance(61)

    def _load(self, row: int) -> Any:
        with self._lock:
            self.loads += 1
            self.running += 1
            self.most = max(self.most, self.running)
        assert self.gate.wait(TIMEOUT)
        with self._lock:
            self.running -= 1
        if self.error is not None:
            raise self.error
        return self.value


@pytest.fixture
def sync() -> Threads:
    """Plain code."""
    return Threads()


# --- the threads ---


def test_few_threads(sync: Threads) -> None:
    """However many values want refreshing, eight threads do it, four for one function, and they do it all."""
    several = [Rows(sync, 40) for _ in range(3)]
    before = threading.active_count()
    for rows in several:
        assert [rows.read(row) for row in range(40)] == ["old"] * 40
    until(lambda: sum(rows.running for rows in several) == background.THREADS)
    for rows in several:
        assert [rows.read(row) for row in range(40)] == ["old"] * 40
    assert threading.active_count() <= before + background.THREADS
    for rows in several:
        rows.value = "new"
        rows.gate.set()
    for rows in several:
        until(lambda rows=rows: [rows.read(row) for row in range(40)] == ["new"] * 40)  # type: ignore[misc]
        assert rows.most <= background.SHARE
        assert rows.loads == 40
    until(lambda: not background._workers._lines)


def test_function_that_hangs(sync: Threads, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """A function whose refreshes hang takes nothing from others, and the log says so: once, and only after a while."""
    monkeypatch.setattr(background, "_workers", background._Workers())
    hanging, other = Rows(sync, 40), Rows(sync, 40)
    assert [hanging.read(row) for row in range(40)] == ["old"] * 40
    until(lambda: hanging.running == background.SHARE)
    other.value = "new"
    other.gate.set()
    until(lambda: [other.read(row) for row in range(40)] == ["new"] * 40)
    assert (hanging.most, hanging.loads, caplog.records) == (background.SHARE, background.SHARE, [])
    monkeypatch.setattr(background, "HANGING", 0.0)
    hanging.cache._core.refreshes.clear()  # as when a lease is over
    assert [hanging.read(row) for row in range(40)] == ["old"] * 40
    (record,) = caplog.records
    assert "hang: 4 are running" in record.getMessage()
    assert record.getMessage().startswith("colours.Threads.decorate.<locals>.plain: its refreshes are slow")
    hanging.value = "new"
    hanging.gate.set()
    until(lambda: [hanging.read(row) for row in range(40)] == ["new"] * 40)


def test_no_room(sync: Threads, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Where as many refreshes of a function wait as may, the old value is served all the same, and refreshed later."""
    workers = background._Workers()
    monkeypatch.setattr(background, "_workers", workers)
    monkeypatch.setattr(background, "WAITING", 2)
    rows = Rows(sync, 40)
    rounds = [rows.read(row) for row in range(40)]
    until(lambda: rounds.extend(map(rows.read, range(40))) or rows.running == background.SHARE)
    rounds.extend(map(rows.read, range(40)))
    assert set(rounds) == {"old"}
    (line,) = workers._lines.values()
    assert len(line.work) <= 2
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    rows.value = "new"
    rows.gate.set()
    until(lambda: [rows.read(row) for row in range(40)] == ["new"] * 40)
    assert rows.loads == 40


def test_no_threads_to_be_had(sync: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, values are served, and loads with a timeout are made by their callers."""
    rows = Rows(sync)
    timed = rows.cache.cached(key="timed:{row}", load_timeout=TIMEOUT)(lambda row: row)

    def refuse(work: Any) -> None:
        raise RuntimeError("can't start new thread")

    workers = background._Workers()
    monkeypatch.setattr(background, "_workers", workers)
    monkeypatch.setattr(background, "_start", refuse)
    assert [rows.read(0) for _ in range(3)] == ["old"] * 3
    assert timed(7) == 7
    assert (rows.loads, len(workers._lines), workers._threads) == (0, 0, 0)


def test_idle_threads_end(sync: Threads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that have nothing to do end, and there are new ones when there is work again."""
    monkeypatch.setattr(background, "IDLE", 0.01)
    workers = background._Workers()
    monkeypatch.setattr(background, "_workers", workers)
    rows = Rows(sync)
    rows.gate.set()
    for _ in range(3):
        rows.value = object()
        assert rows.read(0) is not rows.value
        until(lambda: rows.read(0) is rows.value)
        until(lambda: workers._threads == 0)
        rows.clock.advance(61)


# --- what is logged ---


def test_failures_are_logged_once(colour: Colour, caplog: pytest.LogCaptureFixture) -> None:
    """Of refreshes that fail one after another the first is logged, with what was raised; after a success, again."""
    rows = Rows(colour)
    rows.gate.set()
    for streak in (1, 2):
        caplog.clear()
        rows.error, loads = ZeroDivisionError(f"streak {streak}"), rows.loads
        until(lambda loads=loads: colour.run(rows.read, 0) != "new" and rows.loads >= loads + 3)  # type: ignore[misc]
        messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(messages) == 1
        assert f"streak {streak}" in messages[0]
        rows.error, rows.value = None, f"new {streak}"
        until(lambda streak=streak: colour.run(rows.read, 0) == f"new {streak}")  # type: ignore[misc]
        rows.clock.advance(61)


def test_what_is_no_exception_is_logged(caplog: pytest.LogCaptureFixture, sync: Threads) -> None:
    """A refresh that ends by SystemExit or the like ends nothing else: it is logged, and refreshing goes on."""
    rows = Rows(sync)
    rows.gate.set()
    rows.error = SystemExit("from a load")  # type: ignore[assignment]
    assert rows.read(0) == "old"
    until(lambda: any("background" in record.getMessage() for record in caplog.records))
    rows.error, rows.value = None, "new"
    until(lambda: rows.read(0) == "new")
    assert len(caplog.records) == 1


def test_refresh_inside_a_load() -> None:
    """A refresh that is begun inside a load is not inside it: it may wait for the value of that load."""
    clock = FakeClock()
    cache, begun = Cache(MemoryBackend(clock=clock)), threading.Event()

    @cache.cached(**WINDOWS)
    def inner(row: int) -> str:
        if clock() == FakeClock()():
            return "old"
        begun.set()
        return str(outer(row))

    @cache.cached(key="outer:{row}", ttl=3600)
    def outer(row: int) -> str:
        found = inner(row)
        assert begun.wait(TIMEOUT)
        return f"outer of {found}"

    assert inner(1) == "old"
    clock.advance(61)
    assert outer(1) == "outer of old"
    until(lambda: inner(1) == "outer of old")
    assert (inner.cache_info().failed_refreshes, inner.cache_info().loads) == (0, 2)


def test_async_refresh_inside_a_load() -> None:
    """The same for tasks."""
    clock = FakeClock()
    cache = Cache(MemoryBackend(clock=clock))

    @cache.cached(**WINDOWS)
    async def inner(row: int) -> str:
        if clock() == FakeClock()():
            return "old"
        begun.set()
        return str(await outer(row))

    @cache.cached(key="outer:{row}", ttl=3600)
    async def outer(row: int) -> str:
        found = await inner(row)
        await asyncio.wait_for(begun.wait(), TIMEOUT)
        return f"outer of {found}"

    async def main() -> None:
        assert await inner(1) == "old"
        clock.advance(61)
        assert await outer(1) == "outer of old"
        while await inner(1) == "old":
            await asyncio.sleep(0.002)
        assert await inner(1) == "outer of old"

    begun = asyncio.Event()
    asyncio.run(asyncio.wait_for(main(), TIMEOUT))
    assert (inner.cache_info().failed_refreshes, inner.cache_info().loads) == (0, 2)
