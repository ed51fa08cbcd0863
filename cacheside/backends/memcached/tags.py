"""Tags: keys that hold a version. No I/O.

A version is an item with a client flag of its own. It is read by `mg`; planted by `ms` in mode add and read in the same
exchange, so that all who plant at once agree on the one that came first. What else stands there is a guard, or no
version: then it is replaced on condition of its CAS.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

from ... import tokens
from ..base import Guarded
from ..beyond import TAG_TTL, Version
from .marker import GUARD_FLAG, TOKEN, decode
from .replies import Reply, parse
from .wire import Cas, Command, cas_number, refusal, seconds_left, whole_seconds

TAG_FLAG = b"201"  # 0xC9, beside the flags of wire.py

Found: TypeAlias = bytes | Guarded | Cas | None
"""What a tag's key holds: a version, a guard, something else, nothing."""


def read(tag: bytes) -> Command[Version]:
    """The version of a tag, if it has one."""
    return Command(b"mg %b v c f t\r\n" % tag, partial(_read, tag), again=True)


def _read(tag: bytes, replies: Sequence[Reply], sent: int, name: str) -> Version:
    found = _found(tag, replies[0], sent, name)
    return None if isinstance(found, Cas) else found


def plant(tag: bytes, foreign: Cas | None) -> Command[Found]:
    """Plant a version, fresh for this attempt, where there is nothing or still that `foreign` item; what is there."""
    condition = b"ME" if foreign is None else b"C%d" % foreign.number
    version, ttl = tokens.fresh(), whole_seconds(TAG_TTL)
    data = b"ms %b %d %b T%d F%b\r\n%b\r\nmg %b v c f t\r\n" % (
        tag, len(version), condition, ttl, TAG_FLAG, version, tag
    )  # fmt: skip
    return Command(
        data, partial(_planted, tag), replies=2, before=None if foreign is None else foreign.before(tag), otherwise=None
    )


def _planted(tag: bytes, replies: Sequence[Reply], sent: int, name: str) -> Found:
    planted, looked = replies
    found = _found(tag, looked, sent, name)
    if found is None and parse(planted.line)[0] not in (b"HD", b"NS", b"EX", b"NF"):
        raise refusal(planted.line, name)
    return found


def _found(tag: bytes, reply: Reply, sent: int, name: str) -> Found:
    line, value = reply
    if line == b"EN":
        return None
    code, flags = parse(line)
    if code != b"VA":
        raise refusal(line, name)
    flag = flags.get(b"f")
    if flag == TAG_FLAG and len(value) == TOKEN and b"X" not in flags:
        return value
    if flag == GUARD_FLAG and decode(value, seconds_left(flags)) is not None:
        return Guarded()
    return Cas(cas_number(flags, name), sent, tag)
