"""Two or more sides timed in turns, so that all meet the same noise; what counts is the ratio within a round.

The machine's speed drifts, and so do absolute times. In each round every side is timed once, the order reversed from
round to round; the ratio of a round compares two neighbours; the result is the median of the ratios, and its spread are
their quartiles. Garbage collection is off while a side is timed, for all of them alike, as `timeit` does it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from cacheside.progress import Progress

from .effort import Effort
from .sides import Side


@dataclass(frozen=True)
class Spread:
    """A median, the quartiles beside it, and the extremes."""

    median: float
    low: float
    high: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least two values."""
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(*[_digits(each) for each in (statistics.median(values), low, high, min(values), max(values))])


@dataclass(frozen=True)
class Time:
    """What one call of one side takes."""

    name: str
    ns: Spread
    verified: bool
    """Whether each timed call has been shown to be what it should be, such as a hit: see `Side.check`."""


@dataclass(frozen=True)
class Row:
    """This library beside another.

    Attributes:
        name: what was done.
        ratio: this library's time / the other's, by rounds.
        at_most: what the ratio should be; None: nothing is asked.
        reached: whether its median is that.
    """

    name: str
    ours: Time
    other: Time
    ratio: Spread
    rounds: int
    at_most: float | None
    reached: bool | None


def race(sides: Sequence[Side], effort: Effort, sample: float = 0.0) -> list[list[float]]:
    """Time all sides in turns.

    Args:
        sides: at least one.
        effort: how often and how long.
        sample: seconds at least for each side in a round, if that is more than the effort's.

    Returns:
        for each side the nanoseconds of one call, by rounds.

    Raises:
        NotVerified: a side did not do what it should have done.
    """
    for side in sides:
        side.check()
    numbers = [_calls(side, max(sample, effort.sample)) for side in sides]
    times: list[list[float]] = [[] for _ in sides]
    for number in range(effort.rounds):
        turns = list(zip(sides, numbers, times, strict=True))
        for side, calls, seen in turns if number % 2 else reversed(turns):
            seen.append(side.seconds(calls) / calls * 1e9)
    for side in sides:
        side.check()
    return times


def compare(
    name: str, ours: Side, other: Side, effort: Effort, at_most: float | None = None, sample: float = 0.0
) -> Row:
    """Race two sides. See `race`."""
    mine, theirs = race([ours, other], effort, sample)
    ratio = Spread.of([one / two for one, two in zip(mine, theirs, strict=True)])
    reached = None if at_most is None else ratio.median <= at_most
    return Row(name, time_of(ours, mine), time_of(other, theirs), ratio, effort.rounds, at_most, reached)


def times(sides: Sequence[Side], effort: Effort, progress: Progress | None = None) -> list[Time]:
    """Race several sides; their times."""
    return [time_of(side, seen) for side, seen in zip(sides, race(sides, effort), strict=True)]


def time_of(side: Side, seen: Sequence[float]) -> Time:
    """What has been seen of a side, whose last check has passed."""
    return Time(side.name, Spread.of(seen), verified=True)


def _calls(side: Side, sample: float) -> int:
    """How many calls of a side take `sample` seconds, about: a multiple of its `unit`."""
    calls = side.unit
    while (seconds := side.seconds(calls)) < sample / 4:
        calls *= 4
    return max(1, round(calls * sample / seconds / side.unit)) * side.unit


def _digits(value: float) -> float:
    """Four digits that count: more would only be noise."""
    return round(value, max(0, 3 - math.floor(math.log10(abs(value))))) if value else 0.0
