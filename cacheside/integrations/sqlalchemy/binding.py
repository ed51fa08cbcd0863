"""What is bound to what, and to which events of a session its handlers listen.

The order of events, in 2.0 and 2.1: ``after_transaction_create``; ``do_orm_execute``; ``after_begin`` for each
connection; ``after_flush``; then ``before_commit``, the commits of open savepoints, a flush, COMMIT, ``after_commit``,
and, also after a rollback or a close, ``after_transaction_end``. By then its connections have been given back.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, scoped_session, sessionmaker

from ... import scopes
from ...cache import Cache
from ...errors import ConfigurationError
from ...targets import server_key, tag_keys
from .finding import find
from .rows import Tables, listen, mapper_of, turned
from .ties import Tie, clean, hold, ties

if TYPE_CHECKING:
    from ...outbox import Outbox


class Binding:
    """A cache, and what is done for it in the sessions that it is bound to."""

    def __init__(self, cache: Cache, tables: Tables, outbox: Outbox | None) -> None:
        self.cache: Cache = cache
        self.tables: Tables = tables
        self.outbox: Outbox | None = outbox

    def same(self, other: Binding) -> bool:
        """Whether `other` is for the same cache and does the same."""
        return (self.tables, self.outbox) == (other.tables, other.outbox)


_bindings: weakref.WeakKeyDictionary[Any, list[Binding]] = weakref.WeakKeyDictionary()
_made: weakref.WeakSet[type[Session]] = weakref.WeakSet()  # classes of our own, each for one async target


def bind(target: Any, cache: Cache, *, tables: Tables | None = None, outbox: Outbox | None = None) -> None:
    """Tie invalidations to the transactions of sessions.

    All that are made inside the transaction of a session (by decorated writes, `.invalidate()`, of tags, of whatever
    cache) are held, and delivered after its outermost commit, before ``commit()`` returns. A rollback, or `close`
    without a commit, drops them; the rollback of a savepoint drops its own. If the commit raised they are delivered,
    for it may be real, but no values of `@updates`. An AsyncSession awaits the delivery. Reads inside the transaction,
    of a key that is held, go to the store and fill nothing.

    What is inside: the context (task, thread) where the transaction began, those where the session executes or flushes,
    and decorated writes, and loads of cached functions, that have the session, or a row of it, among their arguments or
    as an attribute of the first.

    Args:
        target: a sessionmaker, async_sessionmaker, scoped_session, async_scoped_session, a Session or AsyncSession, or
            a class of these. Sessions that an async_sessionmaker made before are not tied.
        cache: whose keys `tables` and `outbox` are about; a target may be bound to several.
        tables: for mapped classes, what gives the keys of a row (one text or several, as `cache.invalidate` takes
            them). The keys of rows that a flush inserts, updates or deletes are invalidated; also those of the old
            values of its columns, as far as these were loaded. A row of a derived class has the keys of all its classes
            that are named. Bulk statements by ``session.execute`` turn the tag `table_tag(User)` instead.
        outbox: a `cacheside.outbox.Outbox`: the keys are written into its table in the same transaction, so that a
            relay delivers them if this process dies between the commit and the delivery. Two statements more.

    Raises:
        ConfigurationError: `target` is none of these, is in a transaction, or has been bound to this cache otherwise; a
            class in `tables` is not mapped.
    """
    if not isinstance(cache, Cache):
        raise ConfigurationError(f"bind() ties sessions to a Cache, not to {cache!r}")
    tables = {} if tables is None else dict(tables)
    for mapped, make in tables.items():
        mapper_of(mapped)
        if not callable(make):
            raise ConfigurationError(
                f"tables= has {make!r} for {mapped.__qualname__}: give a callable, row -> key or keys"
            )
    if outbox is not None and getattr(outbox, "core", None) is not cache._core:
        raise ConfigurationError(f"outbox= is an Outbox of this cache, as Outbox(cache), not {outbox!r}")
    new = Binding(cache, tables, outbox)
    events = _events_target(target)
    bindings = _bindings.setdefault(events, [])
    for old in bindings:
        if old.cache is cache:
            if old.same(new):
                return
            raise ConfigurationError(
                f"{target!r} has been bound to this cache, with other tables= or outbox=: bind it once, with all"
            )
    listen(tables)
    if not bindings:  # event.contains cannot be asked: it goes by id(), also of classes that are gone
        for name, handler in _HANDLERS.items():
            event.listen(events, name, handler)
    bindings.append(new)
    if find not in scopes.finders:
        scopes.finders.append(find)


def _events_target(target: Any) -> Any:
    """The class, or the session, whose events are those of `target`, and of nothing else."""
    if isinstance(target, (scoped_session, async_scoped_session)):
        target = target.session_factory
    if isinstance(target, AsyncSession):
        target = target.sync_session
    if isinstance(target, Session):
        if target.in_transaction():
            raise ConfigurationError("the session is in a transaction already: bind() it before its first use")
        return target
    if isinstance(target, sessionmaker):
        return target.class_  # each sessionmaker has a class of its own
    if isinstance(target, type) and issubclass(target, Session):
        return target
    if isinstance(target, async_sessionmaker):
        own = target.kw.get("sync_session_class") or target.class_.sync_session_class
        if own not in _made:
            own = _subclass(own)
            target.configure(sync_session_class=own)
        return own
    if isinstance(target, type) and issubclass(target, AsyncSession):
        own = target.__dict__.get("sync_session_class")
        if own not in _made:
            own = target.sync_session_class = _subclass(target.sync_session_class)
        return own
    raise ConfigurationError(
        f"bind() takes a sessionmaker, async_sessionmaker, scoped session, Session or AsyncSession, or a class of "
        f"sessions, not {target!r}"
    )


def _subclass(base: type[Session]) -> type[Session]:
    # Async makers share the class of their sync sessions, so that its events would be those of all.
    own = type(base.__name__, (base,), {"__module__": base.__module__})
    _made.add(own)
    return own


def _of(session: Session) -> list[Binding]:
    """The bindings of a session, one for each cache: its own first, then those of its classes."""
    found: dict[Cache, Binding] = {}
    for each in (session, *type(session).__mro__):
        for binding in _bindings.get(each, ()):
            found.setdefault(binding.cache, binding)
    return list(found.values())


# The handlers. One may be called twice for one event: a class and an instance of it may both be bound.


def _created(session: Session, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        clean()
        tie = ties.get(session)
        if tie is not None and not tie.knows(transaction):
            tie.lost(session)
        if session not in ties:
            ties[session] = Tie(session, _of(session))
    elif not transaction.nested:
        return  # that of a flush
    if session in ties:
        ties[session].begun(transaction)


def _connected(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    if tie := ties.get(session):
        tie.connected(connection, transaction.nested)


def _executing(state: ORMExecuteState) -> None:
    session = state.session
    bulk = state.is_insert or state.is_update or state.is_delete
    if bulk and session.autobegin and not session.in_transaction():
        session.begin()  # as it would do itself, after this event
    tie = ties.get(session)
    if tie is None:
        return
    tie.enter()
    for binding in tie.bindings if bulk else ():
        if binding.tables:
            core = binding.cache._core
            hold(tie, core, tag_keys(core, turned(binding.tables, state.statement)))


def _flushed(session: Session, context: object) -> None:
    if tie := ties.get(session):
        tie.enter()
        changed, tie.changed = tie.changed, {}
        for binding, texts in changed.items():
            core = binding.cache._core
            hold(tie, core, [server_key(core, each) for each in texts])
        tie.prepare(session)


def _committing(session: Session) -> None:
    if tie := ties.get(session):
        tie.preparing += 1
        tie.prepare(session)


def _committed(session: Session) -> None:
    if tie := ties.get(session):
        tie.committed()


def _rolled_back(session: Session, transaction: SessionTransaction) -> None:
    if tie := ties.get(session):
        tie.preparing = 0
        tie.changed = {}


def _ended(session: Session, transaction: SessionTransaction) -> None:
    if tie := ties.get(session):
        tie.ended(session, transaction)


_HANDLERS: dict[str, Any] = {
    "after_transaction_create": _created,
    "after_begin": _connected,
    "do_orm_execute": _executing,
    "after_flush": _flushed,
    "before_commit": _committing,
    "after_commit": _committed,
    "after_soft_rollback": _rolled_back,
    "after_transaction_end": _ended,
}
