"""Guards on memcached, in both colours, on a real server; other writers come exactly where it hurts most."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from adapter import COLOURS, Adapter
from memcached_tools import ME, THIRD, YOU, Open, Relay, marker, opener, say
from servers import MemcachedServer

from cacheside.backends.base import Busy, Guarded, Hit, Leased
from cacheside.backends.memcached import MemcachedBackend
from cacheside.errors import CacheUnavailable


@pytest.fixture(params=COLOURS)
def open_backend(request: pytest.FixtureRequest, relay: Relay) -> Iterator[Open]:
    """Make an adapter of either colour: `open_backend(*servers, **options)`."""
    with opener(request.param) as make:
        yield make


@pytest.fixture
def cache(open_backend: Open, relay: Relay) -> Adapter:
    """A backend on the session's server, through the relay."""
    return open_backend(relay.address)


def put(cache: Adapter, key: str, what: str) -> None:
    """Make `key` hold something."""
    if what == "value":
        cache.store(key, b"value")
    elif what == "lease":
        cache.lookup(key, 60)
    elif what == "guard":
        cache.guard([key], THIRD, 60)


# --- what a guard is ---


@pytest.mark.parametrize("what", ["nothing", "value", "lease"])
def test_guard_and_release(cache: Adapter, namespace: str, what: str) -> None:
    """While a guard stands there is no value and no lease; after it the key is free and empty."""
    put(cache, namespace, what)
    cache.guard([namespace], ME, 60)
    assert [cache.lookup(namespace, 60) for _ in range(2)] == [Guarded()] * 2
    assert cache.unguard([(namespace, ME)]) == 0
    assert type(cache.lookup(namespace, 60)) is Leased


def test_guard_kills_leases(cache: Adapter, namespace: str) -> None:
    """A load that began before the guard is not stored, neither while it stands nor after it."""
    lease = cache.lookup(namespace, 60)
    cache.guard([namespace], ME, 60)
    assert cache.fill(namespace, lease.token, b"old", 60) is False
    assert cache.release(namespace, lease.token) is False
    assert cache.lookup(namespace, 60) == Guarded()
    cache.unguard([(namespace, ME)])
    assert cache.fill(namespace, lease.token, b"old", 60) is False


def test_guard_is_never_replaced(cache: Adapter, namespace: str) -> None:
    """An entry that was seen before the guard came is not turned into a lease over it."""
    cache.store(namespace, b"corrupt")
    seen = cache.lookup(namespace, 60).seen
    cache.guard([namespace], ME, 60)
    assert cache.replace(namespace, seen, 60) == Busy()
    assert cache.lookup(namespace, 60) == Guarded()


def test_guards_of_many_keys(cache: Adapter, other: Adapter, namespace: str) -> None:
    """Thousands of keys, whatever they hold, are guarded, released and invalidated in one call each."""
    keys = [f"{namespace}:{number}" for number in range(2100)]
    for key, what in zip(keys[::100], ["value", "lease", "guard"] * 7, strict=True):
        put(other, key, what)
    assert len(cache.guard(keys, ME, 60)) == len(keys)
    assert all(cache.lookup(key, 60) == Guarded() for key in keys[::50])
    cache.invalidate(keys)
    assert cache.unguard([(key, ME) for key in keys]) == 0
    guarded = [key for key in keys[::50] if cache.lookup(key, 60) == Guarded()]
    assert guarded == keys[200::300]
    assert cache.unguard([(key, THIRD) for key in guarded]) == 0
    assert cache.guard([], ME, 60) == []
    assert cache.unguard([]) == 0


def test_round_trips(cache: Adapter, relay: Relay, namespace: str) -> None:
    """To guard, to release and to invalidate keys costs two exchanges for all of them, to update one."""
    keys = [f"{namespace}:{number}" for number in range(50)]
    for key in keys:
        cache.store(key, b"value")

    def exchanges(verb: str, *args: Any) -> int:
        before = len(relay.sent)
        getattr(cache, verb)(*args)
        return len(relay.sent) - before

    assert exchanges("invalidate", keys[:20]) == 2
    assert exchanges("guard", keys, ME, 60) == 2
    assert exchanges("unguard", [(key, ME) for key in keys]) == 2
    assert exchanges("invalidate", keys) == 1  # there is nothing
    (proof,) = cache.guard(keys[:1], ME, 60)
    assert exchanges("update", keys[0], ME, proof, b"value", 60) == 1


# --- several writers ---


def test_two_writers(cache: Adapter, namespace: str) -> None:
    """Each takes back its own mark; the last one frees the key."""
    cache.guard([namespace], ME, 60)
    cache.guard([namespace], YOU, 60)
    assert cache.unguard([(namespace, ME)]) == 0
    assert cache.lookup(namespace, 60) == Guarded()
    assert cache.unguard([(namespace, YOU)]) == 0
    assert type(cache.lookup(namespace, 60)) is Leased


