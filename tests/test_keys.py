"""Template keys: every call gets its own, and calls that mean the same share one."""

from __future__ import annotations

import inspect
import re
import uuid
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from key_values import Session, Tenant

from cacheside.binder import Binder
from cacheside.canonical import default_key
from cacheside.errors import ConfigurationError, InvalidKeyError
from cacheside.keys import Template, check_key, quote, split_version, with_version

# ---- binding --------------------------------------------------------------------------------------------------------


def plain(a, b=2, *, c=3): ...
def positional(a, b=2, /, c=3): ...
def required(a, b, *, c): ...
def variadic(a, /, b=2, *rest, c=3, **more): ...
def nothing(): ...


@pytest.mark.parametrize(
    ("fn", "calls", "expected"),
    [
        (plain, [((1,), {}), ((), {"a": 1}), ((1, 2), {}), ((1,), {"c": 3, "b": 2})], {"a": 1, "b": 2, "c": 3}),
        (positional, [((1,), {}), ((1, 2, 3), {}), ((1,), {"c": 3})], {"a": 1, "b": 2, "c": 3}),
        (required, [((1, 2), {"c": 3}), ((), {"c": 3, "b": 2, "a": 1})], {"a": 1, "b": 2, "c": 3}),
        (variadic, [((1,), {}), ((1, 2), {}), ((1,), {"b": 2})], {"a": 1, "b": 2, "rest": (), "c": 3, "more": {}}),
        (variadic, [((1, 2, 4, 5), {"a": 6})], {"a": 1, "b": 2, "rest": (4, 5), "c": 3, "more": {"a": 6}}),
        (nothing, [((), {})], {}),
    ],
)
def test_equal_calls_bind_equally(fn: Callable[..., Any], calls: list[Any], expected: dict[str, object]) -> None:
    """Keywords, positions and defaults give the same values, in the order of the signature."""
    binder = Binder(inspect.signature(fn))
    for args, kwargs in calls:
        assert list(binder.bind(args, kwargs).items()) == list(expected.items())


@pytest.mark.parametrize("fn", [plain, positional, required, variadic, nothing])
@given(
    args=st.lists(st.integers(), max_size=4).map(tuple),
    kwargs=st.dictionaries(st.sampled_from("abcz"), st.integers(), max_size=4),
)
def test_binding_is_what_inspect_says(fn: Callable[..., Any], args: tuple[int, ...], kwargs: dict[str, int]) -> None:
    """The quick ways of binding accept, refuse and give exactly what `inspect.Signature.bind` does."""
    signature = inspect.signature(fn)
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        with pytest.raises(TypeError, match=re.escape(str(error))):
            Binder(signature).bind(args, kwargs)
    else:
        bound.apply_defaults()
        assert Binder(signature).bind(args, kwargs) == dict(bound.arguments)


def test_bound_values_are_the_callers_own() -> None:
    """What a caller does to the returned dict does not show in the next call."""
    binder = Binder(inspect.signature(plain))
    binder.bind((1,), {})["b"] = "changed"
    assert binder.bind((1,), {}) == {"a": 1, "b": 2, "c": 3}


# ---- templates ------------------------------------------------------------------------------------------------------


def render(text: str, **values: object) -> str:
    return Template(text, list(values), "app.f").render(values)


