"""A cache that was used before `os.fork()`: parent and child go on with sockets of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import fork_program
import pytest
from recording_proxy import Recorder
from servers import RedisServer

PROGRAM = """
import os, sys
from cacheside import Cache

cache = Cache(sys.argv[1], namespace=sys.argv[2])
loads = []

@cache.cached("row:{row}")
def get(row: int) -> str:
    loads.append(row)
    return f"value {row}"

get(1)
child = os.fork()
own = 1000 if child else 2000
for _ in range(200):
    for row in (1, own, own + 1):
        assert get(row) == f"value {row}", (row, get(row))
    get.invalidate(own + 1)
info = get.cache_info()
assert info.errors == 0, info
assert loads.count(1) == 1 and loads.count(own) == 1 and loads.count(own + 1) == 200, len(loads)
if child:
    _, status = os.waitpid(child, 0)
    assert status == 0
    assert get(1) == "value 1" and get.cache_info().errors == 0
cache.close()
"""


BUSY = """
import os, sys, threading, warnings
from cacheside import Cache

warnings.simplefilter("ignore", DeprecationWarning)  # 3.12 and later warn of forking beside threads: it is the point
cache = Cache("memory://", lease=30)
stop = threading.Event()
holding = threading.Event()

@cache.cached("row:{row}")
def get(row: int) -> int:
    if row == -1 and threading.current_thread() is not threading.main_thread():
        holding.set()
        stop.wait(30)
    return row

def hammer(start):
    row = start
    while not stop.is_set():
        row += 1
        get(row % 50)
        get.invalidate(row % 50)

threads = [threading.Thread(target=hammer, args=(n,), daemon=True) for n in range(4)]
threads.append(threading.Thread(target=get, args=(-1,), daemon=True))  # leads a load that the child does not have
for thread in threads:
    thread.start()
holding.wait(10)
for _ in range(20):
    child = os.fork()
    if not child:
        assert [get(row) for row in range(50)] == list(range(50))
        get.invalidate(3)
        assert get(-1) == -1
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status == 0
stop.set()
for thread in threads:
    thread.join(10)
"""


def test_fork_beside_busy_threads() -> None:
    """A child that is forked while other threads are inside the cache finds all locks free, and no load to wait for."""
    done = subprocess.run(
        [sys.executable, "-c", BUSY],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "server",
    [
        pytest.param("redis_server", marks=pytest.mark.server),
        pytest.param("memcached_server", marks=pytest.mark.server),
        pytest.param("memory", id="memory"),
    ],
)
def test_parent_and_child_go_on(server: str, request: pytest.FixtureRequest, namespace: str) -> None:
    """Both get right answers, at the same time, from a cache whose connections were open when the process forked."""
    url = "memory://" if server == "memory" else request.getfixturevalue(server).url
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, url, namespace],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# --- real servers, both colours ---


@pytest.fixture(
    params=[
        pytest.param("redis_server", marks=pytest.mark.server),
        pytest.param("memcached_server", marks=pytest.mark.server),
    ]
)
def recorder(request: pytest.FixtureRequest) -> Iterator[Recorder]:
    """Before Redis, and before memcached."""
    with Recorder(request.getfixturevalue(request.param)) as made:
        yield made


def play(scenario: str, url: str, namespace: str, *rest: str) -> None:
    """Run a scenario of `fork_program.py`. A warning of an unclosed socket is an error there, as all warnings are."""
    done = subprocess.run(
        [sys.executable, "-W", "error", fork_program.__file__, scenario, url, namespace, *rest],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Exception ignored" not in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("scenario", ["sync", "loops", "running", "both"])
def test_no_socket_is_shared(recorder: Recorder, namespace: str, scenario: str) -> None:
    """In both colours, from threads and from loops, also inside a running one: no connection serves two processes."""
    play(scenario, recorder.url, namespace)
    names = {"parent", "child"} | ({"grandchild"} if scenario == "both" else set())
    owners = recorder.connections(*names)
    assert all(len(who) == 1 for who in owners)
    assert set().union(*owners) == names


@pytest.mark.parametrize("scenario", ["sync", "loops", "running", "both"])
def test_memory_is_copied(namespace: str, scenario: str) -> None:
    """A cache in memory goes on in both, each with its own."""
    play(scenario, "memory://", namespace)


def test_fork_beside_busy_connections(recorder: Recorder, namespace: str) -> None:
    """Nor does it matter what the parent's other threads are doing with their connections as the process forks."""
    play("busy", recorder.url, namespace)
    assert all(len(who) == 1 for who in recorder.connections("parent", "child"))


def test_fork_while_a_pool_is_locked(redis_server: RedisServer, namespace: str) -> None:
    """A lock inside redis-py that another thread held at the fork does not hang the child."""
    play("locked", redis_server.url, namespace)


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize(
    "kind", [pytest.param("redis", marks=pytest.mark.server), pytest.param("memcached", marks=pytest.mark.server)]
)
def test_fork_in_an_outage(request: pytest.FixtureRequest, kind: str, colour: str, namespace: str) -> None:
    """What is pending is pending in the child too, which reads no old value and gets over the outage by itself."""
    server = request.getfixturevalue(f"new_{kind}")()
    play(f"broken-{colour}", server.url, namespace, str(server.pid))
