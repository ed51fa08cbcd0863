"""Outcomes as a backend in this process keeps them: objects as they are, and bare where nothing else is to be said."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import monotonic
from typing import Any, NamedTuple

from .envelope import (
    ABSENT,
    PLAIN,
    Absent,
    Meta,
    Miss,
    Outcome,
    Raised,
    dismantle,
    header_text,
    is_one_shot,
    judged,
    rebuild,
    twin,
)
from .errors import NotCacheableError


class _Marked(NamedTuple):
    """How memory keeps what is not a bare value: of a version, an exception in pieces, or with something to say."""

    version: str
    value: Any
    error: tuple[type[BaseException], tuple[Any, ...], dict[str, Any]] | None
    meta: Meta = PLAIN


def portable(stored: Any, deadline: float) -> list[Any] | None:
    """What `LiveCodec` made, in parts that a serializer can take; None: an exception, which is not to leave memory.

    `deadline`: when the entry expires, by the clock of its backend, which says nothing to another process. So the time
    until which it is fresh is told from there.
    """
    if type(stored) is not _Marked:
        return [stored]
    if stored.error is not None:
        return None
    fresh, took, stamps = stored.meta
    return [stored.version, stored.value, None if fresh == inf else deadline - fresh, took, stamps]


def revived(parts: Any, deadline: float) -> Any:
    """What `portable` took apart; `deadline`: when the entry expires by the clock of this backend."""
    if len(parts) == 1:
        return parts[0]
    version, value, window, took, stamps = parts
    plain = window is None and not took and not stamps
    return _Marked(
        version, value, None, PLAIN if plain else Meta(inf if window is None else deadline - window, took, stamps)
    )


class LiveCodec:
    """Objects as they are, for backends that keep objects: a hit returns the very object, as with functools.

    Args:
        version: see `cached`.
        copies: values are deep-copied on the way in and out.
        clock: of the backend.
        batch: whether ABSENT is an outcome like any other.
    """

    def __init__(self, version: str, copies: bool, clock: Callable[[], float] = monotonic, batch: bool = False) -> None:
        header_text(version)  # memory stands in for a server, which would refuse it
        self.identity: str = f"\0{version}" + "\0many" * batch  # a key ends where this begins
        self.clock: Callable[[], float] = clock
        self._version = version
        self._copies = copies
        self._batch = batch
        if copies:
            from copy import deepcopy  # costly to import, and now: see `keeper.chance`

            self._deepcopy: Callable[[Any], Any] = deepcopy

    def encode(self, outcome: Outcome, ttl: float | None, meta: Meta | None = None) -> Any:
        """See `Codec.encode`. What can be consumed only once is refused."""
        if type(outcome) is Raised:
            args, state = self._copy(dismantle(outcome.error))
            return _Marked(self._version, None, (type(outcome.error), args, state), meta or PLAIN)
        if is_one_shot(outcome):
            raise NotCacheableError(
                f"a {type(outcome).__qualname__} can be consumed only once: return a list or the like instead"
            )
        value = outcome if outcome is ABSENT else self._copy(outcome)
        if self._version or meta is not None or type(value) in (_Marked, Absent):
            return _Marked(self._version, value, None, meta or PLAIN)
        return value

    def decode(self, stored: Any) -> Outcome | Miss:
        """See `Codec.decode`."""
        if type(stored) is _Marked:
            outcome, meta = self.examine(stored)
            return judged(outcome, meta, self.clock()) if meta is not PLAIN else outcome
        if self._version:
            return Miss.FOREIGN
        return self._copy(stored) if self._copies else stored

    def examine(self, stored: Any) -> tuple[Outcome | Miss, Meta]:
        """See `Codec.examine`."""
        if type(stored) is not _Marked:
            return self.decode(stored), PLAIN
        if stored.version != self._version:
            return Miss.FOREIGN, PLAIN
        if stored.error is not None:
            cls, args, state = stored.error
            return Raised(rebuild(cls, *self._copy((args, state)))), stored.meta
        if stored.value is ABSENT:
            return ABSENT if self._batch else Miss.NO_ROW, stored.meta
        return self._copy(stored.value) if self._copies else stored.value, stored.meta

    def until(self, stored: Any) -> float:
        """See `Codec.until`."""
        return stored.meta.fresh if type(stored) is _Marked else inf

    def share(self, outcome: Outcome) -> Outcome:
        """See `Codec.share`."""
        if type(outcome) is Raised:
            return twin(outcome)
        try:
            return self._copy(outcome)
        except NotCacheableError:  # the leader's own is what there is; it was not cached, and a warning has said so
            return outcome

    def _copy(self, value: Any) -> Any:
        if not self._copies:
            return value
        try:
            return self._deepcopy(value)
        except Exception as problem:
            raise NotCacheableError(f"copy=true cannot copy a {type(value).__qualname__}: {problem!r}") from problem
