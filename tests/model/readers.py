"""Reads of several kinds of functions, and the refreshes that they begin.

    plain            neither windows nor a tag
    windowed         a ttl, and after it (or after a stale mark) the old value, while a refresh is under way
    rescuing         a ttl, and after it the old value if loading fails
    tagged           with one tag
    tagged windowed  both
    batch            neither, for many rows at once, of which one is asked for
    tagged batch     the same, with one tag

They all read one entry: what one of them has filled another may find.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from cacheside.backends.base import Stale
from cacheside.batch import read_many
from cacheside.core import Core
from cacheside.engine import Reader
from cacheside.envelope import Raised
from cacheside.expiry import NO_WINDOWS, Expiry, Windows
from cacheside.freshness import FreshReader
from cacheside.keeper import Keeper, Policy
from cacheside.stats import Counters
from cacheside.steps import Ask

from .calls import Call, LoadFailed

if TYPE_CHECKING:
    from .place import Place
    from .world import Process, World

TTL = 1.0
"""Of those with windows: nothing beside a lease. So ttls can pass without leases."""
WINDOW = 1e7
"""And no run is as long as this."""


class Kind(NamedTuple):
    """What a function asks for."""

    windows: Windows = NO_WINDOWS
    tagged: bool = False
    batch: bool = False

    @property
    def more(self) -> bool:
        """Whether it takes more than a `Reader`."""
        return bool(self.windows) or self.tagged


KINDS = {
    "plain": Kind(),
    "windowed": Kind(Windows(stale_while_revalidate=WINDOW)),
    "rescuing": Kind(Windows(stale_if_error=WINDOW)),
    "tagged": Kind(tagged=True),
    "tagged windowed": Kind(Windows(stale_while_revalidate=WINDOW), tagged=True),
    "batch": Kind(batch=True),
    "tagged batch": Kind(tagged=True, batch=True),
}


def make(kind: str, core: Core, place: Place) -> Reader:
    """The reader of a function of that kind, in a process with that core."""
    asked = KINDS[kind]
    ttl = TTL if asked.windows else None
    policy = Policy("model", ("model.py", 1, "model"), Expiry(ttl, 1, 0), None, (), asked.windows)
    keeper = Keeper(policy, place.codec, Counters())
    return FreshReader(core, keeper, None, None) if asked.more else Reader(core, keeper)


class Read(Call):
    """One call of a cached function."""

    reads = True

    def __init__(self, world: World, process: Process, name: str, kind: str) -> None:
        self.kind = KINDS[kind]
        self.refreshes = bool(self.kind.windows)
        self._reader = process.reader(kind)
        self._marked: set[int] = set()  # what it found marked stale
        super().__init__(world, process, name)

    def routine(self) -> Any:
        keys = self.world.place.keys
        tags = (keys.tag,) if self.kind.tagged else ()
        if self.kind.batch:
            return read_many(self._reader, [keys.entry], [tags], sync=False)
        if isinstance(self._reader, FreshReader):
            return self._reader.read(keys.entry, False, None, tags)
        return self._reader.read(keys.entry, sync=False)

    def began(self) -> None:
        complete = [self.world.completed, self.process.completed]
        self.floor = max(each.floor(self.kind.tagged) for each in complete)
        self.hard_floor = max(each.floor(self.kind.tagged, marked=True) for each in complete)

    def heard(self, step: Any, answer: Any) -> None:
        if isinstance(step, Ask) and step.verb == "lookup_many" and isinstance(answer, tuple) and answer[0]:
            (answer,), _ = answer
        if type(answer) is Stale and self.kind.windows:
            self._marked.add(self.world.place.codec.examine(answer.stored)[0])

    def ended(self, outcome: Any) -> None:
        if self.kind.batch and not isinstance(outcome, Raised):
            outcome = outcome[0]
        if isinstance(outcome, Raised):
            if not isinstance(outcome.error, LoadFailed):
                raise outcome.error
            outcome = outcome.error.version
        # What was marked may be older than the writes that marked it, for those who asked for that.
        floor = self.hard_floor if outcome in self._marked else self.floor
        self.world.judge(outcome, floor, f"{self.name} returned")


class Refresh(Call):
    """What a read has left to do in the background."""

    reads = True
    refreshes = True

    def __init__(self, by: Call, steps: Any) -> None:
        self._steps = steps
        super().__init__(by.world, by.process, f"{by.name}'s refresh")
        self.context = by.context.copy()

    def routine(self) -> Any:
        return self._steps

    def ended(self, outcome: Any) -> None:
        if isinstance(outcome, Raised):
            raise outcome.error
