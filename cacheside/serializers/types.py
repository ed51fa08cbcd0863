"""What both strict formats share: values as plain data with tags, and back.

A format holds some types as they are, its *plain* ones. Everything else is *taken apart* into a tag and a payload, and
the payload is lowered in turn, down to what is plain. Types are compared exactly: a subclass of `dict` or `str` is not
plain, and unless it is one of the kinds in `classes.py` or registered it is refused, since it would not come back as
what it was. Decoding is the other way round and bottom-up: `build(tag, payload)`.

Decoding imports none but four modules of the standard library (decimal, uuid, zoneinfo, pathlib), by our own choice of
the name. `zoneinfo` may then read the `tzdata` package for its data.
"""

from __future__ import annotations

import sys
from binascii import a2b_base64, b2a_base64
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from typing import Any

from ..errors import DecodeError, NotCacheableError
from . import classes

MAX_DEPTH = 100
"""Containers inside each other; an instance of a class counts as two. What refers to itself ends here too."""


class Lowering:
    """Turns a value into what one format can hold. A format derives from it, and overrides what is named here."""

    plain: frozenset[type]
    """Types whose values the format holds as they are, without a look at the value."""

    keys: frozenset[type]
    """The same for keys of a dict. A dict with another key becomes a list of pairs."""

    reserved: str | None = None
    """A key that marks a tag in this format. A dict with that key becomes a list of pairs, too."""

    def tag(self, name: str, payload: object, tags: int) -> object:
        """The format's form of a tagged value, which stands inside so many others; the payload is lowered already.

        Raises:
            NotCacheableError: the format cannot hold that much so deep.
        """
        raise NotImplementedError

    def lower(self, value: object, depth: int = 0, tags: int = 0) -> object:
        """`value`, itself if it is plain all through, else what stands for it. Nothing is changed in place.

        It stands inside `depth` containers, `tags` of which are tagged values.

        Raises:
            NotCacheableError: something in it is of a type that would not come back, or it is nested too deep.
        """
        kind = type(value)
        if kind in self.plain:
            return value
        if depth > MAX_DEPTH:
            raise NotCacheableError(
                f"the value is nested more than {MAX_DEPTH} levels deep, or refers to itself: return a flatter value,"
                " or leave it uncached with cache_if="
            )
        items: Any = value
        if kind is list:
            if self.plain.issuperset(map(type, items)):
                return items
            return [self.lower(item, depth + 1, tags) for item in items]
        if kind is dict:
            return self._lower_dict(items, depth, tags)
        name, payload = take_apart(value, kind)
        return self.tag(name, self.lower(payload, depth, tags + 1), tags)

    def _lower_dict(self, value: dict[Any, Any], depth: int, tags: int) -> Any:
        if not self.keys.issuperset(map(type, value)) or (self.reserved is not None and self.reserved in value):
            pairs = self.lower([list(item) for item in value.items()], depth, tags + 1)
            return self.tag("dict", pairs, tags)
        if self.plain.issuperset(map(type, value.values())):
            return value
        return {key: self.lower(item, depth + 1, tags) for key, item in value.items()}


def take_apart(value: object, kind: type) -> tuple[str, object]:
    """The tag and payload of a value that is not plain.

    Raises:
        NotCacheableError: there is no way to bring such a value back.
    """
    taken = classes.take_apart_registered(value, kind)
    if taken is None and kind in _parts:
        taken = _parts[kind](value)
    if taken is None:
        taken = classes.take_apart_instance(value, kind)
    if taken is None:
        _learn()
        taken = _parts[kind](value) if kind in _parts else None
    if taken is None:
        raise NotCacheableError(
            f"a value of type {kind.__module__}.{kind.__qualname__} would not come back as what it was: teach it with"
            " serializers.register_type(cls, dump, load), return plain data, or leave it uncached with cache_if="
        )
    return taken


def not_cacheable(value: object, error: Exception) -> NotCacheableError:
    """The one error that `dumps` may raise, in place of any other."""
    return NotCacheableError(
        f"a value of type {type(value).__module__}.{type(value).__qualname__} cannot be serialized"
        f" ({type(error).__name__}: {error}): mend that, or leave it uncached with cache_if="
    )


def build(tag: str, payload: Any) -> object:
    """The value that was taken apart into these two.

    Raises:
        DecodeError: the tag is unknown, or names what may not be built here. For a malformed payload any exception.
    """
    builder = _builders.get(tag)
    if builder is None:
        raise DecodeError(f"unknown tag {tag!r}: stored by a newer version, or not by cacheside")
    return builder(payload)


def _same(payload: Any, kind: type) -> Any:
    if type(payload) is not kind:  # bytearray(10**12) would take the memory, Decimal(0.1) another value
        raise DecodeError(f"the payload of a tag is a {type(payload).__name__}, not a {kind.__name__}")
    return payload


