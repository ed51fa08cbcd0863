"""Snapshots: what a memory cache leaves for the next process, and above all what it must not leave."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from cacheside import Cache, CacheWarning, ConfigurationError
from cacheside.backends import snapfile
from cacheside.backends.base import Answer, Hit, Leased, Stale
from cacheside.backends.memory import MemoryBackend
from cacheside.entries import Table
from cacheside.testing import FakeClock

POLICIES = ("s3fifo", "sieve", "lru", "lfu", "fifo")


@dataclass
class Row:
    """A value of a user's."""

    number: int
    price: Decimal
    tags: tuple[str, ...]


@pytest.fixture(autouse=True)
def no_warnings() -> Iterator[None]:
    """A snapshot that is as it should be says nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", CacheWarning)
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of a snapshot, in a directory of its own."""
    return tmp_path / "snap"


def ask(backend: MemoryBackend, key: str) -> Answer:
    """What is there; a lease is given back."""
    answer = backend.lookup(key, 60)
    if isinstance(answer, Leased):
        backend.release(key, answer.token)
    return answer


def fill(backend: MemoryBackend, key: str, stored: Any, ttl: float | None = 60) -> None:
    answer = backend.lookup(key, 60)
    assert isinstance(answer, Leased)
    assert backend.fill(key, answer.token, stored, ttl)


def value(backend: MemoryBackend, key: str) -> Any:
    """The value under `key`; LookupError if there is none."""
    answer = ask(backend, key)
    if not isinstance(answer, Hit):
        raise LookupError(key)
    return answer.stored


def keys(backend: MemoryBackend) -> list[str]:
    with backend._lock:
        return sorted(backend._entries)


def saved(path: Path, **entries: Any) -> None:
    """A snapshot of these."""
    backend = MemoryBackend(snapshot=path)
    for key, stored in entries.items():
        fill(backend, key, stored)
    backend.close()
    assert path.exists()


def run(code: str, *args: object) -> str:
    """What a process of its own prints; killed by itself is no failure."""
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], capture_output=True, text=True, timeout=60)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    assert not done.stderr
    return done.stdout.strip()


# --- what comes back ---


def test_functions_find_what_was_saved(path: Path) -> None:
    """Values come back as they were, of the same types, to functions of a cache that never loaded them."""
    loads: list[Any] = []
    made: dict[str, Any] = {
        "row": Row(1, Decimal("1.50"), ("a", "b")),
        "none": None,
        "mixed": [1, {"deep": {3}}, datetime(2024, 2, 29, tzinfo=UTC), b"\x00", "\ud800"],
    }

    def functions(cache: Cache) -> list[Callable[[str], Any]]:
        def load(name: str) -> Any:
            loads.append(name)
            return made[name]

        return [cache.cached("plain:{name}")(load), cache.cached("versioned:{name}", version=2)(load)]

    url = f"memory://?snapshot={path}"
    with Cache(url) as first:
        for read in functions(first):
            assert [read(name) for name in made] == list(made.values())
    assert len(loads) == 2 * len(made)
    second = Cache(url)
    for read in functions(second):
        for _ in range(3):
            assert [read(name) for name in made] == list(made.values())
        assert type(read("row").price) is Decimal
        assert read("mixed") is read("mixed")
    assert len(loads) == 2 * len(made)
    other_version = second.cached("versioned:{name}", version=3)(lambda name: "new")
    assert other_version("row") == "new"


def test_rows_are_made_of_what_was_saved(path: Path) -> None:
    """A value that was thawed is found by a row as any other, and dies with it."""
    saved(path, k=[1])
    backend, table = MemoryBackend(snapshot=path), Table()
    hit = backend.lookup("k", 60)
    assert isinstance(hit, Hit)
    backend.attach(hit.seen, table, ("raw",), (str,), hit.stored)
    assert table.rows[("raw",)].value is hit.stored
    backend.invalidate(["k"])
    assert table.rows == {}


def test_several_restarts(path: Path) -> None:
    """What nobody asks for is handed on as it is, from run to run."""
    saved(path, a=Row(1, Decimal(2), ()), b=[1])
    for _ in range(3):
        backend = MemoryBackend(snapshot=path)
        assert value(backend, "b") == [1]
        backend.close()
    assert value(MemoryBackend(snapshot=path), "a") == Row(1, Decimal(2), ())


