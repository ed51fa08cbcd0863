"""Django with an outbox: each transaction leaves a row with its keys, which a relay delivers if its process dies."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command
from django.db import DatabaseError, connections, transaction
from django.test import override_settings
from django.test.utils import CaptureQueriesContext
from django_site import ALIASES, Rows, elsewhere, execute, forget_connections
from servers import MariaDBServer, MemcachedServer, PostgresServer

import cacheside


class Died(BaseException):
    """Stands for the end of the process."""


class Failed(Exception):
    """What a view raises."""


class Site:
    """The site with an outbox, on one kind of database."""

    def __init__(self, alias: str) -> None:
        from cacheside.integrations.django import records

        self.alias = alias
        self.cache = cacheside.default_cache()
        self.rows = Rows(alias, self.cache)
        found: Any = records.outbox()
        self.outbox = found

    def recorded(self) -> list[list[str]]:
        """The keys of each row, without the namespace."""
        start = len(self.cache._core.prefix)
        rows = execute(self.alias, f"SELECT entries FROM {self.outbox.table} ORDER BY created")
        return [sorted(key[start:] for key in self.outbox.keys(entries)) for (entries,) in rows]


@pytest.fixture(params=ALIASES)
def site(
    request: pytest.FixtureRequest, django_site: None, new_memcached: Callable[[], MemcachedServer]
) -> Iterator[Site]:
    """With its table made by `migrate`, on each kind of database."""
    alias: str = request.param
    memcached = new_memcached()
    own = {"URL": memcached.url, "NAMESPACE": f"t{uuid.uuid4().hex}", "TIMEOUT": 2, "OUTBOX": "app_outbox"}
    with override_settings(CACHESIDE=own):
        call_command("migrate", "cacheside", database=alias, verbosity=0)
        made = Site(alias)
        try:
            yield made
            assert made.cache._core.held.counts == {}
        finally:
            call_command("migrate", "cacheside", "zero", database=alias, verbosity=0)
            assert "app_outbox" not in connections[alias].introspection.table_names()
            made.cache.close()
            forget_connections()


def test_row(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row with all keys is committed with the write, and removed after the delivery; none for what is rolled back."""
    from cacheside.integrations.django.blocks import Block

    at_delivery: list[Any] = []
    deliver = Block.deliver

    def delivering(block: Block, *args: Any) -> None:
        at_delivery.append(elsewhere(site.recorded))
        deliver(block, *args)

    monkeypatch.setattr(Block, "deliver", delivering)
    rows = site.rows
    with transaction.atomic(site.alias):
        rows.rename(1, "new")
        with contextlib.suppress(Failed), transaction.atomic(site.alias):
            rows.rename(3, "never")
            raise Failed
        with transaction.atomic(site.alias):
            rows.rename(2, "new too")
            site.cache.invalidate(tags=["all"])
    assert at_delivery[0] == [sorted(["%tag:all", rows.get.key(1), rows.get.key(2)])]
    assert site.recorded() == []

    with contextlib.suppress(Failed), transaction.atomic(site.alias):
        rows.rename(1, "never")
        raise Failed
    assert site.recorded() == []


def test_nothing_to_record(site: Site) -> None:
    """A transaction that invalidates nothing has no statement for the outbox, whatever the last one had."""
    with transaction.atomic(site.alias):
        site.rows.rename(1, "new")
    with CaptureQueriesContext(connections[site.alias]) as captured, transaction.atomic(site.alias):
        site.rows.write(1, "newer")
    assert [query["sql"] for query in captured.captured_queries if "outbox" in query["sql"]] == []


