"""Bytes of whatever origin, given to the decoders: a value, or a miss; no other exception, no code, little memory.

With CACHESIDE_LONG=1 each of these runs a hundred times as many examples.
"""

from __future__ import annotations

import functools
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from fuzz_bytes import BOMBS, HUGE, REAL, SERIALIZERS, arbitrary, forged, mutated
from fuzz_watch import Witness, watching
from hypothesis import example, given, settings
from hypothesis import strategies as st
from long import scaled
from serializer_values import STRICT, Plain, back, tagged

from cacheside import serializers
from cacheside.envelope import Miss, Raised
from cacheside.errors import CachesideError, DecodeError, NotCacheableError
from cacheside.wirecodec import WireCodec

pytestmark = [pytest.mark.proof, pytest.mark.timeout(scaled(120, 7200))]
many = settings(deadline=None, max_examples=scaled(100, 5_000))
some = settings(deadline=None, max_examples=scaled(30, 1_500))
each = pytest.mark.parametrize("serializer", SERIALIZERS, ids=lambda serializer: serializer.name)

BOUNDS = {"msgpack": (128, 16 * 2**20), "json": (48, 2**20), "pickle": (4, 2**20)}
"""The bound on memory: so many bytes for each byte of the input, and so many for none.

An empty dict is one byte of MessagePack and some seventy in Python, so that no much smaller factor can be. Its constant
is for a hundred tags around each other: each has a parser, and up to 32 KB of its own. (Of pickle: what is not signed.)
"""


def decoded(serializer: serializers.Serializer, data: bytes) -> object:
    """The value, or the one exception that is allowed; the sentinels must not have been met."""
    Witness.seen.clear()
    with watching() as seen:
        try:
            value: object = serializer.loads(data)
        except DecodeError as error:
            value = error
    assert seen == []
    assert Witness.seen == []
    return value


@each
def test_arbitrary_bytes(serializer: serializers.Serializer) -> None:
    """Bytes of no origin are a value by luck, or DecodeError."""

    @many
    @given(data=arbitrary())
    def check(data: bytes) -> None:
        decoded(serializer, data)

    check()


@each
def test_mutated_payloads(serializer: serializers.Serializer) -> None:
    """So are payloads of ours, and of an attacker's, that were changed; a signed one that was changed is never read."""

    @many
    @given(data=mutated(REAL[serializer.name]))
    def check(data: bytes) -> None:
        value = decoded(serializer, data)
        assert serializer.name != "pickle" or isinstance(value, DecodeError)

    check()


@pytest.mark.parametrize("strict", STRICT, ids=lambda strict: strict.name)
def test_the_sentinels_see(strict: serializers.Serializer) -> None:
    """The sentinels do see what they are for; and an allowed class is built, though none of its code runs."""
    with watching() as seen:
        exec("pass")
        with pytest.raises(ImportError):
            __import__("no_such_module_for_the_sentinels")
        SERIALIZERS[2].loads(SERIALIZERS[2].dumps(Plain(1, "a")))
    assert {line.split()[0] for line in seen} >= {"exec", "import", "pickle.find_class"}
    Witness.seen.clear()
    Witness()
    assert Witness.seen == ["call", "__new__", "__setattr__", "__post_init__"]
    Witness.seen.clear()
    Witness.gone = False
    made = decoded(strict, tagged(strict, "object", ["fuzz_watch:Witness", "x", {"x": 5}, {}]))
    assert type(made) is Witness
    assert made.x == 5
    del made
    assert Witness.gone
    refused = [decoded(strict, data) for data in forged(strict)]
    assert sum(isinstance(value, DecodeError) for value in refused) > len(refused) * 0.8


# --- the envelope ---


class Declared(Exception):
    """An exception that a function declared in cache_exceptions=."""


def codec(serializer: serializers.Serializer, now: Callable[[], float] | None = lambda: 1000.0) -> WireCodec:
    return WireCodec(serializer, "7", [Declared, OSError], now)


@functools.cache
def envelopes(name: str) -> list[bytes]:
    """Real envelopes: of values and exceptions, of another version, and with any payload."""
    serializer = next(each for each in SERIALIZERS if each.name == name)
    one, other = codec(serializer), WireCodec(serializer, "8", [], None)
    head = len(one.encode(None, 60)) - len(serializer.dumps(None))
    return [
        *(one.encode(None, 60)[:head] + payload for payload in REAL[name]),
        one.encode(Raised(Declared("a", 1)), 60),
        *(one._errors[0] + b"\0" * 8 + payload for payload in REAL[name][::7]),
        other.encode([1], None),
        other.encode(Raised(Declared()), None),
        b"cs\x02" + one.encode(1, 60)[3:],
    ]


@each
def test_envelopes(serializer: serializers.Serializer) -> None:
    """What is stored is an outcome, or a miss; nothing is ever raised, and no exception is of a class not declared."""
    one = codec(serializer)
    signed = {envelope[len(one._value_header) + 8 :] for envelope in envelopes(serializer.name)}

    @many
    @given(stored=arbitrary() | mutated(envelopes(serializer.name)))
    @example(b"")
    @example(one._value_header)
    @example(one._errors[0] + b"\0" * 7)
    def check(stored: bytes) -> None:
        Witness.seen.clear()
        with watching() as seen:
            outcome = one.decode(stored)
        assert Witness.seen == []
        if serializer.name == "pickle" and type(outcome) is not Miss:  # only the expiry was changed: it is not signed
            head = one._value_header if stored.startswith(one._value_header) else one._errors[0]
            assert stored[len(head) + 8 :] in signed
            return
        assert seen == []
        if type(outcome) is Raised:
            assert type(outcome.error) in (Declared, OSError)

    check()


