"""The base of `servers.py`: one real server, in a temporary folder of its own, on a free port, stopped by its pid.

A server belongs to the process that started it. It goes when its `with` block ends, when that process exits, and on
Linux also when that process is killed. Nothing here reads or changes the servers that the machine itself may run.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, ClassVar, Self

HOST = "127.0.0.1"
START_SECONDS = 60.0
STOP_SECONDS = 15.0


class ServerMissing(RuntimeError):
    """The program is not on this machine; the message says what to install."""


class ServerFailed(RuntimeError):
    """The program would not start; the message ends with the last lines of its log."""


def free_port() -> int:
    """A port that nobody listens on, below the range from which systems take the ports of outgoing connections.

    Inside that range a client that keeps trying a dead server's port is in the end connected to itself.
    """
    while True:
        port = random.randrange(15_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


def find_program(name: str, package: str, folders: Sequence[str] = ()) -> str:
    """The path of a program, searched in PATH, `folders`, and where Debian keeps daemons.

    Raises:
        ServerMissing: it is not installed.
    """
    places = [os.environ.get("PATH", os.defpath), *folders, "/usr/sbin", "/usr/local/sbin"]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise ServerMissing(
            f"{name} is not installed: apt-get install {package} (elsewhere, the package that has it), "
            'or run the tests that need no server: pytest -m "not server"'
        )
    return found


class Server:
    """One server: `start`, `stop` and `start` again as often as you like, on the same port and with the same folder.

    Args:
        args: more arguments for the program's command line.

    `with` starts it, and stops and removes it at the end. One object is not for several threads at once.
    """

    accounts: ClassVar[Sequence[str]] = ()
    """A program that refuses to run as root runs as the first of these accounts that exists."""
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM
    orphan_signal: ClassVar[str] = "KILL"
    """What the kernel sends it when the tests are killed."""

    def __init__(self, *args: str) -> None:
        self.args = args
        self.port = 0
        self._folder: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0

    @property
    def url(self) -> str:
        """Where clients find it."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """The program and its arguments, without `self.args`."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether it serves now; may raise OSError while it does not. Never fooled by a stranger on the port."""
        raise NotImplementedError

    def prepare(self) -> None:
        """What has to be done once, in the new folder, before the first start."""

    @property
    def folder(self) -> Path:
        """Where the server keeps its files, from its first start until `close`."""
        if self._folder is None:
            raise RuntimeError(f"{type(self).__name__} has not been started")
        return self._folder

    @property
    def running(self) -> bool:
        """Whether its process is alive (a frozen one is)."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"{type(self).__name__} is not running")
        return self._process.pid

    def start(self) -> Self:
        """Start it and wait until it really answers.

        Raises:
            ServerMissing: its program is not installed.
            ServerFailed: it ended, or gave no answer for a minute.
        """
        if self.running:
            raise RuntimeError(f"{type(self).__name__} is running already")
        fresh = self._folder is None
        if fresh:
            self._owner = os.getpid()
            self._folder = Path(tempfile.mkdtemp(prefix="cacheside-"))
            _live.add(self)
        try:
            if fresh:
                if (account := self._account()) is not None:
                    os.chown(self.folder, account.pw_uid, account.pw_gid)
                self.prepare()
            # Somebody may take the port before we bind it; and what a killed server held may be let go a little later.
            for pause in (0.1, 0.1, 0.0) if fresh else (0.1, 0.5, 1.0, 2.0, 0.0):
                if fresh:
                    self.port = free_port()
                if self._launch():
                    return self
                time.sleep(pause)
            raise ServerFailed(f"{self.command()[0]} does not start; its log ends:\n{self._log_tail()}")
        except BaseException:
            if fresh:
                self.close()
            raise

    def stop(self) -> None:
        """Ask it to end, wait, and kill it if it does not. Its folder stays. Does nothing if it is not running."""
        process, self._process = self._process, None
        if process is None or process.poll() is not None:
            return
        process.send_signal(self.stop_signal)
        process.send_signal(signal.SIGCONT)  # while frozen it would not see the signal before
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill(self) -> None:
        """SIGKILL: it gets no chance to save or say anything. It has ended when this returns."""
        os.kill(self.pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()

    def restart(self) -> None:
        """Stop it, if it still runs, and start it on the same port."""
        self.stop()
        self.start()

    def freeze(self) -> None:
        """SIGSTOP: the system still accepts connections for it, but nothing is answered. It has stopped on return.

        A database that serves each connection by a process of its own goes on serving those it has.
        """
        os.kill(self.pid, signal.SIGSTOP)
        os.waitpid(self.pid, os.WUNTRACED)

    def thaw(self) -> None:
        """SIGCONT: the end of `freeze`."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop it and remove its folder. The next `start` makes a new server, on a new port."""
        if self._folder is None or os.getpid() != self._owner:  # a fork of the tests must not end its parent's server
            return
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None
        _live.discard(self)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, *command: str) -> None:
        """Run a helper program to its end, in the server's folder and as its account; ServerFailed if it fails."""
        if self._popen(list(command)).wait() != 0:
            raise ServerFailed(f"{command[0]} failed; its log ends:\n{self._log_tail()}")

    def _launch(self) -> bool:
        self._process = process = self._popen([*self.command(), *self.args])
        deadline = time.monotonic() + START_SECONDS
        while process.poll() is None:
            with contextlib.suppress(OSError):
                if self.answers():
                    return True
            if time.monotonic() > deadline:
                raise ServerFailed(f"{process.args!r} gives no answer; its log ends:\n{self._log_tail()}")
            time.sleep(0.02)
        return False

    def _popen(self, command: list[str]) -> subprocess.Popen[bytes]:
        # The kernel sends the signal when the *thread* that started the server ends: so only the main one may ask.
        if _can_die_with_parent() and threading.current_thread() is threading.main_thread():
            command = ["setpriv", "--pdeathsig", self.orphan_signal, "--", *command]
        options: dict[str, Any] = {}
        if (account := self._account()) is not None:
            options = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
        with self._log() as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={**os.environ, "LC_ALL": "C", "HOME": str(self.folder)},
                start_new_session=True,  # Ctrl-C is for pytest alone, which then stops its servers in good order
                **options,
            )

    def _account(self) -> pwd.struct_passwd | None:
        if os.geteuid() != 0 or not self.accounts:
            return None
        for name in self.accounts:
            with contextlib.suppress(KeyError):
                return pwd.getpwnam(name)
        raise ServerMissing(f"{type(self).__name__} may not run as root, and there is no account {self.accounts}")

    def _log(self) -> IO[bytes]:
        return (self.folder / "log").open("ab")

    def _log_tail(self) -> str:
        return "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-20:])


@functools.cache
def _can_die_with_parent() -> bool:
    """Whether this system has util-linux's setpriv, which asks the kernel for a signal at the parent's death."""
    with contextlib.suppress(OSError):
        said = subprocess.run(["setpriv", "--help"], capture_output=True, check=False, stdin=subprocess.DEVNULL)
        return b"--pdeathsig" in said.stdout + said.stderr
    return False


_live: set[Server] = set()


@atexit.register
def _close_all() -> None:
    for server in list(_live):
        server.close()
