"""A store, some processes of one application, the calls in them; and the judge."""

from __future__ import annotations

import itertools
from typing import Any

from cacheside.engine import Reader

from . import readers
from .calls import Call, Fate, Move, verb_of
from .place import ENTRY, LEASE, TAG, Found, Place, clock
from .readers import Read, Refresh
from .writers import Written


class Violation(AssertionError):
    """The promise was broken."""

    runs = 0
    """How many interleavings it took to see that."""


class Complete:
    """The newest writes that are complete, of those of each kind."""

    def __init__(self) -> None:
        self._entry = self._marks = self._tag = 0

    def add(self, version: int, target: str, marks: bool = False) -> None:
        """A write is complete that had this target, and only marked it stale, if that."""
        if target == TAG:
            self._tag = max(self._tag, version)
        elif marks:
            self._marks = max(self._marks, version)
        else:
            self._entry = max(self._entry, version)

    def floor(self, tagged: bool, marked: bool = False) -> int:
        """The oldest version that may be returned; `marked`: as a value that was marked stale."""
        return max(self._entry, 0 if marked else self._marks, self._tag if tagged else 0)

    def summary(self) -> tuple[int, ...]:
        """All of it."""
        return self._entry, self._marks, self._tag


class Process:
    """One process of the application."""

    def __init__(self, place: Place, number: int) -> None:
        self.number = number
        self.core = place.core()
        self.completed = Complete()
        """Those that are complete for the readers of this process: their delivery may be pending."""
        self.pending: dict[str, int] = {}
        """The newest of those that were pending, by their targets."""
        self._place = place
        self._readers: dict[str, Reader] = {}

    def reader(self, kind: str) -> Reader:
        """Of the function of that kind."""
        if kind not in self._readers:
            self._readers[kind] = readers.make(kind, self.core, self._place)
        return self._readers[kind]


