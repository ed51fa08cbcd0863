"""The outbox: keys that are in the database exactly if the write is."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pymysql
import pytest
import sqlalchemy as sa
from outbox_tools import DATABASES, DIALECTS, Store, make_database, opened_store
from servers import MemcachedServer, PostgresServer, RedisServer
from sqlalchemy.dialects import oracle

from cacheside import Cache, CacheUnavailable, ConfigurationError
from cacheside.outbox import Outbox, Row

NOWHERE = "redis://127.0.0.1:1/0"  # connected to by nobody


@pytest.fixture(params=DATABASES)
def store(request: pytest.FixtureRequest, url: str) -> Iterator[Store]:
    """A store on each kind of database, behind each kind of cache."""
    with opened_store(request, request.param, url) as made:
        yield made


@pytest.fixture(params=DATABASES)
def redis_store(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[Store]:
    """The same, behind Redis only."""
    with opened_store(request, request.param, redis_server.url) as made:
        yield made


# The table.


def test_ddl_can_be_run_again(redis_store: Store) -> None:
    """What `statements` gives makes the table, or finds it there; the time is the database's, in seconds since 1970."""
    for statement in redis_store.outbox.statements(redis_store.database.dialect):
        redis_store.run(statement)
    redis_store.put("a")
    ((age,),) = redis_store.look(f"SELECT {time.time()!r} - created FROM {redis_store.outbox.table}")
    assert abs(float(age)) < 30
    ddl = redis_store.outbox.ddl(redis_store.database.dialect)
    assert all(f"{each};\n" in ddl for each in redis_store.outbox.statements(redis_store.database.dialect))


def columns_of(connection: sa.Connection, table: str) -> list[tuple[str, str, bool]]:
    """Name, type and nullability of each column; the default is tried by inserting."""
    inspector = sa.inspect(connection)
    return [
        (each["name"], each["type"].compile(connection.dialect), each["nullable"])
        for each in inspector.get_columns(table)
    ]


def test_sqlalchemy_table_is_the_same(redis_store: Store) -> None:
    """`create_all` makes the columns and the index that the DDL makes, and takes `insert_sql` and `delete_sql`."""
    outbox = redis_store.outbox
    twin = Outbox(redis_store.cache, table=f"{outbox.table}_sa")
    metadata = sa.MetaData()
    table = twin.sqlalchemy_table(metadata)
    scheme, _, rest = redis_store.database.url.partition("://")
    url = f"{ {'postgresql': 'postgresql+psycopg', 'mysql': 'mariadb+pymysql'}.get(scheme, scheme) }://{rest}"
    engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
    metadata.create_all(engine)
    row = twin.row([f"{outbox.core.prefix}a"])
    assert row is not None
    with engine.begin() as connection:
        assert columns_of(connection, twin.table) == columns_of(connection, outbox.table)
        indexes = [
            [each["column_names"] for each in sa.inspect(connection).get_indexes(name)]
            for name in (outbox.table, twin.table)
        ]
        assert indexes == [[["created"]], [["created"]]]
        connection.execute(sa.text(twin.insert_sql), row._asdict())
        ((found, *fields, created),) = connection.execute(sa.select(table)).all()
        assert Row(found, *fields) == row
        assert abs(time.time() - created) < 30
        connection.execute(sa.text(twin.delete_sql), {"id": row.id})
        assert connection.execute(sa.select(table)).all() == []
        if connection.dialect.name == "postgresql":
            triggers = sa.text("SELECT count(*) FROM pg_trigger WHERE tgrelid = CAST(:name AS regclass)")
            assert [connection.scalar(triggers, {"name": name}) for name in (outbox.table, twin.table)] == [1, 1]


