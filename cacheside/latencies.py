"""How long calls took, for the commands that measure."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass


class Latencies:
    """Durations, counted in steps of 1 %: memory is bounded, and no call is left out."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, nanoseconds: int) -> None:
        """One call."""
        self._counts[int(math.log(nanoseconds + 1) * 100)] += 1

    def update(self, other: Latencies) -> None:
        """The calls of another as well."""
        self._counts.update(other._counts)

    def percentile(self, percent: float) -> float:
        """The microseconds within which so much of the calls had ended; 0 if there were none."""
        left = self._counts.total() * percent / 100
        for step, count in sorted(self._counts.items()):
            left -= count
            if left <= 0:
                return round(math.exp((step + 0.5) / 100) / 1000, 1)
        return 0.0


@dataclass(frozen=True)
class Latency:
    """Half of the calls, and 99 of 100, were at least as fast as this; in microseconds."""

    p50_us: float
    p99_us: float

    @classmethod
    def of(cls, latencies: Latencies) -> Latency:
        """The two that people look at."""
        return cls(latencies.percentile(50), latencies.percentile(99))
