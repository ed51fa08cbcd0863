"""Many keys at once, and tags, on Redis: by hand, and in both colours against real servers of each kind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from adapter import COLOURS, Adapter
from colours import until
from redis.exceptions import ConnectionError, NoScriptError, OutOfMemoryError, TimeoutError
from redis_groups import RedisCluster, ask
from redis_tools import Open, ask_again, opener, say, walk
from servers import RedisServer

from cacheside.backends import create
from cacheside.backends.base import Busy, Fill, Guarded, Hit, Leased, Stale
from cacheside.backends.beyond import AsyncBatching, AsyncClaiming, Batching, Claiming
from cacheside.backends.redis import RedisBackend
from cacheside.backends.redis.aserver import AsyncServer
from cacheside.backends.redis.routes import OneServer
from cacheside.backends.redis.server import SyncServer
from cacheside.backends.redis.wire import Protocol
from cacheside.errors import CacheUnavailable

NewRedis = Callable[..., RedisServer]
MARK = "m" * 16
KINDS = [
    pytest.param("redis_server", marks=pytest.mark.server),
    pytest.param("valkey_server", marks=pytest.mark.server),
    pytest.param("redis_sentinel", marks=pytest.mark.server),
    pytest.param("redis_cluster", marks=pytest.mark.server),
]


@pytest.fixture(params=COLOURS)
def open_backend(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Make an adapter of either colour."""
    with opener(request.param) as make:
        yield make


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest) -> Any:
    """Servers of each kind."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def cache(open_backend: Open, server: Any) -> Adapter:
    """A backend on them."""
    return open_backend(server)


@pytest.fixture
def exchanges(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many commands went together, for each exchange with a server."""
    sent: list[int] = []

    def count(cls: Any) -> None:
        real = cls.exchange

        def exchange(self: Any, commands: Any, probe: bool) -> Any:
            sent.append(len(commands))
            return real(self, commands, probe)

        monkeypatch.setattr(cls, "exchange", exchange)

    count(SyncServer)
    count(AsyncServer)
    return sent


def names(namespace: str, count: int) -> list[str]:
    """So many keys, in all slots."""
    return [f"{namespace}:{number}" for number in range(count)]


# --- by hand ---


def one_server() -> OneServer:
    """A route to one server."""
    return OneServer(Protocol(), 1.0, "label")


def test_each_lookup_has_its_token() -> None:
    """All are sent together, each with a token of its own; when they are tried again each has another."""
    steps = one_server().lookup_many(names("k", 5), 10, ["t"])
    sent, (answers, versions) = walk(steps, [ConnectionError("closed")] * 6, [None] * 6)
    first, second = ([command[2] for command in each.commands[:5]] for each in sent)
    assert len({*first, *second}) == 10
    assert [b"L" + answer.token for answer in answers] == second
    assert [each.commands[5] for each in sent] == [("GET", "t")] * 2
    assert versions == [None]


def test_only_what_is_not_over_goes_on() -> None:
    """What came to its end in one round is not sent in the next; the answers keep their order."""
    fills = [Fill(key, b"t" * 16, b"value", 60) for key in "abc"]
    sent, (done, versions) = walk(
        one_server().fill_many(fills, ["t"]), [1, NoScriptError("none"), 0, b"L" + b"v" * 16], [1]
    )
    assert [[command[0] for command in each.commands] for each in sent] == [["EVALSHA"] * 3 + ["GET"], ["EVAL"]]
    assert (done, versions) == ([True, True, False], [b"v" * 16])


def test_cancelled_lookups_are_remembered() -> None:
    """What they may have planted is taken over by the next lookup of this process, like any lease nobody knows of."""
    route = one_server()
    steps = route.lookup_many(["a", "b"], 10, [])
    planted = [command[2] for command in next(steps).commands]
    steps.close()
    for key, lease in zip("ab", planted, strict=True):
        assert walk(route.lookup_many([key], None, []), lease)[1] == ([None], [])
        assert walk(route.lookup(key, 10), lease)[1] == Leased(lease[1:])
        assert walk(route.lookup(key, 10), lease)[1] == Busy()


