"""The best that any cache could do: Belady's rule, with bypass.

Of what is in the cache and what has just been asked for, that goes whose next use is furthest away; so what is asked
for need not go in. No policy that does not know the future can be better (Belady, IBM Systems Journal 5(2), 1966).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence


def hits(requests: Sequence[int], capacity: int) -> int:
    """How many of the requests for keys are hits.

    Time O(n log n). What is never asked for again is not kept at all.
    """
    never = len(requests)
    uses = next_uses(requests)
    kept: set[int] = set()
    # The next use of each key that is kept, negated: the furthest first. Those of the past stay in it, at the bottom.
    ahead: list[int] = []
    found = 0
    for key, use in zip(requests, uses, strict=True):
        if key in kept:
            found += 1
            if use == never:
                kept.remove(key)
            else:
                heapq.heappush(ahead, -use)
        elif use != never:
            if len(kept) < capacity:
                heapq.heappush(ahead, -use)
                kept.add(key)
            elif use < -ahead[0]:
                kept.remove(requests[-heapq.heapreplace(ahead, -use)])
                kept.add(key)
    return found


def next_uses(requests: Sequence[int]) -> list[int]:
    """For each request when its key is asked for again; the number of requests stands for never."""
    later: dict[int, int] = {}
    uses = [len(requests)] * len(requests)
    for moment in range(len(requests) - 1, -1, -1):
        key = requests[moment]
        uses[moment] = later.get(key, len(requests))
        later[key] = moment
    return uses
