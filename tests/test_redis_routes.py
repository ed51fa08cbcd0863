"""Where commands go on a cluster: its route driven by hand, without a server."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)
from redis_tools import addresses, names, walk

from cacheside import CacheUnavailable, ConfigurationError
from cacheside.backends.base import Leased
from cacheside.backends.redis import cluster, rounds
from cacheside.backends.redis.cluster import ClusterRoute
from cacheside.backends.redis.rounds import Steps
from cacheside.backends.redis.routes import OneServer
from cacheside.backends.redis.slots import slot_of
from cacheside.backends.redis.wire import Protocol
from cacheside.testing import FakeClock

A, B, C = ("a", 1), ("b", 2), ("c", 3)
HALVES = [[0, 8191, [b"a", 1, b"id"]], [8192, 16383, [b"b", 2, b"id"]]]
SLOTS = ("CLUSTER", "SLOTS")
ON_A, ON_B = "{2}", "{1}"  # keys of either half


@pytest.fixture
def clock() -> FakeClock:
    """The time of the routes."""
    return FakeClock()


@pytest.fixture
def route(clock: FakeClock) -> ClusterRoute:
    """A cluster of A and B that has been asked for its map."""
    made = ClusterRoute(Protocol(), 1.0, "label", [A], clock)
    sent, _ = walk(made.lookup(ON_A, 10), [HALVES], None)
    assert [(each.address, each.commands[0][:2]) for each in sent] == [(A, SLOTS), (A, ("SET", ON_A))]
    clock.advance(1)
    return made


# --- the map ---


def test_keys_for_the_tests() -> None:
    """The two keys lie in different halves."""
    assert slot_of(ON_A) < 8192 <= slot_of(ON_B)


# --- redirections ---


def test_moved(route: ClusterRoute) -> None:
    """The very same command goes on, the slot is remembered, and the map is asked for afterwards, once in a while."""
    sent, answer = walk(route.lookup(ON_A, 10), MovedError(f"{slot_of(ON_A)} c:3"), None, [HALVES])
    assert addresses(sent)[:2] == [A, C]
    assert sent[0].commands == sent[1].commands
    assert type(answer) is Leased
    assert names(sent)[2] == ["CLUSTER"]
    sent, _ = walk(route.lookup(ON_A, 10), MovedError(f"{slot_of(ON_A)} c:3"), None)
    assert addresses(sent) == [A, C]
    assert addresses(walk(route.lookup(ON_A, 10), None)[0]) == [C]


def test_moved_without_a_host(route: ClusterRoute) -> None:
    """An empty host is the one that was asked."""
    sent, _ = walk(route.lookup(ON_A, 10), MovedError(f"{slot_of(ON_A)} :7"), None, [HALVES])
    assert addresses(sent)[:2] == [A, ("a", 7)]


def test_ask(route: ClusterRoute) -> None:
    """The very same command goes on behind ASKING, this once: the map stays."""
    sent, answer = walk(route.lookup(ON_A, 10), AskError(f"{slot_of(ON_A)} c:3"), [b"OK", None])
    assert addresses(sent) == [A, C]
    assert sent[1].commands == [("ASKING",), sent[0].commands[0]]
    assert type(answer) is Leased
    assert addresses(walk(route.lookup(ON_A, 10), None)[0]) == [A]


def test_script_is_not_known_where_it_was_sent_on_to(route: ClusterRoute) -> None:
    """A server that lacks the script gets its text, by the same way again."""
    ask = AskError(f"{slot_of(ON_A)} c:3")
    replies = [ask, [b"OK", NoScriptError("none")], ask, [b"OK", 1]]
    sent, answer = walk(route.fill(ON_A, b"t" * 16, b"value", 60), *replies)
    assert addresses(sent) == [A, C, A, C]
    assert names(sent)[3] == ["ASKING", "EVAL"]
    assert answer is True


def test_redirections_end(route: ClusterRoute) -> None:
    """A cluster that sends a command round and round gives an error, and a new map is asked for."""
    moved = [MovedError(f"{slot_of(ON_A)} {name}:9") for name in ("x", "y", "x", "y", "x", "y")]
    assert len(moved) == cluster.MOST_HOPS + 1
    sent, error = walk(route.lookup(ON_A, 10), *moved, [HALVES])
    assert isinstance(error, CacheUnavailable)
    assert names(sent)[-1] == ["CLUSTER"]


def test_divided_keys(route: ClusterRoute) -> None:
    """Keys of a slot that are on both sides of its move are sent one by one; each result counts once."""
    marks = [(f"{ON_A}{number}", "t" * 16) for number in range(3)]
    replies = [TryAgainError("later"), [0, AskError(f"{slot_of(ON_A)} c:3"), 1], [b"OK", 1]]
    sent, lost = walk(route.unguard(marks), *replies)
    assert addresses(sent) == [A, A, C]
    assert [len(each.commands) for each in sent] == [1, 3, 2]
    assert lost == 2


# --- many keys ---


def test_grouped_by_slot(route: ClusterRoute) -> None:
    """One command for each slot; those for one server are sent together, in bounded portions."""
    keys = [*(f"{ON_A}{number}" for number in range(3)), "{3}x", ON_B]
    sent, _ = walk(route.invalidate(keys), [1, 1], 1)
    assert addresses(sent) == [A, B]
    assert [command[3:] for each in sent for command in each.commands] == [tuple(keys[:3]), ("{3}x",), (ON_B,)]
    steps, replies, portions = route.invalidate([f"key{number}" for number in range(5000)]), None, []
    with suppress(StopIteration):
        while True:
            replies = [1] * len(steps.send(replies).commands)
            portions.append(len(replies))
    assert max(portions) == rounds.TOGETHER
    assert len(portions) == 4


@pytest.mark.parametrize("call", ["invalidate", "guard", "unguard"])
def test_failed_keys(route: ClusterRoute, call: str) -> None:
    """All servers are tried; the error has the keys that failed, and only those."""
    calls: dict[str, Callable[[], Steps]] = {
        "invalidate": lambda: route.invalidate([ON_A, ON_B]),
        "guard": lambda: route.guard([ON_A, ON_B], "t" * 16, 10),
        "unguard": lambda: route.unguard([(ON_A, "t" * 16), (ON_B, "t" * 16)]),
    }
    sent, error = walk(calls[call](), TimeoutError("slow"), 1, [HALVES])
    assert addresses(sent)[:2] == [A, B]
    assert error.keys == {ON_A}
    assert error.sent is True
    assert route.breaker(A).open
    assert not route.breaker(B).open
    sent, error = walk(calls[call](), 1)
    assert addresses(sent) == [B]
    assert error.keys == {ON_A}


def test_nothing_was_sent(route: ClusterRoute) -> None:
    """Where all servers are avoided the error says that nothing was sent; where one was asked, it does not."""
    for address in (A, B):
        route.breaker(address).failed("gone")
    route._next_refresh = float("inf")
    sent, error = walk(route.guard([ON_A, ON_B], "t" * 16, 10))
    assert (sent, error.sent, error.keys) == ([], False, {ON_A, ON_B})
    route.breaker(B).succeeded()
    _, error = walk(route.guard([ON_A, ON_B], "t" * 16, 10), 1)
    assert (error.sent, error.keys) == (True, {ON_A})


def test_second_batch_of_one_server() -> None:
    """A refusal to send what comes second does not hide that something has been sent."""
    route = OneServer(Protocol(), 1.0, "label")
    keys = [f"key{number}" for number in range(1500)]
    _, error = walk(route.guard(keys, "t" * 16, 10), 1, CacheUnavailable("no connection", sent=False))
    assert error.sent is True
    _, error = walk(route.guard(keys, "t" * 16, 10), CacheUnavailable("no connection", sent=False))
    assert error.sent is False


def test_no_token_is_made_for_nothing(route: ClusterRoute) -> None:
    """A lookup that its breaker refuses has no token; one that was sent and lost is remembered."""
    route.breaker(A).failed("gone")
    route._next_refresh = float("inf")
    for _ in range(5):
        assert isinstance(walk(route.lookup(ON_A, 10))[1], CacheUnavailable)
    assert len(route.protocol._lost) == 0
    walk(route.lookup(ON_B, 10), TimeoutError("slow"))
    assert len(route.protocol._lost) == 1


def test_cancelled_lookup_is_remembered(route: ClusterRoute) -> None:
    """A caller that goes away in the middle leaves word of the token it may have planted."""
    steps = route.lookup(ON_A, 10)
    next(steps)
    steps.close()
    assert len(route.protocol._lost) == 1


# --- when the map is asked for ---


@pytest.mark.parametrize("reply", [TimeoutError("slow"), ClusterDownError("down"), ReadOnlyError("replica")], ids=str)
def test_signs(route: ClusterRoute, reply: Exception) -> None:
    """No answer, and answers that a server gives which has lost its slots, make the caller ask for a new map."""
    sent, error = walk(route.release(ON_A, b"t" * 16), reply, [HALVES])
    assert names(sent)[1] == ["CLUSTER"]
    assert isinstance(error, CacheUnavailable)


def test_open_breaker_is_a_sign(route: ClusterRoute, clock: FakeClock) -> None:
    """While a server is avoided the map is asked for again and again, until its keys are elsewhere."""
    route.breaker(A).failed("gone")
    sent, error = walk(route.lookup(ON_A, 10), [HALVES])
    assert names(sent) == [["CLUSTER"]]
    assert addresses(sent) == [B]
    assert "gone" in str(error)
    assert names(walk(route.lookup(ON_A, 10))[0]) == []
    clock.advance(cluster.REFRESH_EVERY)
    walk(route.lookup(ON_A, 10), [[[0, 16383, [b"b", 2, b"id"]]]])
    assert addresses(walk(route.lookup(ON_A, 10), None)[0]) == [B]


def test_a_usual_error_is_no_sign(route: ClusterRoute) -> None:
    """An error that says nothing of slots is the caller's."""
    sent, error = walk(route.release(ON_A, b"t" * 16), ResponseError("ERR no"))
    assert len(sent) == 1
    assert "ERR no" in str(error)
    assert not route.breaker(A).open


