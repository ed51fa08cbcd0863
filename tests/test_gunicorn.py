"""`gunicorn --preload`: the cache is used before the workers are forked, and served over HTTP by all of them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from recording_proxy import Recorder
from servers import HOST, free_port

TIMEOUT = 30  # seconds


class Gunicorn:
    """The application of gunicorn_app.py with two workers."""

    def __init__(self, cache: str, namespace: str, log: Path) -> None:
        self._port = free_port()
        self._log = log
        path = os.pathsep.join([str(Path(__file__).parent), *(entry for entry in sys.path if entry)])
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-W", "error::ResourceWarning", "-m", "gunicorn", "--preload", "--workers", "2",
                    "--worker-class", "gthread", "--threads", "4", "--bind", f"{HOST}:{self._port}",
                    "gunicorn_app:application",
                ],
                env={**os.environ, "PYTHONPATH": path, "APP_CACHE": cache, "APP_NAMESPACE": namespace},
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
            )  # fmt: skip

    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace")

    def wait_until_ready(self) -> None:
        """It answers."""
        end = time.monotonic() + TIMEOUT
        while True:
            with contextlib.suppress(OSError):
                self.ask("get", 0)
                return
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < end, self.log()
            time.sleep(0.02)

    def ask(self, verb: str, row: int) -> dict[str, Any]:
        """One request, on a connection of its own, so that any worker may get it."""
        connection = http.client.HTTPConnection(HOST, self._port, timeout=TIMEOUT)
        try:
            connection.request("GET", f"/{verb}/{row}", headers={"Connection": "close"})
            response = connection.getresponse()
            assert response.status == 200, self.log()
            answer: dict[str, Any] = json.loads(response.read())
            return answer
        finally:
            connection.close()

    def stop(self) -> None:
        """Ask it to end, and wait; kill it, and its workers end by themselves, if it does not."""
        self.process.terminate()
        try:
            self.process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(
    params=[
        "memory",
        pytest.param("redis_server", marks=pytest.mark.server),
        pytest.param("memcached_server", marks=pytest.mark.server),
    ]
)
def recorder(request: pytest.FixtureRequest) -> Iterator[Recorder | None]:
    """Before each kind of server; None for memory."""
    if request.param == "memory":
        yield None
        return
    with Recorder(request.getfixturevalue(request.param)) as made:
        yield made


@pytest.fixture
def gunicorn(recorder: Recorder | None, namespace: str, tmp_path: Path) -> Iterator[Gunicorn]:
    """Running."""
    server = Gunicorn("memory://" if recorder is None else recorder.url, namespace, tmp_path / "log")
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def test_preloaded(gunicorn: Gunicorn, recorder: Recorder | None) -> None:
    """Both workers serve right rows in both colours without an error, and no connection is shared with anybody."""
    names: set[str] = {"master"}

    def ask(verb: str, row: int) -> None:
        answer = gunicorn.ask(verb, row)
        assert answer["errors"] == 0
        pid, rows = answer["pid"], answer["rows"]
        names.add(f"worker-{pid}")
        if rows is not None:
            assert rows[0] == [f"worker-{pid}", row, pid]
            assert rows[1][:2] == ["all", row]

    end = time.monotonic() + TIMEOUT
    while len(names) < 3:
        assert time.monotonic() < end, "one worker gets all requests"
        with ThreadPoolExecutor(8) as threads:
            verbs = ("get", "aget", "get", "aget", "drop")
            done = [threads.submit(ask, verb, row) for row in range(10) for verb in verbs]
        for each in done:
            each.result()
    if recorder is not None:
        # What one worker loaded the other one gets; and what one drops the other one has no longer.
        for verb in ("get", "aget"):
            loaded_by = [gunicorn.ask(verb, 99)["rows"][1][2] for _ in range(20)]
            assert len(set(loaded_by)) == 1
        owners = recorder.connections(*names)
        assert all(len(who) == 1 for who in owners)
        assert set().union(*owners) == names
    gunicorn.stop()
    assert gunicorn.process.returncode == 0
    assert "Traceback" not in gunicorn.log()
    assert "ResourceWarning" not in gunicorn.log()
