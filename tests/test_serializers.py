"""Serializers: what comes back is exactly what went in, or it is refused."""

from __future__ import annotations

import io
import json
import math
import pathlib
import struct
import threading
import uuid
import zoneinfo
from collections import namedtuple
from dataclasses import dataclass, make_dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serializer_values import (
    BAD,
    GOOD,
    HERE,
    STRICT,
    Address,
    Bits,
    Box,
    ByIdentity,
    Colour,
    Counted,
    Delegating,
    Fat,
    Hashed,
    Level,
    Money,
    Plain,
    Point,
    Right,
    SlottedMore,
    Unruly,
    back,
    counted,
    safe_uuid,
    same,
    slotted_more,
    user,
)

from cacheside import serializers
from cacheside.errors import NotCacheableError


@pytest.fixture(params=STRICT, ids=lambda strict: strict.name)
def strict(request: pytest.FixtureRequest) -> serializers.Serializer:
    """Each of the strict serializers."""
    return request.param  # type: ignore[no-any-return]  # pytest's is Any


@pytest.mark.parametrize("value", GOOD, ids=lambda value: f"{type(value).__name__}"[:20])
def test_comes_back_as_it_was(strict: serializers.Serializer, value: object) -> None:
    """Every supported value comes back equal and of the same types, alone and inside containers."""
    assert same(back(strict, value), value)
    assert same(back(strict, [{"k": value}, (value,)]), [{"k": value}, (value,)])


@pytest.mark.parametrize("value", BAD, ids=lambda value: f"{type(value).__name__}"[:20])
def test_refused(strict: serializers.Serializer, value: object) -> None:
    """What would not come back as it was is refused, also deep inside, and the message names the cure."""
    for whole in (value, [{"a": (value,)}], {"a": {"b": value}}):
        with pytest.raises(NotCacheableError, match=r"register_type|cache_if="):
            strict.dumps(whole)


def test_refusal_names_the_type(strict: serializers.Serializer) -> None:
    """The message says which type it was, not only which value it was in."""
    with pytest.raises(NotCacheableError, match=r"\.Unruly.*register_type.*cache_if="):
        strict.dumps([1, Unruly()])


def test_local_classes_are_refused(strict: serializers.Serializer) -> None:
    """A class that no other process could find under its name is refused, with the cure."""

    @dataclass
    class Local:
        x: int

    renamed = make_dataclass("Plain", ["id"])
    renamed.__module__ = HERE
    for value in (Local(1), renamed(1), Enum("Here", "A")["A"], namedtuple("There", "x")(1)):
        with pytest.raises(NotCacheableError, match="top level"):
            strict.dumps(value)


def test_zone_from_a_file_is_refused(strict: serializers.Serializer) -> None:
    """A zone that was not found by its key may differ from the one of that key."""
    file = b"TZif" + bytes(16) + struct.pack(">6l", 0, 0, 0, 0, 1, 4) + struct.pack(">lBB", 0, 0, 0) + b"UTC\0"
    unknown = zoneinfo.ZoneInfo.from_file(io.BytesIO(file), key="Europe/Berlin")
    with pytest.raises(NotCacheableError):
        strict.dumps(datetime(2024, 1, 1, tzinfo=unknown))


def test_path_that_its_text_does_not_give_back(strict: serializers.Serializer) -> None:
    """A path whose text means another path (Python before 3.12 makes some) is refused, else it comes back."""
    path = pathlib.PureWindowsPath("./c:a")
    try:
        assert back(strict, path) == path
    except NotCacheableError:
        assert pathlib.PureWindowsPath(str(path)) != path


def test_cycles_and_depth_are_refused(strict: serializers.Serializer) -> None:
    """What refers to itself, or is nested too deep, is refused; a reasonable depth is not."""
    cycle: list[Any] = []
    cycle.append({"again": cycle})
    parent = Plain(1, "parent")
    parent.children.append(parent)
    deep: Any = ()
    for _ in range(2000):
        deep = (deep,)
    for value in (cycle, parent, deep):
        with pytest.raises(NotCacheableError, match="refers to itself"):
            strict.dumps(value)
    fine: Any = "x"
    for level in range(40):
        fine = (fine,) if level % 2 else [fine]
    tree = Plain(0, "leaf")
    for level in range(30):
        tree = Plain(level, "node", [tree])
    assert same(back(strict, [fine, tree]), [fine, tree])


def test_every_nesting_that_is_stored_can_be_read(strict: serializers.Serializer) -> None:
    """Up to the very depth where dumps refuses, loads reads, in a thread with a small stack too."""
    failures: list[object] = []

    def run() -> None:
        for wrap in (lambda v: [v], lambda v: {"a": v}, lambda v: (v,), Box, lambda v: {(1,): v}):
            value: Any = 2**70
            try:
                for _ in range(200):
                    data = strict.dumps(value)
                    if not same(strict.loads(data), value):
                        failures.append(value)
                    value = wrap(value)
                failures.append(wrap)
            except NotCacheableError:
                continue
            except BaseException as error:
                failures.append(error)

    before = threading.stack_size(512 * 1024)
    try:
        thread = threading.Thread(target=run)
        thread.start()
    finally:
        threading.stack_size(before)
    thread.join()
    assert failures == []


