"""Under what a call can be found in a table without its key being made: its raw arguments, where that is safe.

It is safe if the key would be the same text for all that Python holds for equal *and* of the same exact types. -0.0
equals 0.0, Decimal("1.0") equals Decimal("1.00"), one moment equals itself in another time zone: such values are found
by their key only. What is not hashable, or has parts (lists, tuples, dataclasses), is taken apart first.
"""

from __future__ import annotations

import enum
import operator
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from .keys import is_of

_ALWAYS = frozenset((int, str, bytes, bool, type(None), type))
_BY_NAME = {"date": "datetime", "timedelta": "datetime", "UUID": "uuid"}  # modules that may not be imported yet
_PARTS = object()
"""Begins what was taken apart, so that no argument of a user's is equal to it."""

_Fields = Callable[[Any], tuple[Any, ...]]
_fields: WeakKeyDictionary[type, _Fields | None] = WeakKeyDictionary()


def types_of(values: Sequence[object]) -> tuple[type, ...] | None:
    """The exact types of arguments that are safe as they are; None if one of them is not."""
    return tuple(map(type, values)) if all(map(_is_safe, values)) else None


def in_parts(values: Iterable[Any], records: bool) -> Hashable | None:
    """Arguments taken apart, with all types; None if that is not safe.

    Args:
        records: dataclasses too: only where the key is made from their fields.
    """
    parts: list[Any] = [_PARTS]
    for value in values:
        kind = type(value)
        if kind in _ALWAYS:
            parts += (kind, value)
            continue
        if kind is not tuple and kind is not list:
            fields = _fields_of(kind) if records else None
            if fields is None:
                if not _is_safe(value):
                    return None
                parts += (kind, value)
                continue
            try:
                items = fields(value)
            except AttributeError:  # a field is not set, or it has more than its fields
                return None
        else:
            items = value if kind is tuple else tuple(value)
        kinds = tuple(map(type, items))
        if _ALWAYS.issuperset(kinds):
            parts += (kind, kinds, items)
            continue
        inner = in_parts(items, records)
        if inner is None:
            return None
        parts += (kind, inner)
    return tuple(parts)


def _is_safe(value: object) -> bool:
    kind = type(value)
    if kind in _ALWAYS:
        return True
    if kind is float:
        return value == value and value != 0.0  # NaN equals nothing, and 0.0 equals -0.0
    if is_of(_BY_NAME.get(kind.__name__, ""), kind):
        return True
    # Members that are equal only to themselves; other enums can be told to be equal to whatever they like.
    return issubclass(kind, enum.Enum) and kind.__eq__ is object.__eq__ and kind.__hash__ is enum.Enum.__hash__


def _fields_of(kind: type) -> _Fields | None:
    """What gives the fields of a plain dataclass, as a tuple; None for all other types."""
    try:
        return _fields[kind]
    except KeyError:
        _fields[kind] = found = _fields_getter(kind)
        return found


def _fields_getter(kind: type) -> _Fields | None:
    if not hasattr(kind, "__dataclass_fields__") or hasattr(kind, "__cache_key__"):
        return None
    from dataclasses import fields as fields_of  # costly to import; loaded already, since there is a dataclass

    names = [field.name for field in fields_of(kind)]
    if kind.__mro__[1:] != (object,) or not names:  # one with bases may be more than its fields
        return None
    get = operator.attrgetter(*names)
    single = len(names) == 1
    slots = "__slots__" in kind.__dict__
    if slots and set(kind.__dict__["__slots__"]) != set(names):
        return None

    def fields(value: Any) -> tuple[Any, ...]:
        if not slots and len(value.__dict__) != len(names):
            raise AttributeError
        return (get(value),) if single else get(value)

    return fields
