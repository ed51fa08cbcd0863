"""One call under way: the library's own code, which goes on by one step when the test says so.

A call is a routine that yields the steps of `steps.py`, and `Commit` where the user's write function would be at work.
`readers.py` and `writers.py` have the kinds of calls. Each is advanced in *moves*, the smallest that another thread or
process could come between:

    BEGIN       the call starts, up to its first step
    COMMAND     one command reaches the server and is carried out (or is lost: see `Fate`)
    HEAR        the answer reaches the call, which goes on to its next step
    LOAD        the user's read function reads the store
    RETURN      the user's read function returns (or raises) what it has read
    COMMIT      the user's write function commits and returns
    WAKE        the flight that it waited for is over, or its patience is
    POLL        its pause is over
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import types
from collections.abc import Callable, Generator, Iterator
from enum import Enum
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from cacheside import drivers, engine, health, telling
from cacheside.backends.base import Hit
from cacheside.envelope import Raised
from cacheside.errors import CachesideError
from cacheside.steps import Abandon, AbandonMany, Ask, Begin, Failed, Load, LoadMany, Pause, Spawn, Wait

from .place import Operation, clock

if TYPE_CHECKING:
    from .world import Process, World


class Commit(NamedTuple):
    """The step of a write in which the user's function runs, and commits; or of a transaction in which it does."""


class Stage(NamedTuple):
    """The step of a write in a transaction in which the user's function runs."""


class Rollback(NamedTuple):
    """The step of a transaction in which it is rolled back."""


class Move(Enum):
    """See above."""

    BEGIN = "begins"
    COMMAND = "sends"
    HEAR = "hears"
    LOAD = "load begins"
    RETURN = "load ends"
    COMMIT = "commits"
    STAGE = "writes"
    ROLLBACK = "rolls back"
    WAKE = "wakes"
    POLL = "looks again"
    OVER = "is over"


class Fate(Enum):
    """What becomes of a move."""

    __hash__ = object.__hash__  # Enum's own is slow

    DONE = "done"
    LOST = "lost on the way, time-out"
    UNHEARD = "carried out, but time-out"
    LATE = "under way for long, time-out"
    CLOSED = "lost on the way, connection closed"
    CLOSED_UNHEARD = "carried out, but connection closed"
    CLOSED_LATE = "under way for long, connection closed"
    RAISES = "the user's function raises"
    CRASH = "the caller is never heard of again"


LOSSES = (Fate.LOST, Fate.UNHEARD, Fate.LATE, Fate.CLOSED, Fate.CLOSED_UNHEARD, Fate.CLOSED_LATE)
_ARRIVE = (Fate.DONE, Fate.UNHEARD, Fate.CLOSED_UNHEARD)
_LATE = (Fate.LATE, Fate.CLOSED_LATE)
_CLOSED = (Fate.CLOSED, Fate.CLOSED_UNHEARD, Fate.CLOSED_LATE)


class _Unheard(Enum):
    UNHEARD = "unheard"


_UNHEARD = _Unheard.UNHEARD


class _Killed(BaseException):
    """Ends a routine that will not be advanced any more."""


class LoadFailed(Exception):
    """What the user's read function raises."""

    def __init__(self, version: int) -> None:
        super().__init__(version)
        self.version = version


class WriteFailed(Exception):
    """What the user's write function raises, though it has committed."""


def verb_of(step: Ask | Abandon | AbandonMany) -> str:
    """What the backend is asked for."""
    if isinstance(step, Ask):
        return step.verb
    return "release" if isinstance(step, Abandon) else "release_many"


def _args_of(step: Ask | Abandon | AbandonMany) -> tuple[Any, ...]:
    if isinstance(step, Ask):
        return step.args
    return (step.key, step.token) if isinstance(step, Abandon) else (step.leases,)


