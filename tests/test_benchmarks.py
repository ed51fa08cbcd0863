"""`python -m benchmarks`: each part runs, has all rows, has verified its hits, and writes its files. No figure counts.

The benchmarks are no part of the installed package. They are found through a folder with a link to them and nothing
else, so that the cacheside they measure is the one that all tests test.
"""

from __future__ import annotations

import array
import importlib
import itertools
import json
import lzma
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

SERVER = pytest.mark.server
CHECKOUT = Path(__file__).resolve().parent.parent
MEASURE = """
import sys
from pathlib import Path
from benchmarks import command
from benchmarks.effort import TINY

command.measure(sys.argv[3:], TINY, Path(sys.argv[1]), Path(sys.argv[2]), "as the tests do it")
"""
ROWS = {
    "hit": [
        ("memory, sync, default key, 2 ints", 0.5),
        ("memory, sync, default key, 2 ints", 3.0),
        ("memory, sync, template of 2 ints", 0.55),
        ("memory, sync, template of 2 strings", 0.55),
        ("memory, sync, default key holding a tuple", 4.0),
        ("memory, sync, default key holding a list", 4.0),
        ("memory, sync, default key holding a frozen dataclass", 4.0),
        ("memory, a method on an instance", 0.5),
        ("memory, a method on an instance, its id in the key", 0.5),
        ("memory, 4 threads over 1,000 keys", 0.15),
        ("memory, sync, default key, 1,000 keys in turn", None),
        ("memory, async, default key, 2 ints", 0.55),
    ],
    "redis": [
        ("Redis, sync", 0.8),
        ("Redis, async, one at a time", 0.8),
        ("Redis, async, 200 tasks at once", 0.12),
        ("miss on Redis, everything besides the load", 1.5),
        ("Redis, sync, on any CPU", None),
        ("Redis, async, one at a time, on any CPU", None),
    ],
    "memcached": [("memcached, sync", 1.0)],
    "tags": [(f"a hit with a tag, {where}", None) for where in ("memory, sync", "Redis, sync", "Redis, async")],
    "batch": [
        (f"1,000 {what} by a batch, {where}, {colour}", None)
        for where in ("memory", "Redis")
        for what in ("hits", "misses")
        for colour in ("sync", "async")
    ],
    "refresh": [
        (f"while it is refreshed, {where}, 8 {callers}, p{percent}", None)
        for where in ("memory", "Redis")
        for callers in ("threads", "tasks")
        for percent in (50, 99)
    ],
    "import": [("whole process", 1.5)],
    "stampede": [],
    "hitrate": [],
}
PEERS = {
    "hit": [
        ["functools.lru_cache", "cacheside", "cachebox", "cachetools", "theine", "dogpile.cache"],
        ["cacheside", "cachebox", "async-lru", "theine", "aiocache", "cashews"],
    ],
    "redis": [
        [
            "cacheside", "redis-py get + unpackb", "dogpile.cache", "cacheside, async", "redis.asyncio get + unpackb",
            "cashews, async", "aiocache, async",
        ],
        ["cacheside", "redis.asyncio get + unpackb, pool of 50", "cashews", "aiocache"],
    ],
    "memcached": [
        ["cacheside", "pymemcache PooledClient get + unpackb", "cacheside, async", "aiocache, async"],
    ],
    "tags": [],
    "batch": [],
    "refresh": [],
    "import": [["import cacheside, decorate", "import cachetools, msgpack, inspect", "python, nothing else"]],
    "stampede": [],
    "hitrate": [],
}  # fmt: skip
CHARTS = {
    "hit": {"hit.svg", "memory.svg"},
    "redis": {"redis.svg"},
    "memcached": {"memcached.svg"},
    "tags": {"tags.svg"},
    "batch": {"batch.svg"},
    "refresh": {"refresh.svg"},
    "import": {"import.svg"},
    "stampede": {"stampede.svg"},
    "hitrate": {"hitrate-popular.svg", "hitrate-scan.svg"},
}
SIZES = ["0.001", "0.01", "0.05", "0.1", "0.25"]
KINDS = [
    "cacheside s3fifo", "cacheside sieve", "cacheside lru", "cacheside lfu", "cacheside fifo", "cachetools LRUCache",
    "cachebox LRUCache", "cachebox TTLCache", "theine Cache", "optimum",
]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder from which the benchmarks can be imported, and nothing else."""
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "benchmarks").symlink_to(CHECKOUT / "benchmarks", target_is_directory=True)
    return folder


@pytest.fixture
def traces(tmp_path: Path) -> Path:
    """A folder of two traces: one in which every key is asked for once, and one in which some are popular."""
    folder = tmp_path / "traces"
    folder.mkdir()
    chance = random.Random(7)
    popular = [int(chance.paretovariate(0.8)) % 500 for _ in range(2000)]
    for name, requests in (("scan", range(1000)), ("popular", popular)):
        (folder / f"{name}.u32.xz").write_bytes(lzma.compress(array.array("I", requests).tobytes()))
    return folder


def run(place: Path, *arguments: str | Path, code: str | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m benchmarks` with these arguments, or other code of Python."""
    program = ["-m", "benchmarks"] if code is None else ["-c", code]
    return subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", *program, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(place), "COLUMNS": "80"},
        cwd=place, text=True, capture_output=True, timeout=100,
    )  # fmt: skip


