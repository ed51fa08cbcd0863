"""Many keys in one exchange with memcached, and tags; in both colours, on real servers."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from adapter import COLOURS, Adapter
from colours import TIMEOUT
from memcached_tools import ME, Impostor, Open, Relay, opener, say
from servers import MemcachedServer

from cacheside.backends.base import Busy, Fill, Guarded, Hit, Leased, Stale
from cacheside.backends.beyond import TAG_TTL
from cacheside.backends.memcached import MemcachedBackend, aio, sync
from cacheside.backends.memcached.both_ways import BothWays
from cacheside.backends.memcached.replies import GarbledReply
from cacheside.errors import CacheUnavailable, ConfigurationError, InvalidKeyError, NotCacheableError

NewMemcached = Callable[..., MemcachedServer]


@pytest.fixture(params=COLOURS)
def open_backend(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Make an adapter of either colour: `open_backend(*servers, **options)`."""
    with opener(request.param) as make:
        yield make


@pytest.fixture
def cache(open_backend: Open, memcached_server: MemcachedServer) -> Adapter:
    """A backend on the session's server."""
    return open_backend(memcached_server)


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many bytes each exchange with a server has sent, in either colour."""
    sent: list[int] = []
    for node in (sync.Node, aio.Node):
        real = node.run

        def run(self: object, command: object, real: Callable[..., object] = real) -> object:
            sent.append(len(command.data))  # type: ignore[attr-defined]  # it is a command
            return real(self, command)

        monkeypatch.setattr(node, "run", run)
    return sent


def names(namespace: str, count: int, length: int = 0) -> list[str]:
    """So many keys, of at least that length."""
    return [f"{namespace}:{number}:".ljust(length, "k") for number in range(count)]


def fill_all(cache: Adapter, keys: list[str], value: bytes, ttl: float | None = 60) -> list[object]:
    """Look all up, all of which have to be free, and fill them."""
    leases, _ = cache.lookup_many(keys, 60)
    assert {type(lease) for lease in leases} == {Leased}
    fills = [Fill(key, lease.token, value, ttl) for key, lease in zip(keys, leases, strict=True)]
    done: list[object] = cache.fill_many(fills)[0]
    return done


# --- lookups ---


def test_lookup_of_everything(cache: Adapter, other: Adapter, namespace: str) -> None:
    """Each key has the answer that a lookup of it alone would have, in its place."""
    hit, stale, free, taken, guarded, tag, none = names(namespace, 7)
    other.store(hit, b"\r\nVA 1\r\n")
    other.store(stale, b"old")
    other.mark_stale([stale], 60)
    other.lookup(taken, 60)
    other.guard([guarded], ME, 60)
    (version,) = other.plant([tag])
    answers, versions = cache.lookup_many([hit, stale, free, taken, guarded, free], 60, [none, tag, guarded, hit])
    assert [type(answer) for answer in answers] == [Hit, Stale, Leased, Busy, Guarded, Busy]
    assert [answers[0].stored, answers[1].stored] == [b"\r\nVA 1\r\n", b"old"]
    assert versions == [None, version, Guarded(), None]
    assert cache.fill(free, answers[2].token, b"value", 60) is True
    assert type(cache.claim(stale, answers[1].seen, 60)) is Leased
    assert cache.lookup_many([], 60) == ([], [])
    assert cache.lookup_many([], None, [tag]) == ([], [version])


def test_lookup_without_a_lease(cache: Adapter, other: Adapter, namespace: str) -> None:
    """Who wants no lease plants none, and hears None of what others plant."""
    hit, stale, free, taken, replaced, guarded = names(namespace, 6)
    for key in (hit, stale, replaced):
        other.store(key, b"value")
    other.mark_stale([stale], 60)
    other.lookup(taken, 60)
    other.replace(replaced, other.lookup(replaced, 60).seen, 60)
    other.guard([guarded], ME, 60)
    for _ in range(2):
        answers, _ = cache.lookup_many([hit, stale, free, taken, replaced, guarded], None)
        assert [type(answer) for answer in answers] == [Hit, Stale, type(None), type(None), type(None), Guarded]
    assert type(other.lookup(free, 60)) is Leased


def test_a_bad_key_asks_nothing(cache: Adapter, namespace: str, exchanges: list[int]) -> None:
    """A key that can be none is an error before anything is sent."""
    with pytest.raises(InvalidKeyError):
        cache.lookup_many([namespace, "a b"], 60)
    with pytest.raises(InvalidKeyError):
        cache.lookup_many([namespace], 60, [""])
    assert exchanges == []


def test_overdue_leases_are_taken_over(cache: Adapter, other: Adapter, namespace: str) -> None:
    """As in a lookup of one key: a lease that has stood for longer than a lease is taken over."""
    keys = names(namespace, 3)
    dead = [other.lookup(key, 60) for key in keys]
    assert cache.lookup_many(keys, 0.05)[0] == [Busy()] * 3
    time.sleep(0.1)
    taken, _ = cache.lookup_many(keys, 0.05)
    assert [type(answer) for answer in taken] == [Leased] * 3
    assert other.fill(keys[0], dead[0].token, b"late", 60) is False
    assert cache.fill(keys[0], taken[0].token, b"new", 60) is True


def test_takeover_that_fails(relay: Relay, open_backend: Open, other: Adapter, namespace: str) -> None:
    """Its error stands in its own place; what else was won is not lost with it."""
    cache = open_backend(relay.address)
    free, first, second = names(namespace, 3)
    other.lookup(first, 60)
    other.lookup(second, 60)
    cache.lookup_many([first, second], 0.05)
    time.sleep(0.1)
    relay.before(b"ms ", lose="request")
    answers, _ = cache.lookup_many([free, first, second], 0.05)
    assert [type(answer) for answer in answers][:2] == [Leased, CacheUnavailable]
    assert type(answers[2]) in (Leased, Busy)  # without a connection from before, the lease stays the other's


# --- many, and large ones ---


def test_a_thousand_keys(cache: Adapter, namespace: str, exchanges: list[int]) -> None:
    """A thousand values of 10 kB are leased, filled and found in one exchange each; but for the question, once, how
    large a value may be."""
    keys, value = names(namespace, 1000), bytes(range(250)) * 40
    assert fill_all(cache, keys, value) == [True] * 1000
    assert len(exchanges) == 3
    answers, _ = cache.lookup_many(keys, 60)
    assert all(type(answer) is Hit and answer.stored == value for answer in answers)
    assert len(exchanges) == 4
    cache.invalidate(keys)
    leases, _ = cache.lookup_many(keys, 60)
    exchanges.clear()
    assert cache.release_many([(key, lease.token) for key, lease in zip(keys, leases, strict=True)]) == [True] * 1000
    assert len(exchanges) == 1


def test_large_values(open_backend: Open, new_memcached: NewMemcached, exchanges: list[int]) -> None:
    """Hundreds of large values go both ways, though the time-out is much shorter than the whole takes."""
    cache = open_backend(new_memcached("-m", "400"), timeout=0.5)
    keys, value = names("large", 300), b"0123456789" * 50_000
    assert fill_all(cache, keys, value) == [True] * 300
    answers, _ = cache.lookup_many(keys, 60)
    assert all(type(answer) is Hit and answer.stored == value for answer in answers)
    assert len(exchanges) == 4


def test_answers_larger_than_all_buffers(open_backend: Open, new_memcached: NewMemcached) -> None:
    """The server stops reading while nobody takes its answers: with many long keys as well, nobody waits for ever."""
    cache = open_backend(new_memcached("-m", "400"), timeout=5)
    keys, value = names("long", 100, 240), b"x" * 1000
    assert fill_all(cache, keys, value) == [True] * 100
    answers, _ = cache.lookup_many(keys * 600, 60)  # commands of 15 MB, answers of 60
    assert len(answers) == 60_000
    assert all(type(answer) is Hit and answer.stored == value for answer in answers)


def test_large_exchange_with_a_frozen_server(open_backend: Open, new_memcached: NewMemcached) -> None:
    """One that stops answers nothing any more: that ends after the time-out, in the places of the answers."""
    server = new_memcached()
    cache = open_backend(server, timeout=0.3)
    keys = names("k", 5000, 240)
    assert cache.lookup_many(keys[:1], 60)
    server.freeze()
    begun = time.monotonic()
    answers, versions = cache.lookup_many(keys, 60, ["tag"])
    assert time.monotonic() - begun < TIMEOUT / 2
    assert {type(answer) for answer in (*answers, *versions)} == {CacheUnavailable}
    assert "timed out" in str(answers[0])
    server.thaw()


def test_a_slow_server_that_goes_on(open_backend: Open) -> None:
    """The time-out is for each answer, not for all of them."""
    answers = [b"EN\r\n"] * 10

    def serve(listener: socket.socket) -> None:
        with listener.accept()[0] as sock:
            sock.recv(65536)
            for answer in answers:
                time.sleep(0.1)
                sock.sendall(answer)
            sock.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        cache = open_backend(f"127.0.0.1:{listener.getsockname()[1]}", timeout=0.5)
        assert cache.lookup_many(names("k", 10), None)[0] == [None] * 10
        cache.close()
        thread.join()


def test_answers_before_the_question() -> None:
    """Who has answered everything before it was sent is no memcached: that connection is of no use any more."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.setblocking(False)
        theirs.sendall(b"EN\r\nEN\r\n")
        with pytest.raises(GarbledReply, match="before it was asked"):
            BothWays(b"mg k\r\n" * 1_000_000, 2).move(ours)


