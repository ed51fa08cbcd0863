"""What changes keys whatever they hold: invalidations, stale marks, and the marks of guards. No I/O.

A change looks first: `mg` tells what the key holds and its CAS. Then it acts on just that, with `ms` or `md` on
condition of the CAS; and looks again when somebody was faster (`EX`, `NS`) or no connection may carry the CAS. So a
plain deletion never hits a guard that came in between, and of two writers' marks none is lost. Many keys go along in
the same two round trips.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ...errors import CachesideError, CacheUnavailable, ConfigurationError
from . import wire
from .marker import GUARD_FLAG, LONGEST_HOLD, Marker, decode, token_bytes
from .replies import Reply, parse

ROUNDS = 100  # in each of them somebody else got through, on every key that is not done after it
SHORTEST, LONGEST = 0.0005, 0.05  # seconds between two rounds, at most: from the second defeat, and in the end
BATCH = 1000  # keys in one exchange: commands and answers fit into the socket's buffers, so nobody waits for the other
VALUES_BATCH = 100  # the same when answers have values in them


class Item(NamedTuple):
    """What a key holds. `marker` is its guard; `unread`: it is one, but the value was not asked for.

    `lease`: it is one, as far as that was asked for. `left`: seconds that it will live, -1: for ever.
    """

    cas: int
    marker: Marker | None
    unread: bool
    lease: bool = False
    left: int = -1


class Change(ABC):
    """One key to be changed; what is to become of it, its subclasses say. One that is not `done` has failed."""

    batch = BATCH
    asks_value = False
    again = True  # sent twice, the second is refused, for the first changed the CAS
    urgent = True  # what is not dropped may be old

    def __init__(self, key: str) -> None:
        self.key = key
        self.wire_key: bytes = wire.wire_key(key)
        self.done = False
        self.sent = False
        """Something that changes the key may have been sent."""
        self.refusal: CachesideError | None = None

    def look(self) -> bytes:
        """The command that asks what the key holds."""
        return b"mg %b v c f t\r\n" % self.wire_key if self.asks_value else b"mg %b c f t\r\n" % self.wire_key

    @abstractmethod
    def plan(self, item: Item | None) -> bytes:
        """The command for what the key holds; none: nothing is to be done."""

    @abstractmethod
    def settle(self, code: bytes, cas: wire.Cas | None) -> bool:
        """Whether the change is done, after the answer `code` to that command."""

    def delete(self, item: Item) -> bytes:
        """Take the item away, if it is still the same."""
        return b"md %b C%d\r\n" % (self.wire_key, item.cas)

    def put(self, item: Item | None, marker: Marker) -> bytes:
        """Put `marker` there, if the item is still the same, or there is still none."""
        value, ttl = marker.encode()
        condition = b"ME" if item is None else b"C%d" % item.cas
        head = b"ms %b %d %b c T%d F%b\r\n" % (self.wire_key, len(value), condition, ttl, GUARD_FLAG)
        return b"%b%b\r\n" % (head, value)


class Invalidation(Change):
    """See `Backend.invalidate`."""

    def plan(self, item: Item | None) -> bytes:
        """A guard stays, but touched; all else goes."""
        if item is None:
            return b""
        if item.marker is None or not item.marker.marks:
            return self.delete(item)
        if not item.marker.untouched:
            return b""
        return self.put(item, item.marker._replace(untouched=False))

    def settle(self, code: bytes, cas: wire.Cas | None) -> bool:
        """`NF`: it is gone since, so there is nothing to invalidate."""
        return code in (b"HD", b"NF")


class Marking(Invalidation):
    """See `Claiming.mark_stale`.

    A `T` counts from the tick in which it arrives, so it is sent only where it shortens, and an item that has no more
    than `grace` left keeps its end: to send back the seconds just read would give it one more at every mark.
    """

    def __init__(self, key: str, grace: float) -> None:
        super().__init__(key)
        self._seconds = math.floor(min(grace, wire.RELATIVE_LIMIT))  # not `whole_seconds`: never longer

    def look(self) -> bytes:
        """The size is asked for as well: it tells an empty item from a value that is not read."""
        return super().look() if self.asks_value else b"mg %b c f s t\r\n" % self.wire_key

    def delete(self, item: Item) -> bytes:
        """What is no guard is marked, if it is a value and there is a second at least for which to keep it."""
        if item.marker is not None or item.lease or self._seconds < 1 or item.left == 0:
            return super().delete(item)
        shorten = b" T%d" % self._seconds if item.left < 0 or item.left > self._seconds else b""
        return b"md %b I C%d%b\r\n" % (self.wire_key, item.cas, shorten)


class Guarding(Change):
    """See `Backend.guard`. The proof for `update` is the CAS of the marker, if it was made by this change.

    Never sent twice: the mark may have arrived, and have been taken back.
    """

    again = False
    urgent = False

    def __init__(self, key: str, token: str, hold: float) -> None:
        super().__init__(key)
        self.proof: wire.Cas | None = None
        self._token = token_bytes(token)
        self._seconds = wire.whole_seconds(min(hold, LONGEST_HOLD))
        self._alone = False

    def plan(self, item: Item | None) -> bytes:
        """My mark goes to those that are there."""
        marker = None if item is None else item.marker
        others = {} if marker is None else {token: left for token, left in marker.marks.items() if token != self._token}
        # An untouched marker without others is my own: through some proxy the command did arrive, twice.
        self._alone = marker is None or (marker.untouched and not others and self._token in marker.marks)
        return self.put(item, Marker(self._alone, {**others, self._token: self._seconds}))

    def settle(self, code: bytes, cas: wire.Cas | None) -> bool:
        """Placed, or somebody was faster."""
        self.proof = cas if self._alone else None
        return code == b"HD"


class Release(Invalidation):
    """See `Backend.unguard`. `lost`: the mark was not there.

    If the answer to the release was lost and it is tried again, its own success looks like a loss: that drops nothing
    but what was filled since, and counts one too many.
    """

    batch = VALUES_BATCH
    asks_value = True

    def __init__(self, key: str, token: str) -> None:
        super().__init__(key)
        self.lost: bool = False
        self._token = token_bytes(token)

    def plan(self, item: Item | None) -> bytes:
        """My mark goes; with the last one the marker. Without it: an invalidation, for readers may have filled."""
        marker = None if item is None else item.marker
        if item is None or marker is None or self._token not in marker.marks:
            self.lost = True
            return super().plan(item)
        self.lost = False
        others = {token: left for token, left in marker.marks.items() if token != self._token}
        return self.put(item, Marker(False, others)) if others else self.delete(item)

    def settle(self, code: bytes, cas: wire.Cas | None) -> bool:
        """`NF`: the marker is gone since, and with it my mark: look again."""
        return code == b"HD" or (self.lost and super().settle(code, cas))


def carry_out(changes: Sequence[Change]) -> wire.Operation[None]:
    """Carry out changes of one kind on one server. Two round trips for a batch, as a rule.

    Raises:
        CacheUnavailable: the server refused some, or others kept being faster; all were tried.
    """
    size = changes[0].batch
    for start in range(0, len(changes), size):
        left = changes[start : start + size]
        for defeats in range(ROUNDS):
            if defeats > 1:
                # Writers of one key who come together would go on together, and the same ones always be too late.
                yield wire.Pause(random.uniform(0, min(SHORTEST * 2**defeats, LONGEST)))
            items, sent = yield _look(left)
            acting = _plan(left, items)
            if acting:
                yield _act(acting, sent)
            left = [change for change in left if not change.done and change.refusal is None]
            if not left:
                break
        for change in left:
            change.refusal = CacheUnavailable(f"others kept changing {change.key!r} for {ROUNDS} times")
    for change in changes:
        if change.refusal is not None:
            raise change.refusal


def _plan(changes: Sequence[Change], items: Sequence[Item | None]) -> list[tuple[Change, bytes]]:
    """The changes that have something to send. The others are done, or have to see the value first."""
    acting: list[tuple[Change, bytes]] = []
    for change, item in zip(changes, items, strict=True):
        if item is not None and item.unread:
            change.asks_value = True
        elif data := change.plan(item):
            change.sent = True
            acting.append((change, data))
        else:
            change.done = True
    return acting


def _look(changes: Sequence[Change]) -> wire.Command[tuple[list[Item | None], int]]:
    data = b"".join([change.look() for change in changes])
    return wire.Command(data, _looked, replies=len(changes), again=True, urgent=changes[0].urgent)


def _looked(replies: Sequence[Reply], sent: int, name: str) -> tuple[list[Item | None], int]:
    return [_item(reply, name) for reply in replies], sent


def _item(reply: Reply, name: str) -> Item | None:
    code, flags = parse(reply.line)
    if code == b"EN":
        return None
    if code not in (b"HD", b"VA"):
        raise wire.refusal(reply.line, name)
    cas, ttl, marked = wire.cas_number(flags, name), wire.seconds_left(flags), flags.get(b"f") == GUARD_FLAG
    marker = decode(reply.value, ttl) if marked and code == b"VA" else None
    empty = not reply.value if code == b"VA" else flags.get(b"s") == b"0"
    lease = empty and b"X" not in flags and ttl >= 0 and (b"Z" in flags or flags.get(b"f") == wire.LEASE_FLAG)
    return Item(cas, marker, marked and code == b"HD", lease, ttl)


def _act(acting: Sequence[tuple[Change, bytes]], sent: int) -> wire.Command[None]:
    changes = [change for change, _ in acting]

    def decide(replies: Sequence[Reply], sent: int, name: str) -> None:
        for change, reply in zip(changes, replies, strict=True):
            code, flags = parse(reply.line)
            if code in (b"HD", b"EX", b"NF", b"NS"):
                stored = code == b"HD" and b"c" in flags
                cas = wire.Cas(wire.cas_number(flags, name), sent, change.wire_key) if stored else None
                change.done = change.settle(code, cas)
            else:
                change.refusal = wire.refusal(reply.line, name)

    # The rule of connections holds for the CAS of each: the stamp is that of the look. Where no connection is left
    # nothing is sent, nothing is settled, and the next round looks again.
    data = b"".join([data for _, data in acting])
    again, urgent = changes[0].again, changes[0].urgent
    return wire.Command(data, decide, replies=len(acting), before=sent, again=again, urgent=urgent)


class Failures:
    """What went wrong on several servers, all of which are to be tried."""

    def __init__(self) -> None:
        self._first: CachesideError | None = None

    def add(self, error: CachesideError) -> None:
        """One server failed. A mistake of configuration goes before an outage: no waiting will mend it."""
        if self._first is None or (isinstance(error, ConfigurationError) and not self._misconfigured()):
            self._first = error

    def check(self, changes: Iterable[Change] = ()) -> None:
        """Raise what went wrong, with the keys of those changes which are not done."""
        error = self._first
        if isinstance(error, CacheUnavailable) and changes:
            keys = {change.key for change in changes if not change.done}
            raise CacheUnavailable(str(error), keys, any(change.sent for change in changes)) from error
        if error is not None:
            raise error

    def _misconfigured(self) -> bool:
        return isinstance(self._first, ConfigurationError)