def test_schemas(request: pytest.FixtureRequest, redis_server: RedisServer) -> None:
    """A table may stand in a schema; so do its index and its trigger."""
    with contextlib.closing(make_database(request, "sqlite")) as database, Cache(redis_server.url) as cache:
        connection = database.connect()
        connection.execute("ATTACH ':memory:' AS app")
        connection.executescript(Outbox(cache, table="app.box").ddl("sqlite"))
        assert {name for (name,) in connection.execute("SELECT name FROM app.sqlite_master WHERE sql IS NOT NULL")} == {
            "box", "box_created",
        }  # fmt: skip
    ddl = Outbox(Cache(NOWHERE), table="app.box").ddl("postgresql")
    assert "ON app.box (created)" in ddl
    assert "FUNCTION app.box_notify()" in ddl
    assert "NOTIFY box;" in ddl


def test_rows() -> None:
    """A row holds its keys without the namespace, tags too, and gives them back; of no keys there is none."""
    outbox = Outbox(Cache(NOWHERE, namespace="my shop"))
    core = outbox.core
    keys = [f"{core.prefix}user:7", core.tag_key("org:1")]
    row = outbox.row(keys)
    assert row is not None
    assert (len(row.id), row.namespace, row.entries) == (32, "my%20shop", '["user:7","%tag:org:1"]')
    assert outbox.keys(row.entries) == keys
    assert outbox.row([]) is None
    other = outbox.row(keys)
    assert other is not None
    assert other.id != row.id


@pytest.mark.parametrize(
    "entries",
    ["", "nonsense", "7", "null", '{"a": 1}', "[7]", '[""]', '["a b"]', '["a\\r\\nflush_all"]', '["\\u00e9"]'],
)
def test_rows_that_make_no_sense(entries: str) -> None:
    """What is no list of keys is refused, above all what could be a command to the server."""
    with pytest.raises(ValueError):  # noqa: PT011 (of whatever text: json raises it too)
        Outbox(Cache(NOWHERE)).keys(entries)


# Its use.


def test_row_goes_with_the_write(store: Store) -> None:
    """The row is there when the write is committed, not before; when the block ends it is delivered and removed."""
    assert store.load(1) == 1
    with store.cache.transaction(outbox=store.outbox.on(store.connection)):
        store.write(1, 2)
        assert store.left() == []
        store.connection.commit()
        assert store.left() == [["row:1"]]
        with concurrent.futures.ThreadPoolExecutor(1) as others:  # where no transaction is around
            assert others.submit(store.load, 1).result() == 1  # here a crash would leave the old value
    assert store.left() == []
    assert store.load(1) == 2


def test_rolled_back(store: Store) -> None:
    """A rolled back write leaves no row."""
    with store.cache.transaction(outbox=store.outbox.on(store.connection)) as transaction:
        store.write(1, 2)
        store.connection.rollback()
        transaction.rollback()
    store.run(f"UPDATE {store.rows} SET version = 7 WHERE id = 2")
    store.connection.commit()
    assert store.left() == []
    assert store.read(1) == 1


def test_savepoint(redis_store: Store) -> None:
    """A rolled back savepoint takes its own rows along, and no others."""
    store = redis_store
    with store.cache.transaction(outbox=store.outbox.on(store.connection)):
        store.write(1, 2)
        store.run("SAVEPOINT s")
        store.write(2, 2)
        store.run("ROLLBACK TO SAVEPOINT s")
        store.write(3, 2)
        store.connection.commit()
        assert store.left() == [["row:1"], ["row:3"]]
    assert store.left() == []


def test_several_kinds_of_invalidation(redis_store: Store) -> None:
    """Tags, updates, strict writes and `.invalidate()` are recorded, too."""
    store = redis_store
    update = store.cache.updates("row:{number}")(lambda number: store.set(number, 5) or 5)
    strict = store.cache.invalidates("strict:{number}", strict=True)(lambda number: store.set(number, 6))
    with store.cache.transaction(outbox=store.outbox.on(store.connection)):
        store.cache.invalidate("early:1", tags=["all"])
        update(2)
        strict(3)
        store.connection.commit()
        assert store.left() == [["early:1", "%tag:all"], ["row:2"], ["strict:3"]]
    assert store.left() == []