# --- fills and releases ---


def test_fills_of_every_kind(cache: Adapter, namespace: str) -> None:
    """Each fill has the outcome that it would have alone: stored, refused, too large; under a lease or a claim."""
    stored, lost, large, claimed, strange, expiring, tag = names(namespace, 7)
    tokens = {key: cache.lookup(key, 60).token for key in (stored, lost, large, strange, expiring)}
    cache.invalidate([lost])
    cache.store(claimed, b"old")
    tokens[claimed] = cache.claim(claimed, cache.lookup(claimed, 60).seen, 60).token
    tokens[strange] = tokens[stored]
    (version,) = cache.plant([tag])
    fills = [Fill(key, tokens[key], b"new", 60) for key in (stored, lost, claimed, strange)]
    fills.insert(2, Fill(large, tokens[large], b"x" * 2_000_000, 60))
    done, versions = cache.fill_many([*fills, Fill(expiring, tokens[expiring], b"", None)], [tag, stored])
    assert done[:2] == [True, False]
    assert type(done[2]) is NotCacheableError
    assert done[3:] == [True, False, True]
    assert versions == [version, None]
    kinds = [type(cache.lookup(key, 60)) for key in (stored, lost, large, claimed, strange, expiring)]
    assert kinds == [Hit, Leased, Busy, Hit, Busy, Hit]
    assert cache.release(large, tokens[large]) is True
    assert cache.fill_many([]) == ([], [])


