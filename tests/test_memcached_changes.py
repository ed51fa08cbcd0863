"""The parts of guards and breakers on memcached that do no I/O: the marker, the rounds, what is known of a server."""

from __future__ import annotations

import pytest
from memcached_tools import ME, THIRD, YOU

from cacheside.backends.memcached import known as known_module
from cacheside.backends.memcached import wire
from cacheside.backends.memcached.changes import Change, Failures, Guarding, Invalidation, Release, carry_out
from cacheside.backends.memcached.known import Known
from cacheside.backends.memcached.marker import Marker, decode
from cacheside.backends.memcached.replies import GarbledReply, Inbox, Reply
from cacheside.errors import CacheUnavailable, ConfigurationError

# --- the marker ---


def test_marker_there_and_back() -> None:
    """What is put in comes out, with as many seconds as have not passed on the server."""
    marker = Marker(True, {ME.encode(): 31, YOU.encode(): 7})
    value, ttl = marker.encode()
    assert ttl == 31
    assert decode(value, 31) == marker
    assert decode(value, 26) == Marker(True, {ME.encode(): 26, YOU.encode(): 2})


def test_marks_end() -> None:
    """A mark is gone at its deadline, whatever the others have left; a rewrite does not shift the others' deadlines."""
    value, _ = Marker(False, {ME.encode(): 31, YOU.encode(): 7}).encode()
    assert decode(value, 25) == Marker(False, {ME.encode(): 25, YOU.encode(): 1})
    assert decode(value, 24) == Marker(False, {ME.encode(): 24})
    later = decode(value, 26)
    assert later is not None
    value, ttl = Marker(False, {**later.marks, THIRD.encode(): 60}).encode()
    assert ttl == 60
    assert decode(value, 60) == Marker(False, {ME.encode(): 26, YOU.encode(): 2, THIRD.encode(): 60})


@pytest.mark.parametrize(
    ("value", "ttl"),
    [
        (b"", 9),
        (b"1", 9),
        (b"2" + ME.encode() + b"0000000", 9),
        (b"1" + ME.encode() + b"000000", 9),
        (b"1" + ME.encode() + b"-000001", 9),
        (b"1" + ME.encode() + b"0000000", -1),
    ],
)
def test_no_marker(value: bytes, ttl: int) -> None:
    """What is not written as a marker is none, and neither is what never ends."""
    assert decode(value, ttl) is None


def test_marker_whose_marks_are_over() -> None:
    """A marker in the second in which it ends is dropped like any other item, not written anew without an end."""
    operation = carry_out([Invalidation("k")])
    look = operation.send(None)
    looked = answer(look, [Reply(b"HD c7 f199 t0", b"")])
    again = operation.send(looked)
    value, _ = Marker(True, {ME.encode(): 5}).encode()
    act = operation.send(answer(again, [Reply(b"VA 24 c7 f199 t0", value)]))
    assert isinstance(act, wire.Command)
    assert act.data == b"md k C7\r\n"


# --- rounds ---


def answer(command: object, replies: list[Reply]) -> object:
    """What the server's replies make of a command."""
    assert isinstance(command, wire.Command)
    assert command.replies == len(replies)
    return command.decide(replies, 5, "server:1")


def test_values_are_not_read() -> None:
    """An invalidation asks for no value but that of a guard; a release, which will find one, does so at once."""
    assert carry_out([Invalidation("a"), Invalidation("b")]).send(None).data == b"mg a c f t\r\nmg b c f t\r\n"
    assert carry_out([Guarding("a", ME, 60)]).send(None).data == b"mg a c f t\r\n"
    assert carry_out([Release("a", ME)]).send(None).data == b"mg a v c f t\r\n"


def test_touched_guard_is_left_alone() -> None:
    """The second invalidation of a guard need not write."""
    operation = carry_out([Invalidation("a")])
    again = operation.send(answer(operation.send(None), [Reply(b"HD c7 f199 t9", b"")]))
    value, _ = Marker(False, {ME.encode(): 9}).encode()
    with pytest.raises(StopIteration):
        operation.send(answer(again, [Reply(b"VA 24 c7 f199 t9", value)]))


def test_refused_key_does_not_stop_the_others() -> None:
    """Of many keys one is refused: all others are done, in all batches, and the error has its key alone."""
    changes: list[Change] = [Guarding(key, ME, 60) for key in ("a", "b", "c")]
    operation = carry_out(changes)
    act = operation.send(
        answer(operation.send(None), [Reply(b"EN", b""), Reply(b"HD c4 f197 t9", b""), Reply(b"EN", b"")])
    )
    assert act.data.count(b"\r\n") == 6
    oom = Reply(b"SERVER_ERROR out of memory storing object", b"")
    again = operation.send(answer(act, [Reply(b"HD c5", b""), oom, Reply(b"NS c0", b"")]))
    assert again.data == b"mg c c f t\r\n"
    act = operation.send(answer(again, [Reply(b"EN", b"")]))
    failures = Failures()
    with pytest.raises(CacheUnavailable, match="server:1 answered 'SERVER_ERROR out of memory") as raised:
        operation.send(answer(act, [Reply(b"HD c6", b"")]))
    failures.add(raised.value)
    with pytest.raises(CacheUnavailable) as summed:
        failures.check(changes)
    assert (summed.value.keys, summed.value.sent) == ({"b"}, True)


