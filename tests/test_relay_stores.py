"""What a relay makes of its store: whether the table notifies, whether the file is there, which driver is missing."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from outbox_tools import Store, opened_store, until
from servers import RedisServer

from cacheside import Cache, MissingExtraError
from cacheside.outbox import Outbox, StoreFailed

NOWHERE = "redis://127.0.0.1:1/0"


@pytest.fixture
def store(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[Store]:
    """On PostgreSQL; its outbox has the table that a migration makes from the columns alone."""
    with opened_store(request, "postgresql", redis_server.url) as made:
        made.outbox = Outbox(made.cache, table=f"{made.outbox.table}_m")
        engine = sa.create_engine(made.database.url.replace(":", "+psycopg:", 1), poolclass=sa.NullPool)
        with engine.begin() as connection:
            connection.execute(sa.schema.CreateTable(made.outbox.sqlalchemy_table(sa.MetaData())))
        yield made


def first_line(store: Store) -> str:
    """What the command says of itself."""
    url = f"{store.cache._core.label}?namespace={store.cache.namespace}"
    done = subprocess.run(
        [
            sys.executable, "-m", "cacheside", "relay", "--once", "--poll", "5",
            "--store", store.database.url, "--cache", url, "--table", store.outbox.table,
        ],
        capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout.splitlines()[0]


def listens(store: Store) -> bool:
    """Whether a relay that connects now waits for notifications."""
    with store.outbox.relay(store.database.url).store.session() as session:
        return session.listener is not None


@pytest.mark.server
def test_table_without_trigger(store: Store) -> None:
    """A relay does not claim to be woken by a table that was made without the trigger, nor by one that is disabled;
    when a migration has executed the statements of `notifying` it is woken."""
    assert first_line(store).endswith("a look every 5 s")
    for statement in store.outbox.notifying():
        store.run(statement)
    store.connection.commit()
    assert first_line(store).endswith("woken by NOTIFY")
    assert listens(store)
    store.run(f"ALTER TABLE {store.outbox.table} DISABLE TRIGGER USER")
    store.connection.commit()
    assert not listens(store)


@pytest.mark.server
def test_trigger_of_another_table(store: Store) -> None:
    """Only the trigger of its own table counts: not one of the same name elsewhere, nor another on this table."""
    table = store.outbox.table
    for statement in (
        f"CREATE FUNCTION {table}_other() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        f"CREATE TRIGGER {table}_other AFTER INSERT ON {table} EXECUTE FUNCTION {table}_other()",
        f"CREATE TRIGGER {store.outbox.trigger} AFTER INSERT ON {store.rows} EXECUTE FUNCTION {table}_other()",
    ):
        store.run(statement)
    store.connection.commit()
    assert not listens(store)


@pytest.mark.server
def test_trigger_in_a_schema(store: Store) -> None:
    """The trigger is found on a table in a schema, whatever of the same name the search path has."""
    schema = f"s_{store.rows}"
    store.run(f"CREATE SCHEMA {schema}")
    outbox = Outbox(store.cache, table=f"{schema}.{store.outbox.table}")
    for statement in outbox.statements("postgresql"):
        store.run(statement)
    store.connection.commit()
    assert not listens(store)
    store.outbox = outbox
    assert listens(store)
    store.run(f"DROP SCHEMA {schema} CASCADE")
    store.connection.commit()


@pytest.mark.server
def test_rows_of_a_table_without_trigger(store: Store) -> None:
    """Without the trigger a row is delivered within `poll` seconds, as on databases that cannot notify."""
    looked = threading.Event()
    with store.outbox.relay(store.database.url, delay=0.1, poll=0.5, report=lambda totals: looked.set()) as relay:
        assert looked.wait(20)
        began = time.monotonic()
        store.put("row:1")
        until(lambda: relay.totals.rows)
        assert time.monotonic() - began < 10


# SQLite's files.


@pytest.mark.parametrize("form", ["sqlite:///{}", "sqlite:///file:{}?uri=true", "sqlite:///file:{}?mode=rwc&uri=true"])
def test_no_file(form: str, tmp_path: Path) -> None:
    """A relay makes no file, and names the one that is not there; nor does it mind where a directory is missing."""
    for path in (tmp_path / "typo.db", tmp_path / "none" / "typo.db"):
        relay = Outbox(Cache(NOWHERE)).relay(form.format(path))
        with pytest.raises(StoreFailed, match=f"makes none: .*No such file or directory: '{path}'"):
            relay.run(once=True)
    assert list(tmp_path.iterdir()) == []


def test_relative_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a relative path the whole is told: three slashes for four are a usual mistake."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StoreFailed, match=f"No such file or directory: '{tmp_path}/var/shop.db'"):
        Outbox(Cache(NOWHERE)).relay("sqlite:///var/shop.db").run(once=True)


def test_file_out_of_reach(tmp_path: Path) -> None:
    """A file that cannot be looked at, as where a directory is another user's, is not called missing."""
    with pytest.raises(StoreFailed, match=r"makes none: .*File name too long"):  # permissions do not bind root
        Outbox(Cache(NOWHERE)).relay(f"sqlite:///{tmp_path}/{'x' * 300}").run(once=True)


