"""From rows that were written to keys: what ``tables=`` is about."""

from __future__ import annotations

import types
import weakref
from collections.abc import Callable, Iterable, Mapping
from inspect import getattr_static
from typing import Any, TypeAlias

from sqlalchemy import Connection, Table, event, inspect
from sqlalchemy.orm import Mapper, object_session

from ...errors import ConfigurationError
from ...health import logger
from ...keys import quote
from .ties import ties

Tables: TypeAlias = Mapping[type[Any], Callable[[Any], str | Iterable[str]]]
"""For mapped classes, what makes keys of a row."""


_heard: weakref.WeakSet[type[Any]] = weakref.WeakSet()


def table_tag(mapped: type[Any]) -> str:
    """The tag of the table of a mapped class: ``table:users``, with the schema if it has one.

    Bulk statements (``session.execute(update(User)...)``, insert and delete as well) turn it, if the class is in
    `tables` of `bind`. Give it to functions that read rows of the table: ``@cached(tags=(table_tag(User),))``.

    Raises:
        ConfigurationError: `mapped` is not mapped to a table.
    """
    table = mapper_of(mapped).local_table
    if not isinstance(table, Table):
        raise ConfigurationError(
            f"{mapped.__qualname__} is mapped to no table of its own, so there is no name for a tag"
        )
    return f"table:{quote(table.fullname)}"


def mapper_of(mapped: Any) -> Mapper[Any]:
    """The mapper of a class.

    Raises:
        ConfigurationError: it has none.
    """
    mapper = inspect(mapped, raiseerr=False)
    if not isinstance(mapper, Mapper):
        raise ConfigurationError(f"{mapped!r} is not a mapped class: name one, as in tables={{User: ...}}")
    return mapper


def listen(tables: Tables) -> None:
    """Hear of rows of these classes, and of those derived from them."""
    for mapped in tables:
        if mapped not in _heard:
            _heard.add(mapped)
            event.listen(mapped, "after_insert", _written, propagate=True)
            event.listen(mapped, "after_update", _flushed, propagate=True)
            event.listen(mapped, "after_delete", _written, propagate=True)


def keys_of(make: Callable[[Any], str | Iterable[str]], row: Any) -> list[str]:
    """The keys of one row, as it is now and, if columns of it were changed, as it was."""
    made = _texts(make(row))
    state: Any = inspect(row)
    old = {}
    for column in state.mapper.column_attrs:
        deleted = state.attrs[column.key].history.deleted
        if deleted:
            old[column.key] = deleted[0]
    if old:
        try:
            made += _texts(make(_Before(row, old)))
        except Exception as error:  # its new values are good, and the old ones may never have had a key
            logger().warning("no keys of a %s as it was before: %s", type(row).__qualname__, error)
    return made


def turned(tables: Tables, statement: Any) -> list[str]:
    """The tags that a bulk statement turns."""
    written = getattr(statement, "element", statement).entity_description  # select(...).from_statement(insert(...))
    entity = written.get("entity")
    return [
        table_tag(mapped)
        for mapped in tables
        if written["table"] in mapper_of(mapped).tables or (isinstance(entity, type) and issubclass(entity, mapped))
    ]


def _texts(made: str | Iterable[str]) -> list[str]:
    return [made] if isinstance(made, str) else list(made)


def _written(mapper: Mapper[Any], connection: Connection, row: Any) -> None:
    session = object_session(row)
    tie = None if session is None else ties.get(session)
    if tie is None:
        return
    for binding in tie.bindings:
        for each in type(row).__mro__:
            if each in binding.tables:
                tie.changed.setdefault(binding, {}).update(dict.fromkeys(keys_of(binding.tables[each], row)))


def _flushed(mapper: Mapper[Any], connection: Connection, row: Any) -> None:
    session = object_session(row)
    if session is not None and session.is_modified(row):  # else it was touched, and is what it was
        _written(mapper, connection, row)


class _Before:
    """A row with the values that its columns had in the database; methods and properties of its class see those too."""

    def __init__(self, row: Any, old: dict[str, Any]) -> None:
        self.__dict__ = old
        self.__dict__["_cacheside_row"] = row

    def __getattr__(self, name: str) -> Any:
        row = self._cacheside_row
        own = getattr_static(type(row), name, None)
        if isinstance(own, (property, types.FunctionType)):
            return own.__get__(self, type(row))
        return getattr(row, name)
