"""A time-out for answers of a server, on an event loop that may be busy with something else."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final

LOOP_SLACK: Final = 4
"""Connecting takes many turns of an event loop that has other work too: async code gets so many time-outs for it."""


class Patience:
    """`asyncio.timeout`, but what has arrived counts, though the loop was too busy to look.

    When a loop comes back from something else, late, the answer and the end of the time-out are both there. The answer
    needs some turns of the loop until its reader has it; a time-out that waits for these turns gives way to it.
    """

    TURNS = 4

    __slots__ = ("_handle", "_seconds", "_timeout")

    def __init__(self, seconds: float | None) -> None:
        self._seconds = seconds
        self._timeout = asyncio.timeout(None)
        self._handle: asyncio.Handle | None = None

    async def __aenter__(self) -> Patience:
        await self._timeout.__aenter__()
        if self._seconds is not None:
            self._handle = asyncio.get_running_loop().call_later(self._seconds, self._late, self.TURNS)
        return self

    def renew(self) -> None:
        """Something has arrived: the time begins anew."""
        if self._handle is not None and self._seconds is not None:
            self._handle.cancel()
            self._handle = asyncio.get_running_loop().call_later(self._seconds, self._late, self.TURNS)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise TimeoutError(f"timed out: no answer within {self._seconds:g} seconds") from None

    def _late(self, turns: int) -> None:
        loop = asyncio.get_running_loop()
        if turns:
            self._handle = loop.call_soon(self._late, turns - 1)
        else:
            self._timeout.reschedule(loop.time())
