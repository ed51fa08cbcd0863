"""A queue of entries from which any of them can be taken: they are linked with each other."""

from __future__ import annotations

from ..entries import Entry


class Queue:
    """First in, first out. Not thread-safe.

    Attributes:
        first: the oldest entry.
        last: the newest.
        weight: of all of them.
    """

    __slots__ = ("first", "last", "weight")

    def __init__(self) -> None:
        self.first: Entry | None = None
        self.last: Entry | None = None
        self.weight: int = 0

    def append(self, entry: Entry) -> None:
        """Put an entry, which stands in no queue, at the end."""
        entry.queue, entry.before, entry.after = self, self.last, None
        if self.last is None:
            self.first = entry
        else:
            self.last.after = entry
        self.last = entry
        self.weight += entry.weight

    def remove(self, entry: Entry) -> None:
        """Take out an entry, wherever it stands."""
        if entry.before is None:
            self.first = entry.after
        else:
            entry.before.after = entry.after
        if entry.after is None:
            self.last = entry.before
        else:
            entry.after.before = entry.before
        entry.queue = entry.before = entry.after = None
        self.weight -= entry.weight
