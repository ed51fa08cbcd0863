"""Telling caches what writes have changed: the end of each write, plain and awaiting.

What cannot be told is pending (`pending.py`): a broken cache never fails a write that is done.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from . import drivers
from .core import NO_UPDATES, Core, Update
from .giveback import spawn
from .pending import Plan
from .scopes import Change, Delivery, settle, transactions


def invalidate(core: Core, keys: Collection[str]) -> None:
    """Deliver the invalidation of `keys` (as the backend knows them), or note them as pending.

    Inside a transaction they are held for its end. Never raises for a broken cache.
    """
    raise_first(deliver(settle(core, dict.fromkeys(keys, Change()), transactions({}))))


async def ainvalidate(core: Core, keys: Collection[str]) -> None:
    """`invalidate`, awaitable. It is shielded: a caller that is cancelled meanwhile does not stop the delivery."""
    raise_first(await adeliver(settle(core, dict.fromkeys(keys, Change()), transactions({}))))


def deliver(deliveries: Iterable[Delivery]) -> list[Exception]:
    """Tell all caches, whatever becomes of one; returns what went wrong: mistakes of configuration.

    What could not be told is pending. So is all that is left if it is broken off (Ctrl-C).
    """
    failures: list[Exception] = []
    left = list(deliveries)
    while left:
        core, plan, updates, stale = left[0]
        try:
            finish(core, plan, updates, stale)
        except Exception as failure:  # the other caches have to be told all the same
            failures.append(failure)
            _keep(core, plan)
        except BaseException:
            postpone(left)
            raise
        left.pop(0)
    return failures


async def adeliver(deliveries: Iterable[Delivery]) -> list[Exception]:
    """`deliver`, awaiting."""
    failures: list[Exception] = []
    left = list(deliveries)
    while left:
        core, plan, updates, stale = left[0]
        try:
            await afinish(core, plan, updates, stale)
        except Exception as failure:
            failures.append(failure)
            _keep(core, plan)
        except BaseException:  # cancelled, or Ctrl-C
            postpone(left)
            raise
        left.pop(0)
    return failures


def _keep(core: Core, plan: Plan) -> None:
    # There is no client of this colour: what was not pending before is so now.
    if left_out := {key: mark for key, mark in plan.items() if not core.pending.blocks(key)}:
        core.undelivered(left_out)


def postpone(deliveries: Iterable[Delivery]) -> None:
    """Leave all to a later delivery; until then the keys are bypassed."""
    for core, plan, _, _ in deliveries:
        if plan:
            core.undelivered(plan)


def raise_first(failures: Sequence[Exception]) -> None:
    """Raise what went wrong first, if anything did."""
    if failures:
        raise failures[0]


def finish(core: Core, plan: Plan, updates: Mapping[str, Update] = NO_UPDATES, stale: float = 0.0) -> None:
    """Deliver what a write has to tell the cache: see `Core.finish`."""
    if plan:
        drivers.drive(core.finish(plan, updates, stale), core)


async def afinish(core: Core, plan: Plan, updates: Mapping[str, Update] = NO_UPDATES, stale: float = 0.0) -> None:
    """`finish`, awaitable and shielded."""
    if not plan:
        return
    if core.in_process:
        drivers.drive(core.finish(plan, updates, stale), core)
        return
    import asyncio

    try:
        await asyncio.shield(spawn(drivers.adrive(core.finish(plan, updates, stale), core)))
    except asyncio.CancelledError:
        # The delivery goes on, but whether it arrives, or has even begun as its loop ends, is not known here.
        core.undelivered(plan)
        raise
