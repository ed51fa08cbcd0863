"""A cache that was used before `os.fork()`: parent and child go on with sockets of their own."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
