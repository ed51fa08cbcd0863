"""What a run of the demo has found: plain data, as ``--json`` prints it."""

from __future__ import annotations

from dataclasses import dataclass

from ..latencies import Latency
from .stampede import Stampede


@dataclass(frozen=True)
class Figures:
    """All figures of a run. `calls` to `errors` are those of the traffic of many threads and tasks."""

    cache: str
    store: str
    rows: int
    seconds: float
    calls: int
    writes: int
    hit_rate: float
    store_reads: int
    store_reads_saved: int
    coalesced: int
    refused: int
    errors: int
    latency_with_cache: Latency
    latency_without_cache: Latency
    stampede_of_threads: Stampede
    stampede_of_tasks: Stampede
    stale_reads: int
    """Reads older than a write that had returned before they began, and entries unlike the store at the end."""
    reads_checked: int
    """Reads compared with the newest version known when they began."""
    entries_checked: int
    """Products read through the cache at the end, and compared with the store."""
