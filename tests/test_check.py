"""`cacheside check`, as a user runs it, and proof that it can fail."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import check_ways
import pytest
import redis
from colours import until
from servers import HOST, MemcachedServer, RedisServer, free_port

from cacheside import check, cli
from cacheside.check import crew

# A shell starts what it puts into the background with Ctrl-C ignored, and so may whoever runs these tests.
PROGRAM = "import signal, cacheside.cli as cli; signal.signal(signal.SIGINT, signal.default_int_handler); cli.main()"


def start(*arguments: str) -> subprocess.Popen[str]:
    """`cacheside check` with these arguments, in a process group of its own, as under a terminal."""
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "check", *arguments],
        env=os.environ | {"COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(*arguments: str) -> tuple[int, str, str]:
    """Its exit status and what it said, on stdout and on stderr."""
    with start(*arguments) as process:
        try:
            out, err = process.communicate(timeout=90)
        finally:
            process.kill()
    return process.returncode, out, err


def figures_of(*arguments: str, status: int = 0) -> dict[str, Any]:
    """The figures of a run that says nothing else."""
    code, out, err = run(*arguments, "--json")
    assert (code, err) == (status, ""), err
    figures: dict[str, Any] = json.loads(out)
    return figures


def keys_in(server: RedisServer | MemcachedServer, *beginnings: str) -> list[str]:
    """The keys of checks on a server, and those with other beginnings."""
    if isinstance(server, RedisServer):
        with redis.Redis.from_url(server.url) as client:
            keys = [key.decode() for key in client.scan_iter()]
    else:
        with socket.create_connection((HOST, server.port), timeout=10) as sock:
            sock.sendall(b"lru_crawler metadump all\r\n")
            heard = b""
            while not heard.endswith(b"END\r\n"):
                heard += sock.recv(65536)
        keys = re.findall(r"key=(\S+)", heard.decode())
    return [key for key in keys if key.startswith(("cacheside-check-", *beginnings))]


def racing(server: RedisServer) -> bool:
    """Whether a check has begun to read and write."""
    return any(":row:" in key for key in keys_in(server))


def put_neighbour(server: RedisServer | MemcachedServer, namespace: str) -> str:
    """An entry of somebody else's."""
    name = f"neighbour-{namespace}"
    said = f"SET {name} 1\r\n" if isinstance(server, RedisServer) else f"set {name} 0 0 1\r\n1\r\n"
    with socket.create_connection((HOST, server.port), timeout=10) as sock:
        sock.sendall(said.encode())
        assert sock.recv(100) in (b"+OK\r\n", b"STORED\r\n")
    return name


@pytest.fixture(
    params=[
        pytest.param("redis_server", marks=pytest.mark.server),
        pytest.param("memcached_server", marks=pytest.mark.server),
    ]
)
def server(request: pytest.FixtureRequest) -> Any:
    """Each kind of server."""
    return request.getfixturevalue(request.param)


def test_default_run_beside_the_naive_way(server: RedisServer | MemcachedServer, namespace: str) -> None:
    """As it comes: no stale read through cacheside, hundreds by hand; its keys are removed, and no other."""
    neighbour = put_neighbour(server, namespace)
    figures = figures_of(server.url, "--naive")
    ours, naive = figures["cacheside"], figures["naive"]
    for column in (ours, naive):
        assert column["operations"] == column["reads"] + column["writes"] == 20_000
        assert column["writes"] > 500
        assert column["errors"] == 0
        assert 0 < column["loads"] < column["hits"]
        for latency in (column["read_latency"], column["write_latency"]):
            assert 0 < latency["p50_us"] <= latency["p99_us"]
    assert ours["stale_reads"] == 0
    assert naive["stale_reads"] > 100
    assert ours["refused"] > 0
    assert ours["coalesced"] > 0
    assert ours["undelivered"] == 0
    assert ours["guarded"] == 0
    assert (naive["refused"], naive["coalesced"], naive["bypassed"]) == (None, None, None)
    assert figures["cache"] == server.url
    assert not figures["interrupted"]
    assert keys_in(server, neighbour) == [neighbour]


def test_strict(server: RedisServer | MemcachedServer) -> None:
    """With --strict the writes guard their keys, and it is a race all the same."""
    figures = figures_of(server.url, "--strict", "--operations", "3000", "--processes", "2")
    assert figures["strict"]
    assert figures["cacheside"]["stale_reads"] == 0
    assert figures["cacheside"]["guarded"] > 0
    assert figures["cacheside"]["errors"] == 0