def test_transaction_inside_a_write(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of a write that commits by itself are in the row, though it is not over at its commit."""
    from cacheside.integrations.django.blocks import Block

    @site.cache.invalidates(site.rows.get)
    def rename(row: int, name: str) -> None:
        with transaction.atomic(site.alias):
            site.rows.write(row, name)

    at_delivery: list[Any] = []
    monkeypatch.setattr(Block, "deliver", lambda *_: at_delivery.extend(elsewhere(site.recorded)))
    rename(1, "new")
    assert at_delivery == [[site.rows.get.key(1)]]


def test_reads_leave_no_row(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction that only reads needs no table, whatever is invalidated in it."""
    monkeypatch.setattr(site.outbox, "insert_with", lambda mark: "nonsense")
    with transaction.atomic(site.alias):
        site.rows.get(1)
        site.rows.get.invalidate(1)


def test_process_that_dies(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    django_site: None,
    mariadb_server: MariaDBServer,
    postgres_server: PostgresServer,
) -> None:
    """What was committed and not delivered stands in the outbox, and a relay delivers it."""
    from cacheside.integrations.django.blocks import Block

    def die(block: Block, *args: Any) -> None:
        raise Died

    rows = site.rows
    elsewhere(rows.get, 1)
    with monkeypatch.context() as patch:
        patch.setattr(Block, "deliver", die)
        with contextlib.suppress(Died), transaction.atomic(site.alias):
            rows.rename(1, "new")
    site.cache._core.held.counts.clear()  # a process of its own has none
    with connections[site.alias].cursor():
        assert site.recorded() == [[rows.get.key(1)]]
    assert elsewhere(rows.get, 1) == "old 1"
    stores = {
        "sqlite": f"sqlite:///{connections['sqlite'].settings_dict['NAME']}",
        "mariadb": mariadb_server.url,
        "postgresql": postgres_server.url,
    }
    with site.outbox.relay(stores[site.alias], delay=0.05, poll=0.05):
        end = time.monotonic() + 20
        while site.recorded():
            assert time.monotonic() < end
            time.sleep(0.02)
    assert elsewhere(rows.get, 1) == "new"


def test_cache_that_is_down(site: Site, new_memcached: Callable[[], MemcachedServer]) -> None:
    """A delivery that is pending leaves its row to the relay."""
    with override_settings(
        CACHESIDE={"URL": f"memcached://127.0.0.1:1?namespace=n{uuid.uuid4().hex}", "OUTBOX": "app_outbox"}
    ):
        down = Site(site.alias)
        with transaction.atomic(site.alias):
            down.rows.rename(1, "new")
        assert down.recorded() == [[down.rows.get.key(1)]]
    execute(site.alias, "DELETE FROM app_outbox")


def test_row_that_cannot_be_written(site: Site) -> None:
    """Without the row there is no commit, and nothing is invalidated."""
    rows = site.rows
    elsewhere(rows.get, 1)
    with override_settings(CACHESIDE=None):
        site.outbox.table = "missing"
        with pytest.raises(DatabaseError), transaction.atomic(site.alias):
            rows.rename(1, "never")
        site.outbox.table = "app_outbox"
    assert rows.filled(1)
    assert elsewhere(rows.get, 1) == "old 1"


def test_transactions_by_hand(site: Site) -> None:
    """With autocommit turned off rows are removed by the next transaction, or when it is turned on again."""
    rows = site.rows
    transaction.set_autocommit(False, site.alias)
    for name in ("a", "b"):
        rows.rename(1, name)
        transaction.commit(site.alias)
        assert len(elsewhere(site.recorded)) == 1
    transaction.set_autocommit(True, site.alias)
    assert site.recorded() == []
    assert elsewhere(rows.get, 1) == "b"


@pytest.mark.parametrize("site", ["sqlite", "mariadb"], indirect=True)
def test_autocommit_turned_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that commits what was open, the row is part of it, and is removed as after any commit."""
    from cacheside.integrations.django.blocks import Block

    at_delivery: list[Any] = []
    monkeypatch.setattr(Block, "deliver", lambda *_: at_delivery.extend(elsewhere(site.recorded)))
    transaction.set_autocommit(False, site.alias)
    site.rows.rename(1, "new")
    transaction.set_autocommit(True, site.alias)
    assert at_delivery == [[site.rows.get.key(1)]]
    assert site.recorded() == []


def test_hook_that_raises(site: Site) -> None:
    """The row is removed though a hook of the application's raises after the commit."""

    def hook() -> None:
        raise Failed

    with contextlib.suppress(Failed), transaction.atomic(site.alias):
        transaction.on_commit(hook, using=site.alias)
        site.rows.rename(1, "new")
    assert site.recorded() == []
    assert elsewhere(site.rows.get, 1) == "new"


def test_hook_that_writes(site: Site) -> None:
    """What a hook writes in a transaction of its own is delivered, and the rows of both are removed."""
    rows = site.rows

    def hook() -> None:
        with transaction.atomic(site.alias):
            rows.rename(2, "new too")

    elsewhere(rows.get, 2)
    with transaction.atomic(site.alias):
        rows.rename(1, "new")
        transaction.on_commit(hook, using=site.alias)
    assert site.recorded() == []
    assert elsewhere(rows.get, 2) == "new too"


@pytest.mark.usefixtures("django_site")
def test_settings() -> None:
    """A cache in memory needs no outbox, and has none; a name that can be none is said when Django starts."""
    from cacheside.integrations.django import records

    with override_settings(CACHESIDE={"URL": "memory://", "OUTBOX": True}):
        assert records.outbox() is None
    with override_settings(CACHESIDE={"URL": "memcached://localhost:1", "OUTBOX": True}):
        outbox = records.outbox()
        assert outbox is not None
        assert outbox.table == "cacheside_outbox"
        assert outbox.core is cacheside.default_cache()._core
    assert records.outbox() is None
    for wrong in ("a-b", 7):
        with pytest.raises(ImproperlyConfigured, match="a name of small letters"):
            override_settings(CACHESIDE={"URL": "memcached://localhost:1", "OUTBOX": wrong}).enable()
