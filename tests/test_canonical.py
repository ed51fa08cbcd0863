"""Default keys: equal arguments share a key, and no others do."""

from __future__ import annotations

import dataclasses
import enum
import pathlib
import re
import sys
import threading
import typing
import uuid
import zoneinfo
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal, localcontext
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from key_values import (
    Access,
    Backwards,
    Box,
    Color,
    DictRecord,
    Hidden,
    HiddenSlot,
    Level,
    OpenPoint,
    OtherTenant,
    Pair,
    Point,
    Session,
    Shade,
    Size,
    Slotted,
    SubInt,
    T,
    Tenant,
    Unprintable,
    WeirdZone,
    stuffed,
    unset,
)

from cacheside.canonical import default_key
from cacheside.errors import InvalidKeyError
from cacheside.keys import check_key


def key_of(*values: object, in_process: bool = False) -> str:
    return default_key("app:f", [f"p{i}" for i in range(len(values))], values, in_process)


def test_default_key_is_the_function_and_its_values() -> None:
    """The text is the prefix, and the values in brackets, in order."""
    assert key_of() == "app:f()"
    assert key_of(1, "a b", None, (True, [2.5])) == "app:f(1,'a%20b',None,(True,[2.5]))"
    assert key_of("it's 100%") == "app:f('it%27s%20100%25')"


DISTINCT: list[object] = [
    *[
        None,
        True,
        False,
        0,
        1,
        -1,
        10**5000,
        "",
        "0",
        "1",
        "None",
        "True",
        "'",
        "1,2",
        "(1)",
        "%31",
        "a",
        "é",
        "\ud800",
    ],
    *[b"", b"1", b"a", b"'", 0.0, -0.0, 1.0, 1e16, 10**16, float("nan"), float("inf"), float("-inf"), 0j, -0j, 1 + 0j],
    *[
        complex(0.0, -0.0),
        Decimal("1.0"),
        Decimal("1.00"),
        Decimal("-0"),
        Decimal("0"),
        Decimal("NaN"),
        Decimal("1E+3"),
    ],
    *[Decimal(1000), Decimal("sNaN"), Decimal("Infinity"), uuid.UUID(int=1), str(uuid.UUID(int=1))],
    *[date(2024, 1, 1), datetime(2024, 1, 1), datetime(2024, 1, 1, fold=1), datetime(2024, 1, 1, tzinfo=UTC)],
    *[datetime(2024, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), datetime(2024, 1, 1, microsecond=1)],
    *[datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")), datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo("Etc/UTC"))],
    *["2024-01-01", time(1), time(1, fold=1), time(1, tzinfo=UTC), timedelta(1), timedelta(0, 1), timedelta(-1)],
    *[UTC, timezone(timedelta(0), "Z"), zoneinfo.ZoneInfo("UTC")],
    *[pathlib.PurePosixPath("a/b"), pathlib.PureWindowsPath("a/b"), pathlib.Path("a/b"), "a/b"],
    *[Color.RED, Color.BLUE, Shade.RED, Level.LOW, Access.READ, Access.READ | Access.WRITE, Access(0), "RED"],
    *[(), (1,), (1, 2), ((1, 2),), ((1,), 2), ("1",), ("1,2",), ("1", "2"), (None,), ((),), [], [1], [1, 2], [[1], 2]],
    *[set(), {1}, {1, 2}, {"1"}, {(1, 2)}, frozenset(), frozenset({1}), {}, {1: 2}, {"1": 2}, {1: "2"}, {1: 2, 3: 4}],
    *[((1, 2), (3, 4)), {(1, 2): 3}, Point(1, 2), Pair(1, 2), Point(1, "2"), OpenPoint(1, 2), Size(1, 2), Size("1", 2)],
    *[
        Slotted(1, 2),
        Backwards(1, 2),
        Backwards(2, 1),
        Size(Size(1, 2), 3),
        Size(1, Size(2, 3)),
        Box(1),
        Box("1"),
        Tenant(1),
        Tenant(2),
        OtherTenant(1),
    ],
    *[int, str, type, Color, Tenant, OtherTenant, enum.EnumMeta, "cacheside", ["int"], b"int"],
]


def test_values_that_differ_have_keys_that_differ() -> None:
    """1, "1", 1.0, True, b"1" and all the rest are told apart, alone and inside of other values."""
    wrappers: list[Callable[[object], object]] = [
        lambda v: v,
        lambda v: (v,),
        lambda v: [v, 1],
        lambda v: {"k": v},
        lambda v: Size(v, v),
        lambda v: Point(1, v),
    ]
    for wrap in wrappers:
        keys = [key_of(wrap(value)) for value in DISTINCT]
        assert len(set(keys)) == len(DISTINCT)
        assert [check_key(key) for key in keys] == keys


def exact(value: Any) -> object:
    """A model of "the same value with the same types" that is independent of how keys are spelled."""
    kind = type(value)
    if kind in (tuple, list):
        return kind, tuple(map(exact, value))
    if kind in (set, frozenset):
        return kind, frozenset(map(exact, value))
    if kind is dict:
        return kind, frozenset((exact(key), exact(item)) for key, item in value.items())
    if kind in (Point, Size):
        return kind, exact(value.x), exact(value.y)
    if kind in (datetime, time):
        return kind, value.replace(tzinfo=None).isoformat(), value.fold, repr(value.tzinfo)
    return kind, repr(value) if kind in (float, complex, Decimal) else value


hashables = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 3),
        st.integers(),
        st.floats(),
        st.sampled_from([0.0, -0.0, 1.0, float("nan")]),
        st.complex_numbers(),
        st.text(st.sampled_from("a1',()[]:%\\ é"), max_size=4),
        st.text(),
        st.binary(max_size=4),
        st.decimals(),
        st.uuids(),
        st.dates(),
        st.times(timezones=st.just(UTC) | st.none()),
        st.datetimes(timezones=st.timezones() | st.none()),
        st.timedeltas(),
        st.sampled_from([*Color, *Shade, *Access, Access.READ | Access.WRITE, int, Color]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.builds(Point, inner, inner),
        st.builds(Size, inner, inner),
        # A signalling NaN cannot be hashed, so it can be in no set.
        st.lists(inner, max_size=3).map(lambda items: frozenset(item for item in items if "sNaN" not in repr(item))),
    ),
    max_leaves=6,
)
arguments = st.recursive(
    hashables,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.builds(Point, inner, inner),
        st.builds(Size, inner, inner),
        st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3),
    ),
    max_leaves=6,
)


