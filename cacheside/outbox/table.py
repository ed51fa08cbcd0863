"""The table of an outbox: its definition for each database, its statements, and what stands in a row."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from ..cache import Cache
from ..errors import CachesideError, ConfigurationError
from ..expiry import Duration
from ..health import logger

if TYPE_CHECKING:
    import sqlalchemy

    from .recorder import ConnectionRecorder
    from .relay import Relay, Totals

Dialect: TypeAlias = Literal["postgresql", "mariadb", "sqlite"]

NOW: Final[dict[str, str]] = {
    "postgresql": "extract(epoch from clock_timestamp())",
    # UNIX_TIMESTAMP() has whole seconds, and UNIX_TIMESTAMP(NOW(6)) goes back by an hour each autumn.
    "mariadb": "timestampdiff(microsecond, '1970-01-01', utc_timestamp(6)) / 1e6",
    "sqlite": "(julianday('now') - 2440587.5) * 86400.0",
}
"""The seconds since 1970 by the clock of each database."""

_NAME = re.compile(r"([a-z_][a-z0-9_]{0,62}\.)?[a-z_][a-z0-9_]{0,47}")  # a suffix still fits into PostgreSQL's 63
_LONGEST_NAMESPACE = 255


class StoreFailed(CachesideError):
    """The database of a relay cannot be reached, or would not do what it was asked."""


class Row(NamedTuple):
    """A row, as a writer inserts it; the database adds the time.

    `id`: 32 hexadecimal digits; `namespace`: the cache's, escaped as in keys; `entries`: the keys without it, as JSON.
    """

    id: str
    namespace: str
    entries: str


class Outbox:
    """The table in which the writes of one cache leave their keys.

    Args:
        cache: a cache on a server. Only its keys are recorded.
        table: the name of the table, with its schema if need be: small letters, digits and underscores.
        notify: on PostgreSQL the table has a trigger that notifies relays of new rows. False: they poll, as they do on
            other databases. PostgreSQL refuses to prepare transactions (two-phase commit) that have notified.

    Raises:
        ConfigurationError: the cache is in this process, or the name is no plain one.
    """

    def __init__(self, cache: Cache, *, table: str = "cacheside_outbox", notify: bool = True) -> None:
        if not isinstance(cache, Cache):
            raise ConfigurationError(f"an outbox belongs to a Cache, not to {cache!r}")
        self.core: Any = cache._core
        if self.core.in_process:
            raise ConfigurationError(
                f"{self.core.label} needs no outbox: its entries live in this process, and are gone when it dies; an "
                "outbox is for a cache on a server"
            )
        if not isinstance(table, str) or not _NAME.fullmatch(table):
            raise ConfigurationError(
                f"table= is a name of small letters, digits and underscores, 48 at most, like 'cacheside_outbox' or "
                f"'app.cacheside_outbox', not {table!r}"
            )
        self.table: str = table
        """The name of the table, perhaps with a schema."""
        self.notify: bool = notify
        self.namespace: str = self.core.prefix[:-1]
        """What stands in the column `namespace`: the cache's, escaped as in keys."""
        if len(self.namespace) > _LONGEST_NAMESPACE:
            raise ConfigurationError(f"an outbox takes a namespace of {_LONGEST_NAMESPACE} characters at most, escaped")
        self.insert_sql: str = f"INSERT INTO {table} (id, namespace, entries) VALUES (:id, :namespace, :entries)"
        """With named parameters, as `sqlalchemy.text` takes them: the fields of a `Row`."""
        self.delete_sql: str = f"DELETE FROM {table} WHERE id = :id"
        """With a named parameter."""
        self._complained = False

    def __repr__(self) -> str:
        return f"<Outbox {self.table} of {self.core.label} namespace={self.namespace!r}>"

    def left_behind(self, why: str) -> None:
        """Rows of what has been delivered could not be removed: the first time that is logged."""
        if not self._complained:
            self._complained = True
            logger().warning("%s: rows are left to the relay: %s", self.table, why)

    def insert_with(self, mark: str) -> str:
        """`insert_sql` for a DB-API driver: `mark`, "%s" or "?", stands for each field of a `Row`, in their order."""
        return f"INSERT INTO {self.table} (id, namespace, entries) VALUES ({mark}, {mark}, {mark})"

    def delete_with(self, mark: str) -> str:
        """`delete_sql` for a DB-API driver."""
        return f"DELETE FROM {self.table} WHERE id = {mark}"

    def row(self, keys: Collection[str]) -> Row | None:
        """A new row for `keys`, as the backend knows them (tags too); None if there are none."""
        if not keys:
            return None
        start = len(self.core.prefix)
        return Row(uuid.uuid4().hex, self.namespace, json.dumps([key[start:] for key in keys], separators=(",", ":")))

    def keys(self, entries: str) -> list[str]:
        """The keys of a row, as the backend knows them.

        Raises:
            ValueError: it is not what `row` makes.
        """
        texts = json.loads(entries)
        if not isinstance(texts, list) or not all(isinstance(text, str) and _is_key(text) for text in texts):
            raise ValueError("not a list of keys")
        return [self.core.prefix + text for text in texts]

    def on(self, connection: Any) -> ConnectionRecorder:
        """For ``cache.transaction(outbox=outbox.on(connection))``: records the keys of that block.

        Args:
            connection: the DB-API connection on which the block writes: of psycopg, pymysql, sqlite3, or any other
                driver whose marks are "%s" or "?".

        Raises:
            ConfigurationError: it is none, or an async one.
        """
        from .recorder import ConnectionRecorder

        return ConnectionRecorder(self, connection)

    def relay(
        self,
        store: Any,
        *,
        delay: Duration = 1.0,
        poll: Duration = 1.0,
        batch: int = 500,
        report: Callable[[Totals], object] = lambda totals: None,
    ) -> Relay:
        """A relay for this process, with the arguments and errors of `Relay`.

        ``with outbox.relay(url):`` runs it in a thread, ``await outbox.relay(url).arun()`` in a task.
        """
        from .relay import Relay

        return Relay(self, store, delay=delay, poll=poll, batch=batch, report=report)

    def statements(self, dialect: Dialect) -> tuple[str, ...]:
        """The statements that make the table, where it is not there yet.

        Raises:
            ConfigurationError: another dialect than "postgresql", "mariadb" and "sqlite".
        """
        if dialect not in NOW:
            raise ConfigurationError(f"an outbox is made for {', '.join(map(repr, NOW))}, not for {dialect!r}")
        schema, dot, name = self.table.rpartition(".")
        now = NOW[dialect]
        if dialect == "mariadb":
            # Names are compared byte by byte, which is not this database's habit.
            return (
                f"CREATE TABLE IF NOT EXISTS {self.table} (\n"
                "    id CHAR(32) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY,\n"
                f"    namespace VARCHAR({_LONGEST_NAMESPACE}) CHARACTER SET ascii COLLATE ascii_bin NOT NULL,\n"
                "    entries MEDIUMTEXT CHARACTER SET ascii NOT NULL,\n"
                f"    created DOUBLE NOT NULL DEFAULT ({now}),\n"
                f"    KEY {name}_created (created)\n"
                ") ENGINE=InnoDB",
            )
        table = (
            f"CREATE TABLE IF NOT EXISTS {self.table} (\n"
            "    id CHAR(32) NOT NULL PRIMARY KEY,\n"
            f"    namespace VARCHAR({_LONGEST_NAMESPACE}) NOT NULL,\n"
            "    entries TEXT NOT NULL,\n"
            f"    created {'DOUBLE' if dialect == 'sqlite' else 'DOUBLE PRECISION'} NOT NULL DEFAULT ({now})\n"
            ")"
        )
        if dialect == "sqlite":
            return table, f"CREATE INDEX IF NOT EXISTS {schema}{dot}{name}_created ON {name} (created)"
        return (table, f"CREATE INDEX IF NOT EXISTS {name}_created ON {self.table} (created)", *self.notifying())

    def notifying(self) -> tuple[str, ...]:
        """The statements that make PostgreSQL notify the relays of new rows; none without `notify`.

        `statements` has them too. They are for a migration that makes the table from its columns, on PostgreSQL::

            for statement in outbox.notifying():
                op.execute(statement)
        """
        if not self.notify:
            return ()
        return (
            f"CREATE OR REPLACE FUNCTION {self.table}_notify() RETURNS trigger LANGUAGE plpgsql AS $$\n"
            f"BEGIN NOTIFY {self.channel}; RETURN NULL; END $$",
            f"CREATE OR REPLACE TRIGGER {self.trigger} AFTER INSERT ON {self.table}\n"
            f"    FOR EACH STATEMENT EXECUTE FUNCTION {self.table}_notify()",
        )

    @property
    def channel(self) -> str:
        """On which PostgreSQL notifies: the name of the table without its schema."""
        return self.table.rpartition(".")[2]

    @property
    def trigger(self) -> str:
        """What the trigger on PostgreSQL is called; relays look for it."""
        return f"{self.channel}_notify"

    def ddl(self, dialect: Dialect) -> str:
        """`statements` as one text, for a migration: each ends with a semicolon. `notifying` is among them."""
        return "".join(f"{statement};\n" for statement in self.statements(dialect))

    def sqlalchemy_table(self, metadata: sqlalchemy.MetaData) -> sqlalchemy.Table:
        """The table for SQLAlchemy and Alembic: ``metadata.create_all`` makes what `statements` does.

        A migration with ``op.create_table``, as Alembic writes it, makes the columns alone: on PostgreSQL it has to
        execute the statements of `notifying` too, else relays poll.

        Raises:
            MissingExtraError: SQLAlchemy is not installed.
        """
        from .schema import make_table

        return make_table(self, metadata)


def dialect_called(name: str) -> str:
    """The name of a dialect here, by SQLAlchemy's name."""
    return "mariadb" if name == "mysql" else name


def _is_key(text: str) -> bool:
    # What can be no key may be an attack on the server's protocol.
    return bool(text) and text.isascii() and text.isprintable() and " " not in text
