"""The lease protocol of Redis: what is sent and what the replies mean. Pure: no I/O, so both colours share it.

One string key holds either a lease or a value, so that eviction or loss of it can only cost a load:

    L token                                             a lease
    V token | claim deadline | soft expiry | payload    a value, under the token of the lease it was filled with

(token: 16 characters; the deadlines: 13 digits each, milliseconds, zero where unused; they have their place for
refreshing in the background.) Single-key commands only.

Each operation is a generator that yields commands (tuples) and is sent replies; an error of the client library is sent
as a value. Tokens: every command that plants one takes a fresh one for each attempt. If the same bytes were sent twice,
a late duplicate could bring a dead lease back to life and admit an old fill; so clients are used below their own
retries, and what is tried again is tried again here.
"""

from __future__ import annotations

import binascii
import hashlib
import os
import re
import threading
from collections.abc import Generator, Sequence
from typing import Any, NamedTuple, TypeAlias

from redis.exceptions import ConnectionError, NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError, ResponseError

from ... import forks
from ...errors import CacheUnavailable
from ..base import Busy, Hit, Leased

Command: TypeAlias = tuple[Any, ...]
Operation: TypeAlias = Generator[Command, Any, Any]

_HEADER = 43
_UNUSED = b"0" * 26
_WRONG_TYPE = b"!type"  # `seen` of a key that holds no string


class _Script(NamedTuple):
    text: str
    sha: str


def _script(text: str) -> _Script:
    return _Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


_FILL = _script(
    "local h=redis.call('GETRANGE',KEYS[1],0,16) local s=string.sub(h,1,1) "
    "if (s=='L' or s=='V') and string.sub(h,2,17)==ARGV[1] then "
    "if ARGV[3]=='0' then redis.call('SET',KEYS[1],ARGV[2]) else redis.call('SET',KEYS[1],ARGV[2],'PX',ARGV[3]) end "
    "return 1 end return 0"
)
_RELEASE = _script("if redis.call('GET',KEYS[1])==ARGV[1] then return redis.call('DEL',KEYS[1]) end return 0")
_REPLACE = _script(
    "local t=redis.call('TYPE',KEYS[1]).ok local same "
    "if t=='string' then same=redis.call('GETRANGE',KEYS[1],0,42)==ARGV[1] else same=t=='none' or ARGV[1]=='!type' end "
    "if same then redis.call('SET',KEYS[1],ARGV[2],'PX',ARGV[3]) return 1 end return 0"
)
# Redis 6.2 does not take NX together with GET.
_LEASE = _script(
    "local v=redis.call('GET',KEYS[1]) if v then return v end "
    "redis.call('SET',KEYS[1],ARGV[1],'PX',ARGV[2]) return false"
)


def _token() -> bytes:
    return binascii.b2a_base64(os.urandom(12), newline=False)


def _ms(seconds: float) -> int:
    return min(max(1, round(seconds * 1000)), 10**14)  # three thousand years; the server's own limit is not far above


def _checked(reply: Any) -> Any:
    """The reply, or the error it stands for.

    Raises:
        CacheUnavailable: the server did not answer, or refused the command.
    """
    if isinstance(reply, (RedisError, OSError)):
        raise CacheUnavailable(f"{type(reply).__name__}: {reply}") from reply
    return reply


def _twice(command: Command) -> Operation:
    """Send a command which may safely arrive twice; once more if the connection turns out to be closed.

    That is how pooled connections look after a restart of the server. A time-out is not tried again: it would double
    the delay of an outage.
    """
    reply = yield command
    if isinstance(reply, ConnectionError):
        reply = yield command
    return reply


def _evaluate(script: _Script, key: str, *args: Any) -> Operation:
    """Run a script; load it where the server does not know it (yet, or any more)."""
    reply = yield from _twice(("EVALSHA", script.sha, 1, key, *args))
    if isinstance(reply, NoScriptError):
        reply = yield from _twice(("EVAL", script.text, 1, key, *args))
    return reply


