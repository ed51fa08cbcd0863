"""Writes the rows of one transaction over the application's own DB-API connection, and removes them after it."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..core import Core
from ..errors import ConfigurationError

if TYPE_CHECKING:
    from .table import Outbox

_IDLE, _ABORTED = 0, 3  # libpq's PQTRANS_IDLE and PQTRANS_INERROR
_IN_TRANSACTION = 1  # MySQL's SERVER_STATUS_IN_TRANS


class ConnectionRecorder:
    """Records the keys of one ``cache.transaction()`` block. Made by `Outbox.on`; one for each block.

    A row is inserted when a decorated write returns, into the transaction that is open on the connection then: so the
    commit has to come after that, inside the block. (An `.invalidate()` before the first write begins one.) At the end
    of the block the rows are removed by a transaction of their own, if the connection is in none; what cannot be
    removed is left to the relay.
    """

    def __init__(self, outbox: Outbox, connection: Any) -> None:
        if not all(callable(getattr(connection, verb, None)) for verb in ("cursor", "commit", "rollback")):
            raise ConfigurationError(
                f"outbox.on() takes a DB-API connection (of psycopg, pymysql, sqlite3, ...), not {type(connection)!r}"
            )
        if inspect.iscoroutinefunction(connection.commit):
            raise ConfigurationError(
                f"outbox.on() takes a connection of plain code, not {type(connection)!r}: async sessions of SQLAlchemy "
                "have cacheside.integrations.sqlalchemy"
            )
        self._outbox = outbox
        self._connection = connection
        self._mark = _mark(connection)
        self._rows: list[tuple[str, Collection[str]]] = []

    def record(self, core: Core, keys: Collection[str]) -> None:
        """See `Recorder.record`. Keys of other caches than the outbox's are left out.

        Nothing is inserted into a transaction that PostgreSQL has aborted: it will not be committed, and what is raised
        here would hide the error of the write.

        Raises:
            ConfigurationError: the connection commits each statement by itself, and no transaction is open: the row
                would not be part of the write.
        """
        row = self._outbox.row(keys) if core is self._outbox.core else None
        if row is None or _status(self._connection) == _ABORTED:
            return
        if _idle(self._connection) and _commits_by_itself(self._connection):
            raise ConfigurationError(
                "this connection is in autocommit mode, and in no transaction: what the outbox records has to be "
                "committed together with the write. Begin a transaction around the write, and end it after it"
            )
        self._execute(self._outbox.insert_with(self._mark), [row])
        self._rows.append((row.id, keys))

    def delivered(self) -> None:
        """See `Recorder.delivered`. Rows stay whose keys are pending."""
        rows, self._rows = self._rows, []
        pending = self._outbox.core.pending
        ids = [(row,) for row, keys in rows if not pending.blocks(*keys)]
        if not ids:
            return
        try:
            if _idle(self._connection):
                self._execute(self._outbox.delete_with(self._mark), ids)
                self._connection.commit()
            else:
                self._outbox.left_behind("the connection is still in a transaction, or does not tell")
        except Exception as error:  # whatever the driver calls it; the write is done, and the relay will do the rest
            self._outbox.left_behind(repr(error))
            with suppress(Exception):  # it is lost, or closed
                self._connection.rollback()

    def _execute(self, statement: str, rows: Sequence[Sequence[str]]) -> None:
        cursor = self._connection.cursor()
        try:
            cursor.executemany(statement, rows)
        finally:
            cursor.close()


def _mark(connection: Any) -> str:
    """What stands for an argument in the statements of its driver."""
    module = type(connection).__module__
    while module:
        style = getattr(sys.modules.get(module), "paramstyle", None)
        if style is not None:
            if style in ("format", "pyformat"):
                return "%s"
            if style == "qmark":
                return "?"
            raise ConfigurationError(f"outbox.on(): the driver {module} has the paramstyle {style!r}: use another one")
        module = module.rpartition(".")[0]
    raise ConfigurationError(f"outbox.on(): {type(connection)!r} belongs to no DB-API driver")


def _status(connection: Any) -> Any:
    """That of its transaction, as libpq has it; None: it is not psycopg's."""
    return getattr(getattr(connection, "info", None), "transaction_status", None)


def _idle(connection: Any) -> bool:
    """Whether the connection is in no transaction, for all that is known."""
    status = _status(connection)
    if status is not None:
        return bool(status == _IDLE)
    if hasattr(connection, "in_transaction"):  # sqlite3
        return not connection.in_transaction
    if hasattr(connection, "server_status"):  # pymysql
        return not connection.server_status & _IN_TRANSACTION
    return False


def _commits_by_itself(connection: Any) -> bool:
    """Whether it is in autocommit mode."""
    if hasattr(connection, "isolation_level") and hasattr(connection, "in_transaction"):  # sqlite3
        by_itself = getattr(connection, "autocommit", -1)  # before 3.12 there is only the old way, which is -1 since
        return connection.isolation_level is None if by_itself == -1 else bool(by_itself)
    if hasattr(connection, "get_autocommit"):  # pymysql
        return bool(connection.get_autocommit())
    return bool(getattr(connection, "autocommit", False))