@pytest.mark.parametrize(
    ("text", "values", "expected"),
    [
        ("user:{user_id}", {"user_id": 42}, "user:42"),
        ("user:{user_id}", {"user_id": "42"}, "user:42"),
        ("user:{user_id}", {"user_id": -42}, "user:-42"),
        ("user:{user_id}", {"user_id": 1 << 100}, f"user:{1 << 100}"),
        ("user:{name}", {"name": ""}, "user:"),
        ("user:{name}", {"name": "a:b %"}, "user:a%3Ab%20%25"),
        ("user:{name}", {"name": "é\U0001f600"}, "user:%C3%A9%F0%9F%98%80"),
        ("user:{name}", {"name": "\ud800"}, "user:%ED%A0%80"),
        ("user:{name}", {"name": "a\n\0"}, "user:a%0A%00"),
        ("u:{user.number}", {"user": Tenant(7)}, "u:7"),
        ("p:{page[size]}:{page[0]}", {"page": {"size": 5, 0: "zero"}}, "p:5:zero"),
        ("p:{page[a][1].real}", {"page": {"a": [1, 2]}}, "p:2"),
        ("d:{day:%Y-%m}", {"day": date(2024, 5, 6)}, "d:2024-05"),
        ("d:{n:05.1f}", {"n": 2.5}, "d:002.5"),
        ("d:{x!r}", {"x": "a"}, "d:%27a%27"),
        ("d:{x!a:>6}", {"x": "é"}, "d:%27%5Cxe9%27"),
        ("d:{x!s:.2}", {"x": "abc"}, "d:ab"),
        ("{{{x}}}", {"x": 1}, "{1}"),
        ("all-users", {}, "all-users"),
        ("a:{u}", {"u": uuid.UUID(int=1)}, "a:00000000-0000-0000-0000-000000000001"),
        ("x{a}y-z{b}w", {"a": "y-z", "b": "-"}, "xy%2Dzy-z%2Dw"),
        ("{a}-{b}.c_d", {"a": -1, "b": "-._"}, "%2D1-%2D._.c_d"),
    ],
)
def test_spelling(text: str, values: dict[str, object], expected: str) -> None:
    """Fields are str.format fields, escaped outside the safe set of their template."""
    assert render(text, **values) == expected


def test_fields_are_the_names_used() -> None:
    """A template knows which parameters it depends on."""
    assert Template("{a.b}:{a[c]}:{d!r}", ["a", "d", "e"], "f").fields == {"a", "d"}
    assert Template("static", ["a"], "f").fields == frozenset()
    assert Template("u:{result.id}", ["a", "result"], "f").fields == {"result"}


@pytest.mark.parametrize(("value", "spelled"), [(None, "%none"), (True, "%true"), (False, "%false")])
def test_none_true_false_are_no_strings(value: object, spelled: str) -> None:
    """None, True and False are never what a string, or a number, is spelled as."""
    assert render("k:{v}", v=value) == f"k:{spelled}"
    strings = [str(value), str(value).lower(), spelled, "", "0", "1"]
    assert all(render("k:{v}", v=other) != f"k:{spelled}" for other in [*strings, 0, 1, b""])
    assert quote(value) == spelled
    assert render("k:{v!s}", v=value) == f"k:{value}"


@pytest.mark.parametrize("text", ["{a}:{b}", "{a}-{b}", "{a}.{b}", "{a}_{b}", "{a}::{b}", "{a}x-y{b}", "{a}/{b}"])
@pytest.mark.parametrize("separator", [":", "-", ".", "_", "::", "x-y", "/", "%", "%3A"])
def test_separators_inside_values_do_not_move_the_border(text: str, separator: str) -> None:
    """('a:b', 'c') and ('a', 'b:c') have different keys, whatever stands between the fields."""
    assert render(text, a=f"a{separator}b", b="c") != render(text, a="a", b=f"b{separator}c")
    assert render(text, a=f"a{separator}", b="c") != render(text, a="a", b=f"{separator}c")


nasty = st.text(st.sampled_from("a1:-._/%2D{}é\ud800"), max_size=6)
literals = st.sampled_from([":", "-", ".", "_", "/", "a-b", "1.", "_1", "{{", ":-", "-:", "--"])
field_values = st.one_of(nasty, st.text(), st.integers(), st.none(), st.booleans(), st.binary(max_size=3))


def field_text(value: object) -> object:
    return value if value is None or value is True or value is False else str(value)


@given(data=st.data(), between=st.lists(literals, max_size=3))
def test_templates_are_injective_over_field_text(data: st.DataObject, between: list[str]) -> None:
    """Two calls share a key just if every field has the same text."""
    names = [f"p{i}" for i in range(len(between) + 1)]
    head, tail = data.draw(st.sampled_from(["", "k:", "-"])), data.draw(st.sampled_from(["x", "-", ":1"]))
    fields = [f"{{{name}}}" for name in names]
    text = head + fields[0] + "".join(a + b for a, b in zip(between, fields[1:], strict=True)) + tail
    template = Template(text, names, "f")
    one, two = (data.draw(st.tuples(*[field_values for _ in names])) for _ in range(2))
    same_text = [field_text(value) for value in one] == [field_text(value) for value in two]
    keys = [template.render(dict(zip(names, values, strict=True))) for values in (one, two)]
    assert (keys[0] == keys[1]) == same_text
    assert [check_key(key) for key in keys] == keys


