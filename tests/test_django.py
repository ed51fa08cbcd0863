"""Django: invalidations made inside a transaction are told after its commit, on every kind of database.

Each hole is shown with connections that are not tied, where it must show, and with tied ones.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import DatabaseError, IntegrityError, OperationalError, connections, transaction
from django_site import ALIASES, Rows, elsewhere, execute, forget_connections, savepoint
from psycopg import IsolationLevel
from psycopg.sql import SQL, Identifier

from cacheside import Cache, ConfigurationError


class Failed(Exception):
    """What a view raises."""


@pytest.fixture
def fresh(django_site: None) -> Iterator[None]:
    """Connections that no other test has had."""
    yield
    forget_connections()


@pytest.fixture
def cache(fresh: None) -> Iterator[Cache]:
    """A cache; at the end nothing is held in it any more."""
    with Cache("memory://") as made:
        yield made
        assert made._core.held.counts == {}


@pytest.fixture(params=ALIASES)
def rows(request: pytest.FixtureRequest, cache: Cache) -> Rows:
    """The rows of each kind of database."""
    return Rows(request.param, cache)


@pytest.fixture(params=[True, False], ids=["tied", "control"])
def tied(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, django_site: None) -> bool:
    """Whether connections are tied; if not, the bug has to show."""
    if not request.param:
        from cacheside.integrations.django import ties

        monkeypatch.setattr(ties, "tie", lambda connection: None)
    return bool(request.param)


def test_read_before_the_commit(tied: bool, rows: Rows) -> None:
    """A reader who fills the old row between the write and its commit leaves no stale entry."""
    with transaction.atomic(rows.alias):
        rows.rename(1, "new")
        assert elsewhere(rows.get, 1) == "old 1"
    assert elsewhere(rows.get, 1) == ("new" if tied else "old 1")
    assert rows.get(1) == ("new" if tied else "old 1")


def _raise(rows: Rows) -> None:
    raise Failed


def _set_rollback(rows: Rows) -> None:
    transaction.set_rollback(True, rows.alias)


def _broken_off(rows: Rows) -> None:
    with contextlib.suppress(Failed), transaction.atomic(rows.alias, savepoint=False):
        raise Failed


def _close(rows: Rows) -> None:
    connections[rows.alias].close()


@pytest.mark.parametrize("roll_back", [_raise, _set_rollback, _broken_off, _close])
def test_rollback(tied: bool, rows: Rows, roll_back: Callable[[Rows], None]) -> None:
    """What was written and rolled back never gets into the cache, and nothing is invalidated for it."""
    elsewhere(rows.get, 1)
    with contextlib.suppress(Failed), transaction.atomic(rows.alias):
        rows.rename(1, "new")
        assert rows.get(1) == "new"
        roll_back(rows)
    assert elsewhere(rows.get, 1) == ("old 1" if tied else "new")
    if tied:
        stats = rows.cache.stats()
        assert (stats.invalidations, stats.held, stats.rolled_back) == (0, 1, 1)
        assert rows.get.cache_info().loads == 2  # elsewhere at first, and inside


def test_rollback_to_a_savepoint(tied: bool, rows: Rows) -> None:
    """A savepoint that is rolled back takes its own invalidations along, and no others; at once."""
    elsewhere(rows.get, 2)
    with transaction.atomic(rows.alias):
        rows.rename(1, "new")
        with contextlib.suppress(Failed), transaction.atomic(rows.alias):
            with transaction.atomic(rows.alias):  # released, into what is rolled back
                rows.rename(2, "new")
            assert rows.get(2) == "new"
            raise Failed
        if tied:
            assert rows.cache.stats().rolled_back == 1
        elsewhere(rows.get, 1)
    assert elsewhere(rows.get, 1) == ("new" if tied else "old 1")
    assert elsewhere(rows.get, 2) == ("old 2" if tied else "new")
    if tied:
        assert rows.cache.stats().rolled_back == 1
        assert rows.cache.stats().invalidations == 1


Begin = Callable[[str], contextlib.AbstractContextManager[Any]]


@contextlib.contextmanager
def _autocommit_off(alias: str) -> Iterator[None]:
    transaction.set_autocommit(False, alias)
    yield
    transaction.commit(alias)
    transaction.set_autocommit(True, alias)


BEGINNINGS: list[tuple[str, Begin]] = [
    *[(alias, transaction.atomic) for alias in ALIASES],
    ("mariadb", _autocommit_off),  # SQLite has no savepoints then
    ("postgresql", _autocommit_off),
]


@pytest.mark.parametrize(("alias", "begin"), BEGINNINGS)
def test_rollback_to_a_savepoint_by_hand(tied: bool, cache: Cache, alias: str, begin: Begin) -> None:
    """It takes the invalidations, values and guards since the savepoint along, at once, and none from before it."""
    rows = Rows(alias, cache)
    execute(alias, "INSERT INTO site_rows VALUES (3, 'old 3')")
    elsewhere(rows.get, 2)
    with begin(alias):
        rows.rename(1, "new")
        elsewhere(rows.get, 1)
        sid = savepoint(alias)
        with transaction.atomic(alias):  # released, into what is rolled back
            rows.rename(2, "never")
        rows.update(3, "never")
        if tied:
            rows.rename_strictly(2, "never")
        transaction.savepoint_rollback(sid, alias)
        assert elsewhere(rows.get, 2) == "old 2"
        assert rows.filled(2)
        rows.update(2, "newer")
    found = [elsewhere(rows.get, row) for row in (1, 2, 3)]
    assert found == (["new", "newer", "old 3"] if tied else ["old 1", "newer", "never"])
    if tied:
        assert (cache.stats().rolled_back, cache.stats().updates) == (3, 1)


def test_savepoints_of_one_name(rows: Rows) -> None:
    """Django may begin to count anew: a rollback goes to the newest savepoint of a name that is not released."""
    with transaction.atomic(rows.alias):
        transaction.clean_savepoints(rows.alias)
        sid = savepoint(rows.alias)
        rows.update(1, "never")
        if rows.alias != "mariadb":  # where the older one is gone then
            transaction.clean_savepoints(rows.alias)
            assert savepoint(rows.alias) == sid
            transaction.savepoint_commit(sid, rows.alias)
        transaction.savepoint_rollback(sid, rows.alias)
        transaction.savepoint_rollback(sid, rows.alias)
        assert rows.cache.stats().rolled_back == 1
    assert elsewhere(rows.get, 1) == "old 1"


def test_savepoint_that_outlives_a_write(rows: Rows) -> None:
    """What was written before a savepoint is not forgotten with it, though it is told after it."""

    @rows.cache.invalidates(rows.get)
    def rename(row: int, name: str) -> str:
        rows.write(row, name)
        return savepoint(rows.alias)

    elsewhere(rows.get, 1), elsewhere(rows.get, 2)
    with transaction.atomic(rows.alias):
        sid = rename(1, "new")
        rows.update(2, "never")
        transaction.savepoint_rollback(sid, rows.alias)
    assert [elsewhere(rows.get, 1), elsewhere(rows.get, 2)] == ["new", "old 2"]


@pytest.mark.parametrize("statement", ["ROLLBACK TO {}", "/* so */ rollback to savepoint {}"])
@pytest.mark.parametrize(("alias", "begin"), BEGINNINGS)
def test_savepoint_by_sql(cache: Cache, alias: str, begin: Begin, statement: str) -> None:
    """Nobody knows what it rolls back: no value that was held goes in, and all invalidations are told."""
    rows = Rows(alias, cache)
    elsewhere(rows.get, 1)
    with begin(alias):
        rows.rename(1, "new")
        execute(alias, "SAVEPOINT mine")
        rows.update(2, "never")
        execute(alias, statement.format("mine"))
    assert [elsewhere(rows.get, 1), elsewhere(rows.get, 2)] == ["new", "old 2"]
    assert (cache.stats().updates, cache.stats().rolled_back) == (0, 0)


def test_savepoint_by_composed_sql(cache: Cache) -> None:
    """The same for statements of psycopg's that are no text."""
    rows, name = Rows("postgresql", cache), Identifier("mine")
    with transaction.atomic(rows.alias), connections[rows.alias].cursor() as cursor:
        cursor.execute(SQL("SAVEPOINT {}").format(name))
        rows.update(1, "never")
        cursor.execute(SQL("ROLLBACK TO {}").format(name))
    assert elsewhere(rows.get, 1) == "old 1"