def test_outage() -> None:
    """Each key is answered by an error of its own, the breaker opens once, and then nothing is sent."""
    route = one_server()
    sent, (answers, versions) = walk(route.lookup_many(["a", "b"], 10, ["t"]), [TimeoutError("slow")] * 3)
    assert [type(each) for each in [*answers, *versions]] == [CacheUnavailable] * 3
    assert route.breaker(OneServer.HERE).open
    for steps in (route.lookup_many(["a"], 10, []), route.fill_many([Fill("a", b"t" * 16, b"", 1)], [])):
        sent, ((error,), _) = walk(steps)
        assert (sent, type(error), error.sent) == ([], CacheUnavailable, False)
    sent, (error,) = walk(route.plant(["t"]))
    assert (sent, error.sent) == ([], False)


def test_planted_with_a_fresh_token_for_each_attempt() -> None:
    """A version that was sent without an answer may come late: it is one that nobody has ever been told."""
    sent, (version,) = walk(one_server().plant(["t"]), ConnectionError("closed"), None)
    first, second = (each.commands[0][2] for each in sent)
    assert first != second
    assert second == b"L" + version


# --- many keys ---


def test_answers(cache: Adapter, namespace: str) -> None:
    """Each key is answered as `lookup` would, in the order asked; without a lease nothing is planted."""
    hit, stale, free, leased, guarded, tag, none = names(namespace, 7)
    for key in (hit, stale):
        cache.store(key, b"value")
    cache.mark_stale([stale], 60)
    cache.lookup(leased, 60)
    cache.guard([guarded], MARK, 60)
    (version,) = cache.plant([tag])
    keys = [hit, stale, free, leased, guarded]
    for _ in range(2):
        answers, versions = cache.lookup_many(keys, None, [tag, none, guarded])
        assert [type(each) for each in answers] == [Hit, Stale, type(None), type(None), Guarded]
        assert versions == [version, None, Guarded()]
    answers, versions = cache.lookup_many(keys, 60, [tag, none, guarded])
    assert [type(each) for each in answers] == [Hit, Stale, Leased, Busy, Guarded]
    assert versions == [version, None, Guarded()]
    assert [each.stored for each in answers[:2]] == [b"value"] * 2
    assert cache.fill(free, answers[2].token, b"new", 60) is True


def test_nothing_asked(cache: Adapter, exchanges: list[int]) -> None:
    """No keys cost no exchange."""
    assert cache.lookup_many([], 60) == ([], [])
    assert cache.fill_many([]) == ([], [])
    assert (cache.release_many([]), cache.plant([])) == ([], [])
    assert [each for each in exchanges if each > 1] == []


def test_round_trips(cache: Adapter, server: Any, namespace: str, exchanges: list[int]) -> None:
    """A thousand keys and their tags cost one exchange with each server; on a cluster there are three."""
    servers = 3 if isinstance(server, RedisCluster) else 1
    keys, tags = names(namespace, 1000), names(f"{namespace}t", 20)
    for _ in range(2):  # to be connected, with a map and the master known, and the scripts
        warm = names(f"{namespace}warm", 100)
        cache.release_many([(key, each.token) for key, each in zip(warm, cache.lookup_many(warm, 60)[0], strict=True)])
        cache.fill_many([(key, b"t" * 16, b"", 60) for key in warm])
    cache.mark_stale(warm, 1)

    def count(verb: str, *args: Any) -> Any:
        del exchanges[:]
        done = getattr(cache, verb)(*args)
        together = [each for each in exchanges if each > 1]  # a sentinel may be asked in between
        assert len(together) == servers, exchanges
        return done

    answers, _ = count("lookup_many", keys, 60, tags)
    leases = [(key, answer.token) for key, answer in zip(keys, answers, strict=True)]
    versions = count("plant", tags)
    done, now = count("fill_many", [(*lease, b"v" * 10_000, 60) for lease in leases], tags)
    assert (done, now) == ([True] * 1000, versions)
    found, now = count("lookup_many", keys, None, tags)
    assert ([each.stored for each in found], now) == ([b"v" * 10_000] * 1000, versions)
    assert count("release_many", leases) == [False] * 1000


