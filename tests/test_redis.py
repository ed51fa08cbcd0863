"""The lease protocol of the Redis backend: by hand, and in both colours against a real server."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator

import pytest
from adapter import COLOURS, Adapter
from redis.exceptions import (
    ConnectionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
)
from redis_tools import Open, Proxy, ask_again, opener, play, say
from servers import HOST, RedisServer, free_port

from cacheside.backends.base import Busy, Hit, Leased
from cacheside.backends.redis import wire
from cacheside.backends.redis.wire import Protocol
from cacheside.errors import CacheUnavailable

NewRedis = Callable[..., RedisServer]


@pytest.fixture(params=COLOURS)
def open_backend(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Make an adapter of either colour: `open_backend(server, native=True, timeout=5.0)`."""
    with opener(request.param) as make:
        yield make


@pytest.fixture(params=[True, False], ids=["native", "script"])
def cache(request: pytest.FixtureRequest, open_backend: Open, redis_server: RedisServer) -> Adapter:
    """A backend on the session's server, that leases by Redis 7's own command, or as on Redis 6.2."""
    return open_backend(redis_server, native=request.param)


# --- tokens: driven by hand ---


def test_own_token_comes_back() -> None:
    """A server that answers a lookup with the caller's own token has given it the lease."""
    operation = Protocol().lookup("k", 10)
    command = next(operation)
    with pytest.raises(StopIteration) as end:
        operation.send(command[2])
    assert command[2] == b"L" + end.value.value.token


@pytest.mark.parametrize("native", [True, False])
def test_each_attempt_has_a_fresh_token(native: bool) -> None:
    """A lookup that is tried again plants another token, and then holds the lease by that."""
    commands, answer = play(Protocol(native).lookup("k", 10), ConnectionError("closed"), None)
    first, second = (command[2 if native else 4] for command in commands)
    assert first != second
    assert second == b"L" + answer.token


@pytest.mark.parametrize("error", [TimeoutError("slow"), OSError("odd"), ResponseError("ERR no"), RedisError("odd")])
def test_lookup_is_tried_again_on_closed_connections_only(error: Exception) -> None:
    """A time-out, or a refusal, is not tried again."""
    with pytest.raises(CacheUnavailable, match=str(error)) as raised:
        play(Protocol().lookup("k", 10), error)
    assert raised.value.__cause__ is error


def test_lookup_is_tried_twice() -> None:
    """A server that is down is not asked a third time."""
    with pytest.raises(CacheUnavailable, match="gone"):
        play(Protocol().lookup("k", 10), ConnectionError("closed"), ConnectionError("gone"))


def test_replace_is_not_tried_again() -> None:
    """The other command that plants a token is sent once: whether it arrived is not known."""
    with pytest.raises(CacheUnavailable, match="closed"):
        play(Protocol().replace("k", b"seen", 10), ConnectionError("closed"))


@pytest.mark.parametrize(
    ("verb", "args", "reply"),
    [
        ("fill", (b"t" * 16, b"value", 60), 1),
        ("release", (b"t" * 16,), 1),
        ("invalidate", (), 1),
        ("clear", (), [b"0", []]),
    ],
)
def test_idempotent_commands_are_tried_twice(verb: str, args: tuple[object, ...], reply: object) -> None:
    """What may arrive twice is sent once more over a closed connection, and never after a time-out."""
    key: object = ["k"] if verb == "invalidate" else "k"
    commands, _ = play(getattr(Protocol(), verb)(key, *args), ConnectionError("closed"), reply)
    assert commands[0] == commands[1]
    for errors in ([TimeoutError("slow")], [ConnectionError("closed"), ConnectionError("closed")]):
        with pytest.raises(CacheUnavailable):
            play(getattr(Protocol(), verb)(key, *args), *errors)


def test_fallback_without_native_command() -> None:
    """A server that takes no NX with GET (6.2) is found out by its answer; from then on the script is used."""
    protocol = Protocol()
    commands, answer = play(protocol.lookup("k", 10), ResponseError("syntax error"), NoScriptError("none"), None)
    assert [command[0] for command in commands] == ["SET", "EVALSHA", "EVAL"]
    assert all(b"L" + answer.token in command for command in commands)
    commands, _ = play(protocol.lookup("k", 10), None)
    assert [command[0] for command in commands] == ["EVALSHA"]


# --- orphans: leases whose owner never heard of them ---


