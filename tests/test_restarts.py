"""A server that is killed and comes back empty, and two processes, each of which finds it again in its own time.

The race: a process that has found it fills the old row while another one, whose breaker is still open, commits. The
second must not keep its invalidation back, or the first serves the old row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from colours import Colour
from redis_tools import MakeCache
from servers import MemcachedServer, RedisServer

from cacheside import breaker

Killable = RedisServer | MemcachedServer


@pytest.fixture(
    params=[
        pytest.param("new_redis", marks=pytest.mark.server),
        pytest.param("new_memcached", marks=pytest.mark.server),
    ]
)
def server(request: pytest.FixtureRequest) -> Killable:
    """One of each kind, for this test alone."""
    started: Killable = request.getfixturevalue(request.param)()
    return started


@pytest.fixture(autouse=True)
def no_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is never time for a probe: an open breaker stays open."""
    monkeypatch.setattr(breaker.random, "uniform", lambda low, high: float("inf"))


class Process:
    """What one process has: a cache, a read and writes of a row of the common store."""

    def __init__(self, colour: Colour, make_cache: MakeCache, server: Killable, rows: dict[str, str]) -> None:
        self._colour = colour
        self._cache = make_cache(server.url, timeout=0.5)
        self._rows = rows
        self._load = colour.decorate(self._cache.cached(key="{row}"), lambda row: rows.get(row, "old"))

    def read(self, row: str) -> Any:
        return self._colour.run(self._load, row)

    def write(self, row: str, meanwhile: Callable[[], object] = lambda: None, **options: Any) -> None:
        """`meanwhile`: before it commits."""

        def put(row: str) -> None:
            meanwhile()
            self._rows[row] = "new"

        self._colour.run(self._colour.decorate(self._cache.invalidates("{row}", **options), put), row)

    @property
    def undelivered(self) -> int:
        """How many deliveries failed."""
        return self._cache.stats().undelivered


@pytest.fixture
def processes(colour: Colour, make_cache: MakeCache, server: Killable) -> tuple[Process, Process]:
    """Two of them."""
    rows: dict[str, str] = {}
    return Process(colour, make_cache, server, rows), Process(colour, make_cache, server, rows)


def restart(server: Killable, noticed_by: Process) -> None:
    """Kill it, have a process notice, and start it again: for that process it is still down."""
    server.kill()
    assert noticed_by.read("something else") == "old"
    server.start()


def test_invalidation_does_not_wait_for_a_probe(server: Killable, processes: tuple[Process, Process]) -> None:
    """Written by a process that has not found the server again, a row is new at once in one that has."""
    writer, reader = processes
    assert writer.read("row") == "old"
    restart(server, noticed_by=writer)
    assert reader.read("row") == "old"
    writer.write("row")
    assert reader.read("row") == "new"
    assert writer.undelivered == 0


@pytest.mark.parametrize("options", [{"strict": True}, {"stale": 10}], ids=["strict", "stale"])
def test_restart_during_a_write(
    server: Killable, processes: tuple[Process, Process], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same where the server restarts in the middle of a write, and with it a guard is lost."""
    writer, reader = processes

    def meanwhile() -> None:
        restart(server, noticed_by=writer)
        assert reader.read("row") == "old"

    writer.write("row", meanwhile, **options)
    assert reader.read("row") == "new"
    assert writer.undelivered == 0


def test_invalidation_waits_after_a_time_out(server: Killable, processes: tuple[Process, Process]) -> None:
    """Where a try would cost the time-out again, an invalidation waits for a probe, as all else does; it is pending."""
    writer, _ = processes
    assert writer.read("row") == "old"
    server.freeze()
    assert writer.read("something else") == "old"
    server.thaw()
    writer.write("row")
    assert writer.undelivered == 1
    assert writer.read("row") == "new"
