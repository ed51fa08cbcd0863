"""What an outage costs, in counts, and what comes after it. `outage_cost.py` measures the same in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from colours import TIMEOUT, Colour
from redis_tools import MakeCache
from servers import MemcachedServer, RedisServer

from cacheside import breaker
from cacheside.breaker import Breaker

pytestmark = pytest.mark.server

AnyServer = RedisServer | MemcachedServer


@pytest.fixture(params=["redis", "memcached"])
def server(request: pytest.FixtureRequest) -> AnyServer:
    """Each kind of server, for this test alone."""
    started: AnyServer = request.getfixturevalue(f"new_{request.param}")()
    return started


@pytest.fixture(params=["freeze", "kill"])
def outage(request: pytest.FixtureRequest) -> str:
    """The server hangs, or is gone."""
    return str(request.param)


def end(server: AnyServer, outage: str) -> None:
    """Have it back."""
    server.thaw() if outage == "freeze" else server.start()


@pytest.fixture
def failures(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The commands that were sent and failed so far. No probe is sent during the test: each is a call of its own."""
    monkeypatch.setattr(breaker, "FIRST", 3600.0)
    monkeypatch.setattr(breaker, "LONGEST", 3600.0)
    failed: Callable[..., None] = Breaker.failed
    reasons: list[object] = []

    def noted(self: Breaker, reason: object, at_once: bool = False) -> None:
        reasons.append(reason)
        failed(self, reason, at_once)

    monkeypatch.setattr(Breaker, "failed", noted)
    return reasons


class Rows:
    """A store of many rows with one value, and its functions on a cache."""

    def __init__(self, colour: Colour, cache: Any) -> None:
        self.value = "old"
        self.cache = cache
        self.colour = colour
        self.read = colour.decorate(cache.cached(key="row:{number}"), self._read)
        self.write = colour.decorate(cache.invalidates("row:{number}"), self._write)

    def _read(self, number: int) -> str:
        return self.value

    def _write(self, number: int, value: str) -> None:
        self.value = value


def test_one_call_waits(
    server: AnyServer, outage: str, colour: Colour, make_cache: MakeCache, failures: list[object]
) -> None:
    """Of a thousand calls one after the other the first one waits for the server, and no other does.

    Nor does one send a byte; but where nobody listens, which is found out at once, writes try each time.
    """
    rows = Rows(colour, make_cache(server.url))
    assert colour.run(rows.read, 0) == "old"
    getattr(server, outage)()
    assert [colour.run(rows.read, number % 10) for number in range(500)] == ["old"] * 500
    assert len(failures) == 1
    for number in range(500):
        colour.run(rows.write, number % 10, "new")
    assert len(failures) == (501 if outage == "kill" else 1)
    assert rows.cache.stats().pending == 10
    end(server, outage)


def test_each_caller_waits_once(
    server: AnyServer, outage: str, colour: Colour, make_cache: MakeCache, failures: list[object]
) -> None:
    """Of a crowd those wait whose commands are under way as the server stops answering, each once."""
    rows = Rows(colour, make_cache(server.url))
    assert colour.run(rows.read, 0) == "old"
    getattr(server, outage)()
    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(colour.run, rows.read, number) for number in range(800)]
        assert {call.result(TIMEOUT) for call in calls} == {"old"}
    assert 1 <= len(failures) <= 8
    end(server, outage)


def test_recovery(server: AnyServer, outage: str, colour: Colour, make_cache: MakeCache) -> None:
    """The server is back: what was written in the outage is delivered, then there are hits, and never an old value."""
    rows = Rows(colour, make_cache(server.url))
    assert [colour.run(rows.read, 1) for _ in range(2)] == ["old"] * 2
    getattr(server, outage)()
    colour.run(rows.write, 1, "new")
    assert rows.cache.stats().pending == 1
    end(server, outage)
    back = time.monotonic()
    hits = rows.cache.stats().totals.hits
    while rows.cache.stats().totals.hits == hits:
        assert colour.run(rows.read, 1) == "new"
        assert time.monotonic() < back + TIMEOUT, "it is never used again"
        time.sleep(0.001)
    print(f"hits again after {time.monotonic() - back:.3f} s")
    assert rows.cache.stats().pending == 0
    assert {colour.run(rows.read, 1) for _ in range(100)} == {"new"}
