"""Several Redis servers that belong together: a cluster, and a service behind Sentinel.

with RedisCluster() as cluster:
    cache = Cache(cluster.url)
    cluster.master_of("key").kill()
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import redis
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot
from servers import HOST, RedisServer, Server, find_program, free_port, talk

PATIENCE = 60.0  # seconds; far more than anything takes
ELECTION = 2.5  # seconds for which a cluster node remembers the votes that it has got: its auth timeout, and some more


def ask(server: Server, *command: Any) -> Any:
    """What one server answers, on a connection of its own; bytes, or what redis-py makes of them."""
    with redis.Redis(host=HOST, port=server.port, socket_timeout=20) as client:
        return client.execute_command(*command)


def wait_for(what: str, condition: Callable[[], bool]) -> None:
    """Wait for something that servers bring about among themselves; while they cannot be asked, it is not so."""
    end = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(redis.RedisError):
            if condition():
                return
        assert time.monotonic() < end, f"it never came about: {what}"
        time.sleep(0.02)


class ClusterNode(RedisServer):
    """One server of a cluster."""

    def __init__(self, *args: str, tls: bool = False) -> None:
        super().__init__(*args, tls=tls)
        self.bus_port = 0
        self.id = ""

    def command(self) -> list[str]:
        """See `Server.command`."""
        self.bus_port = self.bus_port or free_port()
        return [
            *super().command(), "--cluster-enabled", "yes", "--cluster-port", str(self.bus_port),
            "--cluster-node-timeout", "700", "--cluster-require-full-coverage", "no",
            "--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0",
            "--repl-ping-replica-period", "1",  # a replica counts from the first byte that it has got of its master
        ]  # fmt: skip

    @property
    def role(self) -> str:
        """master or slave, as it says itself."""
        return str(ask(self, "ROLE")[0].decode())


class _Group:
    """Servers that start and stop together."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self) -> None:
        """Start all, and wait until they are one group."""
        raise NotImplementedError