def _by_block(rows: Rows, write: Callable[[], Any]) -> None:
    with contextlib.suppress(Failed), transaction.atomic(rows.alias):
        write()
        raise Failed


def _by_hand(rows: Rows, write: Callable[[], Any]) -> None:
    sid = savepoint(rows.alias)
    write()
    transaction.savepoint_rollback(sid, rows.alias)


def _by_sql(rows: Rows, write: Callable[[], Any]) -> None:
    execute(rows.alias, "SAVEPOINT mine")
    write()
    execute(rows.alias, "ROLLBACK TO SAVEPOINT mine")


@pytest.mark.parametrize("undone", [_by_block, _by_hand, _by_sql])
def test_rollback_around_an_explicit_transaction(rows: Rows, undone: Callable[..., None]) -> None:
    """No value of an update that a `cache.transaction()` block held over the rollback goes in, wherever it began."""
    elsewhere(rows.get, 1)
    with transaction.atomic(rows.alias), rows.cache.transaction():
        undone(rows, lambda: rows.update(1, "never"))
    assert elsewhere(rows.get, 1) == "old 1"
    with contextlib.ExitStack() as block, transaction.atomic(rows.alias):

        def write() -> None:
            block.enter_context(rows.cache.transaction())
            rows.update(1, "never")

        undone(rows, write)
        block.close()
    assert elsewhere(rows.get, 1) == "old 1"
    assert rows.cache.stats().updates == 0


