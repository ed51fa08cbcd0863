"""Reads of functions that ask for more: old values for a while, refreshing ahead, tags, limits on loads.

What is added to the rules of `engine.py`:

1. A value past its ttl but within `stale_while_revalidate` is returned at once, and refreshed in the background by
   whoever gets the *claim* on it: one caller in the whole fleet. The same for one that is marked stale, and for one
   that will soon be past its ttl (`early_refresh`). A claim is lost like a lease, so a refresh whose load began before
   a write is refused.
2. Past that, but within `stale_if_error`, the caller loads, by a claim as well, so that the value is still there if
   that fails. What a caller may fall back on is what its own last look showed: never what was invalidated before it
   came.
3. Tags: their versions are read together with the entry, before the load, and stored with the value; a value is good
   as long as all are unchanged. A tag that has no version is planted before the load. After sealing they are read
   again, and the flight is shared only if none has changed: a follower may have arrived after a tag was turned.
4. With `load_timeout` loads run in the background, and callers wait for them as followers do, but no longer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from .backends.base import Fill, Guarded, Hit, Leased, Stale
from .core import Core
from .engine import Found, Reader, Visit
from .envelope import ABSENT, Miss, Outcome, Raised
from .errors import CacheUnavailable, LoadTimeout, NotCacheableError, TooManyLoads
from .expiry import Age
from .flight import NOTHING, Flight
from .giveback import sweep
from .health import logger
from .keeper import Keeper, Kept, chance
from .limiter import Limiter
from .steps import Abandon, Ask, Begin, Failed, Spawn, Steps, Wait

if TYPE_CHECKING:
    from .backends.beyond import Version

RETRY = 0.1  # seconds until a refresh that failed, or that another process is making, is tried again here
MANY = 10_000  # refreshes that are remembered


class FreshReader(Reader):
    """The reads of one function on one cache, with windows, tags or limits.

    Args:
        load_timeout: seconds that a caller waits for a load; None: as long as it takes.
        limiter: of its loads.
    """

    def __init__(self, core: Core, keeper: Keeper, load_timeout: float | None, limiter: Limiter | None) -> None:
        super().__init__(core, keeper)
        self._windows = keeper.policy.windows
        self._load_timeout = load_timeout
        self._limiter = limiter
        self._troubled = False  # whether the last load failed, and that has been logged
        if load_timeout is not None:
            self.patience = load_timeout

    def read(self, key: str, sync: bool, found: Found | None = None, tags: Sequence[str] = ()) -> Steps:
        """See `Reader.read`. A call with tags always goes by these steps."""
        core = self.core
        if core.held.counts and core.held.here(core, (key, *tags)):
            return (yield from self._uncommitted(self._visit(key, sync, tags)))
        if core.pending:
            yield from core.deliver()
            if core.pending.blocks(key, *tags):
                self.counters.misses += 1
                return (yield from self._bypass(self._visit(key, sync, tags)))
        visit = self._visit(key, sync, tags)
        if tags:
            answer = yield from self._ask(visit)
        else:
            answer = yield from super()._look(visit)
        return (yield from self.go_on(visit, answer, found))

    def uncached(self, sync: bool) -> Steps:
        """A call where there is no cache: its load is shared with none, and keeps to the limits all the same."""
        return (yield from self._uncommitted(self._visit("", sync)))

    def visit(self, key: str, sync: bool, tags: Sequence[str], versions: Sequence[Version]) -> Visit:
        """A call whose first lookup has been made; see `go_on`."""
        visit = self._visit(key, sync, tags)
        visit.versions = versions
        return visit

    def go_on(self, visit: Visit, answer: Any, found: Found | None = None) -> Steps:
        """The rest of a call after its first lookup."""
        answer = yield from self._checked(visit, answer)
        why = self.first(answer, visit.tags, visit.versions, found)
        if type(why) is not Miss:
            return why
        return (yield from self._missed(visit, answer, why))

    def hit(self, answer: Any, found: Found | None) -> Outcome | Miss:
        """See `Reader.hit`."""
        return self.first(answer, (), (), found)

    def miss(self, key: str, answer: Any, why: Miss, sync: bool) -> Steps:
        """See `Reader.miss`."""
        return (yield from self._missed(self._visit(key, sync), answer, why))

    def worth(
        self, answer: Hit | Stale, tags: Sequence[str], versions: Sequence[Version]
    ) -> tuple[Age, Outcome | Miss]:
        """See `Reader.worth`."""
        age, outcome, _ = self._worth(answer, tags, versions)
        return age, outcome

    def _worth(
        self, answer: Hit | Stale, tags: Sequence[str], versions: Sequence[Version]
    ) -> tuple[Age, Outcome | Miss, float]:
        """The age and the outcome of an entry, and until when it is surely fresh."""
        outcome, meta = self.codec.examine(answer.stored)
        if type(outcome) is Miss:
            return Age.OVER, outcome, 0.0
        if meta.stamps != tuple(zip(tags, versions, strict=True)):
            return Age.OVER, Miss.TAGS, 0.0
        windows, now = self._windows, self.codec.clock()
        if type(outcome) is Raised or outcome is ABSENT:
            age = Age.FRESH if now < meta.fresh and type(answer) is Hit else Age.OVER
        else:
            age = windows.age(meta.fresh, meta.took, now, chance() if windows.early else 0.0)
            if type(answer) is Stale and age in (Age.FRESH, Age.EARLY):
                age = Age.STALE if windows.while_revalidate else Age.LAST if windows.if_error else Age.OVER
        return age, Miss.EXPIRED if age is Age.OVER else outcome, windows.surely_fresh(meta.fresh, meta.took)

    def first(
        self, answer: Any, tags: Sequence[str], versions: Sequence[Version], found: Found | None = None
    ) -> Outcome | Miss:
        """What the answer to the first lookup of a call is worth; the rest of the call is `go_on`."""
        if type(answer) is not Hit and type(answer) is not Stale:
            return Miss.ABSENT
        age, outcome, until = self._worth(answer, tags, versions)
        if age is Age.OVER:
            return outcome
        if age is not Age.FRESH:
            return Miss.OLD
        self.counters.hits += 1
        if self.core.health.failing:
            self.core.recovered()
        if found is not None and type(outcome) is not Raised:
            found(answer.seen, outcome, until)
        return outcome

    def _missed(self, visit: Visit, answer: Any, why: Miss) -> Steps:
        if why is Miss.OLD:
            age, outcome = self.worth(answer, visit.tags, visit.versions)
            if age is not Age.LAST and age is not Age.OVER:
                self.counters.hits += 1
                self.counters.stale += age is Age.STALE
                yield from self._refresh_soon(visit, answer.seen)
                return outcome
        self.counters.misses += 1
        outcome = yield from self._settle(visit, answer, why)
        if type(outcome) is not Raised or self.keeper.declared(outcome):
            self._troubled = False
        elif visit.old is not NOTHING and isinstance(outcome.error, Exception):
            self.counters.rescued += 1
            self._trouble("answered with an old value, since loading failed", outcome.error)
            return visit.old
        return outcome

    def _look(self, visit: Visit) -> Steps:
        if not visit.tags:
            return (yield from super()._look(visit))
        return (yield from self._checked(visit, (yield from self._ask(visit))))

    def _ask(self, visit: Visit) -> Steps:
        """Look up the entry together with the versions of its tags."""
        answer = yield Ask("lookup_many", ((visit.key,), self.core.lease, visit.tags))
        if type(answer) is Failed:
            visit.versions = [None] * len(visit.tags)
            return answer
        (answer,), visit.versions = answer
        return answer

    def _checked(self, visit: Visit, answer: Any) -> Steps:
        """The answer to a lookup, unless the tags say that nothing may be filled now."""
        trouble = next((each for each in visit.versions if each is not None and type(each) is not bytes), None)
        if trouble is not None:
            if type(answer) is Leased:
                yield from self._return(visit, answer.token)
            answer = trouble
        return Failed(answer) if isinstance(answer, CacheUnavailable) else answer

    def _judge(self, visit: Visit, answer: Hit | Stale, why: Miss) -> tuple[Outcome | Miss, str]:
        visit.old = NOTHING
        age, outcome = self.worth(answer, visit.tags, visit.versions)
        if age is Age.LAST:
            visit.old = outcome
            return Miss.OLD, "claim"
        if age is not Age.OVER:
            self.counters.stale += age is Age.STALE
            return outcome, ""
        self.counters.undecodable += outcome is Miss.FOREIGN
        return outcome, "replace"

    def _ready(self, visit: Visit, token: Any) -> Steps:
        """Plant the tags that have no version."""
        missing = [tag for tag, version in zip(visit.tags, visit.versions, strict=True) if version is None]
        if missing:
            try:
                answer = yield Ask("plant", (missing,))
            except BaseException:
                yield Abandon(visit.key, token)
                raise
            if type(answer) is Failed:
                self._failed(answer.error)
                answer = [None] * len(missing)
            planted: dict[str, Version] = dict(zip(missing, answer, strict=True))
            visit.versions = [
                planted.get(tag) if version is None else version
                for tag, version in zip(visit.tags, visit.versions, strict=True)
            ]
        for version in visit.versions:
            if type(version) is bytes:
                continue
            if type(version) is Guarded:
                self.counters.guarded += 1
            elif isinstance(version, CacheUnavailable):
                self._failed(version)
            # None: planting has failed, which was counted above; or others kept turning the tag, which is no outage
            yield from self._return(visit, token)
            return False
        return True

    def _return(self, visit: Visit, token: Any) -> Steps:
        """Give a lease back."""
        try:
            yield Ask("release", (visit.key, token))
        except BaseException:
            yield Abandon(visit.key, token)
            raise
        return None

    def _follow(self, visit: Visit, flight: Flight, joined_open: bool) -> Steps:
        sweep()  # it may be led by what a closed loop has left, and end now
        return (yield from super()._follow(visit, flight, joined_open))

    def _lead(self, visit: Visit, token: Any, flight: Flight) -> Steps:
        lead = super()._lead(visit, token, flight)
        return (yield from self._bounded(visit, flight, lead, Abandon(visit.key, token)))

    def _load_only(self, visit: Visit, flight: Flight) -> Steps:
        load = super()._load_only(visit, flight)
        return (yield from self._bounded(visit, flight, load))

    def _bounded(self, visit: Visit, flight: Flight, steps: Steps, abandon: Abandon | None = None) -> Steps:
        """Carry out `steps`, which end with the flight; in the background if the caller is not to wait for long.

        Args:
            abandon: what becomes of the lease if the caller is gone before they have begun.
        """
        if self._load_timeout is None:
            return (yield from steps)
        box: list[Outcome] = []
        try:
            begun = yield Spawn(self._apart(box, flight, steps, abandon), None)
        except BaseException:  # in a batch, of which other rows were asking for something
            self.core.flights.end(flight)
            if abandon is not None:
                yield abandon
            raise
        if not begun:
            return (yield from steps)
        if not (yield Wait(flight, max(0.0, visit.end - time.monotonic()))):
            return self._timed_out(visit)
        # Nothing: its task was cancelled, as all are when their loop ends.
        return box[0] if box else Raised(LoadTimeout(f"{self.keeper.policy.name}: its load was broken off"))

    def _apart(self, box: list[Outcome], flight: Flight, steps: Steps, abandon: Abandon | None) -> Steps:
        """`_bounded`, in the background."""
        try:
            yield Begin()
        except BaseException:
            self.core.flights.end(flight)
            if abandon is not None:
                yield abandon
            raise
        box.append((yield from steps))
        return None

    def _give_up(self, visit: Visit, go_on: Callable[[Visit], Steps]) -> Steps:
        # It has waited for a lease, or for `load_timeout` if that was over first; then only it has been too long.
        if visit.end <= time.monotonic():
            return self._timed_out(visit)
        return (yield from super()._give_up(visit, go_on))

    def _timed_out(self, visit: Visit) -> Outcome:
        self.counters.timed_out += 1
        if visit.old is not NOTHING:
            self.counters.stale += 1
            return visit.old
        return Raised(LoadTimeout(f"{self.keeper.policy.name} took longer than load_timeout={self._load_timeout:g} s"))

    def _load(self, flight: Flight) -> Steps:
        limiter = self._limiter
        ticket = None if limiter is None else limiter.enter(flight)
        if limiter is None or ticket is None:
            return (yield from super()._load(flight))
        try:
            if not ticket.done:
                sweep()  # what a closed loop has left would keep its place for ever
                patience = self.core.lease if limiter.patience is None else limiter.patience
                # It may have become its turn just as it lost its patience.
                if not (yield Wait(ticket, patience)) and not ticket.done:
                    self.counters.rejected += 1
                    name = self.keeper.policy.name
                    return Raised(
                        TooManyLoads(f"{name}: {limiter.limit} loads are running, as many as max_loads allows")
                    )
            return (yield from super()._load(flight))
        finally:
            limiter.leave(ticket)

    def _store(self, visit: Visit, token: Any, kept: Kept | None) -> Steps:
        tags = visit.tags
        if not tags:
            return (yield from super()._store(visit, token, kept))
        if kept is None:
            if not (yield from super()._store(visit, token, None)):
                return False
            answer = yield Ask("lookup_many", ((), None, tags))
        else:
            answer = yield Ask("fill_many", ((Fill(visit.key, token, *kept),), tags))
        if type(answer) is Failed:
            self._failed(answer.error)
            return False
        (accepted,), versions = ((True,), answer[1]) if kept is None else answer
        if isinstance(accepted, NotCacheableError):
            self.keeper.uncacheable(accepted)
            return (yield from self._store(visit, token, None))
        if isinstance(accepted, Exception):
            self._failed(accepted)
        elif not accepted:
            self.counters.refused += 1
        return accepted is True and list(versions) == list(visit.versions)

    def _refresh_soon(self, visit: Visit, seen: Any) -> Steps:
        """Refresh the entry `seen` in the background, unless somebody in this process is at it."""
        refreshes, lane, now = self.core.refreshes, visit.lane, time.monotonic()
        if refreshes.get(lane, 0.0) > now:
            sweep()  # if that one's loop was closed under it, the next caller is told to try
            return
        if len(refreshes) > MANY:
            refreshes.clear()  # the claims tell as well, and cost a command
        refreshes[lane] = now + self.core.lease
        steps = self._refresh(visit, seen)
        begun = False
        try:
            begun = yield Spawn(steps, self.keeper.policy)
        finally:
            if not begun:
                steps.close()
                refreshes[lane] = now + RETRY

    def _refresh(self, visit: Visit, seen: Any) -> Steps:
        """Load and fill, if this caller gets the claim."""
        core = self.core
        pause = RETRY
        try:
            yield Begin()
            answer = yield Ask("claim", (visit.key, seen, core.lease))
            if type(answer) is Failed:
                self._failed(answer.error)
            elif type(answer) is Leased and (yield from self._ready(visit, answer.token)):
                self.counters.refreshes += 1
                flight = core.flights.lead(visit.lane, None)
                outcome = yield from super()._lead(visit, answer.token, flight)
                if type(outcome) is Raised and not self.keeper.declared(outcome):
                    self.counters.failed_refreshes += 1
                    self._trouble("a refresh failed, its old value is kept as long as it may be", outcome.error)
                else:
                    self._troubled = False
                    pause = 0.0
        finally:
            core.refreshes[visit.lane] = time.monotonic() + pause
        return None

    def _trouble(self, what: str, error: BaseException) -> None:
        """Log the first of failures in a row."""
        if not self._troubled:
            self._troubled = True
            logger().warning("%s: %s: %r", self.keeper.policy.name, what, error)
