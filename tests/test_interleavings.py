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

State = tuple[bool, bool]
STATES = pytest.mark.parametrize(
    "state", [(False, False), (True, False), (False, True)], ids=["nothing cached", "something cached", "past its ttl"]
)

pytestmark = pytest.mark.timeout(scaled(120, 3600))


@pytest.fixture(params=[MEMORY, *ON_A_SERVER])
def place(request: pytest.FixtureRequest) -> Place:
    """Each backend."""
    return opened(request, request.param)


@pytest.fixture(params=ON_A_SERVER)
def server(request: pytest.FixtureRequest) -> Place:
    """Each backend that processes share."""
    return opened(request, request.param)


@pytest.fixture(params=[MEMORY, *ON_A_SERVER])
def more(request: pytest.FixtureRequest) -> Place:
    """Each backend that can claim, mark and tag."""
    return opened(request, request.param)


def bounded(place: Place) -> int | None:
    """`switches` where only memcached has too many interleavings: there one caller is interrupted, in a normal run."""
    return 1 if place.name == "memcached" and not LONG else None


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


@STATES
@pytest.mark.parametrize("kind", ["plain", "strict", "marker"])
def test_two_readers_with_windows_their_refreshes_and_a_writer(more: Place, kind: str, state: State) -> None:
    """Served an old value is only who asked for it, and only one that no write forbade: in all interleavings.

    Where a value is past its ttl up to 852 with a plain write, 476 with one that marks, 1,624 with a strict one. On
    memcached, where claims, marks and guards are two commands, many more: see `bounded`.
    """
    with by_hand():
        cast = Cast([(0, "windowed")] * 2, [(2 if more.lossy else 0, kind)], *state)
        count = explore(more, cast, switches=bounded(more))
    assert count.all


@pytest.mark.parametrize("kind", ["plain", "strict", "marker"])
@pytest.mark.parametrize("other", ["plain", "rescuing"])
def test_readers_with_other_windows_share_an_entry(more: Place, other: str, kind: str) -> None:
    """What is old for one may be good for the other, and both load for all."""
    with by_hand():
        cast = Cast([(0, "windowed"), (0, other)], [(2 if more.lossy else 0, kind)], past=True, ttls=1)
        count = explore(more, cast, switches=None if LONG else 1)
    assert count.all


@pytest.mark.parametrize("kind", ["plain", "strict", "marker"])
def test_two_readers_with_a_window_for_errors_and_a_writer(more: Place, kind: str) -> None:
    """A load fails: answered with what was there before is who had seen it, and no later caller of its flight."""
    with by_hand():
        cast = Cast([(0, "rescuing")] * 2, [(2 if more.lossy else 0, kind)], past=True, raises=1)
        count = explore(more, cast, switches=None if LONG else 1)
    assert count.all


@WARM
@pytest.mark.parametrize("kind", ["plain", "tag", "strict tag"])
def test_two_readers_with_a_tag_and_a_writer(more: Place, kind: str, warm: bool) -> None:
    """A load that began before the tag was turned is not served to those who came after, nor found by them.

    In memory up to 18,298 interleavings, on Redis, where a lookup is a command for the entry and one for the tag, many
    more. All of them in the long run; in the normal one those in which one caller is interrupted, once.
    """
    with by_hand():
        cast = Cast([(0, "tagged")] * 2, [(2 if more.lossy else 0, kind)], warm=warm)
        count = explore(more, cast, switches=None if LONG else 1)
    assert count.all


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
        Cast([(0, "batch"), (0, "plain")], [(2, "plain")]),
        Cast([(0, "batch"), (1, "batch")], [(2, "strict")]),
        Cast([(0, "tagged batch"), (0, "tagged")], [(2, "tag")]),
        Cast([(0, "tagged batch"), (0, "batch")], [(2, "strict tag")]),
        Cast([(0, "tagged batch"), (1, "tagged batch")], [(2, "tag")], warm=True),
    ],
    ids=["shared", "strict", "tagged", "with a tag and without", "two processes"],
)
def test_a_batch_keeps_the_promise_of_its_rows(more: Place, cast: Cast) -> None:
    """A call for many rows asks in other commands, and decides as the calls for each of them would."""
    if not more.lossy:
        cast = cast.in_one_process
    with by_hand():
        count = explore(more, cast, switches=None if LONG else 1)
    assert count.all


@pytest.mark.parametrize(
    "cast",
    [
        *(Cast([(0, "windowed"), (1, "windowed")], [(2, kind)], past=True) for kind in ("plain", "strict", "marker")),
        *(Cast([(0, "rescuing"), (1, "rescuing")], [(2, kind)], past=True) for kind in ("plain", "marker")),
        *(Cast([(0, "tagged"), (1, "tagged")], [(2, kind)]) for kind in ("plain", "tag")),
        *(Cast([(0, "tagged"), (1, "tagged")], [(2, kind)], warm=True) for kind in ("tag", "strict tag")),
    ],
    ids=lambda cast: f"{cast.reads[0][1]}, {cast.writers[0][1]}{', warm' * cast.warm}",
)
def test_two_processes_with_windows_or_a_tag_and_a_writer(server: Place, cast: Cast) -> None:
    """Three processes, in all interleavings: on Redis up to 936 that differ; on memcached see `bounded`."""
    with by_hand():
        count = explore(server, cast, switches=bounded(server))
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


@pytest.mark.parametrize(
    "cast",
    [
        Cast([(0, "windowed"), (0, "windowed"), (1, "plain")], [(2, "marker"), (3, "plain")], past=True, drops=1),
        Cast([(0, "windowed"), (1, "rescuing")], [(2, "marker"), (3, "strict")], past=True, crashes=1, ttls=1),
        Cast([(0, "windowed"), (1, "windowed")], [(0, "marker"), (3, "updates")], warm=True, losses=1),
        Cast([(0, "tagged"), (0, "tagged"), (1, "tagged")], [(2, "tag"), (3, "strict tag")], crashes=1, drops=1),
        Cast([(0, "tagged"), (0, "plain")], [(0, "tag"), (1, "strict tag")], losses=1, lost_guards=1),
        Cast([(0, "tagged windowed")] * 2, [(0, "marker"), (1, "tag")], past=True, losses=1, drops=1),
    ],
    ids=["stale marks", "a crash", "lost marks", "tags", "lost tags", "tags and marks"],
)
def test_larger_casts_with_windows_and_tags_in_trouble(more: Place, cast: Cast) -> None:
    """As above."""
    if not more.lossy:
        cast = cast.in_one_process
    limit = scaled(100, 100_000)
    with by_hand():
        count = explore(more, cast, switches=1, limit=limit)
    assert count.all or count.runs == limit


@KINDS
def test_every_order_that_there_is(kind: str) -> None:
    """Leaving out orders that cannot differ hides nothing: 500,000 in memory run (in the normal run, 1,000)."""
    limit = scaled(1_000, 500_000)
    with by_hand():
        count = explore(Memory(), Cast([0, 0], [(0, kind)]), reduced=False, limit=limit)
    assert count.all or count.runs == limit
