"""Keys: how a template is rendered, and which texts can be keys at all.

A template is literals and fields in turn, ``L0 F1 L1 F2 ... Fn Ln``. Two renderings are equal only if every field has
the same text, whatever that text is:

1. *One field.* Everything outside a safe set of ASCII is spelled ``%XX``, byte by byte of its UTF-8, and ``%`` is
   never safe. So the text can be read back. None, True and False are ``%none``, ``%true``, ``%false``: no text is
   spelled so, since the escapes are in capitals.
2. *Several fields.* Let D be the characters of ``L1 ... Ln-1`` that are neither alphanumeric nor ``%``. Each of these
   literals has at least one (the template is refused otherwise), and no rendered field has any: what is in D is taken
   out of the safe set of this template. Take the fixed L0 and Ln away from two equal renderings. The k-th character
   of D in either one belongs to the same literal, at the same place in it. So every literal stands at the same place
   in both, and so does every field between them. Equal fields have equal texts, by 1.

All keys are visible ASCII. ``%v`` begins the version at the end of a key, and stands nowhere else.
"""

from __future__ import annotations

import functools
import keyword
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from operator import itemgetter
from string import Formatter
from typing import Any

from .errors import ConfigurationError, InvalidKeyError

_SAFE_PUNCTUATION = "_.-"
_STEP = r"\.([^\W\d]\w*)|\[([^\]]+)\]"
_CONVERSIONS: dict[str | None, Callable[[object], str]] = {"s": str, "r": repr, "a": ascii}
_BIG = 1 << 64  # what is larger takes the slow path: Python can refuse to write it as a decimal
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+[>,;]")
_NO_KEY = r"\A%v|[^!-~]|%(?![0-9A-F]{2}|none|true|false|v(?:[A-Za-z0-9_.-]|%[0-9A-F]{2})+\Z)"


class _Field:
    """One ``{root.attribute[item]!conversion:spec}``; `bare` without conversion and spec. `source` is for messages."""

    __slots__ = ("bare", "conversion", "root", "source", "spec", "steps")

    def __init__(
        self,
        source: str,
        root: str,
        steps: tuple[tuple[str | None, str | int], ...],
        conversion: str | None,
        spec: str,
    ) -> None:
        self.source: str = source
        self.root: str = root
        self.steps: tuple[tuple[str | None, str | int], ...] = steps
        self.conversion: str | None = conversion
        self.spec: str = spec
        self.bare: bool = not (conversion or spec)