@pytest.mark.parametrize("what", ["nothing", "value", "lease", "guard"])
def test_marks_placed_at_once(cache: Adapter, relay: Relay, other: Adapter, namespace: str, what: str) -> None:
    """Of two writers who saw the same and mark it, none overwrites the other's mark, whatever they saw."""
    put(other, namespace, what)
    relay.before(b"ms ", lambda: other.guard([namespace], YOU, 60))
    cache.guard([namespace], ME, 60)
    if what == "guard":
        assert other.unguard([(namespace, THIRD)]) == 0
    assert other.unguard([(namespace, YOU)]) == 0
    assert cache.lookup(namespace, 60) == Guarded()
    assert cache.unguard([(namespace, ME)]) == 0
    assert type(cache.lookup(namespace, 60)) is Leased


def test_mark_placed_at_the_release(cache: Adapter, relay: Relay, other: Adapter, namespace: str) -> None:
    """A writer who comes while the last one leaves keeps its mark."""
    cache.guard([namespace], ME, 60)
    relay.before(b"md ", lambda: other.guard([namespace], YOU, 60))
    assert cache.unguard([(namespace, ME)]) == 0
    assert cache.lookup(namespace, 60) == Guarded()
    assert other.unguard([(namespace, YOU)]) == 0


def test_releases_at_once(cache: Adapter, relay: Relay, other: Adapter, namespace: str) -> None:
    """Of two writers that leave at once none puts the other's mark back."""
    cache.guard([namespace], ME, 60)
    cache.guard([namespace], YOU, 60)
    relay.before(b"ms ", lambda: other.unguard([(namespace, YOU)]))
    assert cache.unguard([(namespace, ME)]) == 0
    assert type(cache.lookup(namespace, 60)) is Leased


def test_marks_of_one_key_together(cache: Adapter, namespace: str) -> None:
    """Two marks of the same key may be taken back in one call, and a key guarded or invalidated twice in one."""
    cache.guard([namespace, namespace], ME, 60)
    cache.guard([namespace], YOU, 60)
    cache.invalidate([namespace, namespace])
    assert cache.unguard([(namespace, ME), (namespace, YOU)]) == 0
    assert type(cache.lookup(namespace, 60)) is Leased


def test_crowd_of_writers(cache: Adapter, namespace: str) -> None:
    """Thirty writers of one key at once, each in and out five times: no mark is lost, and none stays."""
    backend, tokens = cache.backend, [f"writer-{number:09}" for number in range(30)]

    def write(token: str) -> int:
        lost = 0
        for _ in range(5):
            backend.guard([namespace], token, 60)
            lost += backend.unguard([(namespace, token)])
        return lost

    async def awrite(token: str) -> int:
        assert backend.aio is not None
        lost = 0
        for _ in range(5):
            await backend.aio.guard([namespace], token, 60)
            lost += await backend.aio.unguard([(namespace, token)])
        return lost

    async def gather() -> list[int]:
        return await asyncio.gather(*map(awrite, tokens))

    if cache.runner is not None:
        assert sum(cache.runner.run(gather())) == 0
    else:
        with ThreadPoolExecutor(len(tokens)) as threads:
            assert sum(threads.map(write, tokens)) == 0
    assert type(cache.lookup(namespace, 60)) is Leased


# --- guards that are lost ---


def test_lost_guard(cache: Adapter, memcached_server: MemcachedServer, namespace: str) -> None:
    """A release that does not find its mark drops what readers filled meanwhile, and counts."""
    cache.guard([namespace], ME, 60)
    assert say(memcached_server, b"md %b\r\n" % namespace.encode()) == b"HD\r\n"
    cache.store(namespace, b"read before the commit")
    lease = cache.lookup(namespace + ":2", 60)
    assert cache.unguard([(namespace, ME), (namespace + ":2", ME), (namespace + ":3", ME)]) == 3
    assert type(cache.lookup(namespace, 60)) is Leased
    assert cache.fill(namespace + ":2", lease.token, b"old", 60) is False


def test_lost_guard_among_others(cache: Adapter, namespace: str) -> None:
    """A release without a mark leaves the guard of another writer standing, but touched."""
    (proof,) = cache.guard([namespace], YOU, 60)
    assert cache.unguard([(namespace, ME)]) == 1
    assert cache.lookup(namespace, 60) == Guarded()
    assert cache.update(namespace, YOU, proof, b"value", 60) is False
    assert cache.unguard([(namespace, YOU)]) == 0


