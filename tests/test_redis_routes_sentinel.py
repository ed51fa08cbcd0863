"""Where commands go behind Sentinel: its route driven by hand, without a server."""

from __future__ import annotations

import pytest
from redis.exceptions import ConnectionError, ReadOnlyError, TimeoutError
from redis_tools import addresses, names, walk

from cacheside import CacheUnavailable
from cacheside.backends.base import Hit, Leased
from cacheside.backends.redis import sentinel
from cacheside.backends.redis.sentinel import SentinelRoute
from cacheside.backends.redis.wire import Protocol
from cacheside.testing import FakeClock

A, B, C = ("a", 1), ("b", 2), ("c", 3)
MASTER = "GET-MASTER-ADDR-BY-NAME"


@pytest.fixture
def clock() -> FakeClock:
    """The time of the routes."""
    return FakeClock()


@pytest.fixture
def behind(clock: FakeClock) -> SentinelRoute:
    """A service whose master is A, named a moment ago."""
    made = SentinelRoute(Protocol(), 1.0, "label", "shop", [C], clock)
    sent, _ = walk(made.lookup("k", 10), [[b"a", b"1"]], None)
    assert [(each.address, each.commands[0][:2]) for each in sent] == [(C, ("SENTINEL", MASTER)), (A, ("SET", "k"))]
    clock.advance(sentinel.REFRESH_EVERY)
    return made


def test_demoted_master(behind: SentinelRoute) -> None:
    """READONLY means that nothing was carried out: the same command goes to the master that the sentinels name now."""
    sent, answer = walk(behind.lookup("k", 10), ReadOnlyError("replica"), [[b"b", b"2"]], None)
    assert addresses(sent) == [A, C, B]
    assert sent[0].commands == sent[2].commands
    assert type(answer) is Leased
    assert addresses(walk(behind.lookup("k", 10), b"V" + b"t" * 42 + b"value")[0]) == [B]


def test_replica_is_never_read(behind: SentinelRoute) -> None:
    """Where the sentinels know no better, a lookup fails: what a replica holds may have been invalidated."""
    sent, error = walk(behind.lookup("k", 10), ReadOnlyError("replica"), [[b"a", b"1"]])
    assert names(sent) == [["SET"], ["SENTINEL"]]
    assert "READONLY" in str(error)


def test_master_is_asked_for_once_in_a_while(behind: SentinelRoute, clock: FakeClock) -> None:
    """No answer, and an open breaker, make one caller in a while ask the sentinels; then the next call goes there."""
    sent, error = walk(behind.invalidate(["k"]), TimeoutError("slow"), [[b"a", b"1"]])
    assert names(sent) == [["EVALSHA"], ["SENTINEL"]]
    assert isinstance(error, CacheUnavailable)
    assert walk(behind.invalidate(["k"]))[0] == []
    clock.advance(sentinel.REFRESH_EVERY)
    assert names(walk(behind.invalidate(["k"]), [[b"b", b"2"]])[0]) == [["SENTINEL"]]
    assert addresses(walk(behind.invalidate(["k"]), 1)[0]) == [B]


def test_master_is_confirmed(behind: SentinelRoute, clock: FakeClock) -> None:
    """An old master that still says it is one is left a second after the sentinels have another."""
    clock.advance(sentinel.CONFIRM_EVERY)
    first = behind.release("k", b"t" * 16)
    assert next(first).address == C
    assert addresses(walk(behind.release("k", b"t" * 16), 1)[0]) == [A]  # the others do not wait for it
    assert first.send([[b"b", b"2"]]).address == B
    assert addresses(walk(behind.release("k", b"t" * 16), 1)[0]) == [B]


def test_sentinels_that_do_not_know() -> None:
    """A sentinel that does not answer, or does not know the service, is passed over; none that knows is an outage."""
    route = SentinelRoute(Protocol(), 1.0, "label", "shop", [A, B], FakeClock())
    refused = ConnectionError("refused")
    sent, answer = walk(route.lookup("k", 10), refused, refused, [[b"c", b"3"]], b"V" + b"t" * 42 + b"value")
    assert addresses(sent)[-1] == C
    assert type(answer) is Hit
    route = SentinelRoute(Protocol(), 1.0, "label", "shop", [A, B], FakeClock())
    _, error = walk(route.lookup("k", 10), None, None)
    assert "'shop'" in str(error)


def test_batch_at_a_demoted_master(behind: SentinelRoute) -> None:
    """What was not carried out goes on to the new master, all together; the sentinels are asked once."""
    demoted = ReadOnlyError("replica")
    replies = [[demoted, demoted, b"L" + b"v" * 16], [[b"b", b"2"]], [None, b"V" + b"t" * 42 + b"value"]]
    sent, (answers, versions) = walk(behind.lookup_many(["k", "l"], 10, ["t"]), *replies)
    assert addresses(sent) == [A, C, B]
    assert sent[2].commands == sent[0].commands[:2]
    assert [type(each) for each in answers] == [Leased, Hit]
    assert versions == [b"v" * 16]


def test_batch_without_a_master() -> None:
    """Where no sentinel knows a master each key is answered by the error."""
    route = SentinelRoute(Protocol(), 1.0, "label", "shop", [A], FakeClock())
    _, (answers, versions) = walk(route.lookup_many(["k", "l"], 10, ["t"]), None)
    assert ["'shop'" in str(each) for each in [*answers, *versions]] == [True] * 3
