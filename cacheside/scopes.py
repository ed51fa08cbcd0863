"""What a context is inside of: decorated writes that are under way, transactions that are not over.

Both are *scopes*: reads of a key that a scope around them is changing go to the store and fill nothing, so that a
program reads what it has written, and nothing uncommitted is ever cached. A transaction also takes the invalidations
that are made inside it, and delivers them at its end (see `transactions.py`).

Scopes are known by a context variable, so that they follow tasks, and threads that are given a copy of the context, and
no others see them. A context may outlive a scope that began in it, and a scope may end in another context: a scope that
is over is passed over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from . import forks

if TYPE_CHECKING:
    from .core import Core, Update


class Change(NamedTuple):
    """What is to be told about one key when a write is real.

    `stale`: seconds that its value may be kept, marked stale; 0: it is dropped. `update`: a value for the last of
    `marks`, which are those of writers that guard the key.
    """

    marks: tuple[str, ...] = ()
    stale: float = 0.0
    update: Update | None = None

    def then(self, later: Change) -> Change:
        """Both. No value is put in: their writes may have overlapped, so nobody can say whose is the last one."""
        return Change(self.marks + later.marks, min(self.stale, later.stale))


Changes: TypeAlias = Mapping[str, Change]


def marks_of(changes: Changes) -> dict[str, Change]:
    """What is left to tell of `changes` that were rolled back: the marks of writers, which invalidate nothing."""
    return {key: Change(change.marks) for key, change in changes.items() if change.marks}


def without_values(changes: Changes) -> dict[str, Change]:
    """`changes` where what was written may have been rolled back: invalidations, with no value to put in."""
    return {key: Change(change.marks, change.stale) for key, change in changes.items()}


def add(changes: Changes, to: dict[str, Change]) -> None:
    """Have `to` say what it said, and `changes` after that."""
    for key, change in changes.items():
        to[key] = to[key].then(change) if key in to else change


class Scope(Protocol):
    """What a context can be inside of."""

    open: bool
    """Whether it is not over."""

    def changes(self, core: Core, key: str) -> bool:
        """Whether `key` is being changed inside it; or has been, when it is over."""
        ...


class Holding(Scope, Protocol):
    """A scope that takes invalidations: a transaction."""

    parents: Sequence[Holding]
    """Those around it. What is made inside it after its end is theirs."""

    def rollbacks(self) -> int:
        """How often something that was written in it, or around it, has been rolled back, or may have been."""
        ...

    def require(self, core: Core) -> None:
        """That it can deliver to this cache at its end.

        Raises:
            ConfigurationError: it cannot.
        """
        ...

    def touch(self, core: Core, keys: Collection[str]) -> None:
        """`keys` are being changed inside it: until its end reads inside it go to the store."""
        ...

    def writing(self) -> bool:
        """Whether its transaction has written anything so far; True where nobody can say."""
        ...

    def doubtful(self) -> bool:
        """Whether it may have, though `writing` does not say so."""
        ...

    def hold(self, core: Core, changes: Changes) -> bool:
        """Keep `changes` until it ends. False: it has ended, nothing is kept."""
        ...

    def keep(self, core: Core, marks: Changes, others: Sequence[Holding]) -> bool:
        """Take back `marks` at its end, if by then all of `others` have ended: else `pass_on`. False: it has ended."""
        ...


inside: ContextVar[tuple[Scope, ...]] = ContextVar("cacheside_inside", default=())
"""The scopes around this context, the innermost last; some may be over."""

finders: list[Callable[[Mapping[str, Any]], Iterable[Holding]]] = []
"""Each gives transactions that a call with these arguments (by name) belongs to, though they may have begun in another
context; this context may be inside them from then on. For integrations."""

watchers: list[Callable[[Core, str], bool]] = []
"""Each says whether a transaction around this context, that is in no context variable, is changing a key. For
integrations."""


def enter(scope: Scope) -> None:
    """This context is inside `scope` from now on."""
    inside.set((*[each for each in inside.get() if each.open], scope))


def leave(scope: Scope) -> None:
    """This context is not inside `scope` any more."""
    around = inside.get()
    if scope in around:  # else it ends in another context than it began in
        inside.set(tuple([each for each in around if each is not scope]))


def committed() -> None:
    """A transaction has been committed in this context: what the writes around it have to say may be real already."""
    for each in list[Any](inside.get()):
        if hasattr(each, "committed"):
            each.committed = True


def around() -> list[Scope]:
    """The open scopes around this context."""
    return [each for each in inside.get() if each.open]


def transactions(values: Mapping[str, Any]) -> list[Any]:
    """The open transactions that a write with these arguments belongs to; of nested ones the innermost."""
    found: list[Any] = []
    for find in finders:
        found += [each for each in find(values) if each.open and each not in found]
    found += [each for each in around() if hasattr(each, "hold") and each not in found]
    outer = [parent for each in found for parent in each.parents]
    return [each for each in found if each not in outer]


def join(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """A load with these arguments begins: have finders put this context inside of what it may read from."""
    if finders:
        transactions({**{str(number): value for number, value in enumerate(args)}, **kwargs})


class Delivery(NamedTuple):
    """What has to be told to one cache at once: see `Core.finish`."""

    core: Core
    plan: dict[str, str | None]
    updates: dict[str, Update]
    stale: float


def deliveries(core: Core, changes: Changes) -> list[Delivery]:
    """`changes` as they have to be told."""
    drop: dict[float, dict[str, str | None]] = {}
    layers: list[dict[str, str | None]] = []
    updates: dict[str, Update] = {}
    for key, change in changes.items():
        if not change.marks:
            drop.setdefault(change.stale, {})[key] = None
        for number, mark in enumerate(reversed(change.marks)):
            if number == len(layers):
                layers.append({})
            layers[number][key] = mark
        if change.update is not None:
            updates[key] = change.update
    if layers:
        drop.setdefault(0.0, {}).update(layers[0])
    told = [Delivery(core, plan, {} if stale else updates, stale) for stale, plan in drop.items()]
    return told + [Delivery(core, plan, {}, 0.0) for plan in layers[1:]]


def settle(core: Core, changes: Changes, holders: Collection[Holding], committed: bool = False) -> list[Delivery]:
    """Have the transactions around a write keep its `changes`; what has to be told now is returned.

    That is all of it where there is no transaction; and that the keys are not valid any more where some of it may be
    real already: it has been `committed` inside the write, or none of the transactions has written anything, so that
    the write was likely made by another way. (As where a session that only reads is open while another one writes.)
    """
    if not changes:
        return []
    plain = {key: Change(stale=change.stale) for key, change in changes.items()}
    whole, asked = _whole(changes, holders), list(holders)
    marks = marks_of(changes)
    taken: list[Holding] = []
    for each in asked:
        mine = whole.get(id(each), {})
        if each.hold(core, {**plain, **mine}):
            taken.append(each)
            marks = {key: change for key, change in marks.items() if key not in mine}
        else:  # it has just ended
            asked += [parent for parent in each.parents if parent not in asked]
            if len(each.parents) == 1:
                whole[id(each.parents[0])] = mine
    if not taken:
        return deliveries(core, changes)
    now = [] if pass_on(core, marks, taken) else deliveries(core, marks)
    if committed or not any(each.writing() for each in taken):
        # They will take back the marks. The value of an update is dropped with this, as it is not the last word.
        now += deliveries(core, plain)
    return now


def _whole(changes: Changes, holders: Collection[Holding]) -> dict[int, Changes]:
    """By the id of a holder, the changes that it keeps with their marks and updates: it alone can have made them real.

    Of several, no one can say which. Then no value is put in, for one may be committed and the other rolled back, and
    the guards stand until all have ended.
    """
    if len(holders) == 1:
        return {id(each): changes for each in holders}
    writers = [each for each in holders if each.writing() or each.doubtful()]
    updates = {key: change for key, change in changes.items() if change.update is not None}
    return {id(writers[0]): updates} if len(writers) == 1 else {}


def pass_on(core: Core, marks: Changes, holders: Collection[Holding]) -> bool:
    """Have the last of `holders` to end take back `marks`. False: all of them have ended."""
    asked = list(holders)
    for each in asked:
        if not marks or each.keep(core, marks, [other for other in asked if other is not each]):
            return True
        asked += [parent for parent in each.parents if parent not in asked]  # it has just ended
    return not marks


class Held:
    """The keys of one cache that scopes in this process are changing, with how many there are. Threads share it."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """What the parent is changing is no matter of the child's, which does not see it."""
        self._lock = threading.Lock()
        self.counts.clear()

    def add(self, keys: Collection[str]) -> None:
        """One more scope changes `keys`."""
        with self._lock:
            for key in keys:
                self.counts[key] = self.counts.get(key, 0) + 1

    def remove(self, keys: Collection[str]) -> None:
        """One scope less does."""
        with self._lock:
            for key in keys:
                left = self.counts.get(key, 0) - 1
                if left > 0:
                    self.counts[key] = left
                else:
                    self.counts.pop(key, None)

    def here(self, core: Core, keys: Collection[str]) -> bool:
        """Whether a scope around this context is changing one of `keys`."""
        # Most calls end here: nobody is changing them.
        some = [key for key in keys if key in self.counts]
        return bool(some) and (_any_changes(around(), core, some) or _is_watched(core, some))

    def meanwhile(self, core: Core, keys: Collection[str], before: Collection[Scope]) -> bool:
        """Whether one of the scopes `before`, which were open when a load began, has changed one of `keys` by now.

        It may be over, and rolled back: what was loaded in it may have been neither the old value nor the new one. The
        same for scopes that this context is inside since.
        """
        return _any_changes([*before, *around()], core, keys) or _is_watched(core, keys)


def _any_changes(scopes: Collection[Scope], core: Core, keys: Collection[str]) -> bool:
    return any(each.changes(core, key) for key in keys for each in scopes)


def _is_watched(core: Core, keys: Collection[str]) -> bool:
    return any(watch(core, key) for key in keys for watch in watchers)
