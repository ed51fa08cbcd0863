"""Delivers what writers left in an outbox: those that died between commit and delivery, or found the cache down.

A row is taken when it is older than `delay`, by the clock of its database: most are removed by their writers before
that. The keys of a batch of rows are invalidated by one command; then the rows are removed. A relay that dies in
between leaves them to the next one, which invalidates once more.

How old an entry can get: a row is seen at its commit (PostgreSQL, if its table has the trigger that notifies) or
within `poll` seconds of it, and is delivered when its `delay` is over. So an entry is stale for `delay` seconds after
the commit at most, or for `poll` if that is longer and nobody notifies, as long as the database, the cache and a relay
are up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import CachesideError, ConfigurationError
from ..expiry import Duration, seconds
from ..health import logger
from .bell import Bell
from .table import Outbox, StoreFailed

if TYPE_CHECKING:
    from .store import Found, Session

SOON = 0.05  # seconds until rows that another holds just now are looked for again
LONGEST_PAUSE = 2.0  # seconds between two tries while the cache or the database is down
MOST_ROWS = 10_000  # in one batch: databases take no more than some ten thousand arguments


@dataclasses.dataclass
class Totals:
    """What a relay has done so far."""

    rows: int = 0
    """Rows whose keys it has delivered, and that it has removed."""
    keys: int = 0
    """Their keys."""
    batches: int = 0
    damaged: int = 0
    """Rows that made no sense; they were logged and removed."""
    cache_failures: int = 0
    """Deliveries that the cache did not answer, or not in full. The rows stayed."""
    store_failures: int = 0
    """Times that the database failed."""


class Relay:
    """Delivers the rows of one outbox, in this thread (`run`), a thread (`start`, or ``with``) or a task (`arun`).

    Several may work on one table at once, in whatever processes. It is used once: make another one after `stop`.

    Args:
        outbox: whose rows; those of other namespaces are left alone.
        store: the URL of the database, or an `Engine` of SQLAlchemy's; see `OutboxStore`.
        delay: seconds that rows are left to their writers.
        poll: seconds between two looks where nobody notifies; and the longest wait for a notification.
        batch: rows taken at once.
        report: is called after each batch, each failure and each look for rows, in the relay's thread.

    Raises:
        ConfigurationError: any of these cannot work. Nothing is connected yet.
        MissingExtraError: SQLAlchemy or the driver of the database is not installed; the message has the pip command.
    """

    def __init__(
        self,
        outbox: Outbox,
        store: Any,
        *,
        delay: Duration = 1.0,
        poll: Duration = 1.0,
        batch: int = 500,
        report: Callable[[Totals], object] = lambda totals: None,
    ) -> None:
        if not isinstance(outbox, Outbox):
            raise ConfigurationError(f"a relay works for an Outbox, not for {outbox!r}")
        outbox.core.require(sync=True)
        if isinstance(batch, bool) or not isinstance(batch, int) or not 1 <= batch <= MOST_ROWS:
            raise ConfigurationError(f"batch is a number of rows from 1 to {MOST_ROWS}, not {batch!r}")
        from .store import OutboxStore  # needs SQLAlchemy

        self._outbox = outbox
        self._delay = 0.0 if delay == 0 else seconds(delay, "delay")
        self._poll = seconds(poll, "poll")
        self._batch = batch
        self._report = report
        self.store: OutboxStore = OutboxStore(outbox, store)
        self.totals: Totals = Totals()
        self._bell = Bell()
        self._thread: threading.Thread | None = None
        self._used = False
        self._pause = SOON  # before the next try with a database that fails
        self._failing: set[str] = set()  # what of cache and store was failing at the last try

    def stop(self) -> None:
        """Have it end after the batch that it is at. Returns at once; for any thread, and for signal handlers."""
        self._bell.ring()

    def run(self, once: bool = False) -> Totals:
        """Deliver until `stop` is called; what fails is tried again, with pauses of `LONGEST_PAUSE` seconds at most.

        Args:
            once: deliver what is due now, and return.

        Raises:
            CachesideError: a mistake of configuration; with `once` also a database or a cache that fails.
        """
        if self._used:
            raise RuntimeError("this relay has been used already: make another one")
        self._used = True
        with self._bell:
            try:
                while not self._bell.rung:
                    try:
                        with self.store.session() as session:
                            self._serve(session, once)
                        break
                    except StoreFailed as error:
                        if once:
                            raise
                        self.totals.store_failures += 1
                        self._fails("store", str(error))
                        self._report(self.totals)
                    self._bell.wait(self._pause)
                    self._pause = min(2 * self._pause, LONGEST_PAUSE)
            finally:
                self.store.close()
        return self.totals

    def _serve(self, session: Session, once: bool) -> None:
        pause = SOON
        while True:
            error = self._pass(session)
            self._pause = SOON  # not before: a database may be there, and refuse what it is asked
            self._works("store", f"{self.store.label} works again")
            self._report(self.totals)
            if error is not None:
                if once:
                    raise error
                self._bell.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            elif not once and not self._bell.rung:
                pause = SOON
                due = session.next_due(self._delay)
                wait = self._poll if due is None else min(max(due, SOON), self._poll)
                self._bell.wait(wait, session.listener, self._delay)
            if once or self._bell.rung:
                return

    def _pass(self, session: Session) -> Exception | None:
        """Deliver all that is due, batch by batch; what went wrong with the cache.

        Rows that stay are passed over, so that a part of the cache that is down does not keep back the others' keys.
        """
        from .store import BEGINNING

        last: Found = BEGINNING
        trouble: Exception | None = None
        more = True
        while more and not self._bell.rung:
            rows, last, more = session.take(self._batch, self._delay, last)
            error = self._deliver(session, rows)
            trouble = trouble or error
            if error is not None and not getattr(error, "keys", None):  # it is not just a part that is down
                break
            if more:
                self._report(self.totals)
        if trouble is not None:
            self._fails("cache", f"{self._outbox.core.label} fails, its rows stay in {self._outbox.table}: {trouble}")
        return trouble

    def _deliver(self, session: Session, rows: Sequence[Found]) -> Exception | None:
        """Deliver one batch, or those of its rows that can be; what went wrong with the cache."""
        keys, damaged = self._read(rows)
        every = frozenset(key for some in keys.values() for key in some)
        failed: frozenset[str] = frozenset()
        error = self._invalidate(list(every))
        if error is not None:
            self.totals.cache_failures += 1
            failed = every.intersection(getattr(error, "keys", None) or ()) or every
        told = [row for row, some in keys.items() if failed.isdisjoint(some)]
        removed = session.remove([*told, *damaged])
        session.done()
        self.totals.damaged += len(damaged)
        if told:
            self.totals.batches += 1
            self.totals.rows += max(0, removed - len(damaged))  # some may have been removed by others meanwhile
            self.totals.keys += sum(len(keys[row]) for row in told)
            if error is None:
                self._works("cache", f"{self._outbox.core.label} works again")
        return error

    def _read(self, rows: Sequence[Found]) -> tuple[dict[str, list[str]], list[str]]:
        """The keys of rows by their ids, and the ids of those that make no sense."""
        keys: dict[str, list[str]] = {}
        damaged: list[str] = []
        for row in rows:
            try:
                keys[row.id] = self._outbox.keys(row.entries)
            except (ValueError, RecursionError):
                # Nothing can be done for them, and kept they would be in the way for ever.
                logger().error("%s: row %s makes no sense, and is removed: %.200r", self._outbox.table, *row[:2])
                damaged.append(row.id)
        return keys, damaged

    def _invalidate(self, keys: Sequence[str]) -> Exception | None:
        backend = self._outbox.core.backend
        try:
            if keys:
                backend.invalidate(keys)
        except ConfigurationError:
            raise
        except Exception as error:  # as in `drivers`: a backend may be anybody's
            return error
        return None

    def _fails(self, what: str, message: str) -> None:
        """Log the first of failures in a row."""
        if what not in self._failing:
            self._failing.add(what)
            logger().warning("relay: %s", message)

    def _works(self, what: str, message: str) -> None:
        if what in self._failing:
            self._failing.discard(what)
            logger().info("relay: %s", message)

    # In the background.

    def start(self) -> None:
        """Run in a thread, a daemon: at the end of the program `stop` it, or leave the rest to the next relay."""
        if self._thread is not None:
            raise RuntimeError("this relay has been started already: make another one")
        self._thread = threading.Thread(target=self._run_quietly, name="cacheside-relay", daemon=True)
        self._thread.start()

    def join(self, timeout: float | None = None) -> None:
        """After `stop`: wait for its thread to end."""
        if self._thread is not None:
            self._thread.join(timeout)

    def __enter__(self) -> Relay:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.join()

    def _run_quietly(self) -> None:
        try:
            self.run()
        except CachesideError as error:
            logger().error("relay: it has ended: %s", error)

    async def arun(self) -> None:
        """`run`, for a task: cancel it, or call `stop`, to end it. The work is done in a thread of its own.

        A cancelled task ends when the batch that it is at has been delivered.
        """
        import asyncio

        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()

        def settle(error: BaseException | None) -> None:
            if not ended.done():
                ended.set_result(None) if error is None else ended.set_exception(error)

        def work() -> None:
            failure: BaseException | None = None
            try:
                self.run()
            except BaseException as error:
                failure = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: it was cancelled twice, and nobody waits
                loop.call_soon_threadsafe(settle, failure)

        threading.Thread(target=work, name="cacheside-relay", daemon=True).start()
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            self.stop()
            await ended
            raise
