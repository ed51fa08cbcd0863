"""What `Cache` refuses at construction, what its URL may say, and what `import cacheside` costs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from cacheside import Cache, ConfigurationError, MissingExtraError
from cacheside.backends.memory import MemoryBackend
from cacheside.cache import _DEFAULTS
from cacheside.testing import FakeClock


@pytest.mark.parametrize(
    ("url", "cure"),
    [
        ("nonsense", "redis://localhost:6379/0"),
        ("://x", "redis://localhost:6379/0"),
        ("mysql://x", "known are: .*memcached, memory, .*redis"),
        ("memory://host", "no host"),
        ("memory://?max_entries=0", "positive integer"),
        ("memory://?max_entries=many", "positive integer"),
        ("memory://?copy=perhaps", "true or false"),
        ("memory://?policy=best", "lru"),
        ("memory://?size=5", "known are: copy, max_bytes, max_entries, policy"),
        ("memory://?ttl=5&ttl=6", "twice"),
        ("memory://?ttl=soon", "number of seconds"),
        ("memory://?ttl=0", "positive"),
        ("memory://?ttl", "malformed"),
        ("memory://?namespace=", "never empty"),
        ("memory://?lease=-1", "lease"),
        ("memory://?timeout=nan", "timeout"),
        ("null://host", "no host"),
        ("redis://", "redis://localhost:6379/0"),
        ("redis://localhost/zero", "redis://localhost:6379/0"),
        ("redis://localhost:port/0", "malformed"),
        ("redis://localhost/0?nonsense=1", "nonsense"),
        ("redis://localhost/0?max_connections=0", "positive integer"),
        ("memcached://", "memcached"),
    ],
)
def test_bad_urls(url: str, cure: str) -> None:
    """A URL that cannot work is refused at construction, without I/O, and the message says what would."""
    with pytest.raises(ConfigurationError, match=cure):
        Cache(url)


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:sesame@localhost:port/0",
        "redis://user:sesame@localhost/0?nonsense=1",
        "redis://user:sesame@localhost/zero",
        "mysql://user:sesame@localhost/0",
        "redis://user:sesame@localhost/0?ttl=x",
        "memcached://user:sesame@localhost",
        "redis://user:ses?sesame@localhost:port",
        "redis://localhost/0?password=sesame&sesame",
        "redis://localhost/0?password=pass@sesame&x",
        "redis://:sesame/0",
        "redis://localhost:sesame/0",
        "memcached://a:11211,b:sesame",
        "mysql://localhost:sesame/0",
        "mysql:sesame@localhost",
    ],
)
def test_errors_never_show_a_password(url: str) -> None:
    """Neither the message nor what it was raised from has the password of the URL."""
    with pytest.raises(ConfigurationError) as caught:
        Cache(url)
    error: BaseException | None = caught.value
    while error is not None:
        assert "sesame" not in str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_repr_never_shows_a_password() -> None:
    """A cache can be printed and logged."""
    cache = Cache("redis://user:sesame@localhost:6379/2?namespace=shop")
    assert repr(cache) == "<Cache redis://localhost:6379/2 namespace='shop'>"
    assert "sesame" not in repr(cache._core.backend) + repr(cache._core.aio)


@pytest.mark.parametrize(
    ("arguments", "options", "cure"),
    [
        ((), {"namespace": ""}, "never empty"),
        ((), {"namespace": 5}, "never empty"),
        ((), {"serializer": "xml"}, "msgpack"),
        ((), {"serializer": "pickle"}, "secret"),
        ((), {"secret": "x" * 40}, "secret"),
        ((), {"ttl": 0}, "ttl"),
        ((), {"lease": None}, "lease"),
        ((), {"timeout": 0}, "timeout"),
        (("memory://?ttl=5",), {"ttl": 6}, "ttl stands in the cache URL"),
        ((5,), {}, "object that meets Backend"),
        ((object(),), {}, "object that meets Backend"),
        ((MemoryBackend(),), {"timeout": 1}, "timeout="),
        ((MemoryBackend(),), {"clock": FakeClock()}, "clock="),
        (("redis://localhost",), {"clock": FakeClock()}, "clock="),
    ],
)
def test_bad_options(arguments: tuple[Any, ...], options: dict[str, Any], cure: str) -> None:
    """An option that cannot work, or would be ignored, is refused at construction."""
    with pytest.raises(ConfigurationError, match=cure):
        Cache(*arguments, **options)


def test_url_options_are_those_of_cache() -> None:
    """A URL may carry what `Cache` takes, with the same defaults."""
    cache = Cache("memory://?namespace=a:b&ttl=none&lease=3&serializer=json&timeout=1&max_entries=7")
    assert (cache.namespace, cache._home.ttl, cache._core.lease) == ("a:b", None, 3.0)
    assert cache._core.size().limit == 7
    assert Cache().namespace == _DEFAULTS["namespace"] == "cacheside"


def test_missing_extra() -> None:
    """Without the client library the error has the pip command."""
    program = "import sys; sys.modules['redis'] = None; import cacheside; cacheside.Cache('redis://localhost')"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "MissingExtraError" in done.stderr
    assert "pip install 'cacheside[redis]'" in done.stderr
    assert issubclass(MissingExtraError, ImportError)


def test_import_is_light() -> None:
    """`import cacheside`, and a memory cache, load no client, no event loop, no logging, no serializer."""
    program = """
import sys, cacheside
cacheside.cached(lambda x: x)
heavy = "asyncio concurrent.futures logging redis pymemcache msgpack pickle pytest typer rich importlib.metadata"
print([name for name in heavy.split() if name in sys.modules])
cacheside.Cache()
print("asyncio" in sys.modules, "logging" in sys.modules)
"""
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]", "False False"]
