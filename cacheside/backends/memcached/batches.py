"""Many keys at once: all that concerns one server in one exchange, and errors in the places of answers. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from ...errors import CachesideError, CacheUnavailable, NotCacheableError
from ..base import Fill
from . import claims, fills, tags, wire
from .claims import Claim
from .known import Known
from .replies import GarbledReply, Reply
from .ring import Ring
from .wire import Command, Operation

ROUNDS: Final = 10  # of planting a tag: in each of them somebody else took away what was there

Part: TypeAlias = Callable[[int, list[int]], Operation[list[Any]]]
"""What is to be done on the server at a place, for some of the names of a batch; the answers."""


class Batch(NamedTuple):
    """What is to be done on each server. When it has been done, `answers` has an answer for each name, or an error."""

    tasks: list[tuple[int, Operation[None]]]
    answers: list[Any]


class Batches:
    """The calls of `Batching` on the servers of a ring.

    Args:
        held: carries out the rest of a lookup that has found somebody else's lease.
    """

    def __init__(
        self, ring: Ring, known: Sequence[Known], held: Callable[[int, wire.Held, float], Operation[Any]]
    ) -> None:
        self._ring = ring
        self._known = known
        self._held = held

    def lookup_many(self, keys: Sequence[str], lease: float | None, tagged: Sequence[str]) -> Batch:
        """See `Batching.lookup_many`. Answers for the keys, then for the tags."""
        seconds = 0 if lease is None else wire.whole_seconds(lease)

        def look(key: bytes) -> Command[Any]:
            return wire.peek(key) if lease is None else wire.lookup(key, seconds)

        names = [wire.wire_key(key) for key in (*keys, *tagged)]
        commands = [look(name) for name in names[: len(keys)]] + [tags.read(name) for name in names[len(keys) :]]

        def part(place: int, chosen: list[int]) -> Operation[list[Any]]:
            answers = yield from exchange([commands[index] for index in chosen])
            for index, answer in enumerate(answers):
                if isinstance(answer, wire.Held):
                    try:
                        answers[index] = yield from self._held(place, answer, lease or 0.0)
                    except CachesideError as error:
                        answers[index] = in_place(error)
            return answers

        return self._spread(names, part)

    def fill_many(self, filled: Sequence[Fill], tagged: Sequence[str]) -> Batch:
        """See `Batching.fill_many`. Answers for the fills, then for the tags, which are read behind them."""
        names = [wire.wire_key(key) for key in (*[fill.key for fill in filled], *tagged)]

        def part(place: int, chosen: list[int]) -> Operation[list[Any]]:
            answers: dict[int, Any] = {}
            commands: dict[int, Command[Any]] = {}
            known = self._known[place]
            for index in chosen:
                if index >= len(filled):
                    commands[index] = tags.read(names[index])
                    continue
                _, token, stored, ttl = filled[index]
                refused = yield from fills.oversized(known, stored)
                if refused is None:
                    commands[index] = wire.fill(names[index], fills.proof(token), stored, ttl)
                else:
                    answers[index] = refused
            done = yield from exchange(list(commands.values()))
            if any(isinstance(answer, NotCacheableError) for answer in done):
                known.refused_size()
            answers.update(zip(commands, done, strict=True))
            return [answers[index] for index in chosen]

        return self._spread(names, part)

    def release_many(self, leases: Sequence[tuple[str, Any]]) -> Batch:
        """See `Batching.release_many`."""
        names = [wire.wire_key(key) for key, _ in leases]
        commands = [release(name, token) for name, (_, token) in zip(names, leases, strict=True)]
        return self._spread(names, lambda _, chosen: exchange([commands[index] for index in chosen]))

    def replace_many(self, entries: Sequence[tuple[str, wire.Cas]], lease: float) -> Batch:
        """See `Batching.replace_many`."""
        return self._proven(wire.replace, entries, lease)

    def claim_many(self, entries: Sequence[tuple[str, wire.Cas]], lease: float) -> Batch:
        """See `Batching.claim_many`."""
        return self._proven(claims.claim, entries, lease)

    def _proven(
        self,
        verb: Callable[[bytes, wire.Cas, float], Command[Any]],
        entries: Sequence[tuple[str, wire.Cas]],
        lease: float,
    ) -> Batch:
        names = [wire.wire_key(key) for key, _ in entries]
        commands = [verb(name, seen, lease) for name, (_, seen) in zip(names, entries, strict=True)]
        return self._spread(names, lambda _, chosen: exchange([commands[index] for index in chosen]))

    def plant(self, tagged: Sequence[str]) -> Batch:
        """See `Batching.plant`."""
        names = [wire.wire_key(tag) for tag in tagged]
        return self._spread(names, lambda _, chosen: _plant([names[index] for index in chosen]))

    def _spread(self, names: Sequence[bytes], part: Part) -> Batch:
        """Each server's part. One that fails as a whole has its error in all the places that it should answer for."""
        groups: dict[int, list[int]] = {}
        for index, name in enumerate(names):
            groups.setdefault(self._ring.index(name), []).append(index)
        answers: list[Any] = [None] * len(names)

        def task(place: int, chosen: list[int]) -> Operation[None]:
            try:
                done = yield from part(place, chosen)
            except CachesideError as error:
                done = [in_place(error)] * len(chosen)
            for index, answer in zip(chosen, done, strict=True):
                answers[index] = answer

        return Batch([(place, task(place, chosen)) for place, chosen in groups.items()], answers)


