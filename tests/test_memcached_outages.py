"""The memcached backend when servers are dead, frozen or restarted: breakers, rings, reused CAS, sizes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator

import pytest
from adapter import COLOURS, Adapter
from memcached_tools import ME, YOU, Open, marker, opener, recovered, say
from servers import HOST, MemcachedServer, free_port

from cacheside.backends.base import Busy, Guarded, Leased
from cacheside.backends.memcached import MemcachedBackend, wire
from cacheside.backends.memcached.changes import Change, Guarding, Invalidation, Release, carry_out
from cacheside.backends.memcached.known import OVERHEAD, Known
from cacheside.backends.memcached.ring import parse_server
from cacheside.backends.memcached.sync import Node
from cacheside.errors import CacheUnavailable, ConfigurationError, NotCacheableError

NewMemcached = Callable[..., MemcachedServer]


@pytest.fixture(params=COLOURS)
def open_backend(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Make an adapter of either colour: `open_backend(*servers, **options)`."""
    with opener(request.param) as make:
        yield make


# --- breakers ---


def test_frozen_server_is_left_alone(open_backend: Open, new_memcached: NewMemcached) -> None:
    """One call finds out that a server is frozen, all others fail at once, until it answers again."""
    server = new_memcached()
    cache = open_backend(server, timeout=0.5)
    cache.store("k", b"value")
    server.freeze()
    with pytest.raises(CacheUnavailable, match=f"{server.address}.*timed out"):
        cache.lookup("k", 60)
    for verb, *args in (("lookup", "k", 60), ("invalidate", ["k"]), ("guard", ["k"], ME, 60), ("clear", None)):
        with pytest.raises(CacheUnavailable, match=f"{server.address} is not asked.*timed out") as raised:
            getattr(cache, verb)(*args)
        assert raised.value.sent is False
    server.thaw()
    assert recovered(cache.lookup, "k", 60).stored == b"value"
    assert cache.lookup("k", 60).stored == b"value"


def test_dead_server_comes_back(open_backend: Open, new_memcached: NewMemcached) -> None:
    """So it is with one that is gone, whatever connections are left of the time before."""
    server = new_memcached()
    cache = open_backend(server)
    assert all(type(answer) in (Leased, Busy) for answer in cache.together(8, "lookup", "k", 60))
    server.kill()
    with pytest.raises(CacheUnavailable, match="cannot connect"):
        cache.lookup("k", 60)
    with pytest.raises(CacheUnavailable, match="is not asked"):
        cache.lookup("k", 60)
    server.start()
    assert type(recovered(cache.lookup, "k", 60)) is Leased
    assert cache.lookup("k", 60) == Busy()


def test_one_breaker_for_both_colours(new_memcached: NewMemcached) -> None:
    """What one colour found out, the other knows."""
    server = new_memcached()
    for first, second in itertools.permutations(COLOURS):
        backend = MemcachedBackend([server.address], timeout=0.5)
        one, two = Adapter(backend, first), Adapter(backend, second)
        one.lookup("k", 60)
        two.lookup("k", 60)
        server.freeze()
        with pytest.raises(CacheUnavailable, match="timed out"):
            one.lookup("k", 60)
        with pytest.raises(CacheUnavailable, match="is not asked"):
            two.lookup("k", 60)
        server.thaw()
        assert recovered(two.lookup, "k", 60) == Busy()
        assert one.lookup("k", 60) == Busy()
        one.end()
        two.end()