@pytest.mark.parametrize("undone", [_by_block, _by_hand])
@pytest.mark.parametrize(("alias", "begin"), [*BEGINNINGS, ("sqlite", _autocommit_off)])
def test_value_from_before_a_savepoint(cache: Cache, alias: str, begin: Begin, undone: Callable[..., None]) -> None:
    """It goes in after the commit, though there was a rollback to the savepoint; or to none, where there are none."""
    rows = Rows(alias, cache)
    with begin(alias):
        rows.update(1, "new")
        undone(rows, lambda: None)
    assert cache.stats().updates == 1
    assert rows.filled(1)


def test_statement_that_rolls_back_all(cache: Cache) -> None:
    """A statement that fails may have rolled back the transaction: no value that was held before goes in."""
    rows = Rows("sqlite", cache)
    with transaction.atomic(rows.alias):
        rows.update(1, "never")
        with pytest.raises(IntegrityError):
            execute(rows.alias, "INSERT OR ROLLBACK INTO site_rows VALUES (1, 'again')")
        rows.rename(2, "new")
    assert [elsewhere(rows.get, 1), elsewhere(rows.get, 2)] == ["old 1", "new"]


def test_deadlock(cache: Cache) -> None:
    """So it is on MariaDB: the victim of a deadlock has lost what it wrote before, and may go on."""
    rows = Rows("mariadb", cache)
    others = threading.Event()

    def against() -> None:
        with transaction.atomic(rows.alias):
            for number in range(10, 20):  # who has written less is the victim
                execute(rows.alias, "INSERT INTO site_rows VALUES (%s, 'more')", number)
            rows.write(2, "other")
            others.set()
            rows.write(1, "other")

    thread = threading.Thread(target=elsewhere, args=(against,))
    with transaction.atomic(rows.alias):
        rows.update(1, "never")
        thread.start()
        assert others.wait(10)
        with pytest.raises(OperationalError, match="Deadlock"):
            rows.write(2, "never")
        thread.join()
    assert elsewhere(rows.get, 1) == "other"


