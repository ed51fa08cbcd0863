"""The memcached backend, in both colours, against real servers: leases, keys, and what others leave behind."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from adapter import COLOURS, Adapter
from memcached_tools import Open, opener, say
from servers import HOST, MemcachedServer

from cacheside.backends.base import Busy, Hit, Leased, Stale
from cacheside.backends.memcached.wire import wire_key
from cacheside.errors import InvalidKeyError, NotCacheableError


@pytest.fixture(params=COLOURS)
def open_backend(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Make an adapter of either colour: `open_backend(*servers, **options)`."""
    with opener(request.param) as make:
        yield make


@pytest.fixture
def cache(open_backend: Open, memcached_server: MemcachedServer) -> Adapter:
    """A backend on the session's server."""
    return open_backend(memcached_server)


# --- the life of a lease ---


def test_lease_fill_hit(cache: Adapter, namespace: str) -> None:
    """A miss gives one caller the lease, all others are told to wait, and what it fills is what everybody finds."""
    lease = cache.lookup(namespace, 10)
    assert type(lease) is Leased
    assert cache.lookup(namespace, 10) == Busy()
    assert cache.fill(namespace, lease.token, b"\r\nVA 1\r\n\x00\xff", 60) is True
    hit = cache.lookup(namespace, 10)
    assert type(hit) is Hit
    assert hit.stored == b"\r\nVA 1\r\n\x00\xff"


def test_fill_spends_the_lease(cache: Adapter, namespace: str) -> None:
    """A token works once."""
    lease = cache.lookup(namespace, 10)
    assert cache.fill(namespace, lease.token, b"1", 60) is True
    assert cache.fill(namespace, lease.token, b"2", 60) is False
    assert cache.release(namespace, lease.token) is False
    assert cache.lookup(namespace, 10).stored == b"1"


def test_empty_value_is_a_value(cache: Adapter, namespace: str) -> None:
    """An empty value of ours is not taken for a lease."""
    cache.store(namespace, b"")
    hit = cache.lookup(namespace, 10)
    assert type(hit) is Hit
    assert hit.stored == b""


def test_release(cache: Adapter, namespace: str) -> None:
    """A lease that is given back is there for the next caller, and is of no more use to the first."""
    lease = cache.lookup(namespace, 10)
    assert cache.release(namespace, lease.token) is True
    assert cache.release(namespace, lease.token) is False
    assert type(cache.lookup(namespace, 10)) is Leased
    assert cache.fill(namespace, lease.token, b"late", 60) is False


def test_invalidation_kills_the_lease(cache: Adapter, namespace: str) -> None:
    """A load that began before an invalidation is not stored after it, whoever leases the key meanwhile."""
    old = cache.lookup(namespace, 10)
    cache.invalidate([namespace])
    assert cache.fill(namespace, old.token, b"old", 60) is False
    new = cache.lookup(namespace, 10)
    assert type(new) is Leased
    assert cache.fill(namespace, old.token, b"old", 60) is False
    assert cache.fill(namespace, new.token, b"new", 60) is True


def test_invalidation_drops_the_value(cache: Adapter, namespace: str) -> None:
    """After an invalidation there is nothing, and invalidating nothing is fine."""
    cache.store(namespace, b"value")
    cache.invalidate([namespace])
    cache.invalidate([namespace])
    cache.invalidate([])
    assert type(cache.lookup(namespace, 10)) is Leased


def test_many_invalidations(cache: Adapter, namespace: str) -> None:
    """Thousands of keys go in one call."""
    keys = [f"{namespace}:{number}" for number in range(2500)]
    for key in keys[::500]:
        cache.store(key, b"value")
    cache.invalidate(keys)
    assert all(type(cache.lookup(key, 10)) is Leased for key in keys[::500])


def test_evicted_lease(cache: Adapter, memcached_server: MemcachedServer, namespace: str) -> None:
    """A lease that the server threw out fills nothing."""
    lease = cache.lookup(namespace, 10)
    assert say(memcached_server, b"md %b\r\n" % namespace.encode()) == b"HD\r\n"
    assert cache.fill(namespace, lease.token, b"value", 60) is False
    assert cache.release(namespace, lease.token) is False