@given(one=nasty, two=nasty, cut=st.integers(0, 6), separator=st.sampled_from(":-._"))
def test_moving_text_between_fields_changes_the_key(one: str, two: str, cut: int, separator: str) -> None:
    """Text that an attacker shifts from one field to the next never gives the same key."""
    whole = one + separator + two
    left, right = whole[:cut], whole[cut + 1 :]
    text = "{a}" + separator + "{b}"
    assert (render(text, a=left, b=right) == render(text, a=one, b=two)) == ((left, right) == (one, two))


@given(st.one_of(st.text(), nasty))
def test_an_escaped_text_can_be_read_back(text: str) -> None:
    """Nothing is lost by escaping: the text comes back from the key."""
    raw = re.sub(
        rb"%([0-9A-F]{2})", lambda match: bytes([int(match[1], 16)]), quote(text).encode("ascii"), flags=re.DOTALL
    )
    assert raw.decode("utf-8", "surrogatepass") == text
    assert re.fullmatch("[A-Za-z0-9_.%-]*", quote(text))


@pytest.mark.parametrize(
    ("text", "cure"),
    [
        ("", "write something like"),
        ("user:{uid}", "unknown name 'uid'.*the names are: user_id, name"),
        ("user:{user .id}", "unknown name 'user '.*user_id, name"),
        ("user:{}", "has no name; the names are: user_id, name"),
        ("user:{0}", "has no name; the names are: user_id, name"),
        ("user:{.id}", "has no name"),
        ("user:{user_id:{name}}", "field inside its format; write the format out"),
        ("user:{user_id", "written twice"),
        ("user:user_id}", "written twice"),
        ("user:{user_id!x}", "use !s, !r or !a"),
        ("user:{user_id!rr}", "brace that is meant literally"),
        ("user:{user_id[}", "key template"),
        ("user:{user_id..x}", "write it like {user.id}"),
        ("user:{user_id.x y}", "write it like {user.id}"),
        ("user:{user_id[a]b}", "write it like {user.id}"),
        ("user {user_id}", "' ' cannot be in a key; literals are visible ASCII"),
        ("usér:{user_id}", "'é' cannot be in a key"),
        ("user:{user_id}\n", "cannot be in a key"),
        ("user\x7f", "cannot be in a key"),
        ("100%:{user_id}", "'%' cannot be in a key"),
        ("{user_id}{name}", "{user_id} and {name} run into each other.*put ':' between"),
        ("{user_id}x{name}", "put ':' between"),
        ("{user_id}12{name}", "put ':' between"),
        ("{user_id}:{name}{name}", "put ':' between"),
    ],
)
def test_bad_templates_are_refused_with_the_cure(text: str, cure: str) -> None:
    """What cannot work, or could mix calls up, fails at construction and says whose template it is."""
    with pytest.raises(ConfigurationError, match=cure) as caught:
        Template(text, ["user_id", "name"], "app.get_user")
    assert str(caught.value).startswith(f"app.get_user: key template {text!r}")


class ReprOnly:
    def __str__(self) -> str:
        return "fine"


class Wrapping:
    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __str__(self) -> str:
        return f"Wrapping({self.inner})"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("k:{v}", Session()),
        ("k:{v!r}", Session()),
        ("k:{v!s:.9}", Session()),
        ("k:{v!r}", ReprOnly()),
        ("k:{v}", plain),
        ("k:{v}", lambda: None),
        ("k:{v}", "".join),
        ("k:{v}", [Session()]),
        ("k:{v}", Wrapping(Session())),
        ("k:{v}", plain.__code__),
        ("k:{v}", Tenant(1).__cache_key__),
        ("k:{v.inner}", Wrapping(Session())),
    ],
)
def test_an_address_is_no_key(text: str, value: object) -> None:
    """A value whose text is an address raises, and the message names the field, the type and the cure."""
    with pytest.raises(InvalidKeyError, match=r"Name an attribute, like \{v\.id\} instead of \{v\}, or give key=") as e:
        render(text, v=value)
    field = text.removeprefix("k:")
    kind = type(value.inner if field == "{v.inner}" else value)  # type: ignore[attr-defined]  # it is a Wrapping then
    assert f"{field} is a {kind.__module__}.{kind.__qualname__}" in str(e.value)


