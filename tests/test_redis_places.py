"""What the URLs of clusters and sentinels stand for, and what CLUSTER SLOTS tells; without a server."""

from __future__ import annotations

from typing import Any

import pytest

from cacheside import Cache, ConfigurationError
from cacheside.backends.redis.connections import several
from cacheside.backends.redis.slots import SlotMap


def test_map() -> None:
    """Hosts as bytes or text, unknown ones (empty, None, "?") and gaps are understood."""
    reply = [
        [0, 9, [b"", 1, b"id"], ["name", 2, b"id", []]],
        [10, 19, [None, 3, b"id", [b"hostname", b"x"]]],
        [20, 29, [b"?", 4, b"id", [b"ip", b"10.0.0.1"]]],
        [30, 39, [b"?", 5, b"id", []]],
    ]
    found = SlotMap(reply, ("asked", 9))
    known = [found.master(slot) for slot in (0, 9, 10, 20, 30)]
    assert known == [("asked", 1), ("asked", 1), ("asked", 3), ("10.0.0.1", 4), ("asked", 5)]
    assert found.master(40) is None
    assert found.masters() == [("asked", 1), ("asked", 3), ("10.0.0.1", 4), ("asked", 5)]
    assert ("name", 2) in found.servers
    found.moved(40, ("name", 2))
    assert found.master(40) == ("name", 2)


@pytest.mark.parametrize(
    ("url", "alone", "found"),
    [
        ("redis+cluster://h", "redis://h", [("h", 6379)]),
        ("rediss+cluster://u:p%40@h:1,[::1]:2?a=b", "rediss://u:p%40@h:1?a=b", [("h", 1), ("::1", 2)]),
        ("redis+sentinel://h,i:3/shop/2", "redis://h/shop/2", [("h", 6379), ("i", 3)]),
    ],
)
def test_several_hosts(url: str, alone: str, found: list[Any]) -> None:
    """A URL with several hosts is one for the first of them, and all their addresses."""
    assert several(url, 6379) == (alone, found)


@pytest.mark.parametrize(
    "url",
    [
        "redis+cluster://",
        "redis+cluster://u:s3cret@h,,i",
        "redis+cluster://u:s3cret@h:1,i:x",
        "redis+cluster://u:s3cret@h/1",
        "redis+cluster://u:s3cret@h?db=1",
        "redis+cluster://u:s3cret@h?sentinel_password=s3cret",
        "redis+sentinel://u:s3cret@h",
        "redis+sentinel://u:s3cret@h/",
        "redis+sentinel://u:s3cret@h/shop/one",
        "redis+sentinel://u:s3cret@h/shop?nonsense=1",
        "redis+sentinel://u:s3cret@/shop",
        "redis://u:s3cret@h,i/0",
    ],
)
def test_bad_urls(url: str) -> None:
    """What cannot work is refused at once, and no password is shown."""
    with pytest.raises(ConfigurationError) as raised:
        Cache(url)
    assert "s3cret" not in str(raised.value)


def test_names_show_no_password() -> None:
    """A cache on several servers shows their addresses and nothing else of its URL."""
    for url in (
        "redis+cluster://u:s3cret@h:1,i:2",
        "redis+sentinel://u:s3cret@h:1,i:2/shop/0?sentinel_password=s3cret",
    ):
        cache = Cache(url)
        assert "s3cret" not in repr(cache) + repr(cache._core.backend)
        assert "h:1,i:2" in repr(cache)
