"""The state machine: whatever the calls of three processes can do next, and whatever can befall them, in any order.

Chance alone seldom makes a race: it takes one call that is interrupted at the right place by two or three others which
go on to their end. So each rule may let a call go on for a while, and each run has but few kinds of trouble, if any
("swarm testing": Groce et al., ISSTA 2012).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from .calls import LOSSES, Call, Fate, Move, verb_of
from .place import ENTRY, TAG, Place
from .readers import Read
from .world import World
from .writers import Written

READERS = WRITERS = 3

_TROUBLES = (
    "lose",
    "drop",
    "drop the tag",
    "lose the guard",
    "lose the guard of the tag",
    "ttl",
    "time",
    "crash",
    "kill",
    "cancel",
    "raise",
)
_CASTS = (
    (("plain",), ("plain", "strict", "updates")),
    (("windowed",), ("plain", "strict", "updates", "marker")),
    (("plain", "windowed", "rescuing"), ("plain", "strict", "updates", "marker")),
    (("tagged",), ("plain", "strict", "tag", "strict tag")),
    (("tagged", "plain"), ("plain", "tag", "strict tag", "updates")),
    (("batch", "plain"), ("plain", "strict", "updates", "marker")),
    (("tagged batch", "tagged"), ("plain", "strict", "tag", "strict tag")),
    (("tagged windowed",), ("plain", "strict", "tag", "strict tag", "marker")),
    (("plain",), ("plain", "plain commit", "strict commit", "updates commit", "updates", "plain rollback")),
    (("plain", "windowed"), ("plain commit", "plain rollback", "strict rollback", "updates rollback", "updates")),
    (("tagged", "plain"), ("tag commit", "tag rollback", "strict tag commit", "strict tag rollback", "plain commit")),
    (("windowed", "rescuing"), ("marker commit", "marker rollback", "updates commit", "plain commit", "strict")),
)
"""The kinds of readers that share an entry, and of writers. The first is for places that can do no more."""

_which = _kinds = st.integers(0, 5)
_processes = st.integers(0, 2)
_further = st.sampled_from((0, 1, 2, 3, 4, 5, 6, 50, 50, 50))  # of what was tried the most likely to make a race


def _verb(call: Call) -> str:
    """What it does next."""
    if call.move is Move.COMMAND:
        return verb_of(call.step)
    if call.move in (Move.BEGIN, Move.POLL):
        return "lookup"
    return call.move.name.lower()


def _can(*verbs: str) -> Callable[[Any], bool]:
    """A precondition: somebody is about to do one of these."""
    return lambda machine: bool(machine.able(*verbs))


def _troubled(trouble: str, *verbs: str) -> Callable[[Any], bool]:
    """A precondition: this run has this trouble, and somebody is about to do one of these."""
    return lambda machine: trouble in machine.troubles and bool(machine.able(*verbs))


_LOOKUPS = ("lookup", "lookup_many", "replace", "replace_many", "claim", "claim_many", "plant")
_ENDS = ("fill", "fill_many", "release", "release_many")
_WRITES = ("guard", "unguard", "update", "invalidate", "mark_stale")
_SENT = (*_LOOKUPS, *_ENDS, *_WRITES)
_STORES = ("commit", "stage", "rollback")


class Machine(RuleBasedStateMachine):
    """See above. A subclass names the `place`."""

    place: Place
    processes: int
    readers: tuple[str, ...]
    writers: tuple[str, ...]
    """The kinds of them in this run."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.place, self.processes)
        self.troubles: set[str] = set()

    def able(self, *verbs: str) -> list[Call]:
        """Who can do one of these now; without any: who can go on."""
        ready = [call for call in self.world.calls if call.live and call.ready]
        return [call for call in ready if _verb(call) in verbs] if verbs else ready

    def go(self, which: int, further: int, *verbs: str, fate: Fate = Fate.DONE) -> None:
        """One of those goes on by one move, and by `further` ones if it can."""
        calls = self.able(*verbs)
        call = calls[which % len(calls)]
        if call.move in (Move.BEGIN, Move.POLL):
            self.world.advance(call)
        self.world.advance(call, fate)
        while further and call.live and call.ready:
            self.world.advance(call)
            further -= 1

    def count(self, reads: bool) -> int:
        """How many are under way."""
        kind = Read if reads else Written
        return sum(call.live and isinstance(call, kind) for call in self.world.calls)

    @initialize(
        troubles=st.just(set()) | st.sets(st.sampled_from(_TROUBLES), max_size=3),
        cast=st.integers(0, len(_CASTS) - 1),
        value=st.booleans(),
        readers=st.lists(st.tuples(_processes, _kinds), min_size=1, max_size=READERS),
        writers=st.lists(st.tuples(_processes, _kinds), max_size=WRITERS),
    )
    def begin(
        self,
        troubles: set[str],
        cast: int,
        value: bool,
        readers: list[tuple[int, int]],
        writers: list[tuple[int, int]],
    ) -> None:
        self.troubles = troubles
        self.readers, self.writers = _CASTS[cast if self.place.more else 0]
        if value:
            call = self.world.read(0, self.readers[0])
            while call.live:
                self.world.advance(call)
        for process, kind in readers:
            self.read(process, kind)
        for process, kind in writers:
            self.write(process, kind)

    @precondition(lambda self: self.count(True) < READERS)
    @rule(process=_processes, kind=_kinds)
    def read(self, process: int, kind: int) -> None:
        self.world.read(process % self.processes, self.readers[kind % len(self.readers)])

    @precondition(lambda self: self.count(False) < WRITERS)
    @rule(process=_processes, kind=_kinds)
    def write(self, process: int, kind: int) -> None:
        self.world.advance(self.world.write(process % self.processes, self.writers[kind % len(self.writers)]))

    @precondition(_can(*_LOOKUPS))
    @rule(which=_which, further=_further)
    def lookup_or_claim(self, which: int, further: int) -> None:
        self.go(which, further, *_LOOKUPS)

    @precondition(_can("load"))
    @rule(which=_which, further=_further)
    def load_begins(self, which: int, further: int) -> None:
        self.go(which, further, "load")

    @precondition(_can("return"))
    @rule(which=_which, further=_further)
    def load_ends(self, which: int, further: int) -> None:
        self.go(which, further, "return")

    @precondition(_can(*_ENDS))
    @rule(which=_which, further=_further)
    def fill_or_release_the_lease(self, which: int, further: int) -> None:
        self.go(which, further, *_ENDS)

    @precondition(_can("guard"))
    @rule(which=_which, further=_further)
    def guard(self, which: int, further: int) -> None:
        self.go(which, further, "guard")

    @precondition(_can(*_STORES))
    @rule(which=_which, further=_further)
    def write_or_commit(self, which: int, further: int) -> None:
        self.go(which, further, *_STORES)

    @precondition(_can("invalidate", "mark_stale"))
    @rule(which=_which, further=_further)
    def invalidate_or_mark(self, which: int, further: int) -> None:
        self.go(which, further, "invalidate", "mark_stale")

    @precondition(_can("update"))
    @rule(which=_which, further=_further)
    def update(self, which: int, further: int) -> None:
        self.go(which, further, "update")

    @precondition(_can("unguard"))
    @rule(which=_which, further=_further)
    def release(self, which: int, further: int) -> None:
        self.go(which, further, "unguard")

    @precondition(_can("hear", "wake"))
    @rule(which=_which, further=_further)
    def hear_or_wake(self, which: int, further: int) -> None:
        self.go(which, further, "hear", "wake")

    @precondition(lambda self: "drop" in self.troubles and self.world.droppable())
    @rule()
    def expire_or_evict(self) -> None:
        self.world.drop()

    @precondition(lambda self: "drop the tag" in self.troubles and self.world.droppable(TAG))
    @rule()
    def expire_or_evict_the_tag(self) -> None:
        self.world.drop(TAG)

    @precondition(lambda self: "lose the guard" in self.troubles and self.world.held(ENTRY) == "guard")
    @rule()
    def lose_the_guard(self) -> None:
        """Evicted, flushed, or gone with a restart of the server."""
        self.world.drop()

    @precondition(lambda self: "lose the guard of the tag" in self.troubles and self.world.held(TAG) == "guard")
    @rule()
    def lose_the_guard_of_the_tag(self) -> None:
        self.world.drop(TAG)

    @precondition(lambda self: "ttl" in self.troubles)
    @rule()
    def expire_ttls(self) -> None:
        self.world.pass_ttl()

    @precondition(lambda self: "time" in self.troubles)
    @rule()
    def expire_leases_and_patience(self) -> None:
        self.world.pass_time()

    @precondition(_troubled("crash"))
    @rule(which=_which)
    def crash(self, which: int) -> None:
        """A thread, or a whole machine, that is never heard of again."""
        calls = self.able()
        self.world.advance(calls[which % len(calls)], Fate.CRASH)

    @precondition(lambda self: "kill" in self.troubles and self.processes > 1)
    @rule(process=_processes)
    def kill(self, process: int) -> None:
        """A process dies; the next one has its place."""
        self.world.kill(process)

    @precondition(lambda self: "cancel" in self.troubles and self.cancellable())
    @rule(which=_which)
    def cancel(self, which: int) -> None:
        calls = self.cancellable()
        self.world.cancel(calls[which % len(calls)])

    def cancellable(self) -> list[Call]:
        """Reads under way. (The delivery of a write is shielded.)"""
        return [call for call in self.able() if call.reads and call.move is not Move.BEGIN]

    @precondition(_troubled("raise", "return", "commit"))
    @rule(which=_which, further=_further)
    def raise_in_the_users_function(self, which: int, further: int) -> None:
        self.go(which, further, "return", "commit", fate=Fate.RAISES)

    @precondition(lambda self: self.place.lossy and "lose" in self.troubles and bool(self.able(*_SENT)))
    @rule(which=_which, further=_further, fate=st.sampled_from(LOSSES))
    def lose_a_command(self, which: int, further: int, fate: Fate) -> None:
        self.go(which, further, *_SENT, fate=fate)

    @precondition(lambda self: self.world.late)
    @rule(which=_which)
    def arrive_late(self, which: int) -> None:
        self.world.arrive_late(which % len(self.world.late))

    def teardown(self) -> None:
        """In the end all calls come to theirs, and whoever comes then reads the newest."""
        try:
            self.world.finish()
            for process in range(self.processes):
                for kind in self.readers:
                    self.world.read(process, kind)
                    self.world.finish()
        finally:
            self.world.dispose()


def run(place: Place, examples: int, steps: int, *, chance: bool = False, shrink: bool = True) -> None:
    """Run the state machine of a place: three processes, or in memory one.

    Args:
        examples: runs.
        steps: rules in each, at most.
        chance: others every time; else the same ones.
        shrink: whether to look for the shortest story of a violation.

    Raises:
        Violation: a read was older than a completed write.
    """
    machine = type("Machine", (Machine,), {"place": place, "processes": 3 if place.lossy else 1})
    phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            derandomize=not chance,
            phases=phases,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
