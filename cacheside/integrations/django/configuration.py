"""`settings.CACHESIDE`: the default cache of the bare decorators."""

from __future__ import annotations

from collections.abc import Mapping

from django.core.exceptions import ImproperlyConfigured

from ... import cache
from ...errors import CachesideError

OPTIONS = ("NAMESPACE", "SERIALIZER", "SECRET", "COMPRESS", "TTL", "LEASE", "TIMEOUT")
"""Those of `Cache`, in capitals as Django has it."""


def apply(value: object) -> None:
    """Configure the default cache.

    Args:
        value: a URL; or a dict of "URL" and `OPTIONS`; None: the default cache is left as it is.

    Raises:
        ImproperlyConfigured: it cannot work; nothing has been changed.
    """
    if value is None:
        return
    if isinstance(value, str):
        value = {"URL": value}
    if not isinstance(value, Mapping):
        raise ImproperlyConfigured(f"settings.CACHESIDE is a URL, or a dict with one under 'URL', not {value!r}")
    known = ("URL", *OPTIONS)
    if unknown := sorted(str(name) for name in value if name not in known):
        raise ImproperlyConfigured(f"settings.CACHESIDE: unknown option {unknown[0]!r}; known are: {', '.join(known)}")
    if "URL" not in value:
        raise ImproperlyConfigured("settings.CACHESIDE needs a 'URL', such as 'memcached://localhost:11211'")
    options = {name.lower(): value[name] for name in OPTIONS if name in value}
    try:
        cache.configure(value["URL"], **options)
    except CachesideError as error:
        raise ImproperlyConfigured(f"settings.CACHESIDE: {error}") from error
