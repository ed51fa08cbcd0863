"""Claims and stale marks on memcached, in both colours, on real servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from adapter import COLOURS, Adapter
from colours import TIMEOUT
from memcached_tools import ME, Open, Relay, marker, opener, say
from servers import MemcachedServer

from cacheside.backends.base import Busy, Guarded, Hit, Leased, Stale
from cacheside.backends.memcached.claims import side_key
from cacheside.backends.memcached.wire import wire_key
from cacheside.errors import CacheUnavailable, NotCacheableError


@pytest.fixture(params=COLOURS)
def open_backend(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Make an adapter of either colour: `open_backend(*servers, **options)`."""
    with opener(request.param) as make:
        yield make


@pytest.fixture
def cache(open_backend: Open, memcached_server: MemcachedServer) -> Adapter:
    """A backend on the session's server."""
    return open_backend(memcached_server)


def entry(cache: Adapter, key: str, stale: bool = False) -> Hit | Stale:
    """An entry under `key`, as a lookup shows it."""
    cache.store(key, b"old")
    if stale:
        cache.mark_stale([key], 60)
    found = cache.lookup(key, 10)
    assert type(found) is (Stale if stale else Hit)
    return found


def same(found: Hit | Stale, entry: Hit | Stale) -> bool:
    """Whether a lookup has found that very entry."""
    return (type(found), found.stored, found.seen.number) == (type(entry), entry.stored, entry.seen.number)


def left(server: MemcachedServer, key: str) -> int:
    """The seconds that the item has left; -1: for ever."""
    return int(say(server, b"mg %b t\r\n" % key.encode()).split()[1].removeprefix(b"t"))


# --- claims ---


@pytest.mark.parametrize("stale", [False, True])
def test_claim_and_fill(cache: Adapter, namespace: str, stale: bool) -> None:
    """The entry is served on while it is claimed, and gives way to the fresh value, which is a plain hit."""
    old = entry(cache, namespace, stale)
    claim = cache.claim(namespace, old.seen, 60)
    assert type(claim) is Leased
    assert same(cache.lookup(namespace, 10), old)
    assert cache.fill(namespace, claim.token, b"new", 60) is True
    assert cache.fill(namespace, claim.token, b"late", 60) is False
    new = cache.lookup(namespace, 10)
    assert (type(new), new.stored) == (Hit, b"new")
    assert type(cache.claim(namespace, new.seen, 60)) is Leased


@pytest.mark.parametrize("stale", [False, True])
def test_one_claim_for_a_crowd(cache: Adapter, other: Adapter, namespace: str, stale: bool) -> None:
    """However many ask for the same entry, one gets the claim."""
    old = entry(cache, namespace, stale)
    kinds = [type(answer) for answer in cache.together(20, "claim", namespace, old.seen, 60)]
    assert (kinds.count(Leased), kinds.count(Busy)) == (1, 19)
    assert other.claim(namespace, other.lookup(namespace, 10).seen, 60) == Busy()


def test_claim_of_what_is_gone(cache: Adapter, namespace: str) -> None:
    """An entry that the key does not hold any more is not claimed: gone, or another since, or one of another key."""
    old = entry(cache, namespace)
    cache.invalidate([namespace])
    assert cache.claim(namespace, old.seen, 60) == Busy()
    entry(cache, namespace)
    assert cache.claim(namespace, old.seen, 60) == Busy()
    assert cache.claim(namespace + "2", cache.lookup(namespace, 10).seen, 60) == Busy()


@pytest.mark.parametrize("loss", ["invalidate", "mark", "guard", "guard and release", "fill", "replace"])
@pytest.mark.parametrize("stale", [False, True])
def test_claim_is_lost(cache: Adapter, other: Adapter, namespace: str, loss: str, stale: bool) -> None:
    """Whatever ends a lease ends a claim: a fill under it is refused, and its release says so."""
    old = entry(cache, namespace, stale)
    lost, given_up = cache.claim(namespace, old.seen, 60).token, None
    seen = other.lookup(namespace, 10).seen
    if loss == "invalidate":
        other.invalidate([namespace])
    elif loss == "mark":
        other.mark_stale([namespace], 60)
    elif loss.startswith("guard"):
        other.guard([namespace], ME, 60)
        if loss == "guard and release":
            other.unguard([(namespace, ME)])
    else:
        given_up = other.replace(namespace, seen, 60).token
        if loss == "fill":
            assert other.fill(namespace, given_up, b"other", 60)
    before = other.lookup(namespace, 10)
    assert cache.fill(namespace, lost, b"late", 60) is False
    assert cache.release(namespace, lost) is False
    after = other.lookup(namespace, 10)
    assert type(after) is (Busy if type(before) is Leased else type(before))
    assert getattr(after, "stored", b"") != b"late"


