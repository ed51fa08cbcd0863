"""The invalidations that were made inside one transaction of a connection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ... import scopes, telling
from ...core import Core
from ...errors import ConfigurationError
from ...health import logger
from ...holders import Holder
from ...scopes import Change, Changes, Delivery, deliveries
from ...writes import Write


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


class Block(Holder):
    """A transaction of a connection, from its beginning to its end, as a scope (`scopes.Holding`).

    Threads may share it: async code inside it runs in others. Its end is told by the thread of the connection. It has
    no parents: what a ``cache.transaction()`` block around it holds, it holds as well, and each has its own end.

    Args:
        connection: Django's.
        old: what is read in it is from a snapshot: others may have written it since, and invalidated.
    """

    def __init__(self, connection: Any, old: bool) -> None:
        super().__init__()
        self._connection = connection
        self.old: bool = old
        self.wrote: bool = False
        """Whether something has been written in it, by a statement that says so."""
        self.dirty: bool = False
        """Whether something may have been, by a statement that is not plainly a read."""

    def after_fork(self) -> None:
        """See `Holder.after_fork`."""
        super().after_fork()
        self._held: dict[Held, None] = {}

    def changes(self, core: Core, key: str) -> bool:
        """See `Scope.changes`. Any key, if anything that is read in it may be what no cache should have."""
        return self.old or self.dirty or super().changes(core, key)

    def writing(self) -> bool:
        """See `Holding.writing`."""
        return self.wrote

    def require(self, core: Core) -> None:
        """See `Holding.require`."""
        if core.backend is None:
            raise ConfigurationError(
                f"{core.label} has only an async client, by which the end of a transaction of Django's cannot deliver"
            )

    def hold(self, core: Core, changes: Changes) -> bool:
        """See `Holding.hold`."""
        self.touch(core, changes)
        held = Held(self, core, changes)
        with self._lock:
            if not self._taking:
                return False
            if self._connection.in_atomic_block:  # else autocommit was turned off by hand, and Django takes none
                self._connection.on_commit(held.deliver, robust=True)
                held.registered = True
            self._held[held] = None
            core.book.held += len(changes)
        return True

    def hold_around(self) -> None:
        """It is about to be committed: hold what decorated writes around the commit have to tell at their own end."""
        for scope in scopes.around():
            if isinstance(scope, Write):
                for core, changes in scope.early():
                    if core.backend is not None:  # else only async code can tell it, as the end of the write will
                        self.hold(core, changes)

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
            self._taking = False
        try:
            if real:
                scopes.committed()
                self.deliver(list(self._held), certain)
            else:
                self._forget(list(self._held))
            _tell(self._marks_left())
        finally:
            self.over()

    def deliver(self, some: Iterable[Held], certain: bool = True) -> None:
        """Tell the caches what is held of `some`, in one go. It raises nothing: the write is done."""
        together: dict[Core, dict[str, Change]] = {}
        for held in self._take(some):
            changes = held.changes
            if not certain:
                changes = scopes.without_values(changes)
            scopes.add(changes, to=together.setdefault(held.core, {}))
        _tell([each for core, changes in together.items() for each in deliveries(core, changes)])

    def _forget(self, some: Iterable[Held]) -> None:
        """What was written has been rolled back: only marks of strict writers are taken back."""
        now: list[Delivery] = []
        for held in self._take(some):
            held.core.book.rolled_back += len(held.changes)
            now += deliveries(held.core, scopes.marks_of(held.changes))
        _tell(now)

    def _take(self, some: Iterable[Held]) -> list[Held]:
        with self._lock:
            taken = [each for each in some if each in self._held]
            for each in taken:
                del self._held[each]
        return taken


def _tell(now: Iterable[Delivery]) -> None:
    for failure in telling.deliver(now):
        logger().error("an invalidation could not be delivered at the end of a transaction: %s", failure)
