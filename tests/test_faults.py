"""Faults during the races, one kind at a time: nothing stale, and no exception reaches a caller.

A read is stale if it is older than a write of any process whose invalidation had been delivered, or that was strict, or
than any write of its own process, delivered or not. Strict writes may be refused, before they write anything.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import memcached_tools
import pytest
import redis
import redis_tools
from colours import until
from fault_proxy import FAULTS, FaultProxy
from long import scaled
from races.crew import Crew, Report, race
from races.rows import Rows
from races.ways import Decorated
from redis_groups import RedisCluster
from servers import MemcachedServer, PostgresServer, RedisServer

PROCESSES = 4
KINDS = {"plain": 0.4, "strict": 0.3, "updates": 0.2, "strict updates": 0.1}
OPTIONS = {"writes": 0.1, "kinds": KINDS, "timeout": 0.25, "lease": 2, "hold": 2}

pytestmark = [pytest.mark.server, pytest.mark.timeout(scaled(120, 1800))]

AnyServer = RedisServer | MemcachedServer


class Scene:
    """Where a race takes place: servers of its own, of one kind."""

    def __init__(self, kind: str, start: Callable[..., Any], store: PostgresServer, folder: Path) -> None:
        self.kind = kind
        self.start = start
        self._store = store
        self._folder = folder

    def race(self, url: str, **options: Any) -> contextlib.AbstractContextManager[Crew]:
        """A race that has just begun."""
        return race(url, self._store.url, self._folder, PROCESSES, **{**OPTIONS, **options})


@pytest.fixture(params=["redis", "memcached"])
def scene(request: pytest.FixtureRequest, postgres_server: PostgresServer, tmp_path: Path) -> Scene:
    """Each kind of server."""
    return Scene(request.param, request.getfixturevalue(f"new_{request.param}"), postgres_server, tmp_path)


def rounds(normal: int = 2, long: int = 30) -> Iterator[int]:
    """A fault is done so often, with traffic before each."""
    for number in range(scaled(normal, long)):
        time.sleep(0.4)
        yield number


def end(crew: Crew, trouble: bool = True) -> Report:
    """Wait until all is well again, race on for a moment, and judge.

    Args:
        trouble: whether commands to the cache must have failed, or must not.
    """
    crew.settle()
    time.sleep(0.4)
    report = crew.stop()
    counts = ("hits", "loads", "refused", "guarded", "bypassed", "errors", "undelivered", "guards_lost", "updates")
    print(f"{report[:5]}", {name: report.total(name) for name in counts})
    assert report.clean, report.words
    assert report.owed == 0
    assert (report.total("errors") > 0) == trouble  # none of them reached a caller
    with reader(crew) as way:
        until(lambda: hits(way, crew) == crew.options["keys"])  # marks and leases of the dead are over
    return report


@contextlib.contextmanager
def reader(crew: Crew) -> Iterator[Decorated]:
    """A cache of our own that takes part in the race."""
    rows = Rows(crew.options["store"], crew.options["table"])
    way = Decorated(crew.options, rows)
    yield way
    way.close()
    rows.close()


def hits(way: Decorated, crew: Crew) -> int:
    """How many of the keys are answered from the cache."""
    before = way.cache.stats().totals.hits
    for key in range(crew.options["keys"]):
        way.read(key)
    return way.cache.stats().totals.hits - before


def test_killed_and_restarted_empty(scene: Scene) -> None:
    """The server is killed, and comes back without its data: no token of before is good for anything."""
    server = scene.start()
    with scene.race(server.url) as crew:
        for _ in rounds():
            server.kill()
            time.sleep(0.5)
            server.start()
        report = end(crew)
    assert report.total("undelivered") > 0
    assert report.refused_writes > 0


def test_frozen_and_resumed(scene: Scene) -> None:
    """The server hangs, then carries out what had piled up, long after those who sent it have given up."""
    server = scene.start()
    with scene.race(server.url, keys=40) as crew:  # so many that the server still has old values as it goes on
        for number in rounds():
            server.freeze()
            time.sleep((0.4, 2.5)[number % 2])  # shorter, and longer, than a lease and a hold
            server.thaw()
        report = end(crew)
    assert report.total("undelivered") > 0
    assert report.refused_writes > 0


def test_flushed(scene: Scene) -> None:
    """Somebody flushes the server again and again, leases and guards included: that costs loads, and nothing else."""
    server = scene.start()
    with scene.race(server.url, timeout=10) as crew:
        for _ in range(scaled(100, 3000)):
            time.sleep(0.01)
            if scene.kind == "redis":
                redis_tools.say(server, "FLUSHALL")
            else:
                memcached_tools.say(server, b"flush_all\r\n")
        report = end(crew, trouble=False)
    assert report.total("refused") > 0
    assert report.total("guards_lost") > 0


def test_evicted(scene: Scene) -> None:
    """The server is too small, and evicts values, leases and guards."""
    if scene.kind == "redis":
        server = scene.start("--maxmemory", "4mb", "--maxmemory-policy", "allkeys-lru")
    else:
        server = scene.start("-m", "2", "-o", "no_modern")  # without the maintenance that would spare what is in use
    with scene.race(server.url, timeout=10) as crew, reader(crew) as way:
        loads: list[None] = []
        canary = way.cache.cached("canary")(lambda: loads.append(None))
        while len(loads) < scaled(10, 100) or way.cache.stats().guards_lost < scaled(3, 30):
            canary()
            with way.cache.invalidating("marked", strict=True):
                flood(server)
        end(crew, trouble=False)


_numbers = itertools.count()


def flood(server: AnyServer) -> None:
    """Fill the server with other people's entries, so many that all that was there may go."""
    if isinstance(server, RedisServer):
        with redis.Redis(port=server.port) as client:
            for _ in range(8):
                client.mset({f"other:{next(_numbers)}": bytes(1000) for _ in range(500)})
    else:  # which has a place of its own for each size: those that ours may have
        sizes = range(20, 300, 20)
        sets = [b"ms other:%d %d q\r\n%b\r\n" % (next(_numbers), size, bytes(size)) for size in [*sizes] * 4000]
        memcached_tools.say(server, b"".join(sets))