class Template:
    """A key template, compiled once. Immutable, so safe to share between threads.

    Args:
        text: literals of visible ASCII, and `str.format` fields: ``"user:{user.id}:{day:%Y-%m}"``.
        names: what fields may begin with: the parameters of the function, and "result" where there is one.
        where: whose template it is, for messages.

    Attributes:
        text: as given.
        fields: the names that occur.

    Raises:
        ConfigurationError: the text is no template, uses a name that is not there, or could give two calls one key.
    """

    def __init__(self, text: str, names: Collection[str], where: str) -> None:
        self.text = text
        self._where = f"{where}: key template {text!r}"
        literals, fields = self._parse(names)
        between = literals[1:-1]
        for literal, left, right in zip(between, fields, fields[1:], strict=False):
            if not _punctuation(literal):
                raise self._wrong(
                    f"{left.source} and {right.source} run into each other, so that different calls can share a key: "
                    "put ':' between"
                )
        self.fields: frozenset[str] = frozenset(field.root for field in fields)
        self._head = literals[0]
        self._rest = list(zip(fields, literals[1:], strict=True))
        self._get = _getter([field.root for field in fields])
        self._plain = all(not field.steps for field in fields)
        self._unsafe = _unsafe(without=_punctuation("".join(between)))

    def __repr__(self) -> str:
        return f"Template({self.text!r})"

    @property
    def expressions(self) -> list[str] | None:
        """What each field begins with, as an expression over the names: ``user.id`` for ``{user.id:>8}``.

        None if one is none in Python, as ``user.class``.
        """
        names = [name for field, _ in self._rest for name, _ in field.steps if name]
        if not all(name.isascii() and name.isidentifier() and not keyword.iskeyword(name) for name in names):
            return None
        return [
            field.root + "".join([f".{name}" if name else f"[{item!r}]" for name, item in field.steps])
            for field, _ in self._rest
        ]

    def by_position(self, names: Sequence[str]) -> Callable[[Sequence[Any]], str]:
        """`render` for a tuple of the values that these names have."""
        roots = [field.root for field, _ in self._rest]
        if self._plain and roots == list(names):
            return self.spell
        other = Template.__new__(Template)
        other.__dict__.update(self.__dict__)
        other._get = _getter([names.index(root) for root in roots])
        return other.render

    def render(self, arguments: Mapping[str, Any] | Sequence[Any]) -> str:
        """The key for these arguments. Two calls share it only if every field has the same text.

        Args:
            arguments: by name, at least all of `.fields`; what else it has does not matter. See also `by_position`.

        Raises:
            InvalidKeyError: a field has no text, or only an address in memory, or the whole key would be empty.
        """
        return self.spell(self.values(arguments))

    def values(self, arguments: Mapping[str, Any] | Sequence[Any]) -> Sequence[Any]:
        """The values of the expressions, of which `spell` makes the key.

        Raises:
            InvalidKeyError: an argument has no such attribute or item.
        """
        found: Sequence[Any] = self._get(arguments)
        if self._plain:
            return found
        return [self._walk(field, value) for (field, _), value in zip(self._rest, found, strict=True)]

    def spell(self, values: Sequence[Any]) -> str:
        """The key. See `render`."""
        unsafe = self._unsafe
        parts = [self._head]
        for (field, literal), value in zip(self._rest, values):  # noqa: B905  # strict= costs more than the zip
            if field.bare and type(value) is str:
                text = unsafe.sub(_percent, value) if unsafe.search(value) else value
            elif field.bare and type(value) is int and 0 <= value < _BIG:
                text = str(value)
            else:
                text = self._field_text(field, value)
            parts += (text, literal)
        key = "".join(parts)
        if not key:
            raise InvalidKeyError(f"{self._where}: the key would be empty; put a literal before the field")
        return key

    def _walk(self, field: _Field, value: Any) -> Any:
        try:
            for attribute, item in field.steps:
                value = getattr(value, attribute) if attribute else value[item]
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise self._unrendered(field, error) from error
        return value

    def _unrendered(self, field: _Field, error: Exception) -> InvalidKeyError:
        return InvalidKeyError(
            f"{self._where}: {field.source} cannot be rendered ({type(error).__name__}: {error}); "
            "pass an argument that has it, or give key= a callable"
        )

    def _field_text(self, field: _Field, value: Any) -> str:
        try:
            text = _spell(value, self._unsafe, field.conversion, field.spec)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise self._unrendered(field, error) from error
        if text is None:
            raise InvalidKeyError(
                f"{self._where}: {field.source} is a {type_name(value)}, whose only text is its address in memory, "
                f"and another object can get that later. Name an attribute, like {{{field.root}.id}} instead of "
                f"{{{field.root}}}, or give key= a callable"
            )
        return text

    def _parse(self, names: Collection[str]) -> tuple[list[str], list[_Field]]:
        """Literals and fields in turn; there is always one more literal than there are fields."""
        if not self.text:
            raise self._wrong("it is empty; write something like 'user:{user_id}'")
        literals, fields = [""], list[_Field]()
        try:
            pieces = list(Formatter().parse(self.text))
        except ValueError as error:
            raise self._wrong(f"{error}; a brace that is meant literally is written twice") from error
        for literal, name, spec, conversion in pieces:
            for char in literal:
                if not "!" <= char <= "~" or char == "%":
                    raise self._wrong(f"{char!r} cannot be in a key; literals are visible ASCII without '%'")
            literals[-1] += literal
            if name is not None:  # else it was an escaped brace, and the literal goes on
                fields.append(self._field(name, spec or "", conversion, names))
                literals.append("")
        return literals, fields

    def _field(self, name: str, spec: str, conversion: str | None, names: Collection[str]) -> _Field:
        source = "{" + name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "") + "}"
        root = name.partition(".")[0].partition("[")[0]
        known = f"the names are: {', '.join(names) or 'none'}"
        if not root or root.isdecimal():
            raise self._wrong(f"{source} has no name; {known}")
        if root not in names:
            raise self._wrong(f"unknown name {root!r} in {source}; {known}")
        if "{" in spec or "}" in spec:
            raise self._wrong(f"{source} has a field inside its format; write the format out")
        if conversion is not None and conversion not in _CONVERSIONS:
            raise self._wrong(f"{source}: there is no conversion {conversion!r}; use !s, !r or !a")
        path = name[len(root) :]
        if path and re.sub(_STEP, "", path):
            raise self._wrong(f"{source} is no path; write it like {{user.id}} or {{page[size]}}")
        steps = tuple(
            (attribute, "") if attribute else (None, int(item) if item.isascii() and item.isdigit() else item)
            for attribute, item in (re.findall(_STEP, path) if path else ())
        )
        return _Field(source, root, steps, conversion, spec)

    def _wrong(self, what: str) -> ConfigurationError:
        return ConfigurationError(f"{self._where}: {what}")