def test_closed_connection_is_tried_again(route: ClusterRoute) -> None:
    """A pooled connection that was closed costs a second try, with a token of its own, and opens no breaker."""
    sent, answer = walk(route.lookup(ON_A, 10), ConnectionError("closed"), None, [HALVES])
    assert addresses(sent)[:2] == [A, A]
    assert sent[0].commands != sent[1].commands
    assert type(answer) is Leased
    assert not route.breaker(A).open


def test_one_asks_for_the_map() -> None:
    """While one caller asks for the first map, others do not wait for it: any server sends their commands on."""
    route = ClusterRoute(Protocol(), 1.0, "label", [A, B], FakeClock())
    first = route.lookup(ON_A, 10)
    assert next(first).commands == (SLOTS,)
    sent, answer = walk(route.lookup(ON_B, 10), MovedError(f"{slot_of(ON_B)} b:2"), None)
    assert names(sent) == [["SET"], ["SET"]]
    assert type(answer) is Leased
    first.close()


def test_seeds_that_are_gone() -> None:
    """Servers in the URL that do not answer are passed over; none at all is an outage."""
    route = ClusterRoute(Protocol(), 1.0, "label", [C, ("d", 4)], FakeClock())
    gone = ConnectionError("refused")
    sent, answer = walk(route.lookup(ON_A, 10), gone, gone, [HALVES], None)
    assert names(sent) == [["CLUSTER"], ["CLUSTER"], ["CLUSTER"], ["SET"]]
    assert type(answer) is Leased
    route = ClusterRoute(Protocol(), 1.0, "label", [A], FakeClock())
    _, error = walk(route.lookup(ON_A, 10), gone, gone)
    assert "refused" in str(error)


