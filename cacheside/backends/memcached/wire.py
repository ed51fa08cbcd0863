"""What is sent to a memcached, and what its answers mean: no I/O.

| step | wire | answer |
| --- | --- | --- |
| lookup | `mg k N<lease> v c f t` | a value; a guard; `W` and empty: the lease is ours; or somebody else's lease |
| fill | `ms k <len> C<cas> T<ttl> F<value>` | `HD` stored; `EX`, `NF`, `NS`: the lease was lost |
| replace | `ms k 0 C<cas> c T<lease> F<lease>` | `HD` and the CAS of the new lease; else somebody was faster |
| release | `md k C<cas>` | `HD`: it was alive |
| look, before a change | `mg k c f t`, with `v` for a guard | what `changes.py` decides upon |
| drop | `md k C<cas>` | `HD`, `NF`: both fine; `EX`: look again |
| mark | `ms k <len> C<cas> c T<ttl> F<guard>`, or `ME` for `C` | `HD` and the CAS of the guard; else look again |

What an item is: one that `mg` planted is empty and carries `Z` for all but its winner; one that `replace` planted is
empty and has our flag for leases; a guard has a flag too (see `marker.py`). A lease always ends, so an item without an
expiry is none. All else is a *hit*, with the bytes found: whether they are a value of ours is for the envelope to
judge, and what is not is replaced. So an empty item of another client is never taken for a lease, which would keep the
key from being cached. An item marked stale (`X`, see `changes.Marking`) is `Stale`, whatever else it shows: its `W`,
which the server gives to the first who sees it, is of no use here, for `claims.py` says who may refresh it.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from typing import Any, Generic, NamedTuple, NoReturn, TypeAlias, TypeVar

from ...errors import CacheUnavailable, ConfigurationError, InvalidKeyError, NotCacheableError
from ..base import Answer, Busy, Capability, Guarded, Hit, Leased, Stale, new
from .marker import GUARD_FLAG, decode
from .replies import Reply, number, parse

T = TypeVar("T")

CAPABILITIES: frozenset[Capability] = frozenset({"whole_seconds", "stores", "claims", "batches"})
MAX_KEY = 250  # bytes
_USUAL_KEY = re.compile(r"[!-~]{1,249}\Z")
VALUE_FLAG, LEASE_FLAG = b"197", b"198"  # client flags: 0xC5, 0xC6
_USUAL_HIT = re.compile(rb"VA ([1-9]\d{0,17}) c([1-9]\d{0,19}) f%b t-?\d{1,19}\r\n" % VALUE_FLAG)
RELATIVE_LIMIT = 30 * 24 * 3600  # the server reads more seconds than these as a date
UNLIMITED = 2**62
_LAST_DATE = 2**31 - 1  # and reads a date as a signed 32-bit number
_HASH_BYTES = 32
_MARK = MAX_KEY - 2 * _HASH_BYTES - 1  # where "#" and the hash stand in a shortened key


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


class Held(NamedTuple):
    """Somebody else's lease, and its name: what a lookup knows that answers `Busy`."""

    cas: Cas


class Command(NamedTuple, Generic[T]):
    """One exchange with a server: `data` is sent, and `replies` replies come back.

    `decide(replies, sent, name)` makes the result of them, of the stamp taken before sending, and of the server's name
    for messages. With `before`, only a connection whose stamp is lower may carry the command; where there is none,
    `otherwise` is the result. `again`: it may be sent once more when a pooled connection turns out to be closed.
    `looks_up`: the key whose lookup it is; then `hit` knows the usual reply. `urgent`: see `Breaker.admit`.
    """

    data: bytes
    decide: Callable[[Sequence[Reply], int, str], T]
    replies: int = 1
    before: int | None = None
    otherwise: T | None = None
    again: bool = False
    looks_up: bytes = b""
    urgent: bool = False


class Pause(NamedTuple):
    """Nothing is sent for so many seconds."""

    seconds: float


Operation: TypeAlias = Generator[Command[Any] | Pause, Any, T]
"""Commands to one server, one after another: each is sent the result of the one before, or thrown its error."""


def wire_key(key: str) -> bytes:
    """`key` as the server sees it: what is too long keeps its beginning and gets a hash of the whole.

    A key that could pass for a shortened one is hashed as well, so no two keys meet.

    Raises:
        InvalidKeyError: it is empty, or holds something else than visible ASCII: that could smuggle in a command.
    """
    if _USUAL_KEY.match(key):
        return key.encode()
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
    return whole if whole <= RELATIVE_LIMIT else min(int(time.time()) + whole, _LAST_DATE)


def lookup(key: bytes, lease: int) -> Command[Answer | Held]:
    """See `Backend.lookup`; `Held` for `Busy`. The lease in whole seconds."""
    # N comes first: the server goes through the flags in turn, and N is where a new lease gets its expiry.
    data = b"mg %b N%d v c f t\r\n" % (key, lease)
    return new(Command, (data, partial(_looked_up, key), 1, None, None, True, key, False))


def hit(key: bytes, data: bytes, sent: int) -> Hit | None:
    """The hit that `data` is, if it is the whole reply to a lookup and a value of ours. What `_looked_up` would say."""
    found = _USUAL_HIT.match(data)
    if found is None:
        return None
    start = found.end()
    if len(data) != start + int(found[1]) + 2 or not data.endswith(b"\r\n"):
        return None
    return new(Hit, (data[start:-2], new(Cas, (int(found[2]), sent, key))))


