"""The invalidations that were made inside one transaction of a connection."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from ... import drivers, scopes
from ...core import Core
from ...health import logger
from ...scopes import Change, Changes, deliveries


class Held:
    """One invalidation that waits for the commit."""

    def __init__(self, block: Block, core: Core, changes: Changes) -> None:
        self._block = block
        self.core: Core = core
        self.changes: Changes = changes
        self.registered: bool = False
        """Whether Django has it for `on_commit`."""

    def deliver(self) -> None:
        """Called by Django: after the commit, when it has been delivered already; or in a test that never commits."""
        self._block.deliver([self])


class Block:
    """A transaction of a connection, from its beginning to its end, as a scope (`scopes.Holding`).

    Threads may share it: async code inside it runs in others. Its end is told by the thread of the connection.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._held: dict[Held, None] = {}
        self.open: bool = True
        self.wrote: bool = False
        """Whether something has been written in it, by a statement that says so."""
        self.touched: bool = False
        """Whether something may have been, by a statement that is not plainly a read."""

    def writing(self) -> bool:
        """See `Holding.writing`."""
        return self.wrote

    def changes(self, core: Core, key: str) -> bool:
        """See `Scope.changes`."""
        return any(each.core is core and key in each.changes for each in list(self._held))

    def hold(self, core: Core, changes: Changes) -> bool:
        """See `Holding.hold`."""
        held = Held(self, core, changes)
        with self._lock:
            if not self.open:
                return False
            if self._connection.in_atomic_block:  # else autocommit was turned off by hand, and Django takes none
                self._connection.on_commit(held.deliver, robust=True)
                held.registered = True
            self._held[held] = None
            core.hold(changes.keys())
            core.book.held += len(changes)
        return True

    def keys(self, core: Core) -> list[str]:
        """The keys of one cache that are held now, as its backend knows them."""
        return list({key: None for each in list(self._held) if each.core is core for key in each.changes})

    def sweep(self) -> None:
        """There was a rollback to a savepoint: forget what Django has forgotten."""
        left = {id(getattr(hook, "__self__", None)) for _, hook, _ in self._connection.run_on_commit}
        self._forget([each for each in list(self._held) if each.registered and id(each) not in left])

    def end(self, real: bool, certain: bool) -> None:
        """The transaction is over.

        Args:
            real: it was committed, as far as is known; else rolled back.
            certain: False: the commit failed, which does not prove that it was not done.
        """
        with self._lock:
            self.open = False
        if real:
            scopes.committed()
            self.deliver(list(self._held), certain)
        else:
            self._forget(list(self._held))

    def deliver(self, some: Iterable[Held], certain: bool = True) -> None:
        """Tell the caches what is held of `some`, in one go. It raises nothing: the write is done."""
        taken = self._take(some)
        together: dict[Core, dict[str, Change]] = {}
        for held in taken:
            mine = together.setdefault(held.core, {})
            for key, change in held.changes.items():
                if not certain:
                    change = Change(change.marks, change.stale)  # not the value of an update
                mine[key] = mine[key].then(change) if key in mine else change
        self._tell(taken, [each for core, changes in together.items() for each in deliveries(core, changes)])

    def _forget(self, some: Iterable[Held]) -> None:
        """What was written has been rolled back: only marks of strict writers are taken back."""
        taken = self._take(some)
        now = []
        for held in taken:
            held.core.book.rolled_back += len(held.changes)
            marks = {key: Change(change.marks) for key, change in held.changes.items() if change.marks}
            now += deliveries(held.core, marks)
        self._tell(taken, now)

    def _take(self, some: Iterable[Held]) -> list[Held]:
        with self._lock:  # they stay in `_held`, for reads, until the caches have been told
            return [each for each in some if each in self._held]

    def _tell(self, taken: Iterable[Held], now: Iterable[scopes.Delivery]) -> None:
        try:
            for failure in drivers.deliver(now):
                logger().error("an invalidation could not be delivered after a transaction: %s", failure)
        finally:
            with self._lock:
                for held in taken:
                    del self._held[held]
            for held in taken:
                held.core.unhold(held.changes.keys())
