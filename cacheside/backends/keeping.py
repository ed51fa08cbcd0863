"""What a memory backend keeps: entries, leases and claims, guards, versions of tags; and the steps to change them."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from .. import tokens
from ..shelf import Shelf
from .base import Answer, Busy, Guarded, Hit, Leased, Stale

TAGS = 10_000  # versions that any cache keeps
TAGS_OF_BYTES = 100_000  # and one that is bounded by bytes


class Guard:
    """The marks of the writers at work on a key, each with its deadline."""

    __slots__ = ("marks", "untouched")

    def __init__(self) -> None:
        self.marks: dict[str, float] = {}
        self.untouched: bool = True

    def live(self, now: float) -> bool:
        """Whether any mark is left; those whose deadline is over are removed."""
        for token in [token for token, deadline in self.marks.items() if deadline <= now]:
            del self.marks[token]
        return bool(self.marks)


class Keeping:
    """The tables, and steps between them. Not thread-safe: `MemoryBackend` has the lock.

    Args:
        make: gives an empty shelf for the entries.
        max_entries: of the shelf; None: it is bounded by bytes.
        clock: seconds that never go back.
    """

    def __init__(self, make: Callable[[], Shelf], max_entries: int | None, clock: Callable[[], float]) -> None:
        self.clock: Callable[[], float] = clock
        self._make = make
        self._max_entries = max_entries
        self._max_tags = TAGS_OF_BYTES if max_entries is None else max(TAGS, 4 * max_entries)
        self._tokens = itertools.count(1)
        self._empty()

    def _empty(self) -> None:
        self._entries = self._make()
        # The versions of tags. The oldest go, not the least used: whoever looks for one that went plants a new one.
        self._tags: OrderedDict[str, bytes] = OrderedDict()
        self._disown()

    def _disown(self) -> None:
        """Have no leases and no guards."""
        # Leases are not evicted by values: a crowd of loads must not push out what the cache is for. Their number is
        # that of the loads under way; those of dead loads expire. A lease beside an entry is a claim on it.
        self._leases: dict[str, tuple[int, float]] = {}
        # A guarded key has neither value, version nor lease. Guards are not evicted.
        self._guards: dict[str, Guard] = {}

    # Values.

    def _lookup(self, key: str, lease: float | None) -> Answer | None:
        """None: there is no value, and no lease was asked for."""
        entry = self._entries.hit(key)
        if entry is not None:
            return Stale(entry.stored, entry) if entry.stale else Hit(entry.stored, entry)
        if self._guards and self._guard(key) is not None:
            return Guarded()
        return None if lease is None else self._lease(key, lease)

    def _fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        if not self._holds(key, token):
            return False
        self._entries.put(key, stored, ttl)  # first: a value that is too large leaves the lease to be released
        del self._leases[key]
        return True

    def _release(self, key: str, token: Any) -> bool:
        if not self._holds(key, token):
            return False
        del self._leases[key]
        return True

    def _replace(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        entry = self._entries.get(key)
        if (entry is not None and entry is not seen) or self._guard(key) is not None:
            return Busy()
        if entry is not None:
            self._drop_value(key)  # with a claim on it
        return self._lease(key, lease)

    def _claim(self, key: str, seen: Any, lease: float) -> Leased | Busy:
        entry = self._entries.get(key)
        return Busy() if entry is None or entry is not seen else self._lease(key, lease)

    def _drop(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._drop_value(key)
            self._touch(key)

    def _drop_value(self, key: str) -> None:
        self._entries.pop(key)
        self._drop_rights(key)

    def _drop_rights(self, key: str) -> None:
        """Whatever has been read before this, values for `key` or others by its version, is filled by nobody."""
        self._leases.pop(key, None)
        self._tags.pop(key, None)

    # Leases and claims.

    def _holds(self, key: str, token: Any) -> bool:
        held = self._leases.get(key)
        return held is not None and held[0] == token and self.clock() < held[1]

    def _lease(self, key: str, seconds: float) -> Leased | Busy:
        now = self.clock()
        held = self._leases.get(key)
        if held is not None and now < held[1]:
            return Busy()
        while self._leases:  # forget the leases of dead loads; they stand in the order in which they were given
            oldest = next(iter(self._leases))
            if now < self._leases[oldest][1]:
                break
            del self._leases[oldest]
        token = next(self._tokens)
        self._leases[key] = (token, now + seconds)
        return Leased(token)

    # Guards.

    def _guard(self, key: str) -> Guard | None:
        """The guard that stands on `key`."""
        guard = self._guards.get(key)
        if guard is not None and not guard.live(self.clock()):
            del self._guards[key]
            return None
        return guard

    def _touch(self, key: str) -> None:
        guard = self._guard(key)
        if guard is not None:
            guard.untouched = False

    # Tags.

    def _version(self, tag: str) -> bytes | Guarded | None:
        if self._guards and self._guard(tag) is not None:
            return Guarded()
        return self._tags.get(tag)

    def _versions(self, tags: Sequence[str]) -> list[bytes | Guarded | None]:
        return [self._version(tag) for tag in tags]

    def _plant(self, tag: str) -> bytes | Guarded:
        version = self._version(tag)
        if version is None:
            version = self._tags[tag] = tokens.fresh()
            if len(self._tags) > self._max_tags:
                self._tags.popitem(last=False)
        return version