def release(key: bytes, token: wire.Cas | Claim) -> Command[bool]:
    """See `Backend.release`."""
    return claims.release(key, token) if isinstance(token, Claim) else wire.release(key, token)


def exchange(commands: Sequence[Command[Any]]) -> Operation[list[Any]]:
    """Carry out commands in one exchange; what each comes to, or an error in its place.

    Of those that name a CAS none is sent if no connection may carry all of them; then they come to their `otherwise`.
    """
    results = [command.otherwise for command in commands]
    going = [index for index, command in enumerate(commands) if command.before != 0]
    while going:
        chosen = [commands[index] for index in going]
        done = yield _together(chosen)
        if done is not None:
            for index, result in zip(going, done, strict=True):
                results[index] = result
            break
        going = [index for index in going if commands[index].before is None]
    return results


def _together(commands: Sequence[Command[Any]]) -> Command[list[Any]]:
    def decide(replies: Sequence[Reply], sent: int, name: str) -> list[Any]:
        results: list[Any] = []
        start = 0
        for command in commands:
            try:
                results.append(command.decide(replies[start : start + command.replies], sent, name))
            except (CachesideError, GarbledReply) as error:
                results.append(in_place(error))
            start += command.replies
        return results

    return Command(
        b"".join([command.data for command in commands]),
        decide,
        replies=sum(command.replies for command in commands),
        before=min([command.before for command in commands if command.before is not None], default=None),
        again=all(command.again for command in commands),
    )


def in_place(error: Exception) -> CacheUnavailable | NotCacheableError:
    """An error as an answer: without its traceback, whose frames hold the answers."""
    if isinstance(error, (CacheUnavailable, NotCacheableError)):
        return error.with_traceback(None)
    return CacheUnavailable(str(error))


def _plant(names: Sequence[bytes]) -> Operation[list[Any]]:
    results: list[Any] = [None] * len(names)
    left = list(range(len(names)))
    for _ in range(ROUNDS):
        done = yield from exchange([tags.plant(names[index], results[index]) for index in left])
        for index, found in zip(left, done, strict=True):
            results[index] = found
        left = [index for index in left if results[index] is None or isinstance(results[index], wire.Cas)]
        if not left:
            break
    for index in left:
        results[index] = None
    return results
