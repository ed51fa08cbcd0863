"""The URL of a relay's database, as an engine. It needs SQLAlchemy."""

from __future__ import annotations

import urllib.parse
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import exc, pool

from ..backends.urls import masked
from ..errors import ConfigurationError, MissingExtraError
from .table import NOW, dialect_called

PATIENCE = 5  # seconds to connect
_STUCK = 30  # seconds without an answer

_DRIVERS = {
    "postgresql": "postgresql+psycopg",
    "postgres": "postgresql+psycopg",
    "mysql": "mysql+pymysql",
    "mariadb": "mariadb+pymysql",
}
_WAIT: dict[str, dict[str, int]] = {
    # It has no time-out of an answer, but of a host that is gone: else a send is tried again for a quarter of an hour,
    # and an answer waited for until keepalive begins, after two.
    "psycopg": {
        "connect_timeout": PATIENCE,
        "tcp_user_timeout": _STUCK * 1000,
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 4,
    },
    "pymysql": {"connect_timeout": PATIENCE, "read_timeout": _STUCK, "write_timeout": _STUCK},
}
_PACKAGES = {  # where pip has another name for a driver than SQLAlchemy
    "psycopg": "'cacheside[postgresql]'",
    "mysqldb": "mysqlclient",
    "mysqlconnector": "mysql-connector-python",
    "mariadbconnector": "mariadb",
    "pysqlcipher": "sqlcipher3",
}


def make_engine(text: str) -> sa.Engine:
    """An engine without a pool, which gives up on a server that does not answer.

    Raises:
        ConfigurationError: a URL that cannot work.
        MissingExtraError: the driver is not installed.
    """
    scheme, separator, rest = text.partition("://")
    shown = masked(text)
    try:
        url = sa.make_url(f"{_DRIVERS.get(scheme, scheme)}{separator}{rest}")
        if dialect_called(url.get_backend_name()) not in NOW:
            raise ValueError
        dialect = url.get_dialect()
    except (exc.ArgumentError, ValueError):  # from None: its text may quote the password
        raise ConfigurationError(
            f"a store is 'postgresql://user@host/database', 'mariadb://user@host/database' or 'sqlite:///path', "
            f"not {shown!r}"
        ) from None
    if dialect.is_async:
        raise ConfigurationError(f"a relay needs a driver of plain code, as for 'postgresql://...', not {shown!r}")
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise ConfigurationError(f"{shown!r} is in memory, where no other process sees it: 'sqlite:///path' is a file")
    given = {name: value for name, value in _WAIT.get(dialect.driver, {}).items() if name not in url.query}
    try:
        return sa.create_engine(url, poolclass=pool.NullPool, connect_args=given)
    except ImportError as error:
        driver = dialect.driver
        raise MissingExtraError(
            f"{shown} needs the driver {driver!r}: pip install {_PACKAGES.get(driver, driver)}"
        ) from error
    except exc.SQLAlchemyError as error:
        raise ConfigurationError(f"{shown} cannot work: {error}") from None


def file_of(url: sa.URL) -> Path | None:
    """The file of SQLite's that it names; None: there is none."""
    path = url.database
    if url.get_backend_name() != "sqlite" or not path:
        return None
    if "uri" in url.query:  # SQLite's own form of a URL: its path is quoted, and it may be in memory
        path = urllib.parse.unquote(urllib.parse.urlsplit(path).path)
        if path == ":memory:" or url.query.get("mode") == "memory":
            return None
    return Path(path).absolute()
