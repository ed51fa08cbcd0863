"""What of a function's outcomes is stored, in which form and for how long."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple

from .envelope import ABSENT, UNSURE, Codec, Meta, Outcome, Raised
from .errors import CacheWarning, NotCacheableError
from .expiry import NO_WINDOWS, Expiry, Windows
from .stats import Counters


class Policy:
    """What a function asked for.

    Args:
        where: file, line and module of the function, for warnings.
    """

    def __init__(
        self,
        name: str,
        where: tuple[str, int, str],
        expiry: Expiry,
        cache_if: Callable[[Any], object] | None,
        cache_exceptions: tuple[type[BaseException], ...],
        windows: Windows = NO_WINDOWS,
    ) -> None:
        self.name: str = name
        self.where: tuple[str, int, str] = where
        self.expiry: Expiry = expiry
        self.cache_if: Callable[[Any], object] | None = cache_if
        self.cache_exceptions: tuple[type[BaseException], ...] = cache_exceptions
        self.windows: Windows = windows


class Kept(NamedTuple):
    """What to store, and for how many seconds."""

    stored: Any
    ttl: float | None


class Keeper:
    """What of a function's outcomes is stored, in which form and for how long."""

    def __init__(self, policy: Policy, codec: Codec, counters: Counters) -> None:
        self.policy = policy
        self.codec = codec
        self.counters = counters
        self._warned = False

    def declared(self, outcome: Outcome) -> bool:
        """Whether it is an exception that the function wants to be cached: an outcome like any other."""
        return type(outcome) is Raised and type(outcome.error) in self.policy.cache_exceptions

    def keep(self, outcome: Outcome, took: float = 0.0, stamps: tuple[tuple[str, bytes], ...] = ()) -> Kept | None:
        """What to store; None if the outcome is not to be stored.

        Args:
            took: seconds that its load took; 0: not known.
            stamps: the versions of its tags, from before the load.
        """
        policy = self.policy
        window = 0.0
        ttl: float | None
        if type(outcome) is Raised:
            # Only these very classes: a subclass could not be rebuilt as what it was from a declared class.
            kind = type(outcome.error)
            if kind not in policy.cache_exceptions:
                if isinstance(outcome.error, policy.cache_exceptions):
                    why = f"{kind.__qualname__} is a subclass of what cache_exceptions= names: name it there as well"
                    self.uncacheable(NotCacheableError(why))
                return None
            ttl = policy.expiry.of_error(chance())
        elif outcome is UNSURE:
            self.counters.uncacheable += 1
            return None
        elif outcome is ABSENT:
            ttl = policy.expiry.of_error(chance())
        else:
            if policy.cache_if is not None and not policy.cache_if(outcome):
                self.counters.uncacheable += 1
                return None
            ttl = policy.expiry.of_value(outcome, chance())
            if ttl == 0:
                self.counters.uncacheable += 1
                return None
            window = policy.windows.longest
        meta = None
        if policy.windows or stamps:
            meta = Meta(inf if ttl is None else self.codec.clock() + ttl, took, stamps)
            ttl = None if ttl is None else ttl + window
        try:
            return Kept(self.codec.encode(outcome, ttl, meta), ttl)
        except NotCacheableError as error:
            self.uncacheable(error)
            return None

    def uncacheable(self, error: NotCacheableError) -> None:
        """Count it, and warn the first time."""
        self.counters.uncacheable += 1
        if not self._warned:
            self._warned = True
            file, line, module = self.policy.where
            message = CacheWarning(f"{self.policy.name}: the result is returned, but not cached: {error}")
            warnings.warn_explicit(message, CacheWarning, file, line, module)


def chance() -> float:
    """From 0 up to 1. Not by `random`, which is costly to import; nor is that left to the first miss: a child that is
    forked while another thread imports something could never import it."""
    return int.from_bytes(os.urandom(6), "big") / 2**48
