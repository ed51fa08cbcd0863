"""What `manage.py check` says of the databases."""

from __future__ import annotations

from typing import Any

from django.core.checks import CheckMessage, Warning
from django.db import connections

_READ_COMMITTED = ("read committed", 2)  # as Django takes it on MariaDB and MySQL, and psycopg's constant


def isolation(**_: Any) -> list[CheckMessage]:
    """Warn of databases whose transactions do not read what is committed now: what they load may be old already."""
    levels = {alias: connections[alias].settings_dict.get("OPTIONS", {}) for alias in connections}
    return [
        Warning(
            f"The transactions of database {alias!r} have the isolation level {options['isolation_level']!r}: a cached "
            "function that is called inside one may put a row into the cache that was read from an old snapshot.",
            hint='Use "read committed", or call cached functions outside of transactions.',
            id="cacheside.W001",
        )
        for alias, options in levels.items()
        if "isolation_level" in options and _level(options["isolation_level"]) not in _READ_COMMITTED
    ]


def _level(given: Any) -> Any:
    if isinstance(given, str):
        return given.lower()
    return getattr(given, "value", given)  # an enum of psycopg 3's
