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

import os
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from .backends.base import Guarded, Hit, Leased
from .core import Core
from .envelope import Codec, Miss, Outcome, Raised, is_one_shot
from .errors import CacheWarning, NotCacheableError, RecursiveLoadError
from .expiry import Expiry
from .flight import NOTHING, Flight, running_loop
from .stats import Counters
from .steps import Abandon, Ask, Failed, Load, Pause, Steps, Wait

POLL_FIRST, POLL_LAST = 0.004, 0.05  # seconds between two looks at a lease that another process holds; jittered
POLL_GROWTH = 1.3  # so that nobody waits much longer than a quarter more than the load takes
AGAIN = object()

Found: TypeAlias = Callable[[Any, Any], object]
"""Is told which entry was found, as the backend names it, and its value."""


class Policy(NamedTuple):
    """What a function asked for."""

    name: str
    where: tuple[str, int, str]
    """File, line and module of the function, for warnings."""
    expiry: Expiry
    cache_if: Callable[[Any], object] | None
    cache_exceptions: tuple[type[BaseException], ...]


class Keeper:
    """What of a function's outcomes is stored, in which form and for how long."""

    def __init__(self, policy: Policy, codec: Codec, counters: Counters) -> None:
        self.policy = policy
        self.codec = codec
        self.counters = counters
        self._warned = False

    def keep(self, outcome: Outcome) -> tuple[Any, float | None] | None:
        """What to store and its ttl; None if the outcome is not to be stored."""
        policy = self.policy
        ttl: float | None
        if type(outcome) is Raised:
            # Only these very classes: a subclass could not be rebuilt as what it was from a declared class.
            kind = type(outcome.error)
            if kind not in policy.cache_exceptions:
                if isinstance(outcome.error, policy.cache_exceptions):
                    why = f"{kind.__qualname__} is a subclass of what cache_exceptions= names: name it there as well"
                    self.uncacheable(NotCacheableError(why))
                return None
            ttl = policy.expiry.of_error(_chance())
        else:
            if policy.cache_if is not None and not policy.cache_if(outcome):
                self.counters.uncacheable += 1
                return None
            ttl = policy.expiry.of_value(outcome, _chance())
            if ttl == 0:
                self.counters.uncacheable += 1
                return None
        try:
            return self.codec.encode(outcome, ttl), ttl
        except NotCacheableError as error:
            self.uncacheable(error)
            return None

    def uncacheable(self, error: NotCacheableError) -> None:
        """Count it, and warn the first time."""
        self.counters.uncacheable += 1
        if not self._warned:
            self._warned = True
            file, line, module = self.policy.where
            message = CacheWarning(f"{self.policy.name}: the result is returned, but not cached: {error}")
            warnings.warn_explicit(message, CacheWarning, file, line, module)


