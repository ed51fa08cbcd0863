"""Claims and marks on Redis: values that are refreshed while they are served, and served though they are stale."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from adapter import COLOURS, Adapter
from colours import until
from redis.exceptions import ConnectionError
from redis_tools import Open, opener, play, say
from servers import RedisServer

from cacheside.backends import create
from cacheside.backends.base import Busy, Guarded, Hit, Leased, Stale
from cacheside.backends.redis import scripts
from cacheside.backends.redis.wire import Protocol
from cacheside.errors import CacheUnavailable

NewRedis = Callable[..., RedisServer]
MARK = "m" * 16


@pytest.fixture(params=COLOURS)
def open_backend(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Make an adapter of either colour."""
    with opener(request.param) as make:
        yield make


@pytest.fixture(
    params=[
        pytest.param("redis_server", marks=pytest.mark.server),
        pytest.param("valkey_server", marks=pytest.mark.server),
        pytest.param("redis_sentinel", marks=pytest.mark.server),
        pytest.param("redis_cluster", marks=pytest.mark.server),
    ]
)
def cache(request: pytest.FixtureRequest, open_backend: Open) -> Adapter:
    """A backend on servers of each kind."""
    return open_backend(request.getfixturevalue(request.param))


@pytest.fixture
def here(open_backend: Open, redis_server: RedisServer) -> Adapter:
    """A backend on the session's server, which the test looks into."""
    return open_backend(redis_server)


def claimed(cache: Adapter, key: str, lease: float = 60) -> bytes:
    """The token of a claim on the value under `key`."""
    won = cache.claim(key, cache.lookup(key, 60).seen, lease)
    assert type(won) is Leased
    token: bytes = won.token
    return token


# --- claims ---


def test_one_claim(cache: Adapter, namespace: str) -> None:
    """Of many who claim a value one wins, and all go on being served it."""
    cache.store(namespace, b"value")
    won = cache.together(20, "claim", namespace, cache.lookup(namespace, 60).seen, 60)
    assert sorted(type(each).__name__ for each in won) == ["Busy"] * 19 + ["Leased"]
    found = cache.lookup(namespace, 60)
    assert (type(found), found.stored) == (Hit, b"value")
    assert cache.claim(namespace, found.seen, 60) == Busy()


@pytest.mark.parametrize("marked", [False, True])
def test_fill_under_a_claim(cache: Adapter, namespace: str, marked: bool) -> None:
    """It puts a fresh value in the place of the old one, be that marked stale or not."""
    cache.store(namespace, b"old")
    if marked:
        cache.mark_stale([namespace], 60)
    token = claimed(cache, namespace)
    assert cache.lookup(namespace, 60).stored == b"old"
    assert cache.fill(namespace, token, b"new", 60) is True
    found = cache.lookup(namespace, 60)
    assert (type(found), found.stored) == (Hit, b"new")
    assert cache.release(namespace, token) is False
    assert type(cache.claim(namespace, found.seen, 60)) is Leased


@pytest.mark.parametrize("marked", [False, True])
def test_release_of_a_claim(cache: Adapter, namespace: str, marked: bool) -> None:
    """It can be released once; the value stays, and somebody else can claim it."""
    cache.store(namespace, b"value")
    if marked:
        cache.mark_stale([namespace], 60)
    token = claimed(cache, namespace)
    assert [cache.release(namespace, token) for _ in range(2)] == [True, False]
    found = cache.lookup(namespace, 60)
    assert (type(found), found.stored) == (Stale if marked else Hit, b"value")
    assert type(cache.claim(namespace, found.seen, 60)) is Leased
    assert cache.release(namespace, token) is False


def test_claim_expires(cache: Adapter, namespace: str) -> None:
    """A claim whose owner has died is over in time; after the next one he can fill no more."""
    cache.store(namespace, b"value")
    seen = cache.lookup(namespace, 60).seen
    token = claimed(cache, namespace, 0.1)
    until(lambda: type(cache.claim(namespace, cache.lookup(namespace, 60).seen, 60)) is Leased)
    assert cache.claim(namespace, seen, 60) == Busy()  # that entry is not what the key holds any more
    assert cache.fill(namespace, token, b"late", 60) is False
    assert cache.release(namespace, token) is False


