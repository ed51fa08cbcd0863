"""The options of `cached`, checked as early as they can be: at decoration."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from . import serializers
from .errors import ConfigurationError
from .expiry import UNSET, Duration, Expiry, OrUnset, Ttl
from .serializers import Compress, Serializer


class Options:
    """What a function asked for; `cached` explains each. A plain class: a dataclass takes longer to make than all else.

    Raises:
        ConfigurationError: an option that cannot work.
    """

    def __init__(
        self,
        key: str | Callable[..., str] | None,
        ttl: Ttl | OrUnset,
        jitter: float,
        cache_if: Callable[[Any], object] | None,
        cache_exceptions: tuple[type[BaseException], ...],
        negative_ttl: Duration,
        ignore: Collection[str],
        version: str | int,
        serializer: str | Serializer | None,
        compress: Compress | OrUnset | None,
    ) -> None:
        self.key = key
        self.ttl = ttl
        self.jitter = jitter
        self.cache_if = cache_if
        self.cache_exceptions = cache_exceptions
        self.negative_ttl = negative_ttl
        self.ignore = ignore
        self.version = version
        self.serializer = serializer
        self.compress = compress
        if self.key is not None and not isinstance(self.key, str) and not callable(self.key):
            raise ConfigurationError(f"key= is a template such as 'user:{{user_id}}' or a callable, not {self.key!r}")
        if self.cache_if is not None and not callable(self.cache_if):
            raise ConfigurationError(f"cache_if= is a callable of the result, not {self.cache_if!r}")
        if isinstance(self.ignore, str) or not isinstance(self.ignore, Collection):
            raise ConfigurationError(f"ignore= is a tuple of parameter names: ignore=({self.ignore!r},)")
        if not isinstance(self.cache_exceptions, tuple):
            raise ConfigurationError(f"cache_exceptions= is a tuple of classes, not {self.cache_exceptions!r}")
        if isinstance(self.version, bool) or not isinstance(self.version, (str, int)):
            raise ConfigurationError(f"version= is a text or an integer, not {self.version!r}")
        for cls in self.cache_exceptions:
            if not (isinstance(cls, type) and issubclass(cls, Exception)):
                raise ConfigurationError(f"cache_exceptions= holds classes of exceptions, not {cls!r}")
        self.expiry(None)
        if isinstance(self.serializer, str):
            serializers.registry.get(self.serializer)

    def expiry(self, ttl_default: Ttl) -> Expiry:
        """These options as an Expiry, on a cache whose ttl is `ttl_default`."""
        ttl = ttl_default if self.ttl is UNSET else self.ttl
        return Expiry(ttl, self.negative_ttl, self.jitter)
