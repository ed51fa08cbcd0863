"""Invalidations, updates and takeovers on memcached that meet a guard, and deadlines; on a real server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest
from adapter import COLOURS, Adapter
from colours import TIMEOUT
from memcached_tools import ME, THIRD, YOU, Relay, marker, opener, say
from servers import MemcachedServer

from cacheside.backends.base import Busy, Guarded, Hit, Leased
from cacheside.backends.memcached import changes, known
from cacheside.errors import CacheUnavailable


@pytest.fixture(params=COLOURS)
def cache(request: pytest.FixtureRequest, relay: Relay) -> Iterator[Adapter]:
    """A backend of either colour on the session's server, through the relay."""
    with opener(request.param) as make:
        yield make(relay.address)


# --- invalidations ---


def test_invalidation_keeps_the_guard(cache: Adapter, memcached_server: MemcachedServer, namespace: str) -> None:
    """A plain invalidation erases no guard: a reader would lease the key while the writer has yet to commit."""
    cache.guard([namespace], ME, 60)
    cache.guard([namespace], YOU, 60)
    cache.invalidate([namespace])
    assert cache.lookup(namespace, 60) == Guarded()
    found = marker(memcached_server, namespace)
    assert found is not None
    assert set(found.marks) == {ME.encode(), YOU.encode()}
    assert cache.unguard([(namespace, ME), (namespace, YOU)]) == 0


def test_guard_comes_in_between(cache: Adapter, relay: Relay, other: Adapter, namespace: str) -> None:
    """Nor does it if the guard was put where the invalidation had seen a value; and it touches that guard."""
    cache.store(namespace, b"value")
    proofs = []
    relay.before(b"md ", lambda: proofs.extend(other.guard([namespace], ME, 60)))
    cache.invalidate([namespace])
    assert cache.lookup(namespace, 60) == Guarded()
    assert other.update(namespace, ME, proofs[0], b"value", 60) is False
    assert other.unguard([(namespace, ME)]) == 0


def test_mark_comes_in_between(cache: Adapter, relay: Relay, other: Adapter, namespace: str) -> None:
    """An invalidation that touches a guard loses no mark that is placed at the same moment."""
    cache.guard([namespace], ME, 60)
    relay.before(b"ms ", lambda: other.guard([namespace], YOU, 60))
    cache.invalidate([namespace])
    assert cache.unguard([(namespace, ME)]) == 0
    assert cache.lookup(namespace, 60) == Guarded()
    assert other.unguard([(namespace, YOU)]) == 0


def test_fill_comes_in_between(cache: Adapter, relay: Relay, other: Adapter, namespace: str) -> None:
    """A value that is filled where the invalidation had seen its lease is dropped all the same."""
    lease = other.lookup(namespace, 60)
    relay.before(b"md ", lambda: other.fill(namespace, lease.token, b"old", 60))
    cache.invalidate([namespace])
    assert type(cache.lookup(namespace, 60)) is Leased


