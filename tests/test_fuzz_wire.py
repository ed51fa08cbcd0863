"""What reads a server's answers: given any bytes it says what they are, or `CacheUnavailable`; it never hangs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from adapter import COLOURS, Adapter
from fuzz_servers import Babbler
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from long import scaled
from redis.exceptions import RedisError, ResponseError
from redis_tools import play
from servers import HOST

from cacheside.backends import create
from cacheside.backends.base import Busy, Fill, Guarded, Hit, Leased, Stale
from cacheside.backends.memcached import changes
from cacheside.backends.memcached.claims import Claim
from cacheside.backends.memcached.replies import GarbledReply, Inbox
from cacheside.backends.memcached.wire import Cas
from cacheside.backends.redis.wire import Protocol
from cacheside.errors import CacheUnavailable, ConfigurationError

pytestmark = [pytest.mark.proof, pytest.mark.timeout(scaled(120, 7200))]
many = settings(deadline=None, max_examples=scaled(150, 10_000))
few = settings(
    deadline=None, max_examples=scaled(40, 1_500), suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TOKEN = "0123456789abcdef"

META = [
    b"VA 5 c7 f197 t60\r\nhello\r\n", b"VA 0 W c7 f0 t10\r\n\r\n", b"VA 0 Z c7 f0 t10\r\n\r\n",
    b"VA 0 c7 f198 t10\r\n\r\n", b"VA 24 c7 f199 t10\r\n1" + TOKEN.encode() + b"0000000\r\n",
    b"VA 2 X c7 f197 t-1\r\nab\r\n", b"HD c7 f197 t60\r\n", b"HD c8\r\n", b"EN\r\n", b"NF\r\n", b"NS\r\n", b"EX\r\n",
    b"OK\r\n", b"ERROR\r\n", b"SERVER_ERROR out of memory\r\n", b"CLIENT_ERROR bad\r\n",
    b"STAT item_size_max 1048576\r\n", b"END\r\n", b"\r\n", b" \r\n", b"VA\r\n", b"VA \r\n", b"VA 0\r\n\r\n",
    b"VA -1 c7\r\n", b"VA 99999999999999999999 c7 f0 t1\r\n", b"VA 5 c f t\r\nhello\r\n",
    b"HD c" + b"9" * 1900 + b"\r\n",
]  # fmt: skip
RESP = [
    b"$-1\r\n", b"$17\r\nL" + TOKEN.encode() + b"\r\n", b"$43\r\nV" + b"0" * 42 + b"\r\n",
    b"$72\r\nW" + b"0" * 71 + b"\r\n", b"$3\r\nabc\r\n", b"$0\r\n\r\n", b":1\r\n", b":0\r\n", b":-5\r\n", b"+OK\r\n",
    b"*0\r\n", b"*2\r\n$1\r\n0\r\n*1\r\n$1\r\na\r\n", b"*1\r\n:1\r\n", b"*-1\r\n", b"-ERR syntax error\r\n",
    b"-NOSCRIPT No matching script\r\n", b"-WRONGTYPE Operation\r\n", b"-OOM command not allowed\r\n",
    b"-READONLY You can't write\r\n", b"-LOADING\r\n", b"-\r\n", b"$\r\n", b"$4294967295\r\nab", b":\r\n",
    b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"%1\r\n+a\r\n+b\r\n", b"_\r\n", b"#t\r\n",
]  # fmt: skip


def answers(known: list[bytes]) -> st.SearchStrategy[bytes]:
    """Bytes that a server may send: real answers, several of them, parts of them, changed, and none."""
    one = st.sampled_from(known) | st.binary(max_size=30)
    changed = st.tuples(one, st.integers(0, 40), st.binary(max_size=3)).map(
        lambda t: t[0][: t[1]] + t[2] + t[0][t[1] :]
    )
    return st.lists(one | changed, min_size=1, max_size=4).map(b"".join)


@pytest.fixture(scope="module")
def babbler() -> Iterator[Babbler]:
    """A server that says what it is told to."""
    with Babbler() as server:
        yield server


VERBS: dict[str, dict[str, tuple[Any, ...]]] = {
    "memcached": {
        "lookup": ("k", 10),
        "replace": ("k", Cas(7, 10**9, b"k"), 10),
        "fill": ("k", Cas(7, 10**9, b"k"), b"value", 60),
        "release": ("k", Cas(7, 10**9, b"k")),
        "invalidate": (["k", "l"],),
        "guard": (["k", "l"], TOKEN, 10),
        "unguard": ([("k", TOKEN)],),
        "update": ("k", TOKEN, Cas(7, 10**9, b"k"), b"value", 60),
        "clear": (None,),
        "claim": ("k", Cas(7, 10**9, b"k"), 10),
        "mark_stale": (["k", "l"], 10),
        "lookup_many": (["k", "l"], 10, ["t"]),
        "fill_many": ([Fill("k", Cas(7, 10**9, b"k"), b"value", 60), Fill("l", Cas(8, 10**9, b"l"), b"v", 60)], ["t"]),
        "release_many": ([("k", Cas(7, 10**9, b"k")), ("l", Claim(Cas(8, 10**9, b"l"), Cas(9, 10**9, b"side")))],),
        "replace_many": ([("k", Cas(7, 10**9, b"k")), ("l", Cas(8, 10**9, b"l"))], 10),
        "claim_many": ([("k", Cas(7, 10**9, b"k")), ("l", Cas(8, 10**9, b"l"))], 10),
        "plant": (["t", "u"],),
    },
    "redis": {
        "lookup": ("k", 10),
        "replace": ("k", b"V" + b"0" * 42, 10),
        "fill": ("k", TOKEN.encode(), b"value", 60),
        "release": ("k", TOKEN.encode()),
        "invalidate": (["k", "l"],),
        "guard": (["k", "l"], TOKEN, 10),
        "unguard": ([("k", TOKEN)],),
        "update": ("k", TOKEN, None, b"value", 60),
        "clear": ("k:",),
        "claim": ("k", b"V" + b"0" * 42, 10),
        "mark_stale": (["k", "l"], 10),
        "plant": ("k",),
    },
}
BATCHES: dict[str, dict[str, tuple[Any, ...]]] = {
    "memcached": {},
    "redis": {
        "lookup_many": (["k", "l"], 10, ["t"]),
        "fill_many": ([("k", TOKEN.encode(), b"value", 60)], ["t"]),
        "release_many": ([("k", TOKEN.encode())],),
        "replace_many": ([("k", b"V" + b"0" * 42), ("l", b"V" + b"1" * 42)], 10),
        "claim_many": ([("k", b"V" + b"0" * 42), ("l", b"V" + b"1" * 42)], 10),
    },
}


@pytest.mark.parametrize("colour", COLOURS)
@pytest.mark.parametrize(("scheme", "known"), [("memcached", META), ("redis", RESP)], ids=["memcached", "redis"])
def test_any_answer(
    babbler: Babbler, monkeypatch: pytest.MonkeyPatch, scheme: str, known: list[bytes], colour: str
) -> None:
    """Whatever the server says to whatever verb: a result of its kind, `CacheUnavailable`, or how to mend it."""
    monkeypatch.setattr(changes, "ROUNDS", 3)  # a hundred cost seconds where each needs a new connection

    verbs = VERBS[scheme] | BATCHES[scheme]

    def check(verb: str, answer: bytes) -> None:
        babbler.answer = answer
        adapter = Adapter(create(f"{scheme}://{HOST}:{babbler.port}", timeout=5.0, clock=lambda: 0.0), colour)
        try:
            got = getattr(adapter, verb)(*verbs[verb])
        except (CacheUnavailable, ConfigurationError):
            got = None
        finally:
            adapter.end()
        if got is not None:
            kinds: dict[str, Any] = {
                "lookup": (Hit, Stale, Leased, Busy, Guarded),
                "replace": (Leased, Busy),
                "claim": (Leased, Busy),
                "lookup_many": tuple,
                "fill_many": tuple,
                "release_many": list,
                "replace_many": list,
                "claim_many": list,
                "plant": list,
                "guard": (list, tuple),
                "unguard": int,
            }
            assert isinstance(got, kinds.get(verb, bool))
        if isinstance(got, (Hit, Stale)):
            assert type(got.stored) is bytes

    for verb in verbs:
        for answer in known:
            check(verb, answer)
    few(given(verb=st.sampled_from(sorted(verbs)), answer=answers(known))(check))()


@many
@given(sent=answers(META), cuts=st.lists(st.integers(1, 9)), count=st.integers(1, 3))
@example(sent=b"VA 5\r\nhello\r\n" * 2, cuts=[1] * 28, count=2)
def test_inbox(sent: bytes, cuts: list[int], count: int) -> None:
    """However an answer is cut into pieces, it is the same answer, or garbled, or not over; its end is always seen."""
    outcomes = []
    for pieces in (cuts, [len(sent)]):
        inbox, at, done = Inbox(count), 0, False
        try:
            for size in [*pieces, len(sent)]:
                piece = sent[at : at + size]
                at += size
                if not piece or done:
                    break
                done = inbox.feed(piece)
            outcomes.append((done, inbox.replies))
            if not done:
                with pytest.raises(ConnectionResetError):
                    inbox.feed(b"")
        except GarbledReply:
            outcomes.append((None, []))
    # Read in pieces, what comes behind a complete answer is seen by the next command, if at all.
    assert outcomes[0] == outcomes[1] or None in (outcomes[0][0], outcomes[1][0])


HEADS = [b"", b"L", b"V", b"W", b"S", b"W" + b"0" * 16, b"V" + b"0" * 42, b"L" + b"x" * 16]


@many
@given(head=st.sampled_from(HEADS), tail=st.binary(max_size=90))
@example(head=b"W" + b"0" * 42, tail=b"")
@example(head=b"W" + b"0" * 71, tail=b"")
@example(head=b"L" + b"\xff" * 16, tail=b"")
def test_headers_of_redis(head: bytes, tail: bytes) -> None:
    """A string of a stranger is a hit with bytes for the envelope to judge; or it looks like a lease, or a guard."""
    stored = head + tail
    _, answer = play(Protocol().lookup("k", 10), stored)
    assert isinstance(answer, Stale) == (head[:1] == b"S" and len(stored) >= 43)
    if isinstance(answer, (Hit, Stale)):
        assert stored.endswith(answer.stored)
        assert stored.startswith(answer.seen)
        assert type(answer.stored) is bytes
    elif isinstance(answer, Busy):
        assert len(stored) == 17
        assert stored[:1] == b"L"
    else:
        assert isinstance(answer, Guarded)
        assert stored.startswith(b"W" + b"0" * 16)


OPERATIONS: dict[str, tuple[Any, ...]] = {**VERBS["redis"], "find": ("k",), "version": ("k",)}
REPLIES: list[Any] = [
    None, 0, 1, -1, b"", b"OK", b"L" + b"x" * 16, [], [b"0", []], [b"x", 1], [None], [b"0", [None]], True, {b"a": 1},
    ResponseError("ERR"), RedisError("gone"), OSError("gone"), TimeoutError("late"),
]  # fmt: skip


@pytest.mark.parametrize("reply", REPLIES, ids=repr)
@pytest.mark.parametrize("verb", sorted(OPERATIONS))
def test_any_type_of_reply(verb: str, reply: Any) -> None:
    """A reply of a type that the command cannot have is `CacheUnavailable`, or means nothing; it is no other error."""
    arguments = [argument for argument in OPERATIONS[verb] if argument is not None]
    operation = getattr(Protocol(), verb)(*arguments)
    next(operation)
    with contextlib.suppress(CacheUnavailable, StopIteration):
        for _ in range(8):  # it may go on asking: SCAN does
            operation.send(reply)