def url_of(server: Any) -> str:
    """The URL of one server, or of a group of them."""
    return f"memcached://{','.join(each.address for each in server)}" if isinstance(server, list) else server.url


@pytest.mark.parametrize(
    "group",
    [
        pytest.param("memcached_ring", marks=pytest.mark.server),
        pytest.param("redis_cluster", marks=pytest.mark.server),
        pytest.param("redis_sentinel", marks=pytest.mark.server),
    ],
)
def test_groups(request: pytest.FixtureRequest, group: str) -> None:
    """Several servers are one cache to both ways."""
    options = ["--operations", "2000", "--processes", "2", "--keys", "20", "--writes", "0.3"]
    figures = figures_of(url_of(request.getfixturevalue(group)), "--naive", *options)
    for column in (figures["cacheside"], figures["naive"]):
        assert column["errors"] == 0
        assert column["hits"] > 0
        assert column["writes"] > 300
    assert figures["cacheside"]["stale_reads"] == 0
    assert not any("could not be removed" in note for note in figures["notes"])


def test_table(redis_server: RedisServer) -> None:
    """People get a bar for each race, and a table of both ways that fits 80 columns; --seconds ends it."""
    status, out, err = run(redis_server.url, "--naive", "--seconds", "0.6", "--processes", "2")
    assert status == 0, err
    for bar in ("cacheside", "get/set/delete"):
        assert re.search(rf"{bar} \S+ 100%", err)
    assert re.search(r"stale reads\W+0\W+\d", out)
    for row in (
        "operations",
        "reads",
        "writes",
        "hit rate",
        "loads",
        "refused fills",
        "coalesced",
        "bypassed",
        "errors",
    ):
        assert re.search(rf"\W{row}\W+\d", out)
    for row in ("read latency p50", "read latency p99", "write latency p50", "write latency p99"):
        assert re.search(rf"{row}\W+[\d,]+ us\W+[\d,]+ us", out)
    assert "No stale read among" in out
    assert max(map(len, out.splitlines())) <= 80


def run_here(capsys: pytest.CaptureFixture[str], url: str, **options: Any) -> tuple[int, dict[str, Any], str]:
    """A short run, whose processes use what a test has broken: the exit status, the figures, stderr."""
    wish = check.Wish(url, **{"operations": 2000, "processes": 2, **options})
    try:
        status = cli.run_check(wish, as_json=True)
    except SystemExit as ended:
        status = int(ended.code or 0)
    out, err = capsys.readouterr()
    return status, json.loads(out), err


@pytest.mark.parametrize("broken", [check_ways.NeverInvalidates, check_ways.InvalidatesFirst])
def test_a_stale_read_is_seen(
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: type[check_ways.Ours],
) -> None:
    """Take the invalidation from the writes, or send it before the commit: there are stale reads, and status 1."""
    monkeypatch.setattr(check, "Ours", broken)
    status, figures, _ = run_here(capsys, redis_server.url)
    assert figures["cacheside"]["stale_reads"] > 0
    assert figures["notes"][0].startswith("STALE: ")
    assert status == 1


