"""How long one caller waits for a product, with the cache and without it."""

from __future__ import annotations

import math
import time
from collections import Counter

from .products import Products
from .stores import Progress
from .traffic import Oracle, Tally, draws


class Latencies:
    """Durations, counted in steps of 1 %: memory is bounded, and no call is left out."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()

    def add(self, nanoseconds: int) -> None:
        """One call."""
        self._counts[int(math.log(nanoseconds + 1) * 100)] += 1

    def percentile(self, percent: float) -> float:
        """The microseconds within which so much of the calls had ended; 0 if there were none."""
        left = self._counts.total() * percent / 100
        for step, count in sorted(self._counts.items()):
            left -= count
            if left <= 0:
                return round(math.exp((step + 0.5) / 100) / 1000, 1)
        return 0.0


def measure(
    products: Products, oracle: Oracle, seconds: float, progress: Progress
) -> tuple[Latencies, Latencies, Tally]:
    """The same kind of traffic from one thread, each read once with the cache and once without it, in turns.

    Taking turns, both meet the same noise; being alone, neither waits for the interpreter lock.

    Returns:
        the latencies with the cache, those without it, and what was seen.
    """
    cached, uncached, tally = Latencies(), Latencies(), Tally()
    begin = time.monotonic()
    for product_id, price in draws(lambda: time.monotonic() - begin >= seconds):
        if price is not None:
            oracle.written(product_id, products.set_price(product_id, price))
            tally.written(product_id)
            progress(min(1.0, (time.monotonic() - begin) / seconds))
            continue
        for latencies, get in ((cached, products.get), (uncached, products.get.__wrapped__)):
            floor = oracle.floor(product_id)
            start = time.perf_counter_ns()
            product = get(product_id)
            latencies.add(time.perf_counter_ns() - start)
            tally.read(product, floor)
    progress(1.0)
    return cached, uncached, tally
