"""A process that takes part in a race by dying in it: its children are killed at a named step of a read or a write.

It is told the options of the race in JSON, as its only argument. For each line of input, in JSON as well, it forks a
child, which opens a cache of its own and kills itself at the step; then it says which version the child had committed
last, 0 for none.

The steps of a verb of the backend: "guard" before it; "guard sent 1" when the first bytes of it were sent; "guard sent
2" after the second ones, and so on; "guard done" when it has its answer; "leased" when the answer is a lease. The steps
of the store: "writing" before the row is written; "transaction" when it is written and not committed; "committed";
"loading" inside a load under a lease.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

import psycopg

from cacheside.backends.base import Leased

from .rows import Rows
from .ways import Decorated


def die() -> None:
    """No clean-up, no farewell."""
    os.kill(os.getpid(), signal.SIGKILL)


class Steps:
    """Where a child is, and where it has to die."""

    def __init__(self, last: str) -> None:
        self._last = last
        self._verb = ""
        self._sent = 0
        self.leased = False

    def reached(self, step: str) -> None:
        """Die, if it is the one."""
        if step == self._last:
            die()

    def watch(self, backend: Any) -> None:
        """Have the verbs of a backend, of either colour, tell where they are."""
        for verb in ("lookup", "fill", "guard", "unguard", "update"):
            setattr(backend, verb, self._watched(verb, getattr(backend, verb)))

    def watch_sockets(self) -> None:
        """Have all that is sent counted."""
        for name in ("send", "sendall"):
            setattr(socket.socket, name, self._counted(getattr(socket.socket, name)))

    def _watched(self, verb: str, fn: Callable[..., Any]) -> Callable[..., Any]:
        def begin() -> None:
            self.reached(verb)
            self._verb, self._sent = verb, 0

        def end(answer: Any) -> Any:
            self._verb = ""
            self.reached(f"{verb} done")
            if verb == "lookup":
                self.leased = isinstance(answer, Leased)
                if self.leased:
                    self.reached("leased")
            return answer

        def call(*args: Any) -> Any:
            begin()
            return end(fn(*args))

        async def acall(*args: Any) -> Any:
            begin()
            return end(await fn(*args))

        return acall if asyncio.iscoroutinefunction(fn) else call

    def _counted(self, send: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            answer = send(*args)
            if self._verb:
                self._sent += 1
                self.reached(f"{self._verb} sent {self._sent}")
            return answer

        return call


class DoomedRows(Rows):
    """The store of a child, plain code for both colours; each version that it has committed is told to `pipe`."""

    def __init__(self, url: str, name: str, steps: Steps, pipe: int) -> None:
        super().__init__(url, name)
        self._steps = steps
        self._pipe = pipe

    def load(self, key: int) -> int:
        """See `Rows.load`."""
        version = super().load(key)
        if self._steps.leased:
            self._steps.reached("loading")
        return version

    def write(self, key: int, done: list[int]) -> int:
        """See `Rows.write`."""
        self._steps.reached("writing")
        with psycopg.connect(self._url) as connection:
            row = connection.execute(self._update, (key,)).fetchone()
            self._steps.reached("transaction")
        assert row is not None
        os.write(self._pipe, f"{row[0]}\n".encode())
        self._steps.reached("committed")
        return int(row[0])

    async def aload(self, key: int) -> int:
        """See `Rows.aload`."""
        return self.load(key)

    async def awrite(self, key: int, done: list[int]) -> int:
        """See `Rows.awrite`."""
        return self.write(key, done)


def doomed(options: dict[str, Any], told: dict[str, Any], pipe: int) -> None:
    """The life of a child: it reads, or writes, until it dies."""
    steps = Steps(told["step"])
    rows = DoomedRows(options["store"], options["table"], steps, pipe)
    way = Decorated(options, rows)
    key, kind = told["key"], told["kind"]
    core = way.cache._core
    if told["colour"] == "sync":
        way.cache.invalidate("warm")  # so that the connection is there, and what is sent is the verb's
        steps.watch(core.backend)
        steps.watch_sockets()
        while True:
            if kind == "read":
                way.cache.invalidate(f"row:{key}")
                way.read(key)
            else:
                way.writes[kind](key, [])

    async def live() -> None:
        await way.cache.ainvalidate("warm")
        steps.watch(core.aio)
        steps.watch_sockets()
        while True:
            if kind == "read":
                await way.cache.ainvalidate(f"row:{key}")
                await way.aread(key)
            else:
                await way.awrites[kind](key, [])

    asyncio.run(live())


def perish(options: dict[str, Any], told: dict[str, Any]) -> int:
    """Fork a child, see it die, and return what it had committed."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            doomed(options, told, theirs)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)  # it was to be killed
    os.close(theirs)
    _, status = os.waitpid(child, 0)
    with os.fdopen(ours) as pipe:
        versions = pipe.read().split()
    assert os.WIFSIGNALED(status), f"the child has survived {told}"
    assert os.WTERMSIG(status) == signal.SIGKILL
    return int(versions[-1]) if versions else 0


def main() -> None:
    """Let one child after the other die."""
    logging.getLogger("cacheside").addHandler(logging.NullHandler())
    options = json.loads(sys.argv[1])
    Decorated(options, Rows(options["store"], options["table"]))  # imports what all children need
    print("ready", flush=True)
    for line in sys.stdin:
        print(perish(options, json.loads(line)), flush=True)


if __name__ == "__main__":
    main()