@given(one=st.tuples(arguments, arguments), two=st.tuples(arguments, arguments))
def test_default_keys_are_injective_over_values(one: tuple[object, ...], two: tuple[object, ...]) -> None:
    """Two calls share a default key just if their values are equal, types included."""
    keys = key_of(*one), key_of(*two)
    assert (keys[0] == keys[1]) == (exact(one) == exact(two))
    assert tuple(check_key(key) for key in keys) == keys


small = st.recursive(
    st.sampled_from([None, True, 1, 1.0, "1", b"1", "", "1,1", Color.RED]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.lists(inner, max_size=2).map(tuple),
        st.builds(Size, inner, inner),
        st.dictionaries(st.sampled_from(["1", 1, True]), inner, max_size=2),
    ),
    max_leaves=4,
)


@given(one=small, two=small)
def test_small_nested_values_collide_only_when_equal(one: object, two: object) -> None:
    """The same over values so small that equal ones come up often."""
    assert (key_of(one) == key_of(two)) == (exact(one) == exact(two))


@given(st.dictionaries(st.text(max_size=3), st.integers()), st.sets(st.integers() | st.text(max_size=2)), st.randoms())
def test_order_of_dicts_and_sets_does_not_count(mapping: dict[str, int], items: set[object], random: Any) -> None:
    """Equal dicts and equal sets share a key, in whatever order they were built."""
    pairs, shuffled = list(mapping.items()), list(items)
    random.shuffle(pairs)
    random.shuffle(shuffled)
    assert key_of(dict(pairs), set(shuffled)) == key_of(mapping, items)


def test_a_decimal_does_not_depend_on_its_context() -> None:
    """The caller's decimal context writes exponents its own way; the key does not."""
    key = key_of(Decimal("1E+3"))
    with localcontext() as context:
        context.capitals = 0
        assert key_of(Decimal("1E+3")) == key


def test_values_built_anew_share_a_key() -> None:
    """A key holds nothing of the object itself: an equal one has the same."""
    assert key_of(Size(1, Point(2, {3: Tenant(4)}))) == key_of(Size(1, Point(2, {3: Tenant(4)})))


def test_what_is_computed_is_not_part_of_a_record() -> None:
    """A cached property that was read, or a type argument, does not change the key of a dataclass."""
    box, fresh = Box[int](1), Box(1)
    assert box.double == (1, 1)
    assert key_of(box) == key_of(fresh)


