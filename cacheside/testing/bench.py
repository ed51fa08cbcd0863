"""One backend in one colour, behind calls that look the same in both: a test is written once, in plain code.

The async colour has an event loop in a thread of its own, and every call waits for its answer. So in both colours a
test can hold one call up while it makes others.
"""

from __future__ import annotations

import functools
import inspect
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from ..backends.base import Answer, AsyncBackend, Backend, Capability, Hit, Leased
from ..cache import Cache

if TYPE_CHECKING:
    import asyncio
    from concurrent.futures import Future

T = TypeVar("T")
Colour: TypeAlias = Literal["sync", "async"]

PATIENCE = 30.0  # seconds after which a call that does not come back, or a wait, is a failed test
CROWD = 20
SHORT, LONG = 0.05, 3600.0  # seconds: something that expires in a test, and something that does not


@dataclass(frozen=True)
class Subject:
    """What is tested.

    Args:
        backend: as `Cache` takes it, in good health. The tests close it, and use it again after that.
        advance: lets so many seconds pass for the backend: `FakeClock.advance`, or really sleeping for a server.
        aclose: for clients of your own that belong to one event loop: awaited in the loop of an async test at its end.
    """

    backend: Backend | AsyncBackend
    advance: Callable[[float], object] = time.sleep
    aclose: Callable[[], Awaitable[object]] | None = None


class Gate:
    """Holds the first load that comes to it, which has read its value by then, until it is opened."""

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


class _Loop:
    """An event loop in its own thread."""

    def __init__(self) -> None:
        from concurrent.futures import Future

        self._started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=self._run, name="cacheside-testing")
        self._thread.start()
        self._loop, self._stop = self._started.result(PATIENCE)

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        import asyncio

        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def close(self) -> None:
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


