"""Every error and warning that cacheside raises on purpose.

All derive from `CachesideError`, and each message says what to do about it. A broken cache is *not* an error of the
decorated function: it costs speed, a counter and one log line (see `engine.py`). What is raised at decoration or
construction is always a mistake that a program can mend: `ConfigurationError` and its kin.
"""

from __future__ import annotations

from collections.abc import Iterable


class CachesideError(Exception):
    """The base of all errors of this library."""


class ConfigurationError(CachesideError, ValueError):
    """An option, key template, URL or decorated function that cannot work; raised before any I/O."""


class MissingExtraError(ConfigurationError, ImportError):
    """A backend or serializer needs a package that is not installed; the message has the pip command."""


class InvalidKeyError(CachesideError, ValueError):
    """The arguments of one call make no safe key, or a text that no key can be was given to an invalidation."""


class RecursiveLoadError(CachesideError, RuntimeError):
    """A load called its own cached function for the key it is loading: waiting for it would never end."""


class LoadTimeout(CachesideError, TimeoutError):
    """A load took longer than `load_timeout`, and there was no old value. It goes on in the background."""


class TooManyLoads(CachesideError):
    """A load waited in vain for its turn: `max_loads` others of the function were running. The store was not asked."""


class CacheUnavailable(CachesideError):
    """The cache server did not answer, or refused the command.

    Backends raise it. It reaches a caller only from verbs that ask for the cache by name, such as `cache.clear()`, and
    from writes with ``strict=True``, which are refused *before* the write function is called.

    Args:
        keys: of a command on several keys, those that failed, where the others are known to be done; None: any may
            have failed.
        sent: False if it is certain that nothing was sent.
    """

    def __init__(self, message: str, keys: Iterable[str] | None = None, sent: bool = True) -> None:
        super().__init__(message)
        self.keys: frozenset[str] | None = None if keys is None else frozenset(keys)
        self.sent: bool = sent


class NotCacheableError(CachesideError):
    """A serializer cannot promise that the value comes back as what it was; the value is returned, not cached."""


class DecodeError(CachesideError):
    """Stored bytes are corrupt, foreign, or of a class that may not be built here; the lookup counts as a miss."""


class CacheWarning(UserWarning):
    """Something works, but not as well as was asked for: a value is not cached, an option cannot take effect."""