def _lose(protocol: Protocol) -> bytes:
    """A token that was sent, and not answered."""
    operation = protocol.lookup("k", 10)
    token: bytes = next(operation)[2]
    with pytest.raises(CacheUnavailable):
        operation.send(TimeoutError("slow"))
    return token


def test_one_taker() -> None:
    """An orphan is taken over by one lookup of the process that lost it, and by no other process."""
    protocol = Protocol()
    orphan = _lose(protocol)
    assert play(Protocol().lookup("k", 10), orphan)[1] == Busy()
    assert play(protocol.lookup("k", 10), orphan)[1] == Leased(orphan[1:])
    assert play(protocol.lookup("k", 10), orphan)[1] == Busy()


def test_orphan_stays_with_the_parent() -> None:
    """A fork does not give the child its parent's orphans: two processes would take the same lease."""
    protocol = Protocol()
    orphan = _lose(protocol)
    protocol.after_fork()  # as in a child; tests/test_fork.py shows that children call it
    assert play(protocol.lookup("k", 10), orphan)[1] == Busy()


@pytest.mark.parametrize("verb", ["lookup", "replace"])
def test_cancelled_command_leaves_an_orphan(verb: str) -> None:
    """A command that its caller could not wait for may have arrived."""
    protocol = Protocol()
    args = ("k", 10) if verb == "lookup" else ("k", b"seen", 10)
    operation = getattr(protocol, verb)(*args)
    orphan = next(part for part in next(operation) if type(part) is bytes and part[:1] == b"L")
    with pytest.raises(KeyboardInterrupt):
        operation.throw(KeyboardInterrupt)
    assert play(protocol.lookup("k", 10), orphan)[1] == Leased(orphan[1:])


@pytest.mark.parametrize("end", ["cancelled", "no answer"])
@pytest.mark.parametrize(("verb", "args"), [("fill", (b"value", 60)), ("release", ())])
def test_lease_without_an_answer_to_its_end(verb: str, args: tuple[object, ...], end: str) -> None:
    """When a fill or a release may be lost its load is over: should the lease still stand, the next lookup takes it."""
    protocol = Protocol()
    operation = getattr(protocol, verb)("k", b"t" * 16, *args)
    next(operation)
    if end == "cancelled":
        with pytest.raises(KeyboardInterrupt):
            operation.throw(KeyboardInterrupt)
    else:
        with pytest.raises(CacheUnavailable):
            operation.send(TimeoutError("slow"))
    assert play(Protocol().lookup("k", 10), b"L" + b"t" * 16)[1] == Busy()
    assert play(protocol.lookup("k", 10), b"L" + b"t" * 16)[1] == Leased(b"t" * 16)
    assert play(protocol.lookup("k", 10), b"L" + b"t" * 16)[1] == Busy()


def test_orphans_are_bounded() -> None:
    """An outage does not fill the memory with tokens; the latest are the ones that are remembered."""
    protocol = Protocol()
    orphans = [_lose(protocol) for _ in range(wire._MOST_LOST + 500)]
    assert play(protocol.lookup("k", 10), orphans[0])[1] == Busy()
    assert play(protocol.lookup("k", 10), orphans[-1])[1] == Leased(orphans[-1][1:])
    assert len(protocol._lost) <= wire._MOST_LOST


def test_lost_reply(open_backend: Open, redis_server: RedisServer, namespace: str) -> None:
    """When only the reply to a lookup is lost, the second attempt takes over what the first has planted."""
    with Proxy(redis_server) as proxy:
        cache = open_backend(proxy)
        proxy.lose = 1
        lease = cache.lookup(namespace, 600)
        assert len(proxy.commands) == 2
        assert say(redis_server, "GET", namespace) == b"L" + lease.token
        assert cache.lookup(namespace, 600) == Busy()
        assert cache.fill(namespace, lease.token, b"value", 60) is True


def test_orphan_is_taken_over(open_backend: Open, redis_server: RedisServer, namespace: str) -> None:
    """A lease whose owner got no answer at all is this process's next lookup's, at once; other processes wait."""
    with Proxy(redis_server) as proxy:
        cache, other = open_backend(proxy), open_backend(redis_server)
        proxy.lose = 2
        with pytest.raises(CacheUnavailable):
            cache.lookup(namespace, 600)
        ask_again(cache.backend)
        assert other.lookup(namespace, 600) == Busy()
        lease = cache.lookup(namespace, 600)
        assert type(lease) is Leased
        assert cache.lookup(namespace, 600) == Busy()
        assert cache.fill(namespace, lease.token, b"value", 60) is True