def test_release_many(cache: Adapter, namespace: str) -> None:
    """Each lease is given back, and each said to have been alive or not."""
    keys = names(namespace, 10)
    leases = [(key, each.token) for key, each in zip(keys, cache.lookup_many(keys, 60)[0], strict=True)]
    cache.invalidate(keys[::2])
    assert cache.release_many(leases) == [False, True] * 5
    assert [type(each) for each in cache.lookup_many(keys, 60)[0]] == [Leased] * 10


def test_refused_fills(cache: Adapter, namespace: str) -> None:
    """A fill whose lease was lost is refused in its place; the others are stored."""
    keys = names(namespace, 10)
    fills = [(key, each.token, b"new", 60) for key, each in zip(keys, cache.lookup_many(keys, 60)[0], strict=True)]
    cache.invalidate(keys[::2])
    assert cache.fill_many(fills) == ([False, True] * 5, [])
    assert cache.lookup_many(keys, None)[0][::2] == [None] * 5


@pytest.mark.parametrize("native", [True, False], ids=["native", "script"])
def test_scripts_that_are_not_known(open_backend: Open, new_redis: NewRedis, native: bool) -> None:
    """A server that has lost its scripts is sent their text; that is one round more, and no key is missed."""
    server = new_redis()
    cache, keys = open_backend(server, native=native), names("k", 20)
    for _ in range(2):
        say(server, "SCRIPT", "FLUSH")
        answers, _ = cache.lookup_many(keys, 60)
        assert [type(each) for each in answers] == [Leased] * 20
        leases = [(key, each.token) for key, each in zip(keys, answers, strict=True)]
        say(server, "SCRIPT", "FLUSH")
        assert cache.release_many(leases[10:]) == [True] * 10
        assert cache.fill_many([(*lease, b"v", 60) for lease in leases]) == ([True] * 10 + [False] * 10, [])
        say(server, "SCRIPT", "FLUSH")
        cache.mark_stale(keys, 60)
        say(server, "SCRIPT", "FLUSH")
        assert type(cache.claim(keys[0], cache.lookup(keys[0], 60).seen, 60)) is Leased
        cache.invalidate(keys)


@pytest.mark.server
@pytest.mark.parametrize("kind", KINDS[:1] + KINDS[3:])
@pytest.mark.parametrize("turns", range(8))
def test_cancelled(request: pytest.FixtureRequest, namespace: str, kind: str, turns: int) -> None:
    """Lookups whose caller has been cancelled, at whatever moment, leave no lease behind."""
    url, keys = request.getfixturevalue(kind).url, names(namespace, 50)

    async def scenario() -> None:
        backends: list[Any] = [create(url, timeout=5, clock=lambda: 0.0).aio for _ in range(2)]
        mine, other = backends
        await mine.lookup(f"{namespace}x", 60)
        task = asyncio.ensure_future(mine.lookup_many(keys, 60))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            answers, _ = await task
            await mine.release_many([(key, each.token) for key, each in zip(keys, answers, strict=True)])
        async with asyncio.timeout(20):
            left = keys
            while left:
                answers, _ = await other.lookup_many(left, 60)
                left = [key for key, each in zip(left, answers, strict=True) if type(each) is not Leased]
        for each in backends:
            await each.close()

    asyncio.run(scenario())


# --- tags ---


def test_one_version(open_backend: Open, cache: Adapter, server: Any, namespace: str) -> None:
    """Of many who find no version and plant one, all are told the same; so is everybody after them."""
    tags = names(namespace, 5)
    (version, *rest) = cache.together(20, "plant", tags)
    assert rest == [version] * 19
    assert len(set(version)) == 5
    assert all(len(each) == 16 and each.isascii() and each.decode().isprintable() for each in version)
    other = open_backend(server)
    assert (other.plant(tags), other.lookup_many([], None, tags)) == (version, ([], version))


