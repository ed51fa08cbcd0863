"""Every backend keeps every promise of `cacheside.testing.BackendConformance`; and the twins do not drift apart."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from redis_groups import RedisCluster, SentinelGroup
from servers import MemcachedServer, RedisServer, ValkeyServer

from cacheside import Cache
from cacheside.backends.base import AsyncBackend, Backend, Capability
from cacheside.backends.memcached import MemcachedBackend
from cacheside.backends.memory import MemoryBackend
from cacheside.backends.null import NullBackend
from cacheside.backends.redis import RedisBackend
from cacheside.testing import BackendConformance, FakeClock, Subject

TIMEOUT = 10.0  # seconds: a busy machine is no reason to fail
DATABASE = 7  # of the shared servers: the tests clear it


def redis_backend(server: RedisServer) -> RedisBackend:
    url = server.url.removesuffix("/0") + f"/{DATABASE}"
    return RedisBackend.from_url(url, timeout=TIMEOUT, clock=FakeClock())


@pytest.fixture(scope="module")
def memcacheds() -> Iterator[list[MemcachedServer]]:
    """Servers that may be cleared, which on memcached means all that they hold."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(MemcachedServer()) for _ in range(3)]


class TestMemory(BackendConformance):
    """In this process."""

    @pytest.fixture
    def subject(self) -> Subject:
        """A new one for each test."""
        clock = FakeClock()
        return Subject(MemoryBackend(clock=clock), clock.advance)


class TestMemoryWithoutRows(BackendConformance):
    """In this process, by a policy that follows each hit: every call goes the slow path."""

    @pytest.fixture
    def subject(self) -> Subject:
        """A new one for each test."""
        clock = FakeClock()
        return Subject(MemoryBackend(policy="lru", clock=clock), clock.advance)


class TestMemoryCopies(BackendConformance):
    """In this process, with copies of all values."""

    @pytest.fixture
    def subject(self) -> Subject:
        """A new one for each test."""
        clock = FakeClock()
        return Subject(MemoryBackend(copy=True, clock=clock), clock.advance)


class TestMemorySnapshot(BackendConformance):
    """In this process, saved by each close."""

    @pytest.fixture
    def subject(self, tmp_path: Path) -> Subject:
        """A new one for each test."""
        clock = FakeClock()
        return Subject(MemoryBackend(clock=clock, snapshot=tmp_path / "snapshot"), clock.advance)


class TestRedis(BackendConformance):
    """Redis 7."""

    @pytest.fixture
    def subject(self, redis_server: RedisServer) -> Subject:
        """By URL."""
        return Subject(redis_backend(redis_server))


class TestRedisScripts(BackendConformance):
    """As on Redis 6.2, where a script does what SET with NX and GET does later."""

    @pytest.fixture
    def subject(self, redis_server: RedisServer) -> Subject:
        """By URL, and told that the server is old."""
        backend = redis_backend(redis_server)
        backend._route.protocol.native = False
        return Subject(backend)


class TestRedisClients(BackendConformance):
    """Redis by clients of the application."""

    @pytest.fixture
    def subject(self, redis_server: RedisServer) -> Iterator[Subject]:
        """Clients whose options could hurt: they decode responses, and retry."""
        where: dict[str, Any] = {"host": "127.0.0.1", "port": redis_server.port, "db": DATABASE}
        with redis.Redis(**where, decode_responses=True) as client:
            aclient = redis.asyncio.Redis(**where, decode_responses=True)
            yield Subject(RedisBackend(client=client, aclient=aclient), aclose=aclient.aclose)
            assert client.ping()  # it stays the application's to close


class TestRedisCluster(BackendConformance):
    """Three masters that share the keys, with replicas."""

    @pytest.fixture
    def subject(self, redis_cluster: RedisCluster) -> Subject:
        """By URL."""
        return Subject(RedisBackend.from_url(redis_cluster.url, timeout=TIMEOUT, clock=FakeClock()))


class TestRedisSentinel(BackendConformance):
    """A master that the sentinels name."""

    @pytest.fixture
    def subject(self, redis_sentinel: SentinelGroup) -> Subject:
        """By URL."""
        return Subject(RedisBackend.from_url(redis_sentinel.url, timeout=TIMEOUT, clock=FakeClock()))


class TestValkey(BackendConformance):
    """Valkey."""

    @pytest.fixture
    def subject(self, valkey_server: ValkeyServer) -> Subject:
        """By URL."""
        return Subject(redis_backend(valkey_server))


@pytest.mark.server
class TestMemcached(BackendConformance):
    """One memcached."""

    @pytest.fixture
    def subject(self, memcacheds: list[MemcachedServer]) -> Subject:
        """By address."""
        return Subject(MemcachedBackend([memcacheds[0].address], timeout=TIMEOUT))


@pytest.mark.server
class TestMemcachedRing(BackendConformance):
    """Three of them that share the keys."""

    @pytest.fixture
    def subject(self, memcacheds: list[MemcachedServer]) -> Subject:
        """By addresses."""
        return Subject(MemcachedBackend([server.address for server in memcacheds], timeout=TIMEOUT))


class OnlyPlain(MemoryBackend):
    """Someone's own backend, for plain functions only, and for bytes only."""

    @property
    def capabilities(self) -> frozenset[Capability]:
        return frozenset({"clear", "stores"})

    def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        assert type(stored) is bytes
        return super().fill(key, token, stored, ttl)


class TestOnlyPlain(BackendConformance):
    """A backend of one colour: the suite runs in that one."""

    colours = ("sync",)

    @pytest.fixture
    def subject(self) -> Subject:
        """A new one for each test."""
        clock = FakeClock()
        return Subject(OnlyPlain(clock=clock), clock.advance)


