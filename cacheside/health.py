"""Word of a broken cache: one log line when it breaks, one when it works again, under the logger ``cacheside``.

logging is imported when there is something to say: it would cost more than the rest of `import cacheside`.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging


def logger() -> logging.Logger:
    """The logger of this library. It has no handler of ours."""
    import logging

    return logging.getLogger("cacheside")


class Health:
    """Whether the last command to a cache failed; `label` is how the log calls it (never with a password)."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._lock = threading.Lock()
        self.failing: bool = False

    def failed(self, error: Exception) -> None:
        """A command failed: the first in a row is logged."""
        with self._lock:
            first, self.failing = not self.failing, True
        if first:
            logger().warning("%s fails, calls go to the store until it works again: %s", self._label, error)

    def recovered(self) -> None:
        """A command succeeded: the first after failures is logged."""
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
