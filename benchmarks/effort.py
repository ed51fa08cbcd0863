"""How long things are measured."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How much of everything.

    Attributes:
        name: as the results have it.
        rounds: in each of them both sides are timed once.
        sample: seconds that one side takes in a round, about.
        starts: processes that are started for each side of the part "import".
        entries: whose bytes are measured.
        growths: processes that are filled with entries for each library.
        crowds: times that a crowd meets a cold key, and rounds of the part "refresh".
        callers: threads, or tasks, in a crowd.
        processes: in a crowd of processes.
        span: seconds that callers read a value that is refreshed, in each round.
        traces: how many, the smallest first; None: all.
        requests: of each trace, the first; None: all.
    """

    name: str
    rounds: int
    sample: float
    starts: int
    entries: int
    growths: int
    crowds: int
    callers: int
    processes: int
    span: float
    traces: int | None
    requests: int | None


FULL = Effort("full", 101, 0.02, 60, 100_000, 3, 9, 1000, 8, 1.0, None, None)
QUICK = Effort("quick", 31, 0.004, 12, 20_000, 1, 3, 1000, 8, 0.3, 3, 20_000)
TINY = Effort("tiny", 3, 0.0002, 2, 1_000, 1, 2, 20, 2, 0.3, 2, 2_000)
"""For the tests: it shows that everything runs, and no figure means anything."""
