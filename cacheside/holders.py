"""What transactions of all kinds have in common: the keys that are changed in them, and the marks they take back."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence

from . import forks, scopes
from .core import Core
from .scopes import Changes, Delivery, Holding


class Holder:
    """A transaction, from its beginning to its end: the part of `Holding` that does not ask how it ends.

    Threads may share it.
    """

    def __init__(self) -> None:
        self.open: bool = False
        """See `Scope`: from its beginning until all has been delivered."""
        self.parents: Sequence[Holding] = ()
        """See `Holding`."""
        self._rollbacks = 0
        self._changing: dict[Core, set[str]] = {}  # as they were added to `core.held`; kept when it is over
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """A child has no part in the transaction of its parent: what it writes it delivers by itself."""
        self._lock = threading.Lock()
        self.open = False
        self._taking = False  # from its beginning to its end
        self._counts = False  # whether `_changing` is to be taken from `core.held`
        self._kept: list[tuple[Core, Changes, Sequence[Holding]]] = []  # marks, and who may have to keep them longer

    def begin(self) -> None:
        """It is open from now on, and this context is inside it."""
        self.open = self._taking = self._counts = True
        scopes.enter(self)

    def rollbacks(self) -> int:
        """See `Holding.rollbacks`."""
        return self._rollbacks + sum(parent.rollbacks() for parent in self.parents)

    def doubtful(self) -> bool:
        """See `Holding.doubtful`."""
        return False

    def changes(self, core: Core, key: str) -> bool:
        """See `Scope.changes`."""
        return key in self._changing.get(core, ())

    def touch(self, core: Core, keys: Collection[str]) -> None:
        """See `Holding.touch`."""
        with self._lock:
            if self._taking:
                noted = self._changing.setdefault(core, set())
                new = [key for key in keys if key not in noted]
                noted.update(new)
                core.hold(new)
        for parent in self.parents:  # all parts of a transaction see what is written in any of them
            parent.touch(core, keys)

    def keep(self, core: Core, marks: Changes, others: Sequence[Holding]) -> bool:
        """See `Holding.keep`."""
        with self._lock:
            if self._taking:
                self._kept.append((core, marks, others))
            return self._taking

    def _marks_left(self, around: Sequence[Holding] = ()) -> list[Delivery]:
        """It has ended: the marks that it kept and that nobody has to keep longer, as they have to be told."""
        kept, self._kept = self._kept, []
        left = [(core, marks) for core, marks, others in kept if not scopes.pass_on(core, marks, (*around, *others))]
        return [each for core, marks in left for each in scopes.deliveries(core, marks)]

    def over(self) -> bool:
        """All of it has been delivered, or is pending: reads may use the cache again. False: it was over before."""
        with self._lock:
            self.open = False
            counted, self._counts = self._counts, False
        scopes.leave(self)
        if counted:  # else it was over before, or is its parent's
            for core, keys in self._changing.items():
                core.unhold(keys)
        return counted
