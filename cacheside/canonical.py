"""Default keys: the arguments of a call as text, typed, and injective over values.

`1`, `"1"`, `1.0`, `True` and `b"1"` all differ, and so do `0.0` and `-0.0`, `Decimal("1.0")` and `Decimal("1.00")`.
Equal sets and equal dicts share a spelling, whatever their order. Why two different values never do:

* Bare words are None, True, False, integers (``-?[0-9]+``, or hexadecimal when huge) and floats (their `repr`, which
  has a ``.``, an ``e``, or is inf or nan). No two of these look alike, and none has a bracket, comma, colon or quote.
* Text stands in quotes, with ``'`` and ``%`` and all that is not visible ASCII escaped; so it ends at the next quote.
* All else is ``kind(...)`` with a kind of its own, plain ``(...)`` for a tuple and ``[...]`` for a list. Within are
  spellings again, parted by commas (in pairs, by colons), and atoms that have no bracket, comma or quote.

So a spelling can be read from left to right, and the reader knows at every character where it is. Two equal spellings
were made by the same writer from parts that are equal again. Sets and dicts write their parts sorted, which loses
only their order. Classes are told apart by the name they can be imported by, and others by a number.

Types count exactly: a subclass could hide what makes it different. Nothing is asked for its `repr()` or `hash()`
unless its type is known, since an address gets reused and would serve another object's data.
"""

from __future__ import annotations

import enum
import itertools
import re
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, TypeAlias, cast
from weakref import WeakKeyDictionary

from .errors import InvalidKeyError
from .keys import escape, is_of, type_name

_Writer: TypeAlias = Callable[[Any, bool], str]

_UNSAFE_TEXT = re.compile("[^!-$&(-~]+")  # all but visible ASCII without ' and %
_UNSAFE_NAME = re.compile("[^!-$&(-9;-~]+")  # the same, and without the colon that parts module and qualname
_HUGE = 1000  # bits; far below the length at which Python refuses to write decimals
_VALUES = (int, float, complex, str, bytes, bytearray, tuple, list, dict, set, frozenset, BaseException)
_serials: WeakKeyDictionary[type, int] = WeakKeyDictionary()
_next_serial = itertools.count(1)
_serials_lock = threading.Lock()


class _Refused(Exception):
    """There is no safe spelling; the text says of what, and why."""


def default_key(prefix: str, names: Sequence[str], values: Sequence[object], in_process: bool) -> str:
    """The key of a call without a template: ``prefix(value,value,...)``. Safe to call from any thread.

    Args:
        prefix: the function, by module and qualname, as it shall stand in the key: escaped, and without ``(``.
        names: the parameters, for messages.
        values: what they hold in this call, parallel to `names`.
        in_process: the key is for this process only, so classes that cannot be imported by name are allowed.

    Raises:
        InvalidKeyError: an argument is of a type, or has a part of a type, that has no safe spelling.
    """
    texts: list[str] = []
    for name, value in zip(names, values, strict=True):
        try:
            texts.append(_canon(value, in_process))
        except (_Refused, RecursionError) as error:
            why = "it refers to itself or is nested too deeply" if isinstance(error, RecursionError) else error
            raise InvalidKeyError(
                f"{prefix}: parameter {name!r} ({type_name(value)}) makes no safe key: {why}. "
                f'Write the key yourself with key=, leave the parameter out with ignore=("{name}",), '
                "or define __cache_key__() on the class"
            ) from None
    return f"{prefix}({','.join(texts)})"


def _canon(value: object, in_process: bool) -> str:
    kind: type[Any] = type(value)
    if kind is str:
        return _text(cast(str, value), in_process)
    return (_WRITERS.get(kind) or _writer(kind))(value, in_process)


def _writer(kind: type[Any]) -> _Writer:
    """The writer for a type that is not in the table: of a module that may not be imported yet, or the user's."""
    module, lazy = _LAZY.get(kind.__name__, ("", _refuse))
    if is_of(module, kind):
        _WRITERS[kind] = lazy
        return lazy
    if getattr(kind, "__cache_key__", None) is not None:
        return _own_key
    if issubclass(kind, enum.Enum):
        return _enum
    if issubclass(kind, type):
        return _class
    if hasattr(kind, "_fields") and issubclass(kind, tuple):
        return _namedtuple
    if hasattr(kind, "__dataclass_fields__") and not issubclass(kind, _VALUES):
        return _dataclass
    return _refuse


def _refuse(value: object, in_process: bool) -> str:
    raise _Refused(f"two different values of type {type_name(value)} cannot be told apart for certain")


def _int(value: int, in_process: bool) -> str:
    return str(value) if value.bit_length() < _HUGE else hex(value)


def _text(value: str, in_process: bool) -> str:
    return f"'{escape(value, _UNSAFE_TEXT)}'"


def _items(values: Iterable[object], in_process: bool) -> str:
    return ",".join([_canon(value, in_process) for value in values])


def _sorted(values: Iterable[object], in_process: bool) -> str:
    return ",".join(sorted([_canon(value, in_process) for value in values]))


def _dict(value: dict[object, object], in_process: bool) -> str:
    pairs = sorted([f"{_canon(key, in_process)}:{_canon(item, in_process)}" for key, item in value.items()])
    return f"dict({','.join(pairs)})"


def _decimal(value: Any, in_process: bool) -> str:
    return f"Decimal({str(value).upper()})"  # the context chooses between e and E, so that it must not show


def _zoned(value: Any, in_process: bool) -> str:
    """A datetime or time, its zone and its fold: the same wall clock may stand for different moments."""
    wall = value.replace(tzinfo=None, fold=0).isoformat()
    return f"{type(value).__name__}({wall},{value.fold},{_canon(value.tzinfo, in_process)})"