def test_released_savepoint(rows: Rows) -> None:
    """What a released savepoint holds waits for the outermost commit, in one delivery."""
    elsewhere(rows.get, 1)
    with transaction.atomic(rows.alias, durable=True):
        with transaction.atomic(rows.alias):
            rows.rename(1, "one")
        with transaction.atomic(rows.alias, savepoint=False):
            rows.rename(2, "two")
        assert elsewhere(rows.get, 1) == "old 1"
        assert rows.cache.stats().invalidations == 0
    assert rows.cache.stats().invalidations == 2
    assert [elsewhere(rows.get, 1), elsewhere(rows.get, 2)] == ["one", "two"]


def test_read_inside(rows: Rows) -> None:
    """Inside, reads of a held key see what was written and fill nothing; those of others use the cache."""
    elsewhere(rows.get, 2)
    with transaction.atomic(rows.alias):
        rows.rename(1, "new")
        assert [rows.get(1), rows.get(1), rows.get(2)] == ["new", "new", "old 2"]
        assert not rows.filled(1)
        assert rows.get.cache_info().hits == 1
    assert rows.get(1) == "new"
    assert rows.filled(1)


def test_thread_started_on_commit(tied: bool, rows: Rows) -> None:
    """A hook that was registered before the write returned, and starts a thread, is run after the delivery."""
    elsewhere(rows.get, 1)
    seen: list[str] = []

    @rows.cache.invalidates(rows.get)
    def rename(row: int, name: str) -> None:
        rows.write(row, name)
        transaction.on_commit(lambda: seen.append(elsewhere(rows.get, row)), using=rows.alias)

    with transaction.atomic(rows.alias):
        rename(1, "new")
        elsewhere(rows.get, 1)
    assert seen == ["new" if tied else "old 1"]


@pytest.mark.parametrize(("first", "second"), [("mariadb", "sqlite"), ("postgresql", "mariadb")])
@pytest.mark.parametrize("outcome", ["both", "inner", "outer"])
def test_two_aliases(tied: bool, cache: Cache, first: str, second: str, outcome: str) -> None:
    """Each connection has its own commit: what either of them commits is invalidated, whatever the other does."""
    a, b = Rows(first, cache), Rows(second, cache)
    with contextlib.suppress(Failed), transaction.atomic(first):
        a.rename(1, "a")
        with contextlib.suppress(Failed), transaction.atomic(second):
            b.rename(1, "b")
            elsewhere(a.get, 1), elsewhere(b.get, 1)
            if outcome == "outer":
                raise Failed
        if tied and outcome != "outer":
            assert elsewhere(b.get, 1) == "b"
        if outcome == "inner":
            raise Failed
    assert elsewhere(a.get, 1) == ("a" if tied and outcome != "inner" else "old 1")
    assert elsewhere(b.get, 1) == ("b" if tied and outcome != "outer" else "old 1")


def test_writes_that_two_aliases_hold(cache: Cache) -> None:
    """No value is put in by the one that ends first, and a guard stands until the last: either may have made it."""
    a, b = Rows("mariadb", cache), Rows("sqlite", cache)
    with contextlib.suppress(Failed), transaction.atomic("mariadb"):
        a.rename(3, "a")
        with transaction.atomic("sqlite"):
            b.rename(3, "b")
            a.update(1, "never")
            a.rename_strictly(2, "never")
        assert (elsewhere(a.get, 1), elsewhere(a.get, 2)) == ("old 1", "old 2")
        assert not a.filled(2)
        raise Failed
    assert (elsewhere(a.get, 1), elsewhere(a.get, 2)) == ("old 1", "old 2")
    assert a.filled(2)
    assert cache.stats().guards_lost == 0
    assert cache.stats().updates == 0