def test_async_block(redis_store: Store) -> None:
    """`async with` records and removes as `with` does."""
    store = redis_store

    async def main() -> None:
        async with store.cache, store.cache.transaction(outbox=store.outbox.on(store.connection)):
            await store.cache.ainvalidate("row:1")
            store.set(1, 2)
            store.connection.commit()
            assert store.left() == [["row:1"]]
        assert store.left() == []

    asyncio.run(main())


def test_other_caches_are_not_recorded(redis_store: Store, namespace: str, redis_server: RedisServer) -> None:
    """Only keys of the outbox's own cache are recorded; those of another are delivered all the same."""
    store = redis_store
    with Cache(redis_server.url, namespace=namespace) as other:
        load = other.cached("x")(lambda: store.read(1))
        assert load() == 1
        with store.cache.transaction(outbox=store.outbox.on(store.connection)):
            other.invalidates("x")(store.set)(1, 2)
            store.connection.commit()
            assert store.left() == []
        assert load() == 2


def broken(request: pytest.FixtureRequest, kind: str) -> Any:
    """A cache server that is the test's own."""
    return request.getfixturevalue(f"new_{kind}")()


@pytest.mark.server
@pytest.mark.parametrize("kind", ["redis", "memcached"])
@pytest.mark.parametrize("dialect", DATABASES)
def test_cache_down(request: pytest.FixtureRequest, dialect: str, kind: str) -> None:
    """What the cache could not be told stays in the table; nothing is raised."""
    server: RedisServer | MemcachedServer = broken(request, kind)
    with opened_store(request, dialect, server.url) as store:
        server.kill()
        with store.cache.transaction(outbox=store.outbox.on(store.connection)):
            store.write(1, 2)
            store.connection.commit()
        assert store.left() == [["row:1"]]
        assert store.cache.stats().undelivered == 1


# What can go wrong.


