"""What the policies have in common that need no word of a hit: it is counted in the entry."""

from __future__ import annotations

from collections.abc import Iterator

from ..entries import Entry


class Counting:
    """A part of `eviction.Store`: entries by their keys."""

    touch = False

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def get(self, key: str) -> Entry | None:
        """See `Store.get`."""
        return self._entries.get(key)

    def hit(self, entry: Entry) -> None:
        """See `Store.hit`."""
        entry.hits += 1

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())
