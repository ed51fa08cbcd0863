"""`cacheside demo`, as a user runs it, and a proof that its check of staleness can fail."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from servers import MemcachedServer, PostgresServer, RedisServer, free_port

import cacheside
from cacheside import cli, demo
from cacheside.demo.products import Products
from cacheside.demo.traffic import Oracle


def run(*arguments: str, code: str | None = None, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m cacheside` with these arguments, or other code of Python; temporary files go into `folder`."""
    program = ["-m", "cacheside"] if code is None else ["-c", code]
    environment = os.environ | {"COLUMNS": "80"} | ({"TMPDIR": str(folder)} if folder else {})
    return subprocess.run(
        [sys.executable, *program, *arguments], env=environment, text=True, capture_output=True, timeout=100
    )


def run_without(package: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command where `package` is not installed."""
    hide = f"import sys; sys.modules[{package!r}] = None; "
    return run(*arguments, code=hide + "from cacheside.cli import main; main()")


def check_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """That it ended with status 2 and one line that has these words."""
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("cacheside: ")
    for word in words:
        assert word in line


def check_figures(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """That a run with --json has shown what the demo promises; returns its figures."""
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    figures: dict[str, Any] = json.loads(done.stdout)
    assert figures["rows"] >= 50_000
    assert figures["stale_reads"] == 0
    assert figures["reads_checked"] >= figures["calls"] > figures["entries_checked"] > 0
    assert figures["writes"] > 0
    assert figures["errors"] == 0
    assert figures["stampede_of_threads"] == {"callers": 1000, "loads": 1}
    assert figures["stampede_of_tasks"] == {"callers": 1000, "loads": 1}
    assert 0.2 < figures["hit_rate"] < 1
    assert figures["store_reads_saved"] == figures["calls"] - figures["store_reads"] > 0
    for latency in (figures["latency_with_cache"], figures["latency_without_cache"]):
        assert 0 < latency["p50_us"] <= latency["p99_us"]
    return figures


def tables_in(server: PostgresServer) -> list[Any]:
    """The demo's tables in the database."""
    with psycopg.connect(server.url) as connection:
        return connection.execute("SELECT relname FROM pg_class WHERE relname LIKE 'cacheside_demo_%'").fetchall()


def test_memory_in_front_of_sqlite(tmp_path: Path) -> None:
    """With nothing but the package: no stale read, one load per stampede, and no file left behind."""
    figures = check_figures(run("demo", "--seconds", "2", "--json", folder=tmp_path))
    assert figures["cache"] == "memory://"
    assert figures["store"] == "sqlite://"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.proof
def test_redis_in_front_of_postgresql(redis_server: RedisServer, postgres_server: PostgresServer) -> None:
    """The same on Redis and PostgreSQL; the table is dropped and the entries are cleared."""
    urls = ("--cache", redis_server.url, "--store", postgres_server.url)
    check_figures(run("demo", "--seconds", "2", "--json", *urls))
    assert tables_in(postgres_server) == []
    with redis.Redis.from_url(redis_server.url) as client:
        assert list(client.scan_iter("cacheside-demo-*")) == []


@pytest.mark.proof
def test_memcached_in_front_of_postgresql(memcached_server: MemcachedServer, postgres_server: PostgresServer) -> None:
    """The same on memcached and PostgreSQL; the table is dropped."""
    urls = ("--cache", memcached_server.url, "--store", postgres_server.url)
    check_figures(run("demo", "--seconds", "2", "--json", *urls))
    assert tables_in(postgres_server) == []


@pytest.mark.proof
def test_table() -> None:
    """People get a progress bar for each phase, and a table that fits 80 columns."""
    done = run("demo", "--seconds", "1")
    assert done.returncode == 0, done.stderr
    for phase in ("building the store", "reading and writing", "two stampedes", "comparing with the store"):
        assert phase in done.stderr
    assert done.stderr.count("100%") >= 5
    for row in ("calls", "hit rate", "store reads saved", "coalesced callers", "latency p50", "latency p99"):
        assert row in done.stdout
    assert re.search(r"stampede of 1,000 threads\W+1 load\W", done.stdout)
    assert re.search(r"stampede of 1,000 tasks\W+1 load\W", done.stdout)
    assert re.search(r"stale reads\W+0\W", done.stdout)
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.fixture
def _own_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo sets the default cache of the process: afterwards it is what it was."""
    monkeypatch.setattr("cacheside.cache._default", None)


def run_here(capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """A short run in this process, on whatever a test has broken in it: the exit status and the figures."""
    status = cli.run_demo("memory://", "sqlite://", 1.0, as_json=True)
    return status, json.loads(capsys.readouterr().out)


@pytest.mark.proof
@pytest.mark.usefixtures("_own_default")
@pytest.mark.parametrize("write", ["set_price", "aset_price"])
def test_a_stale_read_is_seen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], write: str) -> None:
    """Take the invalidation from one of the writes: reads are found stale, and the status is 1."""
    monkeypatch.setattr(Products, write, getattr(Products, write).__wrapped__)
    monkeypatch.setattr(demo, "differing", lambda *_: 0)
    status, figures = run_here(capsys)
    assert figures["stale_reads"] > 0
    assert status == 1


@pytest.mark.proof
@pytest.mark.usefixtures("_own_default")
def test_a_stale_entry_is_seen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Blind to stale reads, it still finds the entries that differ from the store at the end, and the status is 1."""
    monkeypatch.setattr(Products, "set_price", Products.set_price.__wrapped__)
    monkeypatch.setattr(Oracle, "floor", lambda self, product_id: 0)
    status, figures = run_here(capsys)
    assert 0 < figures["stale_reads"] <= figures["entries_checked"]
    assert status == 1


@pytest.mark.usefixtures("_own_default")
def test_a_failing_worker_ends_the_demo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """When the store fails under the traffic, there is one line, status 2, and no file left."""

    def fail(self: Products, product_id: int, price: int) -> int:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(Products, "set_price", fail)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        cli.run_demo("memory://", "sqlite://", 1.0, as_json=True)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "cacheside: the SQLite store failed: disk I/O error\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(tmp_path: Path, sent: signal.Signals, status: int) -> None:
    """Ctrl-C, or a kill, in the middle: the store is removed all the same, and there is no traceback."""
    # A shell starts what it puts into the background with Ctrl-C ignored, and so may whoever runs these tests.
    program = (
        "import signal, cacheside.cli as cli; signal.signal(signal.SIGINT, signal.default_int_handler); cli.main()"
    )
    command = [sys.executable, "-c", program, "demo", "--seconds", "60", "--json"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        try:
            while not list(tmp_path.glob("*/store.db")):
                assert process.poll() is None
                time.sleep(0.02)
            process.send_signal(sent)
            said = process.stderr.read()
            assert process.wait(60) == status
        finally:
            process.kill()
    assert "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_help_and_version() -> None:
    """Alone the command shows its help; `--version` its version."""
    alone, version = run(), run("--version")
    assert (alone.returncode, alone.stderr, version.returncode) == (0, "", 0)
    assert "demo" in alone.stdout
    assert version.stdout == f"cacheside {cacheside.__version__}\n"


@pytest.mark.parametrize("package", ["typer", "rich"])
def test_missing_extra(package: str) -> None:
    """Without the extra `cli` there is one line with the pip command."""
    check_refused(run_without(package, "demo"), package, "pip install 'cacheside[cli]'")


def test_missing_psycopg() -> None:
    """So there is for a PostgreSQL store without the extra `postgresql`."""
    done = run_without("psycopg", "demo", "--store", "postgresql://localhost/shop")
    check_refused(done, "psycopg", "pip install 'cacheside[postgresql]'")


@pytest.mark.parametrize("option", ["--cache", "--store"])
@pytest.mark.parametrize("url", ["nonsense", "gopher://me:secret@localhost/0"])
def test_bad_urls(option: str, url: str) -> None:
    """A URL of no known kind is refused in one line, which does not repeat its password."""
    done = run("demo", option, url)
    check_refused(done, option.strip("-"))
    assert "secret" not in done.stderr


def test_malformed_postgresql_url() -> None:
    """So is one that psycopg cannot read."""
    done = run("demo", "--store", "postgresql://me:secret%zz@localhost/shop")
    check_refused(done, "postgresql://localhost/shop")
    assert "secret" not in done.stderr


@pytest.mark.parametrize("kind", ["redis", "memcached"])
def test_dead_cache(kind: str) -> None:
    """A demo of a dead cache would be of no use: it says that the server does not answer."""
    url = f"{kind}://127.0.0.1:{free_port()}"
    check_refused(run("demo", "--cache", url), url, "does not answer", "refused")


def test_dead_store() -> None:
    """A PostgreSQL server that is down is named, without the password."""
    port = free_port()
    done = run("demo", "--store", f"postgresql://me:secret@127.0.0.1:{port}/shop")
    check_refused(done, f"postgresql://127.0.0.1:{port}/shop", "refused")
    assert "secret" not in done.stderr