def test_commit_of_another_connection(cache: Cache) -> None:
    """A write that was committed by itself is told at once, though another connection's transaction is open.

    It has written something before, or has not; and it is rolled back in the end.
    """
    open_one, other = Rows("mariadb", cache), Rows("postgresql", cache)
    for wrote in (False, True):
        elsewhere(other.get, 1)
        with contextlib.suppress(Failed), transaction.atomic("mariadb"):
            execute("mariadb", "SELECT 1")
            if wrote:
                open_one.rename(1, "never")
            other.rename(1, f"new {wrote}")
            assert elsewhere(other.get, 1) == f"new {wrote}"
            raise Failed
        assert elsewhere(other.get, 1) == f"new {wrote}"


def test_transaction_inside_a_write(cache: Cache) -> None:
    """A write that commits by itself is told when it is over, though another connection's transaction is open."""
    open_one, other = Rows("mariadb", cache), Rows("postgresql", cache)

    @cache.invalidates(other.get, lambda row, name, result: result)
    def rename(row: int, name: str) -> str:
        with transaction.atomic(other.alias):
            other.write(row, name)
            other.write(2, f"{name} too")
        return other.get.key(2)  # which nobody knows at the commit

    elsewhere(other.get, 1), elsewhere(other.get, 2)
    with contextlib.suppress(Failed), transaction.atomic("mariadb"):
        open_one.rename(1, "never")
        rename(1, "new")
        assert [elsewhere(other.get, 1), elsewhere(other.get, 2)] == ["new", "new too"]
        raise Failed
    assert [elsewhere(other.get, 1), elsewhere(other.get, 2)] == ["new", "new too"]


def test_strict(rows: Rows) -> None:
    """The guard stands until the commit: readers elsewhere load and fill nothing before it, and fill after it."""
    elsewhere(rows.get, 1)
    with transaction.atomic(rows.alias):
        rows.rename_strictly(1, "new")
        assert elsewhere(rows.get, 1) == "old 1"
        assert not rows.filled(1)
    assert elsewhere(rows.get, 1) == "new"
    assert rows.filled(1)
    assert rows.cache.stats().guards_lost == 0


@pytest.mark.parametrize("roll_back", [_raise, _close])
def test_strict_rolled_back(rows: Rows, roll_back: Callable[[Rows], None]) -> None:
    """The guard is taken back with the rollback, of a savepoint too: the next reader may fill."""
    with contextlib.suppress(Failed), transaction.atomic(rows.alias):
        with contextlib.suppress(Failed), transaction.atomic(rows.alias):
            rows.rename_strictly(2, "new")
            assert elsewhere(rows.get, 2) == "old 2"
            assert not rows.filled(2)
            raise Failed
        assert elsewhere(rows.get, 2) == "old 2"
        assert rows.filled(2)
        rows.rename_strictly(1, "new")
        roll_back(rows)
    assert elsewhere(rows.get, 1) == "old 1"
    assert rows.filled(1)
    assert rows.cache.stats().guards_lost == 0


def test_updates(rows: Rows) -> None:
    """The value of an update goes in after the commit, and not before it; the last one of several."""
    with transaction.atomic(rows.alias):
        rows.update(1, "new")
        assert elsewhere(rows.get, 1) == "old 1"
    loads = rows.get.cache_info().loads
    assert elsewhere(rows.get, 1) == "new"
    assert rows.get.cache_info().loads == loads
    with contextlib.suppress(Failed), transaction.atomic(rows.alias):
        rows.update(1, "never")
        raise Failed
    assert elsewhere(rows.get, 1) == "new"


def test_written_past_decorators(tied: bool, rows: Rows) -> None:
    """In a transaction that has written anything nothing is filled: nobody knows what of it is read."""
    with contextlib.suppress(Failed), transaction.atomic(rows.alias):
        rows.write(1, "never")
        assert rows.get(1) == "never"
        raise Failed
    assert elsewhere(rows.get, 1) == ("old 1" if tied else "never")


STATEMENT = "set transaction isolation level repeatable read"


