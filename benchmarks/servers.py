"""Servers of our own: on a free port of loopback, memory only, and ended by their pid when the block ends."""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pymemcache  # type: ignore[import-untyped]  # it has no types
import redis

HOST = "127.0.0.1"
PATIENCE = 20.0  # seconds to start, and to end


class ServerMissing(RuntimeError):
    """The program is not on this machine, or does not start."""


@dataclass(frozen=True)
class Server:
    """A running one."""

    port: int
    version: str


@contextlib.contextmanager
def one_cpu() -> Iterator[None]:
    """This process, and the servers that it starts in this block, on one CPU, where the system can do that.

    Client and server take turns, so they need no second one; and waking another that is idle takes longer than all that
    is to be compared here, on a virtual machine several times as long, and never twice the same time.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def redis_server() -> Iterator[Server]:
    """A redis-server that saves nothing."""

    def asked(port: int) -> tuple[int, str]:
        with redis.Redis(HOST, port, socket_timeout=1) as client:
            said: Any = client.info("server")
            return said["process_id"], f"Redis {said['redis_version']}"

    options = ["--bind", HOST, "--save", "", "--appendonly", "no", "--port"]
    with _running("redis-server", options, asked) as server:
        yield server


@contextlib.contextmanager
def memcached_server() -> Iterator[Server]:
    """A memcached."""

    def asked(port: int) -> tuple[int, str]:
        with contextlib.closing(pymemcache.Client((HOST, port), timeout=1, connect_timeout=1)) as client:
            said = client.stats()
            return int(said[b"pid"]), f"memcached {said[b'version'].decode()}"

    with _running("memcached", ["-l", HOST, "-U", "0", "-p"], asked) as server:
        yield server


@contextlib.contextmanager
def _running(program: str, options: list[str], asked: Callable[[int], tuple[int, str]]) -> Iterator[Server]:
    """Start it with the port as its last argument.

    Args:
        asked: the pid and version of what answers at a port; raises while nothing does.

    Raises:
        ServerMissing: see there.
    """
    path = shutil.which(program, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/usr/local/sbin")
    if path is None:
        raise ServerMissing(f"{program} is not installed: apt-get install {program}, or leave its part out by --only")
    with tempfile.TemporaryDirectory(prefix="cacheside-", ignore_cleanup_errors=True) as folder:
        for _ in range(3):  # somebody may take the port before it does
            port = free_port()
            process = subprocess.Popen(
                [*_dies_with_us(), path, *options, str(port)],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                cwd=folder, start_new_session=True, **_account(program),
            )  # fmt: skip
            try:
                version = _answer(process, port, asked)
                if version is not None:
                    yield Server(port, version)
                    return
            finally:
                process.terminate()
                try:
                    process.wait(PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    raise ServerMissing(f"{program} does not start")


def _answer(process: subprocess.Popen[bytes], port: int, asked: Callable[[int], tuple[int, str]]) -> str | None:
    """The version, once it answers; None if it has ended, or does not answer in time, or another has its port."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(Exception):  # of the client, of whatever kind: it does not answer yet
            pid, version = asked(port)
            return version if pid == process.pid else None
        time.sleep(0.02)
    return None


def free_port() -> int:
    """A port that nobody listens on, below the range of outgoing connections."""
    while True:
        port = random.randrange(15_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


def _account(program: str) -> dict[str, Any]:
    """memcached refuses to run as root."""
    if program != "memcached" or os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


@functools.cache
def _dies_with_us() -> list[str]:
    """Where util-linux has it, a prefix that has the kernel end the server when this process is killed."""
    found = shutil.which("setpriv")
    if found is None:
        return []
    said = subprocess.run([found, "--help"], capture_output=True, check=False, stdin=subprocess.DEVNULL)
    return [found, "--pdeathsig", "KILL", "--"] if b"--pdeathsig" in said.stdout + said.stderr else []