class Bench:
    """`subject` in one colour, for one test; a context manager that closes everything at its end.

    The verbs of the protocol are here under their own names, and block in both colours. A backend in this process has
    no awaitable form: the async colour calls its plain form inside the event loop, as async functions do.
    """

    def __init__(self, subject: Subject, colour: Colour) -> None:
        from concurrent.futures import ThreadPoolExecutor

        core = Cache(subject.backend)._core
        self.colour: Colour = colour
        self.plain: Backend | None = core.backend
        self.aio: AsyncBackend | None = core.aio
        self.capabilities: frozenset[Capability] = core.capabilities
        self._subject = subject
        self._name = f"t{uuid.uuid4().hex}"
        form = self.plain if colour == "sync" or "in_process" in core.capabilities else self.aio
        assert form is not None, f"{subject.backend!r} has no form for {colour} functions: set `colours` on your class"
        self.form: Backend | AsyncBackend = form
        self._loop = _Loop() if colour == "async" else None
        self._threads = ThreadPoolExecutor(CROWD)
        self._gates: list[Gate] = []

    def __enter__(self) -> Bench:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for gate in self._gates:  # of a test that failed before it could
            gate.open()
        try:
            self.close()
            if self._subject.aclose is not None and self._loop is not None:
                self.call(self._subject.aclose)
        finally:
            if self._loop is not None:
                self._loop.close()
            self._threads.shutdown()

    # The protocol.

    def lookup(self, key: str, lease: float = 60) -> Answer:
        """See `Backend.lookup`."""
        answer: Answer = self.call(self.form.lookup, key, lease)
        return answer

    def replace(self, key: str, seen: Any, lease: float = 60) -> Answer:
        """See `Backend.replace`."""
        answer: Answer = self.call(self.form.replace, key, seen, lease)
        return answer

    def fill(self, key: str, token: Any, stored: Any, ttl: float | None = 60) -> bool:
        """See `Backend.fill`."""
        return bool(self.call(self.form.fill, key, token, stored, ttl))

    def release(self, key: str, token: Any) -> bool:
        """See `Backend.release`."""
        return bool(self.call(self.form.release, key, token))

    def invalidate(self, *keys: str) -> None:
        """See `Backend.invalidate`."""
        self.call(self.form.invalidate, keys)

    def clear(self, prefix: str | None) -> None:
        """See `Backend.clear`."""
        self.call(self.form.clear, prefix)

    def close(self) -> None:
        """See `Backend.close`."""
        self.call(self.form.close)

    # What tests do with it all the time.

    def key(self, text: str = "k") -> str:
        """A key that no other test has."""
        return f"{self._name}:{text}"

    def token(self, key: str, lease: float = 60) -> Any:
        """The token of a lease on `key`, which has to be free."""
        answer = self.lookup(key, lease)
        assert isinstance(answer, Leased), f"{key} should have been free, and is {answer!r}"
        return answer.token

    def store(self, key: str, stored: Any, ttl: float | None = 60) -> None:
        """Fill `key`, which has to be free."""
        assert self.fill(key, self.token(key), stored, ttl) is True, f"the fill of {key} was refused"

    def hit(self, key: str) -> Hit:
        """The entry under `key`, which has to be there."""
        answer = self.lookup(key)
        assert isinstance(answer, Hit), f"{key} should have held a value, and is {answer!r}"
        return answer

    def advance(self, seconds: float) -> None:
        """Let `seconds` pass and a bit more, for clocks that do not quite agree."""
        self._subject.advance(seconds + 0.02)

    def expired(self, key: str, seconds: float) -> bool:
        """Whether `key` comes free at the end of `seconds`, which began just now: asked with very short leases."""
        whole = "whole_seconds" in self.capabilities
        self.advance(seconds)
        for _ in range(12 if whole else 1):  # such servers may keep an entry up to two seconds longer
            if isinstance(self.lookup(key, 0.001), Leased):
                return True
            if whole:
                self.advance(0.25)
        return False

    # Decorated functions.

    def cache(self, **options: Any) -> Cache:
        """A cache over the backend, in a namespace of this test's own. Those of one test share their entries."""
        return Cache(self._subject.backend, namespace=self._name, **options)

    def gate(self) -> Gate:
        """A new gate, opened at the end of the test at the latest."""
        gate = Gate()
        self._gates.append(gate)
        return gate

    def function(self, fn: Callable[..., Any], gate: Gate | None = None) -> Any:
        """`fn` as a function of this colour, with its signature. At the gate it stops after `fn`, before it returns."""

        def call(*args: Any, **kwargs: Any) -> Any:
            result = fn(*args, **kwargs)
            if gate is not None and gate.stops():
                gate.hold()
            return result

        async def acall(*args: Any, **kwargs: Any) -> Any:
            result = fn(*args, **kwargs)
            if gate is not None and gate.stops():
                import asyncio

                await asyncio.to_thread(gate.hold)
            return result

        return functools.wraps(fn)(call if self.colour == "sync" else acall)

    def start(self, fn: Callable[..., Any], *args: Any) -> Future[Any]:
        """Begin a call, in a thread or a task of its own; the outcome is the future's."""
        return self._threads.submit(fn, *args) if self._loop is None else self._loop.submit(_awaited(fn, args))

    def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Call, in this very thread or in a task, and return what comes back."""
        if self._loop is None:
            return fn(*args)
        return self._loop.submit(_awaited(fn, args)).result(PATIENCE)


async def _awaited(fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    result = fn(*args)
    return await result if inspect.isawaitable(result) else result


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until `condition` holds."""
    for _ in range(int(PATIENCE * 500)):
        if condition():
            return
        time.sleep(0.002)
    raise AssertionError(f"it never happened: {what}")


def promise(test: Callable[[Any, Bench], None]) -> Callable[[Any, Subject, Colour], None]:
    """Make a test over a `Bench` one over a subject and a colour, which pytest can call."""

    @functools.wraps(test)
    def run(self: Any, subject: Subject, colour: Colour) -> None:
        with Bench(subject, colour) as bench:
            test(self, bench)

    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    parameters = [inspect.Parameter(name, kind) for name in ("self", "subject", "colour")]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # pytest reads it; types do not know
    return run


class Promises:
    """Tests that pytest runs once for each colour."""

    colours: tuple[Colour, ...] = ("sync", "async")

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """A hook of pytest's."""
        if "colour" in metafunc.fixturenames:
            metafunc.parametrize("colour", self.colours)
