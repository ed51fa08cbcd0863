"""Compression around any serializer: what is smaller comes back as it was, and no bomb goes off."""

from __future__ import annotations

import contextlib
import random
import sys
import tracemalloc
import zlib
from typing import Any

import pytest
import zstandard
from colours import Colour
from hypothesis import given, settings
from hypothesis import strategies as st
from redis_tools import MakeCache, say

from cacheside import Cache, cached, serializers
from cacheside.errors import ConfigurationError, DecodeError, MissingExtraError
from cacheside.serializers import Compressed, Compression

NAMES = ("zlib", "zstd")
LARGE = [{"id": number, "name": "a product", "price": 12.5} for number in range(200)]


def made(by: Any, inner: str = "msgpack", **options: Any) -> Compressed:
    """A serializer that compresses."""
    secret = "a secret of twenty" if inner == "pickle" else None
    return Compressed(serializers.create(inner, secret), Compression(by, **options))


# --- by itself ---


@pytest.mark.parametrize("by", NAMES)
@settings(max_examples=50)
@given(value=st.recursive(st.none() | st.integers() | st.text() | st.binary(max_size=3000), st.lists, max_leaves=20))
def test_what_went_in_comes_out(by: str, value: object) -> None:
    """Whatever its size, the same value of the same type."""
    for inner in ("msgpack", "json", "pickle"):
        serializer = made(by, inner, at_least=1)
        assert repr(serializer.loads(serializer.dumps(value))) == repr(value)


@pytest.mark.parametrize("by", NAMES)
def test_from_a_size_on(by: str) -> None:
    """What is small, or would not get smaller, or is too large to be inflated again, is stored as it is."""
    plain = serializers.create("msgpack")
    size = len(plain.dumps(LARGE))
    assert len(made(by).dumps(LARGE)) < size / 5
    assert made(by).dumps("short") == b"\0" + plain.dumps("short")
    assert made(by, at_least=size + 1).dumps(LARGE) == b"\0" + plain.dumps(LARGE)
    assert made(by, at_least=size).dumps(LARGE)[:1] == b"\1"
    assert made(by, limit=size - 1).dumps(LARGE) == b"\0" + plain.dumps(LARGE)
    assert made(by, limit=size).loads(made(by, limit=size).dumps(LARGE)) == LARGE
    noise = random.Random(7).randbytes(3000)
    assert made(by).dumps(noise) == b"\0" + plain.dumps(noise)


@pytest.mark.parametrize("by", NAMES)
def test_bombs(by: str) -> None:
    """A quarter of a gigabyte in a few kilobytes is refused before it is there; so is all that was not made here."""
    zeros = b"\0" * 2**28
    stream = zstandard.ZstdCompressor().compressobj()  # a frame that does not tell its size
    bombs = [
        zlib.compress(zeros) if by == "zlib" else zstandard.ZstdCompressor().compress(zeros),
        b"" if by == "zlib" else stream.compress(zeros) + stream.flush(),
    ]
    del zeros
    good = made(by).dumps(LARGE)[1:]
    tracemalloc.start()
    try:
        for bad in (*bombs, good[:-1], good + b"x", good[:40], b"", b"\0" * 100, b"\xff" * 100):
            with pytest.raises(DecodeError):
                made(by, limit=2**20).loads(b"\1" + bad)
        assert tracemalloc.get_traced_memory()[1] < 16 * 2**20
    finally:
        tracemalloc.stop()


@given(st.binary(max_size=200))
def test_anything_else(data: bytes) -> None:
    """Bytes of whatever origin are a DecodeError or a value, never another exception."""
    for by in NAMES:
        for mark in (b"", b"\0", b"\1"):
            with contextlib.suppress(DecodeError):
                made(by).loads(mark + data)


