"""How long one caller waits for a product, with the cache and without it."""

from __future__ import annotations

import time

from ..latencies import Latencies
from ..progress import Progress
from .products import Products
from .traffic import Oracle, Tally, draws


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
