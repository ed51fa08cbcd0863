"""What `cacheside check` makes of what it has seen."""

from __future__ import annotations

import pytest

from cacheside.check.figures import Column, Latencies, Tally, notes


def column(reads: int = 0, writes: int = 0, **counts: int) -> Column:
    """What callers come to that have read and written so often."""
    tally = Tally()
    for _ in range(reads):
        tally.read(1000, stale=False)
    for _ in range(writes):
        tally.wrote(1000)
    tally.counts.update(counts)
    return Column.of(tally, 1.0)


def test_notes() -> None:
    """People are told what a run is worth: nothing without a write, little if the control shows nothing."""
    assert notes(None, None, [], []) == []
    assert notes(column(5, 5), None, [], []) == ["No stale read among 5."]
    assert "proved nothing" in notes(column(5), column(5), [], [])[-1]
    assert "proved little" in notes(column(5, 5), column(5, 5), [], [])[-1]
    outage = notes(column(5, 5, undelivered=3), None, ["it broke"], ["cacheside"])
    assert "3 deliveries of invalidations" in outage[1]
    assert "it broke" in outage[1]
    assert "could not be removed" in outage[2]


def test_latencies() -> None:
    """Percentiles are right to 1 %, whoever has counted the calls."""
    first, second = Latencies(), Latencies()
    for microseconds in range(1, 1001):
        (first if microseconds % 2 else second).add(microseconds * 1000)
    first.update(second)
    assert first.percentile(50) == pytest.approx(500, rel=0.01)
    assert first.percentile(99) == pytest.approx(990, rel=0.01)
    assert Latencies().percentile(50) == 0
