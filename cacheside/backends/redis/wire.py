"""The lease protocol of Redis: what is sent and what the replies mean. Pure: no I/O, so both colours share it.

One string key holds a lease, a value or a guard, so that eviction or loss of it can only cost a load:

    L token                                             a lease
    V token | claim deadline | soft expiry | payload    a value, under the token of the lease it was filled with
    S token | claim deadline | soft expiry | payload    a value that is marked stale, under a token that nobody holds
    W zeros | untouched | zeros | token, deadline ...   a guard: one mark for each writer at work on the key

(token: 16 characters; the deadlines: 13 digits each, milliseconds by the server's clock, zero where unused; the soft
expiry has its place for later. untouched: 1 or 0, as wide as a deadline. The zeros of a guard stand where a token would
be, and match none.) A claim puts its own token in the place of the value's, and its deadline beside it. The key of a
guard lives as long as its last mark. A tag's key holds its version as a lease that nobody fills. What a script does to
one key depends on nothing else, so keys may be spread over a cluster.

The operations are generators, see `commands.py`. Tokens: every command that plants one takes a fresh one for each
attempt. If the same bytes were sent twice, a late duplicate could bring a dead lease back to life and admit an old
fill; so clients are used below their own retries, and what is tried again is tried again here.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from typing import Any

from redis.exceptions import ConnectionError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError

from ... import forks, tokens
from ...errors import CacheUnavailable
from ..base import Answer, Busy, Guarded, Hit, Leased, Stale, new
from ..beyond import TAG_TTL
from . import scripts
from .commands import Operation, answered, batches, evaluate, ms, once, packed, twice

_HEADER = 43
_MARK = 29
_GUARD_HEAD = b"W" + b"0" * 16
_LONGEST_HOLD = 10**12  # ms, 31 years: a deadline has 13 digits
_MOST_LOST = 10_000  # tokens that are remembered: a batch that is lost has a thousand
_UNUSED = b"0" * 26
_FILL = scripts.FILL.sha.encode()
_WRONG_TYPE = b"!type"  # `seen` of a key that holds no string


class Protocol:
    """The operations on one server, and what this process has to remember for them. Thread-safe.

    Args:
        native: whether the server takes SET with NX and GET together (Redis 7 and later); found out by itself.
    """

    def __init__(self, native: bool = True) -> None:
        self.native: bool = native
        """Whether a lookup is one native command, as far as is known: `lookup` finds it out."""
        self._packed = 0.0, b""  # the end of the last lookup's command, and for which lease
        # Tokens that were sent, or ended, without an answer. If one turns up as a lease it is ours, and no load runs
        # under it: it can be taken over at once, instead of waiting for it to expire. (A late arrival is harmless: each
        # token was planted once, so when it is seen it has arrived, and nothing can plant it again. And a late fill
        # finds it only if nothing was written since the load of that fill began.)
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """What was the parent's stays the parent's."""
        self._lost: dict[bytes, None] = {}
        self._lock = threading.Lock()

    def packed_lookup(self, key: str, token: bytes, lease: float) -> bytes:
        """The command of a lookup as it goes over the wire to a server that is `native`."""
        last = self._packed  # read once: another cache on this backend may have another lease, in another thread
        if lease != last[0]:
            period = b"%d" % ms(lease)
            last = self._packed = (
                lease,
                b"\r\n$2\r\nNX\r\n$3\r\nGET\r\n$2\r\nPX\r\n$%d\r\n%b\r\n" % (len(period), period),
            )
        name = key.encode()
        return b"*7\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$17\r\nL%b%b" % (len(name), name, token, last[1])

    @staticmethod
    def first(reply: Any, token: bytes) -> Hit | Leased | None:
        """What the reply to a lookup says, if it is a value or nothing; else `lookup` knows how to go on."""
        if type(reply) is bytes and reply[:1] == b"V" and len(reply) >= _HEADER:
            return new(Hit, (reply[_HEADER:], reply[:_HEADER]))
        return Leased(token) if reply is None else None

    def lookup(self, key: str, lease: float, token: bytes | None = None) -> Operation:
        """See `Backend.lookup`: one native command, SET key L<token> NX GET PX <ms>.

        `token`: for the first attempt. Who has made that already sends its reply.
        """
        planted, reply = yield from self._planted(key, lease, token)
        if isinstance(reply, (OutOfMemoryError, ReadOnlyError)):
            return self._read_only((yield from twice(("GET", key))), reply)
        if _is_of_wrong_type(reply):
            return Hit(b"", _WRONG_TYPE)
        return self._answer(answered(reply), planted)

    def _planted(self, key: str, lease: float, token: bytes | None = None) -> Operation:
        """Put a lease where there is nothing. Returns its token, and what stood there, or the server's refusal."""
        for attempt in (1, 2):
            if token is None or attempt == 2:
                token = tokens.fresh()
            reply: Any = None
            try:
                if self.native:
                    reply = yield ("SET", key, b"L" + token, "NX", "GET", "PX", ms(lease))
                    if type(reply) is ResponseError and "syntax error" in str(reply):
                        self.native = False
                if not self.native:
                    reply = yield from evaluate(scripts.LEASE, [key], b"L" + token, ms(lease), send=once)
            except BaseException:  # cancelled: whether it arrived is not known
                self.remember(token)
                raise
            if isinstance(reply, ResponseError) or not isinstance(reply, (RedisError, OSError)):
                return token, reply
            self.remember(token)
            if attempt == 2 or not isinstance(reply, ConnectionError):
                answered(reply)
        raise AssertionError("the second attempt has returned or raised")

    def find(self, key: str) -> Operation:
        """See `Batching.lookup_many`, without a lease: a value or a guard; None: nothing, or somebody's lease."""
        reply = yield from twice(("GET", key))
        if _is_of_wrong_type(reply):
            return Hit(b"", _WRONG_TYPE)
        reply = answered(reply)
        return None if reply is None or _is_lease(answered(reply, bytes)) else self._seen(reply)

    def replace(self, key: str, seen: bytes, lease: float) -> Operation:
        """See `Backend.replace`."""
        token = tokens.fresh()
        replacing = evaluate(scripts.REPLACE, [key], seen, b"L" + token, ms(lease), send=once)
        return Leased(token) if (yield from self._tracked(token, replacing)) == 1 else Busy()

    def packed_fill(self, key: str, token: bytes, stored: bytes, ttl: float | None) -> bytes:
        """The first command of a fill as it goes over the wire."""
        period = b"0" if ttl is None else b"%d" % ms(ttl)
        entry = b"V%b%b%b" % (token, _UNUSED, stored)
        return packed((b"EVALSHA", _FILL, b"1", key.encode(), token, entry, period))

    def fill(self, key: str, token: bytes, stored: bytes, ttl: float | None) -> Operation:
        """See `Backend.fill`. A fill that arrives twice finds its own value, under the same token: accepted again."""
        entry = b"".join((b"V", token, _UNUSED, stored))
        filling = evaluate(scripts.FILL, [key], token, entry, 0 if ttl is None else ms(ttl))
        return (yield from self._tracked(token, filling)) == 1

    def release(self, key: str, token: bytes) -> Operation:
        """See `Backend.release`."""
        return (yield from self._tracked(token, evaluate(scripts.RELEASE, [key], token))) == 1

    def claim(self, key: str, seen: bytes, lease: float) -> Operation:
        """See `Claiming.claim`. Not sent twice: a late duplicate would claim for nobody.

        Nor is its token remembered where it got no answer: no lookup meets it as a lease. The value is served on, and
        can be claimed again when that claim is over.

        Race: a value is seen with a claim on it, and filled meanwhile: the new one is under the token of that claim. So
        the deadlines are compared as well.
        """
        token = tokens.fresh()
        period = min(ms(lease), _LONGEST_HOLD)
        claiming = evaluate(scripts.CLAIM, [key], seen[1:30], token, period, send=once)
        return Leased(token) if answered((yield from claiming)) == 1 else Busy()

    def mark_stale(self, keys: Sequence[str], grace: float) -> Operation:
        """See `Claiming.mark_stale`: one script for a thousand keys.

        It plants a token for each key, and yet may arrive twice: nobody ever holds such a token, so a late duplicate
        brings no lease and no claim back to life. It is one more invalidation.
        """
        if grace < 0.001:
            yield from self.invalidate(keys)
            return
        for batch in batches(keys):
            fresh = [tokens.fresh() for _ in batch]
            answered((yield from evaluate(scripts.STALE, batch, ms(grace), *fresh)))

    def version(self, tag: str) -> Operation:
        """The version of a tag, its guard, or None; see `Batching`."""
        reply = yield from twice(("GET", tag))
        return None if _is_of_wrong_type(reply) else self._version(answered(reply))

    def plant(self, tag: str) -> Operation:
        """See `Batching.plant`. What is foreign there is replaced: it can be no version."""
        token, reply = yield from self._planted(tag, TAG_TTL)
        seen = _WRONG_TYPE
        if not _is_of_wrong_type(reply):
            if answered(reply) is None:
                return token
            if (version := self._version(reply)) is not None:
                return version
            seen = reply[:_HEADER]
        token = tokens.fresh()
        replacing = evaluate(scripts.REPLACE, [tag], seen, b"L" + token, ms(TAG_TTL), send=once)
        return token if answered((yield from replacing)) == 1 else (yield from self.version(tag))

    def invalidate(self, keys: Sequence[str]) -> Operation:
        """See `Backend.invalidate`: one script for a thousand keys."""
        for batch in batches(keys):
            answered((yield from evaluate(scripts.INVALIDATE, batch)))

    def guard(self, keys: Sequence[str], token: str, hold: float) -> Operation:
        """See `Backend.guard`: one script for a thousand keys. The proof is the token itself, so None stands for it.

        Not sent twice: a late duplicate would guard the keys once more, after the release.
        """
        for batch in batches(keys):
            answered((yield from evaluate(scripts.GUARD, batch, token, min(ms(hold), _LONGEST_HOLD), send=once)))
        return [None] * len(keys)

    def unguard(self, marks: Sequence[tuple[str, str]]) -> Operation:
        """See `Backend.unguard`: one script for a thousand marks. Arriving twice, it invalidates the second time."""
        lost = 0
        for batch in batches(marks):
            keys, marked = zip(*batch, strict=True)
            lost += answered((yield from evaluate(scripts.UNGUARD, keys, *marked)), int)
        return lost

    def update(self, key: str, token: str, stored: bytes, ttl: float | None) -> Operation:
        """See `Backend.update`. The entry has the writer's token, under which no lease was ever given.

        Not sent twice: the second answer would be a refusal. Late it meets either its guard or nothing of its own.
        """
        entry = b"".join((b"V", token.encode(), _UNUSED, stored))
        updating = evaluate(scripts.UPDATE, [key], token, entry, 0 if ttl is None else ms(ttl), send=once)
        return answered((yield from updating)) == 1

    def clear(self, prefix: str | None) -> Operation:
        """See `Backend.clear`: SCAN and invalidate, or FLUSHDB for everything.

        SCAN returns what is there from its beginning to its end; a lease given after that began belongs to a load
        that began after it as well.
        """
        if prefix is None:
            answered((yield from twice(("FLUSHDB",))))
            return
        cursor = 0
        while True:
            cursor, keys = yield from self.scan(prefix, cursor)
            yield from self.invalidate(keys)
            if cursor == 0:
                return

    def scan(self, prefix: str, cursor: int) -> Operation:
        """One step of a walk over all keys that begin with `prefix`: the next cursor, 0 at the end, and some keys."""
        pattern = re.sub(r"[*?[\]\\]", r"\\\g<0>", prefix) + "*"
        match answered((yield from twice(("SCAN", cursor, "MATCH", pattern, "COUNT", 1000)))):
            case [bytes() as after, list() as keys] if after.isdigit():
                return int(after), keys
        raise CacheUnavailable("it answered SCAN with something else than a cursor and keys: is it a Redis?")

    def _tracked(self, token: bytes, operation: Operation) -> Operation:
        """Carry out what plants the lease `token` or ends it: without an answer it may stand, for nobody's load."""
        try:
            reply = yield from operation
        except BaseException:  # cancelled
            self.remember(token)
            raise
        if isinstance(reply, (RedisError, OSError)):
            self.remember(token)
        return answered(reply)

    def remember(self, token: bytes) -> None:
        """That nobody knows whether this token stands as a lease."""
        with self._lock:
            self._lost[token] = None
            if len(self._lost) > _MOST_LOST:
                del self._lost[next(iter(self._lost))]

    def _adopt(self, token: bytes) -> bool:
        if not self._lost:
            return False
        with self._lock:
            return self._lost.pop(token, False) is None

    def _answer(self, reply: bytes | None, token: bytes) -> Answer:
        if reply is None or reply == b"L" + token:  # our own token: the command did arrive, through some proxy, twice
            return Leased(token)
        return self._seen(reply)

    def _seen(self, reply: bytes) -> Answer:
        if type(reply) is not bytes:
            answered(reply, bytes)
        if _is_lease(reply):
            return Leased(reply[1:]) if self._adopt(reply[1:]) else Busy()
        if reply[:1] == b"V" and len(reply) >= _HEADER:
            return Hit(reply[_HEADER:], reply[:_HEADER])
        if reply[:1] == b"S" and len(reply) >= _HEADER:
            return Stale(reply[_HEADER:], reply[:_HEADER])
        if _is_guard(reply):
            return Guarded()
        return Hit(b"", reply[:_HEADER])  # foreign: nothing that can be decoded, but it can be replaced

    def _read_only(self, reply: Any, refusal: Exception) -> Answer:
        """A server that takes no writes (out of memory, a replica) still answers reads."""
        if answered(reply) is None:
            raise CacheUnavailable(f"{type(refusal).__name__}: {refusal}") from refusal
        return self._seen(reply)

    @staticmethod
    def _version(reply: bytes | None) -> bytes | Guarded | None:
        if reply is None or _is_lease(answered(reply, bytes)):
            return reply and reply[1:]
        return Guarded() if _is_guard(reply) else None


def _is_lease(reply: bytes) -> bool:
    return len(reply) == 17 and reply[:1] == b"L"


def _is_guard(reply: bytes) -> bool:
    return reply[:17] == _GUARD_HEAD and len(reply) > _HEADER and not (len(reply) - _HEADER) % _MARK


def _is_of_wrong_type(reply: object) -> bool:
    return isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE")
