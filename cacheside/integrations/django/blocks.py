"""The invalidations that were made inside one transaction of a connection."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ... import scopes, telling
from ...core import Core
from ...errors import ConfigurationError
from ...health import logger
from ...holders import Holder
from ...scopes import Change, Changes, Delivery, Scope, deliveries
from ...writes import Write


class Held:
    """One invalidation that waits for the commit."""

    def __init__(self, block: Block, number: int, core: Core, changes: Changes) -> None:
        self._block = block
        self.number: int = number
        """How many there were in the block before it."""
        self.core: Core = core
        self.changes: Changes = changes

    def deliver(self) -> None:
        """Called by Django: after the commit, when it is not held any more; or in a test that never commits."""
        self._block.deliver([self])


class Savepoint(NamedTuple):
    """One that has not been released."""

    sid: str
    number: int
    """How many invalidations there had been in the block."""
    around: list[Scope]
    """What was open around it, and so may tell later of what was written before."""


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
        self._number = 0
        self._savepoints: list[Savepoint] = []

    def changes(self, core: Core, key: str) -> bool:
        """See `Scope.changes`. Any key, if anything that is read in it may be what no cache should have."""
        return self.old or self.dirty or super().changes(core, key)

    def writing(self) -> bool:
        """See `Holding.writing`."""
        return self.wrote

    def doubtful(self) -> bool:
        """See `Holding.doubtful`."""
        return self.dirty

    def require(self, core: Core) -> None:
        """See `Holding.require`."""
        if core.backend is None:
            raise ConfigurationError(
                f"{core.label} has only an async client, by which the end of a transaction of Django's cannot deliver"
            )

    def hold(self, core: Core, changes: Changes) -> bool:
        """See `Holding.hold`."""
        self.touch(core, changes)
        with self._lock:
            if not self._taking:
                return False
            held = Held(self, self._number, core, changes)
            self._number += 1
            if self._connection.in_atomic_block:  # else autocommit was turned off by hand, and Django takes none
                self._connection.on_commit(held.deliver, robust=True)
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

    def savepoint(self, sid: str) -> None:
        """A savepoint was made, for an inner block or by hand."""
        self._savepoints.append(Savepoint(sid, self._number, scopes.around()))

    def release(self, sid: str) -> None:
        """The newest savepoint of this name was released."""
        place = self._find(sid)
        if place is not None:
            del self._savepoints[place]

    def roll_back_to(self, sid: str) -> None:
        """There was a rollback to a savepoint: forget what was held since.

        What was open around it and has ended since may have told of what was written before. Then all invalidations
        stay, and no value goes in; as with a savepoint that nobody knows.
        """
        place = self._find(sid)
        if place is None or not all(each.open for each in self._savepoints[place].around):
            return self.doubt()
        with self._lock:
            self._rollbacks += 1
            since = [each for each in self._held if each.number >= self._savepoints[place].number]
        return self._forget(since)

    def doubt(self) -> None:
        """What was written in it so far may have been rolled back: no value that was held goes in."""
        with self._lock:
            self._rollbacks += 1
            for each in self._held:
                each.changes = scopes.without_values(each.changes)

    def _find(self, sid: str) -> int | None:
        """The place of the newest savepoint of this name: there are several after `clean_savepoints`."""
        places = reversed(range(len(self._savepoints)))
        return next((place for place in places if self._savepoints[place].sid == sid), None)

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
                if not certain:
                    self.doubt()
                scopes.committed()
                self.deliver(list(self._held))
            else:
                self._forget(list(self._held))
            _tell(self._marks_left())
        finally:
            self.over()

    def deliver(self, some: Iterable[Held]) -> None:
        """Tell the caches what is held of `some`, in one go. It raises nothing: the write is done."""
        together: dict[Core, dict[str, Change]] = {}
        for held in self._take(some):
            scopes.add(held.changes, to=together.setdefault(held.core, {}))
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
