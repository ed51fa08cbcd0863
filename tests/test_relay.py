"""The relay: what writers left in an outbox is delivered, once everything that it needs is up."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy as sa
from outbox_tools import DATABASES, Store, opened_store, until
from servers import MariaDBServer, MemcachedServer, PostgresServer, RedisServer

from cacheside import Cache, CacheUnavailable, ConfigurationError
from cacheside.outbox import Outbox, Relay, StoreFailed, Totals

NOWHERE = "redis://127.0.0.1:1/0"


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


@pytest.fixture
def postgres_store(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[Store]:
    """On PostgreSQL only."""
    with opened_store(request, "postgresql", redis_server.url) as made:
        yield made


def crash(store: Store, number: int, version: int) -> None:
    """Write, commit, and die before the delivery."""
    row = store.outbox.row([f"{store.outbox.core.prefix}row:{number}"])
    assert row is not None
    store.set(number, version)
    store.run(store.outbox.insert_with("?"), *row)
    store.connection.commit()


def relay_once(store: Store, **options: Any) -> Totals:
    """Deliver what is there."""
    return store.outbox.relay(store.database.url, **{"delay": 0, **options}).run(once=True)


def levels(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Of what cacheside has logged. (SQLAlchemy may tell of connections that an earlier test has broken.)"""
    return [record.levelname for record in caplog.records if record.name.startswith("cacheside")]


# What it delivers.


def test_delivers_and_removes(store: Store) -> None:
    """What a writer left is delivered, tags too, and its rows are removed."""
    for number in (1, 2, 3):
        assert store.load(number) == 1
    crash(store, 1, 2)
    crash(store, 2, 2)
    assert store.load(1) == store.load(2) == 1  # stale
    assert relay_once(store) == Totals(rows=2, keys=2, batches=1)
    assert store.left() == []
    assert [store.load(number) for number in (1, 2, 3)] == [2, 2, 1]
    store.run(f"UPDATE {store.rows} SET version = 5")
    store.put("%tag:all")
    assert relay_once(store) == Totals(rows=1, keys=1, batches=1)
    assert [store.load(number) for number in (1, 2, 3)] == [5, 5, 5]


def test_delay(redis_store: Store) -> None:
    """Rows younger than the delay are left to their writers; those from before the clock was put back are not."""
    store = redis_store
    store.put("old", age=61)
    store.put("young", age=50)
    store.put("future", age=-3600)
    assert relay_once(store, delay=60).rows == 2
    assert store.left() == [["young"]]


def test_batches(redis_store: Store) -> None:
    """All that is due is delivered, batch by batch."""
    for number in range(7):
        redis_store.put(f"row:{number}", f"other:{number}")
    assert relay_once(redis_store, batch=3) == Totals(rows=7, keys=14, batches=3)
    assert redis_store.left() == []


def test_other_namespaces(redis_store: Store) -> None:
    """Rows of other caches are left alone."""
    redis_store.put("a", namespace="elsewhere")
    redis_store.put("b", namespace=redis_store.outbox.namespace.upper())
    redis_store.put("c")
    assert relay_once(redis_store).rows == 1
    assert redis_store.left() == [["a"], ["b"]]


