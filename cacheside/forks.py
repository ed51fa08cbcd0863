"""After `os.fork()` the child starts clean: free locks, and nothing that waits for threads it does not have.

A lock that another thread of the parent held at the fork would stay taken in the child for ever, and a load that such a
thread led would keep its key.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any, Protocol

_owners: weakref.WeakSet[Owner] = weakref.WeakSet()


class Owner(Protocol):
    """What has a lock, or remembers who waits for whom."""

    def after_fork(self) -> None:
        """Called in the child, whose only thread is this one."""


def register(owner: Owner) -> None:
    """Have `owner.after_fork()` called in forked children, as long as it lives."""
    _owners.add(owner)


class Lock:
    """A lock for modules, free in a forked child. Slower than threading.Lock, for it is a context manager of ours."""

    def __init__(self) -> None:
        self.after_fork()
        register(self)

    def after_fork(self) -> None:
        """See `Owner.after_fork`."""
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *details: Any) -> None:
        self._lock.release()


def _in_child() -> None:
    for owner in list(_owners):
        owner.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(after_in_child=_in_child)
