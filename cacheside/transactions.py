"""Invalidations that wait for a commit.

A write function that leaves the commit to its caller invalidates too early: a reader misses, reads the row from before
the commit, and fills it for a whole ttl. Inside a transaction invalidations are kept, and delivered at its end.

Until they are, reads inside the transaction of a key that it changes go to the store and fill nothing (`scopes.py`).
Races, and what closes each: a reader elsewhere who fills the old row before the commit: the delivery drops it. One who
loads the old row before the commit and fills after the delivery: it has no lease any more. Between commit and delivery
others may still hit the old entry: the write has not returned yet, and with `strict` a guard stands until the delivery.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import Protocol

from . import drivers, scopes
from .core import Core
from .scopes import Change, Changes, Delivery, Holding, deliveries, settle


class Recorder(Protocol):
    """Is told of the keys of a transaction while it is open, to keep them where a crash cannot reach."""

    def record(self, core: Core, keys: Collection[str]) -> None:
        """`keys`, as the backend of `core` knows them, will have to be invalidated. What it raises the write raises."""
        ...

    def delivered(self) -> None:
        """All that were recorded have been delivered, or are pending in their caches."""
        ...


class Transaction:
    """A block around the writes of one transaction: their invalidations are delivered at its end.

    Made by `cache.transaction()`; use it with ``with`` or ``async with``. What is held: the invalidations, of whatever
    cache, that are made in this context, in tasks made in it and in threads that got a copy of it. A transaction inside
    another one joins it: at its end it hands over what it has.

    Args:
        parents: those around it; they take what it has at its end.
        writing: whether anything was written in it so far.
        recorder: is told of the keys.
    """

    def __init__(
        self,
        parents: Sequence[Holding] = (),
        writing: Callable[[], bool] = lambda: True,
        recorder: Recorder | None = None,
    ) -> None:
        self.open: bool = False
        self.parents: Sequence[Holding] = parents
        self.writing: Callable[[], bool] = writing
        self._recorder = recorder
        self._lock = threading.Lock()
        self._changes: dict[Core, dict[str, Change]] = {}
        self._undone: list[tuple[Core, Changes]] = []  # rolled back: only marks are left to take back
        self._held: list[tuple[Core, Collection[str]]] = []  # as they were added to `core.held`
        self._handed_over = False  # to its parents: what was recorded has not been delivered yet

    def rollback(self) -> None:
        """The store has rolled back what was written in the block so far: forget its invalidations.

        Guards of strict writes are taken back at the end of the block.
        """
        with self._lock:
            self._undo()

    def keys(self, core: Core) -> list[str]:
        """The keys of one cache that are held now, as its backend knows them."""
        with self._lock:
            return list(self._changes.get(core, ()))

    # As a scope.

    def begin(self, context: bool = True) -> None:
        """It is open from now on; with `context` for the writes of this context."""
        self.open = True
        if context:
            scopes.enter(self)

    def changes(self, core: Core, key: str) -> bool:
        """See `Scope.changes`."""
        return any(other is core and key in keys for other, keys in list(self._held))

    def hold(self, core: Core, changes: Changes) -> bool:
        """See `Holding.hold`."""
        if self._recorder is not None and self.open:
            self._recorder.record(core, changes.keys())
        with self._lock:
            if not self.open:
                return False
            self._add(core, changes)
            core.book.held += len(changes)
        return True

    def _add(self, core: Core, changes: Changes) -> None:
        mine = self._changes.setdefault(core, {})
        for key, change in changes.items():
            mine[key] = mine[key].then(change) if key in mine else change
        keys = frozenset(changes)
        self._held.append((core, keys))
        core.hold(keys)

    def _undo(self) -> None:
        for core, changes in self._changes.items():
            core.book.rolled_back += len(changes)
            marks = {key: Change(change.marks) for key, change in changes.items() if change.marks}
            self._undone.append((core, marks))
        self._changes = {}

    # Its end.

    def end(self, rolled_back: bool = False) -> list[Delivery]:
        """It is over; what has to be delivered now. To be followed by `over`, when that has been done.

        Args:
            rolled_back: nothing of what was written in it is real.

        Raises:
            Exception: what the recorder of one of its parents raised. Then it is over, and all is pending.
        """
        with self._lock:
            self.open = False
            if rolled_back:
                self._undo()
            undone, self._undone = self._undone, []
            changes, self._changes = self._changes, {}
        scopes.leave(self)
        now = [each for core, marks in undone for each in deliveries(core, marks, marks_only=True)]
        self._handed_over = any(parent.open for parent in self.parents)
        try:
            for core, some in changes.items():
                now += settle(core, some, self.parents)
        except BaseException:  # the recorder of a parent failed
            drivers.postpone(now + [each for core, some in changes.items() for each in deliveries(core, some)])
            self.over()
            raise
        if not rolled_back and not any(parent.open for parent in self.parents):
            scopes.committed()
        return now

    def over(self) -> None:
        """What `end` gave has been delivered, or is pending: reads may use the cache again."""
        with self._lock:
            held, self._held = self._held, []
        for core, keys in held:
            core.unhold(keys)
        if self._recorder is not None and not self._handed_over:
            self._recorder.delivered()

    def finish(self, rolled_back: bool = False) -> None:
        """End it, and deliver."""
        now = self.end(rolled_back)
        try:
            drivers.raise_first(drivers.deliver(now))
        finally:
            self.over()

    async def afinish(self, rolled_back: bool = False, closing: bool = False) -> None:
        """`finish`, awaitable.

        Args:
            closing: nothing can be awaited any more: what is to be delivered is pending instead.
        """
        now = self.end(rolled_back)
        try:
            if closing:
                drivers.postpone(now)
            else:
                drivers.raise_first(await drivers.adeliver(now))
        finally:
            self.over()

    def _enter(self) -> None:
        if self.open:
            raise RuntimeError("this transaction() block has been entered already: make one for each block")
        self.parents = scopes.transactions({})
        self.begin()

    def __enter__(self) -> Transaction:
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    async def __aenter__(self) -> Transaction:
        self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.afinish(closing=kind is GeneratorExit)
