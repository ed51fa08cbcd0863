"""How long a value is kept: durations checked, ttl per result, jitter. Pure: nothing here reads a clock."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from .errors import ConfigurationError

if TYPE_CHECKING:
    from datetime import timedelta  # costly to import: where there is one, it is loaded already

Duration: TypeAlias = "float | timedelta"
"""Seconds as a number, or a timedelta."""

Ttl: TypeAlias = "Duration | Callable[[Any], Duration | None] | None"
"""A duration, None for "never expires", or a callable that makes either of the result."""


class Unset(Enum):
    """The type of `UNSET`: an option that was not given, where None means something."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET
OrUnset: TypeAlias = Literal[Unset.UNSET]


def seconds(value: object, name: str) -> float:
    """`value` as a positive, finite number of seconds.

    Raises:
        ConfigurationError: it is anything else; the message calls the option `name`.
    """
    number = _number(value, name)
    if not 0 < number < math.inf:
        raise ConfigurationError(f"{name} must be a positive, finite number of seconds, not {value!r}")
    return number


def _number(value: Any, name: str) -> float:
    datetime: Any = sys.modules.get("datetime")
    if datetime is not None and isinstance(value, datetime.timedelta):
        return float(value.total_seconds())
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:  # NaN is not itself
        raise ConfigurationError(f"{name} must be seconds as a number, or a timedelta, not {value!r}")
    try:
        return float(value)
    except OverflowError:
        raise ConfigurationError(f"{name} is more seconds than a float can hold; None means for ever") from None


class Expiry:
    """The ttl of a function's results.

    Args:
        ttl: a duration, None, or a callable of the result.
        negative_ttl: the ttl of stored exceptions.
        jitter: a fraction from 0 up to 1: each ttl is shortened by a random part of up to this much, so that entries
            made together do not expire together.

    Raises:
        ConfigurationError: a ttl that is zero, negative, infinite or no number; a jitter outside 0 <= jitter < 1.
    """

    __slots__ = ("_jitter", "_negative", "_ttl", "_ttl_of")

    def __init__(self, ttl: Ttl, negative_ttl: Duration, jitter: float) -> None:
        self._ttl_of = ttl if callable(ttl) else None
        self._ttl = None if ttl is None or callable(ttl) else seconds(ttl, "ttl")
        self._negative = seconds(negative_ttl, "negative_ttl")
        if isinstance(jitter, bool) or not isinstance(jitter, (int, float)) or not 0 <= jitter < 1:
            raise ConfigurationError(f"jitter is a fraction, 0 <= jitter < 1 (0.1 spreads over 10%), not {jitter!r}")
        self._jitter = jitter

    def of_value(self, value: object, chance: float) -> float | None:
        """Seconds that `value` is kept: None for ever, 0.0 not at all.

        Only a callable ttl can say 0 or less: the value then is not cached. `chance` is a random number in [0, 1).
        """
        if self._ttl_of is None:
            return self._spread(self._ttl, chance)
        answer = self._ttl_of(value)
        if answer is None:
            return None
        number = _number(answer, "what ttl= returned for a result")
        if number == math.inf:
            return None
        return self._spread(max(0.0, number), chance)

    def of_error(self, chance: float) -> float:
        """Seconds that a stored exception is kept."""
        return self._negative * (1 - self._jitter * chance)

    def _spread(self, ttl: float | None, chance: float) -> float | None:
        return None if ttl is None else ttl * (1 - self._jitter * chance)


class Age(Enum):
    """How old a value is, for one function."""

    FRESH = "within its ttl"
    EARLY = "within its ttl, but so near its end that it should be loaded again"
    STALE = "past its ttl: it may be served while it is loaded again"
    LAST = "past that too: it may be served where loading fails"
    OVER = "of no use"


class Windows:
    """How long past its ttl a value may be served, and how early it is refreshed.

    Args:
        stale_while_revalidate: seconds past the ttl in which a value is served while it is refreshed in the background.
        stale_if_error: seconds past the ttl in which it is served if loading it again fails.
        early_refresh: how eagerly a value is refreshed before its ttl ends; 0: not. 1 is what the paper proves best.

    Raises:
        ConfigurationError: one of them is no number of that kind.
    """

    __slots__ = ("early", "if_error", "longest", "while_revalidate")

    def __init__(
        self, stale_while_revalidate: Duration = 0, stale_if_error: Duration = 0, early_refresh: float = 0
    ) -> None:
        self.while_revalidate: float = _window(stale_while_revalidate, "stale_while_revalidate")
        self.if_error: float = _window(stale_if_error, "stale_if_error")
        self.early: float = _window(early_refresh, "early_refresh")
        self.longest: float = max(self.while_revalidate, self.if_error)
        """Seconds that a value is kept past its ttl."""

    def __bool__(self) -> bool:
        return bool(self.longest or self.early)

    def age(self, fresh: float, took: float, now: float, chance: float) -> Age:
        """How old a value is at `now` that is fresh until `fresh`; `took`: seconds that its load took.

        `chance` is a random number in [0, 1). Refreshing early is XFetch: Vattani, Chierichetti, Lowenstein, "Optimal
        Probabilistic Cache Stampede Prevention", VLDB 2015. The nearer the end of the ttl, and the longer the load
        takes, the likelier it is; so it comes about in time, and seldom in two callers at once.
        """
        if now < fresh:
            early = self.early and took * self.early * -math.log(1 - chance) >= fresh - now
            return Age.EARLY if early else Age.FRESH
        if now < fresh + self.while_revalidate:
            return Age.STALE
        return Age.LAST if now < fresh + self.if_error else Age.OVER

    def surely_fresh(self, fresh: float, took: float) -> float:
        """Until when `age` says FRESH, but for once in nine million times."""
        return fresh - 16 * self.early * took if self.early else fresh


def _window(value: object, name: str) -> float:
    number = _number(value, name)
    if not 0 <= number < math.inf:
        raise ConfigurationError(f"{name} must be 0, or a positive, finite number, not {value!r}")
    return number


NO_WINDOWS: Final = Windows()