def test_text_that_looks_like_an_address_is_text() -> None:
    """A user may be called '<x at 0x7f>': strings and bytes are what they are."""
    assert render("k:{v}", v="<x at 0x7f>") == "k:%3Cx%20at%200x7f%3E"
    assert render("k:{v!s}", v=b"<x at 0x7f>").startswith("k:b%27")
    assert render("k:{v}", v=ReprOnly()) == "k:fine"


class Failing:
    def __format__(self, spec: str) -> str:
        raise ValueError("no such format")


@pytest.mark.parametrize(
    ("text", "value", "cause"),
    [
        ("k:{v.id}", None, AttributeError),
        ("k:{v.id}", 5, AttributeError),
        ("k:{v[size]}", {}, KeyError),
        ("k:{v[3]}", [1], IndexError),
        ("k:{v[size]}", 5, TypeError),
        ("k:{v:d}", "text", ValueError),
        ("k:{v:>9}", None, TypeError),
        ("k:{v}", Failing(), ValueError),
        pytest.param("k:{v}", 10**5000, ValueError, id="huge"),
    ],
)
def test_a_field_that_cannot_be_rendered(text: str, value: object, cause: type[Exception]) -> None:
    """The error names template and field, says what to do, and keeps its cause."""
    with pytest.raises(InvalidKeyError, match=r"cannot be rendered.*give key= a callable") as caught:
        render(text, v=value)
    assert isinstance(caught.value.__cause__, cause)
    assert f"app.f: key template {text!r}: {text.removeprefix('k:')}" in str(caught.value)


def test_an_empty_key_is_refused() -> None:
    """A template of one field and nothing else has no key for the empty string."""
    assert render("{v}", v="x") == "x"
    with pytest.raises(InvalidKeyError, match="put a literal before the field"):
        render("{v}", v="")


def test_quote_refuses_an_address() -> None:
    """`quote` is as strict as a field, and says what to quote instead."""
    with pytest.raises(InvalidKeyError, match=r"quote\(\) got a .*Session.*quote one of its attributes"):
        quote(Session())


# ---- which texts are keys -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *[
            "user:a b",
            "",
            "é",
            "a%2",
            "a%zz",
            "a%2f",
            "%",
            "a%",
            "a%%41",
            "a\n",
            "a\x7f",
            "a%None",
            "a%nope",
            "a%v",
            "%v1",
        ],
        *["a%v1%v2", "a%v1:2", "a%v%none", "a%v%2", "a%v1\n", b"user:1", None, 7],
    ],
)
def test_what_is_no_key(text: object) -> None:
    """A text that rendering can never produce raises, and the message names `.key()` as the cure."""
    with pytest.raises(InvalidKeyError, match=r"\.key\(\)"):
        check_key(text)


@pytest.mark.parametrize(
    "text", ["user:1", "a%20b", "k:%none", "%true:%false", "a%v1", "a%20%v1.%2B", "f('x',(1))", "{1}"]
)
def test_what_is_a_key(text: str) -> None:
    """A text that rendering can produce comes back as it is."""
    assert check_key(text) is text


@given(version=st.text(), value=st.one_of(st.text(), nasty, st.none()))
def test_versions_come_off_again(version: str, value: object) -> None:
    """A version is appended and taken off without doubt, and a key with one is a key."""
    for key in (render("k:{v}", v=value), default_key("app:f", ["p"], [value], False)):
        versioned = with_version(key, version)
        assert split_version(versioned) == (key, quote(version))
        assert split_version(key) == (key, "")
        assert check_key(versioned) == versioned
        assert (versioned == key) == (version == "")