def test_keys_that_look_alike_stay_apart(strict: serializers.Serializer) -> None:
    """Keys with the same content that are not equal are all kept."""
    value = {ByIdentity(1): "a", ByIdentity(1): "b", (math.nan,): "c", (float("nan"),): "d"}
    result = back(strict, value)
    assert list(result.values()) == ["a", "b", "c", "d"]
    assert [type(key) for key in result] == [ByIdentity, ByIdentity, tuple, tuple]


def test_dumps_leaves_the_value_alone(strict: serializers.Serializer) -> None:
    """Nothing is changed in the value that the caller holds."""
    value = {"a": [(1,), {"b": {2}}], (1,): Plain(1, "x", [Plain(2, "y")])}
    strict.dumps(value)
    assert same(value, {"a": [(1,), {"b": {2}}], (1,): Plain(1, "x", [Plain(2, "y")])})


def test_rebuilt_without_the_code_of_the_class(strict: serializers.Serializer) -> None:
    """No __init__ and no __post_init__ runs; unset fields stay unset, cached properties stay cached."""
    value = counted()
    made = Counted.made
    result = back(strict, value)
    assert Counted.made == made
    assert vars(result) == {"text": "abc", "size": 3, "upper": "ABC"}
    assert not hasattr(result, "later")


def test_slots_of_bases_are_kept(strict: serializers.Serializer) -> None:
    """State in slots that are no fields comes back as well."""
    result = back(strict, slotted_more())
    assert (result.x, result.hidden) == (1, [1])
    assert not hasattr(back(strict, SlottedMore(2)), "hidden")


def test_delegating_class_is_not_mistaken_for_its_inner_object(strict: serializers.Serializer) -> None:
    """A __getattr__ that answers for another object is not asked."""
    result = back(strict, Delegating(Plain(1, "a")))
    assert type(result) is Delegating
    assert result.inner == Plain(1, "a")


def test_pydantic_state(strict: serializers.Serializer) -> None:
    """A model keeps its extra values, private values, and which fields were given."""
    result = back(strict, user())
    assert result == user()
    assert result.model_extra == {"nick": "x"}
    assert result.model_fields_set == {"id", "home", "nick"}
    assert result._seen == 3
    assert result.model_dump_json() == user().model_dump_json()
    assert type(result.home) is Address


def test_cached_hash_is_not_stored(strict: serializers.Serializer) -> None:
    """attrs' cached hash of a text would be wrong in another process: it is computed again."""
    value = Hashed("x")
    expected = hash(value)
    result = back(strict, value)
    assert result._attrs_cached_hash is None
    assert hash(result) == expected


def test_uuid_keeps_its_safety(strict: serializers.Serializer) -> None:
    """UUIDs that differ only in is_safe are equal; it is kept all the same."""
    assert back(strict, safe_uuid()).is_safe is uuid.SafeUUID.safe


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None))
    | st.binary()
    | st.complex_numbers()
    | st.decimals()
    | st.uuids()
    | st.dates()
    | st.times()
    | st.datetimes(timezones=st.none() | st.just(UTC) | st.timezones(), allow_imaginary=False)
    | st.timedeltas()
    | st.sampled_from([*Colour, *Level, Right.READ | Right.RUN, Bits(5)])
)
KEYS = st.text() | st.just("$") | st.integers() | st.tuples(st.integers(), st.text()) | st.dates() | st.none()
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.just("$"), inner)
        | st.dictionaries(KEYS, inner)
        | st.sets(KEYS)
        | st.frozensets(KEYS)
        | st.builds(Point, inner, inner)
        | st.builds(Box, inner)
        | st.builds(Plain, st.integers(), st.text())
        | st.builds(Fat, st.integers())
        | st.builds(Money, st.integers())
    ),
    max_leaves=12,
)


@given(value=VALUES)
@settings(max_examples=400, deadline=None)
def test_any_nesting_comes_back(value: object) -> None:
    """Whatever is built from supported types comes back as it was, in both formats."""
    for strict in STRICT:
        assert same(back(strict, value), value)


@given(value=VALUES)
@settings(max_examples=100, deadline=None)
def test_json_is_json(value: object) -> None:
    """The JSON serializer writes UTF-8 that a strict JSON reader accepts."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads(STRICT[1].dumps(value).decode("utf-8"), parse_constant=refuse)


def test_json_is_readable() -> None:
    """Plain data looks as anyone expects."""
    assert STRICT[1].dumps({"a": [1, 2.5, None, True, "ü"]}) == '{"a":[1,2.5,null,true,"ü"]}'.encode()


def test_plain_data_is_plain_msgpack() -> None:
    """Plain data has no wrapping: other tools read it, and C code decodes it."""
    value = {"a": [1, 2.5, None, True, "ü", b"x"], 7: {}}
    assert STRICT[0].dumps(value) == msgpack.packb(value)