@pytest.mark.parametrize("form", ["sqlite:///{}", "sqlite:///file:{}?uri=true"])
def test_file_that_comes_later(
    form: str, request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path
) -> None:
    """A relay that is started before the application goes on trying until the file is there."""
    with Cache(redis_server.url) as cache, Outbox(cache).relay(form.format(tmp_path / "store.db")) as relay:
        until(lambda: relay.totals.store_failures >= 2)
        assert list(tmp_path.iterdir()) == []
        with opened_store(request, "sqlite", redis_server.url) as store:
            for statement in Outbox(cache).statements("sqlite"):
                store.run(statement)
            row = Outbox(cache).row([f"{cache._core.prefix}a"])
            assert row is not None
            store.run(Outbox(cache).insert_with("?"), *row)
            store.connection.commit()
            until(lambda: relay.totals.rows == 1)


@pytest.mark.parametrize("url", ["sqlite:///file::memory:?uri=true", "sqlite:///file:x?mode=memory&uri=true"])
def test_no_file_is_asked_of_memory(url: str) -> None:
    """SQLite's own form of a URL may name a database in memory: it has no file."""
    with pytest.raises(StoreFailed, match="there is no table"):
        Outbox(Cache(NOWHERE)).relay(url).run(once=True)


def test_engine_in_memory(redis_server: RedisServer) -> None:
    """An engine of the application's is opened as the application has it: here in memory, with a table."""
    with Cache(redis_server.url) as cache:
        outbox = Outbox(cache)
        metadata = sa.MetaData()
        outbox.sqlalchemy_table(metadata)
        engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
        metadata.create_all(engine)
        assert outbox.relay(engine).run(once=True).rows == 0
        engine.dispose()


# Drivers.


@pytest.mark.parametrize(
    ("scheme", "module", "package"),
    [
        ("postgresql", "psycopg", "'cacheside[postgresql]'"),
        ("postgresql+psycopg2", "psycopg2", "psycopg2"),
        ("postgresql+pg8000", "pg8000", "pg8000"),
        ("mysql", "pymysql", "pymysql"),
        ("mariadb", "pymysql", "pymysql"),
        ("mysql+mysqldb", "MySQLdb", "mysqlclient"),
        ("mariadb+mysqldb", "MySQLdb", "mysqlclient"),
        ("mysql+mysqlconnector", "mysql", "mysql-connector-python"),
        ("mariadb+mariadbconnector", "mariadb", "mariadb"),
    ],
)
def test_missing_driver(scheme: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A driver that is not installed is named as pip knows it."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError) as caught:
        Outbox(Cache(NOWHERE)).relay(f"{scheme}://u:secret@h/d")
    assert str(caught.value).endswith(f": pip install {package}")
    assert "secret" not in str(caught.value)
