"""Decorated functions on a real Redis Cluster: failover, slots on the move, servers that are down."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest
import redis
from adapter import COLOURS
from colours import Colour, until
from redis_groups import ClusterNode, RedisCluster, ask, wait_for
from redis_tools import MakeCache, Open, Table, opener
from servers import HOST
from test_fork import PROGRAM as FORKING

from cacheside import Cache, CacheUnavailable
from cacheside.backends.base import Busy, Guarded, Hit, Leased
from cacheside.backends.redis.slots import slot_of

TOKEN = "t" * 16


@pytest.fixture
def cluster(redis_cluster: RedisCluster) -> Iterator[RedisCluster]:
    """The cluster of the session; whatever the test broke is mended after it."""
    yield redis_cluster
    redis_cluster.heal()


@pytest.fixture(params=COLOURS)
def open_backend(request: pytest.FixtureRequest) -> Iterator[Open]:
    """Make an adapter of either colour: `open_backend(cluster)`."""
    with opener(request.param) as make:
        yield make


def names_on(cluster: RedisCluster, namespace: str) -> dict[ClusterNode, str]:
    """A name for each master, whose key is there."""
    return {node: cluster.key_on(node, f"{namespace}:").partition(":")[2] for node in cluster.masters()}


def connections(cluster: RedisCluster, name: str) -> int:
    """How many connections with this client name all servers have."""
    found = 0
    for node in cluster.nodes:
        with redis.Redis(host=HOST, port=node.port, socket_timeout=20) as client:
            found += sum(each["name"] == name for each in client.client_list())
    return found


# --- how it is reached ---


@pytest.mark.parametrize("seed", ["masters", "a replica"])
def test_all_masters_are_used(
    colour: Colour, make_cache: MakeCache, cluster: RedisCluster, namespace: str, seed: str
) -> None:
    """Keys lie on all masters, whichever servers the URL names; each is loaded once, then a hit."""
    replica = next(node for node in cluster.nodes if node.role == "slave")
    url = cluster.url if seed == "masters" else f"redis+cluster://{HOST}:{replica.port}"
    table = Table(colour, make_cache(url, namespace=namespace, timeout=5))
    names = [str(number) for number in range(60)]
    for name in names:
        table.read(name)
    assert table.hits(*names)
    assert (table.counts.loads, table.counts.errors, table.counts.bypassed) == (60, 0, 0)
    held = [sum(key.startswith(namespace.encode()) for key in ask(node, "KEYS", "*")) for node in cluster.masters()]
    assert sum(held) == 60
    assert min(held) > 0


def test_crowd(colour: Colour, make_cache: MakeCache, cluster: RedisCluster, namespace: str) -> None:
    """Many callers that come at once, before anything is known of the cluster, meet no error."""
    table = Table(colour, make_cache(f"{cluster.url}?max_connections=4", namespace=namespace, timeout=20))
    calls = [colour.call(table._read, str(number)) for number in range(100)]
    assert [call.result(20) for call in calls] == [0] * 100
    assert (table.counts.errors, table.counts.bypassed, table.counts.loads) == (0, 0, 100)


def test_clear(colour: Colour, make_cache: MakeCache, cluster: RedisCluster, namespace: str) -> None:
    """One namespace goes from all masters, thousands of keys of it, and no other."""
    mine, other = (make_cache(cluster.url, namespace=name, timeout=20) for name in (namespace, f"{namespace}x"))
    for cache in (mine, other):
        Table(colour, cache).read("row")
    for first, last, master, *_ in cluster.slots():
        keys = [key for key in (f"{namespace}:{number}" for number in range(5000)) if first <= slot_of(key) <= last]
        with redis.Redis(host=HOST, port=master[1]) as client, client.pipeline(transaction=False) as pipeline:
            for key in keys:
                pipeline.set(key, "x")
            pipeline.execute()
        assert len(keys) > 1000  # more than one SCAN returns
    colour.run(mine.clear if colour.name == "sync" else mine.aclear)
    left = {key for node in cluster.masters() for key in ask(node, "KEYS", f"{namespace}*")}
    assert left == {f"{namespace}x:row".encode()}


def test_fork(cluster: RedisCluster, namespace: str) -> None:
    """Parent and child go on with connections of their own."""
    command = [sys.executable, "-W", "error", "-c", FORKING, cluster.url, namespace]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_loops(cluster: RedisCluster, namespace: str) -> None:
    """Each event loop has connections of its own to each server, at once and in turn; they go with it, in silence."""
    cache = Cache(f"{cluster.url}?client_name={namespace}", namespace=namespace, timeout=5)

    @cache.cached(key="number:{number}")
    async def times_ten(number: int) -> int:
        return number * 10

    async def scenario(closing: bool) -> None:
        assert await asyncio.gather(*map(times_ten, range(30))) == [number * 10 for number in range(30)]
        if closing:
            await cache.aclose()

    def loops() -> None:
        try:
            for closing in (True, False, True):
                asyncio.run(scenario(closing))
        except BaseException as error:
            failures.append(error)

    failures: list[BaseException] = []
    threads = [threading.Thread(target=loops) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert cache.stats().totals.errors == 0
    until(lambda: connections(cluster, namespace) == 0)


@pytest.fixture(scope="module")
def alone() -> Iterator[ClusterNode]:
    """A cluster of one server, which was never told its own address, with a password and TLS."""
    with ClusterNode("--requirepass", "s3cret", "--tls-cluster", "yes", tls=True) as node:
        with redis.Redis(host=HOST, port=node.port, password="s3cret") as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            wait_for("it serves its slots", lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"))
        yield node


@pytest.mark.server
@pytest.mark.parametrize("scheme", ["redis", "rediss"])
@pytest.mark.parametrize("password", ["s3cret", "wr0ng"])
def test_password_and_tls(
    colour: Colour,
    make_cache: MakeCache,
    alone: ClusterNode,
    caplog: pytest.LogCaptureFixture,
    scheme: str,
    password: str,
) -> None:
    """It logs in, over TLS too; right or wrong the password is shown nowhere. An empty host is the one asked."""
    port, tls = (alone.port, "") if scheme == "redis" else (alone.tls_port, f"?ssl_ca_certs={alone.certificate}")
    url = f"{scheme}+cluster://:{password}@{HOST}:{port}{tls}"
    cache = make_cache(url, namespace=f"{scheme}{colour.name}", timeout=5)
    table = Table(colour, cache)
    table.read("row")
    assert table.hits("row") is (password == "s3cret")
    shown = [repr(cache), caplog.text, str(cache.stats())]
    if password == "wr0ng":
        with pytest.raises(CacheUnavailable) as raised:
            colour.run(cache.clear if colour.name == "sync" else cache.aclear)
        shown.append(repr(raised.value) + repr(raised.value.__cause__))
    assert password not in "".join(shown)


# --- failover ---


def test_failover(colour: Colour, make_cache: MakeCache, cluster: RedisCluster, namespace: str) -> None:
    """A replica takes over while reads and writes go on: all reads are right, and soon they are hits again."""
    table = Table(colour, make_cache(cluster.url, namespace=namespace, timeout=5))
    other = Table(colour, make_cache(cluster.url, namespace=namespace, timeout=5), table.rows)
    master, name = next(iter(names_on(cluster, namespace).items()))
    table.read(name)
    assert other.hits(name)
    cluster.rest()
    ask(cluster.replica_of(master), "CLUSTER", "FAILOVER")

    def over() -> bool:
        table.write(name)
        table.read(name)
        return master.role == "slave"

    until(over)
    until(lambda: table.hits(name) and table.cache.stats().pending == 0)
    for strict in (False, True):
        table.write(name, strict)
        other.read(name)
        assert other.hits(name)


def test_killed_master(colour: Colour, make_cache: MakeCache, cluster: RedisCluster, namespace: str) -> None:
    """Until a replica has taken over, the store answers for the keys of a dead master; those of others are hits."""
    table = Table(colour, make_cache(cluster.url, namespace=namespace, timeout=5))
    other = Table(colour, make_cache(cluster.url, namespace=namespace, timeout=5), table.rows)
    names = names_on(cluster, namespace)
    for name in names.values():
        table.read(name)
        assert other.hits(name)
    master = next(iter(names))
    name = names.pop(master)
    cluster.rest()
    master.kill()

    def over() -> bool:
        table.write(name)
        table.read(name)
        assert table.hits(*names.values())
        return table.hits(name) and table.cache.stats().pending == 0

    until(over)
    table.write(name)
    assert table.cache.stats().pending == 0
    until(lambda: other.hits(name))
    for strict in (False, True):
        table.write(name, strict)
        assert not other.hits(name)
        assert other.hits(name)


@pytest.mark.parametrize("outage", ["killed", "frozen"])
def test_one_server_down(
    colour: Colour, make_cache: MakeCache, cluster: RedisCluster, namespace: str, outage: str
) -> None:
    """Without a heir only its own keys are bypassed, and their invalidations pending, until it is back."""
    table = Table(colour, make_cache(cluster.url, namespace=namespace, timeout=0.5))
    names = names_on(cluster, namespace)
    for name in names.values():
        table.read(name)
    master = next(iter(names))
    name = names.pop(master)
    for replica in cluster.nodes:
        ask(replica, "CONFIG", "SET", "cluster-replica-no-failover", "yes")
    master.freeze() if outage == "frozen" else master.kill()
    try:
        table.write(name)
        assert table.cache.stats().pending == 1
        for _ in range(20):
            table.read(name)
            assert table.hits(*names.values())
        with pytest.raises(CacheUnavailable):
            table.write(name, strict=True)
        both = [f"{namespace}:{each}" for each in (name, *names.values())]
        backend = table.cache._core.backend if colour.name == "sync" else table.cache._core.aio
        with pytest.raises(CacheUnavailable) as raised:
            colour.run(backend.invalidate, both)  # type: ignore[union-attr]  # it has both forms
        assert raised.value.keys == {f"{namespace}:{name}"}
        assert not table.hits(*names.values())  # they have been dropped
        breakers = table.cache._core.backend._route._breakers  # type: ignore[union-attr]  # as above
        assert {address for address, breaker in breakers.items() if breaker.open} == {(HOST, master.port)}
        master.thaw() if outage == "frozen" else master.start()
        until(lambda: table.hits(name) and table.cache.stats().pending == 0)
    finally:
        cluster.heal()
        for replica in cluster.nodes:
            ask(replica, "CONFIG", "SET", "cluster-replica-no-failover", "no")


# --- slots on the move ---


def test_slot_on_the_move(open_backend: Open, cluster: RedisCluster, namespace: str) -> None:
    """Leases, fills, guards and invalidations hold while a slot moves, on either side of it, and after."""
    cache, other = open_backend(cluster), open_backend(cluster)
    source, target, _ = cluster.masters()
    tag = f"{{{cluster.key_on(source, namespace)}}}"
    slot = slot_of(tag)
    stays, moved, new, lost, guarded = (f"{tag}{name}" for name in ("stays", "moved", "new", "lost", "guarded"))
    for key in (stays, moved):
        cache.store(key, b"value")
    leases = {key: cache.lookup(key, 60) for key in (lost, guarded)}
    with cluster.moving(slot, source, target):
        cluster.move(moved, source, target)
        cluster.move(lost, source, target)
        for each in (cache, other):
            assert each.lookup(stays, 60).stored == b"value"
            assert each.lookup(moved, 60).stored == b"value"
        lease = cache.lookup(new, 60)
        assert type(lease) is Leased
        assert other.lookup(new, 60) == Busy()
        assert cache.fill(new, lease.token, b"new", 60) is True
        assert ask(target, "CLUSTER", "COUNTKEYSINSLOT", slot) == len([moved, lost, new])
        assert other.lookup(new, 60).stored == b"new"
        # These keys are on both sides, which one command cannot reach.
        other.invalidate([stays, moved, lost, new])
        assert cache.fill(lost, leases[lost].token, b"old", 60) is False
        assert type(cache.lookup(moved, 60)) is Leased
        other.guard([stays, guarded], TOKEN, 60)
        assert cache.lookup(guarded, 60) == Guarded()
        assert cache.fill(guarded, leases[guarded].token, b"old", 60) is False
        cluster.move(guarded, source, target)
        assert cache.lookup(guarded, 60) == Guarded()
    assert cluster.master_of(tag) is target
    for each in (cache, other):
        assert each.lookup(guarded, 60) == Guarded()
        assert each.lookup(stays, 60) == Guarded()
    assert other.update(guarded, TOKEN, None, b"written", 60) is True
    assert other.unguard([(stays, TOKEN)]) == 0
    assert cache.lookup(guarded, 60).stored == b"written"
    assert type(cache.lookup(stays, 60)) is Leased
    assert type(cache.lookup(new, 60)) is Leased


def test_slot_that_has_moved(open_backend: Open, cluster: RedisCluster, namespace: str) -> None:
    """A client that knows nothing of a move finds the keys, and can prove a lease that it got before."""
    cache = open_backend(cluster)
    source, target, _ = cluster.masters()
    key = cluster.key_on(source, namespace)
    cache.store(key, b"value")
    lease = cache.lookup(f"{{{key}}}", 60)
    with cluster.moving(slot_of(key), source, target):
        pass
    assert isinstance(cache.lookup(key, 60), Hit)
    assert cache.fill(f"{{{key}}}", lease.token, b"filled", 60) is True
    assert cache.lookup(f"{{{key}}}", 60).stored == b"filled"
    cache.invalidate([key])
    assert type(cache.lookup(key, 60)) is Leased
