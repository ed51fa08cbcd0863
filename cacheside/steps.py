"""What the engine asks of the drivers: the steps that its generators yield, and the answer that says "it failed".

Plain classes: Python takes ten times as long to make a NamedTuple, and every program that imports us waits for it.
"""

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from .envelope import Outcome
from .flight import Flight

if TYPE_CHECKING:
    from .keeper import Policy


class Ask:
    """Call a method of the backend; the answer is what it returns, or Failed."""

    __slots__ = ("args", "verb")

    def __init__(self, verb: str, args: tuple[Any, ...]) -> None:
        self.verb: str = verb
        self.args: tuple[Any, ...] = args


class Load:
    """Call the user's function, inside the load of `flight`; the answer is its Outcome."""

    __slots__ = ("flight",)

    def __init__(self, flight: Flight) -> None:
        self.flight: Flight = flight


class LoadMany:
    """Call the user's function once for many keys, inside the load of all `flights`; the answer is its Outcome.

    `numbers`: which items of the batch it is called with.
    """

    __slots__ = ("flights", "numbers")

    def __init__(self, flights: Sequence[Flight], numbers: Sequence[int]) -> None:
        self.flights: Sequence[Flight] = flights
        self.numbers: Sequence[int] = numbers


class Awaited(Protocol):
    """What can be waited for: a flight, a place in a queue."""

    done: bool

    def when_done(self, wake: Callable[[], object]) -> bool:
        """Have `wake` called, from whatever thread, at the end. False: it has ended, nothing will be called."""
        ...


class Wait:
    """Wait for the end of something, so many seconds at most; the answer is whether it ended."""

    __slots__ = ("flight", "seconds")

    def __init__(self, flight: Awaited, seconds: float) -> None:
        self.flight: Awaited = flight
        self.seconds: float = seconds


class Begin:
    """Wait for the turn of what was spawned. What ends it before it had its turn is thrown in here."""

    __slots__ = ()


class Spawn:
    """Carry out other steps, of which the first is `Begin`, in the background; the answer is whether there was room.

    `whose`: the function that is refreshed; None: somebody waits for them, so they begin at once.
    """

    __slots__ = ("steps", "whose")

    def __init__(self, steps: "Steps", whose: "Policy | None") -> None:
        self.steps: Steps = steps
        self.whose: Policy | None = whose


class Pause:
    """Sleep so many seconds."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds: float = seconds


class Abandon:
    """Release a lease on the way out of a cancelled call: nobody waits for the answer, nor cares for it."""

    __slots__ = ("key", "token")

    def __init__(self, key: str, token: Any) -> None:
        self.key: str = key
        self.token: Any = token


class AbandonMany:
    """The same for many leases, given as key and token."""

    __slots__ = ("leases",)

    def __init__(self, leases: Sequence[tuple[str, Any]]) -> None:
        self.leases: Sequence[tuple[str, Any]] = leases


class Failed:
    """The answer of a backend that could not do what it was asked."""

    __slots__ = ("error",)

    def __init__(self, error: Exception) -> None:
        self.error: Exception = error


Step: TypeAlias = Ask | Load | LoadMany | Wait | Pause | Begin | Spawn | Abandon | AbandonMany
Steps: TypeAlias = Generator[Step, Any, Outcome]
