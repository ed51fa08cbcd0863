"""Many calls in step: each goes its own way, by the rules of `engine.py`, and what they ask for is asked together.

Each key of a batch has steps of its own, those of a call for that key alone. Here they are carried out side by side: as
long as one of them has a question for the cache, all questions are collected and asked in one; then all that want to
load do so in one call of the function; only when all of them wait for others it is waited. That order also keeps
batches from waiting for each other in a ring: whatever a batch has promised to load it loads before it waits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from .backends.base import Fill
from .engine import Reader
from .envelope import ABSENT, Miss, Outcome, Raised
from .errors import CacheUnavailable
from .flight import Flight
from .freshness import FreshReader
from .steps import Abandon, AbandonMany, Ask, Begin, Failed, Load, LoadMany, Pause, Spawn, Step, Steps, Wait

Outcomes: TypeAlias = dict[int, Outcome]
"""By the number of the item."""


def read_many(reader: Reader, keys: Sequence[str], tags: Sequence[Sequence[str]], sync: bool) -> Steps:
    """A call of a batch function for items with these keys, all different, each with its tags; returns the Outcomes."""
    core = reader.core
    outcomes: Outcomes = {}
    ways: dict[int, Steps] = {}
    if core.held.counts:
        for number, key in enumerate(keys):
            if core.held.here(core, (key, *tags[number])):
                ways[number] = _read(reader, key, tags[number], sync)
    if core.pending:
        yield from core.deliver()
        for number, key in enumerate(keys):
            if core.pending.blocks(key, *tags[number]):
                ways[number] = _read(reader, key, tags[number], sync)
    asked = [number for number in range(len(keys)) if number not in ways]
    if asked:
        all_tags = list(dict.fromkeys(tag for number in asked for tag in tags[number]))
        answer = yield Ask("lookup_many", ([keys[number] for number in asked], core.lease, all_tags))
        answers, versions = answer if type(answer) is not Failed else ([answer] * len(asked), [None] * len(all_tags))
        known = dict(zip(all_tags, versions, strict=True))
        for number, found in zip(asked, answers, strict=True):
            found = Failed(found) if isinstance(found, CacheUnavailable) else found
            if tags[number]:
                assert isinstance(reader, FreshReader)  # as all that have tags
                visit = reader.visit(keys[number], sync, tags[number], [known[tag] for tag in tags[number]])
                ways[number] = reader.go_on(visit, found)
                continue
            outcome = reader.hit(found, None)
            if type(outcome) is Miss:
                ways[number] = reader.miss(keys[number], found, outcome, sync)
            else:
                outcomes[number] = outcome
    if ways:
        outcomes |= yield from in_step(ways)
    return outcomes


def uncached_many(reader: FreshReader, count: int, sync: bool) -> Steps:
    """A call for so many items where there is no cache; returns the Outcomes. See `FreshReader.uncached`."""
    return (yield from in_step({number: reader.uncached(sync) for number in range(count)}))


def _read(reader: Reader, key: str, tags: Sequence[str], sync: bool) -> Steps:
    if isinstance(reader, FreshReader):
        return reader.read(key, sync, None, tags)
    return reader.read(key, sync)


def in_step(ways: Mapping[int, Steps]) -> Steps:
    """Carry out steps side by side; returns the Outcomes. What one of them raises is its outcome."""
    crew = _Crew(ways)
    try:
        for number in ways:
            crew.go_on(number, None)
        while crew.steps:
            yield from crew.round()
    except BaseException as error:  # cancelled: each of them has to put in order what it has begun
        leases = [
            lease for number, way in ways.items() if number not in crew.outcomes for lease in _broken_off(way, error)
        ]
        if leases:
            yield AbandonMany(leases)
        raise
    return crew.outcomes


def _broken_off(way: Steps, error: BaseException) -> list[tuple[str, Any]]:
    """Throw `error` into a way; the leases that it had."""
    leases = []
    try:
        step = way.throw(error)
        while True:
            # Only what needs no answer: nobody waits any more.
            if isinstance(step, Abandon):
                leases.append((step.key, step.token))
            step = way.send(None if isinstance(step, Abandon) else Failed(CacheUnavailable("broken off")))
    except StopIteration:
        pass
    except BaseException as raised:
        if raised is not error:
            raise
    return leases


class _Crew:
    """The ways that are under way, and what each wants next."""

    def __init__(self, ways: Mapping[int, Steps]) -> None:
        self._ways = ways
        self._until: dict[int, float] = {}  # when those that wait lose their patience
        self.steps: dict[int, Step] = {}
        self.outcomes: Outcomes = {}

    def go_on(self, number: int, answer: Any) -> None:
        """Tell a way the answer to its step."""
        self.steps.pop(number, None)
        self._until.pop(number, None)
        try:
            self.steps[number] = self._ways[number].send(answer)
        except StopIteration as end:
            self.outcomes[number] = end.value
        except Exception as error:
            self.outcomes[number] = Raised(error)

    def round(self) -> Steps:
        """Do what most of them can do together now."""
        if any(isinstance(step, Begin) for step in self.steps.values()):  # then all of them: they were spawned together
            yield Begin()
            for number in list(self.steps):
                self.go_on(number, None)
            return
        asks = {number: step for number, step in self.steps.items() if isinstance(step, Ask)}
        if asks:
            yield from self._ask(asks)
            return
        spawns = {number: step for number, step in self.steps.items() if isinstance(step, Spawn)}
        if spawns:
            yield from self._spawn(spawns)
            return
        loads = {number: step.flight for number, step in self.steps.items() if isinstance(step, Load)}
        if loads:
            yield from self._load(loads)
            return
        for number, step in list(self.steps.items()):
            if isinstance(step, Abandon):
                self.go_on(number, (yield step))
        yield from self._wait()

    def _ask(self, asks: Mapping[int, Ask]) -> Steps:
        kinds: dict[str, dict[int, tuple[Any, ...]]] = {}
        for number, ask in asks.items():
            kinds.setdefault(ask.verb, {})[number] = ask.args
        for verb, of_verb in kinds.items():
            together = _TOGETHER.get(verb)
            if together is None:  # seldom
                for number, args in of_verb.items():
                    self.go_on(number, (yield Ask(verb, args)))
            else:
                answers = yield from together(list(of_verb.values()))
                for number, answer in zip(of_verb, answers, strict=True):
                    self.go_on(number, answer)

    def _spawn(self, spawns: Mapping[int, Spawn]) -> Steps:
        for whose in dict.fromkeys((None, *(spawn.whose for spawn in spawns.values()))):
            some = {number: spawn.steps for number, spawn in spawns.items() if spawn.whose is whose}
            if some:
                steps = in_step(some)
                accepted = yield Spawn(steps, whose)
                if not accepted:
                    steps.close()
                for number in some:
                    self.go_on(number, accepted)

    def _load(self, loads: Mapping[int, Flight]) -> Steps:
        numbers = sorted(loads)
        answer = yield LoadMany([loads[number] for number in numbers], numbers)
        for number in numbers:
            self.go_on(number, answer if isinstance(answer, Raised) else answer.get(number, ABSENT))

    def _wait(self) -> Steps:
        """All wait: until one of them is done, or has lost its patience."""
        now = time.monotonic()
        first: Wait | None = None
        for number, step in self.steps.items():
            if isinstance(step, (Wait, Pause)):
                self._until.setdefault(number, now + step.seconds)
                if first is None and isinstance(step, Wait):
                    first = step
        if not self._until:
            return
        end = min(self._until.values())
        left = max(0.0, end - now)
        if first is None:
            yield Pause(left)
            ended = False
        else:
            ended = yield Wait(first.flight, left)
        now = time.monotonic() if ended else max(end, time.monotonic())  # a pause is over when the drivers say so
        for number, until in list(self._until.items()):
            step = self.steps[number]
            if isinstance(step, Wait) and step.flight.done:
                self.go_on(number, True)
            elif until <= now:
                self.go_on(number, False)


# How several of the same questions are asked as one: given the arguments of all, each returns all answers.


def _lookups(asked: Sequence[tuple[Any, ...]]) -> Steps:
    answer = yield Ask("lookup_many", ([key for key, _ in asked], asked[0][1], ()))
    return [answer] * len(asked) if type(answer) is Failed else [_single(each) for each in answer[0]]


def _lookups_with_tags(asked: Sequence[tuple[Any, ...]]) -> Steps:
    keys = [key for some, _, _ in asked for key in some]
    tags = list(dict.fromkeys(tag for _, _, some in asked for tag in some))
    lease = next((lease for some, lease, _ in asked if some), None)
    answer = yield Ask("lookup_many", (keys, lease, tags))
    return _shared_out(answer, asked, tags, lambda args: len(args[0]), lambda args: args[2])


def _fills(asked: Sequence[tuple[Any, ...]]) -> Steps:
    answer = yield Ask("fill_many", ([Fill(*args) for args in asked],))
    return [answer] * len(asked) if type(answer) is Failed else [_single(each) for each in answer[0]]


def _fills_with_tags(asked: Sequence[tuple[Any, ...]]) -> Steps:
    tags = list(dict.fromkeys(tag for _, some in asked for tag in some))
    answer = yield Ask("fill_many", ([fill for some, _ in asked for fill in some], tags))
    return _shared_out(answer, asked, tags, lambda args: len(args[0]), lambda args: args[1])


def _releases(asked: Sequence[tuple[Any, ...]]) -> Steps:
    answer = yield Ask("release_many", (asked,))
    return [answer] * len(asked) if type(answer) is Failed else [_single(each) for each in answer]


def _replaces(asked: Sequence[tuple[Any, ...]]) -> Steps:
    return (yield from _rights("replace_many", asked))


def _claims(asked: Sequence[tuple[Any, ...]]) -> Steps:
    return (yield from _rights("claim_many", asked))


def _rights(verb: str, asked: Sequence[tuple[Any, ...]]) -> Steps:
    answer = yield Ask(verb, ([(key, seen) for key, seen, _ in asked], asked[0][2]))
    return [answer] * len(asked) if type(answer) is Failed else [_single(each) for each in answer]


def _plants(asked: Sequence[tuple[Any, ...]]) -> Steps:
    tags = list(dict.fromkeys(tag for (some,) in asked for tag in some))
    answer = yield Ask("plant", (tags,))
    if type(answer) is Failed:
        return [answer] * len(asked)
    known = dict(zip(tags, answer, strict=True))
    return [[known[tag] for tag in some] for (some,) in asked]


def _shared_out(
    answer: Any,
    asked: Sequence[tuple[Any, ...]],
    tags: Sequence[str],
    count: Callable[[tuple[Any, ...]], int],
    tags_of: Callable[[tuple[Any, ...]], Sequence[str]],
) -> list[Any]:
    """The part of each in an answer to all: so many of the first, and the versions of its tags."""
    if type(answer) is Failed:
        return [answer] * len(asked)
    first, known = iter(answer[0]), dict(zip(tags, answer[1], strict=True))
    return [([next(first) for _ in range(count(args))], [known[tag] for tag in tags_of(args)]) for args in asked]


def _single(answer: Any) -> Any:
    """As the call for one key would have it."""
    return Failed(answer) if isinstance(answer, Exception) else answer


_TOGETHER: Mapping[str, Callable[[Sequence[tuple[Any, ...]]], Steps]] = {
    "lookup": _lookups,
    "lookup_many": _lookups_with_tags,
    "fill": _fills,
    "fill_many": _fills_with_tags,
    "release": _releases,
    "replace": _replaces,
    "claim": _claims,
    "plant": _plants,
}