@pytest.mark.parametrize("by", ["invalidate", "mark", "guard", "replace", "fill", "expiry"])
def test_claim_is_lost(cache: Adapter, namespace: str, by: str) -> None:
    """Whatever makes the value another, or none, ends the claim on it: what was loaded under it is refused."""
    cache.store(namespace, b"value", 0.2 if by == "expiry" else 60)
    token = claimed(cache, namespace, 0.1 if by == "fill" else 60)
    if by == "invalidate":
        cache.invalidate([namespace])
    elif by == "mark":
        cache.mark_stale([namespace], 60)
    elif by == "guard":
        cache.guard([namespace], MARK, 60)
    elif by == "replace":
        assert type(cache.replace(namespace, cache.lookup(namespace, 60).seen, 60)) is Leased
    elif by == "expiry":
        until(lambda: cache.lookup_many([namespace], None)[0] == [None])
    else:
        time.sleep(0.15)
        assert cache.fill(namespace, claimed(cache, namespace), b"other", 60) is True
    before = cache.lookup_many([namespace], None)[0]
    assert cache.fill(namespace, token, b"late", 60) is False
    assert cache.release(namespace, token) is False
    assert cache.lookup_many([namespace], None)[0] == before


def test_claim_keeps_the_ttl(here: Adapter, redis_server: RedisServer, namespace: str) -> None:
    """A value lives no longer for being claimed, nor shorter; without an expiry it goes on without one."""
    here.store(namespace, b"value", 1000)
    here.release(namespace, claimed(here, namespace))
    assert 900_000 < say(redis_server, "PTTL", namespace) <= 1_000_000
    other = f"{namespace}x"
    here.store(other, b"value", None)
    claimed(here, other)
    assert say(redis_server, "PTTL", other) == -1


@pytest.mark.parametrize(
    "held",
    [None, b"", b"junk", b"L" + b"x" * 16, b"L" + b"t" * 42, b"V" + b"t" * 16, b"W" + b"t" * 42, b"V" + b"t" * 42, []],
    ids=repr,
)
def test_nothing_to_claim(here: Adapter, redis_server: RedisServer, namespace: str, held: Any) -> None:
    """Where no value stands, or what only looks like one, there is nothing to claim, and nothing happens."""
    if held is not None:
        say(redis_server, *(("SET", namespace, held) if held != [] else ("RPUSH", namespace, "t")))
    before = say(redis_server, "DUMP", namespace)
    assert here.claim(namespace, b"V" + b"t" * 42, 60) == Busy()
    assert say(redis_server, "DUMP", namespace) == before


def test_claim_is_sent_once(here: Adapter, redis_server: RedisServer, namespace: str) -> None:
    """Whether a claim without an answer arrived is not known, so it is not sent again; twice on the way it wins."""
    with pytest.raises(CacheUnavailable, match="closed"):
        play(Protocol().claim(namespace, b"V" + b"t" * 42, 10), ConnectionError("closed"))
    here.store(namespace, b"value")
    seen = here.lookup(namespace, 60).seen
    for _ in range(2):
        assert say(redis_server, "EVAL", scripts.CLAIM.text, 1, namespace, seen[1:30], MARK, 60_000) == 1


# --- marks ---


def test_stale(cache: Adapter, namespace: str) -> None:
    """A marked value is said to be stale, to whoever asks; it can be replaced as it was seen."""
    cache.store(namespace, b"value")
    before = cache.lookup(namespace, 60)
    cache.mark_stale([namespace], 60)
    for found in [*cache.together(20, "lookup", namespace, 60), *cache.lookup_many([namespace], None)[0]]:
        assert (type(found), found.stored) == (Stale, b"value")
    assert cache.replace(namespace, before.seen, 60) == Busy()
    assert cache.claim(namespace, before.seen, 60) == Busy()
    won = cache.replace(namespace, found.seen, 60)
    assert cache.fill(namespace, won.token, b"new", 60) is True


@pytest.mark.server
def test_stale_in_a_crowd(redis_server: RedisServer, namespace: str) -> None:
    """Lookups that go together on one line are told as well."""

    async def scenario() -> None:
        backend = create(redis_server.url, timeout=5, clock=lambda: 0.0)
        aio: Any = backend.aio
        answers = await asyncio.gather(*(aio.lookup(f"{namespace}{number}", 60) for number in range(50)))
        for number, answer in enumerate(answers):
            assert await aio.fill(f"{namespace}{number}", answer.token, b"%d" % number, 60)
        await aio.mark_stale([f"{namespace}{number}" for number in range(50)], 60)
        found = await asyncio.gather(*(aio.lookup(f"{namespace}{number}", 60) for number in range(50)))
        assert [(type(each), each.stored) for each in found] == [(Stale, b"%d" % number) for number in range(50)]
        await aio.close()

    asyncio.run(scenario())