def test_turned(cache: Adapter, namespace: str) -> None:
    """An invalidation takes the version away; the next one is another. So does a mark."""
    tags = names(namespace, 2)
    versions = cache.plant(tags)
    cache.invalidate(tags[:1])
    assert cache.lookup_many([], 60, tags)[1] == [None, versions[1]]
    cache.mark_stale(tags[1:], 60)
    assert cache.fill_many([], tags)[1] == [None, None]
    assert len({*versions, *cache.plant(tags)}) == 4


def test_guarded(cache: Adapter, namespace: str) -> None:
    """While a strict writer is at work a tag has no version, and gets none; after it there is another."""
    (version,) = cache.plant([namespace])
    cache.guard([namespace], MARK, 60)
    assert cache.plant([namespace]) == cache.lookup_many([], None, [namespace])[1] == [Guarded()]
    assert cache.unguard([(namespace, MARK)]) == 0
    assert cache.lookup_many([], None, [namespace])[1] == [None]
    assert cache.plant([namespace]) != [version]


def test_kept_for_29_days(open_backend: Open, redis_server: RedisServer, namespace: str) -> None:
    """From when it was planted."""
    cache, days = open_backend(redis_server), 24 * 3600 * 1000
    cache.plant([namespace])
    assert 28 * days < say(redis_server, "PTTL", namespace) <= 29 * days


@pytest.mark.parametrize("held", [b"", b"junk", b"V" + b"t" * 60, b"L" + b"t" * 60, b"W" + b"0" * 16, []], ids=repr)
def test_foreign_value_at_a_tag(open_backend: Open, redis_server: RedisServer, namespace: str, held: Any) -> None:
    """It is no version; whoever plants one replaces it."""
    cache = open_backend(redis_server)
    say(redis_server, *(("SET", namespace, held) if held != [] else ("RPUSH", namespace, "t")))
    assert cache.lookup_many([], None, [namespace])[1] == [None]
    versions = {planted for (planted,) in cache.together(5, "plant", [namespace])}
    assert len(versions) == 1
    assert cache.lookup_many([], None, [namespace])[1] == [*versions]


# --- servers that fail ---


def test_one_server_down(open_backend: Open, redis_cluster: RedisCluster, namespace: str) -> None:
    """What a server that is down was asked is answered by errors, in their place; the rest as ever."""
    cache, keys, tags = open_backend(redis_cluster, timeout=0.5), names(namespace, 60), names(f"{namespace}t", 30)
    leases = [(key, each.token) for key, each in zip(keys, cache.lookup_many(keys, 60)[0], strict=True)]
    versions = cache.plant(tags)
    down = redis_cluster.masters()[0]
    lost = [redis_cluster.master_of(key) is down for key in keys]
    lost_tags = [redis_cluster.master_of(tag) is down for tag in tags]
    assert {*lost} == {*lost_tags} == {True, False}
    for node in redis_cluster.nodes:
        ask(node, "CONFIG", "SET", "cluster-replica-no-failover", "yes")
    down.kill()
    try:
        for _ in range(2):
            done, now = cache.fill_many([(*lease, b"value", 60) for lease in leases], tags)
            assert [isinstance(each, CacheUnavailable) for each in done] == lost
            assert [each for each in done if not isinstance(each, CacheUnavailable)] == [True] * lost.count(False)
            assert [isinstance(each, CacheUnavailable) for each in now] == lost_tags
            found, now = cache.lookup_many(keys, 60, tags)
            assert [type(each) for each in found] == [CacheUnavailable if each else Hit for each in lost]
            assert [isinstance(each, CacheUnavailable) for each in cache.plant(tags)] == lost_tags
            assert [each for each in now if not isinstance(each, CacheUnavailable)] == [
                version for version, each in zip(versions, lost_tags, strict=True) if not each
            ]
            assert [type(each) for each in cache.release_many(leases)] == [
                CacheUnavailable if each else bool for each in lost
            ]
        with pytest.raises(CacheUnavailable) as raised:
            cache.mark_stale(keys, 60)
        assert raised.value.keys == frozenset(key for key, each in zip(keys, lost, strict=True) if each)
        assert [type(each) for each in cache.lookup_many(keys, None)[0]] == [
            CacheUnavailable if each else Stale for each in lost
        ]
    finally:
        redis_cluster.heal()
        for node in redis_cluster.nodes:
            ask(node, "CONFIG", "SET", "cluster-replica-no-failover", "no")