def test_release_of_a_claim(cache: Adapter, namespace: str) -> None:
    """A claim that is given back leaves the entry, for another to claim; and is of no more use."""
    old = entry(cache, namespace)
    first = cache.claim(namespace, old.seen, 60)
    assert cache.release(namespace, first.token) is True
    assert same(cache.lookup(namespace, 10), old)
    second = cache.claim(namespace, old.seen, 60)
    assert type(second) is Leased
    assert cache.release(namespace, first.token) is False
    assert cache.claim(namespace, old.seen, 60) == Busy()  # that release did not take away what is another's
    assert cache.release(namespace, second.token) is True


def test_claim_expires(cache: Adapter, namespace: str) -> None:
    """The claim of a caller that died is free again when its time is over; what it fills later can do no harm."""
    old = entry(cache, namespace)
    dead = cache.claim(namespace, old.seen, 0.01)
    end = time.monotonic() + TIMEOUT
    while (found := cache.claim(namespace, old.seen, 60)) == Busy():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert type(found) is Leased
    assert cache.release(namespace, dead.token) is False
    assert cache.claim(namespace, old.seen, 60) == Busy()
    assert cache.fill(namespace, found.token, b"new", 60) is True
    assert cache.fill(namespace, dead.token, b"late", 60) is False


def test_too_large_fill_under_a_claim(cache: Adapter, namespace: str) -> None:
    """What is too large is refused before it is sent: the entry stays."""
    old = entry(cache, namespace)
    claim = cache.claim(namespace, old.seen, 60)
    with pytest.raises(NotCacheableError, match="takes no entry"):
        cache.fill(namespace, claim.token, b"x" * 2_000_000, 60)
    assert same(cache.lookup(namespace, 10), old)
    assert cache.release(namespace, claim.token) is True


@pytest.mark.parametrize("length", [200, 228, 229, 249, 250, 251, 500])
def test_claims_on_long_keys(cache: Adapter, namespace: str, length: int) -> None:
    """Keys that leave no room for the name of a side item are claimed like any other, each for itself."""
    keys = [f"{namespace}{'k' * length}"[: length - 1] + end for end in "ab"]
    for key in keys:
        old = entry(cache, key)
        claim = cache.claim(key, old.seen, 60)
        assert type(claim) is Leased
        assert cache.claim(key, old.seen, 60) == Busy()
        assert cache.fill(key, claim.token, b"new", 60) is True


def test_side_items_are_nobodys_keys() -> None:
    """The name of a side item fits, is no key that a caller can have, and tells key and entry."""
    longest = side_key(wire_key("k" * 300), 2**64 - 1)
    assert len(longest) == 250
    assert not longest.isascii()
    assert len({side_key(key, cas) for key in (b"k", b"k1", b"k11") for cas in (1, 11, 111)}) == 9


def test_side_item_is_on_the_server_of_its_key(open_backend: Open, memcached_ring: list[MemcachedServer]) -> None:
    """In a ring the side item is where the entry is, whatever the ring would say of its name: they go together."""
    cache, used = open_backend(*memcached_ring), set()
    for number in range(12):
        key = f"side:{time.monotonic_ns()}:{number}"
        old = entry(cache, key)
        claim = cache.claim(key, old.seen, 60)
        assert type(claim) is Leased
        holds = [say(server, b"mg %b\r\n" % key.encode()) == b"HD\r\n" for server in memcached_ring]
        beside = [say(server, b"mg %b\r\n" % claim.token.side.key) == b"HD\r\n" for server in memcached_ring]
        assert holds == beside
        assert sum(holds) == 1
        used.add(holds.index(True))
        assert cache.claim(key, old.seen, 60) == Busy()
        assert cache.fill(key, claim.token, b"new", 60) is True
    assert len(used) > 1


