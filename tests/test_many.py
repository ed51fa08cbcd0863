"""`cached_many` where the conformance suite does not look: mistakes at decoration, no cache, and outages."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from many_tools import BatchWire, Table
from memcached_tools import say
from servers import RedisServer
from wire import Fault, lost

from cacheside import MISSING, AsyncCachedMany, Cache, CachedMany, CacheUnavailable, ConfigurationError, cached_many
from cacheside.backends.base import Guarded
from cacheside.backends.memcached import MemcachedBackend
from cacheside.backends.memory import MemoryBackend
from cacheside.testing import disabled

# --- mistakes ---


def of_users(user_ids: Sequence[int]) -> Mapping[int, str]:
    """Nothing."""
    return {}


def in_org(org: int, user_ids: Sequence[int]) -> Mapping[int, str]:
    """Nothing."""
    return {}


def generates(user_ids: Sequence[int]) -> Iterator[int]:
    """Something that can be consumed once."""
    yield from user_ids


MISTAKES: list[tuple[Any, dict[str, Any], str]] = [
    (of_users, {"key": "users"}, "one field of 'users' has to stand for an item.*like {user_id}"),
    (of_users, {"key": "{user_ids}"}, "one field .* has to stand for an item"),
    (of_users, {"key": "{org}:{user_id}"}, r"so be no parameter \(user_ids\).*\['org', 'user_id'\]"),
    (in_org, {"key": "{org}:{user_ids}:{user_id}"}, "one parameter has to hold the items.*there are none"),
    (in_org, {"key": "{user_id}"}, r"\['org', 'user_ids'\]: name the others in ignore="),
    (in_org, {"key": "{user_id}", "ignore": ("orgs",)}, r"ignore= names \['orgs'\], which are no parameters"),
    (in_org, {"key": "{user_id}", "ignore": "org"}, r"ignore=\('org',\)"),
    (in_org, {"key": "{user_id}", "ignore": ("org", "user_ids")}, "one parameter has to hold the items"),
    (generates, {"key": "{user_id}"}, "return a list"),
    (of_users, {"key": "{user_id}", "tags": ("{org}",)}, "org"),
    (of_users, {"key": "{user_id}", "tags": "all"}, "tuple of templates"),
    (of_users, {"key": "{user_id}", "ttl": "soon"}, "ttl"),
    (of_users, {"key": "{user_id}", "negative_ttl": -1}, "negative_ttl"),
    (of_users, {"key": lambda user_ids: "k"}, "needs the template of one row's key, such as 'user:{user_id}'"),
    (of_users, {"key": 5}, "key= is a template"),
    (5, {"key": "{user_id}"}, "decorates a function"),
]


@pytest.mark.parametrize(("fn", "options", "cure"), MISTAKES)
def test_mistakes_at_decoration(fn: Any, options: dict[str, Any], cure: str) -> None:
    """What cannot work is said at decoration, with what to do instead."""
    with pytest.raises(ConfigurationError, match=cure):
        Cache("memory://").cached_many(**options)(fn)


def test_decorator_without_a_key() -> None:
    """The decorator is never bare: it says that a template is missing."""
    bare: Any = cached_many
    with pytest.raises(ConfigurationError, match="needs the template of one row's key"):
        bare(of_users)
    with pytest.raises(TypeError, match="key"):
        bare()


def test_batch_is_no_target_of_a_write() -> None:
    """A write names the template of one row: a batch as its target is refused, with that cure."""
    cache = Cache("memory://")
    read = cache.cached_many("user:{user_id}")(of_users)
    with pytest.raises(ConfigurationError, match="name the template of one instead"):
        cache.invalidates(read)(lambda user_ids: None)


def test_backend_without_batches() -> None:
    """A backend that knows no batches is refused at decoration."""

    class Single(MemoryBackend):
        @property
        def capabilities(self) -> frozenset[Any]:
            return super().capabilities - {"batches"}

    with pytest.raises(ConfigurationError, match="@cached_many needs a backend with the capability 'batches'"):
        Cache(Single()).cached_many("user:{user_id}")(of_users)


def test_key_in_both_forms() -> None:
    """The template is the first argument, or `key=`."""
    cache = Cache("memory://")
    for decorator in (cache.cached_many("user:{user_id}", 60), cache.cached_many(key="user:{user_id}", ttl=60)):
        assert decorator(of_users).keys([1, 2]) == ["user:1", "user:2"]


def test_forms() -> None:
    """Decorated, it is an instance of `CachedMany`, or of `AsyncCachedMany` where it is async; `.key` is of one row."""

    async def of_users_async(user_ids: Sequence[int]) -> Mapping[int, str]:
        return {}

    cache = Cache("memory://")
    plain, awaitable = cache.cached_many("u:{user_id}")(of_users), cache.cached_many("u:{user_id}")(of_users_async)
    assert isinstance(plain, CachedMany)
    assert not isinstance(plain, AsyncCachedMany)
    assert isinstance(awaitable, AsyncCachedMany)
    assert plain.__wrapped__ is of_users
    with pytest.raises(ValueError, match=r"\.keys\(\) gives them all"):
        plain.key([1, 2])


def test_other_parameters() -> None:
    """The function is called with the arguments of the call; ignored ones make no key."""
    cache, seen = Cache("memory://"), []

    @cache.cached_many("{org}:{user_id}", ignore=("session",))
    def read(org: int, user_ids: Sequence[int], /, session: str = "none") -> dict[int, int]:
        seen.append((org, user_ids, session))
        return dict.fromkeys(user_ids, org)

    assert read(1, (1, 2)) == {1: 1, 2: 1}
    assert read(1, iter([2, 3]), session="another") == {2: 1, 3: 1}
    assert read(2, range(2)) == {0: 2, 1: 2}
    assert seen == [(1, [1, 2], "none"), (1, [3], "another"), (2, [0, 1], "none")]
    assert read.keys(7, [1]) == ["7:1"]


def test_more_than_was_asked_for() -> None:
    """What the function returns besides is neither returned nor stored."""
    cache, table = Cache("memory://"), Table()
    read = cache.cached_many("{number}")(lambda numbers: {**table.read(numbers), 99: 0})
    assert read([1]) == {1: 10}
    assert read([99, 1]) == {99: 0, 1: 10}
    assert table.calls == [[1], [99]]


# --- no cache ---


def test_null() -> None:
    """Without a cache every batch is one call, with the same results and the same mistakes as with an empty one."""
    cache, table = Cache("null://"), Table()
    read = cache.cached_many("{number}")(lambda numbers: {**table.read(numbers), 99: 0})
    for _ in range(2):
        assert list(read(iter([3, 1, 3])).items()) == [(3, 30), (1, 10)]
    assert read([]) == {}
    assert table.calls == [[3, 1]] * 2
    read.invalidate([1])
    info = read.cache_info()
    assert (info.hits, info.misses, info.loads) == (0, 4, 4)
    with pytest.raises(TypeError, match="has to return a mapping"):
        cache.cached_many("{number}")(lambda numbers: list(numbers))([1])


def test_verbs_without_a_cache() -> None:
    """Nothing is ever there, and a known value is not taken."""
    read = Cache("null://").cached(key="{number}")(lambda number: number)
    assert (read.set(5, 1), read.warm([1, 2]).calls, read.peek(1)) == (False, 2, MISSING)


def test_disabled() -> None:
    """With caching switched off every batch calls the function itself."""
    cache, table = Cache("memory://"), Table()
    read = cache.cached_many("{number}")(table.read)
    read([1])
    with disabled():
        assert [read([1, 2]) for _ in range(2)] == [{1: 10, 2: 20}] * 2
    assert read([1]) == {1: 10}
    assert table.calls == [[1], [1, 2], [1, 2]]


# --- outages ---


@pytest.mark.parametrize("verb", ["lookup_many", "fill_many", "replace_many", "claim_many", "plant"])
@pytest.mark.parametrize("tags", [(), ("all", "{number}")])
def test_one_verb_that_fails(verb: str, tags: tuple[str, ...]) -> None:
    """Whatever the server refuses, a batch is loaded by one call, right, and raises nothing."""
    wire, table = BatchWire(), Table()
    cache = Cache(wire)
    other = cache.cached_many("{number}", version="other")(table.read)
    read = cache.cached_many("{number}", tags=tags, ttl=0.02, stale_if_error=60)(table.read)
    other([1])
    read([2])
    time.sleep(0.03)
    table.calls.clear()
    wire.breaks(verb)
    assert read([1, 2, 3]) == {1: 10, 2: 20, 3: 30}
    assert sorted(number for call in table.calls for number in call) == [1, 2, 3]
    assert len(table.calls) == 1
    assert wire.asked.count(verb) >= (verb != "plant" or bool(tags))
    wire.breaks()
    assert read([1, 2, 3]) == {1: 10, 2: 20, 3: 30}


@pytest.mark.parametrize("verb", ["lookup_many", "update", "guard", "plant"])
def test_set_in_an_outage(verb: str) -> None:
    """A known value that cannot be put in place is not there, nor is the one before it; nothing is raised."""
    wire, rows = BatchWire(), {1: "old"}
    read = Cache(wire).cached(key="{number}", tags=("all",))(lambda number: rows[number])
    assert read(1) == "old"
    rows[1] = "new"
    wire.breaks(verb)
    assert read.set("known", 1) is (verb == "lookup_many")
    wire.breaks()
    assert read(1) == ("known" if verb == "lookup_many" else "new")


@pytest.mark.parametrize(
    ("fault", "errors", "guarded"),
    [
        (lost, 1, 0),
        (lambda do: [CacheUnavailable("gone"), CacheUnavailable("gone")], 1, 0),
        (lambda do: [Guarded(), b"0" * 16], 0, 1),
        (lambda do: [None, b"0" * 16], 0, 0),
    ],
)
def test_tag_that_gets_no_version(fault: Fault, errors: int, guarded: int) -> None:
    """A call whose tag cannot be planted loads, and gives its lease back; an outage is one error, all else is none."""
    wire, table = BatchWire(), Table()
    read = Cache(wire).cached(key="{number}", tags=("{number}", "all"))(table.row)
    wire.faults["plant"] = fault
    assert read(1) == 10
    info = read.cache_info()
    assert (info.loads, info.errors, info.guarded) == (1, errors, guarded)
    assert wire.asked.count("release") == 1
    del wire.faults["plant"]
    assert [read(1) for _ in range(2)] == [10, 10]
    assert read.cache_info().loads == 2


def test_peek_in_an_outage() -> None:
    """Who peeks at a cache that does not answer sees nothing, and no exception."""
    wire = BatchWire()
    read = Cache(wire).cached(key="{number}")(lambda number: number)
    read(1)
    wire.breaks("lookup_many")
    assert read.peek(1) is MISSING
    wire.breaks()
    assert read.peek(1) == 1


@pytest.mark.server
def test_redis_that_stops(new_redis: Any, namespace: str) -> None:
    """A Redis that is gone costs no batch: one call for all rows, errors that are counted, and it is found again."""
    server: RedisServer = new_redis()
    table = Table()
    with contextlib.closing(Cache(server.url, namespace=namespace, timeout=1)) as cache:
        read = cache.cached_many("{number}")(table.read)
        assert read(range(50)) == {number: number * 10 for number in range(50)}
        server.kill()
        for count in range(1, 4):
            assert read(range(100)) == {number: number * 10 for number in range(100)}
            assert table.calls[1:] == [list(range(100))] * count
        info = read.cache_info()
        assert info.errors > 0
        assert info.bypassed == 300
        read.invalidate([1, 2])
        table.row = lambda number: number
        assert read([1, 2]) == {1: 1, 2: 2}


@pytest.mark.server
def test_one_node_of_a_cluster_is_down(redis_cluster: Any, namespace: str) -> None:
    """Rows of a node that hangs are loaded, in the one call with those that are missing; the others stay hits."""
    table = Table()
    with contextlib.closing(Cache(redis_cluster.url, namespace=namespace, timeout=0.5)) as cache:
        read = cache.cached_many("{number}")(table.read)
        numbers = range(60)
        wanted = {number: number * 10 for number in numbers}
        assert read(numbers) == wanted
        down = redis_cluster.masters()[0]
        lost = [number for number in numbers if redis_cluster.master_of(f"{namespace}:{number}") is down]
        down.freeze()
        try:
            assert read(numbers) == wanted
            assert table.calls[1:] == [lost]
        finally:
            down.thaw()
            redis_cluster.heal()


@pytest.mark.server
@pytest.mark.parametrize("state", ["dead", "frozen"])
def test_one_node_of_a_ring_is_down(new_memcached: Any, namespace: str, state: str) -> None:
    """The same of memcached, and soon without delay: a server that has failed for a while is not asked any more."""
    down, alive = new_memcached(), new_memcached()
    table, numbers = Table(), range(60)
    wanted = {number: number * 10 for number in numbers}
    backend = MemcachedBackend([down.address, alive.address], timeout=0.5)
    with contextlib.closing(Cache(backend, namespace=namespace)) as cache:
        read = cache.cached_many("{number}")(table.read)
        assert read(numbers) == wanted
        lost = [number for number in numbers if say(down, b"mg %b:%d\r\n" % (namespace.encode(), number)) == b"HD\r\n"]
        assert 0 < len(lost) < len(numbers)
        down.freeze() if state == "frozen" else down.kill()
        try:
            for count in range(1, 11):
                begin = time.monotonic()
                assert read(numbers) == wanted
                took = time.monotonic() - begin
                assert took < 10
                assert table.calls[1:] == [lost] * count
            assert took < 0.5  # its time-out
        finally:
            if state == "frozen":
                down.thaw()
        info = read.cache_info()
        assert (info.hits, info.bypassed) == (10 * (len(numbers) - len(lost)), 10 * len(lost))
