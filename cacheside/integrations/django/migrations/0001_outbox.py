"""Makes the table of the outbox that `settings.CACHESIDE` asks for; without one there is nothing to make.

Where it is asked for later: ``manage.py migrate cacheside zero``, and ``manage.py migrate cacheside`` again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.db import migrations

from cacheside.integrations.django import records
from cacheside.outbox.table import dialect_called

if TYPE_CHECKING:
    _Base = object  # Django has no types
else:
    _Base = migrations.Migration


def make(apps: Any, editor: Any) -> None:
    """With the statements that the outbox has for the kind of database."""
    outbox = records.outbox()
    if outbox is not None:
        dialect: Any = dialect_called(editor.connection.vendor)
        for statement in outbox.statements(dialect):
            editor.execute(statement, params=None)


def drop(apps: Any, editor: Any) -> None:
    """What is in it the relay will not deliver any more."""
    outbox = records.outbox()
    if outbox is not None:
        editor.execute(f"DROP TABLE IF EXISTS {outbox.table}", params=None)


class Migration(_Base):
    """See above."""

    initial = True
    # atomic: Django refuses to change tables inside a block where that cannot be rolled back (MariaDB).
    operations: Any = (migrations.RunPython(make, drop, atomic=False),)