def test_claims_do_not_survive_a_restart(open_backend: Open, new_memcached: Callable[..., MemcachedServer]) -> None:
    """After a restart the CAS of a claimed entry names another's item, which no claim can touch."""
    server = new_memcached()
    cache, other = open_backend(server), open_backend(server)
    old = entry(cache, "k")
    claim = cache.claim("k", old.seen, 60)
    server.restart()
    while int(say(server, b"ms k 5 c T60 F197\r\nother\r\n").removeprefix(b"HD c")) < old.seen.number:
        pass
    assert other.lookup("k", 60).seen.number == old.seen.number  # the trap is set
    assert cache.lookup("elsewhere", 60)  # and there is a live connection, a new one
    assert cache.fill("k", claim.token, b"late", 60) is False
    assert cache.release("k", claim.token) is False
    assert cache.claim("k", old.seen, 60) == Busy()
    assert other.lookup("k", 60).stored == b"other"


def test_claim_is_one_round_trip_and_sent_once(relay: Relay, open_backend: Open, namespace: str) -> None:
    """A claim is one exchange; when its answer is lost it is an error, and not sent again."""
    cache = open_backend(relay.address)
    old = entry(cache, namespace)
    relay.sent.clear()
    claim = cache.claim(namespace, old.seen, 60)
    assert len(relay.sent) == 1
    assert cache.release(namespace, claim.token) is True
    relay.before(b"mg ", lose="reply")
    with pytest.raises(CacheUnavailable):
        cache.claim(namespace, old.seen, 60)
    assert len(relay.sent) == 3


# --- stale marks ---


def test_mark_shows_the_value_as_stale(cache: Adapter, other: Adapter, namespace: str) -> None:
    """After a mark everybody finds the old value, as stale, however often it is looked at or marked."""
    cache.store(namespace, b"old")
    cache.mark_stale([namespace, namespace + ":nothing"], 60)
    cache.mark_stale([], 60)
    for _ in range(3):
        for one in (cache, other):
            found = one.lookup(namespace, 10)
            assert (type(found), found.stored) == (Stale, b"old")
        cache.mark_stale([namespace], 60)
    assert type(cache.lookup(namespace + ":nothing", 10)) is Leased
    cache.invalidate([namespace])
    assert type(cache.lookup(namespace, 10)) is Leased


def test_mark_shows_an_empty_value_as_stale(cache: Adapter, namespace: str) -> None:
    """An empty value is no lease: it is marked, and shown."""
    cache.store(namespace, b"")
    cache.mark_stale([namespace], 60)
    found = cache.lookup(namespace, 10)
    assert (type(found), found.stored) == (Stale, b"")


def test_mark_shortens(cache: Adapter, memcached_server: MemcachedServer, namespace: str) -> None:
    """A marked value lives no longer than the grace, in whole seconds below it, and no longer than it would have."""
    for ttl, grace, most in ((None, 30.9, 30), (60, 30, 30), (10, 60, 11), (10, 10**9, 11), (60, float("inf"), 61)):
        cache.invalidate([namespace])
        cache.store(namespace, b"old", ttl)
        cache.mark_stale([namespace], grace)
        assert most - 2 <= left(memcached_server, namespace) <= most


def test_mark_never_lengthens(cache: Adapter, memcached_server: MemcachedServer, namespace: str) -> None:
    """However often a value is marked, it is gone at the grace's end after the first mark."""
    cache.store(namespace, b"old")
    end = time.monotonic() + 2
    cache.mark_stale([namespace], 2)
    while type(cache.lookup(namespace, 10)) is Stale:
        assert time.monotonic() < end + 0.1
        cache.mark_stale([namespace], 2)
        cache.mark_stale([namespace], 60)
    assert time.monotonic() > end - 1.5


def test_mark_with_no_time_to_keep(cache: Adapter, namespace: str) -> None:
    """A grace of less than a second keeps nothing, for the server counts whole ones."""
    cache.store(namespace, b"old")
    cache.mark_stale([namespace], 0.99)
    assert type(cache.lookup(namespace, 10)) is Leased