def test_making_a_cache_takes_nothing(path: Path) -> None:
    """A cache that is made, shown and closed leaves the file as it is; any use takes it."""
    saved(path, k=1)
    content = path.read_bytes()
    cache = Cache(f"memory://?snapshot={path}")
    assert "memory://" in repr(cache)
    cache.close()
    asyncio.run(cache.aclose())
    assert path.read_bytes() == content
    assert cache.stats().totals.currsize == 1
    assert not path.exists()


@pytest.mark.parametrize(
    "use",
    [
        lambda backend: backend.lookup("k", 60),
        lambda backend: backend.lookup_many(["k"], None),
        lambda backend: backend.plant(["t"]),
        lambda backend: backend.size(),
        lambda backend: backend.invalidate(["other"]),
        lambda backend: backend.guard(["other"], "x" * 16, 60),
        lambda backend: backend.mark_stale(["other"], 60),
        lambda backend: backend.unguard([("other", "x" * 16)]),
    ],
)
def test_first_use_takes_it(path: Path, use: Callable[[MemoryBackend], object]) -> None:
    """Whatever is done first, the file is gone after it, and its entries are there."""
    saved(path, k=1)
    backend = MemoryBackend(snapshot=path)
    use(backend)
    assert not path.exists()
    assert value(backend, "k") == 1


def test_first_use_can_drop_it(path: Path) -> None:
    """An invalidation that is the first use drops what was saved."""
    saved(path, k=1, other=2)
    backend = MemoryBackend(snapshot=path)
    backend.invalidate(["k"])
    assert keys(backend) == ["other"]
    saved(path, k=1)
    backend = MemoryBackend(snapshot=path)
    backend.clear(None)
    assert keys(backend) == []


def test_async_caches_save_too(path: Path) -> None:
    """`aclose`, and the end of ``async with``, save as `close` does."""

    async def main(cache: Cache) -> list[int]:
        loads: list[int] = []

        @cache.cached("k:{n}")
        async def read(n: int) -> int:
            loads.append(n)
            return n

        async with cache:
            await read(1)
        return loads

    url = f"memory://?snapshot={path}"
    assert [asyncio.run(main(Cache(url))) for _ in range(2)] == [[1], []]


def test_tags_come_back(path: Path) -> None:
    """Versions are kept, unless their tag was turned or is guarded; the oldest go where there is less room."""
    backend = MemoryBackend(snapshot=path)
    kept, _, _ = backend.plant(["kept", "turned", "guarded"])
    backend.invalidate(["turned"])
    backend.guard(["guarded"], "x" * 16, 3600)
    backend.close()
    again = MemoryBackend(snapshot=path)
    assert again.lookup_many([], None, ["kept", "turned", "guarded"])[1] == [kept, None, None]
    tags = [f"t{number}" for number in range(12_000)]
    large = MemoryBackend(3000, snapshot=path)
    versions = large.plant(tags)
    large.close()
    small = MemoryBackend(1, snapshot=path)
    assert small.lookup_many([], None, tags)[1] == [*[None] * 2000, *versions[2000:]]