def test_connection_rule_covers_every_change() -> None:
    """What acts on a CAS may only go over a connection opened before the look was sent; a mark is never sent twice."""
    for change, again in ((Invalidation("a"), True), (Guarding("a", ME, 60), False), (Release("a", ME), True)):
        operation = carry_out([change])
        act = operation.send(answer(operation.send(None), [Reply(b"HD c4 f197 t9", b"")]))
        assert (act.before, act.again) == (5, again)
        assert operation.send(None).data.startswith(b"mg a ")  # not sent: looks again


@pytest.mark.parametrize(
    ("untouched", "tokens", "alone"),
    [(True, [ME], True), (False, [ME], False), (True, [YOU], False), (False, [ME, YOU], False)],
)
def test_guard_of_a_guard(untouched: bool, tokens: list[str], alone: bool) -> None:
    """Only who finds its own mark, alone and untouched (the command came twice), may still update."""
    change = Guarding("a", ME, 60)
    operation = carry_out([change])
    value, _ = Marker(untouched, {token.encode(): 9 for token in tokens}).encode()
    again = operation.send(answer(operation.send(None), [Reply(b"HD c7 f199 t9", b"")]))
    act = operation.send(answer(again, [Reply(b"VA 24 c7 f199 t9", value)]))
    assert act.data.startswith(b"ms a %d C7 " % (1 + 23 * len({*tokens, ME})))
    assert act.data.partition(b"\r\n")[2].startswith(b"1" if alone else b"0")
    answer(act, [Reply(b"HD c8", b"")])
    assert change.done
    assert change.proof == (wire.Cas(8, 5, b"a") if alone else None)


def test_failures() -> None:
    """A mistake of configuration goes before an outage; nothing was sent if no key got so far."""
    failures, change = Failures(), Invalidation("a")
    failures.check([change])
    failures.add(CacheUnavailable("down"))
    with pytest.raises(CacheUnavailable, match="down") as raised:
        failures.check([change])
    assert (raised.value.keys, raised.value.sent) == ({"a"}, False)
    failures.add(ConfigurationError("wrong"))
    failures.add(CacheUnavailable("down as well"))
    with pytest.raises(ConfigurationError, match="wrong"):
        failures.check([change])


# --- what is known of a server ---


def test_settings() -> None:
    """The limit is one line of many; a server that does not tell has none."""
    inbox = Inbox(1)
    assert not inbox.feed(b"STAT maxbytes 67108864\r\nSTAT item_size_max 10485")
    assert inbox.feed(b"76\r\nSTAT x y\r\nEND\r\n")
    assert wire.limit().decide(inbox.replies, 1, "s") == 1_048_576
    for line in (b"ERROR", b"END", b"CLIENT_ERROR no"):
        assert wire.limit().decide([Reply(line, b"STAT other 7\n")], 1, "s") == wire.UNLIMITED


def test_few_leases_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory for others' leases is bounded: the oldest goes first, and one seen again is young."""
    monkeypatch.setattr(known_module, "WATCHED", 2)
    known = Known("s:1", 0.1)

    def overdue(key: bytes, cas: int) -> bool:
        return known.overdue(wire.Cas(cas, 1, key), -1)  # so that every lease that is remembered is overdue

    assert [overdue(key, 1) for key in (b"a", b"b")] == [False, False]
    assert not overdue(b"a", 2)  # another lease
    assert not overdue(b"c", 1)  # b goes
    assert [overdue(b"a", 2), overdue(b"c", 1), overdue(b"b", 1)] == [True, True, False]


@pytest.mark.parametrize(
    ("error", "pooled", "again", "opens"),
    [
        (TimeoutError("timed out"), True, True, True),
        (TimeoutError("timed out"), False, False, True),
        (ConnectionResetError("reset"), False, True, True),
        (ConnectionResetError("reset"), True, False, False),
        (GarbledReply("rubbish"), True, True, True),
    ],
)
def test_what_opens_the_breaker(error: OSError, pooled: bool, again: bool, opens: bool) -> None:
    """No answer, no connection, no memcached; but not an old connection that was closed, or a refusal."""
    known = Known("s:1", 0.1)
    with pytest.raises(CacheUnavailable, match="s:1 failed"):
        known.ended(error, pooled=pooled, again=again)
    assert known.breaker.open is opens


def test_what_does_not_open_the_breaker() -> None:
    """An error reply is an answer; who was cancelled knows nothing; a closed connection is tried again first."""
    known = Known("s:1", 0.1)
    known.limit = 7
    assert known.ended(CacheUnavailable("SERVER_ERROR"), pooled=True, again=True) is False
    assert known.ended(KeyboardInterrupt(), pooled=True, again=True) is False
    assert known.limit == 7
    assert known.ended(BrokenPipeError(), pooled=True, again=True) is True
    assert known.limit == 0
    assert known.breaker.open is False
    known.unreachable(ConnectionRefusedError())
    assert known.breaker.open is True
    assert known.ended(KeyboardInterrupt(), pooled=True, again=True) is False
    assert known.breaker.open is True
    assert known.ended(CacheUnavailable("SERVER_ERROR"), pooled=True, again=True) is False
    assert known.breaker.open is False
