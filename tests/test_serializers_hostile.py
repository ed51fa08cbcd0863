"""Serializers: bytes from a server do no harm, and those of another time or program are a miss."""

from __future__ import annotations

import sys
import types
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import make_dataclass
from datetime import datetime
from enum import Enum, Flag
from typing import Any

import attrs
import msgpack
import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serializer_values import (
    GOOD,
    HERE,
    SECRET,
    STRICT,
    Address,
    Colour,
    Frozen,
    Level,
    Plain,
    Point,
    Right,
    Slim,
    Slotted,
    Unruly,
    tagged,
    tags_of,
)

from cacheside import serializers
from cacheside.errors import DecodeError


@pytest.fixture(params=STRICT, ids=lambda strict: strict.name)
def strict(request: pytest.FixtureRequest) -> serializers.Serializer:
    """Each of the strict serializers."""
    return request.param  # type: ignore[no-any-return]  # pytest's is Any


class Trap(types.ModuleType):
    """A module that must not be asked for anything."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"asked for {name}")


@pytest.fixture
def trap(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a loaded module whose __getattr__ must not run."""

    def refuse(name: str) -> Any:
        raise AssertionError(f"asked for {name}")

    module = Trap("trap_module")
    module.__dict__["__getattr__"] = refuse
    monkeypatch.setitem(sys.modules, "trap_module", module)
    return "trap_module"


FORGED = ["enum", "flag", "namedtuple", "object", "registered"]


def payload_of(tag: str, wire: str) -> object:
    return {"enum": [wire, "A"], "flag": [wire, 1], "namedtuple": [wire, "x", [1], {}], "registered": [wire, 1]}.get(
        tag, [wire, "x", {"x": 1}, {}]
    )


@pytest.mark.parametrize("tag", FORGED)
def test_no_module_is_imported(strict: serializers.Serializer, tag: str) -> None:
    """A payload that names a class of a module which is not loaded does not load it."""
    for name in ("this", "antigravity", "sqlite3.dump", "turtledemo.clock"):
        before = set(sys.modules)
        with pytest.raises(DecodeError):
            strict.loads(tagged(strict, tag, payload_of(tag, f"{name}:x")))
        assert set(sys.modules) == before
        assert name not in sys.modules


@pytest.mark.parametrize("tag", FORGED)
@pytest.mark.parametrize(
    "wire",
    [
        "os:system", "posix:system", "builtins:object", "builtins:eval", "builtins:dict", "subprocess:Popen",
        f"{HERE}:Unruly", f"{HERE}:PlainChild", f"{HERE}:DataError", f"{HERE}:MyTuple",
        f"{HERE}:OtherMoney", "trap_module:Thing", "trap_module:__class__", f"{HERE}:Plain.__init__",
        f"{HERE}:", ":", "", f"{HERE}:Plain.__class__", f"{HERE}:os.system", "nowhere",
    ],
)  # fmt: skip
def test_nothing_else_is_built(strict: serializers.Serializer, trap: str, tag: str, wire: str) -> None:
    """Functions, plain classes, builtins and attributes of modules cannot be reached by any tag."""
    with pytest.raises(DecodeError):
        strict.loads(tagged(strict, tag, payload_of(tag, wire)))


