"""The open transaction of one session: its savepoints, what is held for them, and how it ends.

The transaction and each savepoint in it is a `Level`; an invalidation is held by the innermost. A savepoint hands what
it has to the level around it, or drops it if it is rolled back; the outermost level delivers when it has been
committed. A commit that was tried and raised may be real all the same, so it delivers too, but puts no value in.

A level is known in the context where its transaction began, and in every context that executes by its session, flushes
it or passes it to a decorated function. Sessions do not nest: none is the parent of another's.
"""

from __future__ import annotations

import contextlib
import weakref
from collections import deque
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, text
from sqlalchemy.orm import Session, SessionTransaction
from sqlalchemy.util import concurrency

from ... import scopes, telling
from ...core import Core
from ...errors import ConfigurationError
from ...flight import Flight
from ...scopes import Change
from ...transactions import Transaction
from ...writes import Write
from .engines import watch
from .tasks import Tasks, in_greenlet

if TYPE_CHECKING:
    from ...outbox import Outbox
    from .binding import Binding


class Level(Transaction):
    """The transaction of a session, or a savepoint in it."""

    done: bool = False
    """Whether its commit has succeeded."""

    is_async: bool | None = None
    """Whether an AsyncSession will end it; None: it has no connection yet."""

    def changes(self, core: Core, key: str) -> bool:
        """See `Scope.changes`. Any key once it has written: a load may be given a row of the session, unasked."""
        return self.writing() or super().changes(core, key)

    def require(self, core: Core) -> None:
        """See `Holding.require`."""
        super().require(core)
        if self.is_async and core.aio is None and not core.in_process:
            raise ConfigurationError(f"{core.label} has only a plain client, by which an AsyncSession cannot deliver")
        if self.is_async is False and core.backend is None:
            raise ConfigurationError(f"{core.label} has only an async client, by which a plain Session cannot deliver")

    def take_no_more(self) -> None:
        """What is invalidated from now on is not held here. Takes no lock."""
        self._taking = False


class Used:
    """A level in a context that uses its session, but where it did not begin. Equal to the level itself.

    What is written there may be none of its, for threads of a pool keep their context from one job to the next. So it
    is held, and told at once as well: see `scopes.settle`.
    """

    def __init__(self, level: Level) -> None:
        self._level = level

    def __getattr__(self, name: str) -> Any:
        return getattr(self._level, name)

    def __eq__(self, other: object) -> bool:
        return self._level is (other._level if isinstance(other, Used) else other)

    def __hash__(self) -> int:
        return hash(self._level)

    def writing(self) -> bool:
        """See `Holding.writing`."""
        return False


