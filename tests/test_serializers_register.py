"""Serializers: the user's own types and formats, how one is chosen, and what a fresh process sees."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import uuid
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pytest
from serializer_values import (
    BERLIN,
    HERE,
    SECRET,
    STRICT,
    Frozen,
    Money,
    Ordered,
    OtherMoney,
    Plain,
    Unruly,
    back,
)

from cacheside import serializers
from cacheside.errors import ConfigurationError, DecodeError, NotCacheableError
from cacheside.serializers import classes


@pytest.fixture(params=STRICT, ids=lambda strict: strict.name)
def strict(request: pytest.FixtureRequest) -> serializers.Serializer:
    """Each of the strict serializers."""
    return request.param  # type: ignore[no-any-return]  # pytest's is Any


@pytest.fixture
def registrations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registrations of a test end with it."""
    monkeypatch.setattr(classes, "_by_class", dict(classes._by_class))
    monkeypatch.setattr(classes, "_by_name", dict(classes._by_name))


@pytest.mark.usefixtures("registrations")
def test_register_type_is_exact(strict: serializers.Serializer) -> None:
    """A registered class comes back; it overrides what is known of a dataclass; a subclass is not covered."""
    assert back(strict, Money(7)) == Money(7)
    assert type(back(strict, Ordered(a=1))) is Ordered
    serializers.register_type(Frozen, lambda value: value.x, lambda x: Frozen(x, date(2000, 1, 1)))
    assert back(strict, Frozen(1)) == Frozen(1, date(2000, 1, 1))
    with pytest.raises(NotCacheableError):
        strict.dumps(OtherMoney(1))


@pytest.mark.usefixtures("registrations")
def test_register_type_refuses(strict: serializers.Serializer) -> None:
    """One class, one name; and no class that every format holds as it is."""
    with pytest.raises(ConfigurationError, match="registered already"):
        serializers.register_type(Money, str, Money, name="other")
    with pytest.raises(ConfigurationError, match="name="):
        serializers.register_type(Unruly, str, lambda _: Unruly(), name="ordered")
    for plain in (int, dict, type(None), 5):
        with pytest.raises(ConfigurationError):
            serializers.register_type(plain, str, int)  # type: ignore[arg-type]  # 5 is no class
    with pytest.raises(NotCacheableError):
        strict.dumps(Unruly())
    serializers.register_type(Unruly, lambda _: None, lambda _: Unruly(), name="other")
    assert type(back(strict, Unruly())) is Unruly


@pytest.mark.usefixtures("registrations")
def test_failing_functions_of_a_registered_type(strict: serializers.Serializer) -> None:
    """Whatever dump and load raise or return wrongly, only our two errors come out."""

    def load(stored: int) -> Any:
        return Money(stored) if stored else 1 / 0

    serializers.register_type(Unruly, lambda value: value.number, load)
    with pytest.raises(NotCacheableError, match="AttributeError"):
        strict.dumps(Unruly())
    value = Unruly()
    for value.number in (0, 1):
        data = strict.dumps(value)
        with pytest.raises(DecodeError):
            strict.loads(data)
    value.number = object()
    with pytest.raises(NotCacheableError):
        strict.dumps(value)


@pytest.mark.usefixtures("registrations")
def test_type_unknown_here_is_a_miss(strict: serializers.Serializer) -> None:
    """A value of a type that this process has not registered is a miss."""
    serializers.register_type(Unruly, lambda value: 1, lambda stored: Unruly(), name="unruly")
    data = strict.dumps(Unruly())
    classes._by_name.clear()
    with pytest.raises(DecodeError, match="register_type"):
        strict.loads(data)


class Upper:
    """A serializer of a user's."""

    name = "upper"

    def __init__(self, secret: serializers.Secret | None = None) -> None:
        self.secret = secret

    def dumps(self, value: object) -> bytes:
        return str(value).upper().encode()

    def loads(self, data: bytes) -> object:
        return data.decode()


def test_own_serializers(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object is taken as it is; a name may stand for a factory, an object or a path; none is overwritten."""
    monkeypatch.setattr(serializers.registry, "_items", dict(serializers.registry._items))
    own = Upper()
    assert serializers.create(own) is own
    serializers.register("factory", Upper)
    serializers.register("object", own)
    serializers.register("path", "cacheside.serializers.json:create")
    made = serializers.create("factory", SECRET)
    assert isinstance(made, Upper)
    assert made.secret == SECRET
    assert serializers.create("object") is own
    assert serializers.create("path").name == "json"
    with pytest.raises(ConfigurationError, match="secret="):
        serializers.create("object", SECRET)
    with pytest.raises(ConfigurationError, match="already"):
        serializers.register("json", own)
    serializers.register("broken", lambda secret: 5)  # type: ignore[arg-type,return-value]  # that is the mistake
    with pytest.raises(ConfigurationError, match="loads"):
        serializers.create("broken")


@pytest.mark.parametrize("wrong", [5, None, Upper, object()])
def test_what_is_no_serializer(wrong: Any) -> None:
    """Something else than a name or a serializer is refused, a class instead of an object too."""
    with pytest.raises(ConfigurationError, match="neither"):
        serializers.create(wrong)


def test_unknown_name_lists_the_known() -> None:
    """The message for a name that nobody knows shows what there is."""
    with pytest.raises(ConfigurationError, match="json, msgpack, pickle"):
        serializers.create("yaml")


def test_protocol_and_names() -> None:
    """Ours meet the public protocol and say who they are."""
    for name, secret in (("msgpack", None), ("json", None), ("pickle", SECRET)):
        made = serializers.create(name, secret)
        assert isinstance(made, serializers.Serializer)
        assert made.name == name


def run_fresh(code: str, data: bytes = b"") -> bytes:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run(
        [sys.executable, "-c", code], input=data, capture_output=True, check=True, env=environment, timeout=60
    )
    return result.stdout


def test_import_is_light() -> None:
    """Importing the package loads no format and none of the modules whose types it knows."""
    names = "msgpack pickle zoneinfo pydantic attr decimal uuid"
    loaded = run_fresh(
        f"import sys; import cacheside.serializers; print([n for n in {names!r}.split() if n in sys.modules])"
    )
    assert loaded.strip() == b"[]"


def test_read_in_another_process(strict: serializers.Serializer) -> None:
    """Types of the standard library come back in a process that has not loaded their modules."""
    value = [Decimal("1.0"), uuid.UUID(int=1), datetime(2024, 1, 1, tzinfo=BERLIN), pathlib.PurePosixPath("a")]
    code = (
        "import sys; from cacheside.serializers import create; assert 'decimal' not in sys.modules;"
        f"print(create({strict.name!r}).loads(sys.stdin.buffer.read()), end='')"
    )
    assert run_fresh(code, strict.dumps(value)).decode() == repr(value)


def test_class_of_another_process_is_a_miss(strict: serializers.Serializer) -> None:
    """A process that has not loaded the class does not load it."""
    code = (
        "import sys; from cacheside.serializers import create; from cacheside.errors import DecodeError\n"
        f"try: create({strict.name!r}).loads(sys.stdin.buffer.read())\n"
        f"except DecodeError: print({HERE!r} in sys.modules, end='')"
    )
    assert run_fresh(code, strict.dumps(Plain(1, "a"))) == b"False"