def peek(key: bytes) -> Command[Answer | None]:
    """A lookup that plants nothing: None where there is nothing, or a lease."""
    return Command(b"mg %b v c f t\r\n" % key, partial(_peeked, key), again=True)


def _peeked(key: bytes, replies: Sequence[Reply], sent: int, name: str) -> Answer | None:
    found = None if replies[0].line == b"EN" else _looked_up(key, replies, sent, name)
    return None if isinstance(found, Held) else found


def _looked_up(key: bytes, replies: Sequence[Reply], sent: int, name: str) -> Answer | Held:
    line, value = replies[0]
    code, flags = parse(line)
    if code != b"VA":
        _refuse(line, name)
    cas, ttl = Cas(cas_number(flags, name), sent, key), seconds_left(flags)
    if value and flags.get(b"f") == GUARD_FLAG and decode(value, ttl) is not None:
        return Guarded()
    if b"X" in flags:
        return Stale(value, cas)
    if not value:
        if b"W" in flags:
            return Leased(cas)
        if (b"Z" in flags or flags.get(b"f") == LEASE_FLAG) and ttl >= 0:
            return Held(cas)
    return Hit(value, cas)


def replace(key: bytes, seen: Cas, lease: float) -> Command[Leased | Busy]:
    """See `Backend.replace`. A guard is never replaced: its CAS is not that of anything that was seen as an entry."""
    data = b"ms %b 0 C%d c T%d F%b\r\n\r\n" % (key, seen.number, whole_seconds(lease), LEASE_FLAG)
    return Command(data, partial(_replaced, key), before=seen.before(key), otherwise=Busy())


def _replaced(key: bytes, replies: Sequence[Reply], sent: int, name: str) -> Leased | Busy:
    code, flags = parse(replies[0].line)
    if code == b"HD":
        return Leased(Cas(cas_number(flags, name), sent, key))
    return Busy() if code in (b"EX", b"NF", b"NS") else _refuse(replies[0].line, name)


def fill(key: bytes, token: Cas, stored: bytes, ttl: float | None) -> Command[bool]:
    """See `Backend.fill`, and `Backend.update`, whose proof is a CAS just the same."""
    head = b"ms %b %d C%d T%d F%b\r\n" % (key, len(stored), token.number, whole_seconds(ttl), VALUE_FLAG)
    decide = partial(_filled, len(stored))
    return Command(b"%b%b\r\n" % (head, stored), decide, before=token.before(key), otherwise=False)


def _filled(size: int, replies: Sequence[Reply], sent: int, name: str) -> bool:
    line = replies[0].line
    if line.startswith(b"SERVER_ERROR") and b"too large" in line:
        raise too_large(size, name)
    return _done(line, (b"EX", b"NF", b"NS"), name)


def too_large(size: int, name: str) -> NotCacheableError:
    """The error for an entry of `size` bytes that the server does not take."""
    return NotCacheableError(f"the memcached {name} takes no entry of {size:,} bytes (its option -I sets the limit)")


def limit() -> Command[int]:
    """Asks for the size that an item may have, all told, in bytes; `UNLIMITED` from a server that does not tell."""
    return Command(b"stats settings\r\n", _limited, again=True)


def _limited(replies: Sequence[Reply], sent: int, name: str) -> int:
    for line in replies[0].value.split(b"\n"):
        if line.startswith(b"STAT item_size_max "):
            return number(line.split(b" ")[2])
    return UNLIMITED


def release(key: bytes, token: Cas) -> Command[bool]:
    """See `Backend.release`."""
    return Command(b"md %b C%d\r\n" % (key, token.number), _released, before=token.before(key), otherwise=False)


def _released(replies: Sequence[Reply], sent: int, name: str) -> bool:
    return _done(replies[0].line, (b"EX", b"NF"), name)


def clear(prefix: str | None) -> Command[None]:
    """See `Backend.clear`: for every server.

    Raises:
        ConfigurationError: a prefix is given; a memcached cannot list its keys.
    """
    if prefix is not None:
        raise ConfigurationError("memcached cannot clear a part of its keys: clear everything, or let them expire")
    return Command(b"flush_all\r\n", _cleared, again=True)


def _cleared(replies: Sequence[Reply], sent: int, name: str) -> None:
    if replies[0].line != b"OK":
        _refuse(replies[0].line, name)


def cas_number(flags: Mapping[bytes, bytes], name: str) -> int:
    """The CAS among the flags of an answer.

    Raises:
        ConfigurationError: the server counts none; it would take `C0` for no condition at all.
    """
    found = number(flags.get(b"c", b""))
    if found == 0:
        raise ConfigurationError(
            f"the memcached {name} runs without CAS, so a lease cannot be checked: start memcached without -C"
        )
    return found


def seconds_left(flags: Mapping[bytes, bytes]) -> int:
    """How long the item will live, by the server's clock; -1: for ever."""
    text = flags.get(b"t", b"")
    return -1 if text == b"-1" else number(text)


def _done(line: bytes, lost: tuple[bytes, ...], name: str) -> bool:
    """True for HD, False for what `lost` lists."""
    code = line[:2]
    if code == b"HD":
        return True
    return False if code in lost else _refuse(line, name)


def refusal(line: bytes, name: str) -> CacheUnavailable | ConfigurationError:
    """The error for an answer that should not come."""
    if line == b"ERROR":
        return ConfigurationError(f"the memcached {name} has no meta commands: cacheside needs 1.6.10 or later")
    return CacheUnavailable(f"the memcached {name} answered {line[:100].decode(errors='replace')!r}")


def _refuse(line: bytes, name: str) -> NoReturn:
    raise refusal(line, name)
