"""Django: requests, over WSGI and ASGI, in both colours; settings; tests that never commit."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import unittest
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, TestCase, override_settings
from django.urls import path
from django_site import Rows, elsewhere, execute, forget_connections, savepoint

import cacheside
from cacheside import Cache

ALIAS = "mariadb"

Ask = Callable[[Callable[..., Any]], HttpResponse]


@pytest.fixture(params=[True, False], ids=["tied", "control"])
def tied(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, django_site: None) -> bool:
    """Whether connections are tied; if not, the bug has to show."""
    if not request.param:
        from cacheside.integrations.django import ties

        monkeypatch.setattr(ties, "tie", lambda connection: None)
    return bool(request.param)


@pytest.fixture
def rows(django_site: None) -> Iterator[Rows]:
    """Rows, with a cache; at the end nothing is held in it any more."""
    with Cache("memory://") as cache:
        yield Rows(ALIAS, cache)
        assert cache._core.held.counts == {}
    forget_connections()


@pytest.fixture(params=["wsgi", "asgi"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Have a view answer one request, in a thread of its own."""

    def over_wsgi(view: Callable[..., Any]) -> HttpResponse:
        with override_settings(ROOT_URLCONF=(path("", view),)):
            response: HttpResponse = elsewhere(lambda: Client(raise_request_exception=False).get("/"))
            return response

    async def over_asgi(view: Callable[..., Any]) -> HttpResponse:
        with override_settings(ROOT_URLCONF=(path("", view),)):
            response: HttpResponse = await AsyncClient(raise_request_exception=False).get("/")
            await sync_to_async(forget_connections)()
            return response

    if request.param == "wsgi":
        return over_wsgi
    return lambda view: asyncio.run(over_asgi(view))


