"""All interleavings of a small cast, depth first, each replayed from its beginning on a fresh key.

Moves that touch nothing in common can be swapped without anybody noticing, so of all orders that differ only by such
swaps one is run (sleep sets: Godefroid, "Partial-Order Methods for the Verification of Concurrent Systems", 1996,
chapter 5). With `switches` only those are run in which somebody who could go on is interrupted, at most so many times
altogether (Musuvathi and Qadeer, "Iterative Context Bounding", 2007): most races need one or two.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .calls import LOSSES, Call, Fate, Move
from .place import ENTRY, TAG
from .readers import KINDS
from .world import Violation, World
from .writers import Written

STORE, CLOCK, WRITES = "store", "clock", "completed writes"
_KEYS = frozenset((ENTRY, TAG))
_ALL = _KEYS | {STORE, WRITES}
_CLOCK = frozenset((CLOCK,))
_NOTHING: frozenset[str] = frozenset()

Choice = tuple[int, Fate]
"""Who moves next, and how the move ends: a call by its number, or the world around them (the negative ones)."""
_NOBODY, _LATE, _TTL = -1, -2, -3
_DROPS = {-4: ENTRY, -5: TAG}


class Touch(NamedTuple):
    """What a move reads and writes."""

    reads: frozenset[str]
    writes: frozenset[str]

    def minds(self, other: Touch) -> bool:
        """Whether the order of the two can matter."""
        return bool(self.writes & (other.reads | other.writes) or other.writes & self.reads)


class Cast(NamedTuple):
    """Who plays, and what may go wrong, how often.

    readers: process and kind of each, or just the process of a plain one; writers: process and kind of each.
    warm: there is a value in the cache at first, of the first reader. past: one that is past its ttl. ttls: how often
    ttls pass. drops: how often what a key holds may be lost (the guard of a writer at work only as one of
    `lost_guards`). crashes: of writers. losses: commands that get lost, in any of the ways of `fates`. raises: loads
    that fail.
    """

    readers: Sequence[int | tuple[int, str]]
    writers: Sequence[tuple[int, str]]
    warm: bool = False
    past: bool = False
    ttls: int = 0
    raises: int = 0
    drops: int = 0
    lost_guards: int = 0
    crashes: int = 0
    losses: int = 0
    fates: tuple[Fate, ...] = LOSSES

    @property
    def reads(self) -> list[tuple[int, str]]:
        """Process and kind of each reader."""
        return [(reader, "plain") if isinstance(reader, int) else reader for reader in self.readers]

    @property
    def in_one_process(self) -> Cast:
        """The same, as it is in memory."""
        return self._replace(
            readers=[(0, kind) for _, kind in self.reads], writers=[(0, kind) for _, kind in self.writers], losses=0
        )

    @property
    def troubled(self) -> bool:
        """Whether anything may go wrong."""
        return bool(self.drops or self.lost_guards or self.crashes or self.losses)


class Node:
    """A state on the way, with what is still to be tried in it."""

    __slots__ = ("asleep", "choices", "chosen", "goes_on", "interrupted", "last")

    def __init__(self, choices: dict[Choice, Touch], asleep: dict[Choice, Touch], last: int, interrupted: int) -> None:
        self.choices = choices
        self.asleep = asleep
        self.last = last
        self.goes_on = any(number == last for number, _ in choices)
        self.interrupted = interrupted
        self.chosen: Choice | None = None


class Play:
    """One run of a cast."""

    def __init__(self, place: object, cast: Cast) -> None:
        processes = 1 + max(process for process, _ in [*cast.reads, *cast.writers])
        self.world = world = World(place, processes)  # type: ignore[arg-type]  # a Place
        self.cast = cast
        self.drops, self.lost_guards, self.losses, self.crashes, self.ttls, self.raises = (
            cast.drops,
            cast.lost_guards,
            cast.losses,
            cast.crashes,
            cast.ttls,
            cast.raises,
        )
        if cast.warm or cast.past:
            world.read(0, cast.reads[0][1])
            world.finish()
            world.calls.clear()
        if cast.past:
            world.pass_ttl()
        for process, kind in cast.reads:
            world.read(process, kind)
        for process, kind in cast.writers:
            world.write(process, kind).advance()  # its beginning touches nothing
        # Readers of a process share flights, with each other and with their refreshes. Its writers share with them only
        # what could not be delivered.
        alone = [call.process for call in world.calls if call.reads or cast.losses]
        refreshing = {call.process for call in world.calls if call.refreshes}
        self.alone = {process for process in alone if alone.count(process) == 1} - refreshing
        # What a beginning reads: all of its lookup that may be in one command.
        tagged = any(KINDS[kind].tagged for _, kind in cast.reads)
        self.keys = _KEYS if tagged else frozenset((ENTRY,))
        self.clock = _CLOCK if cast.ttls else _NOTHING

    def choices(self) -> dict[Choice, Touch]:
        """What can happen now."""
        found: dict[Choice, Touch] = {}
        for number, call in enumerate(self.world.calls):
            if not (call.live and call.ready):
                continue
            touch = self._touch(call)
            found[number, Fate.DONE] = touch
            if call.move in (Move.BEGIN, Move.POLL, Move.COMMAND) and self.losses:
                for fate in self.cast.fates:
                    found[number, fate] = touch
            if self.crashes and isinstance(call, Written):
                found[number, Fate.CRASH] = Touch(frozenset(), _ALL)
            if self.raises and call.reads and call.move is Move.RETURN:
                found[number, Fate.RAISES] = touch
        if self.world.late:
            found[_LATE, Fate.DONE] = Touch(_NOTHING, _KEYS)
        if self.ttls:
            found[_TTL, Fate.DONE] = Touch(_NOTHING, _CLOCK)
        for number, name in _DROPS.items():
            lost = self.lost_guards and self.world.held(name) == "guard"
            if lost or (self.drops and self.world.droppable(name)):
                found[number, Fate.DONE] = Touch(_NOTHING, frozenset((name,)))
        return found

    def _touch(self, call: Call) -> Touch:
        here = frozenset((f"process {call.process.number}",))
        move, world = call.move, self.world
        if move is Move.LOAD:
            return Touch(frozenset((STORE,)), _NOTHING)
        if move is Move.COMMIT:
            return Touch(_NOTHING, frozenset((STORE,)))
        if move in (Move.RETURN, Move.HEAR, Move.WAKE):
            return Touch(self.clock, here)
        sends = move is Move.COMMAND
        keys = world.place.about(call.command) if sends else self.keys
        writes = frozenset((WRITES,))
        if not call.reads:
            if self.cast.losses:
                writes |= here
            return Touch(keys, writes if world.place.looks(call.command) else writes | keys)
        if world.place.still(call.command) if sends else world.look().kind:
            return Touch(keys if keys == {TAG} else keys | writes, here)
        return Touch(writes, keys | here)

    def make(self, choice: Choice) -> None:
        """Let it happen."""
        number, fate = choice
        world = self.world
        if number == _LATE:
            world.arrive_late()
            return
        if number == _TTL:
            self.ttls -= 1
            world.pass_ttl()
            return
        if number in _DROPS:
            name = _DROPS[number]
            if world.droppable(name):
                self.drops -= 1
            else:
                self.lost_guards -= 1
            world.drop(name)
            return
        call = world.calls[number]
        if fate is Fate.CRASH:
            self.crashes -= 1
            world.advance(call, fate)
            return
        if fate is Fate.RAISES:
            self.raises -= 1
            world.advance(call, fate)
        else:
            self._go_on(call, fate)
        # A writer is over as soon as its last command has been carried out, which is earlier than it can be in life;
        # and how late a reader hears an answer matters only to those with whom it shares flights, if to anybody.
        while call.move is Move.HEAR and (
            isinstance(call, Written) or call.process in self.alone or call.heard_by_none
        ):
            world.advance(call)

    def _go_on(self, call: Call, fate: Fate) -> None:
        # A beginning and the end of a pause touch nothing but what the next command does, and come just before it.
        while call.move in (Move.BEGIN, Move.POLL):
            self.world.advance(call)
        if call.move is not Move.COMMAND:
            fate = Fate.DONE
        self.losses -= fate is not Fate.DONE
        if call.live:
            self.world.advance(call, fate)


class Count(NamedTuple):
    """How many interleavings were run to their end, and whether these were all."""

    runs: int
    all: bool


def explore(
    place: object, cast: Cast, *, reduced: bool = True, switches: int | None = None, limit: int | None = None
) -> Count:
    """Run all interleavings of `cast`, at most `limit`.

    Raises:
        Violation: one of them breaks the promise.
        AssertionError: somebody waits for ever.
    """
    reduced = reduced and switches is None
    path: list[Node] = []
    runs = 0
    while limit is None or runs < limit:
        play = Play(place, cast)
        try:
            runs += _run(play, path, reduced, switches)
        except Violation as violation:
            violation.runs = runs + 1
            raise
        finally:
            play.world.dispose()
        while path and not _next(path[-1], reduced):
            path.pop()
        if not path:
            return Count(runs, all=True)
    return Count(runs, all=False)


def _run(play: Play, path: list[Node], reduced: bool, switches: int | None) -> bool:
    """Follow `path`, then go on to the end. False: the rest has been seen already, in another order."""
    world, asleep, last, interrupted = play.world, {}, _NOBODY, 0
    depth = 0
    while True:
        if depth == len(path):
            choices = play.choices()
            if not choices:
                # Where nothing goes wrong nobody waits for time to pass; else for a while.
                stuck = [call.name for call in world.calls if call.live]
                assert not stuck or play.cast.troubled, f"{stuck} wait in vain:{world.story()}"
                world.finish()
                return True
            node = Node(_bounded(choices, last, interrupted, switches), asleep, last, interrupted)
            if not _next(node, reduced):
                return False
            path.append(node)
        node = path[depth]
        assert node.chosen is not None
        touch = node.choices[node.chosen]
        if reduced:
            asleep = {choice: other for choice, other in node.asleep.items() if not other.minds(touch)}
        if switches is not None:
            interrupted = node.interrupted + (node.goes_on and node.chosen[0] != node.last)
            last = node.chosen[0]
        play.make(node.chosen)
        depth += 1


def _bounded(choices: dict[Choice, Touch], last: int, interrupted: int, switches: int | None) -> dict[Choice, Touch]:
    """Without those that would interrupt a call once too often; the one that goes on first."""
    if switches is None:
        return choices
    on = {choice: touch for choice, touch in choices.items() if choice[0] == last}
    return on if on and interrupted >= switches else {**on, **choices}


def _next(node: Node, reduced: bool) -> bool:
    """On to the next choice that is not asleep."""
    if node.chosen is not None:
        touch = node.choices.pop(node.chosen)
        if reduced:
            node.asleep[node.chosen] = touch
    for choice in node.choices:
        if choice not in node.asleep:
            node.chosen = choice
            return True
    return False
