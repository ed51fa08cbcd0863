"""A server that is none: it notes what it is asked, and goes wrong as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from cacheside.backends.base import AsyncBackend, Capability
from cacheside.backends.memory import MemoryBackend
from cacheside.errors import CacheUnavailable

Fault = Callable[[Callable[[], Any]], Any]
"""What becomes of a command: called with the way to carry it out."""


def lost(do: Callable[[], Any]) -> Any:
    """The command never arrives."""
    raise CacheUnavailable("no answer")


def late(do: Callable[[], Any]) -> Any:
    """The command is carried out, and the answer never arrives."""
    do()
    raise CacheUnavailable("no answer")


def unsent(do: Callable[[], Any]) -> Any:
    """The breaker is open: nothing is sent."""
    raise CacheUnavailable("not asked", sent=False)


def interrupted(do: Callable[[], Any]) -> Any:
    """Ctrl-C, while the answer is waited for."""
    do()
    raise KeyboardInterrupt


def _plain(verb: str) -> Any:
    def call(self: Wire, *args: Any) -> Any:
        return self.ask(verb, args)

    return call


def _awaitable(verb: str) -> Any:
    async def call(self: _Aio, *args: Any) -> Any:
        await asyncio.sleep(0)  # on its way
        answer = self.wire.ask(verb, args)
        await asyncio.sleep(0)  # on its way back
        return answer

    return call


class Wire:
    """A cache for both colours, which holds bytes; or, `in_process`, objects.

    Args:
        in_process: never waits, so that async functions use the plain form.
        copy: see `MemoryBackend`.
    """

    def __init__(self, in_process: bool = False, copy: bool = False) -> None:
        self.memory = MemoryBackend(copy=copy)
        self.asked: list[str] = []
        """The verbs, in order, and what tests add to them."""
        self.tokens: list[str] = []
        """Of the guards."""
        self.faults: dict[str, Fault] = {}
        """By verb."""
        self.holds: list[float] = []
        self.capabilities: frozenset[Capability] = (
            self.memory.capabilities - {"rows"} if in_process else frozenset({"clear", "stores"})
        )
        self.aio: AsyncBackend | None = None if in_process else _Aio(self)

    def ask(self, verb: str, args: tuple[Any, ...]) -> Any:
        """Carry out a command."""
        self.asked.append(verb)
        if verb == "guard":
            self.tokens.append(args[1])
            self.holds.append(args[2])

        def do() -> Any:
            return getattr(self.memory, verb)(*args)

        fault = self.faults.get(verb)
        return do() if fault is None else fault(do)

    @property
    def guarded(self) -> list[str]:
        """The keys on which a guard stands."""
        return sorted(self.memory._guards)

    def marks(self, key: str) -> int:
        """How many writers have a mark on `key`."""
        return len(self.memory._guards[key].marks)

    def breaks(self, *verbs: str, fault: Fault = lost) -> None:
        """Commands with these verbs fail from now on; none: all is well again."""
        self.faults = dict.fromkeys(verbs, fault)

    lookup, replace, fill, release = map(_plain, ("lookup", "replace", "fill", "release"))
    invalidate, guard, unguard, update = map(_plain, ("invalidate", "guard", "unguard", "update"))
    clear, size, close = map(_plain, ("clear", "size", "close"))


class _Aio:
    """The awaitable form."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.capabilities = wire.capabilities

    lookup, replace, fill, release = map(_awaitable, ("lookup", "replace", "fill", "release"))
    invalidate, guard, unguard, update = map(_awaitable, ("invalidate", "guard", "unguard", "update"))
    clear, close = map(_awaitable, ("clear", "close"))