@pytest.mark.parametrize(
    ("alias", "level"),
    [
        ("mariadb", "repeatable read"),
        ("mariadb", None),  # that of the server
        ("postgresql", IsolationLevel.REPEATABLE_READ),
        ("postgresql", STATEMENT),
        ("sqlite", STATEMENT),  # the write-ahead log makes it so
    ],
)
def test_old_snapshot(tied: bool, cache: Cache, monkeypatch: pytest.MonkeyPatch, alias: str, level: Any) -> None:
    """A transaction that reads from a snapshot fills nothing: the row may have been written since, and invalidated."""
    if level != STATEMENT:
        monkeypatch.setitem(connections.settings[alias], "OPTIONS", {"isolation_level": level})
    rows = Rows(alias, cache)
    with transaction.atomic(alias):
        if (alias, level) == ("postgresql", STATEMENT):
            execute(alias, STATEMENT)
        assert rows.get(2) == "old 2"
        elsewhere(rows.rename, 1, "new")
        assert rows.get(1) == "old 1"  # so it is in this transaction
    assert elsewhere(rows.get, 1) == ("new" if tied else "old 1")


def test_log_turned_on(tied: bool, cache: Cache) -> None:
    """The same if the snapshots of SQLite begin with a statement of the application's."""
    execute("sqlite", "PRAGMA journal_mode=DELETE")
    forget_connections()
    rows = Rows("sqlite", cache)
    with transaction.atomic("sqlite"):
        rows.get(2)
    assert rows.filled(2)  # whoever reads keeps writers from their commits
    execute("sqlite", "PRAGMA journal_mode=WAL")
    with transaction.atomic("sqlite"):
        execute("sqlite", "SELECT * FROM site_rows")
        elsewhere(rows.rename, 1, "new")
        assert rows.get(1) == "old 1"
    assert elsewhere(rows.get, 1) == ("new" if tied else "old 1")


