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