def _timedelta(value: Any, in_process: bool) -> str:
    return f"timedelta({value.days},{value.seconds},{value.microseconds})"


def _timezone(value: Any, in_process: bool) -> str:
    return f"timezone({_canon(value.utcoffset(None), in_process)},{_text(value.tzname(None), in_process)})"


def _zone_info(value: Any, in_process: bool) -> str:
    if value.key is None:
        raise _Refused("a zoneinfo.ZoneInfo that was read from a file has no key")
    return f"ZoneInfo({_text(str(value.key), in_process)})"


def _path(value: Any, in_process: bool) -> str:
    return f"{type(value).__name__}({_text(str(value), in_process)})"


def _own_key(value: Any, in_process: bool) -> str:
    return f"key({_class_of(value, in_process)},{_canon(value.__cache_key__(), in_process)})"


def _enum(value: Any, in_process: bool) -> str:
    name = _class_of(value, in_process)
    if isinstance(value, enum.Flag):  # A | B has no name of its own
        return f"flag({name},{_int(int(value._value_), in_process)})"
    return f"enum({name},{_text(value._name_, in_process)})"


def _class(value: type[Any], in_process: bool) -> str:
    return f"class({_class_name(value, in_process)})"


def _namedtuple(value: Any, in_process: bool) -> str:
    fields: tuple[str, ...] = value._fields
    # Not list(value): a subclass can have another __iter__.
    items = cast("list[object]", list(tuple.__iter__(value)))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]  # tuple[object, ...].__iter__ is another method
    if len(fields) != len(items):
        raise _Refused(f"{type_name(value)} has items without a name")
    return _record("namedtuple", value, fields, items, in_process)


def _dataclass(value: Any, in_process: bool) -> str:
    from dataclasses import fields as fields_of  # costly to import; loaded already, since there is a dataclass

    fields = [field.name for field in fields_of(value)]
    try:
        items = [getattr(value, name) for name in fields]
    except AttributeError as error:
        raise _Refused(f"a field is not set ({error})") from None
    return _record("dataclass", value, fields, items, in_process)


def _record(tag: str, value: Any, fields: Sequence[str], items: Iterable[object], in_process: bool) -> str:
    hidden = _hidden(value, fields)
    if hidden:
        raise _Refused(f"{type_name(value)} holds more than its fields ({', '.join(sorted(hidden))})")
    pairs = [f"{_text(name, in_process)}:{_canon(item, in_process)}" for name, item in zip(fields, items, strict=True)]
    return f"{tag}({','.join([_class_of(value, in_process), *pairs])})"


def _hidden(value: object, fields: Sequence[str]) -> set[str]:
    """Attributes beside the fields. Two records that differ in one are different; what is computed does not count."""
    kind = type(value)
    names: set[str] = set(getattr(value, "__dict__", ()))
    for base in kind.__mro__:
        slots: str | Iterable[str] = base.__dict__.get("__slots__", ())
        names.update((slots,) if isinstance(slots, str) else slots)
    names.difference_update(fields, ("__dict__", "__weakref__", "__orig_class__"))  # the last: Box[int](1)
    return {name for name in names if not isinstance(getattr(kind, name, None), cached_property)}


def _class_of(value: object, in_process: bool) -> str:
    return _class_name(type(value), in_process)


def _class_name(cls: type[Any], in_process: bool) -> str:
    """A class by the name it can be imported by; by a number of its own, in this process, if there is none."""
    module, path = cls.__module__, cls.__qualname__
    name = f"'{escape(module, _UNSAFE_NAME)}:{escape(path, _UNSAFE_NAME)}'"
    found: object = sys.modules.get(module) if module != "__main__" else None
    for part in path.split("."):
        found = getattr(found, part, None)
    if found is cls:
        return name
    if not in_process:
        raise _Refused(
            f"the class {module}.{path} is local, of __main__, or not to be found by its name, and another process "
            "can have a different one of that name"
        )
    with _serials_lock:
        serial = _serials.get(cls)
        if serial is None:
            serial = _serials[cls] = next(_next_serial)
    return f"{name}#{serial}"


_WRITERS: dict[type, _Writer] = {
    int: _int,
    str: _text,
    bool: lambda value, in_process: "True" if value else "False",
    type(None): lambda value, in_process: "None",
    float: lambda value, in_process: repr(value),
    bytes: lambda value, in_process: f"bytes({value.hex()})",
    complex: lambda value, in_process: f"complex({value.real!r},{value.imag!r})",
    tuple: lambda value, in_process: f"({_items(value, in_process)})",
    list: lambda value, in_process: f"[{_items(value, in_process)}]",
    set: lambda value, in_process: f"set({_sorted(value, in_process)})",
    frozenset: lambda value, in_process: f"frozenset({_sorted(value, in_process)})",
    dict: _dict,
    type: _class,
}

# name of a type -> its module and writer. The modules are slow to import, and a value of theirs shows that they are.
_LAZY: dict[str, tuple[str, _Writer]] = {
    "Decimal": ("decimal", _decimal),
    "UUID": ("uuid", lambda value, in_process: f"UUID({value.hex})"),
    "date": ("datetime", lambda value, in_process: f"date({value.isoformat()})"),
    "datetime": ("datetime", _zoned),
    "time": ("datetime", _zoned),
    "timedelta": ("datetime", _timedelta),
    "timezone": ("datetime", _timezone),
    "ZoneInfo": ("zoneinfo", _zone_info),
    "PurePosixPath": ("pathlib", _path),
    "PureWindowsPath": ("pathlib", _path),
    "PosixPath": ("pathlib", _path),
    "WindowsPath": ("pathlib", _path),
}