def test_mark_shortens_only(here: Adapter, redis_server: RedisServer, namespace: str) -> None:
    """A marked value is gone when the first grace is over, or when it would have been anyway."""
    long, short, endless = (f"{namespace}{name}" for name in ("long", "short", "endless"))
    for key, ttl in ((long, 1000), (short, 10), (endless, None)):
        here.store(key, b"value", ttl)
    for grace in (100, 500):
        here.mark_stale([long, short, endless], grace)
        left = [say(redis_server, "PTTL", key) / 1000 for key in (long, short, endless)]
        assert [low < each <= high for each, low, high in zip(left, (90, 5, 90), (100, 10, 100), strict=True)] == [
            True
        ] * 3


@pytest.mark.parametrize("grace", [0, 0.0001, -1])
def test_no_grace(cache: Adapter, namespace: str, grace: float) -> None:
    """A mark without a grace is an invalidation."""
    cache.store(namespace, b"value")
    cache.mark_stale([namespace], grace)
    assert type(cache.lookup(namespace, 60)) is Leased


def test_grace_is_over(cache: Adapter, namespace: str) -> None:
    """Then the value is gone."""
    cache.store(namespace, b"value")
    cache.mark_stale([namespace], 0.05)
    until(lambda: type(cache.lookup(namespace, 60)) is Leased)


def test_mark_kills_leases(cache: Adapter, namespace: str) -> None:
    """A load that began before the mark is not stored after it."""
    token = cache.lookup(namespace, 60).token
    cache.mark_stale([namespace], 60)
    assert cache.fill(namespace, token, b"old", 60) is False
    cache.store(namespace, b"new")
    assert cache.fill(namespace, token, b"old", 60) is False


def test_marked_guard_is_touched(cache: Adapter, namespace: str) -> None:
    """A guard stands as it stood, but for its writer's value, which may be the older one: that is refused."""
    cache.guard([namespace], MARK, 60)
    cache.mark_stale([namespace], 60)
    assert cache.lookup(namespace, 60) == Guarded()
    assert cache.update(namespace, MARK, None, b"old", 60) is False
    assert cache.unguard([(namespace, MARK)]) == 0
    assert type(cache.lookup(namespace, 60)) is Leased


def test_a_mark_comes_late_again(cache: Adapter, namespace: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A duplicate of a mark is one more mark: it brings no lease and no claim back to life, and kills those of now."""
    monkeypatch.setattr("cacheside.tokens.fresh", iter([b"%016d" % number for number in range(9)]).__next__)
    cache.store(namespace, b"old")
    cache.mark_stale([namespace], 60)
    first = cache.lookup(namespace, 60).seen
    assert cache.fill(namespace, claimed(cache, namespace), b"new", 60)
    later = claimed(cache, namespace)
    monkeypatch.setattr("cacheside.tokens.fresh", lambda: first[1:17])
    cache.mark_stale([namespace], 60)
    monkeypatch.undo()
    assert cache.lookup(namespace, 60) == Stale(b"new", first)
    assert cache.fill(namespace, later, b"newer", 60) is False


def test_many_marks(cache: Adapter, namespace: str) -> None:
    """Thousands of keys at once get a token each; what holds no value is not touched, what is foreign is dropped."""
    keys = [f"{namespace}{number}" for number in range(2500)]
    answers, _ = cache.lookup_many(keys, 60)
    held = list(zip(keys, answers, strict=True))[::2]
    assert all(cache.fill_many([(key, answer.token, b"value", 60) for key, answer in held])[0])
    cache.mark_stale(keys, 60)
    found, _ = cache.lookup_many(keys, None)
    assert [type(each) for each in found] == [Stale, type(None)] * 1250
    assert len({each.seen[1:17] for each in found[::2]}) == 1250


@pytest.mark.parametrize("held", [b"junk", b"L" + b"x" * 16, b"S" + b"x" * 41, []], ids=repr)
def test_foreign_value_is_dropped(here: Adapter, redis_server: RedisServer, namespace: str, held: Any) -> None:
    """What is no value is invalidated by a mark."""
    say(redis_server, *(("SET", namespace, held) if held != [] else ("RPUSH", namespace, "t")))
    here.mark_stale([namespace], 60)
    assert say(redis_server, "EXISTS", namespace) == 0


def test_out_of_memory(open_backend: Open, new_redis: NewRedis) -> None:
    """A server that refuses to write drops what it cannot mark: nothing old is served as if it were fresh."""
    server = new_redis("--maxmemory-policy", "noeviction")
    cache = open_backend(server)
    for key in ("k", "l"):
        cache.store(key, b"value")
    say(server, "CONFIG", "SET", "maxmemory", "1")
    cache.mark_stale(["k", "l"], 60)
    dropped, other = cache.lookup_many(["k", "l"], None)[0]
    assert dropped is None
    assert not isinstance(other, Hit)  # stale: a script that has dropped something may write after that
