"""The lease protocol of Redis: what is sent and what the replies mean. Pure: no I/O, so both colours share it.

One string key holds a lease, a value or a guard, so that eviction or loss of it can only cost a load:

    L token                                             a lease
    V token | claim deadline | soft expiry | payload    a value, under the token of the lease it was filled with
    W zeros | untouched | zeros | token, deadline ...   a guard: one mark for each writer at work on the key

(token: 16 characters; the deadlines: 13 digits each, milliseconds by the server's clock, zero where unused; those of a
value have their place for refreshing in the background. untouched: 1 or 0, as wide as a deadline. The zeros of a guard
stand where a token would be, and match none.) The key of a guard lives as long as its last mark. What a script does to
one key depends on nothing else, so keys may be spread over a cluster.

Each operation is a generator that yields commands (tuples) and is sent replies; an error of the client library is sent
as a value. Tokens: every command that plants one takes a fresh one for each attempt. If the same bytes were sent twice,
a late duplicate could bring a dead lease back to life and admit an old fill; so clients are used below their own
retries, and what is tried again is tried again here.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeAlias, TypeVar

from redis.exceptions import ConnectionError, NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError

from ... import forks, tokens
from ...errors import CacheUnavailable
from ..base import Answer, Busy, Guarded, Hit, Leased, new
from . import scripts

T = TypeVar("T")

Command: TypeAlias = tuple[Any, ...]
Operation: TypeAlias = Generator[Command, Any, Any]


class Refusal:
    """In the place of a reply to a lookup: it was an error, so the command was not carried out."""


REFUSAL = Refusal()

_HEADER = 43
_MARK = 29
_GUARD_HEAD = b"W" + b"0" * 16
_BATCH = 1000  # keys in one script: the server does nothing else meanwhile
_LONGEST_HOLD = 10**12  # ms, 31 years: a deadline has 13 digits
_UNUSED = b"0" * 26
_FILL = scripts.FILL.sha.encode()
_WRONG_TYPE = b"!type"  # `seen` of a key that holds no string


def _ms(seconds: float) -> int:
    return min(max(1, round(seconds * 1000)), 10**14)  # three thousand years; the server's own limit is not far above


def answered(reply: Any, kind: type[Any] = object) -> Any:
    """The reply, or the error it stands for.

    Raises:
        CacheUnavailable: the server did not answer, or refused the command, or this is no answer to it.
    """
    if isinstance(reply, (RedisError, OSError)):
        raise CacheUnavailable(f"{type(reply).__name__}: {reply}") from reply
    if not isinstance(reply, kind):
        raise CacheUnavailable(f"it answered {str(reply)[:40]!r}, where {kind.__name__} belongs: is it a Redis?")
    return reply


def packed(words: Sequence[bytes]) -> bytes:
    """A command as it goes over the wire."""
    return b"*%d\r\n" % len(words) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])


def twice(command: Command) -> Operation:
    """Send a command which may safely arrive twice; once more if the connection turns out to be closed.

    That is how pooled connections look after a restart of the server. A time-out is not tried again: it would double
    the delay of an outage.
    """
    reply = yield command
    if isinstance(reply, ConnectionError):
        reply = yield command
    return reply


def _once(command: Command) -> Operation:
    return (yield command)


def _evaluate(
    script: scripts.Script, keys: Sequence[str], *args: Any, send: Callable[[Command], Operation] = twice
) -> Operation:
    """Run a script; load it where the server does not know it (yet, or any more). `_once`: it must not arrive twice."""
    reply = yield from send(("EVALSHA", script.sha, len(keys), *keys, *args))
    if isinstance(reply, NoScriptError):
        reply = yield from send(("EVAL", script.text, len(keys), *keys, *args))
    return reply


def _batches(items: Sequence[T]) -> list[Sequence[T]]:
    return [items[start : start + _BATCH] for start in range(0, len(items), _BATCH)]


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
            period = b"%d" % _ms(lease)
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
        for attempt in (1, 2):
            if token is None or attempt == 2:
                token = tokens.fresh()
            reply: Any = None
            try:
                if self.native:
                    reply = yield ("SET", key, b"L" + token, "NX", "GET", "PX", _ms(lease))
                    if type(reply) is ResponseError and "syntax error" in str(reply):
                        self.native = False
                if not self.native:
                    reply = yield from _evaluate(scripts.LEASE, [key], b"L" + token, _ms(lease), send=_once)
            except BaseException:  # cancelled: whether it arrived is not known
                self.remember(token)
                raise
            if isinstance(reply, (OutOfMemoryError, ReadOnlyError)):
                return self._read_only((yield from twice(("GET", key))), reply)
            if isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE"):
                return Hit(b"", _WRONG_TYPE)
            if not isinstance(reply, (RedisError, OSError)):
                return self._answer(reply, token)
            self.remember(token)
            if attempt == 2 or not isinstance(reply, ConnectionError):
                answered(reply)
        raise AssertionError("the second attempt has returned or raised")

    def replace(self, key: str, seen: bytes, lease: float) -> Operation:
        """See `Backend.replace`."""
        token = tokens.fresh()
        replacing = _evaluate(scripts.REPLACE, [key], seen, b"L" + token, _ms(lease), send=_once)
        return Leased(token) if (yield from self._tracked(token, replacing)) == 1 else Busy()

    def packed_fill(self, key: str, token: bytes, stored: bytes, ttl: float | None) -> bytes:
        """The first command of a fill as it goes over the wire."""
        period = b"0" if ttl is None else b"%d" % _ms(ttl)
        entry = b"V%b%b%b" % (token, _UNUSED, stored)
        return packed((b"EVALSHA", _FILL, b"1", key.encode(), token, entry, period))

    def fill(self, key: str, token: bytes, stored: bytes, ttl: float | None) -> Operation:
        """See `Backend.fill`. A fill that arrives twice finds its own value, under the same token: accepted again."""
        entry = b"".join((b"V", token, _UNUSED, stored))
        filling = _evaluate(scripts.FILL, [key], token, entry, 0 if ttl is None else _ms(ttl))
        return (yield from self._tracked(token, filling)) == 1

    def release(self, key: str, token: bytes) -> Operation:
        """See `Backend.release`."""
        return (yield from self._tracked(token, _evaluate(scripts.RELEASE, [key], b"L" + token))) == 1

    def invalidate(self, keys: Sequence[str]) -> Operation:
        """See `Backend.invalidate`: one script for a thousand keys."""
        for batch in _batches(keys):
            answered((yield from _evaluate(scripts.INVALIDATE, batch)))

    def guard(self, keys: Sequence[str], token: str, hold: float) -> Operation:
        """See `Backend.guard`: one script for a thousand keys. The proof is the token itself, so None stands for it.

        Not sent twice: a late duplicate would guard the keys once more, after the release.
        """
        for batch in _batches(keys):
            answered((yield from _evaluate(scripts.GUARD, batch, token, min(_ms(hold), _LONGEST_HOLD), send=_once)))
        return [None] * len(keys)

    def unguard(self, marks: Sequence[tuple[str, str]]) -> Operation:
        """See `Backend.unguard`: one script for a thousand marks. Arriving twice, it invalidates the second time."""
        lost = 0
        for batch in _batches(marks):
            keys, marked = zip(*batch, strict=True)
            lost += answered((yield from _evaluate(scripts.UNGUARD, keys, *marked)), int)
        return lost

    def update(self, key: str, token: str, stored: bytes, ttl: float | None) -> Operation:
        """See `Backend.update`. The entry has the writer's token, under which no lease was ever given.

        Not sent twice: the second answer would be a refusal. Late it meets either its guard or nothing of its own.
        """
        entry = b"".join((b"V", token.encode(), _UNUSED, stored))
        updating = _evaluate(scripts.UPDATE, [key], token, entry, 0 if ttl is None else _ms(ttl), send=_once)
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
            if len(self._lost) > 1000:
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
        if len(reply) == 17 and reply[:1] == b"L":
            return Leased(reply[1:]) if self._adopt(reply[1:]) else Busy()
        if reply[:1] == b"V" and len(reply) >= _HEADER:
            return Hit(reply[_HEADER:], reply[:_HEADER])
        if reply[:17] == _GUARD_HEAD and len(reply) > _HEADER and not (len(reply) - _HEADER) % _MARK:
            return Guarded()
        return Hit(b"", reply[:_HEADER])  # foreign: nothing that can be decoded, but it can be replaced

    def _read_only(self, reply: Any, refusal: Exception) -> Answer:
        """A server that takes no writes (out of memory, a replica) still answers reads."""
        if answered(reply) is None:
            raise CacheUnavailable(f"{type(refusal).__name__}: {refusal}") from refusal
        return self._seen(reply)
