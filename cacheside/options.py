"""The options of `cached`, checked as early as they can be: at decoration."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING, Any

from . import serializers
from .backends.base import Capability
from .errors import ConfigurationError
from .expiry import UNSET, Duration, Expiry, OrUnset, Ttl, Windows, seconds
from .serializers import Compress, Serializer

if TYPE_CHECKING:
    from .limiter import Limiter


NO_END = "ttl=None means that values never are past it: there is no window to serve them in"


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
        tags: Sequence[str] = (),
        stale_while_revalidate: Duration = 0,
        stale_if_error: Duration = 0,
        early_refresh: float = 0,
        load_timeout: Duration | None = None,
        max_loads: int | None = None,
        max_loads_wait: Duration | None = None,
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
        self.tags: tuple[str, ...] = checked_tags(tags)
        self.windows: Windows = Windows(stale_while_revalidate, stale_if_error, early_refresh)
        self.load_timeout: float | None = _seconds(load_timeout, "load_timeout")
        self.max_loads = max_loads
        self.max_loads_wait: float | None = _seconds(max_loads_wait, "max_loads_wait")
        if max_loads is not None and (isinstance(max_loads, bool) or not isinstance(max_loads, int) or max_loads < 1):
            raise ConfigurationError(f"max_loads= is how many loads may run at once, 1 or more, not {max_loads!r}")
        if max_loads is None and max_loads_wait is not None:
            raise ConfigurationError("max_loads_wait= is for max_loads=: without it no load waits for its turn")
        if self.windows and ttl is None:
            raise ConfigurationError(NO_END)
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

    @property
    def plain(self) -> bool:
        """Whether nothing is asked for but to look up, load and fill."""
        return not (self.tags or self.windows or self.limits)

    @property
    def limits(self) -> bool:
        """Whether loads are limited, which they are without a cache as well."""
        return bool(self.load_timeout or self.max_loads)

    def needs(self) -> dict[Capability, str]:
        """What a backend has to be able to do, and which option asks for it."""
        needs: dict[Capability, str] = {}
        if self.windows:
            needs["claims"] = "stale_while_revalidate=, stale_if_error= and early_refresh="
        if self.tags:
            needs["batches"] = "tags="
        return needs

    def limiter(self) -> Limiter | None:
        """A new one, if there is a limit."""
        if self.max_loads is None:
            return None
        from .limiter import Limiter  # which most functions do without

        return Limiter(self.max_loads, self.max_loads_wait)

    def expiry(self, ttl_default: Ttl) -> Expiry:
        """These options as an Expiry, on a cache whose ttl is `ttl_default`."""
        ttl = ttl_default if self.ttl is UNSET else self.ttl
        return Expiry(ttl, self.negative_ttl, self.jitter)


def _seconds(value: Duration | None, name: str) -> float | None:
    return None if value is None else seconds(value, name)


def checked_tags(tags: object) -> tuple[str, ...]:
    """Templates of tags.

    Raises:
        ConfigurationError: it is something else.
    """
    if isinstance(tags, str) or not isinstance(tags, Sequence) or not all(isinstance(tag, str) for tag in tags):
        raise ConfigurationError(f"tags= is a tuple of templates, such as ('org:{{org_id}}',), not {tags!r}")
    if len(tags) > 255:
        raise ConfigurationError(f"tags= may have up to 255 of them, not {len(tags)}")
    return tuple(dict.fromkeys(tags))
