"""What the tests of both colours need around them: an event loop in a thread, and gates that hold a call up."""

from __future__ import annotations

import threading
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

T = TypeVar("T")

PATIENCE = 30.0  # seconds after which a call that does not come back, or a wait, is a failed test


class Gate:
    """Holds the first load, or write, that comes to it, which has done its work by then, until it is opened."""

    def __init__(self) -> None:
        self._first = threading.Lock()
        self._arrived = threading.Event()
        self._opened = threading.Event()

    def stops(self) -> bool:
        """Whether this load is the one to be held: asked once by each."""
        return self._first.acquire(blocking=False)

    def hold(self) -> None:
        """Wait until it is opened."""
        self._arrived.set()
        assert self._opened.wait(PATIENCE), "nobody has opened the gate"

    def wait_for_load(self) -> None:
        """Wait until a load is being held."""
        assert self._arrived.wait(PATIENCE), "no load has begun"

    def open(self) -> None:
        """Let it go on."""
        self._opened.set()


class Loop:
    """An event loop in its own thread."""

    def __init__(self) -> None:
        from concurrent.futures import Future

        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._run, name="cacheside-testing")
        self._thread.start()
        self._loop, self._stop = self._started.result(PATIENCE)

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Begin to run `work`."""
        import asyncio

        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
        """Stop it, and wait for its end."""
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        import asyncio

        with asyncio.Runner() as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        import asyncio

        stop = asyncio.Event()
        self._started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