def test_damaged_rows(redis_store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """Rows that make no sense are logged and removed, and keep nothing back."""
    bad = [redis_store.put("x", entries=text) for text in ("nonsense", '["a\\r\\nflush_all"]', '{"a": 1}')]
    redis_store.put("row:1")
    assert relay_once(redis_store) == Totals(rows=1, keys=1, batches=1, damaged=3)
    assert redis_store.left() == []
    assert all(any(row in record.message for record in caplog.records) for row in bad)


def test_twice_does_no_harm(redis_store: Store) -> None:
    """A row that is delivered twice, as by a relay that died before it removed it, costs a load and nothing else."""
    store = redis_store
    crash(store, 1, 2)
    assert store.load(1) == 2
    assert relay_once(store).rows == 1
    store.put("row:1")
    assert relay_once(store).rows == 1
    assert store.load(1) == 2


def test_old_loads_are_not_filled(redis_store: Store) -> None:
    """A reader that had loaded before the write fills nothing after the relay has delivered."""
    store = redis_store

    @store.cache.cached("row:{number}")
    def slow(number: int) -> int:
        version = store.read(number)
        crash(store, number, 2)
        assert relay_once(store).rows == 1
        return version

    assert slow(4) == 1
    assert slow.peek(4) is not 1  # noqa: F632 (MISSING, or 2)
    assert store.load(4) == 2


# Several at once.


@pytest.mark.proof
@pytest.mark.server
@pytest.mark.parametrize("dialect", [p for p in DATABASES if p != "sqlite"])
def test_rows_are_shared(request: pytest.FixtureRequest, dialect: str, redis_server: RedisServer) -> None:
    """Two relays at once take each row once, and leave none; one does not wait for what the other has taken."""
    with opened_store(request, dialect, redis_server.url) as store:
        for number in range(60):
            store.put(f"row:{number}")
        seen: list[str] = []
        both = threading.Barrier(2)
        inner = store.outbox.core.backend

        class Slow:
            def __getattr__(self, name: str) -> Any:
                return getattr(inner, name)

            def invalidate(self, keys: Any) -> None:
                if threading.current_thread() in first:
                    first.remove(threading.current_thread())
                    both.wait(20)  # only passed while two batches are under way
                seen.extend(keys)
                inner.invalidate(keys)

        store.outbox.core.backend = Slow()
        relays = [store.outbox.relay(store.database.url, delay=0, batch=10) for _ in range(2)]
        threads = [threading.Thread(target=relay.run, args=(True,)) for relay in relays]
        first = set(threads)
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        store.outbox.core.backend = inner
        assert not both.broken
        assert len(seen) == len(set(seen)) == sum(relay.totals.rows for relay in relays) == 60
        assert min(relay.totals.rows for relay in relays) >= 10
        assert store.left() == []


@pytest.mark.proof
def test_two_on_any_database(redis_store: Store) -> None:
    """Two relays and writers that remove their own rows get in nobody's way: nothing is left, nothing fails."""
    store = redis_store
    with (
        store.outbox.relay(store.database.url, delay=0, poll=0.05) as one,
        store.outbox.relay(store.database.url, delay=0, poll=0.05) as two,
    ):
        for number in range(40):
            with store.cache.transaction(outbox=store.outbox.on(store.connection)):
                store.write(1, number)
                store.connection.commit()
            store.put(f"row:{number}")
        until(lambda: store.left() == [])
    assert one.totals.cache_failures == two.totals.cache_failures == 0
    assert one.totals.rows + two.totals.rows >= 40
    assert store.load(1) == 39


# What wakes it.


@pytest.mark.server
def test_notify_wakes(postgres_store: Store) -> None:
    """On PostgreSQL a relay that looks once a minute delivers a new row when its delay is over."""
    store = postgres_store
    looked = threading.Event()
    with store.outbox.relay(store.database.url, delay=0.2, poll=60, report=lambda totals: looked.set()) as relay:
        assert looked.wait(20)
        time.sleep(0.2)  # it waits for news by now
        began = time.monotonic()
        store.put("row:1")
        until(lambda: relay.totals.rows)
        took = time.monotonic() - began
    assert took < 20


@pytest.mark.proof
@pytest.mark.server
def test_without_trigger_it_polls(request: pytest.FixtureRequest, redis_server: RedisServer) -> None:
    """Control of the test above, and the fallback: without the trigger it is `poll` that finds the row."""
    with opened_store(request, "postgresql", redis_server.url, notify=False) as store:
        looked = threading.Event()
        with store.outbox.relay(store.database.url, delay=0.2, poll=3, report=lambda totals: looked.set()) as relay:
            assert looked.wait(20)
            time.sleep(0.2)
            store.put("row:1")
            time.sleep(1)
            assert relay.totals.rows == 0
            until(lambda: relay.totals.rows)


def test_poll_finds_what_is_not_due_yet(redis_store: Store) -> None:
    """A row that a look finds too young is delivered as soon as its delay is over, not a whole `poll` later."""
    redis_store.put("row:1")
    with redis_store.outbox.relay(redis_store.database.url, delay=0.5, poll=60) as relay:
        until(lambda: relay.totals.rows)


# When something is down.


@pytest.mark.proof
@pytest.mark.server
@pytest.mark.parametrize("kind", ["redis", "memcached"])
def test_cache_restarts(
    request: pytest.FixtureRequest, kind: str, caplog: pytest.LogCaptureFixture, tmp_path: Any
) -> None:
    """While the cache is down rows stay; when it is back they are delivered. The failure is logged once."""
    server: RedisServer | MemcachedServer = request.getfixturevalue(f"new_{kind}")()
    with opened_store(request, "sqlite", server.url) as store:
        server.kill()
        store.put("row:1")
        with store.outbox.relay(store.database.url, delay=0, poll=0.05) as relay:
            until(lambda: relay.totals.cache_failures >= 3)
            assert store.left() == [["row:1"]]
            assert relay.totals.rows == 0
            server.start()
            until(lambda: relay.totals.rows == 1)
        assert store.left() == []
        messages = [record.message for record in caplog.records if "rows stay" in record.message]
        assert len(messages) == 1


@pytest.mark.server
def test_once_with_the_cache_down(request: pytest.FixtureRequest) -> None:
    """`once` raises what the cache did, and leaves the rows."""
    with opened_store(request, "sqlite", NOWHERE) as store:
        store.put("row:1")
        with pytest.raises(CacheUnavailable):
            relay_once(store)
        assert store.left() == [["row:1"]]


@pytest.mark.proof
@pytest.mark.server
def test_part_of_the_cache_down(request: pytest.FixtureRequest, new_memcached: Callable[..., MemcachedServer]) -> None:
    """A server of a ring that is down keeps back its own keys only, however many rows wait for it."""
    one, two = new_memcached(), new_memcached()
    with opened_store(request, "sqlite", f"memcached://{one.address},{two.address}") as store:
        two.kill()
        for number in range(40):
            store.put(f"row:{number}")
        with pytest.raises(CacheUnavailable):
            relay_once(store, batch=2)
        left = len(store.left())
        assert 0 < left < 40
        two.start()
        until(lambda: _delivered(store))
        assert store.left() == []


def _delivered(store: Store) -> bool:
    try:
        relay_once(store)
    except CacheUnavailable:  # the breaker has yet to try again
        return False
    return True


@pytest.mark.proof
@pytest.mark.parametrize("kind", [PostgresServer, MariaDBServer])
@pytest.mark.server
def test_database_restarts(kind: Any, redis_server: RedisServer, namespace: str) -> None:
    """A relay outlives restarts of its database, and hears of new rows after them."""
    with kind() as server, Cache(redis_server.url, namespace=namespace) as cache:
        outbox = Outbox(cache)
        url = server.url

        def write(*statements: Any) -> None:
            engine = sa.create_engine(
                re.sub(r"^\w+", {"postgresql": "postgresql+psycopg"}.get(url.split(":")[0], "mariadb+pymysql"), url),
                poolclass=sa.pool.NullPool,
            )
            with engine.begin() as connection:
                for statement, arguments in statements:
                    connection.execute(sa.text(statement), arguments)

        dialect: Any = "postgresql" if kind is PostgresServer else "mariadb"
        write(*[(statement, {}) for statement in outbox.statements(dialect)])

        def put() -> None:
            row = outbox.row([f"{namespace}:a"])
            assert row is not None
            write((outbox.insert_sql, row._asdict()))

        poll = 60 if dialect == "postgresql" else 0.1
        with outbox.relay(url, delay=0, poll=poll) as relay:
            put()
            until(lambda: relay.totals.rows == 1)
            server.stop()
            until(lambda: relay.totals.store_failures)
            server.start()
            time.sleep(0.1)
            put()
            until(lambda: relay.totals.rows == 2)


def test_database_that_is_not_there(caplog: pytest.LogCaptureFixture, tmp_path: Any) -> None:
    """A relay whose table is not there (yet) says so once, with the cure, and goes on trying."""
    (tmp_path / "none.db").touch()
    with Cache(NOWHERE) as cache, Outbox(cache).relay(f"sqlite:///{tmp_path}/none.db") as relay:
        until(lambda: relay.totals.store_failures >= 2)
    assert levels(caplog) == ["WARNING"]
    assert "there is no table cacheside_outbox" in caplog.text
    assert "ddl(" in caplog.text


# Its forms.


def test_thread_form(redis_store: Store) -> None:
    """`with` runs it in a thread, and at its end the thread has ended."""
    with redis_store.outbox.relay(redis_store.database.url, delay=0, poll=0.05) as relay:
        redis_store.put("row:1")
        until(lambda: relay.totals.rows)
    assert not any(thread.name == "cacheside-relay" for thread in threading.enumerate())
    with pytest.raises(RuntimeError, match="make another one"):
        relay.start()
    with pytest.raises(RuntimeError, match="make another one"):
        relay.run()


def test_engine(redis_store: Store) -> None:
    """An engine of the application's serves as the store, and stays usable; its pool gets its connections back."""
    scheme, _, rest = redis_store.database.url.partition("://")
    url = f"{ {'postgresql': 'postgresql+psycopg', 'mysql': 'mariadb+pymysql'}.get(scheme, scheme) }://{rest}"
    engine = sa.create_engine(url, pool_size=2, max_overflow=0, pool_timeout=5)
    redis_store.put("row:1")
    assert redis_store.outbox.relay(engine, delay=0).run(once=True).rows == 1
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]  # it is a QueuePool
    with engine.connect() as one, engine.connect() as two:
        for connection in (one, two):
            assert connection.scalar(sa.text("SELECT 1")) == 1
            if connection.dialect.name == "postgresql":
                assert connection.scalar(sa.text("SELECT count(*) FROM pg_listening_channels()")) == 0
    engine.dispose()


