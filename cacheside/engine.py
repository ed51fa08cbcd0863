"""What to do with a call: the one place that decides it, for sync and async alike.

The rules, in words (`flight.py` has the one of sharing, `backends/base.py` what a lease is):

1. Look up. A hit is returned. A miss gives this caller the lease, or tells that another has it.
2. With the lease: load, *seal* the flight, then fill (or release the lease, where there is nothing to store). A fill
   is accepted only while the lease lives, so a load that began before an invalidation is never stored after it.
3. Without it: join the flight of this process for the key, or lead one that polls for the lease or the value.
4. Whoever may not take the outcome of the flight it joined, and whoever meets a broken cache, a writer's guard or a
   pending invalidation, goes to the queue of loads that fill nothing: one runs, one is next.
5. Every wait ends after `lease` seconds; then the caller loads by itself.

Each decision is a generator that yields steps and is sent their answers. It does no I/O and never waits: the two
drivers in `drivers.py` do. A step's exception is sent back as a value (`Failed`, or `Raised` for a load); only a
cancellation or an exit (a BaseException) is thrown in, and then the generator cleans up and lets it pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, TypeAlias

from . import scopes
from .backends.base import Guarded, Hit, Leased, Stale
from .core import Core
from .envelope import Codec, Miss, Outcome, Raised, is_one_shot
from .errors import NotCacheableError, RecursiveLoadError
from .expiry import Age
from .flight import NOTHING, Flight, loading, running_loop
from .keeper import Keeper, Kept, chance
from .stats import Counters
from .steps import Abandon, Ask, Failed, Load, Pause, Steps, Wait

if TYPE_CHECKING:
    from .backends.beyond import Version

POLL_FIRST, POLL_LAST = 0.004, 0.05  # seconds between two looks at a lease that another process holds; jittered
POLL_GROWTH = 1.3  # so that nobody waits much longer than a quarter more than the load takes
AGAIN = object()

Found: TypeAlias = Callable[..., object]
"""Is told which entry was found, as the backend names it, its value, and, if that is not all the time, until when it
may be found without asking again."""


class Visit:
    """One call that found no value at its first look, on its way to one.

    Args:
        key: as the backend knows it.
        lane: names the flights that it may share: the key, how its values are read, and its tags.
        arrived: the tick of its beginning.
        lease: seconds after which it waits no longer for the load of another, and loads by itself.
        patience: seconds after which it waits for no load any more, not even for its own.
        sync: whether it is a call in plain code.
        tags: the keys of its tags.
    """

    __slots__ = ("arrived", "deadline", "end", "key", "lane", "old", "sync", "tags", "versions")

    def __init__(
        self, key: str, lane: str, arrived: int, lease: float, patience: float, sync: bool, tags: Sequence[str] = ()
    ) -> None:
        self.key: str = key
        self.lane: str = lane
        self.arrived: int = arrived
        now = time.monotonic()
        # One for all that it may wait for in turn. Race: a writer invalidates the key during the load that it follows,
        # so that it has to wait for another as well, and, behind that, for its own: each for the rest of its time only.
        self.end: float = now + patience
        self.deadline: float = min(now + lease, self.end)
        self.sync: bool = sync
        self.tags: Sequence[str] = tags
        self.versions: Sequence[Version] = ()
        """Those of its tags, from before its load."""
        self.old: Outcome = NOTHING
        """What it saw last, if that may be returned should loading fail."""


class Reader:
    """The reads of one function on one cache. (`freshness.py` has the reader of functions that ask for more.)"""

    patience: float = inf
    """Seconds that a caller waits for loads at most, whatever the lease."""

    def __init__(self, core: Core, keeper: Keeper) -> None:
        self.core = core
        self.keeper = keeper
        self.codec: Codec = keeper.codec
        self.counters: Counters = keeper.counters

    def read(self, key: str, sync: bool, found: Found | None = None) -> Steps:
        """One call of the cached function whose key (as the backend knows it) is `key`.

        `found` is told of a hit on a value: which entry, the value, and until when it is good. A driver may look up by
        itself, if nothing is pending, and ask `hit` and `miss`: these steps are the same.

        Races, and what closes each: a writer between lookup and fill: the lease, which its invalidation kills. A writer
        between fill and a follower's return: the follower joined before sealing, so it arrived before that write ended.
        A writer whose invalidation failed: `pending`, asked before the lookup is sent.
        """
        core = self.core
        if core.held.counts and core.held.here(core, (key,)):
            return (yield from self._uncommitted(self._visit(key, sync)))
        if core.pending:
            yield from core.deliver()
            if core.pending.blocks(key):
                self.counters.misses += 1
                return (yield from self._bypass(self._visit(key, sync)))
        answer = yield Ask("lookup", (key, core.lease))
        outcome = self.hit(answer, found)
        if type(outcome) is not Miss:
            return outcome
        return (yield from self.miss(key, answer, outcome, sync))

    def hit(self, answer: Any, found: Found | None) -> Outcome | Miss:
        """What the answer to the first lookup of a call is worth."""
        if type(answer) is not Hit:
            return Miss.ABSENT
        outcome = self.codec.decode(answer.stored)
        if type(outcome) is not Miss:
            self.counters.hits += 1
            if self.core.health.failing:
                self.core.recovered()
            if found is not None and type(outcome) is not Raised:
                found(answer.seen, outcome, self.codec.until(answer.stored))
        return outcome

    def miss(self, key: str, answer: Any, why: Miss, sync: bool) -> Steps:
        """The rest of a call whose first lookup has this answer, of which `hit` has said `why` it is none."""
        self.counters.misses += 1
        return (yield from self._settle(self._visit(key, sync), answer, why))

    def _visit(self, key: str, sync: bool, tags: Sequence[str] = ()) -> Visit:
        core = self.core
        # A function without tags shares its flights by the fill alone, which says nothing of tags.
        lane = "\0".join((key + self.codec.identity, *tags))
        return Visit(key, lane, core.flights.tick(), core.lease, self.patience, sync, tags)

    def _settle(self, visit: Visit, answer: Any, why: Miss) -> Steps:
        """From the answer to the first lookup to an outcome."""
        core, flights, key = self.core, self.core.flights, visit.key
        may_sleep = not visit.sync or running_loop() is None
        pause = POLL_FIRST
        mine: Flight | None = None  # the flight in which this caller polls for others
        try:
            while True:
                if type(answer) is Hit or type(answer) is Stale:
                    outcome, verb = self._judge(visit, answer, why)
                    if not verb:
                        self.counters.coalesced += 1  # somebody else, in whatever process, has loaded and filled
                        return outcome
                    why = Miss.ABSENT  # the first one had been looked at
                    answer = yield Ask(verb, (key, answer.seen, core.lease))
                if type(answer) is Failed:
                    self._failed(answer.error)
                    return (yield from self._bypass(visit))
                core.recovered()
                if type(answer) is Guarded:  # its writer may commit at any moment: what is loaded now is filled by none
                    self.counters.guarded += 1
                    return (yield from self._bypass(visit))
                if type(answer) is Leased:
                    if not (yield from self._ready(visit, answer.token)):
                        return (yield from self._bypass(visit))
                    flight, mine = flights.lead(visit.lane, mine), None  # `_lead` sees to its end
                    return (yield from self._lead(visit, answer.token, flight))
                # Busy.
                if _inside(visit):
                    return (yield from self._bypass(visit))
                if mine is None or not flights.is_open(mine):
                    if mine is not None:
                        flights.end(mine)
                        mine = None
                    flight, joined_open, leads = flights.meet(visit.lane)
                    if not leads:
                        outcome = yield from self._follow(visit, flight, joined_open)
                        if outcome is not AGAIN:
                            return outcome
                        answer = yield from self._look(visit)
                        continue
                    mine = flight
                # Sync code on an event loop's thread never sleeps: the holder of the lease may be a task of that
                # loop that could not register its flight yet.
                left = visit.deadline - time.monotonic()
                if left <= 0 or not may_sleep:
                    return (yield from self._give_up(visit, self._bypass))
                yield Pause(min(left, pause * (0.5 + chance() / 2)))
                pause = min(POLL_LAST, pause * POLL_GROWTH)
                answer = yield from self._look(visit)
        finally:
            if mine is not None:
                flights.end(mine)  # whatever happened, nobody waits for a caller that has gone

    def _look(self, visit: Visit) -> Steps:
        """Look up again."""
        return (yield Ask("lookup", (visit.key, self.core.lease)))

    def worth(
        self, answer: Hit | Stale, tags: Sequence[str], versions: Sequence[Version]
    ) -> tuple[Age, Outcome | Miss]:
        """How old an entry is for this function, and its outcome, or why it has none."""
        outcome = Miss.EXPIRED if type(answer) is Stale else self.codec.decode(answer.stored)
        return Age.OVER if type(outcome) is Miss else Age.FRESH, outcome

    def _judge(self, visit: Visit, answer: Hit | Stale, why: Miss) -> tuple[Outcome | Miss, str]:
        """The outcome that an entry is worth; or how the right to fill its key is asked for.

        `why`: what `hit` has said of the first one.
        """
        if type(answer) is Stale:  # invalidated, for those who did not ask for old values
            return Miss.EXPIRED, "replace"
        outcome = self.codec.decode(answer.stored) if why is Miss.ABSENT else why
        if type(outcome) is not Miss:
            return outcome, ""
        self.counters.undecodable += outcome is Miss.FOREIGN
        return outcome, "replace"

    def _ready(self, visit: Visit, token: Any) -> Steps:
        """Whether what is loaded now may be filled under the lease `token`; if not, it has been given back."""
        yield from ()
        return True

    def _follow(self, visit: Visit, flight: Flight, joined_open: bool) -> Steps:
        """Wait for a flight that another leads. AGAIN: look up again."""
        self._refuse_recursion(flight, visit.key)
        if _would_block(flight, visit.sync):
            return (yield from self._alone(visit))
        left = visit.deadline - time.monotonic()
        if left <= 0 or not (yield Wait(flight, left)):
            return (yield from self._give_up(visit, self._bypass))
        if flight.serves(visit.arrived, joined_open):
            self.counters.coalesced += 1
            return self.codec.share(flight.outcome)
        if flight.outcome is NOTHING or flight.proven:
            return AGAIN  # abandoned; or it was sealed before this caller came, and the value is in the cache now
        return (yield from self._bypass(visit, behind=flight))  # refused: not twice to the same caller

    def _lead(self, visit: Visit, token: Any, flight: Flight) -> Steps:
        """Load and fill, with the lease `token`."""
        core, flights = self.core, self.core.flights
        around = scopes.around()
        try:
            outcome = yield from self._load(flight)
            try:
                kept = self.keeper.keep(outcome, flight.took, stamps_of(visit))
            except Exception as error:  # of the user's cache_if= or ttl=, or a warning made an error
                outcome, kept = Raised(error), None
            # Another task of this very context may have begun to change the key meanwhile.
            unshared = flight.private or core.held.meanwhile(core, (visit.key, *visit.tags), around)
            self.counters.bypassed += flight.private
            flights.seal(flight)
            proven = yield from self._store(visit, token, None if unshared else kept)
            flights.end(flight, NOTHING if unshared or is_one_shot(outcome) else outcome, proven)
        except BaseException:
            flights.end(flight)
            yield Abandon(visit.key, token)
            raise
        return outcome

    def _load(self, flight: Flight) -> Steps:
        self.core.flights.begin(flight)
        self.counters.loads += 1
        began = time.monotonic()
        outcome = yield Load(flight)
        flight.took = time.monotonic() - began
        return outcome

    def _store(self, visit: Visit, token: Any, kept: Kept | None) -> Steps:
        """Fill, or release where there is nothing to fill; whether that has shown that the lease lived until now."""
        if kept is None:
            answer = yield Ask("release", (visit.key, token))
        else:
            answer = yield Ask("fill", (visit.key, token, *kept))
            if type(answer) is Failed and isinstance(answer.error, NotCacheableError):
                self.keeper.uncacheable(answer.error)
                answer = yield Ask("release", (visit.key, token))
            elif answer is False:
                self.counters.refused += 1
        if type(answer) is Failed:  # a fill without an answer counts as refused
            self._failed(answer.error)
        return answer is True

    def _bypass(self, visit: Visit, behind: Flight | None = None) -> Steps:
        """Load and fill nothing, in the queue: the load running now and the next serve everybody who is here.

        The followers of one refused flight stand `behind` it: one load serves them all, however late each wakes.
        """
        core, flights = self.core, self.core.flights
        self.counters.bypassed += 1
        deadline = min(time.monotonic() + core.lease, visit.end)
        flight, leads = flights.enqueue(visit.lane) if behind is None else flights.after(behind)
        while not leads:
            self._refuse_recursion(flight, visit.key)
            left = deadline - time.monotonic()
            if _would_block(flight, visit.sync):
                return (yield from self._alone(visit))
            if left <= 0 or not (yield Wait(flight, left)):
                return (yield from self._give_up(visit, self._alone))
            if flight.serves(visit.arrived, joined_open=False):
                self.counters.coalesced += 1
                return self.codec.share(flight.outcome)
            flight, leads = flights.after(flight)
        return (yield from self._load_only(visit, flight))

    def _give_up(self, visit: Visit, go_on: Callable[[Visit], Steps]) -> Steps:
        """It has waited long enough for the load of another."""
        return (yield from go_on(visit))

    def _alone(self, visit: Visit) -> Steps:
        """Load for this caller only, and fill nothing."""
        return (yield from self._load_only(visit, Flight(visit.key)))

    def _uncommitted(self, visit: Visit) -> Steps:
        """A call inside a scope that changes its key: what it reads nobody else may see, so it is shared with none."""
        self.counters.misses += 1
        self.counters.bypassed += 1
        return (yield from self._alone(visit))

    def _load_only(self, visit: Visit, flight: Flight) -> Steps:
        flights, around = self.core.flights, scopes.around()
        try:
            outcome = yield from self._load(flight)
            unshared = flight.private or self.core.held.meanwhile(self.core, (visit.key, *visit.tags), around)
            flights.end(flight, NOTHING if unshared or is_one_shot(outcome) else outcome)
        except BaseException:
            flights.end(flight)
            raise
        return outcome

    def _failed(self, error: Exception) -> None:
        self.counters.errors += 1
        self.core.failed(error)

    def _refuse_recursion(self, flight: Flight, key: str) -> None:
        if flight.led_here():
            raise RecursiveLoadError(
                f"{self.keeper.policy.name} was called for {key!r} inside the load of that very key (a task or thread "
                "that the load started counts as inside), and would wait for itself: call the function without the "
                "cache in there (its __wrapped__), or with another key"
            )


def stamps_of(visit: Visit) -> tuple[tuple[str, bytes], ...]:
    """The tags of a visit with their versions, which are all known."""
    stamps = []
    for tag, version in zip(visit.tags, visit.versions, strict=True):
        assert type(version) is bytes  # `_ready` has seen to it
        stamps.append((tag, version))
    return tuple(stamps)


def _inside(visit: Visit) -> bool:
    """Whether this call is made inside the load of its key by *another* function: the lease is that one's, which will
    fill. (As where a function for one row calls the batch of the same template, or the other way round.)"""
    lanes = [flight.key for flight in loading.get() if flight.key.startswith(f"{visit.key}\0")]
    return bool(lanes) and visit.lane not in lanes


def _would_block(flight: Flight, sync: bool) -> bool:
    """Whether waiting for `flight` would block the event loop that has to finish it.

    One that only polls, in whatever thread, may be polling for a lease that a task of this loop holds.
    """
    loop = running_loop() if sync else None
    return loop is not None and (flight.loop is loop or flight.began is None)