def test_block_without_commit(redis_store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A commit that comes after the block leaves the rows to the relay: the block may not commit. It is logged once."""
    store = redis_store
    for number in (1, 2):
        with store.cache.transaction(outbox=store.outbox.on(store.connection)):
            store.write(number, 2)
        assert store.left() == [["row:1"]][: number - 1]
        store.connection.commit()
    assert store.left() == [["row:1"], ["row:2"]]
    assert [record.message for record in caplog.records] == [
        f"{store.outbox.table}: rows are left to the relay: the connection is still in a transaction, or does not tell"
    ]


def test_rows_that_cannot_be_removed(redis_store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A connection that is lost after the commit leaves its rows to the relay; the write does not fail. Logged once."""
    store = redis_store
    for number in (1, 2):
        connection = store.connection = store.database.connect()
        with store.cache.transaction(outbox=store.outbox.on(connection)):
            store.write(number, 2)
            connection.commit()
            connection.close()
    assert store.left() == [["row:1"], ["row:2"]]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "rows are left to the relay" in caplog.text


def autocommitting(store: Store) -> tuple[Any, Callable[[], Any]]:
    """A connection that commits each statement by itself, and what begins a transaction there."""
    connection = store.connection = store.database.connect()
    if isinstance(connection, psycopg.Connection):
        connection.autocommit = True
    elif isinstance(connection, pymysql.Connection):
        connection.autocommit(True)
    else:
        assert isinstance(connection, sqlite3.Connection)
        connection.isolation_level = None
    return connection, lambda: store.run("BEGIN")


def test_autocommit(redis_store: Store) -> None:
    """A connection that commits each statement by itself is refused, as the row would not go with the write; inside a
    transaction it is as good as any. What was written is bypassed in this process, until it has been delivered."""
    store = redis_store
    store.load(1)
    connection, begin = autocommitting(store)
    with (
        store.cache.transaction(outbox=store.outbox.on(connection)),
        pytest.raises(ConfigurationError, match=r"in autocommit mode.*Begin a transaction"),
    ):
        store.write(1, 2)
    assert store.left() == []
    assert store.load(1) == 2
    with store.cache.transaction(outbox=store.outbox.on(connection)):
        begin()
        store.write(1, 3)
        store.run("COMMIT")
        assert store.left() == [["row:1"]]
    assert store.left() == []
    assert store.load(1) == 3


def test_failing_insert(redis_store: Store) -> None:
    """A row that cannot be inserted makes the write raise what the driver raised: the caller rolls back."""
    store = redis_store
    broken = Outbox(store.cache, table="no_such_table")
    with (
        store.cache.transaction(outbox=broken.on(store.connection)) as transaction,
        pytest.raises((psycopg.Error, pymysql.Error, sqlite3.Error)),
    ):
        store.write(1, 2)
    transaction.rollback()
    store.connection.rollback()
    assert store.read(1) == 1


@pytest.mark.parametrize("savepoint", [False, True])
def test_write_that_fails(redis_store: Store, savepoint: bool) -> None:
    """A write raises its own error, though it has spoilt the transaction; which may go on from a savepoint."""
    store = redis_store

    @store.cache.invalidates("row:{number}")
    def insert(number: int) -> None:
        store.run(f"INSERT INTO {store.rows} VALUES ({number}, 1)")

    assert store.load(2) == 1
    with store.cache.transaction(outbox=store.outbox.on(store.connection)):
        store.write(2, 2)
        store.run("SAVEPOINT early")
        with pytest.raises((psycopg.IntegrityError, pymysql.IntegrityError, sqlite3.IntegrityError)):
            insert(1)
        if savepoint:
            store.run("ROLLBACK TO SAVEPOINT early")
            store.connection.commit()
        else:
            store.connection.rollback()
    assert store.load(2) == (2 if savepoint else 1)
    assert store.left() == []


class Recorder:
    """Counts; raises if it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.recorded: list[str] = []
        self.deliveries = 0
        self.error = error

    def record(self, core: Any, keys: Any) -> None:
        """See `transactions.Recorder`."""
        if self.error is not None:
            raise self.error
        self.recorded += keys

    def delivered(self) -> None:
        """See `transactions.Recorder`."""
        self.deliveries += 1


def test_inner_block(redis_server: RedisServer, namespace: str) -> None:
    """What an inner block hands to an outer one has not been delivered: its rows stay."""
    with Cache(redis_server.url, namespace=namespace) as cache:
        outer, inner = Recorder(), Recorder()
        with cache.transaction(outbox=outer):
            with cache.transaction(outbox=inner):
                cache.invalidate("a")
            assert (len(inner.recorded), len(outer.recorded), outer.deliveries) == (1, 1, 0)
        assert (outer.deliveries, inner.deliveries) == (1, 0)


def test_outer_block_that_cannot_record(redis_server: RedisServer, namespace: str) -> None:
    """If the outer block's recorder fails at the end of an inner one, that raises, and nothing stays held: the keys are
    pending."""
    with Cache(redis_server.url, namespace=namespace) as cache:
        with cache.transaction(outbox=Recorder(CacheUnavailable("full"))):
            with pytest.raises(CacheUnavailable, match="full"), cache.transaction():
                cache.invalidate("a")
            assert cache.stats().undelivered == 1
        assert cache._core.held.counts == {}


@pytest.mark.server
@pytest.mark.proof
def test_two_phase_commit(redis_server: RedisServer, namespace: str) -> None:
    """PostgreSQL prepares no transaction that has notified: with `notify=False` there is no trigger, and it does."""
    with (
        PostgresServer("-c", "max_prepared_transactions=5") as server,
        Cache(redis_server.url, namespace=namespace) as cache,
        contextlib.closing(psycopg.connect(server.url)) as connection,
    ):
        for notify in (True, False):
            outbox = Outbox(cache, table=f"box_{notify:d}", notify=notify)
            connection.execute(outbox.ddl("postgresql").encode())
            connection.commit()
            outbox.on(connection).record(cache._core, [f"{namespace}:a"])
            prepare = f"PREPARE TRANSACTION '{outbox.table}'".encode()
            if notify:
                with pytest.raises(psycopg.Error, match="NOTIFY"):
                    connection.execute(prepare)
                connection.rollback()
            else:
                connection.execute(prepare)
        connection.commit()
        connection.autocommit = True
        connection.execute(b"COMMIT PREPARED 'box_0'")
        assert connection.execute(b"SELECT entries FROM box_0").fetchall() == [('["a"]',)]


@pytest.mark.parametrize(
    "table", ["", "1a", "a b", "a;b", "Upper", "a.b.c", "a.", 'a"', "x" * 49, "ü", None, 7], ids=repr
)
def test_names(table: Any) -> None:
    """A name that is no plain one is refused: it goes into statements."""
    with pytest.raises(ConfigurationError, match="table= is a name of small letters"):
        Outbox(Cache(NOWHERE), table=table)


def test_mistakes() -> None:
    """What cannot work is said at once, and why."""
    with pytest.raises(ConfigurationError, match="entries live in this process, and are gone when it dies"):
        Outbox(Cache("memory://"))
    with pytest.raises(ConfigurationError, match="belongs to a Cache"):
        Outbox("redis://localhost")  # type: ignore[arg-type]  # that is the mistake
    with pytest.raises(ConfigurationError, match="255 characters"):
        Outbox(Cache(NOWHERE, namespace="n" * 256))
    cache = Cache(NOWHERE)
    outbox = Outbox(cache)
    with pytest.raises(ConfigurationError, match="DB-API connection"):
        outbox.on("postgresql://")
    with pytest.raises(ConfigurationError, match="of plain code"):
        outbox.on(object.__new__(psycopg.AsyncConnection))
    with pytest.raises(ConfigurationError, match="belongs to no DB-API driver"):
        outbox.on(Homemade())
    with pytest.raises(ConfigurationError, match=r"outbox.on\(connection\)"):
        cache.transaction(outbox=outbox)  # type: ignore[arg-type]  # that is the mistake
    with pytest.raises(ConfigurationError, match="'postgresql', 'mariadb', 'sqlite', not for 'oracle'"):
        outbox.ddl("oracle")  # type: ignore[arg-type]  # that is the mistake
    table = outbox.sqlalchemy_table(sa.MetaData())
    with pytest.raises(ConfigurationError, match="'postgresql', 'mariadb', 'sqlite', not for 'oracle'"):
        sa.schema.CreateTable(table).compile(dialect=oracle.dialect())


class Homemade:
    """Has what a connection has, and no module with a paramstyle."""

    def cursor(self) -> None: ...
    def commit(self) -> None: ...
    def rollback(self) -> None: ...


def test_nothing_more_is_imported() -> None:
    """Recording needs no SQLAlchemy; what does says which package is missing."""
    program = """
import sys
sys.modules["sqlalchemy"] = None
from cacheside import Cache, MissingExtraError
from cacheside.outbox import Outbox
outbox = Outbox(Cache("redis://127.0.0.1:1/0"))
assert outbox.ddl("sqlite")
for attempt in (lambda: outbox.sqlalchemy_table(None), lambda: outbox.relay("sqlite:////tmp/none.db")):
    try:
        attempt()
    except MissingExtraError as error:
        print(error)
"""
    said = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert said.count("pip install 'cacheside[sqlalchemy]'") == 2


def test_dialects_are_those_that_are_tested() -> None:
    """Each dialect that the outbox knows stands in these tests."""
    from cacheside.outbox.table import NOW

    assert tuple(NOW) == DIALECTS
