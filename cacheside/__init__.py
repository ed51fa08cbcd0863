"""Cache-aside for Python: decorated reads and writes over memory, Redis and Memcached, never stale by a race.

>>> from cacheside import cached, invalidates
>>> @cached(key="user:{user_id}", ttl=300)
... def get_user(user_id: int) -> dict: ...
>>> @invalidates("user:{user_id}")
... def rename_user(user_id: int, name: str) -> None: ...
"""

from .cache import Cache, cached, cached_many, configure, default_cache, invalidates, updates
from .envelope import MISSING
from .errors import (
    CachesideError,
    CacheUnavailable,
    CacheWarning,
    ConfigurationError,
    InvalidKeyError,
    LoadTimeout,
    MissingExtraError,
    RecursiveLoadError,
    TooManyLoads,
)
from .keys import quote
from .stats import CacheInfo, Stats
from .wrappers import AsyncCached, AsyncCachedMany, Cached, CachedMany

__version__ = "0.1.0"

__all__ = [
    "MISSING",
    "AsyncCached",
    "AsyncCachedMany",
    "Cache",
    "CacheInfo",
    "CacheUnavailable",
    "CacheWarning",
    "Cached",
    "CachedMany",
    "CachesideError",
    "ConfigurationError",
    "InvalidKeyError",
    "LoadTimeout",
    "MissingExtraError",
    "RecursiveLoadError",
    "Stats",
    "TooManyLoads",
    "cached",
    "cached_many",
    "configure",
    "default_cache",
    "invalidates",
    "quote",
    "updates",
]