@pytest.mark.parametrize("kind", ["vivified", "replaced"])
def test_mark_kills_leases(cache: Adapter, other: Adapter, namespace: str, kind: str) -> None:
    """A load that began before a mark is not stored after it, and the key is free."""
    if kind == "vivified":
        lease = cache.lookup(namespace, 60)
    else:
        cache.store(namespace, b"corrupt")
        lease = cache.replace(namespace, cache.lookup(namespace, 60).seen, 60)
    other.mark_stale([namespace], 60)
    assert cache.fill(namespace, lease.token, b"late", 60) is False
    assert cache.release(namespace, lease.token) is False
    assert type(cache.lookup(namespace, 60)) is Leased


def test_mark_kills_replaces(cache: Adapter, other: Adapter, namespace: str) -> None:
    """An entry that was marked since is another: it is replaced only as it is now."""
    old = entry(cache, namespace)
    other.mark_stale([namespace], 60)
    assert cache.replace(namespace, old.seen, 60) == Busy()
    assert type(cache.replace(namespace, cache.lookup(namespace, 60).seen, 60)) is Leased


def test_mark_touches_a_guard(cache: Adapter, memcached_server: MemcachedServer, namespace: str) -> None:
    """A guard stays, touched: its writer's own value is refused, for the mark may be for a newer write."""
    (proof,) = cache.guard([namespace], ME, 60)
    cache.mark_stale([namespace], 60)
    cache.mark_stale([namespace], 60)
    assert cache.lookup(namespace, 60) == Guarded()
    found = marker(memcached_server, namespace)
    assert found is not None
    assert not found.untouched
    assert cache.update(namespace, ME, proof, b"older", 60) is False
    assert cache.unguard([(namespace, ME)]) == 0
    assert type(cache.lookup(namespace, 60)) is Leased


def test_guard_on_a_stale_value(cache: Adapter, namespace: str) -> None:
    """A strict writer's guard drops a stale value like any other, and its update is a plain hit."""
    entry(cache, namespace, stale=True)
    (proof,) = cache.guard([namespace], ME, 60)
    assert cache.lookup(namespace, 60) == Guarded()
    assert cache.update(namespace, ME, proof, b"new", 60) is True
    assert type(cache.lookup(namespace, 60)) is Hit


@pytest.mark.parametrize("between", ["fill", "guard"])
def test_mark_hits_what_it_saw(relay: Relay, open_backend: Open, other: Adapter, namespace: str, between: str) -> None:
    """What comes between the look and the mark is looked at again: a fill is marked, a guard touched."""
    cache = open_backend(relay.address)
    lease = other.lookup(namespace, 60)

    def act() -> None:
        if between == "fill":
            assert other.fill(namespace, lease.token, b"filled", 60)
        else:
            other.guard([namespace], ME, 60)

    relay.before(b"md ", act)
    cache.mark_stale([namespace], 60)
    found = cache.lookup(namespace, 60)
    assert type(found) is (Stale if between == "fill" else Guarded)


def test_mark_of_many(open_backend: Open, memcached_ring: list[MemcachedServer], namespace: str) -> None:
    """Thousands of keys on several servers are marked in one call, whatever they hold."""
    cache = open_backend(*memcached_ring)
    keys = [f"{namespace}:{number}" for number in range(2100)]
    for number, key in enumerate(keys[::100]):
        if number % 2:
            cache.store(key, b"old")
        else:
            cache.lookup(key, 60)
    cache.mark_stale(keys, 60)
    kinds = [type(cache.lookup(key, 60)) for key in keys[::100]]
    assert kinds == [Leased, Stale] * 10 + [Leased]


def test_mark_with_a_server_down(open_backend: Open, new_memcached: Callable[..., MemcachedServer]) -> None:
    """A mark that fails tells which keys failed; those of the other servers are marked."""
    servers = [new_memcached() for _ in range(3)]
    cache = open_backend(*servers)
    keys = [f"key{number}" for number in range(30)]
    for key in keys:
        cache.store(key, b"old")
    lost = {key for key in keys if say(servers[0], b"mg %b\r\n" % key.encode()) == b"HD\r\n"}
    servers[0].kill()
    with pytest.raises(CacheUnavailable) as raised:
        cache.mark_stale(keys, 60)
    assert raised.value.keys == frozenset(lost)
    assert all(type(cache.lookup(key, 60)) is Stale for key in keys if key not in lost)