def measured(place: Path, out: Path, traces: Path, part: str) -> dict[str, Any]:
    """The results of a tiny run of one part."""
    done = run(place, out, traces, part, code=MEASURE)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    assert re.search(rf"{part} .* 100%", done.stderr)
    found: dict[str, Any] = json.loads((out / f"{part}.json").read_text())
    return found


def check_spread(spread: dict[str, float]) -> None:
    """That it is one."""
    assert spread["min"] <= spread["low"] <= spread["median"] <= spread["high"] <= spread["max"]


@pytest.mark.parametrize(
    "part",
    [
        "hit",
        "import",
        "hitrate",
        *[pytest.param(part, marks=SERVER) for part in ("redis", "memcached", "tags", "batch", "refresh", "stampede")],
    ],
)
def test_part(place: Path, tmp_path: Path, traces: Path, part: str) -> None:
    """It has all rows and peers, each verified; it says where it ran; and JSON, Markdown and charts are written."""
    out = tmp_path / "out"
    found = measured(place, out, traces, part)
    assert found["command"] == "as the tests do it"
    assert {"python", "processor", "cores", "system", "day"} <= found["about"].keys()
    assert {"cacheside", "cachebox", "cachetools", "theine", "async-lru", "cashews"} <= found["versions"].keys()
    rows = found.get("rows", [])
    assert [(row["name"], row["at_most"]) for row in rows] == ROWS[part]
    for row in rows:
        assert row["ours"]["verified"] is row["other"]["verified"] is True
        check_spread(row["ratio"])
        assert row["reached"] is (None if row["at_most"] is None else row["ratio"]["median"] <= row["at_most"])
    peers = list(found.get("peers", {}).values())
    assert [[time["name"] for time in times] for times in peers] == PEERS[part]
    for times in peers:
        for each in times:
            assert each["verified"] is True
            check_spread(each["ns"])
    assert {path.name for path in out.iterdir()} == {f"{part}.json", "README.md"} | CHARTS[part]
    text = (out / "README.md").read_text()
    for name in [name for name, _ in ROWS[part]] + sorted(CHARTS[part]):
        assert name in text
    for name in CHARTS[part]:
        assert "<svg" in (out / name).read_text()
    CHECKS.get(part, lambda found: None)(found)


def check_hit(found: dict[str, Any]) -> None:
    """That it has the bytes of an entry, of each library that is bounded."""
    sizes = found["footprint"]["bytes_per_entry"]
    assert list(sizes) == ["cacheside", "cachetools", "cachebox", "theine", "functools.lru_cache"]