@pytest.fixture
def atomic_requests(django_site: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sync view is a transaction."""
    monkeypatch.setitem(connections.settings[ALIAS], "ATOMIC_REQUESTS", True)


@pytest.mark.usefixtures("atomic_requests")
def test_atomic_requests(tied: bool, rows: Rows, ask: Ask) -> None:
    """A view that is a transaction: told after its commit, forgotten with its exception."""

    def rename(request: HttpRequest) -> HttpResponse:
        rows.rename(1, "new")
        elsewhere(rows.get, 1)
        return HttpResponse(rows.get(1))

    def fail(request: HttpRequest) -> HttpResponse:
        rows.rename(2, "never")
        raise RuntimeError(rows.get(2))

    assert ask(rename).content == (b"new" if tied else b"old 1")
    assert elsewhere(rows.get, 1) == ("new" if tied else "old 1")
    elsewhere(rows.get, 2)
    assert ask(fail).status_code == 500
    assert elsewhere(rows.get, 2) == ("old 2" if tied else "never")


def test_async_view(rows: Rows, ask: Ask) -> None:
    """An async view whose transaction is a function in a thread; the write around it is told when it is over."""
    seen: list[str] = []

    @transaction.atomic(ALIAS)
    def in_thread(name: str) -> None:
        rows.rename(2, name)
        rows.write(1, name)
        seen.append(elsewhere(rows.get, 2))

    @rows.cache.invalidates(rows.get)
    async def rename(row: int, name: str) -> None:
        await sync_to_async(in_thread)(name)

    async def view(request: HttpRequest) -> HttpResponse:
        await rename(1, "new")
        return HttpResponse(await sync_to_async(rows.get)(1))

    elsewhere(rows.get, 1)
    assert ask(view).content == b"new"
    assert seen == ["old 2"]
    assert [elsewhere(rows.get, 1), elsewhere(rows.get, 2)] == ["new", "new"]


@pytest.mark.usefixtures("atomic_requests")
def test_async_write_in_a_transaction(tied: bool, rows: Rows, ask: Ask) -> None:
    """An async write that is called from a sync transaction, and runs in another thread, waits for its commit too."""

    @rows.cache.cached("async:{row}")
    async def get(row: int) -> Any:
        return await sync_to_async(lambda: execute(ALIAS, "SELECT name FROM site_rows WHERE id = %s", row)[0][0])()

    @rows.cache.invalidates(rows.get, get)
    async def rename(row: int, name: str) -> None:
        await sync_to_async(rows.write)(row, name)

    def view(request: HttpRequest) -> HttpResponse:
        async_to_sync(rename)(1, "new")
        elsewhere(rows.get, 1)
        return HttpResponse(async_to_sync(get)(1))

    assert ask(view).content == b"new"
    assert elsewhere(rows.get, 1) == ("new" if tied else "old 1")


@pytest.mark.usefixtures("atomic_requests")
def test_thread_after_the_response(tied: bool, rows: Rows, ask: Ask) -> None:
    """A thread that goes on after the response finds nothing old, and what it writes waits for its own commit."""
    threads: list[threading.Thread] = []
    seen: list[str] = []
    answered = threading.Event()

    def work() -> None:
        answered.wait()
        try:
            seen.append(rows.get(1))
            with transaction.atomic(ALIAS):
                rows.rename(2, "new")
                seen.append(elsewhere(rows.get, 2))
        finally:
            connections.close_all()

    def view(request: HttpRequest) -> HttpResponse:
        rows.rename(1, "new")
        elsewhere(rows.get, 1)
        threads.append(threading.Thread(target=work))
        threads[0].start()
        return HttpResponse()

    ask(view)
    answered.set()
    threads[0].join()
    assert seen == ["new" if tied else "old 1", "old 2"]
    assert elsewhere(rows.get, 2) == ("new" if tied else "old 2")


def test_tests_that_never_commit(rows: Rows) -> None:
    """In a `TestCase` reads see what was written, nothing is told, and `captureOnCommitCallbacks` tells it."""
    elsewhere(rows.get, 1)

    class Some(TestCase):
        databases = frozenset({ALIAS})

        def test_write(self) -> None:
            rows.rename(1, "new")
            assert rows.get(1) == "new"
            assert elsewhere(rows.get, 1) == "old 1"

        def test_capture(self) -> None:
            rows.rename(2, "before")
            with self.captureOnCommitCallbacks(using=ALIAS, execute=True) as callbacks:
                rows.rename(1, "new")
                rows.rename(2, "new")
            assert len(callbacks) == 2
            assert rows.cache.stats().invalidations == 2
            assert not rows.filled(1)
            assert rows.get(1) == "new"
            assert not rows.filled(1)  # with what is never committed

        def test_savepoint_by_hand(self) -> None:
            told = rows.cache.stats().invalidations
            with self.captureOnCommitCallbacks(using=ALIAS, execute=True) as callbacks:
                sid = savepoint(ALIAS)
                rows.rename(1, "never")
                transaction.savepoint_rollback(sid, ALIAS)
            assert len(callbacks) == 1  # Django does not know what belongs to such a savepoint
            assert rows.cache.stats().invalidations == told

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Some).run(result)
    assert (result.testsRun, result.failures, result.errors) == (3, [], [])
    assert elsewhere(rows.get, 1) == "old 1"


@pytest.mark.usefixtures("django_site")
def test_settings() -> None:
    """`CACHESIDE` configures the default cache, by URL or by dict, and again if a test overrides it."""
    with override_settings(CACHESIDE="memory://?namespace=one"):
        assert cacheside.default_cache().namespace == "one"
        with override_settings(CACHESIDE={"URL": "null://", "NAMESPACE": "two", "TTL": 7}):
            assert cacheside.default_cache().namespace == "two"
            assert cacheside.default_cache()._home.ttl == 7
        assert cacheside.default_cache().namespace == "one"
        with override_settings(CACHESIDE=None):
            assert cacheside.default_cache().namespace == "one"
    assert cacheside.default_cache()._home.ttl == 77  # that of the site


@pytest.mark.usefixtures("django_site")
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (7, "a URL, or a dict"),
        ({}, "needs a 'URL'"),
        ({"URL": "memory://", "TLL": 7}, "unknown option 'TLL'; known are: URL, NAMESPACE, .*TTL"),
        ({"URL": "memory://", "TTL": "soon"}, "settings.CACHESIDE: ttl"),
        ("nonsense://", "settings.CACHESIDE: .*nonsense"),
    ],
)
def test_settings_that_cannot_work(value: object, message: str) -> None:
    """What cannot work is said when Django starts, with the cure."""
    from cacheside.integrations.django import configuration

    before = cacheside.default_cache()
    with pytest.raises(ImproperlyConfigured, match=message):
        configuration.apply(value)
    assert cacheside.default_cache() is before


def test_nothing_is_imported_before_use() -> None:
    """Neither `import cacheside` nor a decorated function with a cache of its own imports Django."""
    code = (
        "import sys, cacheside\n"
        "cacheside.Cache().cached('a')(lambda: 1)()\n"
        "assert not {'django', 'cacheside.integrations'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
