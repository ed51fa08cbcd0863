"""The classes that arguments are made of in the tests of keys."""

from __future__ import annotations

import dataclasses
import enum
from collections import namedtuple
from collections.abc import Iterator
from datetime import tzinfo
from functools import cached_property
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Shade(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


class Access(enum.Flag):
    READ = 1
    WRITE = 2


class Point(NamedTuple):
    x: object
    y: object


class Pair(NamedTuple):
    x: object
    y: object


class Backwards(Pair):
    """A named tuple that is iterated otherwise than it is made up."""

    __slots__ = ()

    def __iter__(self) -> Iterator[object]:
        return iter((0, 0))


class OpenPoint(namedtuple("OpenPoint", "x y")):
    """A named tuple whose instances have a `__dict__`."""


@dataclasses.dataclass(frozen=True)
class Size:
    x: object
    y: object


@dataclasses.dataclass(frozen=True, slots=True)
class Slotted:
    x: object
    y: object


@dataclasses.dataclass
class Box(Generic[T]):
    item: T

    @cached_property
    def double(self) -> tuple[T, T]:
        return (self.item, self.item)


class Hidden(Size):
    def __init__(self, x: object, y: object, more: object) -> None:
        super().__init__(x, y)
        object.__setattr__(self, "more", more)


class HiddenSlot(Slotted):
    __slots__ = ("more",)


@dataclasses.dataclass
class DictRecord(dict[str, int]):
    x: int


class Tenant:
    def __init__(self, number: int) -> None:
        self.number = number

    def __cache_key__(self) -> object:
        return self.number


class OtherTenant(Tenant):
    pass


class Session:
    """Something without a text of its own."""


class SubInt(int):
    pass


def unset() -> Slotted:
    return object.__new__(Slotted)


def stuffed() -> OpenPoint:
    point = OpenPoint(1, 2)
    point.more = 3  # type: ignore[attr-defined]  # that is the point
    return point


class Unprintable:
    """An unknown object that must not be asked."""

    def __repr__(self) -> str:
        raise AssertionError("repr() of an unknown object")

    def __hash__(self) -> int:
        raise AssertionError("hash() of an unknown object")

    def __eq__(self, other: object) -> bool:
        raise AssertionError("== of an unknown object")


class WeirdZone(tzinfo):
    """A zone that nobody knows."""