def check_servers(found: dict[str, Any]) -> None:
    """That the version of the server is told."""
    (version,) = found["servers"]
    assert re.fullmatch(r"(Redis|memcached) \d+\.\d+\.\d+.*", version)


def check_refresh(found: dict[str, Any]) -> None:
    """That where nobody waits for a load the slowest calls took a part of what they took where all do."""
    check_servers(found)
    for row in found["rows"][1::2]:
        assert row["other"]["ns"]["median"] > 10e6
        assert row["ratio"]["min"] < 1


def check_stampede(found: dict[str, Any]) -> None:
    """That all crowds were there, were served, and that this library loaded once for each."""
    check_servers(found)
    threads, tasks, processes = found["crowds"].values()
    assert {"cacheside", "cachebox", "cachetools", "theine", "dogpile.cache"} < {each["library"] for each in threads}
    assert {"cacheside", "cachebox", "async-lru", "aiocache", "cashews"} < {each["library"] for each in tasks}
    assert [each["library"] for each in processes] == [
        "cacheside", "cacheside, async", "dogpile.cache, distributed_lock", "cashews, lock",
    ]  # fmt: skip
    for each in (*threads, *tasks, *processes):
        assert each["verified"] is True
        check_spread(each["seconds"])
        if each["library"].startswith("cacheside"):
            assert set(each["loads"]) == {1}


def check_hitrate(found: dict[str, Any]) -> None:
    """That all policies and peers saw both traces at all sizes, and none was better than is possible."""
    assert {(trace["name"], trace["requests"]) for trace in found["traces"]} == {("scan", 1000), ("popular", 2000)}
    for trace in found["traces"]:
        rates = trace["hit_rates"]
        assert list(rates) == KINDS
        for size in SIZES:
            if trace["name"] == "scan":
                assert {rates[kind][size] for kind in KINDS} == {0}
            else:
                assert rates["cacheside lru"][size] == rates["cachetools LRUCache"][size] > 0
                exact = [kind for kind in KINDS if kind != "theine Cache"]  # it may hold a few more than it should
                assert all(rates[kind][size] <= rates["optimum"][size] for kind in exact)
    assert found["agrees"] is None


CHECKS = {
    "hit": check_hit,
    "redis": check_servers,
    "memcached": check_servers,
    "tags": check_servers,
    "batch": check_servers,
    "refresh": check_refresh,
    "stampede": check_stampede,
    "hitrate": check_hitrate,
}


@pytest.mark.parametrize(("expected", "agrees"), [(0.0065, True), (0.0075, False)])
def test_reference(place: Path, tmp_path: Path, traces: Path, expected: float, agrees: bool) -> None:
    """Where the folder says what the hit rates should be, the results tell how far they are from it."""
    reference = {"reference": {"scan": {"0.01": {"capacity": 10, "s3fifo": expected, "opt": 0.0}}}}
    (traces / "hit_ratios.json").write_text(json.dumps(reference))
    found = measured(place, tmp_path / "out", traces, "hitrate")
    assert found["agrees"] is agrees
    assert found["largest_differences"] == {"cacheside s3fifo": expected * 100, "optimum": 0.0}


def test_command(place: Path, tmp_path: Path, traces: Path) -> None:
    """As a user runs it: a part that is run later leaves the others, and Markdown and charts show all of them."""
    out = tmp_path / "out"
    done = run(place, "--quick", "--only", "import", "--out", out)
    assert done.returncode == 0, done.stderr
    assert "whole process" in done.stdout
    before = (out / "import.json").read_bytes()
    assert json.loads(before)["command"] == "python -m benchmarks --quick --only import"
    measured(place, out, traces, "hitrate")
    assert (out / "import.json").read_bytes() == before
    text = (out / "README.md").read_text()
    for chart in CHARTS["import"] | CHARTS["hitrate"]:
        assert f"({chart})" in text
        assert (out / chart).exists()


