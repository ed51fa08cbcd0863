"""Word of a broken cache: one log line when it breaks, one when it works again, under the logger ``cacheside``.

logging is imported when there is something to say: it would cost more than the rest of `import cacheside`.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from . import forks

if TYPE_CHECKING:
    import logging


def logger() -> logging.Logger:
    """The logger of this library. It has no handler of ours."""
    import logging

    return logging.getLogger("cacheside")


class Health:
    """Whether the last command to a cache failed; `label` is how the log calls it (never with a password)."""

    SETTLED = 1.0  # seconds without a failure after which a success means that the cache works again

    def __init__(self, label: str) -> None:
        self._label = label
        self.failing: bool = False
        self._failed_at = 0.0
        self.after_fork()
        forks.register(self)

    def after_fork(self) -> None:
        """See `forks.Owner`."""
        self._lock = threading.Lock()

    def failed(self, error: Exception) -> None:
        """A command failed: the first in a row is logged."""
        self._failed_at = time.monotonic()
        with self._lock:
            first, self.failing = not self.failing, True
        if first:
            logger().warning("%s fails, calls go to the store until it works again: %s", self._label, error)

    def recovered(self) -> None:
        """A command succeeded: the first after failures is logged.

        A cache of which only a part is broken fails and succeeds in turns: that is one state, not many changes of it.
        """
        if time.monotonic() - self._failed_at < self.SETTLED:
            return
        with self._lock:
            first, self.failing = self.failing, False
        if first:
            logger().info("%s works again", self._label)

    def overflowed(self, can_clear: bool) -> None:
        """More invalidations failed than are remembered one by one."""
        cure = "its namespace has been cleared" if can_clear else "cache.clear(everything=True) was called"
        logger().error(
            "%s: too many undelivered invalidations; this process bypasses the whole cache until %s", self._label, cure
        )
