"""A shop as a process of its own: made ready, served, and ended by its pid."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from servers import HOST, free_port

from .drive import Http, Report

START_SECONDS = 30.0


class Served:
    """An application with two workers, on a database of its own: a context manager.

    Args:
        folder: its log goes there.
        settings: more of its environment.
    """

    module: str
    """Running it makes the tables."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self.database = f"shop_{uuid.uuid4().hex}"
        self.port = free_port()
        self.url = f"http://{HOST}:{self.port}"
        self._log = folder / "log"
        paths = [str(Path(__file__).parent), *(entry for entry in sys.path if entry)]
        self.environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **settings}

    def serve(self) -> list[str]:
        """The arguments of Python that serve it."""
        raise NotImplementedError

    def admin(self, statement: str) -> None:
        """Execute a statement on the database's server."""
        raise NotImplementedError

    def drop(self) -> str:
        """The statement that drops its database."""
        return f"DROP DATABASE {self.database}"

    def __enter__(self) -> Self:
        self.admin(f"CREATE DATABASE {self.database}")
        assert self._python("-m", self.module).wait(START_SECONDS) == 0, self.log()
        self.process = self._python(*self.serve())
        try:
            end = time.monotonic() + START_SECONDS
            while not self._answers():
                assert self.process.poll() is None, self.log()
                assert time.monotonic() < end, self.log()
                time.sleep(0.05)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(START_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.admin(self.drop())

    def send(self, method: str, path: str, body: Any = None, expected: int = 200) -> Any:
        """The answer to one request, on a connection of its own, so that any worker may get it."""
        http = Http(self.url)
        try:
            return http(method, path, body, expected)
        finally:
            http.close()

    def log(self) -> str:
        """What it has said so far."""
        return self._log.read_text(errors="replace")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return bool(self.send("GET", "/stats"))
        return False

    def _python(self, *command: str) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *command], env=self.environment, stdout=log, stderr=subprocess.STDOUT
            )


def check(report: Report, shop: Served) -> None:
    """Both workers were busy, and nothing is stale, nothing that was rolled back was seen, and there was no error."""
    print(report)
    assert report.errors == [], shop.log()
    assert report.stale == []
    assert report.torn == []
    assert report.workers == 2
    assert report.reads > 10 * report.seconds
    assert report.writes > 2 * report.seconds
    assert report.rolled_back > 0
    assert "Traceback" not in shop.log()


class Killer:
    """Kills a cache server and starts it again, over and over; a call is one time."""

    def __init__(self, kill: Callable[[], object], start: Callable[[], object], seed: int) -> None:
        self.kills = 0
        self._kill, self._start = kill, start
        self._chance = random.Random(seed)

    def __call__(self) -> None:
        time.sleep(self._chance.uniform(0.3, 1.5))
        self._kill()
        self.kills += 1
        time.sleep(self._chance.uniform(0.0, 0.8))
        self._start()
