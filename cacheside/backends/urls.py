"""Query options of cache URLs: split off, checked, and never shown with a password."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from ..errors import ConfigurationError

_NO_PORT = re.compile(r":(?!\d+$)[^\]]*$")


def split(url: str) -> tuple[SplitResult, dict[str, str]]:
    """`url` in parts, and its query options.

    Raises:
        ConfigurationError: it is malformed, or an option stands there twice or has no value.
    """
    try:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        for host in parts.netloc.rpartition("@")[2].split(","):  # of a ring or a cluster there are several
            _ = urlsplit(f"//{host}").port  # parsed on access
    except ValueError:
        # From None: the error may quote the URL, password and all.
        raise ConfigurationError(f"malformed cache URL {masked(url)!r}") from None
    options = dict(pairs)
    if len(options) < len(pairs):
        raise ConfigurationError(f"an option stands twice in the cache URL {masked(url)!r}")
    return parts, options


def take(url: str, names: Iterable[str]) -> tuple[str, dict[str, str]]:
    """`url` without the query options `names`, and those that were there."""
    _, options = split(url)
    taken = {name: options.pop(name) for name in names if name in options}
    if not taken:
        return url, taken  # as written: putting a URL together again may spell it differently
    head = url.partition("?")[0]
    return (f"{head}?{urlencode(options)}" if options else head), taken


def refuse_unknown(url: str, options: Iterable[str], known: Iterable[str]) -> None:
    """That all `options` are among `known`.

    Raises:
        ConfigurationError: one is not; the message lists the known ones.
    """
    if unknown := sorted(set(options) - set(known)):
        names = ", ".join(sorted(known)) or "none"
        raise ConfigurationError(f"unknown option {unknown[0]!r} in the cache URL {masked(url)!r}; known are: {names}")


def masked(url: str) -> str:
    """`url` as it may be shown: without user, password and options, also where it is written wrongly."""
    scheme, separator, rest = url.partition("://")
    head, mark, query = rest.partition("?")
    if mark and "@" in query:  # it may be the end of a password with a "?" in it
        return f"{scheme}{separator}***"
    hosts, slash, path = head.rpartition("@")[2].partition("/")
    # Where the "@" was forgotten, a password stands in the place of the port.
    shown = (_NO_PORT.sub(":***", host) for host in hosts.split(","))
    return f"{scheme}{separator}{','.join(shown)}{slash}{path}"
