"""Counters, and the two ways to read them: one function's `cache_info()`, a cache's `stats()`."""

import weakref
from collections.abc import Callable
from typing import NamedTuple

from .backends.base import Size


class CacheInfo(NamedTuple):
    """What happened to the calls of one function, or of all functions of a cache.

    It begins like `functools.lru_cache`'s. Every call counts as one hit or one miss.
    """

    hits: int
    """Calls answered from the cache."""
    misses: int
    """Calls whose lookup found no usable value, for whatever reason."""
    maxsize: int | None
    """How many entries the whole cache may hold; None where it is not this process that decides."""
    currsize: int | None
    """How many entries the whole cache holds now; None where only the server knows."""
    loads: int
    """Calls of the function itself: reads of the store."""
    coalesced: int
    """Misses answered by a load that another caller made."""
    refused: int
    """Fills that the cache refused because the key had been invalidated (or evicted) since the load began."""
    bypassed: int
    """Misses answered by the store without a try to fill: outage, pending invalidation, a wait that took too long."""
    errors: int
    """Failed commands to the cache. None of them reached a caller."""
    uncacheable: int
    """Results that were not stored: by `cache_if=` or `ttl=`, or since the serializer could not promise them."""
    undecodable: int
    """Stored bytes that were corrupt, foreign, or of another format, version or serializer."""
    guarded: int
    """Lookups that found a strict writer at work on the key: answered by the store, without a try to fill."""

    stale: int
    """Calls answered with a value past its ttl, or marked stale, as the function allows: hits, most of them."""
    refreshes: int
    """Loads that were made in the background, while the old value was served."""
    failed_refreshes: int
    """Those of them that raised."""
    rescued: int
    """Misses whose load failed, and which were answered with an old value (`stale_if_error`)."""
    timed_out: int
    """Calls that did not wait for a load any longer (`load_timeout`)."""
    rejected: int
    """Loads that were not made, since too many others were running (`max_loads`)."""

    @property
    def hit_rate(self) -> float:
        """The part of the calls that were hits, from 0 to 1."""
        calls = self.hits + self.misses
        return self.hits / calls if calls else 0.0


class Counters:
    """One function's counters on one cache.

    `counters.hits += 1` without a lock loses nothing under the GIL of CPython 3.11 to 3.13: the interpreter switches
    threads only at calls and backward jumps, and there is none between reading and writing the slot.
    """

    NAMES = (
        "hits", "misses", "loads", "coalesced", "refused", "bypassed", "errors", "uncacheable", "undecodable",
        "guarded", "stale", "refreshes", "failed_refreshes", "rescued", "timed_out", "rejected",
    )  # fmt: skip
    __slots__ = ("__weakref__", "_row_hits", *NAMES)

    hits: int
    misses: int
    loads: int
    coalesced: int
    refused: int
    bypassed: int
    errors: int
    uncacheable: int
    undecodable: int
    guarded: int
    stale: int
    refreshes: int
    failed_refreshes: int
    rescued: int
    timed_out: int
    rejected: int

    def __init__(self, row_hits: Callable[[], int] | None = None) -> None:
        self._row_hits = row_hits
        for name in self.NAMES:
            setattr(self, name, 0)

    def counts(self) -> dict[str, int]:
        """By name, as they are now; hits with those that rows have counted."""
        counts = {name: getattr(self, name) for name in self.NAMES}
        if self._row_hits is not None:
            counts["hits"] += self._row_hits()
        return counts

    def add(self, other: "Counters") -> None:
        """Add the counts of another."""
        for name, count in other.counts().items():
            setattr(self, name, getattr(self, name) + count)

    def info(self, size: Size) -> CacheInfo:
        """These counts as they are now."""
        counts = self.counts()
        return CacheInfo(maxsize=size.limit, currsize=size.entries, **counts)


class Stats(NamedTuple):
    """What a cache has done: totals, a line for each function, and its invalidations."""

    totals: CacheInfo
    functions: dict[str, CacheInfo]
    invalidations: int = 0
    """Keys whose invalidation was delivered."""
    undelivered: int = 0
    """Failed deliveries of invalidations; each is tried again until it succeeds."""
    pending: int = 0
    """Keys whose invalidation is not delivered yet: they are bypassed in this process."""
    unknown_targets: int = 0
    """Targets of `@invalidates` that could not be known since the write raised, or its result had no such field."""
    writes_refused: int = 0
    """Strict writes that were not begun, since their guard could not be placed."""
    guards_lost: int = 0
    """Marks of strict writers that were gone when they were taken back: past `hold`, or lost by the server."""
    updates: int = 0
    """Values that `@updates` put into the cache."""
    updates_refused: int = 0
    """Values of `@updates` that were dropped: another write to the key was under way or came between, or an outage."""
    held: int = 0
    """Keys whose invalidation was held for the end of a transaction."""
    rolled_back: int = 0
    """Those of them that were dropped, since the transaction was rolled back."""

    @property
    def hit_rate(self) -> float:
        """The part of all calls that were hits, from 0 to 1."""
        return self.totals.hit_rate


class StatsBook:
    """All counters of one cache, kept by function name; functions that are gone go on counting in their line."""

    def __init__(self) -> None:
        self._live: dict[str, weakref.WeakSet[Counters]] = {}
        self._past: dict[str, Counters] = {}
        self.invalidations = 0
        self.undelivered = 0
        self.unknown_targets = 0
        self.writes_refused = 0
        self.guards_lost = 0
        self.updates = 0
        self.updates_refused = 0
        self.held = 0
        self.rolled_back = 0

    def open(self, name: str, owner: object, row_hits: Callable[[], int] | None) -> Counters:
        """New counters for the function `name`, which live as long as `owner` and stay in its line after that.

        Args:
            row_hits: gives the hits that rows have counted; None if there are no rows.
        """
        counters = Counters(row_hits)
        self._live.setdefault(name, weakref.WeakSet()).add(counters)
        past = self._past.setdefault(name, Counters())
        weakref.finalize(owner, past.add, counters).atexit = False
        return counters

    def stats(self, size: Size, pending: int) -> Stats:
        """Everything as it is now."""
        totals, lines = Counters(), {}
        for name, past in list(self._past.items()):
            line = Counters()
            line.add(past)
            for counters in list(self._live[name]):
                line.add(counters)
            totals.add(line)
            lines[name] = line.info(size)
        return Stats(
            totals.info(size),
            lines,
            invalidations=self.invalidations,
            undelivered=self.undelivered,
            pending=pending,
            unknown_targets=self.unknown_targets,
            writes_refused=self.writes_refused,
            guards_lost=self.guards_lost,
            updates=self.updates,
            updates_refused=self.updates_refused,
            held=self.held,
            rolled_back=self.rolled_back,
        )
