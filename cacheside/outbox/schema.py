"""The table of an outbox for SQLAlchemy and Alembic. It needs SQLAlchemy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError
from .table import NOW, Outbox, dialect_called

try:
    import sqlalchemy as sa
    from sqlalchemy import event
    from sqlalchemy.dialects import mysql
    from sqlalchemy.ext.compiler import compiles
    from sqlalchemy.sql.expression import FunctionElement
except ImportError as _missing:
    raise MissingExtraError(
        "the outbox needs the package 'sqlalchemy' for this: pip install 'cacheside[sqlalchemy]'"
    ) from _missing

if TYPE_CHECKING:
    from sqlalchemy.sql.compiler import SQLCompiler


class Now(FunctionElement[float]):
    """The seconds since 1970 by the clock of the database."""

    type = sa.Double()
    inherit_cache = True


@compiles(Now)
def _now(element: Now, compiler: SQLCompiler, **options: Any) -> str:
    return f"({NOW[dialect_called(compiler.dialect.name)]})"


def make_table(outbox: Outbox, metadata: sa.MetaData) -> sa.Table:
    """See `Outbox.sqlalchemy_table`."""
    schema, _, name = outbox.table.rpartition(".")
    ascii_id = mysql.CHAR(32, charset="ascii", collation="ascii_bin")
    ascii_name = mysql.VARCHAR(255, charset="ascii", collation="ascii_bin")
    long_text = mysql.MEDIUMTEXT(charset="ascii")
    table = sa.Table(
        name,
        metadata,
        sa.Column("id", sa.CHAR(32).with_variant(ascii_id, "mysql", "mariadb"), primary_key=True),
        sa.Column("namespace", sa.String(255).with_variant(ascii_name, "mysql", "mariadb"), nullable=False),
        sa.Column("entries", sa.Text().with_variant(long_text, "mysql", "mariadb"), nullable=False),
        sa.Column("created", sa.Double(), nullable=False, server_default=Now()),
        sa.Index(f"{name}_created", "created"),
        schema=schema or None,
        mysql_engine="InnoDB",
        mariadb_engine="InnoDB",
    )
    for statement in outbox.notifying():
        made: Any = sa.DDL  # its signature is untyped in SQLAlchemy 2
        event.listen(table, "after_create", made(statement).execute_if(dialect="postgresql"))
    return table