@each
def test_exceptions_of_an_attacker(serializer: serializers.Serializer) -> None:
    """A stored exception is of a class that was declared, or a miss: no subclass, no nonsense."""
    one = codec(serializer)
    for nonsense in (
        ("builtins:OSError", (2, "no such file"), {}),  # OSError itself makes a FileNotFoundError of it
        ("builtins:OSError", 5, {}),
        ("builtins:OSError", (), 5),
        ("builtins:OSError", (), {"__class__": 5, 7: 8}, 9),
        ("builtins:ValueError", (), {}),
        ("fuzz_watch:Witness", (), {}),
        ([], (), {}),
        5,
    ):
        assert one.decode(one._errors[0] + b"\0" * 8 + serializer.dumps(nonsense)) is Miss.FOREIGN
    again = one.decode(one._errors[0] + b"\0" * 8 + serializer.dumps(("builtins:OSError", ("gone",), {})))
    assert type(again.error) is OSError


@each
def test_every_bit_of_a_header_counts(serializer: serializers.Serializer) -> None:
    """An envelope with any bit of its header turned is foreign; cut anywhere in its header or payload, too."""
    one = codec(serializer)
    stored = one.encode([1, "two", {"three": 3}], 60)
    assert one.decode(stored) == [1, "two", {"three": 3}]
    for bit in range(len(one._value_header) * 8):
        turned = bytearray(stored)
        turned[bit // 8] ^= 1 << bit % 8
        assert one.decode(bytes(turned)) in (Miss.FOREIGN, Miss.EXPIRED)
    for length in range(len(stored)):
        assert type(one.decode(stored[:length])) is Miss


# --- memory ---


def peak(decode: Callable[[bytes], Any], data: bytes) -> int:
    """The most memory that decoding takes, its result included."""
    tracemalloc.start()
    try:
        decode(data)
    except CachesideError:
        pass
    finally:
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return most


def limit(serializer: serializers.Serializer, data: bytes) -> int:
    times, constant = BOUNDS[serializer.name]
    return times * len(data) + constant


@pytest.mark.parametrize(
    ("serializer", "name"),
    [(serializer, name) for serializer in SERIALIZERS for name in BOMBS[serializer.name]],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_bombs(serializer: serializers.Serializer, name: str) -> None:
    """Payloads made to take as much memory as can be stay within the bound, in an envelope as well."""
    data = BOMBS[serializer.name][name]
    assert peak(serializer.loads, data) < limit(serializer, data)
    one = codec(serializer)
    assert peak(one.decode, one._value_header + b"\0" * 8 + data) < limit(serializer, data)


@each
def test_memory_of_mutated_payloads(serializer: serializers.Serializer) -> None:
    """The same for payloads that were changed by chance."""

    @some
    @given(data=mutated([*REAL[serializer.name], *BOMBS[serializer.name].values()]))
    def check(data: bytes) -> None:
        assert peak(serializer.loads, data) < limit(serializer, data)

    check()


@pytest.mark.parametrize("around", ["", "list", "map", "tag", "deep tag"])
@pytest.mark.parametrize("claim", HUGE[2:10], ids=bytes.hex)
def test_claims_of_gigabytes(claim: bytes, around: str) -> None:
    """A MessagePack header that claims four gigabytes, wherever it stands, is a miss that allocates next to nothing."""
    data = claim + b"\x01" * 1000
    if around == "list":
        data = b"\x91" + data
    elif around == "map":
        data = b"\x81\xa1a" + data
    elif around:
        for _ in range(50 if around == "deep tag" else 1):
            data = msgpack.packb(msgpack.ExtType(3, data))
    assert peak(STRICT[0].loads, data) < (6_000_000 if around == "deep tag" else 100_000)  # fifty parsers
    with pytest.raises(DecodeError):
        STRICT[0].loads(data)


def nested(levels: int, value: object) -> object:
    for _ in range(levels):
        value = (value,)
    return value


def test_much_and_deep() -> None:
    """What could not be read within the bound is refused when it is written; all else comes back, deep or large."""
    packer = STRICT[0]
    refused: list[tuple[int, str]] = []
    for levels in (0, 1, 14, 15, 16, 17, 18, 19, 40, 99):
        for value in ("x" * 30_000, b"x" * 40_000, 1 << 200_000, ["y"] * 40_000, {1: "z" * 40_000}, 5, "x" * 10**6):
            whole = nested(levels, value)
            try:
                assert back(packer, whole) == whole
            except NotCacheableError as error:
                refused.append((levels, str(error)))
            assert back(STRICT[1], whole) == whole
    assert min(refused)[0] == 17
    assert all("flatter" in message for _, message in refused)


@settings(deadline=None, max_examples=scaled(40, 2_000))
@given(
    levels=st.integers(0, 32),
    size=st.integers(0, 60_000),
    kind=st.sampled_from([tuple, frozenset, lambda items: {"k": items}, lambda items: Plain(1, "a", items)]),
)
def test_written_is_read(levels: int, size: int, kind: Any) -> None:
    """Whatever is accepted when it is written is accepted when it is read."""
    value: Any = "x" * size
    for _ in range(levels):
        value = kind([value])
    try:
        stored = STRICT[0].dumps(value)
    except NotCacheableError:
        assert levels > 16
        return
    assert STRICT[0].loads(stored) == value