def test_limit_that_shrank(open_backend: Open, new_memcached: NewMemcached, exchanges: list[int]) -> None:
    """A server that was restarted with a smaller limit refuses one value: that one only, and it is asked again."""
    server = new_memcached("-I", "2m")
    cache = open_backend(server)
    cache.store("known", b"x" * 1_500_000)
    cache.backend._protocol.known[0].limit = 5_000_000  # type: ignore[attr-defined]  # as after such a restart
    large, small = (cache.lookup(key, 60) for key in ("large", "small"))
    for asked in (1, 2):
        exchanges.clear()
        done, _ = cache.fill_many([
            Fill("large", large.token, b"x" * 3_000_000, 60), Fill("small", small.token, b"x", 60)
        ])  # fmt: skip
        assert type(done[0]) is NotCacheableError
        assert done[1] is (asked == 1)
        assert len(exchanges) == asked


def test_connection_rule_covers_all_fills(cache: Adapter, namespace: str) -> None:
    """Where no connection is left from before the leases, nothing is filled or released; tags are read all the same."""
    old, tag = namespace, namespace + ":tag"
    lease, (version,) = cache.lookup(old, 60), cache.plant([tag])
    cache.close()
    assert cache.fill_many([Fill(old, lease.token, b"late", 60)], [tag]) == ([False], [version])
    assert cache.release_many([(old, lease.token)]) == [False]
    assert cache.lookup(old, 60) == Busy()


