"""SQLAlchemy: invalidations wait for the commit of the session, and are dropped with its rollback.

A transaction of a session, and each savepoint in it, is a `Transaction`, as a ``with cache.transaction()`` block is.

- `binding.py`: what is bound to what, and to which events of a session its handlers listen.
- `ties.py`: the open transaction of one session: its savepoints, what is held, and how it ends.
- `tasks.py`: the tasks that work in it, at whose end it is looked at whether it is over.
- `engines.py`: what is done on its connections: whether it wrote, a commit was tried, or a part rolled back.
- `rows.py`: from rows that were written to keys.
- `finding.py`: the sessions among the arguments of a call.
"""

from __future__ import annotations

from .binding import bind
from .rows import table_tag

__all__ = ["bind", "table_tag"]
