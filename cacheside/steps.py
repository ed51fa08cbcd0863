"""What the engine asks of the drivers: the steps that its generators yield, and the answer that says "it failed"."""

from collections.abc import Callable, Generator, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from .envelope import Outcome
from .flight import Flight


class Ask(NamedTuple):
    """Call a method of the backend; the answer is what it returns, or Failed."""

    verb: str
    args: tuple[Any, ...]


class Load(NamedTuple):
    """Call the user's function, inside the load of `flight`; the answer is its Outcome."""

    flight: Flight


class LoadMany(NamedTuple):
    """Call the user's function once for many keys, inside the load of all `flights`; the answer is its Outcome.

    `numbers`: which items of the batch it is called with.
    """

    flights: Sequence[Flight]
    numbers: Sequence[int]


class Awaited(Protocol):
    """What can be waited for: a flight, a place in a queue."""

    done: bool

    def when_done(self, wake: Callable[[], object]) -> bool:
        """Have `wake` called, from whatever thread, at the end. False: it has ended, nothing will be called."""
        ...


class Wait(NamedTuple):
    """Wait for the end of something, so many seconds at most; the answer is whether it ended."""

    flight: Awaited
    seconds: float


class Spawn(NamedTuple):
    """Carry out other steps in the background; the answer is whether there was room for them.

    `at_once`: somebody waits for them, so there always is.
    """

    steps: "Steps"
    at_once: bool


class Pause(NamedTuple):
    """Sleep so many seconds."""

    seconds: float


class Abandon(NamedTuple):
    """Release a lease on the way out of a cancelled call: nobody waits for the answer, nor cares for it."""

    key: str
    token: Any


class AbandonMany(NamedTuple):
    """The same for many leases, given as key and token."""

    leases: Sequence[tuple[str, Any]]


class Failed(NamedTuple):
    """The answer of a backend that could not do what it was asked."""

    error: Exception


Step: TypeAlias = Ask | Load | LoadMany | Wait | Pause | Spawn | Abandon | AbandonMany
Steps: TypeAlias = Generator[Step, Any, Outcome]
