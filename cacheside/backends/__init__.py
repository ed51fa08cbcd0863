"""The backends: where entries live. By URL through a registry, or as objects that meet `base.Backend`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ..errors import ConfigurationError
from ..registry import Registry


class BackendFactory(Protocol):
    """What a URL scheme is registered to: a class with this classmethod, usually the backend itself."""

    def from_url(self, url: str, *, timeout: float, clock: Callable[[], float]) -> Any:
        """A `Backend`, an `AsyncBackend`, or both in one object, for `url`; without any I/O.

        Args:
            url: as the user wrote it, less the options that belong to `Cache`.
            timeout: seconds that a server may take to answer.
            clock: seconds that never go back, for backends which keep time themselves.

        Raises:
            ConfigurationError: the URL is malformed or has an unknown option. Its message never shows a password.
        """


_registry: Registry[BackendFactory] = Registry(
    kind="backend",
    group="cacheside.backends",
    builtin={
        "memory": "cacheside.backends.memory:MemoryBackend",
        "null": "cacheside.backends.null:NullBackend",
        "redis": "cacheside.backends.redis:RedisBackend",
        "rediss": "cacheside.backends.redis:RedisBackend",
        "unix": "cacheside.backends.redis:RedisBackend",
        "redis+cluster": "cacheside.backends.redis:RedisBackend",
        "rediss+cluster": "cacheside.backends.redis:RedisBackend",
        "redis+sentinel": "cacheside.backends.redis:RedisBackend",
        "rediss+sentinel": "cacheside.backends.redis:RedisBackend",
        "memcached": "cacheside.backends.memcached:MemcachedBackend",
    },
    extras={
        **dict.fromkeys(
            ("redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel"), "redis"
        ),
        "memcached": "memcached",
    },
)


def register(scheme: str, target: str | BackendFactory) -> None:
    """Make URLs that begin with ``scheme://`` stand for a backend of your own.

    Args:
        scheme: the part before ``://``.
        target: a factory, or its path ``"package.module:Attribute"``, imported on first use. Packages can do the same
            without code, by an entry point in the group ``cacheside.backends``.

    Raises:
        ConfigurationError: the scheme is taken, or the path is none.
    """
    _registry.register(scheme, target)


def create(url: str, *, timeout: float, clock: Callable[[], float]) -> Any:
    """The backend that `url` names; no I/O.

    Raises:
        ConfigurationError: unknown scheme, malformed URL, unknown option.
        MissingExtraError: the client library is not installed; the message has the pip command.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or not scheme:
        raise ConfigurationError(
            f"a cache URL looks like 'redis://localhost:6379/0'; known schemes are: {', '.join(_registry.names())}"
        )
    return _registry.get(scheme).from_url(url, timeout=timeout, clock=clock)
