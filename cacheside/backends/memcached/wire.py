"""What is sent to a memcached, and what its answers mean: no I/O.

| step | wire | answer |
| --- | --- | --- |
| lookup | `mg k N<lease> v c f t` | a value; or `W` and empty: the lease is ours; or a lease of somebody else |
| fill | `ms k <len> C<cas> T<ttl> F<value>` | `HD` stored; `EX`, `NF`, `NS`: the lease was lost |
| replace | `ms k 0 C<cas> c T<lease> F<lease>` | `HD` and the CAS of the new lease; else somebody was faster |
| release | `md k C<cas>` | `HD`: it was alive |
| invalidate | `md k` | `HD`, `NF`: both fine |

What an item is: one that `mg` planted is empty and carries `Z` for all but its winner; one that `replace` planted is
empty and has our flag for leases. A lease always ends, so an item without an expiry is none. All else is a *hit*, with
the bytes found: whether they are a value of ours is for the envelope to judge, and what is not is replaced. So an
empty item of another client is never taken for a lease, which would keep the key from being cached. An item marked
stale (`X`; nothing here does that, a later version may) shows empty, for its value has been invalidated.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, Generic, NamedTuple, NoReturn, TypeVar

from ...errors import CacheUnavailable, ConfigurationError, InvalidKeyError, NotCacheableError
from ..base import Answer, Busy, Capability, Hit, Leased

T = TypeVar("T")

CAPABILITIES: frozenset[Capability] = frozenset({"whole_seconds", "stores"})
MAX_KEY = 250  # bytes
MAX_BATCH = 1000  # deletions sent before the answers are read: all of those fit into the socket's buffers
VALUE_FLAG, LEASE_FLAG = b"197", b"198"  # client flags: 0xC5, 0xC6
_RELATIVE_LIMIT = 30 * 24 * 3600  # the server reads more seconds than these as a date
_LAST_DATE = 2**31 - 1  # and reads a date as a signed 32-bit number
_HASH_BYTES = 32
_MARK = MAX_KEY - 2 * _HASH_BYTES - 1  # where "#" and the hash stand in a shortened key
_LONGEST_LINE = 2048


class Cas(NamedTuple):
    """An item, named by its CAS; `sent` is the stamp taken before the command that brought it was sent.

    The servers of a ring count each by itself, so a number says nothing without its `key`.
    """

    number: int
    sent: int
    key: bytes

    def before(self, key: bytes) -> int:
        """For `Command.before` of a command on `key`: the stamp; on another key 0, so that no connection carries it."""
        return self.sent if self.key == key else 0


class Reply(NamedTuple):
    """One answer: its line, and the value behind it."""

    line: bytes
    value: bytes


class Command(NamedTuple, Generic[T]):
    """One exchange with the server that holds `key`: `data` is sent, and `replies` replies come back.

    `decide(replies, sent, name)` makes the result of them, of the stamp taken before sending, and of the server's name
    for messages. With `before`, only a connection whose stamp is lower may carry the command; where there is none,
    `otherwise` is the result. `again`: it may be sent once more when a pooled connection turns out to be closed.
    """

    key: bytes
    data: bytes
    decide: Callable[[Sequence[Reply], int, str], T]
    replies: int = 1
    before: int | None = None
    otherwise: T | None = None
    again: bool = False


class GarbledReply(OSError):
    """The bytes received are no answer of a memcached."""


class Inbox:
    """Takes bytes as they arrive until `count` replies are complete."""

    __slots__ = ("_buffer", "_count", "replies")

    def __init__(self, count: int) -> None:
        self.replies: list[Reply] = []
        self._count = count
        self._buffer = bytearray()

    def feed(self, data: bytes) -> bool:
        """Take what was received (nothing: the end of the stream). True: all replies are there.

        Raises:
            ConnectionResetError: the stream ended before.
            GarbledReply: this is not the protocol.
        """
        if not data:
            raise ConnectionResetError("it closed the connection")
        buffer = self._buffer
        buffer += data
        while len(self.replies) < self._count:
            end = buffer.find(b"\r\n", 0, _LONGEST_LINE)
            if end < 0:
                if len(buffer) >= _LONGEST_LINE:
                    raise GarbledReply("it sent a line without an end")
                return False
            line, start = bytes(buffer[:end]), end + 2
            if not line.startswith(b"VA "):
                self.replies.append(Reply(line, b""))
                del buffer[:start]
                continue
            size = _number(line.split(b" ")[1])
            if len(buffer) < start + size + 2:
                return False
            if not buffer.startswith(b"\r\n", start + size):
                raise GarbledReply("it sent a value of another length than it said")
            self.replies.append(Reply(line, bytes(buffer[start : start + size])))
            del buffer[: start + size + 2]
        if buffer:
            raise GarbledReply("it sent more than it was asked for")
        return True


def wire_key(key: str) -> bytes:
    """`key` as the server sees it: what is too long keeps its beginning and gets a hash of the whole.

    A key that could pass for a shortened one is hashed as well, so no two keys meet.

    Raises:
        InvalidKeyError: it is empty, or holds something else than visible ASCII: that could smuggle in a command.
    """
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise InvalidKeyError(f"a memcached key is non-empty text of visible ASCII, not {key!r}")
    wire = key.encode()
    if len(wire) > MAX_KEY or (len(wire) == MAX_KEY and wire[_MARK : _MARK + 1] == b"#"):
        digest = blake2b(wire, digest_size=_HASH_BYTES).hexdigest()
        return b"%b#%b" % (wire[:_MARK], digest.encode())
    return wire


def whole_seconds(duration: float | None) -> int:
    """A duration as the server takes it, never ending before it should; 0 is "never".

    The server's clock ticks once a second, so up to a second is lost of any whole number: hence one more.
    """
    if duration is None:
        return 0
    whole = math.ceil(min(duration, _LAST_DATE)) + 1
    return whole if whole <= _RELATIVE_LIMIT else min(int(time.time()) + whole, _LAST_DATE)


def lookup(key: bytes, lease: float) -> Command[Answer]:
    """See `Backend.lookup`."""
    # N comes first: the server goes through the flags in turn, and N is where a new lease gets its expiry.
    data = b"mg %b N%d v c f t\r\n" % (key, whole_seconds(lease))
    return Command(key, data, partial(_looked_up, key), again=True)


def _looked_up(key: bytes, replies: Sequence[Reply], sent: int, name: str) -> Answer:
    code, flags = _parse(replies[0].line)
    if code != b"VA":
        _refuse(replies[0].line, name)
    number = _number(flags.get(b"c", b""))
    if number == 0:
        raise ConfigurationError(
            f"the memcached {name} runs without CAS, so a lease cannot be checked: start memcached without -C"
        )
    value, cas = replies[0].value, Cas(number, sent, key)
    if not value:
        if b"W" in flags:
            return Leased(cas)
        if (b"Z" in flags or flags.get(b"f") == LEASE_FLAG) and flags.get(b"t") != b"-1":
            return Busy()
    return Hit(b"" if b"X" in flags else value, cas)


def replace(key: bytes, seen: Cas, lease: float) -> Command[Leased | Busy]:
    """See `Backend.replace`."""
    data = b"ms %b 0 C%d c T%d F%b\r\n\r\n" % (key, seen.number, whole_seconds(lease), LEASE_FLAG)
    return Command(key, data, partial(_replaced, key), before=seen.before(key), otherwise=Busy())


def _replaced(key: bytes, replies: Sequence[Reply], sent: int, name: str) -> Leased | Busy:
    code, flags = _parse(replies[0].line)
    if code == b"HD":
        return Leased(Cas(_number(flags.get(b"c", b"")), sent, key))
    return Busy() if code in (b"EX", b"NF", b"NS") else _refuse(replies[0].line, name)


def fill(key: bytes, token: Cas, stored: Any, ttl: float | None) -> Command[bool]:
    """See `Backend.fill`."""
    head = b"ms %b %d C%d T%d F%b\r\n" % (key, len(stored), token.number, whole_seconds(ttl), VALUE_FLAG)
    decide = partial(_filled, len(stored))
    return Command(key, b"%b%b\r\n" % (head, stored), decide, before=token.before(key), otherwise=False)


def _filled(size: int, replies: Sequence[Reply], sent: int, name: str) -> bool:
    line = replies[0].line
    if line.startswith(b"SERVER_ERROR") and b"too large" in line:
        raise NotCacheableError(f"the memcached {name} takes no entry of {size:,} bytes (its option -I sets the limit)")
    return _done(line, (b"EX", b"NF", b"NS"), name)


def release(key: bytes, token: Cas) -> Command[bool]:
    """See `Backend.release`."""
    return Command(key, b"md %b C%d\r\n" % (key, token.number), _released, before=token.before(key), otherwise=False)


def _released(replies: Sequence[Reply], sent: int, name: str) -> bool:
    return _done(replies[0].line, (b"EX", b"NF"), name)


def invalidate(keys: Sequence[bytes]) -> list[Command[None]]:
    """See `Backend.invalidate`: one command for up to `MAX_BATCH` keys, all of the same server."""
    batches = [keys[start : start + MAX_BATCH] for start in range(0, len(keys), MAX_BATCH)]
    return [
        Command(batch[0], b"".join([b"md %b\r\n" % key for key in batch]), _invalidated, replies=len(batch), again=True)
        for batch in batches
    ]


def _invalidated(replies: Sequence[Reply], sent: int, name: str) -> None:
    for reply in replies:
        _done(reply.line, (b"NF",), name)


def clear(prefix: str | None) -> Command[None]:
    """See `Backend.clear`: for every server.

    Raises:
        ConfigurationError: a prefix is given; a memcached cannot list its keys.
    """
    if prefix is not None:
        raise ConfigurationError("memcached cannot clear a part of its keys: clear everything, or let them expire")
    return Command(b"", b"flush_all\r\n", _cleared, again=True)


def _cleared(replies: Sequence[Reply], sent: int, name: str) -> None:
    if replies[0].line != b"OK":
        _refuse(replies[0].line, name)


def _done(line: bytes, lost: tuple[bytes, ...], name: str) -> bool:
    """True for HD, False for what `lost` lists."""
    code = line[:2]
    if code == b"HD":
        return True
    return False if code in lost else _refuse(line, name)


def _parse(line: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """The code of a line and its flags, each with its token."""
    code, *flags = line.split()
    return code, {flag[:1]: flag[1:] for flag in (flags[1:] if code == b"VA" else flags)}


def _number(text: bytes) -> int:
    if not text.isdigit():
        raise GarbledReply(f"it sent {text[:40]!r} where a number belongs")
    return int(text)


def _refuse(line: bytes, name: str) -> NoReturn:
    """Raise what an answer that should not come means."""
    if line == b"ERROR":
        raise ConfigurationError(f"the memcached {name} has no meta commands: cacheside needs 1.6.10 or later")
    raise CacheUnavailable(f"the memcached {name} answered {line[:100].decode(errors='replace')!r}")
