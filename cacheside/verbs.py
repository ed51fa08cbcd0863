"""What can be done with an entry besides calling the function: a look at it, a known value put there. All in steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from .backends.base import Hit, Stale
from .core import Update
from .engine import Reader
from .envelope import MISSING
from .errors import ConfigurationError
from .expiry import Age
from .steps import Ask, Failed, Steps

HOLD = 30.0  # seconds that the guard of a known value lasts, if this process dies before the value is there


def peek(reader: Reader, key: str, tags: Sequence[str]) -> Steps:
    """What a call would be answered with from the cache, or MISSING. It takes no lease, loads and counts nothing."""
    core = reader.core
    _require(reader, ".peek()")
    if core.pending.blocks(key, *tags) or core.held.here(core, (key, *tags)):
        return MISSING
    answer = yield Ask("lookup_many", ((key,), None, tags))
    if type(answer) is Failed:
        core.failed(answer.error)
        return MISSING
    (answer,), versions = answer
    if isinstance(answer, Exception):
        core.failed(answer)
    if type(answer) is not Hit and type(answer) is not Stale:
        return MISSING
    age, outcome = reader.worth(answer, tags, versions)
    return MISSING if age is Age.LAST or age is Age.OVER else outcome


def put(reader: Reader, key: str, tags: Sequence[str], value: Any) -> Steps:
    """Put `value` into the cache as `@updates` does; whether it is there.

    The guard first: it kills every lease, and whoever writes between it and the update touches it, so that the value is
    refused. What is left is a write that was over before the guard, and that `value` does not know of.
    """
    core, keeper = reader.core, reader.keeper
    if core.held.meanwhile(core, (key, *tags), ()):  # `value` may not be committed
        return False
    stamps: tuple[tuple[str, bytes], ...] = ()
    if tags:
        _require(reader, "tags=")
        answer = yield Ask("plant", (tags,))
        versions = [] if type(answer) is Failed else [each for each in answer if type(each) is bytes]
        if len(versions) < len(tags):  # an outage, or a strict writer at work
            yield from core.finish({key: None})
            return False
        stamps = tuple(zip(tags, versions, strict=True))
    plan: dict[str, str | None] = {key: None}
    proofs = yield from core.guard(plan, HOLD)
    if type(proofs) is Failed:
        yield from core.finish({key: None})  # what is there is older than `value`
        return False
    try:
        kept = keeper.keep(value, 0.0, stamps)
    except BaseException:  # of the user's cache_if= or ttl=
        yield from core.finish(plan)
        raise
    updates = {} if kept is None else {key: Update(proofs[key], *kept, partial(keeper.uncacheable))}
    return key in (yield from core.finish(plan, updates))


def _require(reader: Reader, what: str) -> None:
    if "batches" not in reader.core.capabilities:
        raise ConfigurationError(
            f"{what} needs a backend with the capability 'batches': {reader.core.label} has it not"
        )
