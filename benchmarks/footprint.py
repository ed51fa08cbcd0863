"""What an entry takes in memory, beyond its key and its value.

Each library fills a cache with entries under int keys, in a process of its own; twice each is asked for, since some
keep more of what has been hit. Measured is how much the resident memory of the process grows: some of the peers are
written in Rust, of whose memory Python knows nothing. Keys and values are made before.
"""

from __future__ import annotations

import gc
import statistics
from typing import Any

from cacheside.progress import Progress

from . import peers
from .effort import Effort
from .parts import alone

NAMES = ("cacheside", "cachetools", "cachebox", "theine", "functools.lru_cache")


def measure(effort: Effort, progress: Progress) -> dict[str, Any]:
    """The bytes of an entry, by library; the median of some processes."""
    entries, found = effort.entries, {}
    for number, name in enumerate(NAMES):
        found[name] = statistics.median(alone(grown, name, entries) for _ in range(effort.growths))
        progress((number + 1) / len(NAMES))
    return {"entries": entries, "measured": "growth of resident memory (RSS)", "bytes_per_entry": found}


def grown(name: str, entries: int) -> float:
    """By how many bytes this process grows with each entry."""
    import psutil  # type: ignore[import-untyped]  # its types are in a package of their own

    values = [float(number) for number in range(entries)]
    keys = list(range(entries))
    process = psutil.Process()
    warm = peers.SYNC[name](10)(lambda key: key)
    warm(1), warm(1)
    gc.collect()
    before = process.memory_info().rss
    f = peers.SYNC[name](entries)(lambda key: values[key])
    for _ in range(2):
        for key in keys:
            if f(key) is not values[key]:
                raise AssertionError(f"{name} gave another value than was stored")
    gc.collect()
    return float(round((process.memory_info().rss - before) / entries, 1))
