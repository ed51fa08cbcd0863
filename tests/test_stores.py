"""The service of `shop.py` over SQLite, PostgreSQL and MariaDB, with memory, Redis and memcached as its cache."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pymemcache
import pytest
import redis
from colours import TIMEOUT
from shop import NotFound, Store, User, UserRepository, mariadb_store, postgres_store, sqlite_store

import cacheside
from cacheside import Cache

JOINED = datetime(2024, 2, 29, 23, 59, 58, 123456)


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("postgresql", marks=pytest.mark.server),
        pytest.param("mariadb", marks=pytest.mark.server),
    ]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An empty table in each kind of store."""
    if request.param == "sqlite":
        made = sqlite_store(tmp_path / "shop.db")
    elif request.param == "postgresql":
        made = postgres_store(request.getfixturevalue("postgres_server").url)
    else:
        made = mariadb_store(request.getfixturevalue("mariadb_server").connect_args)
    with contextlib.closing(made):
        made.create()
        yield made


@pytest.fixture(
    params=[
        "memory",
        pytest.param("redis_server", marks=pytest.mark.server),
        pytest.param("memcached_server", marks=pytest.mark.server),
    ]
)
def cache(request: pytest.FixtureRequest, namespace: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cache]:
    """Each kind of cache, as the default one."""
    monkeypatch.setattr("cacheside.cache._default", None)  # puts back what was there before
    url = "memory://" if request.param == "memory" else request.getfixturevalue(request.param).url
    with cacheside.configure(url, namespace=namespace, timeout=5) as made:
        yield made


class Service:
    """The repository called in one colour: the plain methods, or their awaitable twins in one event loop."""

    def __init__(self, repo: UserRepository, runner: asyncio.Runner | None) -> None:
        self.repo = repo
        self.runner = runner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        runner = self.runner
        if runner is None:
            return getattr(self.repo, name)
        method = getattr(self.repo, f"a{name}")
        return lambda *args: runner.run(method(*args))

    def newcomer(self, name: str, city: str | None = "Rome") -> User:
        """Add a user."""
        return self.add(f"{name}@example.org", name, city, Decimal("19.90"), JOINED)


@pytest.fixture(params=["sync", "async"])
def shop(request: pytest.FixtureRequest, store: Store, cache: Cache) -> Iterator[Service]:
    """The service over each store and each cache, in either colour."""
    repo = UserRepository(store)
    if request.param == "sync":
        yield Service(repo, None)
    else:
        with asyncio.Runner() as runner:
            yield Service(repo, runner)
            runner.run(cache.aclose())


def test_hits_are_what_the_store_gave(shop: Service) -> None:
    """A hit is equal to the loaded value, field by field of the same types, and costs no load."""
    made = shop.newcomer("Ann", city=None)
    calls = [(shop.get, made.id), (shop.by_email, made.email), (shop.page, 1)]
    loaded = [read(argument) for read, argument in calls]
    assert loaded == [made, made, [made]]
    assert shop.repo.loads == 3
    hits = [read(argument) for read, argument in calls]
    assert hits == loaded
    assert shop.repo.loads == 3
    assert type(hits[2]) is list
    for user in (hits[0], hits[1], hits[2][0]):
        assert type(user) is User
        types = [type(value) for value in dataclasses.astuple(user)]
        assert types == [int, str, str, type(None), Decimal, datetime]
        assert str(user.balance) == "19.90"
        assert user.joined.microsecond == 123456


def test_none_is_a_value(shop: Service) -> None:
    """That there is nobody under an address is remembered, and forgotten as soon as there is somebody."""
    assert [shop.by_email("Ann@example.org") for _ in range(3)] == [None] * 3
    assert shop.repo.loads == 1
    made = shop.newcomer("Ann")
    assert shop.by_email("Ann@example.org") == made
    assert shop.repo.loads == 2


def test_not_found_is_stored_and_dropped_by_the_insert(shop: Service) -> None:
    """NotFound is raised again without a load; the insert drops it, by the id that only its result tells."""
    coming = shop.newcomer("Ann").id + 1
    for _ in range(3):
        with pytest.raises(NotFound, match=f"no user with id {coming}"):
            shop.get(coming)
        with pytest.raises(NotFound, match="nobody lives in Oslo"):
            shop.count("Oslo")
    assert shop.repo.loads == 2
    made = shop.newcomer("Bob", city="Oslo")
    assert made.id == coming
    assert [shop.get(coming), shop.get(coming)] == [made, made]
    assert [shop.count("Oslo"), shop.count("Oslo")] == [1, 1]
    assert shop.repo.loads == 4


