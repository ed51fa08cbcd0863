"""Work of plain code that nobody waits for: refreshing values while the old ones are served.

Threads of our own and not those of concurrent.futures, which the interpreter joins at its exit: a load that hangs would
keep the program from ending. These are daemons: what they are at when the program ends is broken off. A claim that is
left behind ends by itself, and another process refreshes.

(Async code has tasks for this, in the loop of the call; see `giveback.spawn`.)
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import Final

from . import forks
from .flight import loading
from .health import logger

THREADS: Final = 8
WAITING: Final = 1000
"""Refreshes that may wait for a thread. One that finds no room is not made: the next call will ask again."""
IDLE: Final = 10.0
"""Seconds after which a thread that has nothing to do ends."""


class _Workers:
    """A few daemon threads, which are there while there is work."""

    def __init__(self) -> None:
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """The threads are the parent's, and so is the work."""
        self._changed = threading.Condition(threading.Lock())
        self._work: deque[tuple[Context, Callable[[], object]]] = deque()
        self._threads = 0
        self._idle = 0

    def submit(self, context: Context, work: Callable[[], object]) -> bool:
        """Have `work` done. False: there is no room."""
        with self._changed:
            if len(self._work) >= WAITING:
                return False
            self._work.append((context, work))
            if self._idle >= len(self._work):
                self._changed.notify()
                return True
            if self._threads == THREADS:
                return True
            self._threads += 1
        try:
            _start(self._run)
        except RuntimeError:  # the interpreter is ending, or the system has no more threads
            with self._changed:
                self._threads -= 1
                if not self._threads:
                    self._work.clear()
                    return False
        return True

    def _run(self) -> None:
        while True:
            with self._changed:
                self._idle += 1
                there = self._changed.wait_for(lambda: self._work, IDLE)
                self._idle -= 1
                if not there:
                    self._threads -= 1
                    return
                context, work = self._work.popleft()
            context.run(work)


_workers = _Workers()


def submit(work: Callable[[], object], at_once: bool) -> bool:
    """Have `work` done in another thread, in a copy of this context. False: there is no room.

    Args:
        at_once: in a thread of its own, since somebody waits for it; else by one of a few.
    """
    context = copy_context()

    def run() -> None:
        try:
            if not at_once:
                loading.set(())  # it is inside no load: nobody waits for it
            work()
        except BaseException:
            logger().exception("a load in the background failed")

    if not at_once:
        return _workers.submit(context, run)
    try:
        _start(lambda: context.run(run))
    except RuntimeError:  # as above
        return False
    return True


def _start(work: Callable[[], object]) -> None:
    threading.Thread(target=work, name="cacheside", daemon=True).start()