def test_invalidation_ends(
    cache: Adapter, relay: Relay, other: Adapter, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An invalidation that is always too late gives up with an error that names its key; the other keys are done."""
    monkeypatch.setattr(changes, "ROUNDS", 3)

    def rewrite() -> None:
        lease = other.replace(namespace, other.lookup(namespace, 60).seen, 60)
        assert other.fill(namespace, lease.token, b"again", 60)

    for key in (namespace, namespace + ":2"):
        other.store(key, b"value")
    for _ in range(3):
        relay.before(b"md %b " % namespace.encode(), rewrite)
    with pytest.raises(CacheUnavailable, match="3 times") as raised:
        cache.invalidate([namespace, namespace + ":2"])
    assert raised.value.keys == {namespace}
    assert cache.lookup(namespace, 60).stored == b"again"
    assert type(cache.lookup(namespace + ":2", 60)) is Leased


# --- updates ---


@pytest.mark.parametrize("what", ["nothing", "value", "lease"])
def test_update(cache: Adapter, namespace: str, what: str) -> None:
    """A writer that was alone puts its value in; leases from before do not come back."""
    lease = cache.lookup(namespace, 60) if what != "nothing" else None
    if lease is not None and what == "value":
        assert cache.fill(namespace, lease.token, b"old", 60)
    (proof,) = cache.guard([namespace], ME, 60)
    assert cache.update(namespace, ME, proof, b"new", 60) is True
    assert cache.lookup(namespace, 60).stored == b"new"
    assert cache.update(namespace, ME, proof, b"newer", 60) is False
    assert lease is None or cache.fill(namespace, lease.token, b"old", 60) is False
    assert cache.lookup(namespace, 60).stored == b"new"


def come_and_go(other: Adapter, key: str) -> None:
    """Another writer, from beginning to end."""
    other.guard([key], YOU, 60)
    other.unguard([(key, YOU)])


def write_plainly(other: Adapter, key: str) -> None:
    """Another write that only invalidates."""
    other.invalidate([key])


def guard_again(other: Adapter, key: str) -> None:
    """My guard is lost, and another writer's came and went on what readers filled; then the same mark once more."""
    other.unguard([(key, ME)])
    other.store(key, b"old")
    come_and_go(other, key)
    other.guard([key], ME, 60)


def stay(other: Adapter, key: str) -> None:
    """Another writer is at work."""
    other.guard([key], YOU, 60)


def miss(other: Adapter, key: str) -> None:
    """Another writer releases a mark that it lost."""
    other.unguard([(key, YOU)])


@pytest.mark.parametrize("event", [come_and_go, write_plainly, guard_again, stay, miss])
def test_update_after_another(
    cache: Adapter, other: Adapter, namespace: str, event: Callable[[Adapter, str], None]
) -> None:
    """Whatever another writer did meanwhile, and though my mark is the only one again: its value may be newer."""
    (proof,) = cache.guard([namespace], ME, 60)
    event(other, namespace)
    assert cache.update(namespace, ME, proof, b"older", 60) is False
    assert cache.lookup(namespace, 60) == Guarded()
    assert cache.unguard([(namespace, ME)]) == 0


@pytest.mark.parametrize("event", [come_and_go, write_plainly])
def test_update_of_the_second(
    cache: Adapter, other: Adapter, namespace: str, event: Callable[[Adapter, str], None]
) -> None:
    """Who marked a guard that stood already never fills, though all others are gone since."""
    other.guard([namespace], THIRD, 60)
    (proof,) = cache.guard([namespace], ME, 60)
    assert cache.update(namespace, ME, proof, b"older", 60) is False
    other.unguard([(namespace, THIRD)])
    assert cache.update(namespace, ME, proof, b"older", 60) is False
    event(other, namespace)
    assert cache.update(namespace, ME, proof, b"older", 60) is False
    assert cache.unguard([(namespace, ME)]) == 0


def test_update_needs_its_own_key(cache: Adapter, namespace: str) -> None:
    """A proof is good for the key that it was given for."""
    keys = [namespace, namespace + ":2"]
    proofs = cache.guard(keys, ME, 60)
    assert cache.update(keys[1], ME, proofs[0], b"value", 60) is False
    assert all(cache.lookup(key, 60) == Guarded() for key in keys)
    assert [cache.update(key, ME, proof, b"value", 60) for key, proof in zip(keys, proofs, strict=True)] == [True, True]


# --- deadlines ---


def test_guard_lives_for_its_longest_mark(cache: Adapter, memcached_server: MemcachedServer, namespace: str) -> None:
    """No rewrite shortens a mark, and none lengthens it by more than the seconds of a round trip."""
    cache.guard([namespace], ME, 1000)
    cache.guard([namespace], YOU, 10)
    cache.invalidate([namespace])
    cache.guard([namespace], THIRD, 100)
    cache.unguard([(namespace, THIRD)])
    found = marker(memcached_server, namespace)
    assert found is not None
    assert 960 < found.marks[ME.encode()] <= 1001 + 4  # a second for each rewrite, should the clock tick in all of them
    assert found.marks[YOU.encode()] <= 11 + 3
    cache.unguard([(namespace, YOU)])
    left = int(say(memcached_server, b"mg %b t\r\n" % namespace.encode()).removeprefix(b"HD t"))
    assert 960 < left <= 1001 + 5


def test_long_hold(cache: Adapter, memcached_server: MemcachedServer, namespace: str) -> None:
    """A hold of more than 30 days is not read as a date of 1970."""
    cache.guard([namespace], ME, 10**9)
    found = marker(memcached_server, namespace)
    assert found is not None
    assert found.marks[ME.encode()] > 29 * 86400


@pytest.mark.parametrize("traffic", ["guards", "invalidations"])
def test_dead_writer_under_traffic(
    other: Adapter, memcached_server: MemcachedServer, namespace: str, traffic: str
) -> None:
    """The mark of a writer that died goes at its deadline, though others come and go all the time."""
    other.guard([namespace], THIRD, 0.01)  # and dies
    other.guard([namespace], ME, 60)
    end = time.monotonic() + TIMEOUT
    while (found := marker(memcached_server, namespace)) and THIRD.encode() in found.marks:
        assert time.monotonic() < end, "the dead writer's mark lives on"
        time.sleep(0.05)
        if traffic == "guards":
            come_and_go(other, namespace)
        else:
            other.invalidate([namespace])
    other.guard([namespace], YOU, 60)  # rewrites the marker, so its end is that of the last mark in it
    for token in (YOU, ME):
        assert other.lookup(namespace, 60) == Guarded()
        assert other.unguard([(namespace, token)]) == 0
    assert type(other.lookup(namespace, 60)) is Leased


def test_guard_of_a_dead_writer_ends(cache: Adapter, namespace: str) -> None:
    """A writer that died leaves a guard that ends by itself."""
    cache.guard([namespace], ME, 0.01)
    end = time.monotonic() + TIMEOUT
    while cache.lookup(namespace, 60) == Guarded():
        assert time.monotonic() < end, "it never ended"
        time.sleep(0.02)
    assert cache.lookup(namespace, 60) == Busy()  # the lease is held since


# --- takeover of leases ---


class Clock:
    """Stands in for the module `time` where leases are watched."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """The time that the test likes."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which takeovers are due."""
    made = Clock()
    monkeypatch.setattr(known, "time", made)
    return made


def test_dead_winner(cache: Adapter, other: Adapter, namespace: str, clock: Clock) -> None:
    """The lease of a holder that died is taken over when it was seen for longer than a lease, by one caller."""
    dead = other.lookup(namespace, 60)
    assert cache.lookup(namespace, 10) == Busy()
    clock.now += 9.9
    assert cache.lookup(namespace, 10) == Busy()
    clock.now += 0.2
    taken = [answer for answer in cache.together(20, "lookup", namespace, 10) if answer != Busy()]
    assert len(taken) == 1
    assert other.fill(namespace, dead.token, b"old", 60) is False
    assert cache.fill(namespace, taken[0].token, b"new", 60) is True


def test_living_winner(cache: Adapter, other: Adapter, namespace: str, clock: Clock) -> None:
    """What counts is one and the same lease: one that was won since is left alone."""
    first = other.lookup(namespace, 60)
    assert cache.lookup(namespace, 10) == Busy()
    clock.now += 10.1
    other.release(namespace, first.token)
    second = other.lookup(namespace, 60)
    assert cache.lookup(namespace, 10) == Busy()
    assert other.fill(namespace, second.token, b"value", 60) is True
    assert type(cache.lookup(namespace, 10)) is Hit


@pytest.mark.parametrize("when", ["before the look", "after the look"])
def test_guard_is_not_taken_over(
    cache: Adapter, relay: Relay, other: Adapter, namespace: str, clock: Clock, when: str
) -> None:
    """A guard in the place of the dead winner's lease stays, also if it comes at the very moment of the takeover."""
    other.lookup(namespace, 60)
    assert cache.lookup(namespace, 10) == Busy()
    clock.now += 10.1
    if when == "before the look":
        other.guard([namespace], ME, 60)
        assert cache.lookup(namespace, 10) == Guarded()
    else:
        relay.before(b"ms ", lambda: other.guard([namespace], ME, 60))
        assert cache.lookup(namespace, 10) == Busy()
    assert cache.lookup(namespace, 10) == Guarded()
    assert other.unguard([(namespace, ME)]) == 0
