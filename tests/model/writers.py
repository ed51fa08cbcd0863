"""Writes of several kinds.

plain       invalidates the entry
strict      guards it before
updates     guards it, and puts its value in
marker      marks it stale: for those who asked for windows it stays
tag         turns the tag
strict tag  guards another row, and the tag

Each of them also in a transaction, in which it is read before it commits ("plain commit"), or is rolled back ("plain
rollback").
"""

from __future__ import annotations

import types
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple

from cacheside.envelope import Raised
from cacheside.errors import CacheUnavailable
from cacheside.steps import Ask, Failed
from cacheside.targets import Entry, Terms
from cacheside.transactions import Transaction
from cacheside.writes import Write

from .calls import Call, Commit, Rollback, Stage, WriteFailed
from .place import ENTRY, TAG

if TYPE_CHECKING:
    from .world import Process, World


class Kind(NamedTuple):
    """How a write treats its keys, and which they are: of the entry, or of its tag and of another row."""

    terms: Terms
    target: str = ENTRY
    ends: str = ""
    """How its transaction does, if it is in one."""


_KINDS = {
    "plain": Kind(Terms()),
    "strict": Kind(Terms(strict=True, hold=1e6)),
    "updates": Kind(Terms(update=True, hold=1e6)),
    "marker": Kind(Terms(stale=1e6)),
    "tag": Kind(Terms(), TAG),
    "strict tag": Kind(Terms(strict=True, hold=1e6), TAG),
}
KINDS = _KINDS | {
    f"{name} {ends}": kind._replace(ends=ends) for name, kind in _KINDS.items() for ends in ("commit", "rollback")
}


class Written(Call):
    """One call of a decorated write function."""

    def __init__(self, world: World, process: Process, name: str, kind: str) -> None:
        self.terms, self.target, self.ends = KINDS[kind]
        self.version = 0
        """What it has committed."""
        self.wrote = 0
        """What it has written."""
        self.placed = False
        """Its mark is on its keys, or may be."""
        self.guarded = False
        """It knows that."""
        self.guard_lost = False
        super().__init__(world, process, name)

    @property
    def guarding(self) -> bool:
        """Whether its mark may be on its keys, and may not expire."""
        return self.placed and self.live

    def routine(self) -> Any:
        return _transact(self) if self.ends else _write(self)

    def carried_out(self) -> None:
        if isinstance(self.step, Ask) and self.step.verb == "guard" and not self.world.place.looks(self.command):
            self.placed = True

    def heard(self, step: Any, answer: Any) -> None:
        if isinstance(step, Ask) and step.verb == "guard" and type(answer) is not Failed:
            self.guarded = True

    def committed(self) -> None:
        self.version = self.wrote = self.world.commit(self.wrote)

    def staged(self) -> None:
        self.wrote = self.world.stage(self)

    def rolled_back(self) -> None:
        self.world.roll_back()

    def finds(self) -> int:
        return self.wrote

    @property
    def kept(self) -> bool:
        """Whether the guard has protected all of it, so that not even a crash or an outage can leave it stale."""
        return self.guarded and not self.guard_lost

    def ended(self, outcome: Any) -> None:
        if isinstance(outcome, Raised):
            if isinstance(outcome.error, CacheUnavailable) and not self.version:
                return  # refused
            if not isinstance(outcome.error, WriteFailed):
                raise outcome.error
        if not self.version:
            return
        delivered = self.undelivered == self.process.core.book.undelivered
        self.world.write_over(self, delivered)

    def entries(self) -> list[Entry]:
        """What it makes stale."""
        core, keys = self.process.core, self.world.place.keys
        if self.target == TAG:
            return [Entry(core, keys.row), Entry(core, keys.tag)] if self.terms.strict else [Entry(core, keys.tag)]
        return [Entry(core, keys.entry, self.process.reader("plain").keeper if self.terms.update else None)]


# The write function of the user, as the decorator runs it (`writes.wrap`), in its async form.
async def _write(call: Written) -> None:
    entries = call.entries()
    async with Write(_no_home, "write", call.terms, [lambda values: entries]) as write:
        await _hand_over(Commit())
        write.returned(call.version)


def _no_home() -> Any:
    raise AssertionError("all targets are known")


async def _transact(call: Written) -> None:
    entries = call.entries()
    async with Transaction() as block:
        async with Write(_no_home, "write", call.terms, [lambda values: entries]) as write:
            await _hand_over(Stage())
            write.returned(call.wrote)
        found = await _steps(_read(call))
        if not isinstance(found, Raised):
            call.world.judge_own(call, found)
        if call.ends == "commit":
            await _hand_over(Commit())
        else:
            await _hand_over(Rollback())
            block.rollback()


def _read(call: Written) -> Any:
    keys = call.world.place.keys
    if call.target == TAG:
        reader: Any = call.process.reader("tagged")
        return reader.read(keys.entry, False, None, (keys.tag,))
    return call.process.reader("plain").read(keys.entry, sync=False)


@types.coroutine
def _steps(steps: Any) -> Generator[Any, Any, Any]:
    return (yield from steps)


@types.coroutine
def _hand_over(step: Any) -> Generator[Any, Any, Any]:
    return (yield step)