def test_lazy_module_is_not_woken(strict: serializers.Serializer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that would be executed at its first attribute access stays asleep."""
    import importlib.util

    spec = importlib.util.find_spec("this")
    assert spec is not None
    assert spec.loader is not None
    spec.loader = importlib.util.LazyLoader(spec.loader)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "this", module)
    spec.loader.exec_module(module)
    with pytest.raises(DecodeError):
        strict.loads(tagged(strict, "object", ["this:Thing", "x", {}, {}]))
    assert "s" not in object.__getattribute__(module, "__dict__")


def test_forged_state_of_an_allowed_class(strict: serializers.Serializer) -> None:
    """State that the class has no place for is a miss, not a crash."""
    for wire, attributes, slots in [
        (f"{HERE}:Slotted", {"x": 1}, {}),
        (f"{HERE}:Slotted", {"other": 1}, {}),
        (f"{HERE}:Slotted", {}, {"__class__": 1}),
        (f"{HERE}:Frozen", {}, {"x": 1}),
        (f"{HERE}:Frozen", 7, {}),
    ]:
        fields = "x,y" if wire.endswith("Slotted") else "x,when"
        with pytest.raises(DecodeError):
            strict.loads(tagged(strict, "object", [wire, fields, attributes, slots]))


def test_nonsense_in_a_tag(strict: serializers.Serializer) -> None:
    """Whatever stands in a tag: a value, or DecodeError; never another exception."""
    nonsense: list[Any] = [None, 10**12, -1, "x", [], ["a"], [None] * 9, {"a": 1}, [[1], 2], ["x:y", "", 1, 2], [1] * 6]
    refused = 0
    for tag in tags_of(strict):
        for payload in nonsense:
            try:
                strict.loads(tagged(strict, tag, payload))
            except DecodeError:
                refused += 1
    assert refused > len(tags_of(strict)) * len(nonsense) * 0.8


def test_huge_bytearray_is_not_made(strict: serializers.Serializer) -> None:
    """A number in the place of bytes does not become that many bytes."""
    with pytest.raises(DecodeError):
        strict.loads(tagged(strict, "bytearray", 1000))


@given(data=st.binary())
@settings(deadline=None)
def test_random_bytes(data: bytes) -> None:
    """Foreign bytes are a plain value by luck, or DecodeError; never another exception."""
    for serializer in (*STRICT, serializers.create("pickle", SECRET)):
        try:
            serializer.loads(data)
        except DecodeError:
            continue


def everything() -> list[Any]:
    return [value for value in GOOD if type(value) is not int or abs(value) < 2**80]


STORED = [strict.dumps(everything()) for strict in STRICT]


@given(where=st.integers(min_value=0, max_value=10**6), flip=st.integers(min_value=1, max_value=255))
@settings(max_examples=400, deadline=None)
def test_tampered_bytes(where: int, flip: int) -> None:
    """A changed byte gives a value or DecodeError, never another exception."""
    for strict, stored in zip(STRICT, STORED, strict=True):
        data = bytearray(stored)
        data[where % len(data)] ^= flip
        try:
            strict.loads(bytes(data))
        except DecodeError:
            continue


@given(cut=st.integers(min_value=1, max_value=10**6), extra=st.binary(min_size=1, max_size=8))
@settings(deadline=None)
def test_truncated_and_extended_bytes(cut: int, extra: bytes) -> None:
    """A payload that is cut short or has something after it is never taken for a value."""
    for strict, stored in zip(STRICT, STORED, strict=True):
        with pytest.raises(DecodeError):
            strict.loads(stored[: cut % len(stored)])
        if extra.strip():  # white space after JSON is no fault
            with pytest.raises(DecodeError):
                strict.loads(stored + extra)


def test_deep_payloads_do_not_crash() -> None:
    """Extension types inside each other without end end in DecodeError, not in an overflow of the C stack."""
    data = b"\x01"
    for _ in range(5000):
        data = msgpack.packb(msgpack.ExtType(3, data))
    with pytest.raises(DecodeError):
        STRICT[0].loads(data)
    with pytest.raises(DecodeError):
        STRICT[0].loads(b"\x91" * 100_000)
    with pytest.raises(DecodeError):
        STRICT[1].loads(b"[" * 100_000)
    with pytest.raises(DecodeError):
        STRICT[1].loads(b'{"$":["tuple",' * 50_000)


def test_json_oddities() -> None:
    """What Python's json reads but JSON does not allow, and a tag with company, are foreign."""
    for data in (b"NaN", b"[Infinity]", b'{"$":["tuple",[]],"a":1}', b'{"$":["new",1]}', b'{"$":7}', b"\xff", b"{}{}"):
        with pytest.raises(DecodeError):
            STRICT[1].loads(data)


def test_unknown_extension_type() -> None:
    """An extension type of a newer version or another program is a miss; MessagePack's own time is a datetime."""
    with pytest.raises(DecodeError):
        STRICT[0].loads(msgpack.packb(msgpack.ExtType(99, b"")))
    assert type(STRICT[0].loads(msgpack.packb(msgpack.Timestamp(1, 0)))) is datetime


def change(monkeypatch: pytest.MonkeyPatch, name: str, replacement: Any) -> None:
    replacement.__module__ = HERE
    replacement.__qualname__ = name
    monkeypatch.setattr(sys.modules[HERE], name, replacement)


@pytest.mark.parametrize(
    ("name", "value", "replacement"),
    [
        ("Plain", Plain(1, "a"), make_dataclass("Plain", ["id", "name"])),
        ("Plain", Plain(1, "a"), make_dataclass("Plain", ["id", "name", "children", "more"])),
        ("Plain", Plain(1, "a"), make_dataclass("Plain", ["id", "name", "children"], slots=True)),
        ("Slotted", Slotted(1), make_dataclass("Slotted", ["x", "y"])),
        ("Slim", Slim(1), attrs.make_class("Slim", ["x", "z"])),
        ("Slim", Slim(1), Unruly),
        ("Point", Point(1, 2), namedtuple("Point", "x y z")),
        ("Point", Point(1, 2), namedtuple("Point", "y x")),
        ("Address", Address(city="Oslo"), pydantic.create_model("Address", town=(str, ...))),
        ("Colour", Colour.RED, Enum("Colour", "BLUE")),
        ("Level", Level.LOW, Unruly),
        ("Right", Right.READ | Right.RUN, Flag("Right", "READ")),
    ],
)
def test_changed_class_is_a_miss(
    strict: serializers.Serializer, monkeypatch: pytest.MonkeyPatch, name: str, value: object, replacement: Any
) -> None:
    """An entry of a class whose fields or members have changed since is a miss."""
    data = strict.dumps(value)
    assert type(strict.loads(data)) is type(value)
    if replacement is Unruly:
        monkeypatch.setattr(sys.modules[HERE], name, Unruly)
    else:
        change(monkeypatch, name, replacement)
    with pytest.raises(DecodeError):
        strict.loads(data)


def test_private_attributes_are_part_of_the_shape(
    strict: serializers.Serializer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that got a private attribute since would lack it: a miss."""
    data = strict.dumps(Address(city="Oslo"))

    class Address2(pydantic.BaseModel):
        city: str
        _new: int = pydantic.PrivateAttr(default=1)

    change(monkeypatch, "Address", Address2)
    with pytest.raises(DecodeError):
        strict.loads(data)


def test_class_that_is_gone_is_a_miss(strict: serializers.Serializer, monkeypatch: pytest.MonkeyPatch) -> None:
    """So is a class that the module has no longer."""
    data = strict.dumps(Frozen(1))
    monkeypatch.delattr(sys.modules[HERE], "Frozen")
    with pytest.raises(DecodeError):
        strict.loads(data)