class OnlyAwaitable:
    """The same for async functions."""

    def __init__(self, plain: OnlyPlain) -> None:
        self._plain = plain
        self.capabilities = plain.capabilities

    async def _ask(self, verb: str, *args: Any) -> Any:
        await asyncio.sleep(0)
        return getattr(self._plain, verb)(*args)

    async def lookup(self, key: str, lease: float) -> Any:
        return await self._ask("lookup", key, lease)

    async def replace(self, key: str, seen: Any, lease: float) -> Any:
        return await self._ask("replace", key, seen, lease)

    async def fill(self, key: str, token: Any, stored: Any, ttl: float | None) -> Any:
        return await self._ask("fill", key, token, stored, ttl)

    async def release(self, key: str, token: Any) -> Any:
        return await self._ask("release", key, token)

    async def invalidate(self, keys: Sequence[str]) -> None:
        await self._ask("invalidate", keys)

    async def guard(self, keys: Sequence[str], token: str, hold: float) -> Any:
        return await self._ask("guard", keys, token, hold)

    async def unguard(self, marks: Sequence[tuple[str, str]]) -> Any:
        return await self._ask("unguard", marks)

    async def update(self, key: str, token: str, proof: Any, stored: Any, ttl: float | None) -> Any:
        return await self._ask("update", key, token, proof, stored, ttl)

    async def clear(self, prefix: str | None) -> None:
        await self._ask("clear", prefix)

    async def close(self) -> None:
        await self._ask("close")


class TestOnlyAwaitable(BackendConformance):
    """An object that meets `AsyncBackend` alone."""

    colours = ("async",)

    @pytest.fixture
    def subject(self) -> Subject:
        """A new one for each test."""
        clock = FakeClock()
        return Subject(OnlyAwaitable(OnlyPlain(clock=clock)), clock.advance)


def test_script_path_is_taken(redis_server: RedisServer) -> None:
    """The tests for Redis 6.2 never send SET with NX and GET."""
    backend = redis_backend(redis_server)
    backend._route.protocol.native = False
    for form in (backend, backend.aio):
        commands = form._route.protocol.lookup("k", 1)  # type: ignore[union-attr]  # both forms share it
        assert next(commands)[0] == "EVALSHA"
        commands.close()


@pytest.mark.parametrize("colour", BackendConformance.colours)
def test_new_ring(new_memcached: Callable[..., MemcachedServer], colour: Any) -> None:
    """Servers of a ring that were just started count alike; a token still is worth nothing on another key."""
    backend = MemcachedBackend([new_memcached().address for _ in range(2)], timeout=TIMEOUT)
    BackendConformance().test_token_of_another_key(Subject(backend), colour)


# --- null ---


def test_null() -> None:
    """Nothing is ever kept: every call loads, and is counted as a miss."""
    cache, reads = Cache("null://"), []

    @cache.cached(key="row:{row}")
    def read(row: int) -> int:
        reads.append(row)
        return row

    @cache.invalidates(read)
    def write(row: int) -> None:
        """Write nothing."""

    assert [read(1) for _ in range(3)] == [1, 1, 1]
    write(1)
    assert read.refresh(1) == 1
    read.invalidate(1)
    cache.clear()
    assert reads == [1] * 4
    info = read.cache_info()
    assert (info.hits, info.misses, info.loads, info.currsize, info.maxsize) == (0, 4, 4, 0, 0)


# --- twins ---

PLAIN_ONLY = {"aio", "size"}


def interface(cls: type) -> dict[str, list[tuple[str, Any, Any]] | str]:
    """The public members of a backend class: of methods the parameters, less `self`."""
    members: dict[str, list[tuple[str, Any, Any]] | str] = {}
    for name in dir(Backend):
        if name.startswith("_") or not hasattr(cls, name):
            continue
        member = inspect.getattr_static(cls, name)
        if isinstance(member, property):
            members[name] = "property"
        else:
            parameters = list(inspect.signature(member).parameters.values())
            members[name] = [(each.name, each.kind, each.default) for each in parameters[1:]]
    return members


def awaitable_form(backend: Any) -> type:
    return type(backend.aio)


PLAIN = [MemoryBackend, NullBackend, RedisBackend, MemcachedBackend]
AWAITABLE = [
    awaitable_form(RedisBackend.from_url("redis://localhost", timeout=1, clock=FakeClock())),
    awaitable_form(MemcachedBackend(["localhost"])),
]


@pytest.mark.parametrize("cls", PLAIN)
def test_plain_forms(cls: type) -> None:
    """Every plain form has the methods of `Backend`, with its parameters, and awaits nothing."""
    assert interface(cls) == interface(Backend)
    assert not any(inspect.iscoroutinefunction(getattr(cls, name)) for name in interface(Backend))


@pytest.mark.parametrize("cls", [AsyncBackend, *AWAITABLE])
def test_awaitable_forms(cls: type) -> None:
    """Every awaitable form has the methods of `Backend` with its parameters, save what needs no I/O, as coroutines."""
    wanted = {name: member for name, member in interface(Backend).items() if name not in PLAIN_ONLY}
    assert interface(cls) == wanted
    methods = [name for name, member in wanted.items() if member != "property"]
    assert all(inspect.iscoroutinefunction(getattr(cls, name)) for name in methods)


def test_twins_have_no_other_methods() -> None:
    """`AsyncBackend` promises nothing that `Backend` does not."""
    assert {name for name in dir(AsyncBackend) if not name.startswith("_")} == (
        {name for name in dir(Backend) if not name.startswith("_")} - PLAIN_ONLY
    )