def test_releases_of_every_kind(cache: Adapter, namespace: str) -> None:
    """Leases and claims are given back together; what was lost says so."""
    leased, lost, claimed = names(namespace, 3)
    cache.store(claimed, b"old")
    seen = cache.lookup(claimed, 60).seen
    leases = [(leased, cache.lookup(leased, 60).token), (lost, cache.lookup(lost, 60).token)]
    leases.append((claimed, cache.claim(claimed, seen, 60).token))
    cache.invalidate([lost])
    assert cache.release_many(leases) == [True, False, True]
    assert cache.release_many(leases) == [False, False, False]
    assert type(cache.lookup(leased, 60)) is Leased
    assert type(cache.claim(claimed, seen, 60)) is Leased
    assert cache.release_many([]) == []


# --- servers that fail ---


def test_a_server_down(open_backend: Open, new_memcached: NewMemcached) -> None:
    """One server's failure stands in the places of what it was asked; the others' answers are as ever."""
    servers = [new_memcached() for _ in range(3)]
    cache = open_backend(*servers)
    keys = names("k", 60)
    leases, _ = cache.lookup_many(keys, 60)
    lost = [say(servers[0], b"mg %b\r\n" % key.encode()).startswith(b"HD") for key in keys]
    assert 0 < sum(lost) < 60
    servers[0].kill()
    fills = [Fill(key, lease.token, b"value", 60) for key, lease in zip(keys, leases, strict=True)]
    done, _ = cache.fill_many(fills)
    assert [isinstance(one, CacheUnavailable) for one in done] == lost
    assert [one for one in done if type(one) is bool] == [True] * lost.count(False)
    answers, versions = cache.lookup_many(keys, 60, keys)
    assert [type(answer) for answer in answers] == [CacheUnavailable if gone else Hit for gone in lost]
    assert [type(version) for version in versions] == [CacheUnavailable if gone else type(None) for gone in lost]
    given = cache.release_many([(key, lease.token) for key, lease in zip(keys, leases, strict=True)])
    assert [type(one) for one in given] == [CacheUnavailable if gone else bool for gone in lost]
    planted = cache.plant([f"t{key}" for key in keys])
    assert {type(one) for one in planted} == {CacheUnavailable, bytes}


def test_a_ring_in_one_exchange_each(
    open_backend: Open, memcached_ring: list[MemcachedServer], namespace: str, exchanges: list[int]
) -> None:
    """However many keys and tags there are, each server is asked once."""
    cache, keys = open_backend(*memcached_ring), names(namespace, 300)
    assert fill_all(cache, keys[:200], b"value") == [True] * 200
    assert len(exchanges) == 6
    versions = cache.plant(keys[200:])
    assert len(exchanges) == 9
    answers, read = cache.lookup_many(keys[:200], 60, keys[200:])
    assert {type(answer) for answer in answers} == {Hit}
    assert read == versions
    assert len(exchanges) == 12