def test_same_figures_same_pictures(place: Path, tmp_path: Path, traces: Path) -> None:
    """Charts have no date and nothing random in them: what has not been measured again does not change."""
    out = tmp_path / "out"
    measured(place, out, traces, "hitrate")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    again = "import sys; from pathlib import Path; from benchmarks import charts, results; "
    again += "charts.write(Path(sys.argv[1]), results.read(Path(sys.argv[1])))"
    assert run(place, out, code=again).returncode == 0
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_refused(place: Path, tmp_path: Path) -> None:
    """No traces, an unknown part, a missing package: one message, and status 2."""
    done = run(place, "--only", "hitrate", "--traces", tmp_path, "--out", tmp_path / "out")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no traces" in done.stderr
    assert run(place, "--only", "nonsense", "--out", tmp_path / "out").returncode == 2
    hidden = "import sys, runpy; sys.modules['typer'] = None; runpy.run_module('benchmarks', run_name='__main__')"
    done = run(place, code=hidden)
    assert done.returncode == 2
    assert "'typer'" in done.stderr
    assert "pip install -e '.[bench]'" in done.stderr
    assert not (tmp_path / "out").exists()


@SERVER
def test_interrupted(place: Path, tmp_path: Path) -> None:
    """Killed in the middle of a part, it ends its processes and its server."""
    command = [sys.executable, "-m", "benchmarks", "--only", "redis", "--out", str(tmp_path / "out")]
    environment = os.environ | {"PYTHONPATH": str(place)}
    with subprocess.Popen(command, cwd=place, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            family: list[psutil.Process] = []
            while "redis-server" not in [each.name() for each in family]:
                assert process.poll() is None
                time.sleep(0.05)
                family = psutil.Process(process.pid).children(recursive=True)
            process.send_signal(signal.SIGTERM)
            assert process.stderr is not None
            said = process.stderr.read()
            assert process.wait(60) == 143, said
        finally:
            process.kill()
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []


def test_no_hit_no_figure(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What gives a wrong value, one of another type, or loads when it should hit, is not measured."""
    monkeypatch.syspath_prepend(place)
    sides = importlib.import_module("benchmarks.sides")
    measure, effort = importlib.import_module("benchmarks.measure"), importlib.import_module("benchmarks.effort")
    loads = sides.Loads()

    def load() -> int:
        loads.add()
        return 7

    cases: list[tuple[Any, list[Any], str]] = [
        (lambda: [8], [7], "gave"), (lambda: [7.0], [7], "gave"), (lambda: [load()], [7], "loaded"),
    ]  # fmt: skip
    for call, values, why in cases:
        side = sides.plain("it", "f()", sides.all_hits("it", call, values, loads), f=call)
        with pytest.raises(sides.NotVerified, match=why):
            measure.race([side], effort.TINY)


def best(requests: Sequence[int], capacity: int) -> int:
    """The most hits that any cache can have, by trying everything."""
    states: dict[frozenset[int], int] = {frozenset(): 0}
    for key in requests:
        later: dict[frozenset[int], int] = {}
        for kept, hits in states.items():
            got = hits + (key in kept)
            everything = kept | {key}
            for size in range(min(capacity, len(everything)) + 1):
                for choice in itertools.combinations(sorted(everything), size):
                    state = frozenset(choice)
                    later[state] = max(later.get(state, 0), got)
        states = later
    return max(states.values())


def test_optimum(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Belady's rule with bypass is what trying everything finds."""
    monkeypatch.syspath_prepend(place)
    optimum = importlib.import_module("benchmarks.optimum")
    chance = random.Random(11)
    for _ in range(60):
        requests = [chance.randrange(6) for _ in range(14)]
        capacity = chance.randrange(1, 4)
        assert optimum.hits(requests, capacity) == best(requests, capacity)
