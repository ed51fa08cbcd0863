"""What mutations are made of."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, NamedTuple

import pytest

from cacheside.backends.memcached import wire
from cacheside.backends.memory import MemoryBackend
from cacheside.backends.redis import commands, scripts

from .explore import Cast

Patch = pytest.MonkeyPatch
MEMORY, REDIS, MEMCACHED = "memory", "redis", "memcached"


class Mutation(NamedTuple):
    """What is broken (`breaks`: how, by the name of the place), and who notices."""

    name: str
    breaks: dict[str, Callable[[Patch], None]]
    cast: Cast
    switches: int = 1

    def cast_for(self, place: str) -> Cast:
        """Who plays there: in memory all in one process."""
        return self.cast.in_one_process if place == MEMORY else self.cast


def replace_script(patch: Patch, name: str, old: str, new: str) -> None:
    """Have another text in the place of one in a script of Redis."""
    script: scripts.Script = getattr(scripts, name)
    assert old in script.text, f"{name} does not say {old!r} any more"
    patch.setattr(scripts, name, scripts._script(script.text.replace(old, new)))


def sent_again(protocol: type[Any], verb: str) -> Callable[[Patch], None]:
    """The command goes out once more with the same bytes when its connection was closed."""

    def breaks(patch: Patch) -> None:
        def again(self: Any, *args: Any) -> Generator[Any, Any, Any]:
            steps = real(self, *args)
            reply = None
            try:
                while True:
                    reply = yield from commands.twice(steps.send(reply))
            except StopIteration as end:
                return end.value

        real = getattr(protocol, verb)
        patch.setattr(protocol, verb, again)

    return breaks


def watched(steps: Any, hears: Callable[[Any, Any], Any]) -> Generator[Any, Any, Any]:
    """Go by these steps, but do more (steps that `hears` returns) after each answer."""
    go_on, what = steps.send, None
    while True:
        try:
            step = go_on(what)
        except StopIteration as end:
            return end.value
        try:
            go_on, what = steps.send, (yield step)
            yield from hears(step, what)
        except BaseException as error:
            go_on, what = steps.throw, error


CHECK = "(s=='L' or s=='V' or s=='S') and string.sub(h,2,17)==ARGV[1]"  # of Redis' fill


def unchecked_memory(patch: Patch) -> None:
    """A fill without a token check."""

    def fill(self: MemoryBackend, key: str, token: Any, stored: Any, ttl: float | None) -> bool:
        self._entries.put(key, stored, ttl)
        self._leases.pop(key, None)
        return True

    patch.setattr(MemoryBackend, "fill", fill)


def unchecked_redis(patch: Patch) -> None:
    """A fill without a token check."""
    replace_script(patch, "FILL", CHECK, "true")


def unchecked_memcached(patch: Patch) -> None:
    """A fill without a token check."""

    def fill(key: bytes, token: Any, stored: bytes, ttl: float | None) -> Any:
        command = real(key, token, stored, ttl)
        return command._replace(data=command.data.replace(b" C%d " % token.number, b" ", 1), before=None)

    real = wire.fill
    patch.setattr(wire, "fill", fill)
