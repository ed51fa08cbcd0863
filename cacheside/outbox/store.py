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
from ..errors import CachesideError, ConfigurationError, MissingExtraError
from .listener import Listener
from .table import NOW, Outbox, dialect_called

try:
    import sqlalchemy as sa
    from sqlalchemy import exc, pool
except ImportError as _missing:
    raise MissingExtraError("a relay needs the package 'sqlalchemy': pip install 'cacheside[sqlalchemy]'") from _missing

PATIENCE = 5  # seconds to connect
_STUCK = 30  # seconds without an answer

_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
_WAIT: dict[str, dict[str, int]] = {
    "psycopg": {"connect_timeout": PATIENCE},
    "pymysql": {"connect_timeout": PATIENCE, "read_timeout": _STUCK, "write_timeout": _STUCK},
}


class StoreFailed(CachesideError):
    """The database cannot be reached, or would not do what it was asked."""


class Found(NamedTuple):
    """A row that was taken."""

    id: str
    entries: str
    created: float


BEGINNING = Found("", "", -1.0)


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
        self._engine = self._own = _engine(store) if isinstance(store, str) else None
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
        if dialect != "sqlite":
            # MariaDB's default would lock the gaps between rows, and so keep writers from inserting.
            self._engine = self._engine.execution_options(isolation_level="READ COMMITTED")

    @contextlib.contextmanager
    def session(self) -> Iterator[Session]:
        """A connection, and where it is possible a second one that hears of new rows.

        Raises:
            StoreFailed: in the block as well.
        """
        with contextlib.ExitStack() as stack, failing(self.label):
            assert self._engine is not None  # as made above
            connection = stack.enter_context(self._engine.connect())
            session = Session(self._outbox, self._dialect, connection)
            session.check()
            if self._engine.dialect.driver == "psycopg":
                heard = stack.enter_context(self._engine.connect())
                session.listener = Listener(heard.connection.driver_connection, self._outbox.channel)
                stack.callback(heard.invalidate)  # it must not go back to a pool: it listens
            yield session

    def close(self) -> None:
        """Forget the engine, if it was made for this."""
        if self._own is not None:
            self._own.dispose()


class Session:
    """A connection to it. What any method raises is a `StoreFailed`, by way of `OutboxStore.session`."""

    def __init__(self, outbox: Outbox, dialect: str, connection: sa.Connection) -> None:
        self._outbox = outbox
        self._connection = connection
        self._namespace = {"namespace": outbox.namespace}
        self.listener: Listener | None = None
        """Hears of new rows; None where rows have to be looked for."""
        table, now = outbox.table, f"(SELECT {NOW[dialect]})"
        # A row from the future is one from before the clock was put back.
        due = f"namespace = :namespace AND (created <= {now} - :delay OR created > {now})"
        after = "(created > :created OR (created = :created AND id > :id))"
        locked = " FOR UPDATE SKIP LOCKED" if _skips_locked(connection.dialect) else ""
        self._select = sa.text(
            f"SELECT id, entries, created FROM {table} WHERE {due} AND {after} "
            f"ORDER BY created, id LIMIT :limit{locked}"
        )
        self._delete = sa.text(f"DELETE FROM {table} WHERE id IN :ids").bindparams(sa.bindparam("ids", expanding=True))
        self._oldest = sa.text(f"SELECT min(created) + :delay - {now} FROM {table} WHERE namespace = :namespace")

    def check(self) -> None:
        """That the table is there.

        Raises:
            StoreFailed: it is not.
        """
        schema, _, name = self._outbox.table.rpartition(".")
        if not sa.inspect(self._connection).has_table(name, schema=schema or None):
            raise StoreFailed(
                f"there is no table {self._outbox.table}: Outbox(cache).ddl('postgresql'), 'mariadb' or 'sqlite' makes "
                "it, or Outbox(cache).sqlalchemy_table(metadata) in a migration"
            )
        self._connection.rollback()

    def take(self, limit: int, delay: float, after: Found) -> list[Found]:
        """Rows that are older than `delay` seconds, the oldest first, behind the row `after`. Then `remove`, `done`."""
        arguments = {"limit": limit, "delay": delay, "created": after.created, "id": after.id}
        rows = self._connection.execute(self._select, {**self._namespace, **arguments}).all()
        if not self._select.text.endswith("LOCKED"):
            self._connection.rollback()  # so that nobody waits for a lock that does no good
        return [Found(*row) for row in rows]

    def remove(self, ids: Sequence[str]) -> int:
        """Remove rows; how many were there."""
        return self._connection.execute(self._delete, {"ids": list(ids)}).rowcount if ids else 0

    def done(self) -> None:
        """Commit, so that what was taken and is still there may be taken again."""
        self._connection.commit()

    def next_due(self, delay: float) -> float | None:
        """In how many seconds the oldest row is due; None: there is none."""
        seconds = self._connection.execute(self._oldest, {**self._namespace, "delay": delay}).scalar()
        self._connection.rollback()
        return None if seconds is None else float(seconds)


@contextlib.contextmanager
def failing(label: str) -> Iterator[None]:
    """What the database or its driver raises becomes a `StoreFailed`."""
    try:
        yield
    except (exc.SQLAlchemyError, OSError) as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise StoreFailed(f"{label} fails: {reason}") from error


def _engine(text: str) -> sa.Engine:
    scheme, separator, rest = text.partition("://")
    shown = masked(text)
    try:
        url = sa.make_url(f"{_DRIVERS.get(scheme, scheme)}{separator}{rest}")
        dialect = url.get_dialect()
    except (exc.ArgumentError, ValueError):  # from None: its text may quote the password
        raise ConfigurationError(
            f"a store is 'postgresql://user@host/database', 'mariadb://user@host/database' or 'sqlite:///path', "
            f"not {shown!r}"
        ) from None
    if dialect.is_async:
        raise ConfigurationError(f"a relay needs a driver of plain code, as for 'postgresql://...', not {shown!r}")
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise ConfigurationError(f"{shown!r} is in memory, where no other process sees it: 'sqlite:///path' is a file")
    given = {name: value for name, value in _WAIT.get(dialect.driver, {}).items() if name not in url.query}
    try:
        return sa.create_engine(url, poolclass=pool.NullPool, connect_args=given)
    except ImportError as error:
        extra = "'cacheside[postgresql]'" if dialect.driver == "psycopg" else dialect.driver
        raise MissingExtraError(f"{shown} needs the package {dialect.driver!r}: pip install {extra}") from error
    except exc.SQLAlchemyError as error:
        raise ConfigurationError(f"{shown} cannot work: {error}") from None


def _skips_locked(dialect: Any) -> bool:
    if dialect.name == "postgresql":
        return True
    if dialect.name not in ("mysql", "mariadb"):
        return False
    return bool(dialect.server_version_info >= ((10, 6) if dialect.is_mariadb else (8, 0, 1)))