# Value -> (tag, payload), by exact type. `str`, `int`, `float` and `bytes` get here only where a format asks for it.
_parts: dict[type, Callable[[Any], tuple[str, object] | None]] = {
    int: lambda v: ("int", f"{v:x}"),
    float: lambda v: ("float", repr(v)),
    str: lambda v: ("str", v.encode("utf-8", "surrogatepass")),
    bytes: lambda v: ("bytes", b2a_base64(v, newline=False).decode("ascii")),
    tuple: lambda v: ("tuple", list(v)),
    set: lambda v: ("set", list(v)),
    frozenset: lambda v: ("frozenset", list(v)),
    bytearray: lambda v: ("bytearray", bytes(v)),
    complex: lambda v: ("complex", [v.real, v.imag]),
    date: lambda v: ("date", [v.year, v.month, v.day]),
    time: lambda v: ("time", [v.hour, v.minute, v.second, v.microsecond, v.tzinfo, v.fold]),
    datetime: lambda v: (
        "datetime",
        [v.year, v.month, v.day, v.hour, v.minute, v.second, v.microsecond, v.tzinfo, v.fold],
    ),
    timedelta: lambda v: ("timedelta", [v.days, v.seconds, v.microseconds]),
    timezone: lambda v: ("timezone", list(v.__getinitargs__())),
}


def _learn() -> None:
    """Add the types of modules that are loaded by now; before that, there were no values of them."""
    if module := sys.modules.get("decimal"):
        _parts[module.Decimal] = lambda v: ("decimal", str(v))
    if module := sys.modules.get("uuid"):
        _parts[module.UUID] = lambda v: ("uuid", [v.bytes, v.is_safe.value])
    if module := sys.modules.get("zoneinfo"):
        _parts[module.ZoneInfo] = _take_apart_zone
    if module := sys.modules.get("pathlib"):
        for name in ("PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath"):
            _parts[getattr(module, name)] = _take_apart_path


def _take_apart_zone(zone: Any) -> tuple[str, object]:
    _, (key, from_cache) = zone.__reduce__()  # refuses a zone that was read from a file: its key says nothing
    return "zoneinfo", [key, bool(from_cache)]


def _take_apart_path(path: object) -> tuple[str, object] | None:
    kind: Any = type(path)
    text = str(path)
    return ("path", [kind.__name__, text]) if kind(text) == path else None


def _build_tuple(payload: Any) -> object:
    return tuple(_same(payload, list))


def _build_datetime(payload: Any) -> object:
    year, month, day, hour, minute, second, microsecond, zone, fold = payload
    return datetime(year, month, day, hour, minute, second, microsecond, zone, fold=fold)


def _build_time(payload: Any) -> object:
    hour, minute, second, microsecond, zone, fold = payload
    return time(hour, minute, second, microsecond, zone, fold=fold)


def _build_date(payload: Any) -> object:
    year, month, day = payload
    return date(year, month, day)


def _build_complex(payload: Any) -> object:
    real, imag = payload
    return complex(_same(real, float), _same(imag, float))


def _build_decimal(payload: Any) -> object:
    from decimal import Decimal

    return Decimal(_same(payload, str))


def _build_uuid(payload: Any) -> object:
    from uuid import UUID, SafeUUID

    raw, is_safe = payload
    return UUID(bytes=_same(raw, bytes), is_safe=SafeUUID(is_safe))


def _build_zone(payload: Any) -> object:
    from zoneinfo import ZoneInfo

    key, _ = payload
    # The one that all share, also for one that was made with `no_cache`: a zone has hundreds of times the size of its
    # name, so a payload full of names must not become as many zones.
    return ZoneInfo(_same(key, str))


def _build_path(payload: Any) -> object:
    import pathlib

    name, text = payload
    if name not in ("PurePosixPath", "PureWindowsPath", "PosixPath", "WindowsPath"):
        raise DecodeError(f"{name!r} is no path type")
    return getattr(pathlib, name)(_same(text, str))


_builders: dict[str, Callable[[Any], object]] = {
    "dict": lambda p: dict(_same(p, list)),
    "int": lambda p: int(_same(p, str), 16),
    "float": lambda p: float(_same(p, str)),
    "str": lambda p: _same(p, bytes).decode("utf-8", "surrogatepass"),
    "bytes": lambda p: a2b_base64(_same(p, str), strict_mode=True),
    "tuple": _build_tuple,
    "set": lambda p: set(_same(p, list)),
    "frozenset": lambda p: frozenset(_same(p, list)),
    "bytearray": lambda p: bytearray(_same(p, bytes)),
    "complex": _build_complex,
    "date": _build_date,
    "time": _build_time,
    "datetime": _build_datetime,
    "timedelta": lambda p: timedelta(*_same(p, list)),
    "timezone": lambda p: timezone(*_same(p, list)),
    "decimal": _build_decimal,
    "uuid": _build_uuid,
    "zoneinfo": _build_zone,
    "path": _build_path,
    "enum": classes.build_enum,
    "flag": classes.build_flag,
    "namedtuple": classes.build_namedtuple,
    "object": classes.build_object,
    "registered": classes.build_registered,
}
