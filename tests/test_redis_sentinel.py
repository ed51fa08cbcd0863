"""Decorated functions on Redis behind Sentinel: another master, sentinels that are gone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import redis
from colours import Colour, until
from redis_groups import SentinelGroup, SentinelServer, ask, wait_for
from redis_tools import MakeCache, Table, named
from servers import HOST, RedisServer
from test_fork import PROGRAM as FORKING

from cacheside import Cache, CacheUnavailable
from cacheside.backends.base import Hit
from cacheside.backends.redis import RedisBackend


@pytest.fixture
def group(redis_sentinel: SentinelGroup) -> Iterator[SentinelGroup]:
    """The group of the session; whatever the test broke is mended after it."""
    yield redis_sentinel
    redis_sentinel.heal()


# --- how it is reached ---


def test_only_the_master_is_used(colour: Colour, make_cache: MakeCache, group: SentinelGroup, namespace: str) -> None:
    """Values are filled and hit on the master, in the database of the URL, by many callers that come at once."""
    url = group.url.removesuffix("/0") + f"/3?max_connections=4&client_name={namespace}"
    table = Table(colour, make_cache(url, namespace=namespace, timeout=20))
    calls = [colour.call(table._read, str(number)) for number in range(100)]
    assert [call.result(20) for call in calls] == [0] * 100
    assert table.hits(*map(str, range(100)))
    assert (table.counts.errors, table.counts.bypassed, table.counts.loads) == (0, 0, 100)
    for server in group.servers:
        with redis.Redis(host=HOST, port=server.port, db=3) as client:
            named = [each for each in client.client_list() if each["name"] == namespace]
            assert bool(named) is (server is group.master)
            assert all(each["db"] == "3" for each in named)


def test_sentinels_that_are_gone(colour: Colour, make_cache: MakeCache, group: SentinelGroup, namespace: str) -> None:
    """One sentinel is enough to begin; once the master is known, none is needed."""
    for sentinel in group.sentinels[:2]:
        sentinel.kill()
    table = Table(colour, make_cache(group.url, namespace=namespace, timeout=5))
    for name in "abc":  # whichever sentinel was asked first: at most one call has to do without
        table.read(name)
    assert table.hits("c")
    group.sentinels[2].freeze()
    for name in "defgh":
        table.read(name)
        assert table.hits(name)


def test_unknown_service(colour: Colour, make_cache: MakeCache, group: SentinelGroup) -> None:
    """A service that no sentinel knows is an outage that says so."""
    cache = make_cache(group.url.replace("/shop/", "/shoq/"), timeout=5)
    table = Table(colour, cache)
    table.read("row")
    with pytest.raises(CacheUnavailable, match="'shoq'"):
        colour.run(cache.clear if colour.name == "sync" else cache.aclear)


def test_fork(group: SentinelGroup, namespace: str) -> None:
    """Parent and child go on with connections of their own."""
    command = [sys.executable, "-W", "error", "-c", FORKING, group.url, namespace]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def guarded() -> Iterator[tuple[RedisServer, SentinelServer]]:
    """A master with a password and TLS, and a sentinel with another password, and TLS."""
    with RedisServer("--requirepass", "s3cret", tls=True) as master:
        more = ["requirepass hidden", "sentinel auth-pass shop s3cret"]
        with SentinelServer("shop", master.port, *more) as sentinel:
            yield master, sentinel


@pytest.mark.server
@pytest.mark.parametrize("good", [True, False], ids=["good", "bad"])
def test_passwords(
    colour: Colour,
    make_cache: MakeCache,
    guarded: tuple[RedisServer, SentinelServer],
    caplog: pytest.LogCaptureFixture,
    good: bool,
) -> None:
    """Master and sentinels have logins of their own; right or wrong no password is shown anywhere."""
    password = "hidden" if good else "wr0ng"
    url = f"redis+sentinel://:s3cret@{HOST}:{guarded[1].port}/shop?sentinel_password={password}"
    cache = make_cache(url, namespace=colour.name, timeout=5)
    table = Table(colour, cache)
    table.read("row")
    assert table.hits("row") is good
    shown = [repr(cache), caplog.text, str(cache.stats())]
    if not good:
        with pytest.raises(CacheUnavailable) as raised:
            colour.run(cache.clear if colour.name == "sync" else cache.aclear)
        shown.append(repr(raised.value))
    assert not any(secret in "".join(shown) for secret in ("s3cret", "hidden", "wr0ng"))


# --- failover ---


def test_failover(colour: Colour, make_cache: MakeCache, group: SentinelGroup, namespace: str) -> None:
    """Another server becomes the master and the old one goes on: it is left, though it says nothing, by all."""
    url = f"{group.url}?client_name={namespace}"
    table = Table(colour, make_cache(url, namespace=namespace, timeout=5))
    other = Table(colour, make_cache(url, namespace=namespace, timeout=5), table.rows)
    table.read("row")
    assert other.hits("row")
    before = group.master
    assert named(before, namespace) == 2
    assert ask(before, "WAIT", 2, 20_000) == 2  # the others have the value
    ask(group.sentinels[0], "SENTINEL", "FAILOVER", group.service)

    def over() -> bool:
        masters = {each.cache._core.backend._route._master for each in (table, other)}
        assert table.hits("row")
        assert other.hits("row")
        return masters == {(HOST, group.master.port)} != {(HOST, before.port)}

    until(over)
    assert ask(before, "ROLE")[0] == b"master"
    until(lambda: named(before, namespace) == 0)
    for strict in (False, True):
        table.write("row", strict)
        assert not other.hits("row")
        assert other.hits("row")


def test_killed_master(make_cache: MakeCache, colour: Colour, group: SentinelGroup, namespace: str) -> None:
    """Until the sentinels have made another master the store answers; then there are hits again, none of them old."""
    table = Table(colour, make_cache(group.url, namespace=namespace, timeout=5))
    other = Table(colour, make_cache(group.url, namespace=namespace, timeout=5), table.rows)
    table.read("row")
    assert other.hits("row")
    before = group.master
    before.kill()

    def over() -> bool:
        table.write("row")
        table.read("row")
        return table.hits("row") and table.cache.stats().pending == 0

    until(over)
    assert group.master is not before
    table.write("row")
    assert table.cache.stats().pending == 0
    until(lambda: other.hits("row"))
    for strict in (False, True):
        table.write("row", strict)
        assert not other.hits("row")
        assert other.hits("row")


@pytest.mark.parametrize("native", [True, False], ids=["native", "script"])
def test_demoted_master_is_not_read(colour: Colour, group: SentinelGroup, native: bool, namespace: str) -> None:
    """What a demoted master still holds is not served, be it by a command or a script: it may have been invalidated."""
    backend = RedisBackend.from_url(group.url, timeout=5, clock=lambda: 0.0)
    backend._route.protocol.native = native
    form = backend if colour.name == "sync" else backend.aio
    lease = colour.run(form.lookup, namespace, 10.0)
    assert colour.run(form.fill, namespace, lease.token, b"old", 60.0)
    assert isinstance(colour.run(form.lookup, namespace, 10.0), Hit)
    before = group.master
    after = group.fail_over()
    wait_for("it is a replica", lambda: ask(before, "ROLE")[0] == b"slave")
    ask(before, "CONFIG", "SET", "replica-serve-stale-data", "yes")
    ask(before, "REPLICAOF", HOST, before.port)  # cut off from the new master, it keeps what it has
    ask(after, "SET", namespace, "V" + "t" * 42 + "new")
    assert colour.run(form.lookup, namespace, 10.0).stored == b"new"
    colour.run(form.close)


def test_urls_with_tls(guarded: tuple[RedisServer, SentinelServer]) -> None:
    """With TLS a sentinel that speaks none is not spoken to."""
    url = f"rediss+sentinel://:s3cret@{HOST}:{guarded[1].port}/shop?ssl_ca_certs={guarded[0].certificate}"
    with Cache(url, timeout=1) as cache, pytest.raises(CacheUnavailable, match="no sentinel answers"):
        cache.clear()