def _getter(names: Sequence[Any]) -> Callable[[Any], tuple[Any, ...]]:
    """What takes the items of these names, or places, from a mapping or a sequence."""
    if len(names) > 1:
        return itemgetter(*names)
    if names:
        (name,) = names
        return lambda items: (items[name],)
    return lambda items: ()


def quote(value: object) -> str:
    """One value as a template's field spells it, for key callables: ``f"user:{quote(name)}"``.

    The result has letters, digits, ``_.-%`` only, so it can stand between any other separators.

    Raises:
        InvalidKeyError: the only text of the value is its address in memory.
    """
    text = _spell(value, _DEFAULT_UNSAFE, None, "")
    if text is None:
        raise InvalidKeyError(
            f"quote() got a {type_name(value)}, whose only text is its address in memory, and another object can get "
            "that later; quote one of its attributes instead, or leave it out of what key= returns"
        )
    return text


def check_key(text: object) -> str:
    """`text`, if it can be a key.

    Raises:
        InvalidKeyError: no rendering gives such a text, so no entry can have it.
    """
    if not isinstance(text, str) or not text or _no_key().search(text):
        raise InvalidKeyError(
            f"{text!r:.200} is not the text of a key: a key is visible ASCII, and arguments are escaped in it. "
            "Get the text from the cached function's .key(), as in cache.invalidate(get_user.key(user_id))"
        )
    return text


@functools.cache
def _no_key() -> re.Pattern[str]:  # compiling it takes long, and a module that decorates does without
    return re.compile(_NO_KEY)


def with_version(key: str, version: str) -> str:
    """`key` for one `version` of what is cached under it; the empty version is none."""
    return f"{key}%v{escape(version, _DEFAULT_UNSAFE)}" if version else key


def split_version(key: str) -> tuple[str, str]:
    """The key without its version, and the version as it is spelled in the key; "" if there is none."""
    bare, _, version = key.partition("%v")
    return bare, version


def escape(text: str, unsafe: re.Pattern[str]) -> str:
    """`text` with all that matches `unsafe` as ``%XX``. `%` has to be unsafe, or two texts may become one."""
    return unsafe.sub(_percent, text) if unsafe.search(text) else text  # a search is much cheaper


def is_of(module: str, kind: type) -> bool:
    """Whether `kind` is what a module has under its name. One that is not imported yet has nothing."""
    return module in sys.modules and getattr(sys.modules[module], kind.__name__, None) is kind


def type_name(value: object) -> str:
    """What messages call the type of `value`."""
    return f"{type(value).__module__}.{type(value).__qualname__}"


def _spell(value: object, unsafe: re.Pattern[str], conversion: str | None, spec: str) -> str | None:
    """The rendered text of one field; None if the value has no text but its address in memory."""
    if not (conversion or spec):
        if value is None:
            return "%none"
        if value is True or value is False:
            return "%true" if value else "%false"
    converted = value if conversion is None else _CONVERSIONS[conversion](value)
    text = format(converted, spec)
    # Text and bytes can say anything; what else looks like an address is one. A format such as {user!s:.9} could cut it
    # short, so look at what was to be formatted too.
    looks = (text,) if conversion is None else (text, str(converted))
    if not isinstance(value, (str, bytes)) and any(map(_ADDRESS.search, looks)):
        return None
    return escape(text, unsafe)


def _unsafe(without: set[str]) -> re.Pattern[str]:
    safe = "".join(re.escape(char) for char in _SAFE_PUNCTUATION if char not in without)
    return re.compile(f"[^A-Za-z0-9{safe}]+")


def _punctuation(literal: str) -> set[str]:
    return {char for char in literal if not char.isalnum()}


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))


_DEFAULT_UNSAFE = _unsafe(without=set())
