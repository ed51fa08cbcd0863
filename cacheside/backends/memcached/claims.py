"""Claims: the right to replace a value that goes on being served. No I/O.

| step | wire | answer |
| --- | --- | --- |
| claim | `mg k c`, `ms <side> 0 ME c T<lease> F<claim>` | that CAS still, and `HD`: ours; `c` names the side item |
| fill | `ms k <len> C<the CAS seen>` ... | as under a lease |
| release | `md <side> C<cas>`, `mg k c` | `HD`, and that CAS still: it was alive |

What is claimed is the entry of one CAS. A *side item*, planted where there is none, keeps others from claiming it too;
that the entry is still the same is proven as for a lease, by its CAS. Whatever ends a lease changes that, and with it
the side item means nothing any more: its name has a CAS in it that will never be again. It expires by itself.

The side item is taken away on condition of its own CAS: after the claim's time it may be another's.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from ..base import Busy, Leased
from .replies import Reply, parse
from .wire import MAX_KEY, Cas, Command, cas_number, refusal, whole_seconds

CLAIM_FLAG = b"200"  # 0xC8, beside the flags of wire.py
_MARK = "¦".encode()  # bytes that no key of a caller's has, for those are ASCII
_LONGEST = MAX_KEY - len(_MARK) - 20  # what is left beside a CAS of 64 bits


class Claim(NamedTuple):
    """The token of a claim: the entry that it is on, and the side item."""

    seen: Cas
    side: Cas


def side_key(key: bytes, cas: int) -> bytes:
    """The name of the side item for one entry.

    A server never counts the same CAS twice: the number alone would tell two entries on it apart. So a long key may be
    cut. (Behind a proxy that spreads keys over servers two might meet, and one would hear `Busy` without reason.)
    """
    return b"%b%b%d" % (key[:_LONGEST], _MARK, cas)


def claim(key: bytes, seen: Cas, lease: float) -> Command[Leased | Busy]:
    """See `Claiming.claim`. Never sent twice: the second would find the side item of the first."""
    side = side_key(key, seen.number)
    data = b"mg %b c\r\nms %b 0 ME c T%d F%b\r\n\r\n" % (key, side, whole_seconds(lease), CLAIM_FLAG)
    return Command(data, partial(_claimed, seen, side), replies=2, before=seen.before(key), otherwise=Busy())


def _claimed(seen: Cas, side: bytes, replies: Sequence[Reply], sent: int, name: str) -> Leased | Busy:
    looked, (planted, _) = replies
    code, flags = parse(planted)
    if code not in (b"HD", b"NS"):
        raise refusal(planted, name)
    same = _same(looked.line, seen, name)
    return Leased(Claim(seen, Cas(cas_number(flags, name), sent, side))) if same and code == b"HD" else Busy()


def release(key: bytes, token: Claim) -> Command[bool]:
    """See `Backend.release`."""
    data = b"md %b C%d\r\nmg %b c\r\n" % (token.side.key, token.side.number, key)
    return Command(data, partial(_released, token.seen), replies=2, before=token.seen.before(key), otherwise=False)


def _released(seen: Cas, replies: Sequence[Reply], sent: int, name: str) -> bool:
    (deleted, _), looked = replies
    if deleted not in (b"HD", b"EX", b"NF"):
        raise refusal(deleted, name)
    return _same(looked.line, seen, name) and deleted == b"HD"


def _same(line: bytes, seen: Cas, name: str) -> bool:
    """Whether the entry is still the one that was seen."""
    code, flags = parse(line)
    if code not in (b"HD", b"EN"):
        raise refusal(line, name)
    return code == b"HD" and cas_number(flags, name) == seen.number
