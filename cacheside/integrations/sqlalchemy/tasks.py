"""The tasks that work in a transaction of an AsyncSession: an end that SQLAlchemy does not tell is seen at theirs.

A task that is cancelled while its session gives the connection back leaves no transaction, and no "end" event
either. It may have been committed just before, so that there is something to deliver.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable

from sqlalchemy.util import concurrency


def in_greenlet() -> bool:
    """Whether an AsyncSession calls."""
    return "greenlet" in sys.modules and concurrency.in_greenlet()


class Tasks:
    """Those that work in one transaction, until `forget`.

    Args:
        ended: called when one of them has ended.
    """

    def __init__(self, ended: Callable[[], None]) -> None:
        self._ended = ended
        self._tasks: set[asyncio.Task[object]] = set()

    def add(self) -> None:
        """The current one, if it is one, works in it."""
        task = asyncio.current_task() if in_greenlet() else None
        if task is not None and task not in self._tasks:
            self._tasks.add(task)
            task.add_done_callback(self._done)

    def forget(self) -> None:
        """The transaction is over."""
        for task in self._tasks:
            task.remove_done_callback(self._done)
        self._tasks.clear()

    def _done(self, task: asyncio.Task[object]) -> None:
        self._tasks.discard(task)
        self._ended()
