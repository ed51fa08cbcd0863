"""For your tests: a clock that you turn, a switch for all caching, and the promises that every backend keeps.

`FakeClock` makes time pass without waiting; `disabled` switches caching off for a block; `BackendConformance` checks a
backend of your own against everything that cacheside relies on. Nothing here imports pytest.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator

from ..hitpath import Switch, reset
from .batches import BatchPromises
from .bench import Subject
from .claims import ClaimPromises
from .freshness import FreshnessPromises
from .guards import GuardPromises
from .limits import LimitPromises
from .many import ManyPromises
from .many_races import ManyRacePromises
from .marks import MarkPromises
from .protocol import ProtocolPromises
from .reads import ReadPromises
from .scopes import ScopePromises
from .strict import StrictPromises
from .tags import TagPromises
from .updates import UpdatePromises
from .verbs import VerbPromises
from .writes import WritePromises

__all__ = ["BackendConformance", "FakeClock", "Subject", "disabled"]

_lock = threading.Lock()


class FakeClock:
    """Seconds that pass when you say so: ``Cache(clock=clock)``, ``MemoryBackend(clock=clock)``. Thread-safe.

    >>> clock = FakeClock()
    >>> cache = Cache("memory://", clock=clock)
    >>> clock.advance(300)

    Args:
        start: seconds that it shows at first. The default does as a monotonic clock, and as a wall clock too.
    """

    def __init__(self, start: float = 1_000_000.0) -> None:
        self._now = start
        self._lock = threading.Lock()

    def __call__(self) -> float:
        """Seconds now."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Let so many seconds pass.

        Raises:
            ValueError: it would go back, or the number is none; caches rely on clocks that never go back.
        """
        if not 0 <= seconds < math.inf:
            raise ValueError(f"a clock advances by a finite number of seconds, 0 or more, not {seconds!r}")
        with self._lock:
            self._now += seconds


@contextlib.contextmanager
def disabled() -> Iterator[None]:
    """No caching in the whole process inside the block: every call of a cached function calls the function itself.

    `max_loads` and `load_timeout` hold all the same. `.peek` finds nothing, and `.set` stores nothing.

    Invalidations are still sent, so nothing stale is left behind for the time after the block. Blocks may be nested,
    and may overlap in several threads and tasks: caching is on again when the last one has ended. It is a plain
    ``with``, around async code too.

    A load that was under way when the block began may still be stored.
    """
    with _lock:
        Switch.off += 1
    reset()
    try:
        yield
    finally:
        with _lock:
            Switch.off -= 1


class BackendConformance(
    ProtocolPromises,
    GuardPromises,
    UpdatePromises,
    ClaimPromises,
    BatchPromises,
    ReadPromises,
    WritePromises,
    StrictPromises,
    ScopePromises,
    ManyPromises,
    ManyRacePromises,
    VerbPromises,
    FreshnessPromises,
    MarkPromises,
    TagPromises,
    LimitPromises,
):
    """What every backend has to do, as tests for pytest: inherit them, and say what is to be tested.

    Each test exists once and runs in both colours; its docstring is the promise it checks. Those of claims and of
    batches check nothing on a backend without that capability.

    >>> from cacheside.testing import BackendConformance, FakeClock, Subject
    >>> class TestMyBackend(BackendConformance):
    ...     @pytest.fixture
    ...     def subject(self):
    ...         return Subject(MyBackend("localhost:4711"))

    **The whole server is cleared**: give the tests one of their own, or a database of their own on it. A backend with
    the capability "in_process" has to be new for each test; its time is best a `FakeClock`:
    ``Subject(MyBackend(clock=clock), clock.advance)``.

    A backend for one colour only sets ``colours = ("sync",)`` or ``("async",)`` on the class. To see values in failed
    asserts, call ``pytest.register_assert_rewrite("cacheside.testing")`` in a conftest.py.
    """
