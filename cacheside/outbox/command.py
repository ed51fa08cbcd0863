"""``cacheside relay``: a relay that says on stdout what it does. It needs rich, and SQLAlchemy."""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.live import Live

from ..backends.urls import masked
from ..cache import Cache
from .relay import Relay, Totals
from .store import StoreFailed
from .table import Outbox

EVERY = 1.0  # seconds between two lines, at least


@dataclasses.dataclass(frozen=True)
class Wish:
    """What the user asked for."""

    store: str
    cache: str
    table: str = "cacheside_outbox"
    delay: float = 1.0
    poll: float = 1.0
    batch: int = 500
    once: bool = False


def run(wish: Wish) -> int:
    """Relay until SIGTERM or Ctrl-C, or once; the exit status: 1 if rows are left because the cache did not answer.

    Raises:
        CachesideError: what was asked for cannot work, or the database cannot be reached at the start.
    """
    with Cache(wish.cache) as cache:
        outbox = Outbox(cache, table=wish.table)
        view = View()
        relay = Relay(outbox, wish.store, delay=wish.delay, poll=wish.poll, batch=wish.batch, report=view.show)
        with relay.store.session() as session:
            news = "woken by NOTIFY" if session.listener is not None else f"a look every {wish.poll:g} s"
        with stopped_by_signals(relay), view.opened():
            view.say(
                f"relaying {wish.table} of {relay.store.label} to {masked(wish.cache)}, namespace {cache.namespace!r}: "
                f"rows older than {wish.delay:g} s, {news}"
            )
            failure: Exception | None = None
            try:
                relay.run(wish.once)
            except StoreFailed:
                raise
            except Exception as error:
                if not wish.once:
                    raise
                failure = error
        view.say(f"{'done' if wish.once else 'stopped'}: {in_words(relay.totals)}")
        if failure is not None:
            view.say(f"rows are left in {wish.table}: {failure}")
    return 0 if failure is None else 1


class View:
    """A line that changes, on a terminal; else lines, at most one in `EVERY` seconds and none without news."""

    def __init__(self) -> None:
        self._console = Console(soft_wrap=True, highlight=False, markup=False)
        self._live: Live | None = None
        self._shown = Totals()
        self._next = 0.0

    @contextlib.contextmanager
    def opened(self) -> Iterator[None]:
        """The changing line is there in the block."""
        if not self._console.is_terminal:
            yield
            return
        with Live(console=self._console, refresh_per_second=4, transient=True) as self._live:
            yield

    def say(self, line: str) -> None:
        """One line that stays."""
        self._console.print(line)
        self._console.file.flush()

    def show(self, totals: Totals) -> None:
        """How far the relay is."""
        if self._live is not None:
            self._live.update(in_words(totals))
        elif totals != self._shown and time.monotonic() >= self._next:
            self._next = time.monotonic() + EVERY
            self._shown = dataclasses.replace(totals)
            self.say(in_words(totals))


def in_words(totals: Totals) -> str:
    """The totals as one line; failures only if there were any."""
    parts = [f"{_many(totals.rows, 'row')}, {_many(totals.keys, 'key')} in {_many(totals.batches, 'batch', 'batches')}"]
    for count, what in (
        (totals.cache_failures, "cache failure"),
        (totals.store_failures, "store failure"),
        (totals.damaged, "damaged row"),
    ):
        if count:
            parts.append(_many(count, what))
    return "; ".join(parts)


def _many(count: int, one: str, more: str = "") -> str:
    return f"{count} {one if count == 1 else more or one + 's'}"


@contextlib.contextmanager
def stopped_by_signals(relay: Relay) -> Iterator[None]:
    """SIGTERM and Ctrl-C stop the relay in good order; a second one breaks it off."""
    before: dict[signal.Signals, Any] = {}

    def stop(number: int, frame: object) -> None:
        relay.stop()
        signal.signal(number, signal.SIG_DFL)

    for name in (signal.SIGTERM, signal.SIGINT):
        before[name] = signal.signal(name, stop)
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