def test_async_only_cache_around(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit inside a write leaves a cache that only async code can tell to the end of the write."""
    told: list[Any] = []

    @rows.cache.invalidates(rows.get)
    def rename(row: int, name: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(rows.cache._core, "backend", None)
            with transaction.atomic(rows.alias):
                rows.write(row, name)
        told.append(rows.cache.stats().undelivered)

    elsewhere(rows.get, 1)
    rename(1, "new")
    assert told == [0]
    assert elsewhere(rows.get, 1) == "new"


def test_block_of_another_context(tied: bool, rows: Rows) -> None:
    """The same in a block that began in another context of its thread, while no key is held."""
    block, context = transaction.atomic(rows.alias), contextvars.copy_context()
    context.run(block.__enter__)
    rows.write(1, "never")
    assert rows.held() == {}
    assert rows.get(1) == "never"
    transaction.set_rollback(True, rows.alias)
    context.run(block.__exit__, None, None, None)
    assert elsewhere(rows.get, 1) == ("old 1" if tied else "never")


def test_value_set_inside(tied: bool, rows: Rows) -> None:
    """`.set()` refuses a value in a block that has written: it may be the one that is rolled back."""
    with transaction.atomic(rows.alias):
        rows.write(1, "never")
        assert rows.get.set("never", 1) is not tied
        transaction.set_rollback(True, rows.alias)
    assert elsewhere(rows.get, 1) == ("old 1" if tied else "never")
    assert rows.get.set("old 1", 1) is True


def test_read_committed(rows: Rows) -> None:
    """By default PostgreSQL and MariaDB read what is committed, and calls inside a transaction fill the cache."""
    with transaction.atomic(rows.alias):
        rows.get(1)
    assert rows.filled(1) is (rows.alias != "sqlite")


def test_forked_child(rows: Rows) -> None:
    """A child has no part in the transaction of its parent: what it invalidates is told at once."""
    from cacheside.integrations.django import ties

    elsewhere(rows.get, 1)
    with transaction.atomic(rows.alias):
        rows.rename(1, "new")
        (block,) = ties.find({})
        for each in (block, rows.cache._core.held):  # as in a child
            each.after_fork()
        assert not rows.held()
        rows.get.invalidate(1)
        assert not rows.filled(1)
        with rows.cache.transaction():
            rows.get.invalidate(1)
            block.over()  # which takes nothing from what the child holds
            assert rows.cache._core.held.counts


def test_async_only(cache: Cache, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that the end of a transaction could not tell refuses the write, before it is done."""
    rows = Rows("sqlite", cache)
    with transaction.atomic("sqlite"), monkeypatch.context() as patch:
        patch.setattr(cache._core, "backend", None)
        patch.setattr(cache._core, "require", lambda sync: None)
        with pytest.raises(ConfigurationError, match="only an async client"):
            rows.rename(1, "never")
    assert rows.get(1) == "old 1"


def test_commit_whose_answer_is_lost(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """A commit that was done, and raised all the same, has invalidated; the exception is passed on."""
    connection: Any = connections[rows.alias]
    commit = connection._commit

    def lost() -> None:
        commit()
        raise OperationalError("lost")

    @transaction.atomic(rows.alias)
    def write() -> None:
        rows.rename(1, "new")
        elsewhere(rows.get, 1)
        monkeypatch.setattr(connection, "_commit", lost)

    with pytest.raises(OperationalError):
        write()
    monkeypatch.undo()
    assert elsewhere(rows.get, 1) == "new"


def test_commit_that_fails(cache: Cache) -> None:
    """After a commit that raises the value of an update is not put in, and the keys are invalidated."""
    rows = Rows("postgresql", cache)
    elsewhere(rows.get, 1)
    with pytest.raises(DatabaseError), transaction.atomic(rows.alias):
        rows.update(1, "old 2")  # not unique: said at the commit
    assert not rows.filled(1)
    assert elsewhere(rows.get, 1) == "old 1"
    assert cache.stats().invalidations == 1


def test_autocommit(rows: Rows) -> None:
    """Outside of a transaction a write is told when it returns."""
    elsewhere(rows.get, 1)
    rows.rename(1, "new")
    assert elsewhere(rows.get, 1) == "new"
    assert rows.cache.stats().held == 0


def test_autocommit_turned_off(rows: Rows) -> None:
    """Transactions by hand are tied as well: told after each commit, forgotten on a rollback."""
    elsewhere(rows.get, 1)
    transaction.set_autocommit(False, rows.alias)
    rows.rename(1, "first")
    assert elsewhere(rows.get, 1) == "old 1"
    transaction.commit(rows.alias)
    assert elsewhere(rows.get, 1) == "first"
    rows.rename(1, "never")
    assert rows.get(1) == "never"
    transaction.rollback(rows.alias)
    with transaction.atomic(rows.alias):
        rows.rename(1, "second")
    assert elsewhere(rows.get, 1) == "first"
    transaction.commit(rows.alias)
    assert elsewhere(rows.get, 1) == "second"
    rows.rename(1, "third")
    transaction.savepoint_rollback(savepoint(rows.alias), rows.alias)
    transaction.commit(rows.alias)
    assert elsewhere(rows.get, 1) == "third"
    transaction.set_autocommit(True, rows.alias)
    assert rows.cache.stats().invalidations == 3


def test_autocommit_turned_on(cache: Cache) -> None:
    """Where that commits what was open, it is told."""
    rows = Rows("mariadb", cache)
    elsewhere(rows.get, 1)
    transaction.set_autocommit(False, rows.alias)
    rows.rename(1, "new")
    transaction.set_autocommit(True, rows.alias)
    assert elsewhere(rows.get, 1) == "new"


def test_late_invalidation(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a thread of the transaction invalidates while its end is being told is told at once."""
    elsewhere(rows.get, 2)
    backend: Any = rows.cache._core.backend
    invalidate = backend.invalidate

    def invalidating(keys: Any) -> None:
        monkeypatch.undo()
        elsewhere(contextvars.copy_context().run, rows.get.invalidate, 2)
        invalidate(keys)

    with transaction.atomic(rows.alias):
        rows.rename(1, "new")
        monkeypatch.setattr(backend, "invalidate", invalidating)
    assert not rows.filled(2)


def test_wrapper_around_the_first_statement(rows: Rows) -> None:
    """An `execute_wrapper` that is entered before the connection is made takes away itself, and not the tie."""
    seen: list[str] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        seen.append(sql)
        return execute(sql, params, many, context)

    forget_connections()
    with connections[rows.alias].execute_wrapper(note):
        execute(rows.alias, "SELECT 1")
    before = len(seen)
    elsewhere(rows.get, 1)
    with transaction.atomic(rows.alias):
        rows.rename(1, "new")
        assert elsewhere(rows.get, 1) == "old 1"
        assert rows.cache.stats().invalidations == 0  # it is known that the transaction writes
    assert len(seen) == before


def test_explicit_transaction(rows: Rows) -> None:
    """`cache.transaction()` inside a block joins it; around one it holds what is told at the commit as well."""
    elsewhere(rows.get, 1)
    with transaction.atomic(rows.alias):
        with rows.cache.transaction():
            rows.rename(1, "inside")
        assert elsewhere(rows.get, 1) == "old 1"
    assert elsewhere(rows.get, 1) == "inside"
    with rows.cache.transaction():
        with transaction.atomic(rows.alias):
            rows.rename(1, "around")
        assert elsewhere(rows.get, 1) == "around"
    assert elsewhere(rows.get, 1) == "around"
    with rows.cache.transaction() as block, transaction.atomic(rows.alias):
        rows.rename(1, "both")
        block.rollback()  # a mistake: it is committed all the same
    assert elsewhere(rows.get, 1) == "both"


def test_explicit_transaction_around_a_doubtful_write(rows: Rows) -> None:
    """No value that was rolled back goes in at its end, though the statement does not say plainly that it writes."""

    @rows.cache.updates(rows.get)
    def update(row: int, name: str) -> str:
        execute(rows.alias, "/* so */ UPDATE site_rows SET name = %s WHERE id = %s", name, row)
        return name

    with rows.cache.transaction(), contextlib.suppress(Failed), transaction.atomic(rows.alias):
        update(1, "never")
        raise Failed
    assert elsewhere(rows.get, 1) == "old 1"
    with transaction.atomic(rows.alias):
        update(1, "new")
    assert elsewhere(rows.get, 1) == "new"


def test_tags_and_verbs(rows: Rows) -> None:
    """`.invalidate()` and tags inside a block wait as well."""

    @rows.cache.cached(f"{rows.alias}:all", tags=("all",))
    def names() -> list[Any]:
        return execute(rows.alias, "SELECT name FROM site_rows ORDER BY id")

    elsewhere(names), elsewhere(rows.get, 1)
    with transaction.atomic(rows.alias):
        rows.write(1, "new")
        rows.get.invalidate(1)
        rows.cache.invalidate(tags=["all"])
        assert elsewhere(names)[0][0] == elsewhere(rows.get, 1) == "old 1"
        assert names()[0][0] == "new"
    assert elsewhere(names)[0][0] == elsewhere(rows.get, 1) == "new"


def test_one_delivery(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many writes a transaction has, the cache is told once."""
    backend: Any = rows.cache._core.backend
    told: list[Any] = []
    invalidate = backend.invalidate
    monkeypatch.setattr(backend, "invalidate", lambda keys: (told.append(sorted(keys)), invalidate(keys)))
    with transaction.atomic(rows.alias):
        for name in ("a", "b"):
            rows.rename(1, name)
            with transaction.atomic(rows.alias):
                rows.rename(2, f"2{name}")
    assert told == [[rows.get.key(1), rows.get.key(2)]]


def test_other_threads(rows: Rows) -> None:
    """A write in another thread, with its own connection, waits for no block of this one."""
    elsewhere(rows.get, 2)
    with transaction.atomic(rows.alias):
        execute(rows.alias, "SELECT 1")
        elsewhere(rows.rename, 2, "new")
        assert elsewhere(rows.get, 2) == "new"