def test_one_bad_answer(open_backend: Open) -> None:
    """A refusal, or nonsense in one line, is the error of that key alone."""
    told = b"VA 1 c5 f197 t60\r\nx\r\nSERVER_ERROR out of memory\r\nVA 0 cX f0 t3 W\r\n\r\nVA 0 c7 f0 t3 W\r\n\r\n"
    impostor = Impostor(told)
    cache = open_backend(impostor.address)
    answers, _ = cache.lookup_many(["a", "b", "c", "d"], 60)
    assert [type(answer) for answer in answers] == [Hit, CacheUnavailable, CacheUnavailable, Leased]
    assert "out of memory" in str(answers[1])
    cache.close()
    impostor.close()


def test_misconfigured_server(open_backend: Open, new_memcached: NewMemcached) -> None:
    """A server without CAS, which a lookup of one key raises an error for, is in the answers' places too."""
    cache = open_backend(new_memcached("-C"))
    with pytest.raises(ConfigurationError, match="without CAS"):
        cache.lookup("k", 60)
    (answer,), _ = cache.lookup_many(["k2"], 60)
    assert type(answer) is CacheUnavailable
    assert "without CAS" in str(answer)


def test_lost_answers(relay: Relay, open_backend: Open, namespace: str) -> None:
    """Lookups go out again when an old connection turns out to be closed; fills and plants never do."""
    cache = open_backend(relay.address)
    lease = cache.lookup(namespace, 60)
    relay.before(b"ms ", lose="request")
    (done,), (version,) = cache.fill_many([Fill(namespace, lease.token, b"value", 60)], [namespace + ":tag"])
    assert type(done) is type(version) is CacheUnavailable
    cache.lookup(namespace, 60)
    relay.before(b"ms ", lose="request")
    assert [type(version) for version in cache.plant([namespace + ":tag"])] == [CacheUnavailable]
    cache.lookup(namespace, 60)
    relay.before(b"mg ", lose="request")
    assert cache.lookup_many([namespace], 60)[0] == [Busy()]


@pytest.mark.parametrize("closing", [False, True])
def test_cancelled_lookup_gives_back(relay: Relay, other: Adapter, namespace: str, closing: bool) -> None:
    """Whoever is cancelled while the answers are on their way leaves no lease behind."""
    keys, arrived, go_on = names(namespace, 20), threading.Event(), threading.Event()
    other.store(keys[7], b"value")

    def hold() -> None:
        arrived.set()
        assert go_on.wait(TIMEOUT)

    async def main() -> None:
        backend = MemcachedBackend([relay.address], timeout=5)
        await backend.aio.lookup("elsewhere", 60)
        relay.before(b"mg ", hold)
        asked = backend.aio.lookup_many(keys, 60)  # type: ignore[attr-defined]  # it has that capability
        if closing:
            asked.send(None)
            await asyncio.to_thread(arrived.wait, TIMEOUT)
            asked.close()
            go_on.set()
        else:
            task = asyncio.create_task(asked)
            await asyncio.to_thread(arrived.wait, TIMEOUT)
            task.cancel()
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await task
        while any(type(answer) is Busy for answer in other.lookup_many(keys, 0.01)[0]):
            await asyncio.sleep(0.01)
        await backend.aio.close()

    asyncio.run(main())
    assert type(other.lookup(keys[7], 60)) is Hit


# --- tags ---


def test_tag_is_planted_once(cache: Adapter, other: Adapter, namespace: str) -> None:
    """However many plant a tag at the same time, all get the same version, and that is what everybody reads."""
    tags = names(namespace, 5)
    assert cache.lookup_many([], None, tags)[1] == [None] * 5
    planted = cache.together(20, "plant", tags)
    assert all(versions == planted[0] for versions in planted)
    assert len(set(planted[0])) == 5
    assert all(len(version) == 16 and version.isascii() for version in planted[0])
    assert other.lookup_many([], None, tags)[1] == planted[0]
    assert other.plant(tags) == planted[0]
    assert cache.plant([]) == []