@pytest.mark.parametrize("filled", [True, False])
def test_guard_lost_at_the_release(
    cache: Adapter, relay: Relay, other: Adapter, memcached_server: MemcachedServer, namespace: str, filled: bool
) -> None:
    """A marker that vanishes between the look and the release counts, and what a reader fills then is dropped."""

    def lose() -> None:
        say(memcached_server, b"md %b\r\n" % namespace.encode())
        if filled:
            other.store(namespace, b"read before the commit")

    cache.guard([namespace], ME, 60)
    relay.before(b"md ", lose)
    assert cache.unguard([(namespace, ME)]) == 1
    assert type(cache.lookup(namespace, 60)) is Leased


def test_guard_lost_by_a_restart(open_backend: Open, new_memcached: Callable[..., MemcachedServer]) -> None:
    """After a restart the guard is gone and readers fill; the release drops that."""
    server = new_memcached()
    cache, reader = open_backend(server), MemcachedBackend([server.address], timeout=5)
    cache.guard(["k"], ME, 60)
    server.restart()
    lease = reader.lookup("k", 60)
    assert isinstance(lease, Leased)
    assert reader.fill("k", lease.token, b"read before the commit", 60)
    assert cache.unguard([("k", ME)]) == 1
    assert type(reader.lookup("k", 60)) is Leased
    reader.close()


# --- lost messages ---


@pytest.mark.parametrize(("lose", "lost"), [("request", 1), ("reply", 0)])
def test_guard_without_an_answer(cache: Adapter, relay: Relay, namespace: str, lose: str, lost: int) -> None:
    """A mark is sent once; whether it arrived or not, the release finds out."""
    relay.before(b"ms ", lose=lose)
    with pytest.raises(CacheUnavailable) as raised:
        cache.guard([namespace], ME, 60)
    assert (raised.value.keys, raised.value.sent) == ({namespace}, True)
    assert sum(data.startswith(b"ms ") for data in relay.sent) == 1
    assert cache.unguard([(namespace, ME)]) == lost
    assert type(cache.lookup(namespace, 60)) is Leased


@pytest.mark.parametrize("lose", ["request", "reply"])
@pytest.mark.parametrize("start", [b"mg ", b"ms "])
def test_release_without_an_answer(
    cache: Adapter, relay: Relay, memcached_server: MemcachedServer, namespace: str, start: bytes, lose: str
) -> None:
    """The release of a mark outlives a connection that the server closes: it looks again."""
    cache.guard([namespace], ME, 60)
    cache.guard([namespace], YOU, 60)
    relay.before(start, lose=lose)
    cache.unguard([(namespace, ME)])
    found = marker(memcached_server, namespace)
    assert found is not None
    assert set(found.marks) == {YOU.encode()}


@pytest.mark.parametrize("lose", ["request", "reply"])
def test_invalidation_without_an_answer(cache: Adapter, relay: Relay, namespace: str, lose: str) -> None:
    """So does an invalidation."""
    cache.store(namespace, b"value")
    relay.before(b"md ", lose=lose)
    cache.invalidate([namespace])
    assert type(cache.lookup(namespace, 60)) is Leased


# --- what else may have the flag ---


@pytest.mark.parametrize("value", [b"", b"1", b"0rubbish", b"1me--------------000000x"])
def test_no_guard(cache: Adapter, memcached_server: MemcachedServer, namespace: str, value: bytes) -> None:
    """An item that only looks like a guard is none: it is shown, replaced, invalidated and guarded like any other."""
    item = b"ms %b %d T60 F199\r\n%b\r\n" % (namespace.encode(), len(value), value)
    assert say(memcached_server, item) == b"HD\r\n"
    hit = cache.lookup(namespace, 60)
    assert type(hit) is Hit
    assert type(cache.replace(namespace, hit.seen, 60)) is Leased
    for change in (lambda: cache.invalidate([namespace]), lambda: cache.guard([namespace], ME, 60)):
        say(memcached_server, item)
        change()
    assert cache.unguard([(namespace, ME)]) == 0
    assert type(cache.lookup(namespace, 60)) is Leased


def test_guard_without_end_is_none(cache: Adapter, memcached_server: MemcachedServer, namespace: str) -> None:
    """What looks like a guard but would stand for ever is replaced."""
    say(memcached_server, b"ms %b 24 F199\r\n1me--------------0000000\r\n" % namespace.encode())
    hit = cache.lookup(namespace, 60)
    assert type(hit) is Hit
    assert type(cache.replace(namespace, hit.seen, 60)) is Leased


@pytest.mark.parametrize("token", ["short", "much too long for a token", "not visible \n--", "umlaut äöüß----"])
def test_tokens(cache: Adapter, token: str) -> None:
    """A token that could not be found again is refused before anything is sent."""
    for call in (lambda: cache.guard(["k"], token, 60), lambda: cache.unguard([("k", token)])):
        with pytest.raises(ValueError, match="16 characters"):
            call()
