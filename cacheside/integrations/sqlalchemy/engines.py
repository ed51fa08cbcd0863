"""What is done on the connections of a transaction: whether it wrote, and whether a commit was tried.

A session cannot tell: statements may be executed on its connection, and a commit that raised may have arrived.
"""

from __future__ import annotations

import re
import weakref
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, event


class Watched(Protocol):
    """A transaction whose connections are watched."""

    wrote: bool
    """Whether a statement that writes was sent. False if it is not known: then nothing is lost, see `settle`."""

    tried: bool
    """Whether a COMMIT was sent, or every statement commits by itself."""


_WRITES = re.compile(
    r"[\s(]*(?:/\*.*?\*/\s*)?"
    r"(?:insert|update|delete|merge|replace|upsert|truncate|copy|load|call|exec|do|create|alter|drop"
    r"|with\b.*?\b(?:insert\s+into|update|delete\s+from|merge\s+into))\b",
    re.IGNORECASE | re.DOTALL,
)

_watched: weakref.WeakKeyDictionary[Connection, Watched] = weakref.WeakKeyDictionary()
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def watch(connection: Connection, transaction: Watched) -> None:
    """Note on `transaction` what is done on `connection` from now on."""
    _watched[connection] = transaction
    level = connection.get_execution_options().get("isolation_level")
    # create_engine(isolation_level="AUTOCOMMIT") shows nowhere else
    if (level or getattr(connection.dialect, "_on_connect_isolation_level", None)) == "AUTOCOMMIT":
        transaction.tried = True
    engine = connection.engine
    if engine not in _engines:
        _engines.add(engine)
        event.listen(engine, "before_cursor_execute", _execute)
        event.listen(engine, "commit", _commit)
        event.listen(engine, "commit_twophase", _commit)


def _execute(connection: Connection, cursor: Any, statement: str, *rest: object) -> None:
    transaction = _watched.get(connection)
    if transaction is not None and not transaction.wrote and _WRITES.match(statement):
        transaction.wrote = True


def _commit(connection: Connection, *rest: object) -> None:
    transaction = _watched.get(connection)
    if transaction is not None:
        transaction.tried = True