def test_stale_reads_by_hand_are_no_failure(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A control that shows nothing is named as one: the run has proved little. Either way the status is 0."""
    monkeypatch.setattr(check, "Naive", check_ways.CachesNothing)
    status, figures, _ = run_here(capsys, redis_server.url, naive=True)
    assert figures["naive"]["stale_reads"] == 0
    assert "proved little" in figures["notes"][-1]
    assert status == 0


@pytest.mark.parametrize(
    ("broken", "said"),
    [(check_ways.Raises, "ValueError: broken on purpose"), (check_ways.Dies, "ended by itself, with exit code -9")],
)
def test_a_process_that_fails(
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    broken: type[check_ways.Ours],
    said: str,
) -> None:
    """A process that fails or dies ends the check with status 2 and its reason; nobody waits for it."""
    monkeypatch.setattr(check, "Ours", broken)
    status, figures, err = run_here(capsys, redis_server.url, seconds=60, operations=None)
    assert status == 2
    assert err.startswith("cacheside: ")
    assert said in err
    assert said in figures["failures"][0]
    assert keys_in(redis_server) == []


def test_a_process_that_does_not_end(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that does not end when it is told to is killed, and that is said."""
    monkeypatch.setattr(check, "Ours", check_ways.NeverEnds)
    monkeypatch.setattr(crew, "GRACE", 0.5)
    status, figures, err = run_here(capsys, redis_server.url, seconds=0.2, operations=None)
    assert status == 2
    assert "was killed" in err
    assert len(figures["failures"]) == 2


def test_outage(new_redis: Callable[..., RedisServer]) -> None:
    """A server that goes away in the check: strict writes are refused, nothing is stale, and the report says it all."""
    server = new_redis()
    with start(server.url, "--strict", "--naive", "--seconds", "1.5", "--processes", "2", "--json") as process:
        try:
            until(lambda: racing(server))
            server.kill()
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    figures = json.loads(out)
    assert (process.returncode, err) == (0, "")
    assert figures["cacheside"]["stale_reads"] == 0
    assert figures["cacheside"]["writes_refused"] > 0
    assert figures["cacheside"]["errors"] > 0
    assert figures["naive"]["errors"] > 0
    text = " ".join(figures["notes"])
    assert "failed during the check" in text
    assert server.url.removesuffix("/0") in text
    assert "could not be removed" in text


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(redis_server: RedisServer, sent: signal.Signals, status: int) -> None:
    """Ctrl-C shows what has been seen; a kill does not. Either way all processes end, and the keys are removed."""
    with start(redis_server.url, "--strict", "--seconds", "90", "--processes", "2", "--json") as process:
        try:
            until(lambda: racing(redis_server))
            if sent is signal.SIGINT:
                os.killpg(process.pid, sent)  # a terminal sends it to all
            else:
                process.send_signal(sent)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, err) == (status, "")
    if sent is signal.SIGINT:
        figures = json.loads(out)
        assert figures["interrupted"]
        assert figures["cacheside"]["reads"] > 0
        assert figures["failures"] == []
    else:
        assert out == ""
    assert keys_in(redis_server) == []


def test_killed_parent(redis_server: RedisServer) -> None:
    """When the command is killed outright its processes end by themselves."""
    with start(redis_server.url, "--seconds", "90", "--processes", "2", "--json") as process:
        try:
            until(lambda: racing(redis_server))
        finally:
            process.kill()
        process.communicate(timeout=20)  # until the last of them has closed stdout and stderr


@pytest.fixture
def silent_listener() -> Iterator[str]:
    """The URL of a Redis that accepts connections and says nothing."""
    with socket.create_server((HOST, 0)) as listener:
        yield f"redis://me:secret@{HOST}:{listener.getsockname()[1]}?timeout=0.2"


def check_refused(capsys: pytest.CaptureFixture[str], url: str, *words: str) -> None:
    """That it ends with status 2 and one line that has these words, and no password."""
    with pytest.raises(SystemExit) as ended:
        cli.run_check(check.Wish(url, operations=100), as_json=False)
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith("cacheside: ")
    assert "secret" not in line
    for word in words:
        assert word in line


def test_dead_server(capsys: pytest.CaptureFixture[str]) -> None:
    """A server that is not there is named."""
    port = free_port()
    redis_url, memcached_url = f"redis://{HOST}:{port}/0", f"memcached://{HOST}:{port}"
    check_refused(capsys, redis_url.replace("//", "//me:secret@"), redis_url, "does not answer", "refused")
    check_refused(capsys, memcached_url, memcached_url, "does not answer", "refused")


def test_silent_server(silent_listener: str, capsys: pytest.CaptureFixture[str]) -> None:
    """So is one that does not answer."""
    check_refused(capsys, silent_listener, "does not answer")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("memory://", ("memory://", "private to one process", "cacheside demo")),
        ("null://", ("null://", "keeps nothing")),
        ("nonsense", ("cache URL",)),
        ("gopher://me:secret@localhost/0", ("gopher",)),
        ("redis://localhost/0?namespace=mine", ("namespace",)),
        ("redis://localhost/0?timeout=soon", ("timeout",)),
    ],
)
def test_urls_that_cannot_be_checked(capsys: pytest.CaptureFixture[str], url: str, words: tuple[str, ...]) -> None:
    """What cannot be checked is refused in one line that says why."""
    check_refused(capsys, url, *words)


@pytest.mark.parametrize(
    "options",
    [
        ["--writes", "0"],
        ["--processes", "0"],
        ["--keys", "x"],
        ["--operations", "0"],
        ["--seconds", "-1"],
        ["--seconds", "1", "--operations", "5"],
        [],
    ],
)
def test_bad_options(capsys: pytest.CaptureFixture[str], options: list[str]) -> None:
    """Options out of range, two that exclude each other, and no URL at all: status 2 before anything is done."""
    with pytest.raises(SystemExit) as ended:
        cli.make_app()(["check", *options, *(["redis://localhost"] if options else [])])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert (options[0] if options else "URL") in err.replace("url", "URL")