@pytest.mark.parametrize(
    "value",
    [
        *[
            Unprintable(),
            Session(),
            object(),
            SubInt(1),
            bytearray(b"1"),
            memoryview(b"1"),
            len,
            key_of,
            lambda: None,
            range(3),
        ],
        *[
            OrderedDict(a=1),
            iter([]),
            re.compile("a"),
            threading.Lock(),
            Hidden(1, 2, 3),
            HiddenSlot(1, 2),
            unset(),
            stuffed(),
        ],
        *[DictRecord(1), ..., ValueError("x"), list[int], T, datetime(2024, 1, 1, tzinfo=WeirdZone())],
        *[
            tuple.__new__(Point, (1, 2, 3)),
            type("Text", (str,), {})("a"),
            type("Decimal", (), {})(),
            type("Decimal", (Decimal,), {})(1),
        ],
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("wrap", [lambda v: v, lambda v: (1, [v]), lambda v: {"k": v}, lambda v: Size(1, v)])
@pytest.mark.parametrize("in_process", [True, False])
def test_unknown_types_are_refused(value: object, wrap: Callable[[object], object], in_process: bool) -> None:
    """A type that is not known for certain raises, with the parameter, its type and the cures in the message."""
    wrapped = wrap(value)
    kind = type(wrapped)
    with pytest.raises(InvalidKeyError) as caught:
        default_key("app:f", ["user_id", "session"], [1, wrapped], in_process)
    message = str(caught.value)
    assert f"app:f: parameter 'session' ({kind.__module__}.{kind.__qualname__})" in message
    assert "key=" in message
    assert 'ignore=("session",)' in message


def test_a_cycle_is_refused() -> None:
    """A value that refers to itself raises as other values do."""
    cycle: list[object] = []
    cycle.append(cycle)
    with pytest.raises(InvalidKeyError, match=r"'p0' .*refers to itself.*key="):
        key_of(cycle)


def local_class() -> type:
    @dataclasses.dataclass
    class Local:
        x: int

    return Local


def main_class() -> type:
    return type("Local", (), {"__module__": "__main__", "__cache_key__": lambda self: 1})


def nameless_class() -> type:
    return typing.NamedTuple("Local", [("x", int)])


@pytest.mark.parametrize("make", [local_class, main_class, nameless_class])
def test_local_classes(make: Callable[[], Any]) -> None:
    """A class that cannot be imported by name is told from its namesakes in this process, and refused beyond it."""
    one, two = make(), make()
    new: Callable[[Any], object] = lambda cls: cls() if make is main_class else cls(1)  # noqa: E731  # two words for it
    assert key_of(new(one), in_process=True) == key_of(new(one), in_process=True)
    assert key_of(new(one), in_process=True) != key_of(new(two), in_process=True)
    assert key_of(one, in_process=True) != key_of(two, in_process=True)
    check_key(key_of(one, new(one), in_process=True))
    for value in (one, new(one)):
        with pytest.raises(InvalidKeyError, match=r"local, of __main__.*key="):
            key_of(value)


def test_a_class_of_main_is_local_even_when_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has another `__main__`, so its classes have no name that both could mean."""
    cls = main_class()
    monkeypatch.setattr(sys.modules["__main__"], "Local", cls, raising=False)
    assert "#" in key_of(cls, in_process=True)
    with pytest.raises(InvalidKeyError, match="of __main__"):
        key_of(cls)


def test_numbers_of_local_classes_are_never_given_again() -> None:
    """A class that is gone leaves its number behind, also when many threads ask for numbers at once."""
    keys: list[str] = []
    threads = [
        threading.Thread(target=lambda: keys.extend([key_of(local_class(), in_process=True) for _ in range(50)]))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keys)) == len(keys) == 200


def test_one_local_class_has_one_number_in_all_threads() -> None:
    """Threads that meet a class for the first time together agree on its key."""
    for _ in range(20):
        cls, start, keys = local_class(), threading.Barrier(4), list[str]()

        def ask(cls: type = cls, start: threading.Barrier = start, keys: list[str] = keys) -> None:
            start.wait()
            keys.append(key_of(cls, in_process=True))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(keys) == 4
        assert len(set(keys)) == 1


def test_a_class_name_cannot_forge_another() -> None:
    """Names of modules and classes are escaped and parted, so that no name runs into what follows it."""
    one = type("b:C", (), {"__module__": "a"})
    two = type("C", (), {"__module__": "a:b"})
    three = type("C', é", (), {"__module__": "a'"})
    keys = [key_of(cls, in_process=True) for cls in (one, two, three)]
    assert len({key.partition("#")[0] for key in keys}) == 3
    assert all(key.count("'") == 2 for key in keys)
    assert [check_key(key) for key in keys] == keys