def test_every_read_sees_the_write_before_it(shop: Service) -> None:
    """After each kind of write, each cached read gives what a direct query gives: one load each, then hits."""
    ann, bob = shop.newcomer("Ann"), shop.newcomer("Bob")

    def check(loads: int) -> None:
        """Every read twice; only what the last write touched is loaded, and once."""
        before = shop.repo.loads
        for _ in range(2):
            assert [shop.get(user.id) for user in (ann, bob)] == shop.repo.direct("ORDER BY id LIMIT 2")
            for user in (ann, bob):
                assert [shop.by_email(user.email)] == shop.repo.direct("WHERE email = ?", user.email)
            assert shop.page(1) == shop.repo.direct("ORDER BY id LIMIT 2")
            assert shop.page(2) == shop.repo.direct("ORDER BY id LIMIT 2 OFFSET 2")
            assert shop.count("Rome") == len(shop.repo.direct("WHERE city = ?", "Rome"))
        assert shop.repo.loads - before == loads

    check(loads=7)
    assert shop.rename(ann.id, "Anne").name == "Anne"
    check(loads=4)  # by id, by address, two pages
    cid = shop.newcomer("Cid")
    check(loads=3)  # two pages, the count
    assert shop.page(2) == [cid]
    shop.remove(cid)
    check(loads=3)
    with pytest.raises(NotFound):
        shop.get(cid.id)


def test_both_colours_share_entries(store: Store, cache: Cache) -> None:
    """What plain code loaded is a hit for async code, and an async write drops it for plain code."""
    repo = UserRepository(store)
    ann = repo.add("Ann@example.org", "Ann", None, Decimal("0.50"), JOINED)
    assert repo.get(ann.id) == ann

    async def elsewhere() -> None:
        assert await repo.aget(ann.id) == ann
        assert repo.loads == 1
        await repo.arename(ann.id, "Anne")
        await cache.aclose()

    asyncio.run(elsewhere())
    assert repo.get(ann.id).name == "Anne"
    assert repo.loads == 2


class SlowReader:
    """A hook that holds the first load between its SELECT and its return, until the test lets it go."""

    def __init__(self) -> None:
        self.has_read = threading.Event()
        self.go = threading.Event()

    def __call__(self) -> None:
        if not self.has_read.is_set():
            self.has_read.set()
            assert self.go.wait(TIMEOUT)


def test_slow_reader_cannot_leave_the_old_row(shop: Service, cache: Cache) -> None:
    """A reader that read the old row before a write, and ends after it, leaves nothing behind: its fill is refused."""
    ann = shop.newcomer("Ann")
    slow = shop.repo.after_select = SlowReader()
    plain = shop.runner is None

    async def in_another_loop() -> User:
        async with cache:
            return await shop.repo.aget(ann.id)

    def read_slowly() -> User:
        return shop.repo.get(ann.id) if plain else asyncio.run(in_another_loop())

    with ThreadPoolExecutor(1) as threads:
        reader = threads.submit(read_slowly)
        assert slow.has_read.wait(TIMEOUT)
        shop.rename(ann.id, "Anne")
        slow.go.set()
        assert reader.result(TIMEOUT).name == "Ann"  # it asked before the write: the old row is a right answer
    assert [shop.get(ann.id).name, shop.get(ann.id).name] == ["Anne", "Anne"]
    assert shop.repo.loads == 2
    info = (shop.repo.get if plain else shop.repo.aget).cache_info()
    assert (info.refused, info.errors) == (1, 0)


@pytest.fixture(params=["redis_server", "memcached_server"])
def client(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A plain client with get, set and delete."""
    server = request.getfixturevalue(request.param)
    if request.param == "redis_server":
        made: Any = redis.Redis.from_url(server.url)
    else:
        made = pymemcache.Client(server.address, default_noreply=False)
    with contextlib.closing(made):
        yield made


@pytest.mark.server
def test_control_get_set_delete_leaves_the_old_row(store: Store, client: Any, namespace: str) -> None:
    """The control: the same race with get, set and delete by hand leaves the old row in the cache."""
    repo = UserRepository(store)
    ann = repo._insert("Ann@example.org", "Ann", None, Decimal("0.50"), JOINED)
    slow = repo.after_select = SlowReader()
    key = f"{namespace}:{ann.id}"

    def get() -> str:
        stored = client.get(key)
        if stored is None:
            stored = repo._one("id", ann.id).name.encode()
            client.set(key, stored)
        return stored.decode()

    with ThreadPoolExecutor(1) as threads:
        reader = threads.submit(get)
        assert slow.has_read.wait(TIMEOUT)
        repo._update(ann.id, "Anne")
        client.delete(key)
        slow.go.set()
        assert reader.result(TIMEOUT) == "Ann"
    assert get() == "Ann"
    assert repo.direct("WHERE id = ?", ann.id)[0].name == "Anne"
