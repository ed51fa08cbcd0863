"""What the fuzz tests feed to decoders: real payloads, mutations of them, and payloads made to be as bad as can be."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import msgpack
from hypothesis import strategies as st
from serializer_values import GOOD, SECRET, STRICT, tagged, tags_of

from cacheside import serializers

SERIALIZERS: list[serializers.Serializer] = [*STRICT, serializers.create("pickle", SECRET)]
PLAIN: list[Any] = [value for value in GOOD if type(value) is not int or abs(value) < 2**80]
CLASSES = [
    "os:system", "builtins:eval", "subprocess:Popen", "fuzz_watch:Witness", "fuzz_watch:Plain", "this:x",
    "serializer_values:Plain", "serializer_values:Unruly", "re:RegexFlag",
]  # fmt: skip


def forged(serializer: serializers.Serializer) -> list[bytes]:
    """Payloads that an attacker could write by hand: every tag, with every class that must not be touched."""
    if serializer.name == "pickle":
        return [b"\0" * 32 + b"cos\nsystem\n(S'true'\ntR.", b"cbuiltins\neval\n(S'1'\ntR."]
    return [
        tagged(serializer, tag, payload)
        for tag in tags_of(serializer)
        for wire in CLASSES
        for payload in ([wire, "x", {"x": 1}, {}], [wire, 1], [wire, "x", [1], {}], [wire, False])
    ]


REAL: dict[str, list[bytes]] = {
    serializer.name: [
        *(serializer.dumps(value) for value in PLAIN),
        serializer.dumps(PLAIN),
        *forged(serializer),
    ]
    for serializer in SERIALIZERS
}
"""Payloads by serializer: what it made itself, and what is forged."""

HUGE = [
    b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x03", b"\xdb\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xde\xff\xff", b"\xc8\xff\xff\x14",
    b"99999999999", b"1e999", b'{"$":["tuple",', b'{"$":', b"\\ud800", b"\x80\x05\x8a\xff", b"-1", b"\x00" * 8,
]  # fmt: skip
"""Bytes that claim much, in one format or another."""
NESTING = [
    b"[",
    b"\x91",
    b"\x81\xa1a",
    b'{"a":',
    b'{"$":["tuple",[',
    b"\xdc\xff\xff",
    b"\xc7\xff\x03",
    b"(",
    b"\xd8\x03",
]


def mutated(originals: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """One of `originals`, changed in up to four places; never any of them."""
    known = frozenset(originals)
    return _mutated(originals).filter(lambda data: data not in known)


@st.composite
def _mutated(draw: st.DrawFn, originals: Sequence[bytes]) -> bytes:
    data = bytearray(draw(st.sampled_from(originals)))
    place = st.integers(0, 2**20)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(place) % (len(data) + 1)
        length = draw(st.integers(0, 16))
        change = draw(st.sampled_from(["flip", "byte", "cut", "splice", "delete", "double", "claim", "nest", "insert"]))
        if change == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "byte" and at < len(data):
            data[at] = draw(st.integers(0, 255))
        elif change == "cut":
            del data[at:]
        elif change == "splice":
            other = draw(st.sampled_from(originals))
            data[at:] = other[draw(place) % (len(other) + 1) :]
        elif change == "delete":
            del data[at : at + length]
        elif change == "double":
            data[at:at] = data[at : at + length]
        elif change == "claim":
            huge = draw(st.sampled_from(HUGE))
            data[at : at + draw(st.sampled_from([0, len(huge)]))] = huge
        elif change == "nest":
            data[at:at] = draw(st.sampled_from(NESTING)) * draw(st.sampled_from([2, 90, 110, 1500]))
        else:
            data[at:at] = draw(st.binary(max_size=8))
    return bytes(data)


def arbitrary() -> st.SearchStrategy[bytes]:
    """Bytes of no origin; among them JSON and MessagePack that cacheside never wrote."""
    leaf = st.none() | st.booleans() | st.floats() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8)
    tree = st.recursive(leaf, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner))
    tag = st.tuples(st.integers(0, 127), st.binary(max_size=24) | tree.map(_packed)).map(lambda t: _ext(*t))
    return st.one_of(
        st.binary(max_size=64),
        tree.map(_packed),
        tree.map(lambda value: json.dumps(value).encode()),
        tag,
        st.lists(st.sampled_from([*HUGE, *NESTING]) | st.binary(max_size=4), max_size=6).map(b"".join),
    )


def _packed(value: object) -> bytes:
    packed: bytes = msgpack.packb(value, unicode_errors="surrogatepass")
    return packed


def _ext(code: int, data: bytes) -> bytes:
    packed: bytes = msgpack.packb(msgpack.ExtType(code, data))
    return packed


def _array(count: int) -> bytes:
    return b"\xdd" + count.to_bytes(4, "big")


def _chain(levels: int, core: bytes, around: Callable[[bytes], bytes] = lambda data: data) -> bytes:
    for _ in range(levels):
        core = _ext(3, b"\x91" + around(core))
    return core


SIZE = 25_000
MSGPACK_BOMBS: dict[str, bytes] = {
    "lists that claim all there is": _array(SIZE) * 1000 + b"\0" * SIZE,
    "lists that claim 65535": b"\xdc\xff\xff" * 1000 + b"\0" * 70_000,
    "maps that claim all there is": (b"\xdf" + (SIZE // 2).to_bytes(4, "big") + b"\0") * 1000 + b"\0" * SIZE,
    "tags around much": _chain(101, b"\xc6" + (200_000).to_bytes(4, "big") + b"x" * 200_000),
    "tags with claims between": _chain(101, b"\0" * SIZE, lambda data: _array(SIZE) * 100 + data),
    "tags around little": _chain(101, b"\x90"),
    "empty dicts": _array(SIZE) + b"\x80" * SIZE,
    "empty lists": _array(SIZE) + b"\x90" * SIZE,
    "empty sets": _array(SIZE) + _ext(4, b"\x90") * SIZE,
    "dicts of one": _array(SIZE) + b"\x81\x00\x00" * SIZE,
    "zones": _array(10_000) + _ext(15, _packed(["CET", False])) * 10_000,
    "paths": _array(3000) + _ext(16, _packed(["PosixPath", "a/b"])) * 3000,
    "numbers": _array(SIZE) + b"\xcd\x01\x02" * SIZE,
    "floats": _array(SIZE) + (b"\xcb" + b"\x40" * 8) * SIZE,
    "a long decimal": _ext(13, _packed("9" * SIZE)),
    "a long integer": _ext(2, _packed("f" * SIZE)),
    "times": _array(3000) + _ext(10, _packed([2024, 1, 1, 1, 1, 1, 1, None, 0])) * 3000,
    "a long text": b"\xdb" + (4 * SIZE).to_bytes(4, "big") + b"a" * (4 * SIZE - 4) + "𝄞".encode(),
}
JSON_BOMBS: dict[str, bytes] = {
    "lists in lists": b"[" * SIZE,
    "dicts in dicts": b'{"a":' * SIZE,
    "tags in tags": b'{"$":["tuple",[' * SIZE,
    "empty dicts": b"[" + b"{}," * SIZE + b"{}]",
    "empty sets": b"[" + b'{"$":["set",[]]},' * SIZE + b"0]",
    "dicts of one": b"[" + b'{"a":1},' * SIZE + b"0]",
    "zones": b"[" + b'{"$":["zoneinfo",["CET",false]]},' * 3000 + b"0]",
    "floats": b"[" + b"1.5," * SIZE + b"1]",
    "a long decimal": b'{"$":["decimal","' + b"9" * SIZE + b'"]}',
    "a long number": b"9" * SIZE,
    "a long text": b'"' + b"a" * (4 * SIZE) + "𝄞".encode() + b'"',
    "escapes": b'"' + b"\\u0041" * SIZE + b'"',
}
PICKLE_BOMBS: dict[str, bytes] = {
    "unsigned frames": b"\0" * 32 + b"\x80\x05\x95" + b"\xff" * 7 + b"\x7f" + b"x" * SIZE,
    "unsigned bytes": b"\0" * 32 + b"\x80\x05\x8e" + (2**40).to_bytes(8, "little"),
}
BOMBS: dict[str, dict[str, bytes]] = {"msgpack": MSGPACK_BOMBS, "json": JSON_BOMBS, "pickle": PICKLE_BOMBS}
"""What would take the most memory for its size, by serializer."""
