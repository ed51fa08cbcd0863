"""All interleavings of 2 readers and 1 writer, at the granularity of server commands; and many of larger casts.

A step is one command of the cache, the arrival of its answer, the beginning or the end of a load, a commit. Where two
steps touch nothing in common their order cannot matter, and only one order is run (see `model/explore.py`); the last
test here leaves none out. In which process the writer is does not matter: it shares nothing with the readers of its own
unless a command is lost.
"""

from __future__ import annotations

import pytest
from long import LONG, scaled
from model.calls import by_hand
from model.explore import Cast, explore
from model.on_memory import Memory
from model.place import Place
from model.places import opened

MEMORY = "memory"
ON_A_SERVER = (
    pytest.param("redis", marks=pytest.mark.server),
    pytest.param("memcached", marks=pytest.mark.server),
)
KINDS = pytest.mark.parametrize("kind", ["plain", "strict", "updates"])
WARM = pytest.mark.parametrize("warm", [False, True], ids=["nothing cached", "something cached"])

pytestmark = pytest.mark.timeout(scaled(120, 3600))


@pytest.fixture(params=[MEMORY, *ON_A_SERVER])
def place(request: pytest.FixtureRequest) -> Place:
    """Each backend."""
    return opened(request, request.param)


@pytest.fixture(params=ON_A_SERVER)
def server(request: pytest.FixtureRequest) -> Place:
    """Each backend that processes share."""
    return opened(request, request.param)


@pytest.fixture(params=[MEMORY, ON_A_SERVER[0]])
def more(request: pytest.FixtureRequest) -> Place:
    """Each backend that can claim, mark and tag."""
    return opened(request, request.param)


@KINDS
@WARM
def test_two_readers_of_one_process_and_a_writer(place: Place, kind: str, warm: bool) -> None:
    """Two callers that share flights, in all interleavings with a write: nobody gets an old value.

    In memory and on Redis 946 interleavings with a plain write, 2,002 with a strict one, 1,190 with an update; on
    memcached, where invalidation and guard are two commands, 1,684, 14,658 and 6,470. The last two of each server are
    for the long run; the normal one has those in which one caller is interrupted, once.
    """
    writer = (2 if place.lossy else 0, kind)
    many = place.lossy and kind != "plain" and not LONG
    with by_hand():
        count = explore(place, Cast([0, 0], [writer], warm=warm), switches=1 if many else None)
    assert count.all
    assert count.runs > 10


@KINDS
@WARM
def test_readers_of_two_processes_and_a_writer(server: Place, kind: str, warm: bool) -> None:
    """Three processes, in all interleavings: on Redis up to 104 that differ, on memcached up to 839."""
    with by_hand():
        count = explore(server, Cast([0, 1], [(2, kind)], warm=warm))
    assert count.all
    assert count.runs > 5


def test_readers_with_a_tag_and_without_share_an_entry_but_no_load(more: Place) -> None:
    """A tag is turned while a function without it loads: nobody who has it, and comes then, joins that load.

    The fill of that load is accepted, for the lease of the entry has nothing to do with the tag; so it would be shared.
    """
    with by_hand():
        count = explore(more, Cast([(0, "tagged"), 0], [(0, "tag")]), switches=None if LONG else 1)
    assert count.all


@pytest.mark.parametrize(
    "cast",
    [
        Cast([0, 0, 1], [(2, "plain"), (3, "strict")], crashes=1),
        Cast([0, 1], [(2, "plain"), (3, "strict"), (4, "updates")], crashes=1),
        Cast([0, 1], [(2, "updates"), (3, "updates"), (4, "plain")], lost_guards=1),
        Cast([0, 0], [(0, "plain"), (3, "strict")], losses=1, drops=1),
        Cast([0, 1], [(0, "updates"), (3, "strict")], losses=1, lost_guards=1),
        Cast([0, 1, 1], [(0, "plain"), (1, "updates"), (2, "strict")], warm=True, losses=1, crashes=1),
    ],
    ids=["crash", "crash of three kinds", "lost guard", "lost command", "lost command and guard", "three and three"],
)
def test_larger_casts_in_trouble(place: Place, cast: Cast) -> None:
    """One caller interrupted, once, and one thing that goes wrong: no stale read, nobody waits for ever.

    100 interleavings of each in the normal run; in the long one 100,000.
    """
    if not place.lossy:
        cast = cast.in_one_process
    limit = scaled(100, 100_000)
    with by_hand():
        count = explore(place, cast, switches=1, limit=limit)
    assert count.all or count.runs == limit


@KINDS
def test_every_order_that_there_is(kind: str) -> None:
    """Leaving out orders that cannot differ hides nothing: 500,000 in memory run (in the normal run, 1,000)."""
    limit = scaled(1_000, 500_000)
    with by_hand():
        count = explore(Memory(), Cast([0, 0], [(0, kind)]), reduced=False, limit=limit)
    assert count.all or count.runs == limit
