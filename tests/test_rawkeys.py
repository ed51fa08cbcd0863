"""A call that is found by its raw arguments would have had the very same key."""

from __future__ import annotations

import datetime
import enum
import uuid
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from key_values import Access, Box, Color, Level, OpenPoint, Point, Size, Slotted

from cacheside.canonical import default_key
from cacheside.errors import InvalidKeyError
from cacheside.keys import Template
from cacheside.rawkeys import in_parts, types_of


class Same(enum.Enum):
    """Members that are equal to all others."""

    A = 1
    B = 2

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


class Text(str):
    """A str of another class."""


ZONES = [None, datetime.UTC, datetime.timezone(datetime.timedelta(hours=1))]
numbers = st.sampled_from([0, 1, -1, 2, 0.0, -0.0, 1.0, 1.5, True, False, float("nan"), float("inf"), 2**70, 1j])
others = st.sampled_from([
    None, "", "1", "a", b"1", b"a", Text("a"), Color.RED, Color.BLUE, Level.LOW, Access.READ, Same.A, Same.B,
    Access.READ | Access.WRITE, Decimal("1"), Decimal("1.0"), datetime.date(2020, 1, 1), datetime.timedelta(1), int,
    str, datetime.datetime(2020, 1, 1), uuid.UUID(int=1),
    *(datetime.datetime(2020, 1, 1, 1, tzinfo=zone) for zone in ZONES),
])  # fmt: skip
scalars = numbers | others


def _containers(inner: Any) -> Any:
    pairs = st.tuples(inner, inner)
    return st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        pairs.map(lambda pair: Point(*pair)),
        pairs.map(lambda pair: OpenPoint(*pair)),
        pairs.map(lambda pair: Size(*pair)),
        pairs.map(lambda pair: Slotted(*pair)),
        inner.map(Box),
        inner.map(lambda item: {1: item}),
    )


values = st.recursive(scalars, _containers, max_leaves=6)
calls = st.lists(values, min_size=1, max_size=3)
_template = Template("{a}:{b}:{c}", ["a", "b", "c"], "test")


def keys(call: list[object]) -> list[str | None]:
    """The default key, and the key by template: None where there is none."""
    made: list[str | None] = []
    padded = [*call, *[""] * (3 - len(call))]
    for make in (
        lambda: default_key("f", [str(n) for n in range(len(call))], call, True),
        lambda: _template.render(dict(zip("abc", padded, strict=True))),
    ):
        try:
            made.append(make())
        except InvalidKeyError:
            made.append(None)
    return made


def equal(one: object, two: object) -> bool:
    """As a dict sees it."""
    return {one: True}.get(two, False)


@given(calls, calls)
@example([0.0], [-0.0])
@example([1], [True])
@example([Same.A], [Same.B])
@example([[1]], [(1,)])
@example([Size(1, 0.0)], [Size(1, -0.0)])
@example([Size((1,), 2)], [Size([1], 2)])
@example([Size(1, 2)], [Slotted(1, 2)])
def test_same_place_same_key(one: list[object], two: list[object]) -> None:
    """Two calls that are found at the same place of a table have the same key, of whichever kind."""
    if types_of(one) is not None and types_of(one) == types_of(two) and equal(tuple(one), tuple(two)):
        assert keys(one) == keys(two)
    for records, kinds in ((True, slice(0, 1)), (False, slice(0, 2))):
        first, second = in_parts(one, records), in_parts(two, records)
        if first is not None and second is not None and equal(first, second):
            assert keys(one)[kinds] == keys(two)[kinds]


@given(calls)
def test_itself(call: list[object]) -> None:
    """What has a place is found there again, and has a default key: a row leads to what the slow path finds."""
    places = [in_parts(call, records=True)]
    if types_of(call) is not None:
        places.append(tuple(call))
    for place in places:
        if place is not None:
            assert equal(place, in_parts(call, records=True) if place is places[0] else tuple(call))
            assert keys(call)[0] is not None


@pytest.mark.parametrize(
    "value",
    [0.0, -0.0, float("nan"), Decimal(1), datetime.datetime(2020, 1, 1), 1j, Same.A, Text("a"), {1: 2}, {1}, object()],
    ids=lambda value: type(value).__name__,
)
def test_unsafe(value: object) -> None:
    """What can be equal to something of another key has no place, nor has anything that holds it."""
    assert types_of([1, value]) is None
    for holder in (value, [value], (1, value), ((value,),), Size(1, value)):
        assert in_parts([1, holder], records=True) is None


def test_a_dataclass_that_is_more_than_its_fields() -> None:
    """It has no place: its default key is refused, or made by `__cache_key__`."""
    point = Size(1, 2)
    assert in_parts([point], records=True) is not None
    object.__setattr__(point, "more", 3)
    assert in_parts([point], records=True) is None
    assert in_parts([Size(1, 2)], records=False) is None
