"""A store, some processes of one application, the calls in them; and the judge."""

from __future__ import annotations

from typing import Any

from cacheside.engine import Reader
from cacheside.expiry import Expiry
from cacheside.keeper import Keeper, Policy
from cacheside.stats import Counters
from cacheside.steps import Ask
from cacheside.targets import Terms

from .calls import Call, Fate, Move, Read, Written
from .places import LEASE, Place, clock

_POLICY = Policy("model", ("model.py", 1, "model"), Expiry(None, 1, 0), None, ())

PLAIN, STRICT, UPDATES = Terms(), Terms(strict=True, hold=1e6), Terms(update=True, hold=1e6)
KINDS = {"plain": PLAIN, "strict": STRICT, "updates": UPDATES}


class Violation(AssertionError):
    """The promise was broken."""

    runs = 0
    """How many interleavings it took to see that."""


class Process:
    """One process of the application."""

    def __init__(self, place: Place, number: int) -> None:
        self.number = number
        self.core = place.core()
        self.reader = Reader(self.core, Keeper(_POLICY, place.codec, Counters()))
        self.completed = 0
        """The newest write that is complete for the readers of this process: its delivery may be pending."""
        self.pending = 0
        """The newest of those that were pending."""


class World:
    """One row of the store, whose value is its version, and what happens to it.

    What is promised: a read returns at least the version of the newest write that was complete when it began. A write
    is *complete* when it has returned; where its invalidation was not delivered, only in its own process until it has
    been. A write whose guard stood from before it to after it is complete without a delivery too, and also if its
    caller crashed after the commit.

    The judge asks more than the issue does: what lies in the cache is asked at once, as if a reader had come along.
    """

    def __init__(self, place: Place, processes: int) -> None:
        place.renew()
        self.place = place
        self.version = 0
        self.completed = 0
        self.changes = 0
        self.late: list[Any] = []
        self._seen: tuple[str, int | None] = "", None
        self._seen_at = 0
        self._judged = 0, 0
        self.processes = [Process(place, number) for number in range(processes)]
        self.calls: list[Call] = []
        self.diary: list[Any] = []

    def read(self, process: int) -> Read:
        """A call of the cached function begins in a process."""
        call = Read(self, self.processes[process], f"R{len(self.calls)}.{process}")
        self.calls.append(call)
        return call

    def write(self, process: int, kind: str) -> Written:
        """A call of a write function begins in a process."""
        call = Written(self, self.processes[process], f"W{len(self.calls)}.{process}-{kind}", KINDS[kind])
        self.calls.append(call)
        return call

    def advance(self, call: Call, fate: Fate = Fate.DONE) -> None:
        """The next move of a call, and what it says about the promise."""
        self.diary.append((call, call.move, fate, call.step))
        if fate is Fate.CRASH:
            self.crash(call)
        else:
            call.advance(fate)
        self.settle()

    def execute(self, command: Any) -> Any:
        """A command is carried out by the cache."""
        if not (self.place.looks(command) and self.look()[0]):
            self.changes += 1
        return self.place.execute(command)

    def arrive_late(self, number: int = 0) -> None:
        """A command that was under way for long is carried out after all."""
        self.diary.append("a late command arrives")
        self.execute(self.late.pop(number))
        self.settle()

    def pass_time(self) -> None:
        """So much that all leases are over, and everybody's patience."""
        self.diary.append("time passes")
        clock.advance(2 * LEASE)
        self.changes += 1
        self.settle()

    def cancel(self, call: Call) -> None:
        """The task of a read is cancelled."""
        self.diary.append(f"{call.name} is cancelled")
        call.cancel()
        self.settle()

    def finish(self) -> None:
        """Let all calls come to their end, and see that they do."""
        patience = 10
        while live := [call for call in self.calls if call.live]:
            ready = [call for call in live if call.ready]
            for call in ready:
                if call.live and call.ready:
                    self.advance(call)
            if not ready:
                assert patience, f"{[call.name for call in live]} wait for ever:{self.story()}"
                patience -= 1
                self.pass_time()

    def drop(self) -> None:
        """What the key holds expires, or is evicted. A guard: it is lost."""
        kind, _ = self.look()
        self.diary.append(f"the {kind} is lost")
        if kind == "guard":
            self.lose_guards()
        self.changes += 1
        self.place.drop()

    def lose_guards(self) -> None:
        """The marks on the key are gone, before their time."""
        for call in self.calls:
            if isinstance(call, Written) and call.guarding:
                call.guard_lost = True

    @property
    def droppable(self) -> bool:
        """Whether the key holds what may expire now: anything but the guard of a writer at work."""
        kind, _ = self.look()
        return bool(kind) and not (kind == "guard" and self.guarding)

    @property
    def guarding(self) -> bool:
        """Whether a writer is at work that may have a mark on the key."""
        return any(isinstance(call, Written) and call.guarding for call in self.calls)

    def crash(self, call: Call) -> None:
        """The caller is never heard of again."""
        if call.live:
            call.crashed = True
            if isinstance(call, Written) and call.kept:
                self.completed = max(self.completed, call.version)

    def kill(self, process: int) -> None:
        """A process dies, with all its calls, and is started anew."""
        self.diary.append(f"process {process} dies")
        for call in self.calls:
            if call.process is self.processes[process]:
                self.crash(call)
        self.processes[process] = Process(self.place, process)
        self.settle()

    def commit(self) -> int:
        """The store is written."""
        self.version += 1
        return self.version

    def write_over(self, call: Written, delivered: bool) -> None:
        """A write has returned."""
        process = call.process
        process.completed = max(process.completed, call.version)
        if delivered or call.kept:
            self.completed = max(self.completed, call.version)
        else:
            process.pending = max(process.pending, call.version)

    def settle(self) -> None:
        """What is pending nowhere is complete everywhere; and nothing older is in the cache."""
        for process in self.processes:
            if process.pending and not process.core.pending.blocks(self.place.key):
                self.completed, process.pending = max(self.completed, process.pending), 0
        if self._judged != (self.changes, self.completed):
            self._judged = self.changes, self.completed
            kind, version = self.look()
            if kind == "value" and version is not None:
                self.judge(version, self.completed, "the cache holds")

    def look(self) -> tuple[str, int | None]:
        """What the key holds."""
        if self._seen_at != self.changes:
            self._seen_at, self._seen = self.changes, self.place.look()
        return self._seen

    def judge(self, version: Any, floor: int, who: str) -> None:
        """That `version` is none from before a completed write."""
        if version < floor:
            raise Violation(f"{who} version {version}, but version {floor} was complete before:{self.story()}")

    def story(self) -> str:
        """What happened, one line for each move."""
        return "".join(f"\n  {_told(entry)}" for entry in self.diary)

    def dispose(self) -> None:
        """The end: nothing that is under way goes on."""
        for call in self.calls:
            if call.move is not Move.OVER:
                call.dispose()


def _told(entry: Any) -> str:
    if isinstance(entry, str):
        return entry
    call, move, fate, step = entry
    if fate is Fate.CRASH:
        return f"{call.name} is never heard of again"
    words = f"{call.name} {move.value}"
    if move is Move.COMMAND:
        words += f" {step.verb if isinstance(step, Ask) else 'release'}"
    return words if fate is Fate.DONE else f"{words}: {fate.value}"