def test_evicted_by_memory_pressure(open_backend: Open, new_memcached: Callable[..., MemcachedServer]) -> None:
    """A lease that a full server threw out fills nothing."""
    server = new_memcached("-m", "2", "-I", "512k")
    cache = open_backend(server)
    lease = cache.lookup("k", 600)
    with socket.create_connection((HOST, server.port), timeout=5) as flood:
        for wave in range(1000):
            flood.sendall(b"".join(b"ms %d:%d 0 q\r\n\r\n" % (wave, number) for number in range(1000)) + b"mn\r\n")
            assert flood.recv(100) == b"MN\r\n"
            if say(server, b"mg k u\r\n") == b"EN\r\n":
                break
        else:
            pytest.fail("nothing was evicted")
    assert cache.fill("k", lease.token, b"value", 60) is False


def test_flush_kills_leases(open_backend: Open, new_memcached: Callable[..., MemcachedServer]) -> None:
    """`clear(None)` drops every value and kills every lease."""
    cache = open_backend(new_memcached())
    cache.store("value", b"value")
    lease = cache.lookup("k", 10)
    cache.clear(None)
    assert cache.fill("k", lease.token, b"old", 60) is False
    assert type(cache.lookup("k", 10)) is Leased
    assert type(cache.lookup("value", 10)) is Leased


def test_lease_expires(cache: Adapter, namespace: str) -> None:
    """The lease of a caller that died is free again when its time is over."""
    lost = cache.lookup(namespace, 0.01)
    while (found := cache.lookup(namespace, 10)) == Busy():
        pass
    assert type(found) is Leased
    assert cache.fill(namespace, lost.token, b"value", 60) is False


@pytest.mark.parametrize(("ttl", "least"), [(31 * 86400, 31 * 86400 - 5), (30 * 86400, 30 * 86400 - 5), (0.5, 1)])
def test_ttl(cache: Adapter, memcached_server: MemcachedServer, namespace: str, ttl: float, least: int) -> None:
    """A ttl of more than 30 days is not read as a date of 1970, and none ends early."""
    cache.store(namespace, b"value", ttl)
    left = int(say(memcached_server, b"mg %b t\r\n" % namespace.encode()).removeprefix(b"HD t"))
    assert least <= left <= ttl + 5


def test_no_ttl(cache: Adapter, memcached_server: MemcachedServer, namespace: str) -> None:
    """None means that the value never expires."""
    cache.store(namespace, b"value", None)
    assert say(memcached_server, b"mg %b t\r\n" % namespace.encode()) == b"HD t-1\r\n"


def test_too_large(cache: Adapter, namespace: str) -> None:
    """What the server will not hold is "not cacheable", and the connection goes on."""
    lease, other = cache.lookup(namespace, 10), cache.lookup(namespace + ":2", 10)
    with pytest.raises(NotCacheableError, match="2,000,000 bytes"):
        cache.fill(namespace, lease.token, b"x" * 2_000_000, 60)
    assert cache.fill(namespace + ":2", other.token, b"x" * 900_000, 60) is True
    assert cache.lookup(namespace + ":2", 10).stored == b"x" * 900_000


def test_stampede(open_backend: Open, memcached_server: MemcachedServer, namespace: str) -> None:
    """Of a thousand callers at once, on four connections, one gets the lease, and none an error."""
    crowd = open_backend(memcached_server, max_connections=4)
    kinds = [type(answer) for answer in crowd.together(1000, "lookup", namespace, 10)]
    assert kinds.count(Leased) == 1
    assert kinds.count(Busy) == 999


def test_round_trips(cache: Adapter, memcached_server: MemcachedServer, namespace: str) -> None:
    """A miss costs two commands, a hit one: counted by the server."""

    def commands() -> int:
        counts = dict(line.split()[1:3] for line in say(memcached_server, b"stats\r\n").split(b"\r\n")[:-2])
        names = (b"cmd_get", b"cmd_set", b"cmd_touch", b"delete_hits", b"delete_misses")
        return sum(int(counts[name]) for name in names)

    before = commands()
    cache.store(namespace, b"value")
    assert commands() - before == 2
    assert cache.lookup(namespace, 10).stored == b"value"
    assert commands() - before == 3


# --- what other clients, and other versions, leave behind ---


@pytest.mark.parametrize("value", [b"foreign", b"7", b""])
def test_foreign_value(cache: Adapter, memcached_server: MemcachedServer, namespace: str, value: bytes) -> None:
    """Another client's item is shown as it is, never as a lease, and makes room for ours."""
    item = b"set %b %d 0 %d\r\n%b\r\n" % (namespace.encode(), 9 if value == b"7" else 0, len(value), value)
    assert say(memcached_server, item) == b"STORED\r\n"
    hit = cache.lookup(namespace, 10)
    assert type(hit) is Hit
    assert hit.stored == value
    lease = cache.replace(namespace, hit.seen, 10)
    assert type(lease) is Leased
    assert cache.lookup(namespace, 10) == Busy()
    assert cache.fill(namespace, lease.token, b"ours", 60) is True
    assert cache.lookup(namespace, 10).stored == b"ours"


