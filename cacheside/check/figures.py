"""What the check has seen: tallies of callers and processes, and the report, plain data as ``--json`` prints it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..latencies import Latencies, Latency


class Tally:
    """What one caller, one process, or all of them have seen."""

    def __init__(self) -> None:
        self.reads: int = 0
        self.writes: int = 0
        self.writes_refused: int = 0
        self.stale_reads: int = 0
        self.read_latencies: Latencies = Latencies()
        self.write_latencies: Latencies = Latencies()
        self.counts: Counter[str] = Counter()
        """Of the cache: see `Way.counts`."""
        self.trouble: str = ""
        """What the cache of the process first failed of."""

    def read(self, nanoseconds: int, stale: bool) -> None:
        """One read."""
        self.reads += 1
        self.stale_reads += stale
        self.read_latencies.add(nanoseconds)

    def wrote(self, nanoseconds: int) -> None:
        """One write."""
        self.writes += 1
        self.write_latencies.add(nanoseconds)

    def update(self, other: Tally) -> None:
        """What another has seen as well."""
        self.reads += other.reads
        self.writes += other.writes
        self.writes_refused += other.writes_refused
        self.stale_reads += other.stale_reads
        self.read_latencies.update(other.read_latencies)
        self.write_latencies.update(other.write_latencies)
        self.counts.update(other.counts)


@dataclass(frozen=True)
class Column:
    """What one way of caching has done. None: it has nothing of the kind."""

    seconds: float
    operations: int
    reads: int
    writes: int
    stale_reads: int
    """Reads that showed an older version than a write had made that had returned before they began."""
    stale_per_10_000: float
    """Of the reads."""
    hits: int
    hit_rate: float
    loads: int
    refused: int | None
    """Fills that the cache refused, since a write had come between: each would have been a stale value."""
    coalesced: int | None
    bypassed: int | None
    guarded: int | None
    errors: int
    undelivered: int | None
    """Invalidations that did not arrive at once."""
    writes_refused: int
    """Strict writes that were refused before they began, since the server did not answer."""
    read_latency: Latency
    write_latency: Latency

    @classmethod
    def of(cls, tally: Tally, seconds: float) -> Column:
        """What a tally comes to."""
        counts = tally.counts
        calls = counts["hits"] + counts["misses"]
        return cls(
            seconds=round(seconds, 2),
            operations=tally.reads + tally.writes + tally.writes_refused,
            reads=tally.reads,
            writes=tally.writes,
            stale_reads=tally.stale_reads,
            stale_per_10_000=round(tally.stale_reads * 10_000 / tally.reads, 1) if tally.reads else 0.0,
            hits=counts["hits"],
            hit_rate=round(counts["hits"] / calls, 4) if calls else 0.0,
            loads=counts["loads"],
            refused=counts.get("refused"),
            coalesced=counts.get("coalesced"),
            bypassed=counts.get("bypassed"),
            guarded=counts.get("guarded"),
            errors=counts["errors"],
            undelivered=counts.get("undelivered"),
            writes_refused=tally.writes_refused,
            read_latency=Latency.of(tally.read_latencies),
            write_latency=Latency.of(tally.write_latencies),
        )


@dataclass(frozen=True)
class Report:
    """All that came out."""

    cache: str
    processes: int
    threads: int
    """In each process."""
    tasks: int
    """In each process."""
    keys: int
    writes: float
    """The share of the operations that are writes."""
    strict: bool
    cacheside: Column | None
    """None if it did not come to that."""
    naive: Column | None
    """None also where nobody asked for it."""
    interrupted: bool
    failures: list[str]
    """Why the check did not come to its end."""
    notes: list[str]
    """What to think of it, for people."""

    @property
    def status(self) -> int:
        """The exit status that says so: 1 for a stale read, whatever else there was."""
        if self.cacheside is not None and self.cacheside.stale_reads:
            return 1
        return 130 if self.interrupted else 2 if self.failures else 0


def notes(ours: Column | None, naive: Column | None, troubles: Sequence[str], left: Sequence[str]) -> list[str]:
    """What to think of it.

    Args:
        troubles: what the caches of processes first failed of.
        left: the ways whose keys could not be removed from the server.
    """
    said: list[str] = []
    if ours is not None:
        said.append(verdict(ours, naive))
        if ours.errors or ours.undelivered or ours.writes_refused:
            reason = f": {troubles[0]}" if troubles else ""
            said.append(
                f"The server failed during the check ({ours.errors:,} commands of reads, {ours.undelivered or 0:,} "
                f"deliveries of invalidations, {ours.writes_refused:,} strict writes refused){reason}. What one "
                "process could not deliver the others cannot know, unless the writes are strict: check again while "
                "the server is well, or with --strict."
            )
        if not ours.writes:
            said.append("Nothing was written, so nothing could be stale: this run has proved nothing.")
        elif naive is not None and not naive.stale_reads:
            said.append(
                "The naive way showed no stale read either: this run has proved little. Ask for more --operations."
            )
    if left:
        said.append(f"The keys of {' and '.join(left)} could not be removed from the server: they expire in a minute.")
    return said


def verdict(ours: Column, naive: Column | None) -> str:
    """The result in a sentence."""
    if ours.stale_reads:
        text = f"STALE: {ours.stale_reads:,} of {ours.reads:,} reads were older than a write that had returned."
    else:
        text = f"No stale read among {ours.reads:,}."
    if naive is not None:
        text += f" Plain get, set and delete in the same race: {naive.stale_reads:,} of {naive.reads:,}."
    return text
