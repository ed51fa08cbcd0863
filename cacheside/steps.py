"""What the engine asks of the drivers: the steps that its generators yield, and the answer that says "it failed"."""

from collections.abc import Generator
from typing import Any, NamedTuple, TypeAlias

from .envelope import Outcome
from .flight import Flight


class Ask(NamedTuple):
    """Call a method of the backend; the answer is what it returns, or Failed."""

    verb: str
    args: tuple[Any, ...]


class Load(NamedTuple):
    """Call the user's function, inside the load of `flight`; the answer is its Outcome."""

    flight: Flight


class Wait(NamedTuple):
    """Wait for the end of a flight, so many seconds at most; the answer is whether it ended."""

    flight: Flight
    seconds: float


class Pause(NamedTuple):
    """Sleep so many seconds."""

    seconds: float


class Abandon(NamedTuple):
    """Release a lease on the way out of a cancelled call: nobody waits for the answer, nor cares for it."""

    key: str
    token: Any


class Failed(NamedTuple):
    """The answer of a backend that could not do what it was asked."""

    error: Exception


Step: TypeAlias = Ask | Load | Wait | Pause | Abandon
Steps: TypeAlias = Generator[Step, Any, Outcome]
