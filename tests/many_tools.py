"""What the tests of batches share: a server that is none and knows batches, and a store of rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from wire import Wire, _Aio, _awaitable, _plain

from cacheside.backends.base import Capability
from cacheside.backends.memory import MemoryBackend
from cacheside.testing import FakeClock


class BatchWire(Wire):
    """A server that is none, with claims and batches."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.memory = MemoryBackend(clock=self.clock)
        self.capabilities: frozenset[Capability] = self.capabilities | {"claims", "batches"}
        self.aio = _BatchAio(self)

    claim, mark_stale = map(_plain, ("claim", "mark_stale"))
    lookup_many, fill_many, release_many, plant = map(_plain, ("lookup_many", "fill_many", "release_many", "plant"))
    replace_many, claim_many = map(_plain, ("replace_many", "claim_many"))


class _BatchAio(_Aio):
    """The awaitable form. A verb in `stuck` hangs until it is cancelled."""

    def __init__(self, wire: Wire) -> None:
        super().__init__(wire)
        self.stuck: set[str] = set()

    claim, mark_stale = map(_awaitable, ("claim", "mark_stale"))
    fill_many, plant = map(_awaitable, ("fill_many", "plant"))
    replace_many, claim_many = map(_awaitable, ("replace_many", "claim_many"))
    _release_many, _lookup_many = map(_awaitable, ("release_many", "lookup_many"))

    async def release_many(self, leases: Sequence[tuple[str, Any]]) -> Any:
        if "release_many" in self.stuck:
            self.wire.asked.append("release_many")
            await asyncio.sleep(3600)
        return await self._release_many(leases)

    async def lookup_many(self, *args: Any) -> Any:
        return await self._lookup_many(*args)


class Table:
    """Rows, each a function of its number, and the calls that asked for them."""

    def __init__(self, row: Callable[[int], Any] = lambda number: number * 10) -> None:
        self.row = row
        self.calls: list[list[int]] = []

    def read(self, numbers: Sequence[int]) -> Mapping[int, Any]:
        """The rows."""
        self.calls.append(list(numbers))
        return {number: self.row(number) for number in numbers}
