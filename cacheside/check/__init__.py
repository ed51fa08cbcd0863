"""``cacheside check URL``: readers and writers of several processes race on your own server; no read may be stale.

store.py     the store: rows of versions in memory that all processes share, and what a read must at least show
ways.py      the two ways to cache it: this library's decorators, and get, set and delete by hand
clients.py   the usual clients that the second way uses
worker.py    one process: threads and tasks that read and write, and compare each read
crew.py      the processes as their parent sees them
figures.py   what came out; view.py shows it

What is checked is the second promise of this library: a read that begins after a write has returned never shows an
older value. A writer publishes its version when its decorated function *has returned*, a reader takes the published
version *before it calls*, and both go through one lock: so no read is called stale that might not have been.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..backends.urls import masked
from ..errors import CachesideError
from ..progress import Progress
from .crew import Crew
from .figures import Column, Report, notes
from .store import Store
from .ways import Naive, Ours, Way
from .worker import CALLERS, TASKS, THREADS, Settings

OPERATIONS = 20_000  # unless it is asked for something else


@dataclass(frozen=True)
class Wish:
    """What the user asked for."""

    url: str
    operations: int | None = None
    """How many, by all processes together. None: as many as fit into `seconds`."""
    seconds: float | None = None
    """How long each way is raced."""
    processes: int = 4
    keys: int = 4
    writes: float = 0.05
    """The share of the operations that are writes."""
    strict: bool = False
    """Whether the writes of this library are strict ones."""
    naive: bool = False
    """Whether get, set and delete by hand are raced too, after it."""


class CheckFailed(CachesideError):
    """The machine lacks what the check needs."""


def run(wish: Wish, phase: Callable[[str], Progress]) -> Report:
    """Race, count, and remove from the server what was put there.

    Ctrl-C ends the race and gives what has been seen until then; a second one is raised.

    Args:
        wish: see there.
        phase: is told the name of each phase as it begins; gives what is told of its progress.

    Raises:
        CachesideError: a URL that cannot work, a server that does not answer, a missing package.
    """
    settings = Settings(wish.url, f"cacheside-check-{uuid.uuid4().hex}", wish.keys, wish.writes, wish.strict)
    kinds: Sequence[type[Way]] = [Ours, Naive] if wish.naive else [Ours]
    try:
        store = Store(wish.keys, wish.processes * CALLERS)
    except OSError as error:  # in some containers
        raise CheckFailed(f"this system has no memory and no locks for processes to share: {error}") from error
    with contextlib.ExitStack() as stack:
        ways: list[Way] = []
        for kind in kinds:
            ways.append(stack.enter_context(contextlib.closing(kind(settings, store))))
            ways[-1].probe()
        try:
            with Crew(wish.processes, settings, store, kinds) as crew:
                crew.race_all(wish.operations, wish.seconds, [phase(kind.title) for kind in kinds])
        finally:
            left = [way.title for way in ways if not way.remove()]
    columns = [Column.of(tally, seconds) for tally, seconds in crew.seen]
    found = dict(zip((kind.name for kind in kinds), columns, strict=False))
    ours, naive = found.get(Ours.name), found.get(Naive.name)
    return Report(
        cache=masked(wish.url),
        processes=wish.processes,
        threads=THREADS,
        tasks=TASKS,
        keys=wish.keys,
        writes=wish.writes,
        strict=wish.strict,
        cacheside=ours,
        naive=naive,
        interrupted=crew.interrupted,
        failures=crew.failures,
        notes=notes(ours, naive, crew.troubles, left),
    )
