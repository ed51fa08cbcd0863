"""The sessions that a decorated call works with: among its arguments, and those of the object whose method it is.

Their transaction may have begun in a context that the call does not share: in a dependency that a web framework called
in its thread pool, say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, scoped_session

from ...scopes import Holding
from .ties import clean, ties


def find(values: Mapping[str, Any]) -> Iterable[Holding]:
    """See `scopes.finders`. This context is inside the transactions found from now on."""
    clean()
    if not ties:
        return []
    found: list[Holding] = []
    for session in _sessions(values):
        tie = ties.get(session)
        if tie is not None:
            tie.enter()
            found.append(tie.innermost())
    return found


def _sessions(values: Mapping[str, Any]) -> Iterator[Session]:
    for number, (name, value) in enumerate(values.items()):
        if name == "result":
            continue
        session = _session(value)
        if session is not None:
            yield session
        elif number == 0:
            for attribute in list(getattr(value, "__dict__", {}).values()):
                session = _session(attribute)
                if session is not None:
                    yield session


def _session(value: Any) -> Session | None:
    if isinstance(value, (scoped_session, async_scoped_session)):
        with contextlib.suppress(Exception):  # its scope function may need a running loop, a request...
            return _session(value.registry()) if value.registry.has() else None
        return None
    if isinstance(value, AsyncSession):
        return value.sync_session
    if isinstance(value, Session):
        return value
    state = getattr(value, "__dict__", {}).get("_sa_instance_state")  # a row
    return None if state is None else state.session