def test_invalidated_orphan(open_backend: Open, redis_server: RedisServer, namespace: str) -> None:
    """An orphan dies by an invalidation like any lease: before it is taken over, and after."""
    with Proxy(redis_server) as proxy:
        cache, other = open_backend(proxy), open_backend(redis_server)
        proxy.lose = 2
        with pytest.raises(CacheUnavailable):
            cache.lookup(namespace, 600)
        ask_again(cache.backend)
        orphan = say(redis_server, "GET", namespace)[1:]
        other.invalidate([namespace])
        new = other.lookup(namespace, 600)
        assert cache.lookup(namespace, 600) == Busy()
        assert cache.fill(namespace, orphan, b"old", 60) is False
        assert other.release(namespace, new.token) is True
        proxy.lose = 1
        taken = cache.lookup(namespace, 600)
        other.invalidate([namespace])
        assert cache.fill(namespace, taken.token, b"old", 60) is False


# --- the life of a lease, on a server ---


def test_forgotten_scripts(cache: Adapter, redis_server: RedisServer, namespace: str) -> None:
    """Whenever the server forgets its scripts, they are sent again."""

    def forget() -> None:
        assert say(redis_server, "SCRIPT", "FLUSH") == b"OK"

    forget()
    lease = cache.lookup(namespace, 10)
    forget()
    assert cache.release(namespace, lease.token) is True
    forget()
    lease = cache.lookup(namespace, 10)
    forget()
    assert cache.fill(namespace, lease.token, b"one", 60) is True
    forget()
    seen = cache.lookup(namespace, 10).seen
    forget()
    lease = cache.replace(namespace, seen, 10)
    forget()
    assert cache.fill(namespace, lease.token, b"two", 60) is True
    forget()
    assert cache.lookup(namespace, 10).stored == b"two"


def test_lease_is_lost(cache: Adapter, redis_server: RedisServer, namespace: str) -> None:
    """A fill is refused when the lease was evicted, and when another got the key meanwhile."""
    evicted = cache.lookup(namespace, 10)
    assert say(redis_server, "DEL", namespace) == 1  # what an eviction does
    assert cache.fill(namespace, evicted.token, b"old", 60) is False
    other = cache.lookup(namespace, 10)
    assert cache.fill(namespace, evicted.token, b"old", 60) is False
    assert cache.release(namespace, evicted.token) is False
    assert cache.fill(namespace, other.token, b"new", 60) is True
    assert cache.fill(namespace, evicted.token, b"old", 60) is False
    assert cache.lookup(namespace, 10).stored == b"new"


def test_fill_may_arrive_twice(cache: Adapter, namespace: str) -> None:
    """A fill that is sent again finds its own value, and is accepted again; not after an invalidation between."""
    lease = cache.lookup(namespace, 10)
    assert cache.fill(namespace, lease.token, b"value", 60) is True
    assert cache.fill(namespace, lease.token, b"value", 60) is True
    cache.invalidate([namespace])
    assert cache.fill(namespace, lease.token, b"value", 60) is False
    assert type(cache.lookup(namespace, 10)) is Leased


def test_ttl_is_the_servers(cache: Adapter, redis_server: RedisServer, namespace: str) -> None:
    """Lease and value live to the millisecond what was asked for; without a ttl, for ever."""
    lease = cache.lookup(namespace, 500)
    assert 400_000 < say(redis_server, "PTTL", namespace) <= 500_000
    cache.fill(namespace, lease.token, b"value", 60.5)
    assert 50_000 < say(redis_server, "PTTL", namespace) <= 60_500
    cache.fill(namespace, lease.token, b"value", None)
    assert say(redis_server, "PTTL", namespace) == -1


def test_invalidate_nothing(cache: Adapter) -> None:
    """No keys, no command."""
    cache.invalidate([])


# --- what others leave under our keys ---

