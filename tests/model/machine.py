"""The state machine: whatever the calls of three processes can do next, and whatever can befall them, in any order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from cacheside.steps import Abandon

from .calls import LOSSES, Call, Fate, Move
from .places import Place
from .world import KINDS, World

READERS = WRITERS = 3

_which = st.integers(0, 5)
_kinds = st.sampled_from(sorted(KINDS))
_processes = st.integers(0, 2)


def _verb(call: Call) -> str:
    """What it does next."""
    if call.move is Move.COMMAND:
        return "release" if isinstance(call.step, Abandon) else str(call.step.verb)
    if call.move in (Move.BEGIN, Move.POLL):
        return "lookup"
    return call.move.name.lower()


def _can(*verbs: str) -> Callable[[Any], bool]:
    """A precondition: somebody is about to do one of these."""
    return lambda machine: machine.able(*verbs)


class Machine(RuleBasedStateMachine):
    """See above. A subclass names the `place`."""

    place: Place
    processes: int

    def __init__(self) -> None:
        super().__init__()
        self.world = World(self.place, self.processes)

    def able(self, *verbs: str) -> list[Call]:
        """Who can do one of these now; without any: who can go on."""
        ready = [call for call in self.world.calls if call.live and call.ready]
        return [call for call in ready if _verb(call) in verbs] if verbs else ready

    def go(self, which: int, *verbs: str, fate: Fate = Fate.DONE) -> None:
        """One of those goes on by one move."""
        calls = self.able(*verbs)
        self.world.advance(calls[which % len(calls)], fate)

    def on(self, call: Call) -> None:
        """It goes on alone, as far as it can."""
        while call.live and call.ready:
            self.world.advance(call)

    def count(self, reads: bool) -> int:
        return sum(call.live and call.reads is reads for call in self.world.calls)

    @initialize(value=st.booleans())
    def begin(self, value: bool) -> None:
        """There may be a value in the cache at first."""
        if value:
            self.on(self.world.read(0))

    @precondition(lambda self: self.count(True) < READERS)
    @rule(process=_processes, whole=st.booleans())
    def read(self, process: int, whole: bool) -> None:
        call = self.world.read(process % self.processes)
        if whole:
            self.on(call)

    @precondition(lambda self: self.count(False) < WRITERS)
    @rule(process=_processes, kind=_kinds, whole=st.booleans())
    def write(self, process: int, kind: str, whole: bool) -> None:
        call = self.world.write(process % self.processes, kind)
        self.world.advance(call)
        if whole:
            self.on(call)

    @precondition(_can("lookup"))
    @rule(which=_which)
    def lookup(self, which: int) -> None:
        self.go(which, "lookup")

    @precondition(_can("load"))
    @rule(which=_which)
    def load_begins(self, which: int) -> None:
        self.go(which, "load")

    @precondition(_can("return"))
    @rule(which=_which, raises=st.booleans())
    def load_ends(self, which: int, raises: bool) -> None:
        self.go(which, "return", fate=Fate.RAISES if raises else Fate.DONE)

    @precondition(_can("fill", "release"))
    @rule(which=_which)
    def fill_or_release_the_lease(self, which: int) -> None:
        self.go(which, "fill", "release")

    @precondition(_can("guard"))
    @rule(which=_which)
    def guard(self, which: int) -> None:
        self.go(which, "guard")

    @precondition(_can("commit"))
    @rule(which=_which, raises=st.booleans())
    def commit(self, which: int, raises: bool) -> None:
        self.go(which, "commit", fate=Fate.RAISES if raises else Fate.DONE)

    @precondition(_can("invalidate"))
    @rule(which=_which)
    def invalidate(self, which: int) -> None:
        self.go(which, "invalidate")

    @precondition(_can("update"))
    @rule(which=_which)
    def update(self, which: int) -> None:
        self.go(which, "update")

    @precondition(_can("unguard"))
    @rule(which=_which)
    def release(self, which: int) -> None:
        self.go(which, "unguard")

    @precondition(_can("hear", "wake"))
    @rule(which=_which)
    def hear_or_wake(self, which: int) -> None:
        self.go(which, "hear", "wake")

    @precondition(_can())
    @rule(which=_which)
    def run_on(self, which: int) -> None:
        calls = self.able()
        self.on(calls[which % len(calls)])

    @precondition(lambda self: self.world.droppable)
    @rule()
    def expire_or_evict(self) -> None:
        self.world.drop()

    @precondition(lambda self: self.world.look()[0] == "guard")
    @rule()
    def lose_the_guard(self) -> None:
        """Evicted, flushed, or gone with a restart of the server."""
        self.world.drop()

    @rule()
    def expire_leases_and_patience(self) -> None:
        self.world.pass_time()

    @precondition(_can())
    @rule(which=_which)
    def crash(self, which: int) -> None:
        """A thread, or a whole machine, that is never heard of again."""
        self.go(which, fate=Fate.CRASH)

    @precondition(lambda self: self.processes > 1)
    @rule(process=_processes)
    def kill(self, process: int) -> None:
        """A process dies; the next one has its place."""
        self.world.kill(process)

    @precondition(lambda self: any(call.reads for call in self.able()))
    @rule(which=_which)
    def cancel(self, which: int) -> None:
        reads = [call for call in self.able() if call.reads and call.move is not Move.BEGIN]
        if reads:
            self.world.cancel(reads[which % len(reads)])

    @precondition(lambda self: self.place.lossy and any(call.move is Move.COMMAND for call in self.able()))
    @rule(which=_which, fate=st.sampled_from(LOSSES))
    def lose_a_command(self, which: int, fate: Fate) -> None:
        calls = [call for call in self.able() if call.move is Move.COMMAND]
        self.world.advance(calls[which % len(calls)], fate)

    @precondition(lambda self: self.world.late)
    @rule(which=_which)
    def arrive_late(self, which: int) -> None:
        self.world.arrive_late(which % len(self.world.late))

    def teardown(self) -> None:
        """In the end all calls come to theirs, and whoever comes then reads the newest."""
        try:
            self.world.finish()
            for process in range(self.processes):
                self.on(self.world.read(process))
            self.world.finish()
        finally:
            self.world.dispose()


def machine(place: Place) -> type[Machine]:
    """The state machine of a place: three processes, or in memory one."""
    return type("Machine", (Machine,), {"place": place, "processes": 3 if place.lossy else 1})


