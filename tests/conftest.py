"""Fixtures for all tests: real servers, and a namespace of one's own on them.

The servers of the session are shared and never flushed: a test keeps to a fresh `namespace`. A test that kills,
restarts, freezes or floods a server takes its own from `new_redis` or `new_memcached`.

A test that uses one of these fixtures, also by way of another fixture, is marked `server` by itself, so that
`pytest -m "not server"` runs all others. A parameter that picks a server with `request.getfixturevalue` has to be
marked by hand: `pytest.param("redis_server", marks=pytest.mark.server)`.

Async tests are plain functions that call `asyncio.run`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import uuid
from collections.abc import Callable, Iterator

import pytest
from adapter import Adapter
from colours import Colour, Tasks, Threads
from memcached_tools import Relay, opener
from redis_groups import RedisCluster, SentinelGroup
from redis_tools import MakeCache, cache_maker
from servers import MariaDBServer, MemcachedServer, PostgresServer, RedisServer, ValkeyServer
from wire import Wire
from write_shop import Shop

SERVER_FIXTURES = frozenset({
    "mariadb_server", "memcached_ring", "memcached_server", "new_memcached", "new_redis", "postgres_server",
    "redis_cluster", "redis_sentinel", "redis_server", "valkey_server",
})  # fmt: skip

PROOFS = (
    "test_benchmarks", "test_check", "test_faults", "test_fuzz", "test_interleavings", "test_memcached_races",
    "test_model", "test_mutations", "test_outage", "test_processes", "test_races", "test_redis_cluster",
    "test_redis_sentinel", "test_servers", "test_typing",
)  # fmt: skip
KINDS_OF_SERVERS = (  # the conformance suite on what differs from one Redis or memcached by its server, not its Python
    "TestMemcachedRing", "TestRedisClients", "TestRedisCluster", "TestRedisScripts", "TestRedisSentinel", "TestValkey",
)  # fmt: skip
LONG_FIRST = (  # of several at once: else one worker is at these when the others have nothing left to do
    "test_interleavings", "test_benchmarks", "test_mutations", "test_relay", "test_redis_cluster", "test_demo",
    "test_redis_sentinel", "test_redis_clients", "test_typing", "test_fork", "test_many", "test_model",
    "test_conformance",
)  # fmt: skip
ALONE = ("test_check", "test_faults", "test_outage", "test_processes", "test_races")


@pytest.hookimpl(tryfirst=True)  # before -m looks at the marks
def pytest_collection_modifyitems(items: list[pytest.Function]) -> None:
    """Mark what uses a server, what proves a protocol, what must have the machine to itself; the long ones first."""
    items.sort(key=lambda item: not item.path.name.startswith(LONG_FIRST))
    for item in items:
        if item.path.name.startswith(PROOFS) or (item.cls is not None and item.cls.__name__ in KINDS_OF_SERVERS):
            item.add_marker(pytest.mark.proof)
        if item.path.name.startswith(ALONE):
            item.add_marker(pytest.mark.alone)
        if SERVER_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.server)


def pytest_report_header() -> str:
    """Say which cacheside is tested: the one in the checkout, or an installed one."""
    found = importlib.util.find_spec("cacheside")
    return f"cacheside: {found.origin if found is not None else 'not importable'}"


@pytest.fixture
def namespace() -> str:
    """A namespace that no other test has ever used."""
    return f"t{uuid.uuid4().hex}"


@pytest.fixture(params=[Threads, Tasks], ids=lambda made: made.name if isinstance(made, type) else None)
def colour(request: pytest.FixtureRequest) -> Iterator[Colour]:
    """Threads, or tasks."""
    made = request.param()
    yield made
    made.close()


@pytest.fixture
def make_cache(colour: Colour) -> Iterator[MakeCache]:
    """Make a cache that is closed at the end, in its colour: `make_cache(url or backend, **options)`."""
    with cache_maker(colour) as make:
        yield make


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """The Redis of this session."""
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """The Redis Cluster of this session. Whoever breaks some of it calls `heal`."""
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def redis_sentinel() -> Iterator[SentinelGroup]:
    """The Redis behind Sentinel of this session. Whoever breaks some of it calls `heal`."""
    with SentinelGroup() as group:
        yield group


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """The Valkey of this session."""
    with ValkeyServer() as server:
        yield server


@pytest.fixture(scope="session")
def memcached_server() -> Iterator[MemcachedServer]:
    """The memcached of this session."""
    with MemcachedServer() as server:
        yield server


@pytest.fixture(scope="session")
def memcached_ring() -> Iterator[list[MemcachedServer]]:
    """Three more, to be used as one ring."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(MemcachedServer()) for _ in range(3)]


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The PostgreSQL of this session."""
    with PostgresServer() as server:
        yield server


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDBServer]:
    """The MariaDB of this session."""
    with MariaDBServer() as server:
        yield server


@pytest.fixture(scope="module")
def django_site(
    tmp_path_factory: pytest.TempPathFactory, mariadb_server: MariaDBServer, postgres_server: PostgresServer
) -> Iterator[None]:
    """Django, set up with a database of each kind; `django_site.py` has what works on them."""
    import django_site  # not before it is used, as the rest of Django

    with django_site.set_up(tmp_path_factory.mktemp("django"), mariadb_server, postgres_server):
        yield


@pytest.fixture
def new_redis() -> Iterator[Callable[..., RedisServer]]:
    """Start a Redis for this test alone: `new_redis(*args, tls=False)`."""
    with contextlib.ExitStack() as stack:

        def start(*args: str, tls: bool = False) -> RedisServer:
            return stack.enter_context(RedisServer(*args, tls=tls))

        yield start


@pytest.fixture
def new_memcached() -> Iterator[Callable[..., MemcachedServer]]:
    """Start a memcached for this test alone: `new_memcached(*args, unix=False)`."""
    with contextlib.ExitStack() as stack:

        def start(*args: str, unix: bool = False) -> MemcachedServer:
            return stack.enter_context(MemcachedServer(*args, unix=unix))

        yield start


@pytest.fixture
def relay(memcached_server: MemcachedServer) -> Iterator[Relay]:
    """What stands between the session's memcached and a backend."""
    with Relay(memcached_server) as started:
        yield started


@pytest.fixture
def other(memcached_server: MemcachedServer) -> Iterator[Adapter]:
    """Another process's backend on the session's memcached."""
    with opener("sync") as make:
        yield make(memcached_server)


@pytest.fixture(
    params=[
        pytest.param("redis_server", marks=pytest.mark.server),
        pytest.param("memcached_server", marks=pytest.mark.server),
    ]
)
def url(request: pytest.FixtureRequest) -> str:
    """Each kind of server."""
    return str(request.getfixturevalue(request.param).url)


@pytest.fixture(params=[False, True], ids=["server", "in_process"])
def wire(request: pytest.FixtureRequest) -> Wire:
    """A backend that breaks as it is told to."""
    return Wire(in_process=request.param)


@pytest.fixture
def shop(colour: Colour, wire: Wire, make_cache: MakeCache) -> Shop:
    """A store behind a cache on such a backend, in each colour."""
    return Shop(colour, wire, make_cache)