def test_task_form(redis_store: Store) -> None:
    """`arun` is a relay in a task: it leaves the loop free, and cancelling it ends it in good order."""

    async def main() -> None:
        relay = redis_store.outbox.relay(redis_store.database.url, delay=0, poll=0.05)
        task = asyncio.create_task(relay.arun())
        redis_store.put("row:1")
        async with asyncio.timeout(20):
            while not relay.totals.rows:
                await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        ended = redis_store.outbox.relay(redis_store.database.url)
        ended.stop()
        await ended.arun()

    asyncio.run(main())
    until(lambda: not any(thread.name == "cacheside-relay" for thread in threading.enumerate()))


def test_task_form_tells_of_mistakes(tmp_path: Any, redis_server: RedisServer) -> None:
    """What `run` raises `arun` raises."""
    relay = Outbox(Cache(redis_server.url)).relay(f"sqlite:///{tmp_path}/none.db")
    relay._used = True
    with pytest.raises(RuntimeError, match="make another one"):
        asyncio.run(relay.arun())


# The command.


def command(store: Store, *options: str) -> list[str]:
    """`cacheside relay` for a store."""
    url = f"{store.cache._core.label}?namespace={store.cache.namespace}"
    return [
        sys.executable, "-m", "cacheside", "relay", "--store", store.database.url, "--cache", url,
        "--table", store.outbox.table, *options,
    ]  # fmt: skip


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_command_stops_in_good_order(redis_store: Store, number: signal.Signals) -> None:
    """It says what it does, line by line where stdout is no terminal, and ends on SIGTERM and Ctrl-C with its totals
    and status 0, though it may be waiting for a minute."""
    redis_store.put("row:1")
    redis_store.put("row:2", "row:3")
    process = subprocess.Popen(
        command(redis_store, "--delay", "0", "--poll", "60"),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    first, second = process.stdout.readline(), process.stdout.readline()
    assert first.startswith(f"relaying {redis_store.outbox.table} of ")
    assert ("NOTIFY" in first) == (redis_store.database.dialect == "postgresql")
    assert second == "2 rows, 3 keys in 1 batch\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (out, err, process.returncode) == ("stopped: 2 rows, 3 keys in 1 batch\n", "", 0)
    assert redis_store.left() == []


def test_sigterm_finishes_the_batch(request: pytest.FixtureRequest, redis_server: RedisServer) -> None:
    """A batch that is under way when SIGTERM comes is delivered, removed and counted; the next is not begun."""
    with opened_store(request, "sqlite", redis_server.url) as store:
        for number in range(6):
            store.put(f"row:{number}")
        relay = store.outbox.relay(store.database.url, delay=0, batch=2)
        inner = store.outbox.core.backend

        class Interrupted:
            def invalidate(self, keys: Any) -> None:
                os.kill(os.getpid(), signal.SIGTERM)
                inner.invalidate(keys)

        from cacheside.outbox.command import stopped_by_signals

        before = signal.getsignal(signal.SIGTERM)
        store.outbox.core.backend = Interrupted()
        with stopped_by_signals(relay):
            totals = relay.run()
        store.outbox.core.backend = inner
        assert signal.getsignal(signal.SIGTERM) is before
        assert totals == Totals(rows=2, keys=2, batches=1)
        assert len(store.left()) == 4


def run(arguments: list[str]) -> tuple[int, str, str]:
    """Status, stdout, stderr."""
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_command_once(request: pytest.FixtureRequest, new_redis: Callable[..., RedisServer]) -> None:
    """With --once it delivers and ends: 0, or 1 if rows are left because the cache does not answer."""
    server = new_redis()
    with opened_store(request, "sqlite", server.url) as store:
        store.put("row:1")
        status, out, err = run(command(store, "--once", "--delay", "0"))
        assert (status, err, out.splitlines()[-1]) == (0, "", "done: 1 row, 1 key in 1 batch")
        server.kill()
        store.put("row:1")
        status, out, _ = run(command(store, "--once", "--delay", "0"))
        assert status == 1
        assert out.splitlines()[-2] == "done: 0 rows, 0 keys in 0 batches; 1 cache failure"
        assert out.splitlines()[-1].startswith(f"rows are left in {store.outbox.table}: ")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--store", "oracle://u:secret@h/d", "--cache", NOWHERE], "a store is 'postgresql://"),
        (["--store", "not a url", "--cache", NOWHERE], "a store is 'postgresql://"),
        (["--store", "sqlite://", "--cache", NOWHERE], "in memory"),
        (["--store", "postgresql+asyncpg://u:secret@h/d", "--cache", NOWHERE], "driver of plain code"),
        (["--store", "postgresql://u:secret@127.0.0.1:1/d", "--cache", NOWHERE], "127.0.0.1"),
        (["--store", "mysql://u:secret@127.0.0.1:1/d?nonsense=1", "--cache", NOWHERE], "'nonsense'"),
        (["--store", "sqlite:///empty.db", "--cache", NOWHERE], "there is no table cacheside_outbox"),
        (["--store", "sqlite:///none.db", "--cache", NOWHERE], "makes none: [Errno 2] No such file or directory: '/"),
        (["--store", "sqlite:///none.db", "--cache", "memory://"], "gone when it dies"),
        (["--store", "sqlite:///none.db", "--cache", "nonsense://"], "nonsense"),
        (["--store", "sqlite:///none.db", "--cache", NOWHERE, "--table", "a b"], "table="),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_command_that_cannot_run(options: list[str], why: str, tmp_path: Any) -> None:
    """What cannot work is said in one line, without a password, with status 2; and nothing is made."""
    (tmp_path / "empty.db").touch()
    done = subprocess.run(
        [sys.executable, "-m", "cacheside", "relay", *options],
        capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert why in done.stderr
    assert done.stderr.count("\n") == 1
    assert "secret" not in done.stderr
    assert [each.name for each in tmp_path.iterdir()] == ["empty.db"]


@pytest.mark.parametrize("option", [["--delay", "-1"], ["--poll", "0"], ["--batch", "0"], ["--batch", "10001"]])
def test_options_out_of_range(option: list[str]) -> None:
    """The command names the option that is out of range."""
    status, _, err = run(
        [sys.executable, "-m", "cacheside", "relay", "--store", "sqlite:///x", "--cache", NOWHERE, *option]
    )
    assert status == 2
    assert option[0] in err


def test_mistakes() -> None:
    """A relay that cannot work is refused when it is made."""
    outbox = Outbox(Cache(NOWHERE))
    for options, why in (
        ({"delay": -1}, "delay"), ({"poll": 0}, "poll"), ({"batch": 0}, "batch"), ({"batch": True}, "batch"),
    ):  # fmt: skip
        with pytest.raises(ConfigurationError, match=why):
            outbox.relay("sqlite:///x", **options)  # type: ignore[arg-type]  # some are mistakes of that kind
    with pytest.raises(ConfigurationError, match="for an Outbox"):
        Relay(Cache(NOWHERE), "sqlite:///x")  # type: ignore[arg-type]  # that is the mistake
    with pytest.raises(ConfigurationError, match="URL of a database or an Engine"):
        outbox.relay(7)
    with pytest.raises(ConfigurationError, match="works on postgresql, mariadb, sqlite"):
        outbox.relay(sa.create_mock_engine("oracle://", print) and _oracle())


def _oracle() -> sa.Engine:
    engine = sa.create_engine("sqlite://")
    engine.dialect.name = "oracle"
    return engine


def test_without_a_table_once_raises(tmp_path: Any) -> None:
    """`once` raises what the database did."""
    (tmp_path / "none.db").touch()
    with pytest.raises(StoreFailed, match="there is no table"):
        Outbox(Cache(NOWHERE)).relay(f"sqlite:///{tmp_path}/none.db").run(once=True)


def test_view_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal there is one line that changes."""
    from cacheside.outbox.command import View

    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    view = View()
    with view.opened():
        view.show(Totals(rows=1, keys=2, batches=1, cache_failures=1, store_failures=2, damaged=3))
        view._live.refresh() if view._live is not None else None
    assert "1 row, 2 keys in 1 batch; 1 cache failure; 2 store failures; 3 damaged rows" in capsys.readouterr().out


@pytest.mark.proof
def test_lost_ears(postgres_store: Store) -> None:
    """The connection that listens is lost: that is a failure of the store, and the relay hears again after it."""
    store = postgres_store
    with store.outbox.relay(store.database.url, delay=0, poll=60) as relay:
        store.put("row:1")
        until(lambda: relay.totals.rows == 1)
        with contextlib.closing(psycopg.connect(store.database.url, autocommit=True)) as other:
            other.execute(
                b"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = %s",
                [f"LISTEN {store.outbox.channel}"],
            )
        until(lambda: relay.totals.store_failures)
        store.put("row:1")
        until(lambda: relay.totals.rows == 2)


@pytest.mark.parametrize(
    ("redis_store", "number"), [("postgresql", 1), ("postgresql", 2), ("mariadb", 1)], indirect=["redis_store"]
)
def test_lost_while_it_is_set_up(redis_store: Store, number: int) -> None:
    """A connection is lost when it has just been made, before it is used or listens: that is a failure of the store."""
    store = redis_store
    driver = {"postgresql": "postgresql+psycopg", "mariadb": "mariadb+pymysql"}[store.database.dialect]
    engine = sa.create_engine(f"{driver}{store.database.url[store.database.url.index(':') :]}", poolclass=sa.NullPool)
    made: list[Any] = []

    @sa.event.listens_for(engine, "checkout")
    def checkout(connection: Any, *_: Any) -> None:
        made.append(connection)
        if len(made) == number:
            connection.close()

    store.put("row:1")
    with store.outbox.relay(engine, delay=0, poll=0.05) as relay:
        until(lambda: relay.totals.rows == 1)
    assert relay.totals.store_failures == 1


def test_standby(postgres_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that refuses to listen, as a standby does, is a failure of the store."""
    with monkeypatch.context() as patch:
        patch.setattr(Outbox, "trigger", postgres_store.outbox.trigger)
        patch.setattr(Outbox, "channel", "no channel")
        with pytest.raises(StoreFailed, match="syntax error"):
            postgres_store.outbox.relay(postgres_store.database.url).run(once=True)


def test_host_that_is_gone(postgres_store: Store) -> None:
    """A host that does not answer any more, not even by closing, is noticed in half a minute; or as the URL says."""
    for more, expected in ("", (30_000, 10, 5, 4)), ("?tcp_user_timeout=7000&keepalives_idle=3", (7000, 3, 5, 4)):
        relay = postgres_store.outbox.relay(postgres_store.database.url + more)
        with relay.store.session() as session:
            assert session.listener is not None
            with socket.socket(fileno=os.dup(session.listener.fileno())) as wire:
                options = (socket.TCP_USER_TIMEOUT, socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
                assert tuple(wire.getsockopt(socket.IPPROTO_TCP, each) for each in options) == expected


def test_failing_over_and_over(postgres_store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A database that can be connected to, and refuses the rest, is asked with growing pauses, and logged once."""
    store = postgres_store
    name = f"reader_{store.outbox.table}"
    store.run(f"CREATE ROLE {name} LOGIN")
    store.run(f"GRANT SELECT ON {store.outbox.table} TO {name}")
    store.put("row:1")
    caplog.set_level(logging.INFO)
    with store.outbox.relay(store.database.url.replace("postgres@", f"{name}@"), delay=0) as relay:
        time.sleep(2)
        assert 3 <= relay.totals.store_failures <= 7
        assert levels(caplog) == ["WARNING"]
        store.run(f"GRANT ALL ON {store.outbox.table} TO {name}")
        store.connection.commit()
        until(lambda: relay.totals.rows == 1)
    assert levels(caplog) == ["WARNING", "INFO"]
    store.run(f"DROP OWNED BY {name}")
    store.run(f"DROP ROLE {name}")
    store.connection.commit()


def test_silent_relay(postgres_store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that a relay has taken are not kept from others for ever by its end without a word, with its host."""
    from cacheside.outbox import store as outbox_store

    store = postgres_store
    monkeypatch.setattr(outbox_store, "HOLD", 1)
    store.put("row:1")
    taken, go_on = threading.Event(), threading.Event()
    inner = store.outbox.core.backend

    class Silent:
        def invalidate(self, keys: Any) -> None:
            taken.set()
            go_on.wait(20)
            inner.invalidate(keys)

    store.outbox.core.backend = Silent()
    with store.outbox.relay(store.database.url, delay=0) as silent:
        assert taken.wait(20)
        store.outbox.core.backend = inner
        with store.outbox.relay(store.database.url, delay=0) as other:
            until(lambda: other.totals.rows == 1, 10)
        go_on.set()
        until(lambda: silent.totals.store_failures == 1)
    assert store.left() == []
