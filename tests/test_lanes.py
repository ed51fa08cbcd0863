"""Which calls may share a load in this process: those of one key whose values are read the same way, and no others."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from cacheside import Cache
from cacheside.flight import Flights


def test_version_is_no_part_of_a_key() -> None:
    """Version 2 of user:1 is not user:12: nobody gets the row of another user, however their loads overlap."""
    cache, go_on, arrived = Cache("memory://"), threading.Event(), threading.Semaphore(0)

    def load(user_id: int) -> int:
        arrived.release()
        assert go_on.wait(30)
        return user_id

    old = cache.cached(key="user:{user_id}")(load)
    new = cache.cached(key="user:{user_id}", version=2)(load)
    flights: Flights = cache._core.flights
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(new, 1)
        assert arrived.acquire(timeout=30)
        other = threads.submit(old, 12)
        assert arrived.acquire(timeout=30)
        follower = threads.submit(new, 1)
        while not (follower.done() or any(len(flight._wakers or ()) for flight in list(flights._open.values()))):
            pass
        go_on.set()
        assert (first.result(30), other.result(30), follower.result(30)) == (1, 12, 1)
