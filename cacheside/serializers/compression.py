"""Compression around any serializer, from a size on.

A payload begins with a byte that says whether the rest is compressed. What is inflated is bounded: a few kilobytes can
be told to become gigabytes, and whoever can write to the server could.
"""

from __future__ import annotations

import zlib
from typing import NamedTuple, Protocol, runtime_checkable

from ..errors import ConfigurationError, DecodeError
from ..registry import Registry
from . import Serializer

_AS_IS, _COMPRESSED = b"\0", b"\1"


@runtime_checkable
class Compressor(Protocol):
    """Makes bytes fewer, and back. One object serves all threads at once."""

    def compress(self, data: bytes) -> bytes:
        """The bytes from which `inflate` makes `data` again."""
        ...

    def inflate(self, data: bytes, limit: int) -> bytes:
        """What `compress` was given. Never more than `limit` bytes are made.

        Raises:
            Exception: it is more, or these bytes were not compressed so.
        """
        ...


class Compression(NamedTuple):
    """How a cache, or a function, compresses.

    Attributes:
        by: "zlib", "zstd" (extra ``cacheside[zstd]``), a name of your own, or a `Compressor`.
        at_least: bytes of a payload from which on it is tried. What does not get smaller is stored as it is.
        limit: bytes that a payload may be inflated to. A larger one is stored as it is, and read as a miss if it was
            not.
    """

    by: str | Compressor
    at_least: int = 1024
    limit: int = 64 * 2**20


registry: Registry[type[Compressor] | Compressor] = Registry(
    "compressor",
    "cacheside.compressors",
    builtin={
        "zlib": "cacheside.serializers.compression:Zlib",
        "zstd": "cacheside.serializers.zstd:Zstd",
    },
    extras={"zstd": "zstd"},
)


class Zlib:
    """``compress="zlib"``, of the standard library."""

    def compress(self, data: bytes) -> bytes:
        """See `Compressor.compress`."""
        return zlib.compress(data)

    def inflate(self, data: bytes, limit: int) -> bytes:
        """See `Compressor.inflate`."""
        inflating = zlib.decompressobj()
        made = inflating.decompress(data, limit)
        if not inflating.eof or inflating.unused_data:
            raise DecodeError("it is more than may be inflated, or not what zlib has made")
        return made


class Compressed:
    """A serializer whose payloads are compressed.

    Args:
        inner: makes the payloads.
        compression: how.

    Raises:
        ConfigurationError: the compressor is unknown, or a number cannot be.
        MissingExtraError: its package is not installed; the message has the pip command.
    """

    def __init__(self, inner: Serializer, compression: Compression) -> None:
        by, at_least, limit = compression
        for name, number in (("at_least", at_least), ("limit", limit)):
            if isinstance(number, bool) or not isinstance(number, int) or number < 1:
                raise ConfigurationError(f"{name} of a Compression is a positive number of bytes, not {number!r}")
        found = registry.get(by) if isinstance(by, str) else by
        self._compressor = made = found() if isinstance(found, type) else found
        if not isinstance(made, Compressor):
            raise ConfigurationError(f"compress={by!r} is neither a name nor an object with compress and inflate")
        self._inner = inner
        self._at_least = at_least
        self._limit = limit
        # What another compression has stored is a miss, never garbage.
        self._name: str = f"{inner.name}+{by if isinstance(by, str) else type(made).__qualname__}"

    @property
    def name(self) -> str:
        """See `Serializer.name`."""
        return self._name

    def dumps(self, value: object) -> bytes:
        """See `Serializer.dumps`."""
        data = self._inner.dumps(value)
        if self._at_least <= len(data) <= self._limit:
            smaller = self._compressor.compress(data)
            if len(smaller) < len(data):
                return _COMPRESSED + smaller
        return _AS_IS + data

    def loads(self, data: bytes) -> object:
        """See `Serializer.loads`."""
        mark, data = data[:1], data[1:]
        if mark == _COMPRESSED:
            try:
                data = self._compressor.inflate(data, self._limit)
            except Exception as error:  # each has its own
                raise DecodeError(f"it cannot be inflated: {error}") from error
        elif mark != _AS_IS:
            raise DecodeError("neither compressed nor as it is")
        return self._inner.loads(data)