class World:
    """One row of the store, whose value is its version, and what happens to it.

    What is promised: a read returns at least the version of the newest write that was complete when it began. A write
    is *complete* when it has returned; where its invalidation was not delivered, only in its own process until it has
    been. A write whose guard stood from before it to after it is complete without a delivery too, and also if its
    caller crashed after the commit. What counts for a read are the writes to its entry, and, if it has the tag, those
    that turned it; where it answers with a value that was marked stale, as it asked for, not those that only marked.

    Nor does it return what is not committed, unless it is a read of the transaction that has written it. (The store has
    locks on rows: of two writers one waits for the other's transaction.)

    The judge asks more than the issue does: what lies in the cache is asked at once, as if a reader had come along.
    """

    def __init__(self, place: Place, processes: int) -> None:
        place.renew()
        self.place = place
        self.version = 0
        self.owner: Written | None = None
        """Whose transaction has locked the row."""
        self.uncommitted: set[int] = set()
        """Versions that are not, or were never."""
        self._numbers = itertools.count(1)
        self.completed = Complete()
        self.changes = 0
        self.late: list[Any] = []
        self._seen: Found = place.look()
        self._seen_at = 0
        self._judged: Any = None
        self.processes = [Process(place, number) for number in range(processes)]
        self.calls: list[Call] = []
        self.diary: list[Any] = []

    def read(self, process: int, kind: str = "plain") -> Read:
        """A call of a cached function of that kind begins in a process."""
        call = Read(self, self.processes[process], f"R{len(self.calls)}.{process}-{kind}", kind)
        self.calls.append(call)
        return call

    def spawn(self, by: Call, steps: Any) -> None:
        """A read has something to do in the background. It begins at once, which touches nothing."""
        call = Refresh(by, steps)
        self.calls.append(call)
        self.diary.append(f"{call.name} begins")
        call.advance()

    def write(self, process: int, kind: str) -> Written:
        """A call of a write function of that kind begins in a process."""
        call = Written(self, self.processes[process], f"W{len(self.calls)}.{process}-{kind}", kind)
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
        before = self.place.state()
        reply = self.place.execute(command)
        if self.place.state() != before:
            self.changes += 1
        return reply

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

    def pass_ttl(self) -> None:
        """What has a ttl is past it now."""
        self.diary.append("ttls pass")
        clock.advance(readers.TTL)

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

    def held(self, name: str) -> str:
        """What kind of thing ENTRY's or TAG's key holds."""
        return self.look().kind if name == ENTRY else self.place.look_tag()

    def drop(self, name: str = ENTRY) -> None:
        """What ENTRY's or TAG's key holds expires, or is evicted. A guard: it is lost."""
        kind = self.held(name)
        self.diary.append(f"the {kind} of the {name} is lost")
        if kind == "guard":
            for call in self.calls:
                if isinstance(call, Written) and call.guarding and call.target == name:
                    call.guard_lost = True
        self.changes += 1
        self.place.drop(name)

    def droppable(self, name: str = ENTRY) -> bool:
        """Whether the key holds what may expire now: anything but the guard of a writer at work."""
        kind = self.held(name)
        return bool(kind) and not (kind == "guard" and self.guarding(name))

    def guarding(self, name: str) -> bool:
        """Whether a writer is at work that may have a mark on the key."""
        return any(isinstance(call, Written) and call.guarding and call.target == name for call in self.calls)

    def crash(self, call: Call) -> None:
        """The caller is never heard of again."""
        if call.live:
            call.crashed = True
            if self.owner is call:
                self.roll_back()
            if isinstance(call, Written) and call.kept:
                self.completed.add(call.version, call.target)

    def kill(self, process: int) -> None:
        """A process dies, with all its calls, and is started anew."""
        self.diary.append(f"process {process} dies")
        for call in self.calls:
            if call.process is self.processes[process]:
                self.crash(call)
        self.processes[process] = Process(self.place, process)
        self.settle()

    def commit(self, staged: int = 0) -> int:
        """The store is written; with `staged` a transaction is committed that has written that."""
        self.uncommitted.discard(staged)
        self.owner = None
        self.version = staged or next(self._numbers)
        return self.version

    def stage(self, call: Written) -> int:
        """A transaction writes."""
        staged = next(self._numbers)
        self.owner = call
        self.uncommitted.add(staged)
        return staged

    def roll_back(self) -> None:
        """The transaction that has written is rolled back."""
        self.owner = None

    def write_over(self, call: Written, delivered: bool) -> None:
        """A write has returned."""
        process, target, marks = call.process, call.target, bool(call.terms.stale)
        process.completed.add(call.version, target, marks)
        if delivered or call.kept:
            self.completed.add(call.version, target, marks)
        else:
            process.pending[target] = max(process.pending.get(target, 0), call.version)

    def settle(self) -> None:
        """What is pending nowhere is complete everywhere; and nothing older is in the cache."""
        keys = {ENTRY: self.place.keys.entry, TAG: self.place.keys.tag}
        for process in self.processes:
            for target in list(process.pending):
                if not process.core.pending.blocks(keys[target]):
                    self.completed.add(process.pending.pop(target), target)  # not as a mark: it was invalidated
        if self._judged != (now := (self.changes, self.completed.summary())):
            self._judged = now
            kind, version, tagged = self.look()
            if kind in ("value", "stale"):
                self.judge(version, self.completed.floor(tagged, kind == "stale"), f"the cache holds, as a {kind},")

    def look(self) -> Found:
        """What the entry's key holds."""
        if self._seen_at != self.changes:
            self._seen_at, self._seen = self.changes, self.place.look()
        return self._seen

    def judge(self, version: Any, floor: int, who: str) -> None:
        """That `version` is none from before a completed write."""
        if version in self.uncommitted:
            raise Violation(f"{who} version {version}, which is not committed:{self.story()}")
        if version < floor:
            raise Violation(f"{who} version {version}, but version {floor} was complete before:{self.story()}")

    def judge_own(self, call: Written, version: Any) -> None:
        """That a transaction has read what it has written."""
        if version != call.wrote:
            raise Violation(f"{call.name} wrote version {call.wrote}, and read version {version}:{self.story()}")

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
        words += f" {verb_of(step)}"
    return words if fate is Fate.DONE else f"{words}: {fate.value}"
