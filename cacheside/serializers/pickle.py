"""Signed pickles: any Python object, for those who hold the secret and trust everyone else who does.

**Read this first.** Decoding a pickle *runs code* that its author chose. The signature makes sure that the author knew
the secret: who can only write to the cache server cannot run anything here. But whoever gets hold of the secret, and
can write to the cache, runs code in every process that reads from it; and who can write to the cache may copy a signed
entry to another key. Keep the secret out of the repository, and prefer ``msgpack`` with `serializers.register_type`.

The algorithm is HMAC-SHA256, and nothing in the data can ask for another. An entry is the 32 bytes of the signature,
then the pickle. Nothing is unpickled before its signature has been verified.
"""

from __future__ import annotations

import hmac
import pickle
from typing import TYPE_CHECKING, cast

from ..errors import ConfigurationError, DecodeError, NotCacheableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from . import Secret

_SIGNATURE = 32  # bytes of SHA-256
_SHORTEST = 16  # bytes of a secret
_CURE = "make one with secrets.token_hex(32), keep it out of the code, and give it as secret="


class PickleSerializer:
    """``serializer="pickle"``: see the warning at the top of this module.

    Args:
        secret: text or bytes, at least 16 bytes. Of several the first signs and any verifies: to rotate, put the new
            one in front everywhere, and take the old one away when the longest ttl has passed.

    Raises:
        ConfigurationError: a secret is too short, or there is none.
    """

    name = "pickle"

    def __init__(self, secret: Secret) -> None:
        self._keys = _keys(secret)

    def dumps(self, value: object) -> bytes:
        """See `Serializer.dumps`. That a class unpickles to what it was is the promise of the class here."""
        try:
            payload = pickle.dumps(value, protocol=5)
        except Exception as error:  # PicklingError, TypeError, AttributeError, RecursionError, or of a __reduce__
            raise NotCacheableError(
                f"a value of type {type(value).__module__}.{type(value).__qualname__} cannot be pickled"
                f" ({type(error).__name__}: {error}): return plain data, or leave it uncached with cache_if="
            ) from error
        return hmac.digest(self._keys[0], payload, "sha256") + payload

    def loads(self, data: bytes) -> object:
        """See `Serializer.loads`. Costs one HMAC for each secret up to the one that signed."""
        signature, payload = data[:_SIGNATURE], data[_SIGNATURE:]
        if not any(hmac.compare_digest(hmac.digest(key, payload, "sha256"), signature) for key in self._keys):
            raise DecodeError("the signature is of none of the secrets: stored with another secret, or tampered with")
        try:
            return pickle.loads(payload)
        except Exception as error:  # a class that is gone or has changed may raise anything
            raise DecodeError(f"the pickle cannot be read here ({type(error).__name__}: {error})") from error


def create(secret: Secret | None) -> PickleSerializer:
    """The factory in the registry."""
    if secret is None:
        raise ConfigurationError(f"serializer 'pickle' needs a secret to sign with: {_CURE}")
    return PickleSerializer(secret)


def _keys(secret: object) -> list[bytes]:
    several = cast("Sequence[object]", secret) if isinstance(secret, (list, tuple)) else [secret]
    encoded = [key.encode("utf-8", "surrogatepass") if isinstance(key, str) else key for key in several]
    keys = [key for key in encoded if isinstance(key, bytes) and len(key) >= _SHORTEST]
    if not keys or len(keys) != len(several):
        raise ConfigurationError(f"each secret is text or bytes, and has at least {_SHORTEST} bytes: {_CURE}")
    return keys
