"""JSON that any tool can read, and still every value comes back as exactly what it was.

Text, finite numbers, true, false, null, lists, and dicts with text keys look as anyone expects. All else is an object
with the one key ``$``: ``{"$": ["tuple", [1, 2]]}``. A dict of the user's that has the key ``$`` is written as a tagged
list of pairs, so none is ever mistaken for a tag.
"""

from __future__ import annotations

import json
from math import isfinite
from typing import TYPE_CHECKING, Any

from ..errors import DecodeError, NotCacheableError
from . import refuse_secret
from .types import Lowering, build, not_cacheable

if TYPE_CHECKING:
    from . import Secret


class JsonSerializer:
    """``serializer="json"``: valid UTF-8 JSON, readable with other tools; slower and larger than msgpack."""

    name = "json"

    def dumps(self, value: object) -> bytes:
        """See `Serializer.dumps`."""
        try:
            try:
                return _encode(_lowering.lower(value)).encode("utf-8")
            except UnicodeEncodeError:
                return _encode(_surrogates_lowering.lower(value)).encode("utf-8")
        except NotCacheableError:
            raise
        except Exception as error:  # of a user's dump function, changed meanwhile, ...
            raise not_cacheable(value, error) from error

    def loads(self, data: bytes) -> object:
        """See `Serializer.loads`."""
        try:
            text = data.decode("utf-8")
            return _decode_tagged(text) if '"$"' in text else _decode_plain(text)
        except DecodeError:
            raise
        except Exception as error:  # of json, of constructors given nonsense, of a user's load function
            raise DecodeError(f"not what cacheside stores as JSON ({type(error).__name__}: {error})") from error


def create(secret: Secret | None) -> JsonSerializer:
    """The factory in the registry."""
    refuse_secret("json", secret)
    return JsonSerializer()


class _JsonLowering(Lowering):
    plain = frozenset({type(None), bool, str})
    keys = frozenset({str})
    reserved = "$"

    def tag(self, name: str, payload: object, tags: int) -> object:
        return {"$": [name, payload]}

    def lower(self, value: object, depth: int = 0, tags: int = 0) -> object:
        number: Any = value
        kind = type(value)
        if (kind is int and number.bit_length() <= 64) or (kind is float and isfinite(number)):
            return value
        return super().lower(value, depth, tags)


class _SurrogatesLowering(_JsonLowering):
    """For a value with text that UTF-8 cannot hold. Every dict is written as pairs, and such text as bytes."""

    plain = frozenset({type(None), bool})
    keys = frozenset()

    def lower(self, value: object, depth: int = 0, tags: int = 0) -> object:
        text: Any = value
        if type(value) is str and not any("\ud800" <= character <= "\udfff" for character in text):
            return value
        return super().lower(value, depth, tags)


def _build_tagged(found: dict[str, Any]) -> object:
    if "$" not in found:
        return found
    if len(found) != 1:
        raise DecodeError("a tag with other keys beside it")
    tag, payload = found["$"]
    return build(tag, payload)


def _no_constant(text: str) -> object:
    raise DecodeError(f"{text} is not JSON")


_lowering = _JsonLowering()
_surrogates_lowering = _SurrogatesLowering()
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")).encode
_decode_plain = json.JSONDecoder(parse_constant=_no_constant).decode
_decode_tagged = json.JSONDecoder(parse_constant=_no_constant, object_hook=_build_tagged).decode
