"""The processes of the check, as their parent sees them: started, told to race, listened to, never waited for long."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import connection
from multiprocessing.context import SpawnProcess
from typing import Any

from . import worker
from .figures import Tally
from .store import Store
from .ways import Way
from .worker import CALLERS, Failure, Go, Settings

GRACE = 10.0  # seconds that a process may take to end after it was told to


class Worker:
    """One process."""

    def __init__(self, number: int, settings: Settings, store: Store, kinds: Sequence[type[Way]]) -> None:
        # Not forked: what a user's cache does in a forked child is not what is to be checked, and threads forbid it.
        context = multiprocessing.get_context("spawn")
        self.number = number
        self.pipe: connection.Connection
        self.pipe, theirs = context.Pipe()
        self.answer: Any = None
        self.process: SpawnProcess = context.Process(
            target=worker.main, args=(theirs, number * CALLERS, settings, store, kinds), daemon=True
        )
        self.process.start()
        theirs.close()  # so that the end of the process is the end of the pipe

    def listen(self) -> None:
        """Take the answer that has come, or the end of the process for one."""
        try:
            self.answer = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(1)
            self.answer = Failure(f"process {self.number} ended by itself, with exit code {self.process.exitcode}")

    def kill(self) -> None:
        """End it now."""
        self.process.kill()
        self.answer = Failure(f"process {self.number} did not end within {GRACE:.0f} seconds, and was killed")


class Crew:
    """All processes; they end with the block."""

    def __init__(self, size: int, settings: Settings, store: Store, kinds: Sequence[type[Way]]) -> None:
        self.seen: list[tuple[Tally, float]] = []
        """For each race that has begun what was seen in it, and its seconds."""
        self.interrupted: bool = False
        self.failures: list[str] = []
        self.troubles: list[str] = []
        """What caches first failed of."""
        self._store = store
        self._workers: list[Worker] = []
        self._plan = size, settings, kinds
        self._begun = False

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *failure: object) -> None:
        self._store.stop()  # whoever is in a write ends it: a strict one killed in it would leave its guard
        for each in self._workers:
            each.pipe.close()
        end = time.monotonic() + (GRACE if self._begun else 0)
        for each in self._workers:
            each.process.join(max(0.0, end - time.monotonic()))
            each.process.kill()
            each.process.join()

    def race_all(
        self, operations: int | None, seconds: float | None, phases: Sequence[Callable[[float], None]]
    ) -> None:
        """Race one kind of cache after the other, until one ends early: `interrupted`, or with `failures`.

        Args:
            operations: of all processes, in each race; None: as many as fit into `seconds`.
            phases: are told of the progress of each race.
        """
        try:
            size, settings, kinds = self._plan
            with unheard():
                for number in range(size):
                    self._workers.append(Worker(number, settings, self._store, kinds))
            for progress in phases:
                self._store.begin()
                for one in self._workers:
                    one.answer = None
                self._listen(lambda: None)
                if self.failures:
                    return
                self._race(operations, seconds, progress)
                if self.failures or self.interrupted:
                    return
        except KeyboardInterrupt:  # before there was a race
            self.interrupted = True

    def _race(self, operations: int | None, seconds: float | None, progress: Callable[[float], None]) -> None:
        self._begun = True
        size = len(self._workers)
        begin = time.monotonic()
        shares: list[int] | None = None
        if operations is not None:
            each, more = divmod(operations, size * CALLERS)
            shares = [each + (number < more) for number in range(size * CALLERS)]
        for number, one in enumerate(self._workers):
            one.answer = None
            with contextlib.suppress(OSError):  # it has died: we shall hear of that
                one.pipe.send(Go(shares and shares[number * CALLERS : (number + 1) * CALLERS]))

        def look() -> None:
            passed = time.monotonic() - begin
            if seconds is not None:
                progress(min(1.0, passed / seconds))
                if passed >= seconds:
                    self._store.stop()
            elif operations:
                progress(self._store.done / operations)

        try:
            self._listen(look)
        except KeyboardInterrupt:
            self.interrupted = True
            self._store.stop()
            self._listen(lambda: None)
        total = Tally()
        for one in self._workers:
            if type(one.answer) is Tally:
                total.update(one.answer)
                if one.answer.trouble:
                    self.troubles.append(one.answer.trouble)
        self.seen.append((total, time.monotonic() - begin))

    def _listen(self, look: Callable[[], None]) -> None:
        """Wait until all have answered; once they were told to stop, for `GRACE` seconds. `look` now and then."""
        end = float("inf")
        while waiting := {one.pipe: one for one in self._workers if one.answer is None}:
            for pipe in connection.wait(list(waiting), 0.1):
                one = waiting[pipe]  # type: ignore[index]  # wait() is typed for whatever can be waited for
                one.listen()
                if type(one.answer) is Failure:
                    self._store.stop()
            look()
            now = time.monotonic()
            if self._store.stopped:
                end = min(end, now + GRACE)
            if now > end:
                for one in waiting.values():
                    if one.answer is None:
                        one.kill()
        self.failures += [one.answer.reason for one in self._workers if type(one.answer) is Failure]


@contextlib.contextmanager
def unheard() -> Iterator[None]:
    """Processes that are started in the block do not hear Ctrl-C: they would die of it in the midst of an import."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