def test_what_cannot_be() -> None:
    """Mistakes are told at construction and at decoration, with the cure; on memory as well."""
    with pytest.raises(ConfigurationError, match=r"unknown compressor 'gzip'; known are: .*zlib, zstd"):
        Cache("memory://", compress="gzip")
    with pytest.raises(ConfigurationError, match="at_least of a Compression is a positive number"):
        Cache("memory://", compress=Compression("zlib", at_least=0))
    with pytest.raises(ConfigurationError, match="neither a name nor an object with compress and inflate"):
        Cache("memory://", compress=7)  # type: ignore[arg-type]  # that is the test
    with pytest.raises(ConfigurationError, match="stands in the cache URL and is given"):
        Cache("memory://?compress=zlib", compress="zlib")
    with pytest.raises(ConfigurationError, match="unknown compressor"):
        Cache("memory://").cached("k", compress="gzip")(lambda: 1)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package is named, with the command that brings it."""
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.delitem(sys.modules, "cacheside.serializers.zstd", raising=False)
    monkeypatch.setattr(serializers.compression.registry, "_loaded", {})  # type: ignore[attr-defined]  # a module
    with pytest.raises(MissingExtraError, match=r"pip install 'cacheside\[zstd\]'"):
        Cache("memory://", compress="zstd")


class Reversed:
    """A compressor of a user's own; what begins with a zero gets shorter."""

    def compress(self, data: bytes) -> bytes:
        """See `Compressor`."""
        return data[:0:-1]

    def inflate(self, data: bytes, limit: int) -> bytes:
        """See `Compressor`."""
        return b"\xdc" + data[::-1]


def test_a_compressor_of_your_own() -> None:
    """By name, once it is registered, or as an object; its name stands in what is stored."""
    serializers.register_compressor("reversed", Reversed)
    for by in ("reversed", Reversed()):
        serializer = made(by)
        assert serializer.loads(serializer.dumps(LARGE)) == LARGE
        assert serializer.dumps(LARGE)[:1] == b"\1"
    assert made("reversed").name == "msgpack+reversed"
    with pytest.raises(ConfigurationError, match="registered already"):
        serializers.register_compressor("reversed", Compressed)  # type: ignore[arg-type]  # that is the test


# --- on servers ---


@pytest.mark.parametrize("by", NAMES)
@pytest.mark.parametrize("server", ["redis_server", "memcached_server"])
def test_on_a_server(
    colour: Colour, make_cache: MakeCache, request: pytest.FixtureRequest, namespace: str, server: str, by: str
) -> None:
    """A hit is what the miss was; who compresses otherwise has a miss, and replaces the entry."""
    url = request.getfixturevalue(server).url
    loads: list[str] = []

    def reader(name: str, how: dict[str, Any], own: dict[str, Any]) -> Any:
        def load(row: int) -> object:
            loads.append(name)
            return LARGE

        cache = make_cache(url, namespace=namespace, timeout=20, **how)
        return colour.decorate(cache.cached("row:{row}", **own), load)

    packed = reader("packed", {"compress": by}, {})
    same = reader("same", {}, {"compress": Compression(by, at_least=10)})
    plain = reader("plain", {"compress": by}, {"compress": None})
    assert [colour.run(packed, 1), colour.run(packed, 1), colour.run(same, 1)] == [LARGE] * 3
    assert loads == ["packed"]
    assert [colour.run(plain, 1), colour.run(plain, 1)] == [LARGE] * 2
    assert loads == ["packed", "plain"]
    assert colour.run(packed, 1) == LARGE
    assert loads == ["packed", "plain", "packed"]


def test_smaller_there(make_cache: MakeCache, redis_server: Any, namespace: str) -> None:
    """What the server keeps is smaller; and one corrupt byte in it is a miss."""
    cache = make_cache(f"{redis_server.url}?compress=zlib", namespace=namespace, timeout=20)
    get = cache.cached("row")(lambda: LARGE)
    assert get() == LARGE
    key = f"{namespace}:row"
    stored = say(redis_server, "GET", key)
    assert len(stored) < 1500
    say(redis_server, "SETRANGE", key, len(stored) - 10, b"\xff\xff")
    assert get() == LARGE
    assert get() == LARGE
    info = get.cache_info()
    assert (info.undecodable, info.loads, info.hits) == (1, 2, 1)


def test_memory_keeps_objects() -> None:
    """In memory nothing is compressed: a hit is the very object."""
    cache = Cache("memory://?compress=zlib")
    get = cache.cached("row", compress="zstd")(lambda: LARGE)
    assert get() is get() is LARGE
    assert cached("k", compress="zlib")(lambda: 1)() == 1