def test_queue_behind_a_frozen_server(
    open_backend: Open, new_memcached: NewMemcached, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for a connection when the server freezes fails along with the one who has it."""
    ended = Known.ended

    def late(known: Known, error: BaseException, **facts: bool) -> bool:
        time.sleep(0.05)  # whoever was woken before would now find the breaker closed
        return ended(known, error, **facts)

    monkeypatch.setattr(Known, "ended", late)
    server = new_memcached()
    cache = open_backend(server, timeout=1, max_connections=1)
    cache.store("k", b"value")
    server.freeze()
    errors = [str(error) for error in cache.together(30, "lookup", "k", 60)]
    assert sum("is not asked" in error for error in errors) >= 27  # on a busy machine the breaker may let one more try
    server.thaw()
    assert recovered(cache.lookup, "k", 60).stored == b"value"


def test_closed_connection_is_no_outage(open_backend: Open, new_memcached: NewMemcached) -> None:
    """A fill that finds its connection closed fails, and says nothing about the server, which may have restarted."""
    server = new_memcached()
    cache = open_backend(server)
    lease = cache.lookup("k", 60)
    server.restart()
    with pytest.raises(CacheUnavailable, match="failed"):
        cache.fill("k", lease.token, b"old", 60)
    assert type(cache.lookup("k", 60)) is Leased


# --- rings ---


@pytest.mark.parametrize("state", ["dead", "frozen"])
def test_ring_with_a_broken_node(
    open_backend: Open, memcached_ring: list[MemcachedServer], new_memcached: NewMemcached, namespace: str, state: str
) -> None:
    """Every server is tried, the error names the broken one's keys as they were given, and the others' are done."""
    broken = new_memcached()
    cache = open_backend(broken, *memcached_ring, timeout=0.5)
    keys = [f"{namespace}:{number}:{'k' * 250 * (number % 2)}" for number in range(60)]
    for key in keys:
        cache.store(key, b"value")
    lost = {key for key in keys if say(broken, b"mg %b\r\n" % wire.wire_key(key)) == b"HD\r\n"}
    alive = [key for key in keys if key not in lost]
    assert lost
    assert alive
    broken.freeze() if state == "frozen" else broken.kill()

    for verb, *args in (("guard", keys, ME, 60), ("unguard", [(key, ME) for key in keys])):
        with pytest.raises(CacheUnavailable, match=broken.address) as raised:
            getattr(cache, verb)(*args)
        assert raised.value.keys == lost
        standing = verb == "guard"
        assert raised.value.sent is True
        assert all((marker_of(memcached_ring, key) is not None) is standing for key in alive)
    for key in alive:
        cache.store(key, b"value")
    with pytest.raises(CacheUnavailable, match=broken.address) as raised:
        cache.invalidate(keys)
    assert raised.value.keys == lost
    assert all(type(cache.lookup(key, 60)) is Leased for key in alive)
    for key in lost:
        with pytest.raises(CacheUnavailable, match=broken.address):
            cache.lookup(key, 60)
    if state == "frozen":
        broken.thaw()


def marker_of(ring: list[MemcachedServer], key: str) -> object:
    """The guard of `key` on whichever server has it."""
    return next(filter(None, (marker(server, wire.wire_key(key).decode()) for server in ring)), None)


def test_misconfigured_node(open_backend: Open, new_memcached: NewMemcached) -> None:
    """A server without CAS in the ring is named as what it is, whatever else is broken; and all others are served."""
    wrong, good, dead = new_memcached("-C"), new_memcached(), f"{HOST}:{free_port()}"
    cache = open_backend(dead, wrong, good)
    keys = [f"k{number}" for number in range(60)]
    for key in keys:
        for server in (wrong, good):
            say(server, b"ms %b 1\r\nx\r\n" % key.encode())
    with pytest.raises(ConfigurationError, match="start memcached without -C"):
        cache.invalidate(keys)
    left = [key for key in keys if say(good, b"mg %b\r\n" % key.encode()) == b"HD\r\n"]
    assert 0 < len(left) < len(keys)


# --- a CAS from before a restart ---


def run(node: Node, command: object) -> object:
    """Send one command."""

    def operation() -> object:
        return (yield command)

    return node.carry_out(operation())  # type: ignore[arg-type]  # a generator of commands


CHANGES: dict[str, tuple[Callable[[], Change], list[str], int]] = {
    "invalidate": (lambda: Invalidation("k"), [], 1),
    "invalidate a guard": (lambda: Invalidation("k"), [YOU], 2),
    "guard": (lambda: Guarding("k", ME, 60), [], 1),
    "guard a guard": (lambda: Guarding("k", ME, 60), [YOU], 2),
    "the last release": (lambda: Release("k", ME), [ME], 1),
    "a release": (lambda: Release("k", ME), [ME, YOU], 1),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_after_a_restart(new_memcached: NewMemcached, name: str) -> None:
    """A change whose look was before a restart does not hit what has the same CAS after it: it looks again."""
    make, tokens, looks = CHANGES[name]
    server = new_memcached()
    node = Node(parse_server(server.address), Known(server.address, 5), 5, 8, itertools.count(1).__next__)
    cache = MemcachedBackend([server.address], timeout=5)
    cache.lookup("k", 60)
    for token in tokens:
        cache.guard(["k"], token, 60)
    operation = carry_out([make()])
    look = operation.send(None)
    for _ in range(looks):  # the second asks for the value of the marker
        found = run(node, look)
        command = operation.send(found)
        look = command
    server.restart()
    assert run(node, wire.lookup(b"elsewhere", 60))  # there is a live connection, a new one
    say(server, b"md elsewhere\r\n")
    seen = int(command.data.partition(b" C")[2].split()[0])  # type: ignore[union-attr]  # it is a command
    for _ in range(seen):
        say(server, b"ms k 24 T60 F199\r\n1you-------------0000000\r\n")
    while int(say(server, b"mg k c\r\n").removeprefix(b"HD c")) != seen:
        server.restart()
        for _ in range(seen):
            say(server, b"ms k 24 T60 F199\r\n1you-------------0000000\r\n")
    before = say(server, b"mg k c v\r\n")
    assert run(node, command) is None  # not sent: no connection is left that may carry it
    assert say(server, b"mg k c v\r\n") == before
    assert operation.send(None)  # and it looks again
    assert say(server, command.data).startswith(b"HD")  # type: ignore[union-attr]  # the control: the trap was set
    node.close()
    cache.close()


def test_update_after_a_restart(open_backend: Open, new_memcached: NewMemcached) -> None:
    """Nor does an update with the proof of a guard that died with the server."""
    server = new_memcached()
    cache, other = open_backend(server), MemcachedBackend([server.address], timeout=5)
    (proof,) = cache.guard(["k"], ME, 60)
    server.restart()
    (theirs,) = other.guard(["k"], YOU, 60)
    assert theirs.number == proof.number
    assert cache.lookup("k", 60) == Guarded()  # over a live connection, a new one
    assert cache.update("k", ME, proof, b"old", 60) is False
    assert cache.lookup("k", 60) == Guarded()
    assert other.update("k", YOU, theirs, b"new", 60) is True
    other.close()


# --- sizes ---

LIMIT_8K = ("-I", "8k", "-o", "slab_chunk_max=4096")


@pytest.mark.parametrize(("limit", "size"), [((), 1_048_576), ((), 2_000_000), (LIMIT_8K, 9000), (LIMIT_8K, 8192 - 60)])
def test_large_value_erases_no_guard(
    open_backend: Open, new_memcached: NewMemcached, limit: tuple[str, ...], size: int
) -> None:
    """A late fill too large for the server is not sent: it would erase a guard, whatever its CAS."""
    server = new_memcached(*limit)
    cache = open_backend(server)
    lease = cache.lookup("k", 60)
    (proof,) = cache.guard(["k"], ME, 60)
    with pytest.raises(NotCacheableError, match=f"{size:,} bytes"):
        cache.fill("k", lease.token, b"x" * size, 60)
    with pytest.raises(NotCacheableError, match=f"{size:,} bytes"):
        cache.update("k", ME, proof, b"x" * size, 60)
    assert cache.lookup("k", 60) == Guarded()
    assert cache.unguard([("k", ME)]) == 0
    say(server, b"ms k 24 T60\r\n1you-------------0000000\r\n")
    say(server, b"ms k %d C1 F197\r\n%b\r\n" % (size, b"x" * size))
    assert say(server, b"mg k\r\n") == b"EN\r\n"  # the control: that is what the server does


def test_values_that_fit(open_backend: Open, new_memcached: NewMemcached) -> None:
    """What surely fits is stored, of whatever size; the server is asked once for its limit."""
    server = new_memcached(*LIMIT_8K)
    cache = open_backend(server)
    for size in (1, 511, 513, 5000, 8192 - OVERHEAD):
        cache.store(f"k{size}", b"x" * size)
        assert cache.lookup(f"k{size}", 60).stored == b"x" * size


def test_limit_after_a_restart(open_backend: Open, new_memcached: NewMemcached) -> None:
    """A server that comes back with another limit is asked for it again."""
    server = new_memcached("-I", "2m")
    cache = open_backend(server)
    cache.store("k", b"x" * 1_500_000)
    server.args = LIMIT_8K
    server.restart()
    lease = cache.lookup("k", 60)
    cache.guard(["k"], ME, 60)
    with pytest.raises(NotCacheableError):
        cache.fill("k", lease.token, b"x" * 9000, 60)
    assert cache.lookup("k", 60) == Guarded()
