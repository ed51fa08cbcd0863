"""Work of plain code that nobody waits for: refreshing values while the old ones are served.

Threads of our own and not those of concurrent.futures, which the interpreter joins at its exit: a load that hangs would
keep the program from ending. These are daemons: what they are at when the program ends is broken off. A claim that is
left behind ends by itself, and another process refreshes.

(Async code has tasks for this, in the loop of the call; see `giveback.spawn`.)
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Final

from . import forks
from .flight import loading
from .health import logger

if TYPE_CHECKING:
    from .keeper import Policy

THREADS: Final = 8
SHARE: Final = THREADS // 2
"""Threads that one function has at most: if its refreshes hang, those of others go on."""
WAITING: Final = 1000
"""Refreshes of one function that may wait for a thread. One that finds no room is not made: the next call will ask
again."""
IDLE: Final = 10.0
"""Seconds after which a thread that has nothing to do ends."""
HANGING: Final = 30.0
"""Seconds without the end of any refresh of a function that has its share, after which the log says so."""


class _Line:
    """The refreshes of one function that run, and that wait."""

    def __init__(self) -> None:
        self.work: deque[tuple[Context, Callable[[], object]]] = deque()
        self.running = 0
        self.moved = time.monotonic()  # when one has ended
        self.told = False

    @property
    def ready(self) -> int:
        """How many threads could be at work on those that wait."""
        return min(len(self.work), SHARE - self.running)


class _Workers:
    """A few daemon threads, which are there while there is work."""

    def __init__(self) -> None:
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """The threads are the parent's, and so is the work."""
        self._changed = threading.Condition(threading.Lock())
        self._lines: dict[Policy, _Line] = {}
        self._threads = 0
        self._idle = 0

    def submit(self, whose: Policy, context: Context, work: Callable[[], object]) -> bool:
        """Have `work` done for a function. False: there is no room."""
        with self._changed:
            line = self._lines.setdefault(whose, _Line())
            accepted = len(line.work) < WAITING
            if accepted:
                line.work.append((context, work))
            hangs = line.running == SHARE and line.moved + HANGING < time.monotonic()
            tell, line.told = not line.told and (hangs or not accepted), line.told or hangs or not accepted
            start = accepted and line.running < SHARE and self._needs_another()
            self._threads += start
        if tell:
            logger().warning(
                "%s: its refreshes are slow, or hang: %d are running, as many as one function may have, and %d wait; "
                "its values grow old meanwhile",
                whose.name, line.running, len(line.work),
            )  # fmt: skip
        if start:
            try:
                _start(self._run)
            except RuntimeError:  # the interpreter is ending, or the system has no more threads
                with self._changed:
                    self._threads -= 1
                    if not self._threads:
                        self._lines.clear()
                        return False
        return accepted

    def _needs_another(self) -> bool:
        """Whether there is more work than threads that have none, which one of them is woken for."""
        if self._idle >= sum(line.ready for line in self._lines.values()):
            self._changed.notify()
            return False
        return self._threads < THREADS

    def _next(self) -> Policy | None:
        return next((whose for whose, line in self._lines.items() if line.ready), None)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                whose = self._changed.wait_for(self._next, IDLE)
                self._idle -= 1
                if whose is None:
                    self._threads -= 1
                    return
                line = self._lines.pop(whose)
                self._lines[whose] = line  # behind the others
                context, work = line.work.popleft()
                line.running += 1
            context.run(work)
            del context, work  # which hold what they were for
            with self._changed:
                line.running -= 1
                line.moved = time.monotonic()
                if not line.running and not line.work and self._lines.get(whose) is line:
                    del self._lines[whose]
                self._changed.notify()  # another may be at its work, now that it has not its whole share


_workers = _Workers()


def submit(work: Callable[[], object], whose: Policy | None) -> bool:
    """Have `work` done in another thread, in a copy of this context. False: there is no room.

    Args:
        whose: the function for which one of a few threads does it; None: in a thread of its own, since somebody waits.
    """
    context = copy_context()

    def run() -> None:
        try:
            if whose is not None:
                loading.set(())  # it is inside no load: nobody waits for it
            work()
        except BaseException:
            logger().exception("a load in the background failed")

    if whose is not None:
        return _workers.submit(whose, context, run)
    try:
        _start(lambda: context.run(run))
    except RuntimeError:  # as above
        return False
    return True


def _start(work: Callable[[], object]) -> None:
    threading.Thread(target=work, name="cacheside", daemon=True).start()
