"""When entries expire, so that their memory is given back without a look at all of them.

Entries are gathered by the second of their deadline; the seconds stand in a heap. What was dropped in the meantime is
left in its second, as a dead entry, until there is more of that than of the living: then all seconds are gone through
once, which costs each dropped entry a constant time.
"""

from __future__ import annotations

import heapq
import math

from .entries import DEAD, Entry

SLACK = 1000  # dead entries that are not worth a cleaning


class Deadlines:
    """Entries with a deadline. Not thread-safe."""

    def __init__(self) -> None:
        self._seconds: list[int] = []
        self._entries: dict[int, list[Entry]] = {}
        self._dead = 0
        self._count = 0

    def add(self, entry: Entry) -> None:
        """An entry that has come; one that never expires is not noted."""
        if entry.deadline == math.inf:
            return
        second = math.ceil(entry.deadline)
        found = self._entries.get(second)
        if found is None:
            found = self._entries[second] = []
            heapq.heappush(self._seconds, second)
        found.append(entry)
        self._count += 1

    def dropped(self, deadline: float) -> None:
        """An entry of this deadline has died, by whatever else than `expired`."""
        if deadline == math.inf:
            return
        self._dead += 1
        if self._dead > SLACK + self._count // 2:
            self._clean()

    def expired(self, now: float, most: int | None) -> list[Entry]:
        """Entries past their deadline that are not dropped yet: all, or the first so many. They are forgotten here."""
        found: list[Entry] = []
        while self._seconds and self._seconds[0] <= now and len(found) != most:
            entries = self._entries[self._seconds[0]]
            while entries and len(found) != most:
                entry = entries.pop()
                self._count -= 1
                if entry.deadline == DEAD:
                    self._dead -= 1
                else:
                    found.append(entry)
            if not entries:
                del self._entries[heapq.heappop(self._seconds)]
        return found

    def _clean(self) -> None:
        living = [entry for entries in self._entries.values() for entry in entries if entry.deadline != DEAD]
        self._seconds, self._entries = [], {}
        self._dead = self._count = 0
        for entry in living:
            self.add(entry)
