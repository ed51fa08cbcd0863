"""Invalidations that wait for a commit.

A write function that leaves the commit to its caller invalidates too early: a reader misses, reads the row from before
the commit, and fills it for a whole ttl. Inside a transaction invalidations are kept, and delivered at its end.

Until they are, reads inside the transaction of a key that it changes go to the store and fill nothing (`scopes.py`).
Races, and what closes each: a reader elsewhere who fills the old row before the commit: the delivery drops it. One who
loads the old row before the commit and fills after the delivery: it has no lease any more. Between commit and delivery
others may still hit the old entry: the write has not returned yet, and with `strict` a guard stands until the delivery.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from types import TracebackType
from typing import Protocol

from . import scopes, telling
from .core import Core
from .errors import ConfigurationError
from .holders import Holder
from .scopes import Change, Changes, Delivery, Holding, deliveries, settle


class Recorder(Protocol):
    """Is told of the keys of a transaction while it is open, to keep them where a crash cannot reach."""

    def record(self, core: Core, keys: Collection[str]) -> None:
        """`keys`, as the backend of `core` knows them, will have to be invalidated. What it raises the write raises."""
        ...

    def delivered(self) -> None:
        """All that were recorded have been delivered, or are pending in their caches."""
        ...


class Transaction(Holder):
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
        super().__init__()
        self.real: bool = False
        """Whether what was written in it is committed at its end, whatever becomes of those around it."""
        self.parents: Sequence[Holding] = parents
        self.writing: Callable[[], bool] = writing
        self._recorder = recorder
        self._sync: bool | None = None  # how it was entered, if it was

    def after_fork(self) -> None:
        """See `Holder.after_fork`."""
        super().after_fork()
        self._changes: dict[Core, dict[str, Change]] = {}
        self._undone: list[tuple[Core, Changes]] = []  # rolled back: only marks are left to take back
        self._seen = 0  # of `rollbacks`, when `_changes` were looked through
        self._handed_over = False  # to its parents: what was recorded has not been delivered yet

    def rollback(self) -> None:
        """The store has rolled back what was written in the block so far: forget its invalidations.

        Guards of strict writes are taken back at the end of the block.
        """
        with self._lock:
            self._rollbacks += 1
            self._undo()

    def doubt(self) -> None:
        """Some of what was written in it so far may have been rolled back: what was invalidated stays so, but no value
        of an update is put in."""
        with self._lock:
            self._rollbacks += 1

    def keys(self, core: Core) -> list[str]:
        """The keys of one cache that are held now, as its backend knows them."""
        with self._lock:
            return list(self._changes.get(core, ()))

    def early(self) -> list[tuple[Core, Changes]]:
        """What its end will tell, as far as it is known now: for a transaction that is committed inside it.

        Without keys that are guarded: these are safe until its end.
        """
        with self._lock:
            return [
                (core, {key: Change(stale=change.stale) for key, change in changes.items() if not change.marks})
                for core, changes in self._changes.items()
            ]

    # As a scope.

    def require(self, core: Core) -> None:
        """See `Holding.require`. A block inside another one delivers nothing."""
        for parent in self.parents:
            parent.require(core)
        if self.parents or self._sync is None:
            return
        if self._sync and core.backend is None:
            raise ConfigurationError(
                f"{core.label} has only an async client, by which the end of a plain `with` cannot deliver: make the "
                "block `async with cache.transaction()`"
            )
        if not self._sync and core.aio is None and not core.in_process:
            raise ConfigurationError(
                f"{core.label} has only a plain client, by which the end of an `async with` cannot deliver: make the "
                "block `with cache.transaction()`"
            )

    def hold(self, core: Core, changes: Changes) -> bool:
        """See `Holding.hold`."""
        self.touch(core, changes)
        with self._lock:
            if not self._taking:
                return False
            self._look_through()
            scopes.add(changes, to=self._changes.setdefault(core, {}))
            core.book.held += len(changes)
        if self._recorder is not None:
            self._recorder.record(core, changes.keys())
        return True

    def _look_through(self) -> None:
        """Drop the values from before a rollback of a part, or of a block around it: they may never have been real.

        What was invalidated is not dropped with them: another task may have written it by another connection.
        """
        now = self.rollbacks()
        if now != self._seen:
            self._seen = now
            self._changes = {core: scopes.without_values(changes) for core, changes in self._changes.items()}

    def _undo(self) -> None:
        for core, changes in self._changes.items():
            core.book.rolled_back += len(changes)
            self._undone.append((core, scopes.marks_of(changes)))
        self._changes = {}

    # Its end.

    def end(self, rolled_back: bool = False, certain: bool = True) -> list[Delivery]:
        """It is over; what has to be delivered now. To be followed by `over`, when that has been done.

        Args:
            rolled_back: nothing of what was written in it is real.
            certain: all of it is. With neither it may be: that invalidates, and puts no value in.

        Raises:
            Exception: what the recorder of one of its parents raised. Then it is over, and all is pending.
        """
        with self._lock:
            self._taking = False
            if rolled_back:
                self._undo()
            if not certain:
                self._rollbacks += 1
            self._look_through()
            undone, self._undone = self._undone, []
            changes, self._changes = self._changes, {}
        around = () if rolled_back else self.parents
        now = [each for core, marks in undone for each in deliveries(core, marks)] + self._marks_left(around)
        self._handed_over = any(parent.open for parent in self.parents)
        try:
            for core, some in changes.items():
                now += settle(core, some, self.parents, self.real)
        except BaseException:  # a transaction around it that cannot record them, or Ctrl-C
            telling.postpone(now + [each for core, some in changes.items() for each in deliveries(core, some)])
            self.over()
            raise
        if not rolled_back and (self.real or not self._handed_over):
            scopes.committed()
        return now

    def over(self) -> bool:
        """See `Holder.over`."""
        ended = super().over()
        if ended and self._recorder is not None and not self._handed_over:
            self._recorder.delivered()
        return ended

    def finish(self, rolled_back: bool = False, certain: bool = True) -> None:
        """End it, and deliver."""
        now = self.end(rolled_back, certain)
        try:
            telling.raise_first(telling.deliver(now))
        finally:
            self.over()

    async def afinish(self, rolled_back: bool = False, certain: bool = True, closing: bool = False) -> None:
        """`finish`, awaitable.

        Args:
            closing: nothing can be awaited any more: what is to be delivered is pending instead.
        """
        now = self.end(rolled_back, certain)
        try:
            if closing:
                telling.postpone(now)
            else:
                telling.raise_first(await telling.adeliver(now))
        finally:
            self.over()

    def _enter(self, sync: bool) -> None:
        if self._sync is not None:
            raise RuntimeError("this transaction() block has been entered already: make one for each block")
        self._sync = sync
        self.parents = scopes.transactions({})
        self.begin()

    def __enter__(self) -> Transaction:
        self._enter(sync=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish(certain=kind is None)

    async def __aenter__(self) -> Transaction:
        self._enter(sync=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.afinish(certain=kind is None, closing=kind is GeneratorExit)
