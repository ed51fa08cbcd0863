"""The README: its examples run, and what it lists is what the code has.

The ```python blocks of one ``##`` section run in turn, in one module; a ```text block behind one is what it prints.
"""

from __future__ import annotations

import ast
import inspect
import re
import sqlite3
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import MemcachedServer, RedisServer

import cacheside
from cacheside import Cache, CacheInfo, ConfigurationError, Stats, testing
from cacheside.backends.base import Backend
from cacheside.backends.memory import MemoryBackend
from cacheside.cache import _DEFAULTS, _URL_OPTIONS
from cacheside.expiry import UNSET

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SNAPSHOT = "/var/lib/app/"
MODULE = "app"  # what the examples pretend to be
REDIS, MEMCACHED = "redis://localhost:6379/0", "memcached://localhost:11211"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sections() -> dict[str, str]:
    """The text under each ``##`` heading."""
    parts = re.split(r"^## (.*)\n", README, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def under(heading: str) -> str:
    """The text under a heading of any level, up to the next one."""
    (found,) = re.findall(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#+ |\Z)", README, re.MULTILINE | re.DOTALL)
    return str(found)


def table(heading: str) -> list[list[str]]:
    """The rows of the table under a heading, cell by cell."""
    rows = [line.strip("|").split("|") for line in under(heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def names(heading: str) -> list[str]:
    """The first column of the table under a heading, without backticks."""
    return [row[0].strip("`") for row in table(heading)]


def examples() -> list[Any]:
    """One parameter for each section with examples, marked `server` if it names one."""
    return [
        pytest.param(heading, marks=[pytest.mark.server] if REDIS in text or MEMCACHED in text else [])
        for heading, text in sections().items()
        if "```python" in text
    ]


@pytest.fixture
def run(
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Iterator[Callable[[str], None]]:
    """Run the blocks of a section, with new servers and files, for this test alone, put where it names such."""
    module = types.ModuleType(MODULE)
    monkeypatch.setitem(sys.modules, MODULE, module)
    cacheside.configure("memory://")

    def run_section(heading: str) -> None:
        text = sections()[heading].replace(SNAPSHOT, f"{tmp_path}/")
        if REDIS in text:
            redis: RedisServer = request.getfixturevalue("new_redis")()
            text = text.replace(REDIS, redis.url)
        if MEMCACHED in text:
            memcached: MemcachedServer = request.getfixturevalue("new_memcached")()
            text = text.replace(MEMCACHED, memcached.url)
        blocks = FENCE.findall(text)
        if "settings.configure(" in text:  # of Django, which can be set up once in a process
            code = "".join(code for language, code in blocks if language == "python")
            subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=tmp_path, check=True)
            return
        for (language, code), (then, output) in zip(blocks, [*blocks[1:], ("", "")], strict=True):
            if language == "python":
                # dont_inherit: this file's `from __future__ import annotations` is none of theirs
                exec(compile(code, f"README.md, {heading}", "exec", dont_inherit=True), vars(module))
                assert capsys.readouterr().out == (output if then == "text" else "")

    yield run_section
    cacheside.configure("memory://")
    for value in vars(module).values():
        if isinstance(value, (Cache, sqlite3.Connection)):
            value.close()


@pytest.mark.parametrize("heading", examples())
def test_examples(run: Callable[[str], None], heading: str) -> None:
    """Each example runs, what it asserts is so, and it prints what the README shows."""
    run(heading)


def test_examples_are_found() -> None:
    """No block of Python hides from the tests: each is ```python, under a section."""
    languages = [language for language, _ in FENCE.findall(README)]
    assert languages.count("python") == sum(text.count("```python") for text in sections().values()) >= 10
    assert set(languages) <= {"python", "text", "sh"}
    assert README.count("```") == 2 * len(languages)


def test_options_of_cached() -> None:
    """The table of options lists those of the decorator, in full, with their defaults."""
    parameters = dict(inspect.signature(cacheside.cached.__call__).parameters)
    del parameters["target"]
    documented = {row[0].strip("`"): row[1] for row in table("Options of `cached`")}
    for name in ("ttl", "compress"):
        assert documented.pop(name) == "the cache's"
        assert parameters.pop(name).default is UNSET
    assert {name: ast.literal_eval(text.strip("`")) for name, text in documented.items()} == {
        name: parameter.default for name, parameter in parameters.items()
    }


def test_options_of_cache() -> None:
    """The table of options lists those of `Cache`, in full, with their defaults; the query options stand below it."""
    parameters = inspect.signature(Cache).parameters
    defaults = {
        name: _DEFAULTS[name] if parameter.default is UNSET else parameter.default
        for name, parameter in parameters.items()
    }
    rows = table("Options of `Cache`")
    assert {row[0].strip("`"): ast.literal_eval(row[1].strip("`")) for row in rows} == defaults
    sentence = re.search(r"In a URL's query may stand: (.*?)\.", under("Options of `Cache`"), re.DOTALL)
    assert sentence is not None
    assert re.findall(r"`(\w+)`(?! for)", sentence[1]) == list(_URL_OPTIONS)


def registered(what: str) -> list[str]:
    """The names that a fresh process knows of backends or serializers: those of this one may have been added to."""
    code = f"from cacheside import {what}; print(*{what}.{'_registry' if what == 'backends' else 'registry'}.names())"
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()


def test_schemes_and_serializers() -> None:
    """The tables name every URL scheme and every serializer that ships, and no other."""
    assert sorted(name.partition("://")[0] for name in names("Backends")) == registered("backends")
    assert sorted(names("Serializers")) == registered("serializers")


@pytest.mark.parametrize(("url", "row"), [("memory://", 0), ("memcached://localhost", 8), ("null://", 9)])
def test_options_in_urls(url: str, row: int) -> None:
    """A backend takes the query options in its row, and no other, with the values that stand there."""
    cells = table("Backends")[row]
    assert cells[0].strip("`").partition("://")[0] == url.partition("://")[0]
    documented = dict(re.findall(r"`(\w+)` \((\w+)", cells[2]))
    with pytest.raises(ConfigurationError, match=r"unknown option 'nonsense'.* known (are|is): ") as caught:
        Cache(f"{url}?nonsense=1")
    known = re.findall(r"\w+", str(caught.value).rpartition("known")[2].partition(":")[2])
    assert (sorted(re.findall(r"`(\w+)`", cells[2])) or ["none"]) == sorted(known)
    assert Cache("&".join([f"{url}?lease=10", *map("=".join, documented.items())]))


def test_options_in_urls_of_redis() -> None:
    """The options that the README names for Redis are taken, and what neither we nor redis-py knows is refused."""
    scheme = next(row for row in table("Backends") if row[0].startswith("`redis:"))
    assert re.findall(r"`(\w+)`", scheme[2]) == ["max_connections"]
    assert Cache("redis://localhost:1?max_connections=64")
    with pytest.raises(ConfigurationError):
        Cache("redis://localhost:1?nonsense=1")


def test_defaults_of_memory() -> None:
    """The options of `memory://` have the defaults that its row shows."""
    documented = dict(re.findall(r"`(\w+)` \((\w+)\)", table("Backends")[0][2]))
    parameters = inspect.signature(MemoryBackend).parameters
    defaults = {name: str(parameters[name].default).lower() for name in documented}
    defaults["max_entries"] = str(MemoryBackend().size().limit)
    assert documented == defaults


def test_counters() -> None:
    """The table lists every counter of a function, in order, and the text below it those of a cache."""
    assert names("Measuring") == list(CacheInfo._fields)
    below = under("Measuring").rpartition("|")[2]
    own = [name for name in Stats._fields if name not in ("totals", "functions")]
    assert re.findall(r"`(\w+)` \(", below) == own


def test_extras() -> None:
    """The extras to install are those of the package."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    assert sorted(set(re.findall(r"cacheside\[(\w+)\]", under("Install")))) == sorted(extras)


def test_calls_of_a_backend() -> None:
    """Writing a backend is told with all calls of the protocol, and with nothing that is none."""
    members = {name for name in vars(Backend) if not name.startswith("_")}
    told = set(re.findall(r"`(\w+)`", under("Write a backend").partition("Hand it")[0]))
    assert told - {"CacheUnavailable", "claims", "batches"} == members


def test_public_names() -> None:
    """Everything that the package exports, and that its testing part does, is told of."""
    exported = {*cacheside.__all__, *testing.__all__}
    assert {name for name in exported if not re.search(rf"\b{name}\b", README)} == set()


def test_options_of_the_demo() -> None:
    """The options that the README tries on the demo are those it has."""
    told = set(re.findall(r"`(--[a-z]+)", under("Two commands")))
    helped = subprocess.run(
        [sys.executable, "-m", "cacheside", "demo", "--help"], check=True, capture_output=True, text=True
    ).stdout
    assert told | {"--help"} == set(re.findall(r"--[a-z]+", helped))


def test_options_of_the_relay() -> None:
    """The section on the relay names all of its options."""
    told = set(re.findall(r"(--[a-z]+)", under("The relay")))
    helped = subprocess.run(
        [sys.executable, "-m", "cacheside", "relay", "--help"], check=True, capture_output=True, text=True
    ).stdout
    assert told | {"--help"} == set(re.findall(r"--[a-z]+", helped))


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_links(page: str) -> None:
    """Relative links lead to files that are there, and links within the page to its headings."""
    text = (ROOT / page).read_text(encoding="utf-8")
    slugs = {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in re.findall(r"^#+ (.*)", text, re.M)}
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    assert links or page != "README.md"
    for link in links:
        path, _, anchor = link.partition("#")
        assert path or anchor in slugs, link
        assert not path or (ROOT / path).exists(), link


def test_changelog() -> None:
    """The version of the package is the first in the changelog."""
    first = re.search(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert first is not None
    assert first[1] == cacheside.__version__