def test_what_is_not_saved(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Leases, claims, guards, marked values, exceptions, and what no serializer brings back, of which the log tells."""
    backend = MemoryBackend(snapshot=path)
    cache = Cache(backend)

    @cache.cached("raises:{n}", cache_exceptions=(KeyError,))
    def raises(n: int) -> int:
        raise KeyError(n)

    with pytest.raises(KeyError):
        raises(1)
    for key in ("marked", "claimed", "guarded"):
        fill(backend, key, key)
    fill(backend, "object", object())
    fill(backend, "lambda", lambda: 1)
    backend.lookup("leased", 3600)
    backend.mark_stale(["marked"], 3600)
    assert isinstance(backend.claim("claimed", ask(backend, "claimed").seen, 3600), Leased)  # type: ignore[union-attr]
    backend.guard(["guarded"], "x" * 16, 3600)
    with caplog.at_level(logging.INFO, "cacheside"):
        backend.close()
    (record,) = caplog.records
    assert "2 of 4 values are left out" in record.getMessage()
    assert str(path) in record.getMessage()
    again = MemoryBackend(snapshot=path)
    assert keys(again) == ["claimed"]
    assert isinstance(again.claim("claimed", ask(again, "claimed").seen, 60), Leased)  # type: ignore[union-attr]
    assert all(isinstance(ask(again, key), Leased) for key in ("leased", "marked", "guarded", "object", "raises:1"))


def test_a_closed_cache_saves_again(path: Path) -> None:
    """Each close saves what is there then."""
    backend = MemoryBackend(snapshot=path)
    for key in "abc":
        fill(backend, key, key)
        backend.close()
        backend.close()
    backend.invalidate(["a"])
    backend.close()
    assert keys(MemoryBackend(snapshot=path)) == ["b", "c"]


# --- classes ---


MODULE = """
from dataclasses import dataclass
@dataclass
class Thing:
    a: int
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module with a class, imported by nobody yet."""
    (tmp_path / "things_of_a_user.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "things_of_a_user"
    sys.modules.pop("things_of_a_user", None)


def test_classes_that_are_imported_later(path: Path, module: str) -> None:
    """Values stay frozen until somebody asks: by then whoever uses their class has imported it."""
    saved(path, k=importlib.import_module(module).Thing(5), asked_too_early=importlib.import_module(module).Thing(6))
    del sys.modules[module]
    backend = MemoryBackend(snapshot=path)
    assert backend.size().entries == 2
    assert isinstance(ask(backend, "asked_too_early"), Leased)
    assert module not in sys.modules
    thing = importlib.import_module(module).Thing(5)
    assert value(backend, "k") == thing
    assert keys(backend) == ["k"]


def test_classes_that_have_changed(path: Path, module: str) -> None:
    """A value that does not fit its class any more is a miss, and dropped."""
    saved(path, k=importlib.import_module(module).Thing(5))
    importlib.import_module(module).__dict__.pop("Thing")
    backend = MemoryBackend(snapshot=path)
    assert isinstance(ask(backend, "k"), Leased)
    assert keys(backend) == []
    fill(backend, "k", "new")
    assert value(backend, "k") == "new"


def test_first_lookup_imports_nothing(path: Path) -> None:
    """All that thawing takes is imported when the cache is made: an import in a forked child could wait for ever."""
    saved(path, k=[Decimal(1), UUID(int=1), Path("x"), datetime(2024, 1, 1, tzinfo=UTC), {1: (2,)}])
    code = """
import sys, datetime
from cacheside.backends.memory import MemoryBackend
backend = MemoryBackend(snapshot=sys.argv[1])
before = set(sys.modules)
print(len(backend.lookup("k", 60).stored), sorted(set(sys.modules) - before))
"""
    assert run(code, path) == "5 []"


# --- keys ---

KEYS = """
import sys
from cacheside import Cache, ConfigurationError, InvalidKeyError
sys.path.insert(0, sys.argv[2])
import functions_of_a_user as user

cache = Cache("memory://?snapshot=" + sys.argv[1])

def make(which):
    def read(number):
        return which
    return read

def local(which):
    class Local:
        name = which
    return Local

get = cache.cached(user.get)
found = [get(1), get(user.Color.RED), get.key(1)]
order = sys.argv[3].split(",")
for read in [make(which) for which in order] + [lambda number: number]:
    try:
        found.append(cache.cached(read)(1))
    except ConfigurationError as error:
        found.append("key=" in str(error))
for which in order:
    try:
        found.append(get(local(which)))
    except InvalidKeyError as error:
        found.append("key=" in str(error))
found += [cache.cached("read:" + which + ":{number}")(make(which))(1) for which in order]
cache.close()
print(user.loads, *found)
"""


def test_keys_mean_the_same_in_the_next_process(path: Path, tmp_path: Path) -> None:
    """Functions and classes of the same name, made in another order, never get each other's values: they need a key."""
    (tmp_path / "functions_of_a_user.py").write_text(
        "import enum\nColor = enum.Enum('Color', 'RED')\nloads = []\n"
        "def get(number):\n    loads.append(number)\n    return 'got'\n"
    )
    key = "functions_of_a_user:get(1)"
    refused = " ".join(["True"] * 5)
    assert run(KEYS, path, tmp_path, "dev,prod") == f"[1, <Color.RED: 1>] got got {key} {refused} dev prod"
    assert run(KEYS, path, tmp_path, "prod,dev") == f"[] got got {key} {refused} prod dev"


# --- consumed ---

CRASH = """
import os, signal, sys
from cacheside import Cache
cache = Cache("memory://?snapshot=" + sys.argv[1])
loads = []

@cache.cached("row:{row}", ttl=3600)
def get(row):
    loads.append(row)
    return sys.argv[2]

print(get(1), get(1), loads, os.path.exists(sys.argv[1]))
"""
KILL = "sys.stdout.flush(); os.kill(os.getpid(), signal.SIGKILL)"


@pytest.mark.parametrize("drop", ["", "get.invalidate(1)", "cache.clear()"])
def test_crash_after_an_invalidation(path: Path, drop: str) -> None:
    """A run that was killed leaves nothing: the next one must not see what it had invalidated."""
    assert run(CRASH + "cache.close()", path, "old") == "old old [1] False"
    assert run(f"{CRASH}\n{drop}\n{KILL}", path, "new") == "old old [] False"
    assert os.listdir(path.parent) == []
    assert run(CRASH, path, "newest") == "newest newest [1] False"


def test_crash_after_close(path: Path) -> None:
    """An invalidation after `close` takes the file away: killed after that, nothing of it comes back."""
    after = f"""
cache.close()
assert os.path.exists(sys.argv[1])
get.invalidate(1)
{KILL}
"""
    run(CRASH + after, path, "old")
    assert os.listdir(path.parent) == []
    assert run(CRASH, path, "new") == "new new [1] False"


def test_crash_after_close_and_nothing_else(path: Path) -> None:
    """What is used on after `close`, and invalidates nothing, leaves what was saved."""
    run(f"{CRASH}\ncache.close(); get(1); get(2)\n{KILL}", path, "old")
    assert run(CRASH, path, "new") == "old old [] False"


def test_two_processes(path: Path) -> None:
    """Of several that start with one path one gets what is there, and the others start empty."""
    code = """
import sys
from cacheside.backends.memory import MemoryBackend
backend = MemoryBackend(snapshot=sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
print(backend.size().entries)
"""
    for _ in range(3):
        saved(path, **{f"k{number}": number for number in range(100)})
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(5)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        assert sorted(int(process.communicate(timeout=60)[0]) for process in processes) == [0] * 4 + [100]
        assert os.listdir(path.parent) == []


def test_two_that_read_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has seen the file, and finds it taken away then, starts empty without a word."""
    saved(path, k=1)
    rename = os.rename

    def late(source: Any, target: Any) -> None:
        monkeypatch.setattr(os, "rename", rename)
        assert value(MemoryBackend(snapshot=path), "k") == 1
        rename(source, target)

    monkeypatch.setattr(os, "rename", late)
    assert keys(MemoryBackend(snapshot=path)) == []


def test_file_that_cannot_be_taken_away(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What would still be there after a crash is not used: it is made useless instead, as far as it can be."""
    saved(path, k=1)

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.warns(CacheWarning, match=f"{path} is not used: .*taken away"):
        assert keys(MemoryBackend(snapshot=path)) == []
    assert path.read_bytes() == b""
    monkeypatch.undo()
    saved(path.with_name("other"), k=1)
    for name in ("rename", "unlink", "truncate"):
        monkeypatch.setattr(os, name, refuse)
    with pytest.warns(CacheWarning, match=r"other is not used: .*read-only"):
        assert keys(MemoryBackend(snapshot=path.with_name("other"))) == []


# --- close is not the end ---


def lost_mark(backend: MemoryBackend) -> None:
    backend.unguard([("k", "never-guarded-it")])


def batch(backend: MemoryBackend) -> None:
    backend.fill_many([])
    backend.invalidate(["absent", "k"])


DROPS: list[Callable[[MemoryBackend], object]] = [
    lambda backend: backend.invalidate(["k"]),
    lambda backend: backend.invalidate(["absent"]),
    lambda backend: backend.guard(["k"], "x" * 16, 60),
    lambda backend: backend.mark_stale(["k"], 60),
    lambda backend: backend.clear(None),
    lambda backend: backend.clear("k"),
    lambda backend: backend.clear("evicted since"),
    lost_mark,
    batch,
]


@pytest.mark.parametrize("drop", DROPS)
def test_use_after_close(path: Path, drop: Callable[[MemoryBackend], object]) -> None:
    """The file stays while nothing is invalidated, and is gone when the first invalidation returns."""
    backend = MemoryBackend(snapshot=path)
    fill(backend, "k", "old")
    backend.close()
    assert value(backend, "k") == "old"
    fill(backend, "other", 1)
    backend.plant(["t"])
    assert backend.size().entries == 2
    assert path.exists()
    drop(backend)
    assert os.listdir(path.parent) == []
    backend.close()
    assert path.exists()
    drop(backend)
    assert not path.exists()


@pytest.mark.parametrize("drop", DROPS)
def test_invalidation_during_close(
    path: Path, drop: Callable[[MemoryBackend], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was dropped while the file was being written is in no file."""
    backend = MemoryBackend(snapshot=path)
    fill(backend, "k", "old")
    draft = snapfile.draft

    def slow(*args: Any) -> str:
        made = draft(*args)
        drop(backend)
        return made

    monkeypatch.setattr(snapfile, "draft", slow)
    backend.close()
    assert os.listdir(path.parent) == []
    monkeypatch.undo()
    backend.close()
    again = MemoryBackend(snapshot=path)
    answer = backend.lookup_many(["k"], None)[0][0]
    assert isinstance(ask(again, "k"), Hit) == isinstance(answer, Hit)


def test_file_that_cannot_be_removed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An invalidation that cannot take the file away empties it; if it cannot do that either, it says so."""

    def refuse(*args: object) -> None:
        raise PermissionError("read-only")

    backend = MemoryBackend(snapshot=path)
    fill(backend, "k", "old")
    backend.close()
    monkeypatch.setattr(os, "unlink", refuse)
    backend.invalidate(["k"])
    assert path.read_bytes() == b""
    monkeypatch.undo()
    fill(backend, "k", "old")
    backend.close()
    monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.setattr(os, "truncate", refuse)
    with pytest.warns(CacheWarning, match=f"{path} holds what has been invalidated"):
        backend.invalidate(["k"])
    assert isinstance(ask(backend, "k"), Leased)


def test_interrupted_opening(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C before the file is gone: it goes with the next invalidation, and nothing is locked."""
    saved(path, k="old")

    def interrupted(path: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(snapfile, "take", interrupted)
    backend = MemoryBackend(snapshot=path)
    with pytest.raises(KeyboardInterrupt):
        backend.lookup("k", 60)
    monkeypatch.undo()
    backend.invalidate(["k"])
    assert not path.exists()
    assert isinstance(ask(backend, "k"), Leased)


# --- files that are no good ---


def flip(place: int) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[place] ^= 0x10
        return bytes(changed)

    return change


def nonsense(data: bytes) -> bytes:
    """The right checksum over what nobody wrote."""
    body = snapfile.MAGIC + bytes([snapfile.FORMAT]) + (3).to_bytes(8, "big") + b"\x93\x01\x02\x03"
    return body + blake2b(body, digest_size=32).digest()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (flip(-1), "damaged"),
        (flip(-33), "damaged"),
        (flip(60), "damaged"),
        (lambda data: data[:-1], "damaged"),
        (lambda data: data[:100], "damaged"),
        (lambda data: data[:20], "damaged"),
        (lambda data: data[:5], "damaged"),
        (lambda data: b"", "damaged"),
        (lambda data: data + b"more", "damaged"),
        (nonsense, "damaged"),
        (lambda data: data[:19] + b"\x02" + data[20:], "format 2"),
    ],
)
def test_damaged(path: Path, damage: Callable[[bytes], bytes], why: str) -> None:
    """One of ours that is no good is told of, and gone: it must not be good for another version some day."""
    saved(path, a="value" * 20, b=[1, 2, 3])
    path.write_bytes(damage(path.read_bytes()))
    backend = MemoryBackend(snapshot=path)
    with pytest.warns(CacheWarning, match=f"{path} is not used: .*{why}"):
        assert keys(backend) == []
    assert os.listdir(path.parent) == []
    fill(backend, "a", "new")
    backend.close()
    assert value(MemoryBackend(snapshot=path), "a") == "new"


@pytest.mark.parametrize(
    ("first", "entry"),
    [
        (["x", {}], None),
        ([float("nan"), {}], None),
        ([10**400, {}], None),
        ([1.0, [1]], None),
        ([1.0, {"%tag:t": 5}], None),
        ([1.0, {5: b"version"}], None),
        ([1.0, {}, 1], None),
        (7, None),
        ([1.0, {}], ["k", "x", 0, b"a"]),
        ([1.0, {}], ["k", float("inf"), 0, b"a"]),
        ([1.0, {}], [5, 10.0, 0, b"a"]),
        ([1.0, {}], ["k", 10.0, 0, 7]),
        ([1.0, {}], ["k", 10.0, "a", b"a"]),
        ([1.0, {}], ["k", 10.0]),
        ([1.0, {}], ["good", 10.0, 0, b"a"]),
        ([1.0, {}], "good"),
    ],
)
def test_what_nobody_writes(path: Path, first: Any, entry: Any) -> None:
    """A file that is whole, and holds something of a wrong type, is told of and taken up in no part."""
    body = snapfile.MAGIC + bytes([snapfile.FORMAT])
    for frame in [first, ["good", None, 0, b"a"], *([] if entry is None else [entry])]:
        data = snapfile._frames.dumps(frame)
        body += len(data).to_bytes(8, "big") + data
    path.write_bytes(body + blake2b(body, digest_size=32).digest())
    backend = MemoryBackend(snapshot=path)
    with pytest.warns(CacheWarning, match=f"{path} is not used: it is damaged"):
        assert keys(backend) == []
    assert (os.listdir(path.parent), backend._tags) == ([], {})


def test_foreign_file(path: Path) -> None:
    """A file that is none of ours is told of and left alone, at the start and at the end."""
    path.write_text("my only copy")
    backend = MemoryBackend(snapshot=path)
    with pytest.warns(CacheWarning, match=f"{path} is not used: .*no snapshot"):
        assert keys(backend) == []
    fill(backend, "k", 1)
    with pytest.warns(CacheWarning, match=f"{path} could not be saved: .*no snapshot"):
        backend.close()
    backend.invalidate(["k"])
    assert path.read_text() == "my only copy"
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("make", [os.mkdir, getattr(os, "mkfifo", os.mkdir)])
def test_what_is_no_file(path: Path, make: Callable[[Path], None]) -> None:
    """A directory, or a pipe whose other end nobody has, neither fails nor holds up anything."""
    make(path)
    backend = MemoryBackend(snapshot=path)
    with pytest.warns(CacheWarning, match="no file"):
        assert keys(backend) == []
    with pytest.warns(CacheWarning, match="no file"):
        backend.close()
    assert path.exists()


def test_missing_directory(tmp_path: Path) -> None:
    """A missing file is nothing to tell; that it cannot be saved is, and is no error."""
    path = tmp_path / "none" / "snap"
    backend = MemoryBackend(snapshot=path)
    fill(backend, "k", 1)
    with pytest.warns(CacheWarning, match=f"{path} could not be saved"):
        backend.close()
    assert value(backend, "k") == 1
    path.parent.mkdir()
    backend.close()
    assert value(MemoryBackend(snapshot=path), "k") == 1


def test_warnings_as_errors(path: Path) -> None:
    """Who has warnings raised gets them, once, and a cache that works."""
    path.write_text("foreign")
    backend = MemoryBackend(snapshot=path)
    with pytest.raises(CacheWarning):
        backend.lookup("k", 60)
    fill(backend, "k", 1)
    assert value(backend, "k") == 1


# --- how it is written ---


def test_whole_or_not_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that fails leaves what was saved before, and nothing else."""
    backend = MemoryBackend(snapshot=path)
    fill(backend, "k", 1)
    backend.close()
    before = path.read_bytes()
    fill(backend, "l", 2)

    def full(descriptor: int) -> None:
        raise OSError("no space left")

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, lambda *args: full(0))
        with pytest.warns(CacheWarning, match="no space left"):
            backend.close()
        monkeypatch.undo()
        assert os.listdir(path.parent) == [path.name]
        assert path.read_bytes() == before


def test_order_of_writing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is on the disk before it has its name, and nobody else may read it; its names are on the disk too."""
    calls: list[str] = []
    fsync = os.fsync

    def synced(descriptor: int) -> None:
        calls.append("directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        fsync(descriptor)

    def noted(name: str, real: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any) -> None:
            if ".part" not in str(args[0]) or name != "unlink" or os.path.exists(args[0]):  # not for what is gone
                calls.append(name)
            real(*args)

        return call

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", noted("replace", os.replace))
    monkeypatch.setattr(os, "rename", noted("rename", os.rename))
    monkeypatch.setattr(os, "unlink", noted("unlink", os.unlink))
    backend = MemoryBackend(snapshot=path)
    fill(backend, "k", 1)
    old = os.umask(0)
    try:
        backend.close()
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o600
    assert calls[:3] == ["file", "replace", "directory"]
    calls.clear()
    MemoryBackend(snapshot=path).size()
    assert calls == ["rename", "unlink", "directory"]
    backend.close()
    calls.clear()
    backend.invalidate(["k"])
    assert calls == ["unlink", "directory"]


def test_strays_are_swept(path: Path) -> None:
    """What was being written when its process was killed is removed by a later save, but not while it may be alive."""
    old, young, foreign = (path.with_name(name) for name in (".snap.1.part", ".snap.2.part", ".other.1.part"))
    for file in (old, young, foreign):
        file.write_bytes(b"x")
    for file in (old, foreign):
        os.utime(file, (time.time() - 7200,) * 2)
    saved(path, k=1)
    assert sorted(os.listdir(path.parent)) == [".other.1.part", ".snap.2.part", "snap"]


def test_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path is that of the time when the cache was made."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    backend = MemoryBackend(snapshot="snap")
    monkeypatch.chdir(tmp_path / "elsewhere")
    fill(backend, "k", 1)
    backend.close()
    assert (tmp_path / "snap").exists()


# --- time ---


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> FakeClock:
    """The wall clock."""
    clock = FakeClock()
    monkeypatch.setattr(time, "time", clock)
    return clock


def test_expiry_goes_on(path: Path, wall: FakeClock) -> None:
    """What was left of a ttl goes on running while no process does, and in the next one."""
    clock = FakeClock()
    backend = MemoryBackend(clock=clock, snapshot=path)
    for ttl in (10, 30, 60, None):
        fill(backend, str(ttl), ttl, ttl)
    clock.advance(9)
    backend.close()
    wall.advance(10)
    clock = FakeClock(5)
    backend = MemoryBackend(clock=clock, snapshot=path)
    assert keys(backend) == ["30", "60", "None"]
    clock.advance(10.9)
    assert value(backend, "30") == 30
    clock.advance(0.2)
    assert isinstance(ask(backend, "30"), Leased)
    backend.close()
    wall.advance(29.8)
    clock = FakeClock()
    backend = MemoryBackend(clock=clock, snapshot=path)
    assert value(backend, "60") == 60
    clock.advance(0.2)
    assert isinstance(ask(backend, "60"), Leased)
    clock.advance(1e9)
    assert value(backend, "None") is None


def test_clock_that_went_back(path: Path, wall: FakeClock) -> None:
    """A wall clock that shows less than when it was saved lengthens nothing."""
    clock = FakeClock()
    backend = MemoryBackend(clock=clock, snapshot=path)
    fill(backend, "k", 1, 10)
    backend.close()
    wall._now -= 1000
    backend = MemoryBackend(clock=clock, snapshot=path)
    assert keys(backend) == ["k"]
    clock.advance(9.9)
    assert value(backend, "k") == 1
    clock.advance(0.2)
    assert isinstance(ask(backend, "k"), Leased)


def test_expired_is_not_saved(path: Path) -> None:
    """What has expired is left out."""
    clock = FakeClock()
    backend = MemoryBackend(clock=clock, snapshot=path)
    fill(backend, "k", "x" * 10_000, 10)
    clock.advance(11)
    backend.close()
    assert path.stat().st_size < 1000


# --- bounds ---


@pytest.mark.parametrize("policy", POLICIES)
def test_less_room(path: Path, policy: str) -> None:
    """A cache with less room takes as much as it has, of the hottest."""
    backend = MemoryBackend(100, policy, snapshot=path)
    for number in range(100):
        fill(backend, f"{number:02}", number)
    for number in range(0, 100, 10):
        for _ in range(3):
            value(backend, f"{number:02}")
    backend.close()
    small = MemoryBackend(10, policy, snapshot=path)
    assert keys(small) == [f"{number:02}" for number in range(0, 100, 10)]
    assert small.size().entries == 10
    fill(small, "one more", 1)
    assert small.size().entries == 10
    small.close()
    assert MemoryBackend(5, policy, snapshot=path).size().entries == 5


def test_hits_by_rows_count(path: Path) -> None:
    """What functions hit without asking the cache is hot as well."""
    with Cache(MemoryBackend(10, snapshot=path)) as cache:
        read = cache.cached("k:{n}")(lambda n: n)
        for n in range(10):
            read(n)
        for _ in range(5):
            read(3)
    assert keys(MemoryBackend(1, snapshot=path)) == ["k:3"]


def test_bytes_are_bounded(path: Path) -> None:
    """`max_bytes` holds for what is frozen and for what is thawed, which is measured anew; a mark stays one."""
    sizes: list[object] = []

    def size(stored: object) -> int:
        sizes.append(stored)
        return 600

    big = MemoryBackend(snapshot=path)
    for number in range(10):
        fill(big, str(number), number)
    big.close()
    small = MemoryBackend(max_bytes=2500, size=size, snapshot=path)
    assert keys(small) == ["4", "5", "6", "7", "8", "9"]
    assert sizes == []
    small.mark_stale(["9"], 60)
    stale = ask(small, "9")
    assert isinstance(stale, Stale)
    assert stale.stored == 9
    for number in range(4, 9):
        ask(small, str(number))
    entries = list(small._entries._store)
    assert sum(entry.weight for entry in entries) <= 2500
    assert {entry.weight for entry in entries if entry.stored == 9} <= {1001}
    assert not isinstance(ask(small, "9"), Hit)


def test_value_that_is_too_large_when_thawed(path: Path) -> None:
    """A value that could not have been filled here is a miss."""
    saved(path, k="x")
    small = MemoryBackend(max_bytes=2500, size=lambda stored: 5000, snapshot=path)
    assert isinstance(ask(small, "k"), Leased)
    assert keys(small) == []


# --- fork ---


def in_child(do: Callable[[], object]) -> None:
    """Do it in a forked child, in which it may not fail."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            do()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_children_do_not_save(path: Path) -> None:
    """Only the process that made the cache saves: a child neither overwrites its file nor makes one."""
    backend = MemoryBackend(snapshot=path)
    fill(backend, "k", "parent's")

    def do() -> None:
        fill(backend, "child", 1)
        backend.close()
        assert not path.exists()

    in_child(do)
    backend.close()
    before = path.read_bytes()
    in_child(backend.close)
    assert path.read_bytes() == before
    assert keys(MemoryBackend(snapshot=path)) == ["k"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_child_that_comes_first(path: Path) -> None:
    """A child whose parent has not used the cache takes the file: after it nobody sees what it has invalidated."""
    saved(path, k="old")
    backend = MemoryBackend(snapshot=path)

    def do() -> None:
        assert value(backend, "k") == "old"
        backend.invalidate(["k"])
        backend.close()
        assert not path.exists()

    in_child(do)
    assert keys(backend) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_child_after_close(path: Path) -> None:
    """A child of a closed cache that invalidates takes the file away as its parent would."""
    backend = MemoryBackend(snapshot=path)
    fill(backend, "k", "old")
    backend.close()
    in_child(lambda: backend.invalidate(["k"]))
    assert not path.exists()


# --- configuration ---


def test_url(path: Path) -> None:
    """The path stands in the query, and may be written with escapes."""
    strange = path.with_name("a b&c%d")
    cache = Cache(f"memory://?max_entries=5&snapshot={str(strange).replace('%', '%25').replace('&', '%26')}")
    cache.cached("k:{n}")(lambda n: n)(1)
    cache.close()
    assert strange.exists()


@pytest.mark.parametrize("wrong", ["", b"bytes", 5, "nul\0"])
def test_no_path(wrong: Any) -> None:
    """What can be no path is refused."""
    with pytest.raises(ConfigurationError, match="snapshot"):
        MemoryBackend(snapshot=wrong)
    if wrong == "":
        with pytest.raises(ConfigurationError, match="snapshot"):
            Cache("memory://?snapshot=")