class Tie:
    """What is known of the open transaction of one session. It does not keep the session alive.

    Args:
        session: has begun a transaction.
        bindings: those of the session.
    """

    def __init__(self, session: Session, bindings: Collection[Binding]) -> None:
        self.bindings: Collection[Binding] = bindings
        self.wrote: bool = False
        self.tried: bool = False
        self.snapshot: bool = False
        self.first: tuple[Flight, ...] | None = None
        self.preparing: int = 0
        """How many commits, of the transaction or of savepoints, have begun and not succeeded yet."""
        self.changed: dict[Binding, dict[str, None]] = {}
        """Keys of rows of the flush that is under way."""
        self._session = weakref.ref(session)
        self._root: weakref.ref[SessionTransaction] | None = None
        self._levels: dict[int, Level] = {}  # by the id of their SessionTransaction, the innermost last
        self._connection: weakref.ref[Connection] | None = None
        self._engine: Engine | None = None  # where the outbox is
        self._recorded: set[tuple[Core, str]] = set()
        self._rows: dict[Outbox, dict[str, Collection[str]]] = {}  # in each outbox, by their ids with their keys
        self._tasks = Tasks(self._task_ended)
        self._gone = weakref.finalize(session, _abandon, self)
        self._gone.atexit = False

    def writing(self) -> bool:
        """See `Holding.writing`."""
        if self.tried:  # all may be real already
            return False
        session = self._session()
        return self.wrote or (session is not None and not session._is_clean())  # no walk: other threads may write

    def innermost(self) -> Level:
        """The savepoint, or the transaction itself, that what is done now belongs to."""
        return next(reversed(self._levels.values()))

    def enter(self) -> None:
        """This context works in the transaction."""
        around = scopes.inside.get()
        for level in self._levels.values():
            if level not in around:
                used: Any = Used(level)
                scopes.enter(used)

    def doubt(self) -> None:
        """See `Watched.doubt`."""
        for level in self._levels.values():
            level.doubt()

    def connected(self, connection: Connection, nested: bool) -> None:
        """It uses `connection`, `nested`: in a savepoint."""
        self._tasks.add()
        if self._connection is None:
            self._connection = weakref.ref(connection)
        for level in self._levels.values():
            level.is_async = connection.dialect.is_async
        watch(connection, self, nested)

    def begun(self, transaction: SessionTransaction) -> None:
        """`transaction`, the outermost or a savepoint, has begun."""
        if id(transaction) in self._levels:
            return
        if not self._levels:
            self._root = weakref.ref(transaction)
        level = Level([self.innermost()] if self._levels else _blocks(), self.writing)
        self._levels[id(transaction)] = level
        level.begin()

    def prepare(self, session: Session) -> None:
        """If it is about to be committed: hold what is to be told by what the commit stands in; fill the outbox.

        It may be called several times in one commit, as more becomes known.
        """
        if self.preparing == 0 or len(self._levels) != 1 or not self.writing():
            return
        (root,) = self._levels.values()
        around = [each for each in scopes.inside.get() if each.open and not isinstance(each, Level)]
        for scope in around:
            if isinstance(scope, (Write, Transaction)) and scope not in root.parents:
                for core, changes in scope.early():
                    root.hold(core, changes)
        if self.wrote:
            for binding in self.bindings:
                if binding.outbox is not None:
                    self._record(session, root, binding.outbox)

    def _record(self, session: Session, root: Level, outbox: Outbox) -> None:
        core = outbox.core
        keys = [key for key in root.keys(core) if (core, key) not in self._recorded]
        row = outbox.row(keys) if keys else None
        if row is None:
            return
        connection = (self._connection and self._connection()) or session.connection()
        self._engine = connection.engine
        connection.execute(text(outbox.insert_sql), row._asdict())
        self._recorded.update((core, key) for key in keys)
        self._rows.setdefault(outbox, {})[row.id] = keys

    def ended(self, session: Session, transaction: SessionTransaction) -> None:
        """`transaction` is over."""
        level = self._levels.get(id(transaction))
        if level is None:
            return
        if len(self._levels) > 1:
            try:
                _finish(level, rolled_back=not level.done)
            finally:
                del self._levels[id(transaction)]
            self.prepare(session)  # if it was committed as a part of a commit around it
            return
        self._over(session)
        level.real = self.tried
        _finish(level, rolled_back=not (level.done or self.tried))
        if level.done and self.tried:
            self._delete_rows()

    def _delete_rows(self) -> None:
        for outbox, rows in self._rows.items():
            delivered = [{"id": row} for row, keys in rows.items() if not outbox.core.pending.blocks(*keys)]
            if delivered and self._engine is not None:
                try:
                    with self._engine.begin() as connection:
                        connection.execute(text(outbox.delete_sql), delivered)
                except Exception as error:
                    outbox.left_behind(repr(error))

    def committed(self) -> None:
        """The transaction, or the innermost savepoint."""
        self.preparing -= 1
        self.innermost().done = True
        self._tasks.add()

    def _task_ended(self) -> None:
        session = self._session()
        if session is not None and ties.get(session) is self:
            transaction = session.get_transaction()
            if transaction is None or not self.knows(transaction):
                self.lost(session)

    def _over(self, session: Session) -> None:
        del ties[session]
        self._gone.detach()
        self._tasks.forget()

    def knows(self, transaction: SessionTransaction) -> bool:
        """Whether it is the tie of this outermost transaction."""
        return self._root is not None and self._root() is transaction

    def lost(self, session: Session) -> None:
        """Its session is in another transaction: the end of this one was not told, as its connection was lost."""
        self._over(session)
        self.abandoned()

    def abandoned(self) -> None:
        """Nobody will end it any more: what is left of it."""
        for level in reversed(self._levels.values()):
            telling.postpone(level.end(rolled_back=not self.tried, certain=False))
            level.over()


ties: weakref.WeakKeyDictionary[Session, Tie] = weakref.WeakKeyDictionary()
"""By sessions that are in a transaction."""

_abandoned: deque[Tie] = deque()


def _abandon(tie: Tie) -> None:
    # Called in the middle of anything, perhaps of code that holds the locks we would need: only noted here.
    for level in tie._levels.values():
        level.take_no_more()
    _abandoned.append(tie)


def clean() -> None:
    """Put away what is left of sessions that were collected as garbage in the middle of a transaction."""
    while _abandoned:
        with contextlib.suppress(IndexError):  # another thread was faster
            _abandoned.popleft().abandoned()


def _blocks() -> list[Any]:
    """The innermost ``with cache.transaction()`` blocks around this context."""
    around = [each for each in scopes.inside.get() if each.open and isinstance(each, Transaction)]
    blocks = [each for each in around if not isinstance(each, Level)]
    outer = {id(parent) for each in blocks for parent in each.parents}
    return [each for each in blocks if id(each) not in outer]


def _finish(level: Level, rolled_back: bool) -> None:
    if in_greenlet():
        concurrency.await_only(level.afinish(rolled_back, level.done))
    else:
        level.finish(rolled_back, level.done)


def hold(tie: Tie, core: Core, keys: Collection[str]) -> None:
    """Have the innermost level keep plain invalidations of `keys`.

    Raises:
        ConfigurationError: its end could not deliver them; said now, while all can be rolled back.
    """
    if keys:
        level = tie.innermost()
        level.require(core)
        level.hold(core, dict.fromkeys(keys, Change()))