def test_asking_for_the_map_is_bounded(clock: FakeClock) -> None:
    """A caller that has waited for a time-out leaves the other servers to the next caller."""
    route = ClusterRoute(Protocol(), 1.0, "label", [(f"s{number}", 1) for number in range(9)], clock)
    steps = route._refresh()
    next(steps)
    clock.advance(1.5)
    with pytest.raises(StopIteration):
        steps.send([TimeoutError("slow")])


def test_no_cluster() -> None:
    """A server that is none is a mistake in the URL, and said so: each would be an island."""
    route = ClusterRoute(Protocol(), 1.0, "label", [A], FakeClock())
    steps = route.lookup(ON_A, 10)
    next(steps)
    with pytest.raises(ConfigurationError, match="redis://"):
        steps.send([ResponseError("ERR This instance has cluster support disabled")])


def test_clear_looks_twice(route: ClusterRoute) -> None:
    """A clear goes over all masters twice, since keys may move meanwhile from one to the other."""
    key = ON_B.encode()
    replies = [[HALVES], [[b"0", [key]]], 1, [[b"0", []]], [[b"0", []]], [[b"0", []]]]
    sent, _ = walk(route.clear("{"), *replies)
    assert [name for each in names(sent) for name in each] == ["CLUSTER", "SCAN", "EVALSHA", "SCAN", "SCAN", "SCAN"]
    assert addresses(sent)[1:] == [A, B, B, A, B]
    sent, error = walk(route.clear(None), [HALVES], TimeoutError("slow"), b"OK", b"OK")
    assert addresses(sent)[1:] == [A, B, B]
    assert (error.keys, "slow" in str(error)) == (None, True)
