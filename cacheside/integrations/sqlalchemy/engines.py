"""What is done on the connections of a transaction: writes, commits, rollbacks past its session; what a load may see.

A session cannot tell: statements may be executed on its connection, and a commit that raised may have arrived.

What is loaded in a transaction that has written may never be committed, so it is not filled. Nor is what a transaction
that is isolated by more than READ COMMITTED loads, if the load began after its first statement: it reads what was there
then, and the row may have been written, and invalidated, since. Its lease is younger than its snapshot, so it says
nothing. (A load that the transaction began with has the older lease.)
"""

from __future__ import annotations

import re
import weakref
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, ExceptionContext, NestedTransaction, event

from ...flight import Flight, loading
from ...health import logger


class Watched(Protocol):
    """A transaction whose connections are watched."""

    wrote: bool
    """Whether a statement that writes was sent. False if it is not known: then nothing is lost, see `settle`."""

    tried: bool
    """Whether a COMMIT was sent, or a statement that writes and commits by itself."""

    snapshot: bool
    """Whether it reads from a snapshot."""

    first: tuple[Flight, ...] | None
    """The loads that its first statement was executed in; None: it has executed none."""

    def doubt(self) -> None:
        """Something that was written in it was rolled back past its session, which may not know it."""
        ...


_COMMENT = r"/\*[^*]*\*+(?:[^/*][^*]*\*+)*/|--[^\n]*\n"  # not `.*?`, which tries all ways to split a row of them

_WRITES = re.compile(
    rf"(?:[\s(]|{_COMMENT})*"
    r"(?:insert|update|delete|merge|replace|upsert|truncate|copy|load|call|exec|do|create|alter|drop"
    r"|with\b.*?\b(?:insert\s+into|(?<!for )(?<!key )update|delete\s+from|merge\s+into))\b",
    re.IGNORECASE | re.DOTALL,
)

_ENDS = re.compile(rf"(?:\s|{_COMMENT})*(?:(commit|end)|rollback)\b", re.IGNORECASE)

_watched: weakref.WeakKeyDictionary[Connection, Watched] = weakref.WeakKeyDictionary()
_autocommit: weakref.WeakSet[Connection] = weakref.WeakSet()
_own: weakref.WeakSet[NestedTransaction] = weakref.WeakSet()  # savepoints of sessions
_undoing: weakref.WeakKeyDictionary[Connection, str] = weakref.WeakKeyDictionary()  # such a one, by its name
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
_told: weakref.WeakSet[Engine] = weakref.WeakSet()


def watch(connection: Connection, transaction: Watched, nested: bool) -> None:
    """Note on `transaction` what is done on `connection` from now on.

    Args:
        nested: its session has just begun a savepoint there.
    """
    _watched[connection] = transaction
    savepoint = connection.get_nested_transaction() if nested else None
    if savepoint is not None:
        _own.add(savepoint)
    level = (
        connection.get_execution_options().get("isolation_level")
        # create_engine(isolation_level=...) shows nowhere else
        or getattr(connection.dialect, "_on_connect_isolation_level", None)
        or connection.default_isolation_level
    )
    if level == "AUTOCOMMIT":
        _autocommit.add(connection)
    else:
        _autocommit.discard(connection)
    transaction.snapshot = transaction.snapshot or level in ("REPEATABLE READ", "SNAPSHOT", "SERIALIZABLE")
    engine = connection.engine
    if engine not in _engines:
        _engines.add(engine)
        event.listen(engine, "before_cursor_execute", _execute)
        event.listen(engine, "commit", _commit)
        event.listen(engine, "commit_twophase", _commit)
        event.listen(engine, "rollback_savepoint", _roll_back_to)
        event.listen(engine, "handle_error", _failed)


def _execute(connection: Connection, cursor: Any, statement: str, *rest: object) -> None:
    transaction = _watched.get(connection)
    if transaction is None:
        return
    if not transaction.wrote or connection in _autocommit:
        writes = _WRITES.match(statement) is not None
        transaction.wrote = transaction.wrote or writes
        transaction.tried = transaction.tried or (writes and connection in _autocommit)
    if ends := _ENDS.match(statement):
        if ends[1]:
            transaction.tried = True
        elif (own := _undoing.pop(connection, None)) is None or own not in statement:
            transaction.doubt()
    inside = loading.get()
    if transaction.wrote and not transaction.tried:
        for flight in inside:
            flight.private = True
    if transaction.snapshot and _in_transaction(connection):
        if transaction.first is None:
            transaction.first = inside
        for flight in inside:
            if flight not in transaction.first:
                flight.private = True
                _tell(connection.engine)


def _tell(engine: Engine) -> None:
    if engine not in _told:
        _told.add(engine)
        logger().warning(
            "%s: cached functions load from transactions that read from a snapshot: what they load after the first "
            'statement is not kept. With create_engine(..., isolation_level="READ COMMITTED") it is',
            engine.url.render_as_string(),
        )


def _in_transaction(connection: Connection) -> bool:
    """False where SQLite's driver has not begun one: it does so, if it is left to it, only before a write."""
    if connection.dialect.name != "sqlite":
        return True
    return bool(getattr(connection.connection.driver_connection, "in_transaction", True))


def _commit(connection: Connection, *rest: object) -> None:
    transaction = _watched.get(connection)
    if transaction is not None:
        transaction.tried = True


def _roll_back_to(connection: Connection, name: str, context: object) -> None:
    transaction = _watched.get(connection)
    if transaction is None:
        return
    if connection.get_nested_transaction() in _own:  # its session tells of it; the statement comes next
        _undoing[connection] = name
    else:
        transaction.doubt()


def _failed(context: ExceptionContext) -> None:
    # A database may have rolled back the whole transaction (MariaDB after a deadlock), and goes on in a new one.
    transaction = None if context.connection is None else _watched.get(context.connection)
    if transaction is not None:
        transaction.doubt()