class Protocol:
    """The operations on one server, and what this process has to remember for them. Thread-safe.

    Args:
        native: whether the server takes SET with NX and GET together (Redis 7 and later); found out by itself.
    """

    def __init__(self, native: bool = True) -> None:
        self._native = native
        # Tokens that were sent without an answer. If one turns up as a lease it is ours, and no load runs under it:
        # it can be taken over at once, instead of waiting for it to expire. (A late arrival is harmless: each token
        # was sent once, so when it is seen it has arrived, and nothing can plant it again.)
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """What was the parent's stays the parent's."""
        self._lost: dict[bytes, None] = {}
        self._lock = threading.Lock()

    def lookup(self, key: str, lease: float) -> Operation:
        """See `Backend.lookup`: one native command, SET key L<token> NX GET PX <ms>."""
        for attempt in (1, 2):
            token = _token()
            reply: Any = None
            try:
                if self._native:
                    reply = yield ("SET", key, b"L" + token, "NX", "GET", "PX", _ms(lease))
                    if type(reply) is ResponseError and "syntax error" in str(reply):
                        self._native = False
                if not self._native:
                    reply = yield ("EVALSHA", _LEASE.sha, 1, key, b"L" + token, _ms(lease))
                    if isinstance(reply, NoScriptError):
                        reply = yield ("EVAL", _LEASE.text, 1, key, b"L" + token, _ms(lease))
            except BaseException:  # cancelled: whether it arrived is not known
                self._remember(token)
                raise
            if isinstance(reply, (OutOfMemoryError, ReadOnlyError)):
                return self._read_only((yield from _twice(("GET", key))), reply)
            if isinstance(reply, ResponseError) and str(reply).startswith("WRONGTYPE"):
                return Hit(b"", _WRONG_TYPE)
            if not isinstance(reply, (RedisError, OSError)):
                return self._answer(reply, token)
            self._remember(token)
            if attempt == 2 or not isinstance(reply, ConnectionError):
                _checked(reply)
        raise AssertionError("the second attempt has returned or raised")

    def replace(self, key: str, seen: bytes, lease: float) -> Operation:
        """See `Backend.replace`."""
        token = _token()
        command = (1, key, seen, b"L" + token, _ms(lease))
        try:
            reply = yield ("EVALSHA", _REPLACE.sha, *command)
            if isinstance(reply, NoScriptError):
                reply = yield ("EVAL", _REPLACE.text, *command)
        except BaseException:
            self._remember(token)
            raise
        if isinstance(reply, (RedisError, OSError)):
            self._remember(token)
        return Leased(token) if _checked(reply) == 1 else Busy()

    def fill(self, key: str, token: bytes, stored: bytes, ttl: float | None) -> Operation:
        """See `Backend.fill`. A fill that arrives twice finds its own value, under the same token: accepted again."""
        entry = b"".join((b"V", token, _UNUSED, stored))
        reply = yield from _evaluate(_FILL, key, token, entry, 0 if ttl is None else _ms(ttl))
        return _checked(reply) == 1

    def release(self, key: str, token: bytes) -> Operation:
        """See `Backend.release`."""
        return _checked((yield from _evaluate(_RELEASE, key, b"L" + token))) == 1

    def invalidate(self, keys: Sequence[str]) -> Operation:
        """See `Backend.invalidate`: one UNLINK."""
        if keys:
            _checked((yield from _twice(("UNLINK", *keys))))

    def clear(self, prefix: str | None) -> Operation:
        """See `Backend.clear`: SCAN and UNLINK, or FLUSHDB for everything.

        SCAN returns what is there from its beginning to its end; a lease given after that began belongs to a load
        that began after it as well.
        """
        if prefix is None:
            _checked((yield from _twice(("FLUSHDB",))))
            return
        cursor, pattern = b"0", re.sub(r"[*?[\]\\]", r"\\\g<0>", prefix) + "*"
        while True:
            reply = yield from _twice(("SCAN", cursor, "MATCH", pattern, "COUNT", 1000))
            cursor, keys = _checked(reply)
            if keys:
                _checked((yield from _twice(("UNLINK", *keys))))
            if int(cursor) == 0:
                return

    def _remember(self, token: bytes) -> None:
        with self._lock:
            self._lost[token] = None
            if len(self._lost) > 1000:
                del self._lost[next(iter(self._lost))]

    def _adopt(self, token: bytes) -> bool:
        if not self._lost:
            return False
        with self._lock:
            return self._lost.pop(token, False) is None

    def _answer(self, reply: bytes | None, token: bytes) -> Hit | Leased | Busy:
        if reply is None or reply == b"L" + token:  # our own token: the command did arrive, through some proxy, twice
            return Leased(token)
        return self._seen(reply)

    def _seen(self, reply: bytes) -> Hit | Leased | Busy:
        if len(reply) == 17 and reply[:1] == b"L":
            return Leased(reply[1:]) if self._adopt(reply[1:]) else Busy()
        if reply[:1] == b"V" and len(reply) >= _HEADER:
            return Hit(reply[_HEADER:], reply[:_HEADER])
        return Hit(b"", reply[:_HEADER])  # foreign: nothing that can be decoded, but it can be replaced

    def _read_only(self, reply: Any, refusal: Exception) -> Hit | Leased | Busy:
        """A server that takes no writes (out of memory, a replica) still answers reads."""
        if _checked(reply) is None:
            raise CacheUnavailable(f"{type(refusal).__name__}: {refusal}") from refusal
        return self._seen(reply)
