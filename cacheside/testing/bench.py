"""One backend in one colour, behind calls that look the same in both: a test is written once, in plain code.

The async colour has an event loop in a thread of its own, and every call waits for its answer. So in both colours a
test can hold one call up while it makes others.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from ..backends.base import Answer, AsyncBackend, Backend, Capability, Fill, Hit, Leased, Stale
from ..backends.beyond import Version
from ..cache import Cache
from .stage import PATIENCE, Gate, Loop

if TYPE_CHECKING:
    from concurrent.futures import Future

Colour: TypeAlias = Literal["sync", "async"]

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


@dataclass(frozen=True)
class Mark:
    """A writer's mark, and for each of its keys the proof that `update` asks for."""

    token: str
    proofs: dict[str, Any]


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
        self.beyond: Any = form  # what it can do besides, of which its type says nothing
        self._loop = Loop() if colour == "async" else None
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

    def guard(self, *keys: str, hold: float = 60) -> Mark:
        """A mark on `keys`, with a token that no other has. See `Backend.guard`."""
        token = uuid.uuid4().hex[:16]
        proofs: Sequence[Any] = self.call(self.form.guard, keys, token, hold)
        assert len(proofs) == len(keys), f"{len(keys)} keys were guarded, and there are {len(proofs)} proofs"
        return Mark(token, dict(zip(keys, proofs, strict=True)))

    def unguard(self, mark: Mark, *keys: str) -> int:
        """Take `mark` back from all its keys, or from some, and tell how many were lost. See `Backend.unguard`."""
        lost: int = self.call(self.form.unguard, [(key, mark.token) for key in keys or mark.proofs])
        return lost

    def update(self, mark: Mark, key: str, stored: Any, ttl: float | None = 60) -> bool:
        """See `Backend.update`."""
        return bool(self.call(self.form.update, key, mark.token, mark.proofs[key], stored, ttl))

    def clear(self, prefix: str | None) -> None:
        """See `Backend.clear`."""
        self.call(self.form.clear, prefix)

    def close(self) -> None:
        """See `Backend.close`."""
        self.call(self.form.close)

    # What it may be able to do besides.

    def claim(self, key: str, seen: Any, lease: float = 60) -> Answer:
        """See `Claiming.claim`."""
        answer: Answer = self.call(self.beyond.claim, key, seen, lease)
        return answer

    def mark_stale(self, *keys: str, grace: float = 60) -> None:
        """See `Claiming.mark_stale`."""
        self.call(self.beyond.mark_stale, keys, grace)

    def lookup_many(
        self, keys: Sequence[str], lease: float | None = 60, tags: Sequence[str] = ()
    ) -> tuple[list[Any], list[Version]]:
        """See `Batching.lookup_many`."""
        return self._batch(self.beyond.lookup_many, keys, tags, keys, lease, tags)

    def fill_many(self, fills: Sequence[Fill], tags: Sequence[str] = ()) -> tuple[list[Any], list[Version]]:
        """See `Batching.fill_many`."""
        return self._batch(self.beyond.fill_many, fills, tags, fills, tags)

    def release_many(self, leases: Sequence[tuple[str, Any]]) -> list[Any]:
        """See `Batching.release_many`."""
        return list(self.call(self.beyond.release_many, leases))

    def replace_many(self, entries: Sequence[tuple[str, Any]], lease: float = 60) -> list[Any]:
        """See `Batching.replace_many`."""
        return list(self.call(self.beyond.replace_many, entries, lease))

    def claim_many(self, entries: Sequence[tuple[str, Any]], lease: float = 60) -> list[Any]:
        """See `Batching.claim_many`."""
        return list(self.call(self.beyond.claim_many, entries, lease))

    def plant(self, *tags: str) -> list[Version]:
        """See `Batching.plant`."""
        return list(self.call(self.beyond.plant, tags))

    def _batch(
        self, verb: Callable[..., Any], items: Sequence[Any], tags: Sequence[str], *args: Any
    ) -> tuple[list[Any], list[Version]]:
        answers, versions = self.call(verb, *args)
        assert (len(answers), len(versions)) == (len(items), len(tags)), "there is one answer for each, in order"
        return list(answers), list(versions)

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

    def stale(self, key: str) -> Stale:
        """The marked entry under `key`, which has to be there."""
        answer = self.lookup(key)
        assert isinstance(answer, Stale), f"{key} should have held a stale value, and is {answer!r}"
        return answer

    def free(self, key: str) -> bool:
        """Whether nothing stands under `key`: no value, no lease, no guard. A lease is won, and given back."""
        answer = self.lookup(key)
        return isinstance(answer, Leased) and self.release(key, answer.token)

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

    @contextlib.contextmanager
    def block(self, write: Any) -> Iterator[None]:
        """`with write:` or `async with write:`, whichever the colour has.

        In a context of its own, so that calls in the block are not inside the write, but others'.
        """
        sync, context = self.colour == "sync", contextvars.copy_context()
        context.run(self.call, write.__enter__ if sync else write.__aenter__)
        try:
            yield
        finally:
            context.run(self.call, write.__exit__ if sync else write.__aexit__, None, None, None)

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


def promise_of(
    capability: Capability,
) -> Callable[[Callable[[Any, Bench], None]], Callable[[Any, Subject, Colour], None]]:
    """`promise`, for those alone who have the `capability`: nobody else breaks it."""

    def decorate(test: Callable[[Any, Bench], None]) -> Callable[[Any, Subject, Colour], None]:
        @functools.wraps(test)
        def run(self: Any, bench: Bench) -> None:
            if capability in bench.capabilities:
                test(self, bench)

        return promise(run)

    return decorate


class Promises:
    """Tests that pytest runs once for each colour."""

    colours: tuple[Colour, ...] = ("sync", "async")

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """A hook of pytest's."""
        if "colour" in metafunc.fixturenames:
            metafunc.parametrize("colour", self.colours)