def test_restart(open_backend: Open, new_redis: NewRedis) -> None:
    """Connections that the server has closed are not noticed; while it is away all keys fail, and nothing is raised."""
    server = new_redis()
    cache, keys = open_backend(server), names("k", 30)
    assert [type(each) for each in cache.lookup_many(keys, 60)[0]] == [Leased] * 30
    server.kill()
    server.start()
    assert [type(each) for each in cache.lookup_many(keys, 60)[0]] == [Leased] * 30
    server.kill()
    assert [type(each) for each in cache.lookup_many(keys, 60, ["t"])[0]] == [CacheUnavailable] * 30
    server.start()

    def answers() -> bool:
        ask_again(cache.backend)
        return [type(each) for each in cache.lookup_many(keys, None)[0]] == [type(None)] * 30

    until(answers)


def test_out_of_memory(open_backend: Open, new_redis: NewRedis) -> None:
    """A server that takes no writes answers what there is; that nothing is there, or planted, it cannot say."""
    server = new_redis("--maxmemory-policy", "noeviction")
    cache = open_backend(server)
    cache.store("k", b"value")
    (version,) = cache.plant(["t"])
    say(server, "CONFIG", "SET", "maxmemory", "1")
    (hit, refused), versions = cache.lookup_many(["k", "l"], 60, ["t", "u"])
    assert (hit.stored, versions) == (b"value", [version, None])
    (planted,) = cache.plant(["u"])
    for error in (refused, planted):
        assert isinstance(error, CacheUnavailable)
        assert isinstance(error.__cause__, OutOfMemoryError)


# --- forms ---


@pytest.mark.parametrize("url", ["redis://h", "redis+cluster://h", "redis+sentinel://h/shop", "client"])
def test_capabilities(url: str) -> None:
    """Every form of the backend, in both colours, says that it has claims and batches, and has them."""
    made: Any = (
        RedisBackend(redis.Redis(), redis.asyncio.Redis())
        if url == "client"
        else create(url, timeout=5, clock=lambda: 0.0)
    )
    for form, protocols in ((made, (Claiming, Batching)), (made.aio, (AsyncClaiming, AsyncBatching))):
        assert {"claims", "batches"} <= form.capabilities
        assert all(isinstance(form, protocol) for protocol in protocols)


@pytest.mark.parametrize("decode", [False, True])
@pytest.mark.parametrize("colour", COLOURS)
def test_users_clients(redis_server: RedisServer, namespace: str, colour: str, decode: bool) -> None:
    """Clients of the user's do all of it, whatever they make of replies."""
    client = redis.Redis.from_url(redis_server.url, decode_responses=decode)
    aclient: Any = redis.asyncio.Redis.from_url(redis_server.url, decode_responses=decode)
    cache = Adapter(RedisBackend(client, aclient), colour)
    keys, tags = names(namespace, 50), names(f"{namespace}t", 3)
    answers, _ = cache.lookup_many(keys, 60, tags)
    versions = cache.plant(tags)
    fills = [(key, each.token, b"\xff", 60) for key, each in zip(keys, answers, strict=True)]
    assert cache.fill_many(fills, tags) == ([True] * 50, versions)
    cache.mark_stale(keys[:1], 60)
    found, now = cache.lookup_many(keys, 60, tags)
    assert ([type(each) for each in found], now) == ([Stale] + [Hit] * 49, versions)
    assert type(cache.claim(keys[1], found[1].seen, 60)) is Leased
    if cache.runner is not None:
        cache.runner.run(aclient.aclose())
    client.close()
    cache.end()
