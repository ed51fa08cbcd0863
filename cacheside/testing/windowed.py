"""What the promises about old values have in common: functions with windows, and waiting for what nobody waits for."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..cache import Cache
from .bench import LONG, Bench, until
from .stage import Gate
from .store import NotFound, Store

if TYPE_CHECKING:
    import logging

KEY = "row:{row}"
RETRY = 0.2  # seconds after which a process surely tries again what another was doing


class Shaky(Store):
    """A store that can be out of order: a read that fails is counted as one."""

    broken = False

    def read(self, row: Any) -> Any:
        """See `Store.read`."""
        value = super().read(row)
        if self.broken:
            raise NotFound(row)
        return value


def windowed(bench: Bench, store: Store, gate: Gate | None = None, **options: Any) -> Any:
    """A cached read with a long window, in a process of its own as it were."""
    options = {"key": KEY, "ttl": LONG, "stale_while_revalidate": LONG, **options}
    return bench.cache().cached(**options)(bench.function(store.read, gate))


def settled(*reads: Any) -> None:
    """Wait until no refresh is under way: a test that ends before them would leave them to the next one."""

    def idle() -> bool:
        latest = time.monotonic() + RETRY
        return all(until < latest for read in reads for until in list(core(read).refreshes.values()))

    until(idle, "no refresh is under way")


def core(read: Any) -> Any:
    """What the cache of a decorated function keeps."""
    return read._function.runtime().core


def invalidator(bench: Bench, cache: Cache) -> Any:
    """`cache.invalidate` in the colour of the bench."""
    return cache.invalidate if bench.colour == "sync" else cache.ainvalidate


@contextlib.contextmanager
def records() -> Iterator[list[logging.LogRecord]]:
    """What is logged in the block."""
    import logging

    seen: list[logging.LogRecord] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record)

    logger, handler = logging.getLogger("cacheside"), Handler()
    logger.addHandler(handler)
    try:
        yield seen
    finally:
        logger.removeHandler(handler)
