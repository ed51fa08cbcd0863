"""One way to call a backend in both colours."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from cacheside.backends.base import Backend

COLOURS = ("sync", "async")


class Adapter:
    """One backend behind plain calls; the async colour runs on a loop that lives as long as the adapter."""

    def __init__(self, backend: Backend, colour: str) -> None:
        self.backend = backend
        self.runner = asyncio.Runner() if colour == "async" else None

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        runner = self.runner
        if runner is None:
            return lambda *args: getattr(self.backend, verb)(*args)
        return lambda *args: runner.run(self._awaited(verb, args))

    async def _awaited(self, verb: str, args: tuple[Any, ...]) -> Any:
        return await getattr(self.backend.aio, verb)(*args)

    def together(self, count: int, verb: str, *args: Any) -> list[Any]:
        """The answers, or errors, of `count` calls that run at the same time: a thread or a task each."""
        if self.runner is None:
            with ThreadPoolExecutor(count) as threads:
                calls = [threads.submit(getattr(self.backend, verb), *args) for _ in range(count)]
                return [call.exception() or call.result() for call in calls]

        async def gather() -> list[Any]:
            return await asyncio.gather(*(self._awaited(verb, args) for _ in range(count)), return_exceptions=True)

        return self.runner.run(gather())

    def store(self, key: str, stored: bytes, ttl: float | None = 60) -> None:
        """Fill `key`, which holds nothing."""
        assert self.fill(key, self.lookup(key, 10).token, stored, ttl)

    def end(self) -> None:
        """Close the connections, and the loop."""
        self.close()
        if self.runner is not None:
            self.runner.close()
