"""Values for the tests of the serializers: what must come back, what must be refused, and how to compare."""

from __future__ import annotations

import json
import math
import os
import pathlib
import struct
import threading
import types
import uuid
import zoneinfo
from collections import Counter, OrderedDict, defaultdict, namedtuple
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from enum import Enum, Flag, IntEnum, IntFlag, StrEnum, auto
from functools import cached_property
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import attr
import attrs
import msgpack
import pydantic

from cacheside import serializers
from cacheside.serializers.msgpack import _CODES
from cacheside.serializers.types import _builders

SECRET = "0123456789abcdef0123456789abcdef"
STRICT = [serializers.create("msgpack"), serializers.create("json")]
HERE = __name__
T = TypeVar("T")


class Colour(Enum):
    RED = "red"
    CRIMSON = "red"
    TUPLE = (1, 2)


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Word(StrEnum):
    YES = "yes"


class Right(Flag):
    READ = auto()
    WRITE = auto()
    RUN = auto()


class Bits(IntFlag):
    A = 1
    B = 2


Point = namedtuple("Point", "x y")


class Typed(NamedTuple):
    name: str
    tags: frozenset[str] = frozenset()


class PointWithMore(Point):
    """A namedtuple that has a __dict__."""


@dataclass
class Plain:
    id: int
    name: str
    children: list[Plain] = field(default_factory=list)


@dataclass(frozen=True)
class Frozen:
    x: int
    when: date | None = None


@dataclass(frozen=True, slots=True)
class Slotted:
    x: int
    y: tuple[int, ...] = ()


class SlottedBase:
    __slots__ = ("hidden",)


@dataclass(slots=True)
class SlottedMore(SlottedBase):
    x: int


@dataclass
class Counted:
    """Has all that must not run or get lost when it is rebuilt."""

    made: ClassVar[int] = 0
    text: str
    later: int = field(init=False)
    size: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        type(self).made += 1
        self.size = len(self.text)

    @cached_property
    def upper(self) -> str:
        return self.text.upper()


@dataclass(eq=False)
class ByIdentity:
    x: int


@dataclass
class Box(Generic[T]):
    item: T


class PlainChild(Plain):
    """Derives from a dataclass without being one."""


@dataclass
class DataError(Exception):
    code: int


@dataclass
class Delegating:
    """Answers for another object, also when asked for __dict__."""

    __slots__ = ("inner",)
    inner: Plain

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Outer:
    @dataclass
    class Inner:
        x: int


class Address(pydantic.BaseModel):
    city: str


class User(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    id: int
    name: str = "nobody"
    born: date | None = None
    home: Address | None = None
    _seen: int = pydantic.PrivateAttr(default=0)


class Ids(pydantic.RootModel[list[int]]):
    pass


class Page(pydantic.BaseModel, Generic[T]):
    items: list[T]


PageOfInt = Page[int]


@pydantic.dataclasses.dataclass
class Checked:
    x: int


@attrs.define
class Slim:
    x: int
    y: list[int] = attrs.field(factory=list)


@attrs.frozen
class SlimFrozen:
    x: int


@attr.s(auto_attribs=True)
class Fat:
    x: int


@attrs.frozen(cache_hash=True)
class Hashed:
    text: str


class Money:
    def __init__(self, cents: int) -> None:
        self.cents = cents

    def __eq__(self, other: object) -> bool:
        return type(other) is Money and other.cents == self.cents

    def __hash__(self) -> int:
        return self.cents


class OtherMoney(Money):
    pass


class Unruly:
    pass


class Ordered(OrderedDict[str, int]):
    pass


class MyStr(str):
    pass


class MyInt(int):
    pass


class MyTuple(tuple[int, ...]):
    pass


class MyZone(tzinfo):
    def utcoffset(self, when: datetime | None) -> timedelta:
        return timedelta(0)


serializers.register_type(Money, lambda money: money.cents, Money)
serializers.register_type(Ordered, lambda value: list(value.items()), Ordered, name="ordered")


def same(one: Any, two: Any) -> bool:
    """Equal in value and in every type inside, in the order of dicts, and in the sign of zeros."""
    if type(one) is not type(two):
        return False
    if isinstance(one, float):
        return struct.pack("d", one) == struct.pack("d", two) or (math.isnan(one) and math.isnan(two))
    if isinstance(one, complex):
        return same(one.real, two.real) and same(one.imag, two.imag)
    if isinstance(one, Decimal):
        return one.as_tuple() == two.as_tuple()
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(map(same, one, two)) and same_attributes(one, two)
    if isinstance(one, (set, frozenset)):
        return len(one) == len(two) and all(any(same(item, other) for other in two) for item in one)
    if isinstance(one, dict):
        return same([*one], [*two]) and same([*one.values()], [*two.values()])
    if isinstance(one, (datetime, time)):
        return one.replace(tzinfo=None) == two.replace(tzinfo=None) and one.fold == two.fold and zone(one) == zone(two)
    if isinstance(one, (Plain, Frozen, Counted, User, Box)):
        return same_attributes(one, two)
    return bool(one == two)


def same_attributes(one: Any, two: Any) -> bool:
    first, second = getattr(one, "__dict__", {}), getattr(two, "__dict__", {})
    return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)


