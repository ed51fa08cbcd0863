"""The proof has teeth: with any one rule of the protocol taken out of the code, the search for a stale read finds one.

And it finds none in the very same search with the code as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from long import scaled
from model.calls import by_hand
from model.explore import explore
from model.machine import run
from model.mutating import MEMORY, Mutation
from model.mutations import MUTATIONS
from model.mutations_of_freshness import FRESHNESS
from model.on_memory import Memory
from model.place import Place
from model.places import opened
from model.world import Violation

from cacheside.scopes import Held
from cacheside.transactions import Transaction


def _cases() -> list[object]:
    return [
        pytest.param(mutation, name, id=f"{mutation.name}-{name}", marks=() if name == MEMORY else pytest.mark.server)
        for mutation in (*MUTATIONS, *FRESHNESS)
        for name in mutation.breaks
    ]


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Place:
    """The backend that `name` names."""
    return opened(request, request.getfixturevalue("name"))


@pytest.mark.timeout(scaled(120, 3600))
@pytest.mark.parametrize(("mutation", "name"), _cases())
def test_a_broken_protocol_is_found_out(mutation: Mutation, name: str, place: Place) -> None:
    """A stale read with the mutation, none without it."""
    cast = mutation.cast_for(name)
    with by_hand():
        with pytest.MonkeyPatch.context() as patch:
            mutation.breaks[name](patch)
            with pytest.raises(Violation) as caught:
                explore(place, cast, switches=mutation.switches)
        found = caught.value.runs
        count = explore(place, cast, switches=mutation.switches, limit=scaled(max(found, 100), None))
    assert count.all or count.runs >= found


EASY = ("fill without a token check", "tombstone instead of lease", "delete before commit")


@pytest.mark.timeout(scaled(120, 3600))
@pytest.mark.parametrize("mutation", [each for each in MUTATIONS if each.name in EASY], ids=lambda each: each.name)
def test_the_state_machine_finds_it_too(mutation: Mutation) -> None:
    """A race of one reader and one writer it finds by chance, in a hundred runs or so.

    It is the same chance every time, but another one with every version of hypothesis: hence the many runs allowed.
    """
    with by_hand(), pytest.MonkeyPatch.context() as patch:
        mutation.breaks[MEMORY](patch)
        with pytest.raises(Violation):
            run(Memory(), 2_000, 50, shrink=False)


def _not_held(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Transaction, "hold", lambda self, core, changes: False)


def _inside_as_outside(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Held, "here", lambda self, core, keys: False)
    patch.setattr(Held, "meanwhile", lambda self, core, keys, before: False)


def _updates_in_spite_of_rollback(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Transaction, "rollback", lambda self: None)


@pytest.mark.timeout(scaled(120, 3600))
@pytest.mark.parametrize("breaks", [_not_held, _inside_as_outside, _updates_in_spite_of_rollback])
def test_the_state_machine_looks_at_transactions(breaks: Callable[[pytest.MonkeyPatch], None]) -> None:
    """It finds what is invalidated before the commit, and what was never committed, in a few hundred runs."""
    with by_hand(), pytest.MonkeyPatch.context() as patch:
        breaks(patch)
        with pytest.raises(Violation):
            run(Memory(), 3_000, 50, shrink=False)
