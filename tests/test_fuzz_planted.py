"""Bytes of a stranger under a cached function's key, on real servers: the call returns what the store has."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import redis
from colours import Colour, Tasks, Threads
from fuzz_bytes import REAL, arbitrary, mutated
from fuzz_watch import watching
from hypothesis import given, settings
from hypothesis import strategies as st
from long import scaled
from memcached_tools import say
from serializer_values import SECRET
from servers import HOST, MemcachedServer, RedisServer

from cacheside import Cache, CacheInfo

pytestmark = [pytest.mark.proof, pytest.mark.timeout(scaled(120, 7200))]
many = settings(deadline=None, max_examples=scaled(60, 2_000))

SERVERS = [pytest.param(f"{name}_server", id=name, marks=pytest.mark.server) for name in ("redis", "memcached")]
VALUE_HEADER = b"V" + b"t" * 16 + b"0" * 26  # of an entry on Redis
SHORT = 0.01  # seconds: what looks like somebody's lease is waited for, so long


class Planted(NamedTuple):
    """A cached function on a real server, and a way to write under its keys as any other program could."""

    get: Callable[[int], Any]
    info: Callable[[], CacheInfo]
    plant: Callable[[int, bytes, int, int], None]
    stored: Callable[[int], bytes]
    envelope: Callable[[object], bytes]


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Any:
    """Redis, and memcached."""
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["msgpack", "json", "pickle"])
def serializer(request: pytest.FixtureRequest) -> str:
    """Each of ours."""
    return str(request.param)


@pytest.fixture
def planted(server: Any, serializer: str, namespace: str) -> Iterator[Planted]:
    """In plain code."""
    with PlantedOn(server, serializer, namespace, SHORT) as made:
        yield made


class PlantedOn:
    """`Planted` for as long as the block is open."""

    def __init__(
        self, server: Any, serializer: str, namespace: str, lease: float, colour: Colour | None = None
    ) -> None:
        self._server = server
        self._colour = colour or Threads()
        secret = SECRET if serializer == "pickle" else None
        self._cache = Cache(
            server.url, namespace=namespace, serializer=serializer, secret=secret, lease=lease, timeout=5.0
        )
        self._raw = redis.Redis(host=HOST, port=server.port) if isinstance(server, RedisServer) else None

    def __enter__(self) -> Planted:
        cache, colour = self._cache, self._colour
        get = colour.decorate(cache.cached(key="row:{row}"), lambda row: ["the store's", row])
        codec = get._function.runtime().reader.codec
        return Planted(
            (lambda row: get(row)) if colour.name == "sync" else (lambda row: colour.run(get, row)),
            get.cache_info,
            lambda row, data, flags, ttl: self._plant(cache._core.prefix + get.key(row), data, flags, ttl),
            lambda row: self._stored(cache._core.prefix + get.key(row)),
            lambda value: codec.encode(value, 60),
        )

    def __exit__(self, *details: object) -> None:
        self._colour.run(self._cache.close if self._colour.name == "sync" else self._cache.aclose)
        self._colour.close()
        if self._raw is not None:
            self._raw.close()

    def _plant(self, key: str, data: bytes, flags: int, ttl: int) -> None:
        if self._raw is not None:
            self._raw.set(key, data, ex=ttl or None)
        else:
            head = f"ms {key} {len(data)} F{flags} T{ttl}\r\n".encode()
            assert say(self._server, head + data + b"\r\n").startswith(b"HD")

    def _stored(self, key: str) -> bytes:
        if self._raw is not None:
            return bytes(self._raw.get(key) or b"")
        return say(self._server, f"mg {key} v\r\n".encode())


rows = itertools.count(1).__next__


def refused(planted: Planted, data: bytes, flags: int = 0, ttl: int = 0) -> None:
    """Plant `data`: the call returns the store's value, without an error and without running anything."""
    row = rows()
    planted.plant(row, data, flags, ttl)
    before = planted.info()
    with watching() as seen:
        assert planted.get(row) == ["the store's", row]
    assert [event for event in seen if not event.startswith("socket.")] == []
    after = planted.info()
    assert after.loads == before.loads + 1
    assert after.hits == before.hits
    assert after.errors == before.errors


def test_arbitrary_bytes(planted: Planted, server: Any) -> None:
    """Any bytes, also those that begin like an entry, a lease or a guard of ours."""
    heads = [b"", b"L", b"V", b"W", b"S", b"L" + b"x" * 16, VALUE_HEADER, b"W" + b"0" * 16, b"W" + b"0" * 42]
    marks = [b"", b"0" * 16 + b"9" * 13, b"1" + b"x" * 16 + b"0000000", b"0" + b"x" * 16 + b"9999999"]

    @many
    @given(
        data=st.sampled_from(heads).flatmap(lambda head: arbitrary().map(lambda tail: head + tail))
        | st.sampled_from([head + mark for head in heads for mark in marks]),
        flags=st.sampled_from([0, 1, 197, 198, 199, 200, 2**32 - 1]),
        ttl=st.sampled_from([0, 100]),
    )
    def check(data: bytes, flags: int, ttl: int) -> None:
        refused(planted, data, flags, ttl)

    check()


def test_changed_payloads(planted: Planted, serializer: str, server: Any) -> None:
    """A real envelope that was changed in its header, and, where it is signed, anywhere; its expiry excepted."""
    head = b"" if isinstance(server, MemcachedServer) else VALUE_HEADER
    envelope = planted.envelope("planted")
    length = envelope.index(serializer.encode()) + len(serializer) + 1  # and the length of the version: none
    header, expiry, payload = envelope[:length], envelope[length : length + 8], envelope[length + 8 :]
    row = rows()
    planted.plant(row, head + envelope, 197, 100)
    assert planted.get(row) == "planted"  # nothing else is wrong with what is planted below

    changed = mutated([header, *(other for name, (other, *_) in REAL.items() if name != serializer)])
    wrong = changed.map(lambda bytes_: bytes_ + expiry + payload).filter(lambda data: not data.startswith(header))
    if serializer == "pickle":
        wrong |= mutated([payload]).map(lambda bytes_: header + expiry + bytes_)

    @many
    @given(data=wrong)
    def check(data: bytes) -> None:
        refused(planted, head + data, 197, 100)

    check()


@pytest.mark.parametrize("server", SERVERS, indirect=True)
def test_foreign_bytes_are_replaced(server: Any, namespace: str) -> None:
    """In both colours: a foreign value costs one load, and then the key is cached like any other."""
    for colour in (Threads(), Tasks()):
        with PlantedOn(server, "msgpack", namespace + colour.name, 5.0, colour) as planted:
            for data in (b"foreign", b"\x80", b"{}", b"W" * 72, VALUE_HEADER, VALUE_HEADER + b"\xc1", b"L", b"0", b" "):
                row = rows()
                planted.plant(row, data, 0, 0)
                for _ in range(2):
                    assert planted.get(row) == ["the store's", row]
                assert planted.info().hits == planted.info().loads
                assert planted.stored(row) != data
            assert planted.info().errors == 0
