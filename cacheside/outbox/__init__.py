"""A transactional outbox: what a write makes stale stands in its own database transaction, where no crash can reach it.

>>> outbox = Outbox(cache)
>>> with cache.transaction(outbox=outbox.on(connection)):
...     rename_user(7, "Ada")
...     connection.commit()

A process that dies between the commit and the delivery leaves old values in the cache for a whole ttl. So the keys go
into a small table, by the same transaction: they are there exactly if the write is. After the commit they are
delivered at once, and their rows are removed; a relay delivers what is left, however often (to invalidate twice does no
harm), from a process of its own, a thread or a task.

table.py      the table: its definition for each database, and its statements
schema.py     the same for SQLAlchemy and Alembic
recorder.py   writes the rows of one transaction over the application's own connection
store.py      the table as a relay sees it; urls.py makes an engine of its URL
listener.py   hears of new rows, on PostgreSQL; bell.py is how a relay waits
relay.py      delivers what was left; command.py is `cacheside relay`
"""

from __future__ import annotations

from .recorder import ConnectionRecorder
from .relay import Relay, Totals
from .table import Outbox, Row, StoreFailed

__all__ = ["ConnectionRecorder", "Outbox", "Relay", "Row", "StoreFailed", "Totals"]