def test_replaced_lease_can_be_lost(cache: Adapter, namespace: str) -> None:
    """A lease that took an entry's place dies by invalidation like any other."""
    cache.store(namespace, b"corrupt")
    lease = cache.replace(namespace, cache.lookup(namespace, 10).seen, 10)
    cache.invalidate([namespace])
    assert cache.fill(namespace, lease.token, b"old", 60) is False
    assert cache.release(namespace, lease.token) is False


def test_replace_needs_the_very_entry(cache: Adapter, namespace: str) -> None:
    """Of two callers that saw the same useless entry one gets the lease; and a newer entry is left alone."""
    cache.store(namespace, b"corrupt")
    seen = cache.lookup(namespace, 10).seen
    lease = cache.replace(namespace, seen, 10)
    assert cache.replace(namespace, seen, 10) == Busy()
    cache.fill(namespace, lease.token, b"good", 60)
    assert cache.replace(namespace, seen, 10) == Busy()
    assert cache.lookup(namespace, 10).stored == b"good"


def test_replace_of_nothing(cache: Adapter, namespace: str) -> None:
    """An entry that is gone is not replaced; the next lookup gets the lease."""
    cache.store(namespace, b"corrupt")
    seen = cache.lookup(namespace, 10).seen
    cache.invalidate([namespace])
    assert cache.replace(namespace, seen, 10) == Busy()
    assert type(cache.lookup(namespace, 10)) is Leased


def test_stale_mark_is_no_hit(cache: Adapter, memcached_server: MemcachedServer, namespace: str) -> None:
    """A value that was marked stale has been invalidated: it is never a hit."""
    cache.store(namespace, b"stale")
    assert say(memcached_server, b"md %b I\r\n" % namespace.encode()) == b"HD\r\n"
    for _ in range(2):  # the first lookup after the mark gets W, the others Z
        found = cache.lookup(namespace, 10)
        assert type(found) is Stale
        assert found.stored == b"stale"
    assert type(cache.replace(namespace, found.seen, 10)) is Leased


def test_lease_without_end_is_none(cache: Adapter, memcached_server: MemcachedServer, namespace: str) -> None:
    """What looks like a lease but would stand for ever is replaced."""
    assert b" W" in say(memcached_server, b"mg %b v c N0\r\n" % namespace.encode())
    hit = cache.lookup(namespace, 10)
    assert type(hit) is Hit
    assert type(cache.replace(namespace, hit.seen, 10)) is Leased


# --- keys ---


def test_long_keys(cache: Adapter, namespace: str) -> None:
    """Keys that the server cannot hold are shortened, and stay distinct."""
    long = namespace + "k" * 300
    for key in (long + "a", long + "b"):
        cache.store(key, key.encode())
    for key in (long + "a", long + "b"):
        assert cache.lookup(key, 10).stored == key.encode()
    cache.invalidate([long + "a"])
    assert type(cache.lookup(long + "a", 10)) is Leased
    assert type(cache.lookup(long + "b", 10)) is Hit


def test_shortened_key_cannot_be_imitated(cache: Adapter, namespace: str) -> None:
    """A key of 250 bytes that is spelled like the short form of a long one is another key."""
    long = namespace + "k" * 300
    imitation = wire_key(long).decode()
    assert len(imitation) == 250
    cache.store(long, b"secret")
    assert type(cache.lookup(imitation, 10)) is Leased


def test_longest_key(cache: Adapter, memcached_server: MemcachedServer, namespace: str) -> None:
    """A key of exactly 250 bytes is stored under its own name."""
    key = namespace.ljust(250, "k")
    cache.store(key, b"value")
    assert say(memcached_server, b"mg %b v\r\n" % key.encode()) == b"VA 5\r\nvalue\r\n"


@pytest.mark.parametrize("key", ["", "a b", "a\r\nflush_all", "\x7f", "é"])
def test_key_cannot_smuggle(open_backend: Open, key: str) -> None:
    """What is not visible ASCII is refused before anything is sent."""
    cache = open_backend(f"{HOST}:1")
    for verb, *args in (("lookup", key, 10), ("invalidate", ["fine", key])):
        with pytest.raises(InvalidKeyError, match="visible ASCII"):
            getattr(cache, verb)(*args)
