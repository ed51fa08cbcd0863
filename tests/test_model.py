"""The code as a state machine, stepped one server command at a time against memory, Redis and memcached.

After every step each finished read is at least as new as the newest write that was complete before it began; see
`model/world.py` for what is complete, and `model/machine.py` for what can happen.
"""

from __future__ import annotations

import pytest
from long import LONG, scaled
from model.calls import by_hand
from model.machine import run
from model.place import Place
from model.places import opened


@pytest.fixture(
    params=[
        "memory",
        pytest.param("redis", marks=pytest.mark.server),
        pytest.param("memcached", marks=pytest.mark.server),
    ]
)
def place(request: pytest.FixtureRequest) -> Place:
    """Each backend."""
    return opened(request, request.param)


@pytest.mark.timeout(scaled(120, 7200))
def test_no_read_is_older_than_a_completed_write(place: Place) -> None:
    """Nor of what was never committed: whatever up to 3 readers and 3 writers, and their transactions, do in whatever
    order, and whatever the world around them does."""
    with by_hand():
        run(place, scaled(100, 6_000), scaled(50, 80), chance=LONG)