def zone(value: datetime | time) -> str:
    return repr(value.tzinfo)


def counted() -> Counted:
    value = Counted("abc")
    assert value.upper == "ABC"
    return value


def slotted_more() -> SlottedMore:
    value = SlottedMore(1)
    value.hidden = [1]
    return value


def point_with_more() -> PointWithMore:
    value = PointWithMore(1, 2)
    value.more = {"a": (1,)}
    return value


def safe_uuid() -> uuid.UUID:
    return uuid.UUID(int=7, is_safe=uuid.SafeUUID.safe)


def user() -> User:
    value = User(id=1, home=Address(city="Oslo"), nick="x")
    value._seen = 3
    return value


BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
GOOD: list[Any] = [
    None, True, False, 0, 1, -1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**5000, -(10**5000),
    0.0, -0.0, 1.0, 1e300, 5e-324, math.inf, -math.inf, math.nan,
    "", "text", "ü€𝄞", "\x00", "\ud800", "\ud83d\ude00", "a\udfffb", b"", b"\x00\xff", bytearray(b"ab"),
    [], {}, (), (1, (2, [3])), set(), {1, "a", (2,)}, frozenset({frozenset({1}), None}), [[], [()]],
    {"a": {"b": [1, (2,)]}}, {1: 1, "1": 2, (1, 2): 3, None: 4, b"k": 5, 2.5: 6, frozenset(): 7}, {True: 1, 2**70: 2},
    {"b": 1, "a": 2}, {"\ud800": "\udfff", "x": "ü"}, {(math.nan,): 1}, {Frozen(1): 1, Colour.RED: 2, Point(1, 2): 3},
    {"$": 1}, {"$": ["tuple", [1]]}, {"$": ["tuple", [1]], "a": 1}, [{"$": {"$": {}}}], {"a": {"$": (1,)}},
    1 + 2j, complex(-0.0, math.inf), complex(math.nan, 0),
    date(2024, 2, 29), date.min, datetime.max, datetime(2024, 1, 2, 3, 4, 5, 678901),
    datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1), datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN),
    datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 1, tzinfo=timezone(timedelta(hours=-3.5), "here")),
    time(1, 2, 3, 4, fold=1), time(1, tzinfo=timezone(timedelta(hours=1))), time(1, tzinfo=BERLIN),
    timedelta(-1, 2, 3), timedelta.max, UTC, timezone(timedelta(0), "UTC"), BERLIN,
    zoneinfo.ZoneInfo.no_cache("Asia/Tokyo").key,
    Decimal("1.0"), Decimal("1.00"), Decimal("-0"), Decimal("NaN123"), Decimal("sNaN"), Decimal("-Infinity"),
    Decimal("1E+999999"), uuid.UUID(int=5), safe_uuid(),
    pathlib.PurePosixPath("a/b"), pathlib.PureWindowsPath("c:\\x"), pathlib.Path("."), pathlib.Path("/tmp"),
    Colour.RED, Colour.CRIMSON, Colour.TUPLE, Level.HIGH, Word.YES, Right.READ, Right.READ | Right.RUN, Right(0),
    Bits.A | Bits.B, Bits(8), ~Right.READ,
    Point(1, (2,)), Typed("a", frozenset({"b"})), point_with_more(), msgpack.ExtType(5, b"x"),
    Plain(1, "a", [Plain(2, "b")]), Frozen(1, date(2024, 1, 1)), Slotted(1, (2,)), counted(), Outer.Inner(1),
    Box((1, 2)), Box(Box({1})), Checked(3),
    user(), User(id=2, born=date(2000, 1, 1)), Ids([1, 2]), PageOfInt(items=[1]), Address(city="Rome"),
    Slim(1, [2]), SlimFrozen(1), Fat(1), Hashed("x"), Money(5), [Money(5), {Money(6): Money(7)}], Ordered(a=1),
]  # fmt: skip
BAD: list[Any] = [
    MyStr("a"), MyInt(1), MyTuple(), OrderedDict(a=1), defaultdict(list), Counter("a"), memoryview(b"a"),
    object(), len, lambda: 1, math, int, Colour, iter([]), range(3), slice(1), ..., NotImplemented, Unruly(),
    threading.Lock(), re_match := __import__("re").match("a", "a"), ValueError("x"), OtherMoney(1), PlainChild(1, "a"),
    DataError(1), datetime(2024, 1, 1, tzinfo=MyZone()), os.stat("."), types.SimpleNamespace(a=1),
    msgpack.Timestamp(1, 0), Box[int](1), uuid.SafeUUID,
]  # fmt: skip


def back(serializer: serializers.Serializer, value: object) -> Any:
    return serializer.loads(serializer.dumps(value))


def tags_of(serializer: serializers.Serializer) -> dict[str, Any]:
    """The tags that a format knows."""
    return _builders if serializer.name == "json" else _CODES


def tagged(serializer: serializers.Serializer, tag: str, payload: object) -> bytes:
    """Stored bytes that an attacker could write: any tag with any payload of plain data."""
    if serializer.name == "json":
        return json.dumps({"$": [tag, payload]}).encode()
    packed: bytes = msgpack.packb(msgpack.ExtType(_CODES[tag], msgpack.packb(payload)))
    return packed
