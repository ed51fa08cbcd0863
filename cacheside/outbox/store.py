"""The table as a relay sees it: takes rows, and removes them. It needs SQLAlchemy.

On PostgreSQL, MariaDB from 10.6 and MySQL 8 rows are locked as they are taken, and locked rows are skipped: several
relays share the work, and a writer that is removing its rows is not waited for. Elsewhere two relays may take the same
rows; both then invalidate the same keys, which does no harm.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ..backends.urls import masked
from ..errors import ConfigurationError, MissingExtraError
from .listener import Listener
from .table import NOW, Outbox, StoreFailed, dialect_called

try:
    import sqlalchemy as sa
    from sqlalchemy import exc
except ImportError as _missing:
    raise MissingExtraError("a relay needs the package 'sqlalchemy': pip install 'cacheside[sqlalchemy]'") from _missing

from .urls import file_of, make_engine

HOLD = 60  # seconds after which PostgreSQL takes away the rows of a relay that has gone silent: its host is gone, say

# One that is disabled, or enabled for replicas only, does not fire.
_TRIGGER = sa.text(
    "SELECT count(*) FROM pg_trigger "
    "WHERE tgrelid = to_regclass(:table) AND tgname = :trigger AND tgenabled IN ('O', 'A')"
)


class Found(NamedTuple):
    """A row that was taken."""

    id: str
    entries: str
    created: float


BEGINNING = Found("", "", -1.0)


class Page(NamedTuple):
    """Some rows, in order: those that were taken, the last of all, and whether there may be more behind it."""

    taken: list[Found]
    last: Found
    more: bool


class OutboxStore:
    """The database with the table of an outbox.

    Args:
        outbox: see there.
        store: a URL: ``postgresql://``, ``mariadb://`` or ``mysql://``, ``sqlite:///path``, or one of SQLAlchemy's with
            a driver of plain code; or an engine, of which two connections are used.

    Raises:
        ConfigurationError: a URL that cannot work.
        MissingExtraError: the driver is not installed.
    """

    def __init__(self, outbox: Outbox, store: Any) -> None:
        self._outbox = outbox
        self._engine = self._own = make_engine(store) if isinstance(store, str) else None
        if self._engine is None:
            if not isinstance(store, sa.Engine):
                raise ConfigurationError(
                    f"a relay takes the URL of a database or an Engine of SQLAlchemy, not {store!r}"
                )
            self._engine = store
        dialect = dialect_called(self._engine.dialect.name)
        if dialect not in NOW:
            raise ConfigurationError(f"a relay works on {', '.join(NOW)}, not on {dialect!r}")
        self.label: str = masked(self._engine.url.render_as_string(hide_password=True))
        """How the log calls it; never with a password."""
        self._dialect = dialect
        self._file = file_of(self._own.url) if self._own is not None else None
        if dialect != "sqlite":
            # MariaDB's default would lock the gaps between rows, and so keep writers from inserting.
            self._engine = self._engine.execution_options(isolation_level="READ COMMITTED")

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """A connection, and where the table notifies of new rows a second one that hears of them.

        Raises:
            StoreFailed: the database cannot be reached, or there is no such file or table.
            ConfigurationError: the URL has an option that the driver does not know.
        """
        assert self._engine is not None  # as made above
        if self._file is not None:
            try:
                self._file.stat()  # SQLite would make it
            except OSError as error:
                raise StoreFailed(f"a relay needs the file of the application, and makes none: {error}") from None
        with contextlib.ExitStack() as stack:
            # The isolation level is set, and LISTEN executed, by the driver itself.
            driver: Any = self._engine.dialect.loaded_dbapi
            with failing(self.label, driver.Error):
                try:
                    connection = stack.enter_context(self._engine.connect())
                except TypeError as error:
                    raise ConfigurationError(f"{self.label} has an option that cannot work: {error}") from None
                session = Session(self._outbox, self._dialect, self.label, connection)
                session.check()
                if self._engine.dialect.driver == "psycopg" and session.notified():
                    heard = stack.enter_context(self._engine.connect())
                    stack.callback(heard.invalidate)  # it must not go back to a pool: it listens
                    session.listener = Listener(heard.connection.driver_connection, self._outbox.channel)
            yield session

    def close(self) -> None:
        """Forget the engine, if it was made for this."""
        if self._own is not None:
            self._own.dispose()


class Session:
    """A connection to it. What any method raises is a `StoreFailed`."""

    def __init__(self, outbox: Outbox, dialect: str, label: str, connection: sa.Connection) -> None:
        self._outbox = outbox
        self._label = label
        self._connection = connection
        self._namespace = {"namespace": outbox.namespace}
        self.listener: Listener | None = None
        """Hears of new rows; None where rows have to be looked for."""
        table, now = outbox.table, f"(SELECT {NOW[dialect]})"
        # A row from the future is one from before the clock was put back.
        due = f"namespace = :namespace AND (created <= {now} - :delay OR created > {now})"
        after = "(created > :created OR (created = :created AND id > :id))"
        self._select = sa.text(
            f"SELECT id, entries, created FROM {table} WHERE {due} AND {after} ORDER BY created, id LIMIT :limit"
        )
        # MariaDB goes through all of a small table, in whatever order, and locks what it passes: so by the key, and for
        # removing, where that cannot be asked for, one by one.
        hint = " FORCE INDEX (PRIMARY)" if dialect == "mariadb" else ""
        lock = sa.text(f"SELECT id FROM {table}{hint} WHERE id IN :ids FOR UPDATE SKIP LOCKED")
        lock = lock.bindparams(sa.bindparam("ids", expanding=True))
        self._lock = lock if _skips_locked(connection.dialect) else None
        # Until its own end it would keep the rows locked, and skipped by others: by default for two hours.
        silence = f"SET LOCAL idle_in_transaction_session_timeout = '{HOLD}s'"
        self._silence = sa.text(silence) if dialect == "postgresql" else None
        self._delete = sa.text(outbox.delete_sql)
        self._oldest = sa.text(f"SELECT min(created) + :delay - {now} FROM {table} WHERE namespace = :namespace")

    def check(self) -> None:
        """That the table is there.

        Raises:
            StoreFailed: it is not.
        """
        schema, _, name = self._outbox.table.rpartition(".")
        with failing(self._label):
            there = sa.inspect(self._connection).has_table(name, schema=schema or None)
            self._connection.rollback()
        if not there:
            raise StoreFailed(
                f"there is no table {self._outbox.table}: Outbox(cache).ddl('postgresql'), 'mariadb' or 'sqlite' makes "
                "it, or Outbox(cache).sqlalchemy_table(metadata) in a migration"
            )

    def notified(self) -> bool:
        """Whether the table has the trigger that notifies; only for PostgreSQL."""
        with failing(self._label):
            found = self._connection.scalar(_TRIGGER, {"table": self._outbox.table, "trigger": self._outbox.trigger})
            self._connection.rollback()
        return bool(found)

    def take(self, limit: int, delay: float, after: Found) -> Page:
        """Rows that are older than `delay` seconds, the oldest first, behind the row `after`. Then `remove`, `done`."""
        arguments = {"limit": limit, "delay": delay, "created": after.created, "id": after.id}
        with failing(self._label):
            rows = [Found(*row) for row in self._connection.execute(self._select, {**self._namespace, **arguments})]
            taken = rows
            if self._lock is None:
                self._connection.rollback()  # so that nobody waits for a lock that does no good
            elif rows:
                if self._silence is not None:
                    self._connection.execute(self._silence)
                locked = set(self._connection.scalars(self._lock, {"ids": [row.id for row in rows]}))
                taken = [row for row in rows if row.id in locked]
        return Page(taken, rows[-1] if rows else after, len(rows) == limit)

    def remove(self, ids: Sequence[str]) -> int:
        """Remove rows; how many were there."""
        if not ids:
            return 0
        with failing(self._label):
            return self._connection.execute(self._delete, [{"id": each} for each in ids]).rowcount

    def done(self) -> None:
        """Commit, so that what was taken and is still there may be taken again."""
        with failing(self._label):
            self._connection.commit()

    def next_due(self, delay: float) -> float | None:
        """In how many seconds the oldest row is due; None: there is none."""
        with failing(self._label):
            seconds = self._connection.execute(self._oldest, {**self._namespace, "delay": delay}).scalar()
            self._connection.rollback()
        return None if seconds is None else float(seconds)


@contextlib.contextmanager
def failing(label: str, *errors: type[Exception]) -> Iterator[None]:
    """What SQLAlchemy raises, and any of `errors`, becomes a `StoreFailed`."""
    told: tuple[type[Exception], ...] = (exc.SQLAlchemyError, *errors)
    try:
        yield
    except told as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise StoreFailed(f"{label} fails: {reason}") from error


def _skips_locked(dialect: Any) -> bool:
    if dialect.name == "postgresql":
        return True
    if dialect.name not in ("mysql", "mariadb"):
        return False
    return bool(dialect.server_version_info >= ((10, 6) if dialect.is_mariadb else (8, 0, 1)))
