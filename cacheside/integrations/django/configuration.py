"""`settings.CACHESIDE`: the default cache of the bare decorators, and its outbox."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from ... import cache
from ...errors import CachesideError
from ...outbox import Outbox
from . import records

OPTIONS = ("NAMESPACE", "SERIALIZER", "SECRET", "COMPRESS", "TTL", "LEASE", "TIMEOUT")
"""Those of `Cache`, in capitals as Django has it."""


def apply(value: object) -> None:
    """Configure the default cache, and its outbox.

    Args:
        value: a URL; or a dict of "URL", `OPTIONS`, and "OUTBOX": True, or the name of its table. (A cache in memory
            has none: its entries die with the process.) None: all is left as it is.

    Raises:
        ImproperlyConfigured: it cannot work; nothing has been changed.
    """
    if value is None:
        return
    given: Any = {"URL": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping):
        raise ImproperlyConfigured(f"settings.CACHESIDE is a URL, or a dict with one under 'URL', not {value!r}")
    known = ("URL", *OPTIONS, "OUTBOX")
    if unknown := sorted(str(name) for name in given if name not in known):
        raise ImproperlyConfigured(f"settings.CACHESIDE: unknown option {unknown[0]!r}; known are: {', '.join(known)}")
    if "URL" not in given:
        raise ImproperlyConfigured("settings.CACHESIDE needs a 'URL', such as 'memcached://localhost:11211'")
    options = {name.lower(): given[name] for name in OPTIONS if name in given}
    table = given.get("OUTBOX")
    try:
        made = cache.Cache(given["URL"], **options)
        outbox = None
        if table and not made._core.in_process:
            outbox = Outbox(made) if table is True else Outbox(made, table=table)
        cache.configure(made)
        records.use(outbox)
    except CachesideError as error:
        raise ImproperlyConfigured(f"settings.CACHESIDE: {error}") from error
