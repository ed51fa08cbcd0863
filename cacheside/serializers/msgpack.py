"""The default serializer: MessagePack, strict about types.

Plain data goes through the C code of the `msgpack` package both ways. What is not plain is an extension type whose
data is again MessagePack, so only such values cost Python code when they are decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import DecodeError, NotCacheableError
from . import refuse_secret
from .types import MAX_DEPTH, Lowering, build, not_cacheable

if TYPE_CHECKING:
    from . import Secret

_msgpack: Any = import_module("msgpack")  # by a plain import type checkers complain that it ships no types
_ExtType: Any = _msgpack.ExtType

# What stands in stored data: never change or reuse a number.
_CODES = {
    "dict": 1,
    "int": 2,
    "tuple": 3,
    "set": 4,
    "frozenset": 5,
    "bytearray": 6,
    "complex": 7,
    "date": 8,
    "time": 9,
    "datetime": 10,
    "timedelta": 11,
    "timezone": 12,
    "decimal": 13,
    "uuid": 14,
    "zoneinfo": 15,
    "path": 16,
    "enum": 17,
    "flag": 18,
    "namedtuple": 19,
    "object": 20,
    "registered": 21,
}
_TAGS = {code: tag for tag, code in _CODES.items()}
_MAX_TAGS = MAX_DEPTH + 2  # no value that `lower` accepts has more inside each other
_SHALLOW = 4  # unpackb keeps some 40 KB on the C stack: nested as deep as a payload likes, it would crash a thread

# What bounds the memory of decoding, whatever the payload claims: 128 times its size and 16 MB, see tests/test_fuzz.py.
_SMALL = 512  # bytes that are too few for lists that claim to be long to cost anything
_DEEP, _DEEP_BYTES = 16, 32 * 1024  # each tag around a value holds a copy of it, so deep inside only a little may stand


class MsgpackSerializer:
    """``serializer="msgpack"``: compact, fast, and every value comes back as exactly what it was."""

    name = "msgpack"

    def dumps(self, value: object) -> bytes:
        """See `Serializer.dumps`."""
        try:
            return _pack(_lowering.lower(value))
        except NotCacheableError:
            raise
        except Exception as error:  # of a user's dump function, too large for the format, changed meanwhile, ...
            raise not_cacheable(value, error) from error

    def loads(self, data: bytes) -> object:
        """See `Serializer.loads`."""
        try:
            return _unpack_small(data) if len(data) <= _SMALL else _unpack(0, data)
        except DecodeError:
            raise
        except Exception as error:  # of msgpack, of constructors given nonsense, of a user's load function
            raise DecodeError(f"not what cacheside stores as msgpack ({type(error).__name__}: {error})") from error


def create(secret: Secret | None) -> MsgpackSerializer:
    """The factory in the registry."""
    refuse_secret("msgpack", secret)
    return MsgpackSerializer()


class _MsgpackLowering(Lowering):
    plain = frozenset({type(None), bool, int, float, str, bytes})
    keys = plain

    def tag(self, name: str, payload: object, tags: int) -> object:
        packed = _pack(payload)
        # >=, where reading has >: an integer beyond 64 bits is tagged as it is packed, and nobody asks here; but it is
        # inside a tag one level further out.
        if tags >= _DEEP and len(packed) > _DEEP_BYTES:
            raise NotCacheableError(
                f"the value has {len(packed):,} bytes inside {tags} tuples, instances or the like: return a flatter"
                " value, or leave it uncached with cache_if="
            )
        return _ExtType(_CODES[name], packed)


_lowering = _MsgpackLowering()


def _pack(lowered: object) -> bytes:
    try:
        return _packb(lowered)
    except UnicodeEncodeError:  # lone surrogates; they are rare, and asking for them always costs half as much again
        return _packb(lowered, unicode_errors="surrogatepass")


def _pack_other(value: object) -> object:
    if type(value) is not int:
        raise TypeError(f"{type(value).__qualname__} came in while the value was packed")
    return _ExtType(_CODES["int"], _packb(f"{value:x}"))  # beyond 64 bits


# strict_types: what another thread puts into the value while it is packed is refused, not packed as something else
_packb: Callable[..., bytes] = partial(_msgpack.packb, strict_types=True, default=_pack_other)


def _unpack(depth: int, data: bytes) -> Any:
    options = _options[depth]
    if len(data) > _SMALL and (b"\xdd" in data or b"\xdc" in data):
        _check_claims(data)
    if depth < _SHALLOW:
        return _msgpack.unpackb(data, **options)
    unpacker = _msgpack.Unpacker(None, max_buffer_size=len(data), **options)
    unpacker.feed(data)
    value = unpacker.unpack()
    if unpacker.tell() != len(data):
        raise DecodeError("extra bytes after a value")
    return value


def _check_claims(data: bytes) -> None:
    """Go through `data` without building anything, so that each list in it is known to be as long as it says.

    msgpack makes room for a list as soon as it has read its length. A thousand inside each other, each as long as there
    are bytes, would take eight thousand times the size of the data.

    Raises:
        Exception: it says more than there is.
    """
    unpacker = _msgpack.Unpacker(None, max_buffer_size=len(data))
    unpacker.feed(data)
    unpacker.skip()


def _unpack_tagged(depth: int, code: int, data: bytes) -> object:
    tag = _TAGS.get(code)
    if tag is None or depth >= _MAX_TAGS or (depth > _DEEP and len(data) > _DEEP_BYTES):
        raise DecodeError(f"unknown extension type {code}, or too many inside each other")
    return build(tag, _unpack(depth + 1, data))


_options: list[dict[str, Any]] = [
    {
        "ext_hook": partial(_unpack_tagged, depth),
        "strict_map_key": False,
        "timestamp": 3,  # MessagePack's own time, which is never ours, is a datetime then and not a class of msgpack
        "unicode_errors": "surrogatepass",
    }
    for depth in range(_MAX_TAGS + 1)
]
_unpack_small: Callable[[bytes], Any] = partial(_msgpack.unpackb, **_options[0])  # as `_unpack` does it