def test_tag_is_kept_for_29_days(cache: Adapter, memcached_server: MemcachedServer, namespace: str) -> None:
    """The server takes its time as seconds, not as a date."""
    cache.plant([namespace])
    left = int(say(memcached_server, b"mg %b t\r\n" % namespace.encode()).removeprefix(b"HD t"))
    assert TAG_TTL - 5 < left <= TAG_TTL + 1


@pytest.mark.parametrize("turn", ["invalidate", "mark_stale"])
def test_turned_tag(cache: Adapter, other: Adapter, namespace: str, turn: str) -> None:
    """To invalidate a tag takes its version away for good: the next one is another."""
    (old,) = cache.plant([namespace])
    getattr(other, turn)(*([[namespace]] if turn == "invalidate" else [[namespace], 60]))
    assert cache.lookup_many([], None, [namespace])[1] == [None]
    (new,) = cache.plant([namespace])
    assert new != old
    assert cache.lookup_many([], None, [namespace])[1] == [new]


def test_guarded_tag(cache: Adapter, other: Adapter, namespace: str) -> None:
    """A strict writer's guard is what readers of the tag find; nothing is planted over it, and after it all is new."""
    (old,) = cache.plant([namespace])
    other.guard([namespace], ME, 60)
    assert cache.lookup_many([], None, [namespace])[1] == [Guarded()]
    assert cache.fill_many([], [namespace]) == ([], [Guarded()])
    assert cache.plant([namespace]) == [Guarded()]
    assert other.unguard([(namespace, ME)]) == 0
    assert cache.lookup_many([], None, [namespace])[1] == [None]
    assert cache.plant([namespace]) != [old]


@pytest.mark.parametrize("what", ["value", "lease", "foreign"])
def test_no_version(
    cache: Adapter, other: Adapter, memcached_server: MemcachedServer, namespace: str, what: str
) -> None:
    """What else stands under a tag's key is no version, and gives way to one."""
    if what == "value":
        other.store(namespace, b"0123456789012345")
    elif what == "lease":
        other.lookup(namespace, 60)
    else:
        say(memcached_server, b"ms %b 5 F201\r\nshort\r\n" % namespace.encode())
    assert cache.lookup_many([], None, [namespace])[1] == [None]
    (version,) = cache.plant([namespace])
    assert type(version) is bytes
    assert other.lookup_many([], None, [namespace])[1] == [version]


def test_every_attempt_has_its_own_version(relay: Relay, open_backend: Open, namespace: str) -> None:
    """A late copy of a command that plants never brings back a version that was planted since."""
    cache = open_backend(relay.address)
    cache.plant([namespace])
    cache.invalidate([namespace])
    cache.plant([namespace])
    said = [data.split(b"\r\n")[1] for data in relay.sent if data.startswith(b"ms ")]
    assert len(set(said)) == len(said) == 2


def test_tag_that_is_turned_all_the_time(cache: Adapter, namespace: str) -> None:
    """Planting ends, with a version or with word that there is none, however often others turn the tag."""
    ended = threading.Event()
    with opener("sync") as make, ThreadPoolExecutor(1) as thread:
        turner = make(cache.backend._protocol.names[0])  # type: ignore[attr-defined]

        def turn() -> None:
            while not ended.is_set():
                turner.invalidate([namespace])

        turning = thread.submit(turn)
        try:
            for _ in range(50):
                (version,) = cache.plant([namespace])
                assert version is None or len(version) == 16
        finally:
            ended.set()
        turning.result()


def test_tags_after_a_restart(open_backend: Open, new_memcached: NewMemcached) -> None:
    """A version that the server lost is not there any more, and the next one is another."""
    server = new_memcached()
    cache = open_backend(server)
    (old,) = cache.plant(["tag"])
    server.restart()
    assert cache.lookup_many([], None, ["tag"]) == ([], [None])
    (new,) = cache.plant(["tag"])
    assert new != old