def test_broken_connections(scene: Scene) -> None:
    """Connections are reset, requests come late, replies are lost, late or torn: see `fault_proxy.py`."""
    server = scene.start()
    with FaultProxy(server.port) as proxy, scene.race(server.url.replace(str(server.port), str(proxy.port))) as crew:
        proxy.share = 0.02
        while min(proxy.met[fault] for fault in FAULTS) < scaled(5, 200):
            time.sleep(0.1)
        proxy.share = 0.0
        end(crew)


READ_STEPS = ("lookup sent 1", "leased", "loading", "fill", "fill sent 1", "fill done")


def test_reader_killed(scene: Scene) -> None:
    """Readers are killed at every step, while they hold the lease: who waits for them goes on after it."""
    server = scene.start()
    with scene.race(server.url, timeout=10, lease=0.5) as crew, crew.victims() as perish:
        for key, (step, colour) in enumerate(itertools.product(READ_STEPS, ("sync", "async"))):
            perish(key=key % 4, kind="read", step=step, colour=colour)
        end(crew, trouble=False)


BEFORE = ("guard", "guard sent 1", "guard sent 2", "guard done", "writing", "transaction")
AFTER = {
    "strict": ("committed", "unguard", "unguard sent 1", "unguard sent 2", "unguard done"),
    "strict updates": ("committed", "update", "update sent 1", "update done"),
}
IN_ONE_COMMAND = ("guard sent 2", "unguard sent 2")  # on Redis there is no second one


@pytest.mark.parametrize("kind", AFTER)
def test_writer_killed(scene: Scene, kind: str) -> None:
    """Strict writers are killed at every step: what they had committed is seen, and no mark outlasts its hold."""
    server = scene.start()
    steps = [step for step in (*BEFORE, *AFTER[kind]) if scene.kind == "memcached" or step not in IN_ONE_COMMAND]
    with scene.race(server.url, timeout=10, hold=0.5) as crew, crew.victims() as perish:
        for key, (step, colour) in enumerate(itertools.product(steps, ("sync", "async"))):
            version = perish(key=key % 4, kind=kind, step=step, colour=colour)
            assert (version > 0) == (step in AFTER[kind])
            time.sleep(0.05)
        report = end(crew, trouble=False)
    assert report.total("guarded") > 0


@pytest.fixture(params=["ring", "cluster"])
def group(request: pytest.FixtureRequest) -> Iterator[tuple[str, Callable[[int], AnyServer]]]:
    """Several servers that share the keys: the URL, and how to choose one.

    The replica of a Cluster node is stopped first: after a failover, which may lose what was acknowledged, nothing is
    promised.
    """
    if request.param == "ring":
        new = request.getfixturevalue("new_memcached")
        ring = [new() for _ in range(3)]
        yield "memcached://" + ",".join(node.address for node in ring), lambda number: ring[number % 3]
        return
    cluster: RedisCluster = request.getfixturevalue("redis_cluster")

    def choose(number: int) -> AnyServer:
        cluster.heal()
        node = cluster.masters()[number % 3]
        cluster.replica_of(node).stop()
        return node

    yield cluster.url, choose
    cluster.heal()


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_node_down(
    group: tuple[str, Callable[[int], AnyServer]], postgres_server: PostgresServer, tmp_path: Path, fault: str
) -> None:
    """One of three servers is down: its keys are read from the store, those of the others are still cached."""
    url, choose = group
    with race(url, postgres_server.url, tmp_path, PROCESSES, **{**OPTIONS, "keys": 24}) as crew, reader(crew) as way:
        for number in rounds(normal=1):
            node = choose(number)
            getattr(node, fault)()
            end_of_it = time.monotonic() + 1.5
            found = 0
            while time.monotonic() < end_of_it:
                found = max(found, hits(way, crew))
            assert found > 0
            node.start() if fault == "kill" else node.thaw()
        end(crew)
