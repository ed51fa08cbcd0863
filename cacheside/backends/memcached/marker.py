"""The marker: the item that stands for a guard. What it holds, and how its marks end.

    untouched (1 or 0) | mark ...        a mark: token (16 characters) | seconds from its deadline to the item's end (7)

It has a client flag of its own. Each mark has its own deadline: with one for all, under traffic, the mark of a writer
that died would live as long as others come and go. The item ends with its last mark.

No client's clock has a part in this. `mg` with `t` tells how many seconds the item has left by the server's clock, and
so how many each mark has. Who rewrites the marker sends these numbers back. If the server's clock ticks in between,
the marks that were there gain that second: a rewrite may lengthen them, never shorten them, by a second at most (or by
as long as the rewriter was suspended). Traffic that rewrites a marker a hundred times a second, with a millisecond from
reading to writing, makes a dead writer's mark live about a tenth longer than its `hold`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

GUARD_FLAG = b"199"  # 0xC7, beside the flags of wire.py
LONGEST_HOLD = 30 * 24 * 3600 - 1  # seconds: with one more it is the most that a server does not read as a date
TOKEN = 16
_MARK = TOKEN + 7


class Marker(NamedTuple):
    """A guard: `marks` gives for each token the seconds that it has left, at least 1."""

    untouched: bool
    marks: Mapping[bytes, int]

    def encode(self) -> tuple[bytes, int]:
        """The item's value, and its ttl in whole seconds."""
        ttl = max(self.marks.values())
        marks = b"".join(b"%b%07d" % (token, ttl - left) for token, left in self.marks.items())
        return b"%d%b" % (self.untouched, marks), ttl


def decode(value: bytes, ttl: int) -> Marker | None:
    """The guard that an item with our flag is, without the marks whose deadline is over; None if it is none.

    Args:
        ttl: the seconds that the item has left; negative if it never ends.
    """
    marks = [value[start : start + _MARK] for start in range(1, len(value), _MARK)]
    if ttl < 0 or value[:1] not in (b"0", b"1") or not marks:
        return None
    if not all(len(mark) == _MARK and mark[TOKEN:].isdigit() for mark in marks):
        return None
    ends = {mark[:TOKEN]: ttl - int(mark[TOKEN:]) for mark in marks}
    return Marker(value[:1] == b"1", {token: left for token, left in ends.items() if left > 0})


def token_bytes(token: str) -> bytes:
    """A writer's token as it stands in the marker.

    Raises:
        ValueError: it is not 16 characters of visible ASCII; nobody could find it again.
    """
    if len(token) != TOKEN or not token.isascii() or not token.isprintable():
        raise ValueError(f"a guard's token is {TOKEN} characters of visible ASCII, not {token!r}")
    return token.encode()