class Reader:
    """The reads of one function on one cache."""

    def __init__(self, core: Core, keeper: Keeper) -> None:
        self.core = core
        self.keeper = keeper
        self.codec: Codec = keeper.codec
        self.counters: Counters = keeper.counters

    def read(self, key: str, sync: bool, found: Found | None = None) -> Steps:
        """One call of the cached function whose key (as the backend knows it) is `key`.

        `found` is told of a hit on a value: which entry, and the value. A driver may look up by itself, if nothing is
        pending, and ask `hit` and `miss`: these steps are the same.

        Races, and what closes each: a writer between lookup and fill: the lease, which its invalidation kills. A writer
        between fill and a follower's return: the follower joined before sealing, so it arrived before that write ended.
        A writer whose invalidation failed: `pending`, asked before the lookup is sent.
        """
        core = self.core
        if core.pending:
            yield from core.deliver()
            if core.pending.blocks(key):
                self.counters.misses += 1
                return (yield from self._bypass(key, core.flights.tick(), sync))
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
                found(answer.seen, outcome)
        return outcome

    def miss(self, key: str, answer: Any, why: Miss, sync: bool) -> Steps:
        """The rest of a call whose first lookup has this answer, of which `hit` has said `why` it is none."""
        self.counters.misses += 1
        core, flights, lane = self.core, self.core.flights, key + self.codec.identity
        arrived, deadline = flights.tick(), time.monotonic() + core.lease
        may_sleep = not sync or running_loop() is None
        pause = POLL_FIRST
        mine: Flight | None = None  # the flight in which this caller polls for others
        try:
            while True:
                if type(answer) is Hit:
                    # The first one has been looked at.
                    outcome = self.codec.decode(answer.stored) if why is Miss.ABSENT else why
                    if type(outcome) is not Miss:
                        self.counters.coalesced += 1  # somebody else, in whatever process, has loaded and filled
                        return outcome
                    self.counters.undecodable += outcome is Miss.FOREIGN
                    why = Miss.ABSENT
                    answer = yield Ask("replace", (key, answer.seen, core.lease))
                if type(answer) is Failed:
                    self._failed(answer.error)
                    return (yield from self._bypass(key, arrived, sync))
                core.recovered()
                if type(answer) is Guarded:  # its writer may commit at any moment: what is loaded now is filled by none
                    self.counters.guarded += 1
                    return (yield from self._bypass(key, arrived, sync))
                if type(answer) is Leased:
                    flight = flights.lead(lane, mine)
                    return (yield from self._lead(key, answer.token, flight))
                # Busy.
                if mine is None or not flights.is_open(mine):
                    if mine is not None:
                        flights.end(mine)
                        mine = None
                    flight, joined_open, leads = flights.meet(lane)
                    if not leads:
                        outcome = yield from self._follow(flight, key, arrived, joined_open, deadline, sync)
                        if outcome is not AGAIN:
                            return outcome
                        answer = yield Ask("lookup", (key, core.lease))
                        continue
                    mine = flight
                # Sync code on an event loop's thread never sleeps: the holder of the lease may be a task of that
                # loop that could not register its flight yet.
                left = deadline - time.monotonic()
                if left <= 0 or not may_sleep:
                    return (yield from self._bypass(key, arrived, sync))
                yield Pause(min(left, pause * (0.5 + _chance() / 2)))
                pause = min(POLL_LAST, pause * POLL_GROWTH)
                answer = yield Ask("lookup", (key, core.lease))
        finally:
            if mine is not None:
                flights.end(mine)  # whatever happened, nobody waits for a caller that has gone

    def _follow(self, flight: Flight, key: str, arrived: int, joined_open: bool, deadline: float, sync: bool) -> Steps:
        """Wait for a flight that another leads. AGAIN: look up again."""
        self._refuse_recursion(flight, key)
        if _would_block(flight, sync):
            return (yield from self._alone(key))
        left = deadline - time.monotonic()
        if left <= 0 or not (yield Wait(flight, left)):
            return (yield from self._bypass(key, arrived, sync))
        if flight.serves(arrived, joined_open):
            self.counters.coalesced += 1
            return self.codec.share(flight.outcome)
        if flight.outcome is NOTHING or flight.proven:
            return AGAIN  # abandoned; or it was sealed before this caller came, and the value is in the cache now
        return (yield from self._bypass(key, arrived, sync, behind=flight))  # refused: not twice to the same caller

    def _lead(self, key: str, token: Any, flight: Flight) -> Steps:
        """Load and fill, with the lease `token`."""
        flights, counters = self.core.flights, self.counters
        try:
            flights.begin(flight)
            counters.loads += 1
            outcome = yield Load(flight)
            try:
                kept = self.keeper.keep(outcome)
            except Exception as error:  # of the user's cache_if= or ttl=, or a warning made an error
                outcome, kept = Raised(error), None
            flights.seal(flight)
            if kept is None:
                answer = yield Ask("release", (key, token))
            else:
                answer = yield Ask("fill", (key, token, *kept))
                if type(answer) is Failed and isinstance(answer.error, NotCacheableError):
                    self.keeper.uncacheable(answer.error)
                    answer = yield Ask("release", (key, token))
                elif answer is False:
                    counters.refused += 1
            if type(answer) is Failed:  # a fill without an answer counts as refused
                self._failed(answer.error)
            flights.end(flight, NOTHING if is_one_shot(outcome) else outcome, proven=answer is True)
        except BaseException:
            flights.end(flight)
            yield Abandon(key, token)
            raise
        return outcome

    def _bypass(self, key: str, arrived: int, sync: bool, behind: Flight | None = None) -> Steps:
        """Load and fill nothing, in the queue: the load running now and the next serve everybody who is here.

        The followers of one refused flight stand `behind` it: one load serves them all, however late each wakes.
        """
        core, flights = self.core, self.core.flights
        self.counters.bypassed += 1
        deadline = time.monotonic() + core.lease
        flight, leads = flights.enqueue(key + self.codec.identity) if behind is None else flights.after(behind)
        while not leads:
            self._refuse_recursion(flight, key)
            left = deadline - time.monotonic()
            if _would_block(flight, sync) or left <= 0 or not (yield Wait(flight, left)):
                return (yield from self._alone(key))
            if flight.serves(arrived, joined_open=False):
                self.counters.coalesced += 1
                return self.codec.share(flight.outcome)
            flight, leads = flights.after(flight)
        return (yield from self._load_only(flight))

    def _alone(self, key: str) -> Steps:
        """Load for this caller only, and fill nothing."""
        return (yield from self._load_only(Flight(key)))

    def _load_only(self, flight: Flight) -> Steps:
        flights = self.core.flights
        try:
            flights.begin(flight)
            self.counters.loads += 1
            outcome = yield Load(flight)
            flights.end(flight, NOTHING if is_one_shot(outcome) else outcome)
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


def _would_block(flight: Flight, sync: bool) -> bool:
    """Whether waiting for `flight` would block the event loop that has to finish it.

    One that only polls, in whatever thread, may be polling for a lease that a task of this loop holds.
    """
    loop = running_loop() if sync else None
    return loop is not None and (flight.loop is loop or flight.began is None)


def _chance() -> float:
    """From 0 up to 1. Not by `random`, which is costly to import; nor is that left to the first miss: a child that is
    forked while another thread imports something could never import it."""
    return int.from_bytes(os.urandom(6), "big") / 2**48
