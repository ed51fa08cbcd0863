"""Races for real: 8 processes of threads and tasks on 4 hot rows of PostgreSQL, and not one stale read."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from long import scaled
from races.crew import Report, race
from servers import PostgresServer

PROCESSES, CALLERS = 8, 3


def run(url: str, store: str, folder: Path, operations: int, **options: object) -> Report:
    """A race of so many operations altogether."""
    each = -(-operations // (PROCESSES * CALLERS * 2))
    with race(url, store, folder, PROCESSES, callers=CALLERS, operations=each, **options) as crew:
        return crew.report(patience=3600)


KINDS = {
    "plain": {"plain": 1.0},
    "mixed": {"plain": 0.4, "strict": 0.3, "updates": 0.2, "strict updates": 0.1},
}


@pytest.mark.timeout(scaled(120, 3600))
@pytest.mark.parametrize("kinds", KINDS)
def test_races(url: str, postgres_server: PostgresServer, tmp_path: Path, kinds: str) -> None:
    """20,000 operations (1,000,000 in the long run), 5% writes: no read is older than the last write before it."""
    start = time.monotonic()
    report = run(url, postgres_server.url, tmp_path, scaled(20_000, 1_000_000), kinds=KINDS[kinds])
    tell(f"cacheside, {kinds} writes", url, report, start)
    assert report.clean, report.words
    assert report.total("errors") == 0
    assert all(each["hits"] > each["updates"] for each in report.counts)  # it was a cache
    assert report.total("refused") > 0  # there were races
    assert (report.total("guarded") > 0) == (report.total("updates") > 0) == (kinds == "mixed")


def test_control(url: str, postgres_server: PostgresServer, tmp_path: Path) -> None:
    """The control: with get, set and delete the same traffic reads hundreds of stale values."""
    start = time.monotonic()
    report = run(url, postgres_server.url, tmp_path, 20_000, by_hand=True)
    tell("get, set, delete", url, report, start)
    assert report.exceptions == 0, report.words
    assert report.stale > 100


def tell(way: str, url: str, report: Report, start: float) -> None:
    """The figures, for `pytest -rP`."""
    kind = url.partition(":")[0]
    seconds = time.monotonic() - start
    print(f"{kind}, {way}: {report.stale:,} stale of {report.operations:,} operations in {seconds:.0f} s")