FOREIGN = {
    "text": ("SET", "hello"),
    "empty": ("SET", ""),
    "long": ("SET", "x" * 500),
    "short V": ("SET", "V1"),
    "list": ("RPUSH", "a"),
    "hash": ("HSET", "field", "value"),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_value(cache: Adapter, redis_server: RedisServer, namespace: str, kind: str) -> None:
    """What is not ours is found as something that nothing decodes, and gives way to a lease."""
    command, *value = FOREIGN[kind]
    say(redis_server, command, namespace, *value)
    hit = cache.lookup(namespace, 10)
    assert type(hit) is Hit
    assert hit.stored == b""
    lease = cache.replace(namespace, hit.seen, 10)
    assert type(lease) is Leased
    assert cache.replace(namespace, hit.seen, 10) == Busy()
    assert cache.fill(namespace, lease.token, b"ours", 60) is True
    assert cache.lookup(namespace, 10).stored == b"ours"


@pytest.mark.parametrize("now", [("SET", "other"), ("RPUSH", "a")])
def test_foreign_value_that_changed(
    cache: Adapter, redis_server: RedisServer, namespace: str, now: tuple[str, str]
) -> None:
    """What has changed since it was looked at is not overwritten."""
    say(redis_server, "SET", namespace, "hello")
    seen = cache.lookup(namespace, 10).seen
    say(redis_server, "DEL", namespace)
    say(redis_server, now[0], namespace, now[1])
    before = say(redis_server, "DUMP", namespace)
    assert cache.replace(namespace, seen, 10) == Busy()
    assert say(redis_server, "DUMP", namespace) == before


def test_foreign_type_that_became_ours(cache: Adapter, redis_server: RedisServer, namespace: str) -> None:
    """A list that gave way to a lease meanwhile is not replaced a second time."""
    say(redis_server, "RPUSH", namespace, "a")
    seen = cache.lookup(namespace, 10).seen
    say(redis_server, "DEL", namespace)
    lease = cache.lookup(namespace, 10)
    assert cache.replace(namespace, seen, 10) == Busy()
    assert cache.fill(namespace, lease.token, b"ours", 60) is True
    assert cache.replace(namespace, seen, 10) == Busy()


# --- servers that take no writes ---


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("refusal", [OutOfMemoryError("used memory"), ReadOnlyError("replica")])
def test_refused_lookup_reads(native: bool, refusal: Exception) -> None:
    """A lookup that may not write reads: whatever lease it finds is another's."""
    value = b"V" + b"t" * 42 + b"value"
    for reply, answer in ((value, Hit(b"value", value[:43])), (b"L" + b"t" * 16, Busy())):
        commands, found = play(Protocol(native).lookup("k", 10), refusal, reply)
        assert commands[1] == ("GET", "k")
        assert found == answer
    with pytest.raises(CacheUnavailable, match=str(refusal)):
        play(Protocol(native).lookup("k", 10), refusal, None)


@pytest.mark.parametrize("native", [True, False])
def test_out_of_memory(open_backend: Open, new_redis: NewRedis, native: bool) -> None:
    """A full server serves what it has, and drops what is invalidated; a miss on it is an error."""
    server = new_redis("--maxmemory-policy", "noeviction")
    cache = open_backend(server, native=native)
    cache.fill("k", cache.lookup("k", 10).token, b"value", 60)
    lease = cache.lookup("other", 60)
    say(server, "CONFIG", "SET", "maxmemory", "1mb")
    assert cache.lookup("k", 10).stored == b"value"
    assert cache.lookup("other", 10) == Busy()
    for call in (("lookup", "new", 10), ("fill", "other", lease.token, b"value", 60)):
        with pytest.raises(CacheUnavailable, match="OutOfMemory"):
            getattr(cache, call[0])(*call[1:])
    cache.invalidate(["k"])
    assert say(server, "EXISTS", "k") == 0


@pytest.mark.parametrize("native", [True, False])
def test_replica(open_backend: Open, new_redis: NewRedis, native: bool) -> None:
    """A replica serves what it has; whatever would have to write on it is an error, invalidations above all."""
    server = new_redis()
    cache = open_backend(server, native=native)
    cache.fill("k", cache.lookup("k", 10).token, b"value", 60)
    say(server, "REPLICAOF", HOST, free_port())
    assert cache.lookup("k", 10).stored == b"value"
    for call in (("lookup", "new", 10), ("invalidate", ["k"]), ("clear", "k"), ("clear", None)):
        with pytest.raises(CacheUnavailable, match="ReadOnly"):
            getattr(cache, call[0])(*call[1:])


def test_two_leases_at_once() -> None:
    """Caches that share a backend, with leases of their own: each command has its own, whatever other threads ask."""
    protocol = Protocol()
    wrong: list[bytes] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def go_on(lease: float, end: bytes) -> None:
        for _ in range(20_000):
            if not (command := protocol.packed_lookup("k", b"t" * 16, lease)).endswith(end):
                wrong.append(command)

    threads = [threading.Thread(target=go_on, args=each) for each in ((60.0, b"60000\r\n"), (7.0, b"$4\r\n7000\r\n"))]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