class RedisCluster(_Group):
    """Three masters, each with a third of the slots and one replica."""

    def __init__(self) -> None:
        super().__init__()
        self.nodes = [ClusterNode() for _ in range(6)]
        self._masters: list[ClusterNode] = []
        self._elected = 0.0  # when other masters were found

    @property
    def url(self) -> str:
        """`redis+cluster://` and three of its servers."""
        return f"redis+cluster://{','.join(f'{HOST}:{node.port}' for node in self.nodes[:3])}"

    def start(self) -> None:
        """See `_Group.start`."""
        for number, node in enumerate(self.nodes):
            self._stack.enter_context(node)
            node.id = ask(node, "CLUSTER", "MYID").decode()
            ask(node, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        masters, replicas = self.nodes[:3], self.nodes[3:]
        for node in self.nodes[1:]:
            ask(self.nodes[0], "CLUSTER", "MEET", HOST, node.port, node.bus_port)
        edges = [REDIS_CLUSTER_HASH_SLOTS * number // 3 for number in range(4)]
        for node, first, end in zip(masters, edges, edges[1:], strict=False):
            ask(node, "CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        wait_for("all know each other", lambda: all(self._knows_all(node) for node in self.nodes))
        for master, replica in zip(masters, replicas, strict=True):
            ask(replica, "CLUSTER", "REPLICATE", master.id)
        self.heal()

    def heal(self) -> None:
        """Start what was stopped, thaw what was frozen, and wait until all is well again. Roles may have changed."""
        for node in self.nodes:
            if not node.running:
                node.start()
            node.thaw()
        wait_for("the cluster is whole", self._is_whole)
        if (masters := self.masters()) != self._masters:
            self._masters, self._elected = masters, time.monotonic()

    def rest(self) -> None:
        """Call before a failover: it must not follow upon another within the time of an election.

        Redis itself goes wrong there: a node that was elected, lost its slots to another and is to take them over again
        counts the votes of its first election, becomes master with that old epoch, and no other node believes it.
        """
        time.sleep(max(0.0, self._elected + ELECTION - time.monotonic()))

    def master_of(self, key: str) -> ClusterNode:
        """The server that has the slot of `key`, as the others see it."""
        slot = key_slot(key.encode())
        for first, last, master, *_ in self.slots():
            if first <= slot <= last:
                return self._at(master[1])
        raise AssertionError(f"nobody has slot {slot}")

    def replica_of(self, master: ClusterNode) -> ClusterNode:
        """The replica of a master."""
        for _, _, first, *others in self.slots():
            if first[1] == master.port and others:
                return self._at(others[0][1])
        raise AssertionError(f"{master.port} has no replica")

    def masters(self) -> list[ClusterNode]:
        """Those that have slots."""
        return [self._at(port) for port in sorted({master[1] for _, _, master, *_ in self.slots()})]

    def key_on(self, node: ClusterNode, prefix: str) -> str:
        """A key that begins with `prefix` and belongs to `node`."""
        return next(key for key in (f"{prefix}{number}" for number in range(10_000)) if self.master_of(key) is node)

    def slots(self) -> list[Any]:
        """CLUSTER SLOTS, as the first server says that runs."""
        reply: list[Any] = ask(next(node for node in self.nodes if node.running), "CLUSTER", "SLOTS")
        return reply

    def fail_over(self, master: ClusterNode) -> ClusterNode:
        """Have the replica of a master that is alive take over, and wait until all say so; returns it."""
        heir = self.replica_of(master)
        self.rest()
        ask(heir, "CLUSTER", "FAILOVER")
        wait_for("the replica is master", lambda: heir.role == "master" and master.role == "slave")
        self.heal()
        return heir

    @contextlib.contextmanager
    def moving(self, slot: int, source: ClusterNode, target: ClusterNode) -> Iterator[None]:
        """In the block the slot is on its way from `source` to `target`: see `move`. At its end it has arrived."""
        ask(target, "CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        ask(source, "CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        yield
        for key in ask(source, "CLUSTER", "GETKEYSINSLOT", slot, 1000):
            self.move(key, source, target)
        for node in (target, source, *self.masters()):
            ask(node, "CLUSTER", "SETSLOT", slot, "NODE", target.id)
        wait_for("all know where the slot is", lambda: all(_owner(node, slot) == target.port for node in self.nodes))

    def move(self, key: str | bytes, source: ClusterNode, target: ClusterNode) -> None:
        """Move one key of a slot that is `moving`."""
        ask(source, "MIGRATE", HOST, target.port, key, 0, 5000)

    def _at(self, port: int) -> ClusterNode:
        return next(node for node in self.nodes if node.port == port)

    def _knows_all(self, node: ClusterNode) -> bool:
        return b"cluster_known_nodes:%d\r" % len(self.nodes) in _info(node)

    def _is_whole(self) -> bool:
        for node in self.nodes:
            if b"cluster_state:ok" not in _info(node) or b"cluster_slots_ok:16384" not in _info(node):
                return False
            role = ask(node, "ROLE")
            if (role[0] == b"slave" and role[3] != b"connected") or (role[0] == b"master" and len(role[2]) != 1):
                return False
        maps = [
            sorted((each[0], each[1], each[2][1], len(each)) for each in ask(node, "CLUSTER", "SLOTS"))
            for node in self.nodes
        ]
        return all(each == maps[0] and all(entry[3] == 4 for entry in each) for each in maps)


def _info(node: ClusterNode) -> bytes:
    info: bytes = ask(node, "CLUSTER", "INFO")
    return info


def _owner(node: ClusterNode, slot: int) -> int:
    return next(int(each[2][1]) for each in ask(node, "CLUSTER", "SLOTS") if each[0] <= slot <= each[1])


class SentinelServer(Server):
    """One sentinel.

    Args:
        service: the name it gives to the master.
        master: the port of the first master.
        more: more lines of its configuration.
    """

    def __init__(self, service: str, master: int, *more: str) -> None:
        super().__init__()
        self._service = service
        self._master = master
        self._more = more

    def command(self) -> list[str]:
        """See `Server.command`. A sentinel keeps what it learns in its configuration."""
        conf = self.folder / "sentinel.conf"
        if not conf.exists():
            conf.write_text(
                f"port {self.port}\nbind {HOST}\ndir {self.folder}\n"
                f"sentinel monitor {self._service} {HOST} {self._master} 2\n"
                f"sentinel down-after-milliseconds {self._service} 1500\n"
                f"sentinel failover-timeout {self._service} 3000\n" + "\n".join(self._more)
            )
        return [find_program("redis-server", "redis-server"), str(conf), "--sentinel"]

    def answers(self) -> bool:
        """Whether the sentinel on the port is this process."""
        said = talk((HOST, self.port), b"INFO server\r\n")
        return said.startswith(b"-NOAUTH") or f"process_id:{self.pid}\r\n".encode() in talk(
            (HOST, self.port), b"INFO server\r\n", b"executable:"
        )


class SentinelGroup(_Group):
    """A master with two replicas, and three sentinels that watch them."""

    service = "shop"

    def __init__(self) -> None:
        super().__init__()
        self.servers = [RedisServer("--repl-diskless-sync-delay", "0") for _ in range(3)]
        self.sentinels: list[SentinelServer] = []

    @property
    def url(self) -> str:
        """`redis+sentinel://`, the sentinels, the service, database 0."""
        sentinels = ",".join(f"{HOST}:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://{sentinels}/{self.service}/0"

    @property
    def master(self) -> RedisServer:
        """The master, as the first sentinel says that runs."""
        for sentinel in self.sentinels:
            if sentinel.running:
                _, port = ask(sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)
                return next(server for server in self.servers if server.port == int(port))
        raise AssertionError("no sentinel runs")

    def start(self) -> None:
        """See `_Group.start`."""
        for server in self.servers:
            self._stack.enter_context(server)
        first, *others = self.servers
        for server in others:
            ask(server, "REPLICAOF", HOST, first.port)
        wait_for("the replicas follow", lambda: len(ask(first, "ROLE")[2]) == 2)
        for _ in range(3):
            self.sentinels.append(self._stack.enter_context(SentinelServer(self.service, first.port)))
        wait_for("the sentinels know each other", lambda: all(map(self._knows_all, self.sentinels)))

    def heal(self) -> None:
        """Start what was stopped, and have all others follow the master, without waiting for a sentinel to say so."""
        for server in (*self.sentinels, *self.servers):
            if not server.running:
                server.start()
            server.thaw()
        wait_for("there is a master", lambda: ask(self.master, "ROLE")[0] == b"master")
        master = self.master
        for server in self.servers:
            if server is not master:
                ask(server, "REPLICAOF", HOST, master.port)
        wait_for("the replicas follow", lambda: len(ask(master, "ROLE")[2]) == 2)
        wait_for("the sentinels agree", lambda: all(self._is_settled(each, master) for each in self.sentinels))

    def fail_over(self) -> RedisServer:
        """Have another server become the master, all alive, and wait until it is; returns it."""
        before = self.master
        ask(self.sentinels[0], "SENTINEL", "FAILOVER", self.service)
        master = self.wait_for_another(before)
        self.heal()
        return master

    def wait_for_another(self, before: RedisServer) -> RedisServer:
        """Wait until the sentinels name another master than `before`, and it is one; returns it."""
        wait_for("another is master", lambda: self.master is not before and ask(self.master, "ROLE")[0] == b"master")
        return self.master

    def _is_settled(self, sentinel: SentinelServer, master: RedisServer) -> bool:
        told = ask(sentinel, "SENTINEL", "MASTER", self.service)
        return bool(told[b"flags"] == b"master" and int(told[b"port"]) == master.port)

    def _knows_all(self, sentinel: SentinelServer) -> bool:
        master = ask(sentinel, "INFO", "sentinel")["master0"]
        return bool(master["status"] == "ok" and master["slaves"] == 2 and master["sentinels"] == 3)