class Call:
    """A read, a refresh or a write."""

    reads = False
    refreshes = False
    """Whether it may begin refreshes."""

    def __init__(self, world: World, process: Process, name: str) -> None:
        self.world = world
        self.process = process
        self.name = name
        self.context = contextvars.Context()
        self.move = Move.BEGIN
        self.step: Any = None
        self.crashed = False
        self._routine: Any = self.routine()
        self._operation: Operation | None = None
        self.command: Any = None
        """What it sends next."""
        self._answer: Any = _UNHEARD
        self._loaded: int = 0
        self._until = 0.0
        self._seen = -1  # the changes that its last lookup knew of, and its own since
        self._first = True  # command of its operation
        self.undelivered = 0  # the process's count, before this call went on for the last time

    def routine(self) -> Any:
        """The library's code."""
        raise NotImplementedError

    def ended(self, outcome: Any) -> None:
        """It returned, or raised (`Raised`)."""
        raise NotImplementedError

    @property
    def live(self) -> bool:
        """Whether it goes on."""
        return self.move is not Move.OVER and not self.crashed

    @property
    def ready(self) -> bool:
        """Whether it can go on now. One that waits cannot; nor can a poll, where nothing has changed since the last."""
        if self.move is Move.WAKE:
            return self.step.flight.done or clock() >= self._until
        if self.move in (Move.COMMIT, Move.STAGE):  # another transaction has locked the row
            return self.world.owner in (None, self) and self.live
        if self.move is Move.POLL:
            return self._seen != self.world.changes or clock() >= self._until
        return self.live

    @property
    def heard_by_none(self) -> bool:
        """Whether it is about to hear of a hit, which nobody else can notice (if it refreshes nothing, that is)."""
        return self.move is Move.HEAR and type(self._answer) is Hit and not self.refreshes

    def advance(self, fate: Fate = Fate.DONE) -> None:
        """Make the next move."""
        move, step = self.move, self.step
        if move is Move.BEGIN:
            self.began()
            self._resume(None)
        elif move is Move.COMMAND:
            self._send(fate)
        elif move is Move.HEAR:
            answer, self._answer = self._answer, _UNHEARD
            self.heard(step, answer)
            self._resume(answer)
        elif move is Move.LOAD:
            self._loaded = self.finds()
            self.move = Move.RETURN
        elif move is Move.RETURN:
            outcome: Any = {0: self._loaded} if isinstance(step, LoadMany) else self._loaded
            self._resume(Raised(LoadFailed(self._loaded)) if fate is Fate.RAISES else outcome)
        elif move is Move.COMMIT:
            self.committed()
            if fate is Fate.RAISES:
                self._go_on(self._routine.throw, WriteFailed())
            else:
                self._resume(None)
        elif move in (Move.STAGE, Move.ROLLBACK):
            self.staged() if move is Move.STAGE else self.rolled_back()
            self._resume(None)
        elif move is Move.WAKE:
            self._resume(step.flight.done)
        elif move is Move.POLL:
            self._resume(None)

    def began(self) -> None:
        """It starts now."""

    def heard(self, step: Any, answer: Any) -> None:
        """The answer to a step is about to reach it."""

    def carried_out(self) -> None:
        """The cache has carried out its command."""

    def finds(self) -> int:
        """What its loads find in the store."""
        return self.world.version

    def committed(self) -> None:
        """The store is written now, for all."""

    def staged(self) -> None:
        """The store is written now, for its own transaction."""

    def rolled_back(self) -> None:
        """What it has written is gone."""

    def dispose(self) -> None:
        """Throw away a call that is not over, as if it had never been: nothing is sent."""
        self.crashed = True
        with contextlib.suppress(_Killed, StopIteration):
            if self.move is Move.BEGIN:
                self._routine.close()
                return
            while True:
                self.context.run(self._routine.throw, _Killed())

    def cancel(self) -> None:
        """Its task is cancelled. It may have something to say on the way out."""
        self._go_on(self._routine.throw, asyncio.CancelledError())

    def _resume(self, answer: Any) -> None:
        self._go_on(self._routine.send, answer)

    def _go_on(self, how: Callable[[Any], Any], what: Any) -> None:
        self.undelivered = self.process.core.book.undelivered
        self._answer = _UNHEARD
        try:
            step = self.context.run(how, what)
            while isinstance(step, (Begin, Spawn)):
                if isinstance(step, Spawn):
                    self.world.spawn(self, step.steps)
                step = self.context.run(self._routine.send, True)
            self.step = step
        except StopIteration as end:
            self.move = Move.OVER
            self.ended(end.value)
            return
        except asyncio.CancelledError:
            self.move = Move.OVER
            return
        except Exception as error:
            self.move = Move.OVER
            self.ended(Raised(error))
            return
        if isinstance(step, (Ask, Abandon, AbandonMany)):
            self._operation = self.world.place.operation(self.process.core, verb_of(step), _args_of(step))
            self._first = True
            self._next(None)
        elif isinstance(step, (Load, LoadMany)):
            self.move = Move.LOAD
        elif isinstance(step, (Commit, Stage, Rollback)):
            self.move = Move[type(step).__name__.upper()]
        elif isinstance(step, Wait):
            self.move, self._until = Move.WAKE, clock() + step.seconds
        else:
            assert isinstance(step, Pause), step
            self.move, self._until = Move.POLL, clock() + step.seconds

    def _send(self, fate: Fate) -> None:
        world, reply = self.world, None
        if fate in _ARRIVE:
            before = world.changes
            reply = world.execute(self.command)
            if self._first and verb_of(self.step) in ("lookup", "lookup_many"):
                self._seen = before  # all that others change from now on may be news
            self._seen += world.changes - before
            self._first = False
            self.carried_out()
        elif fate in _LATE:
            world.late.append(self.command)
        self._next(reply if fate is Fate.DONE else world.place.failure(fate in _CLOSED))

    def _next(self, reply: Any) -> None:
        """On to the next command of the operation, or to its answer."""
        operation = self._operation
        assert operation is not None
        try:
            self.command = operation.send(reply)
        except StopIteration as end:
            self._answer = end.value
        except CachesideError as error:  # all else is a mistake, and not to be taken for an outage
            self._answer = Failed(error)
        self.move = Move.COMMAND if self._answer is _UNHEARD else Move.HEAR


@types.coroutine
def _adrive(steps: Any, core: Any) -> Generator[Any, Any, Any]:
    return (yield from steps)


@types.coroutine
def _afinish(core: Any, plan: Any, updates: Any = telling.NO_UPDATES, stale: float = 0.0) -> Generator[Any, Any, Any]:
    return (yield from core.finish(plan, updates, stale)) if plan else None


@contextlib.contextmanager
def by_hand() -> Iterator[None]:
    """In this block the drivers hand their steps to the test, and time is the test's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drivers, "adrive", _adrive)
        patch.setattr(telling, "afinish", _afinish)
        for module in ("engine", "core", "freshness", "batch", "backends.memcached.known"):
            patch.setattr(f"cacheside.{module}.time", SimpleNamespace(monotonic=clock))
        # A pause must not be over, after some ttls, by chance: the same moves make the same run.
        patch.setattr("cacheside.engine.chance", lambda: 0.5)
        patch.setattr(health.logger(), "disabled", True)  # thousands of outages
        # Each call counts as a task of one loop: that they share a thread is no recursion.
        patch.setattr("cacheside.flight.running_loop", lambda: engine)
        yield
