"""From the arguments of a call to the key of one decorated function."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from .binder import Binder
from .errors import ConfigurationError
from .keys import Template, check_key, quote, with_version

_serials = itertools.count(1)


class KeyMaker:
    """The keys of one function: by template, by callable, or from the arguments.

    Args:
        fn: the function; of a classmethod or staticmethod, the function inside.
        name: what messages call it.
        key: a template, a callable with the function's arguments, or None for a key made from the arguments.
        ignore: parameters left out of a key made from the arguments.
        version: part of the key, and of the envelope; empty for none.

    Raises:
        ConfigurationError: a template that does not fit the function, an unknown name in `ignore`.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        name: str,
        key: str | Callable[..., str] | None,
        ignore: Collection[str],
        version: str,
    ) -> None:
        if key is not None and is_coroutine(key):
            raise ConfigurationError(f"{name}: key= must be a plain function, not an async one")
        self.binder: Binder = Binder(signature_of(fn, name))
        self.name = name
        self.version = version
        names = list(self.binder.signature.parameters)
        self._template = Template(key, names, name) if isinstance(key, str) else None
        self._expressions = None if self._template is None else self._template.expressions
        self._by_position: Callable[[Sequence[Any]], str] | None = None
        if self._template is not None and self.binder.positional is not None:
            self._by_position = self._template.by_position(self.binder.positional)
        self._count = len(names)
        self._callable = None if isinstance(key, str) else key
        if key is not None and ignore:
            raise ConfigurationError(f"{name}: ignore= is for keys made from the arguments; leave it out beside key=")
        if unknown := set(ignore) - set(names):
            raise ConfigurationError(f"{name}: ignore= names {sorted(unknown)}, the parameters are {names}")
        self._names = [each for each in names if each not in set(ignore)]
        # Module and qualname do not tell closures apart, so each decoration has a number for keys in this process.
        module, qualname = getattr(fn, "__module__", None) or "", getattr(fn, "__qualname__", "")
        self._place = f"{quote(module)}:{quote(qualname)}"
        self._serial = f"#{next(_serials)}"
        self._local = module in ("", "__main__") or not qualname or "<" in qualname
        if self.is_default:
            from .canonical import default_key  # which templates do without

            self._spell = default_key

    @property
    def is_default(self) -> bool:
        """Whether keys are made from the arguments."""
        return self._template is None and self._callable is None

    @property
    def needs(self) -> list[str]:
        """The parameters that a key depends on (all of them, as far as can be known, for a callable)."""
        if self._template is not None:
            return sorted(self._template.fields)
        return list(self._names)

    @property
    def determined(self) -> list[str] | None:
        """Expressions over the parameters whose values alone make the key, such as ``user.id``.

        None if that cannot be said; as of a callable, which may use anything else.
        """
        if self.is_default:
            return self._names
        return None if self._expressions is None else list(dict.fromkeys(self._expressions))

    def check_server(self) -> None:
        """That keys of this function mean the same in every process.

        Raises:
            ConfigurationError: two functions, or two processes, could make the same key for different things.
        """
        if self.is_default and self._local:
            raise ConfigurationError(
                f"{self.name} is a lambda, a closure or in __main__: its name does not identify it on a server that "
                'other processes use, nor in a snapshot; give it a key=, such as key="user:{user_id}"'
            )

    def of_call(self, args: tuple[object, ...], kwargs: dict[str, object], in_process: bool) -> str:
        """The key of a call, without version.

        Raises:
            InvalidKeyError: the arguments make no safe key.
            TypeError: the function cannot be called like this.
        """
        if self._by_position is not None and not kwargs and len(args) == self._count:
            return self._by_position(args)
        return self.text(self.binder.bind(args, kwargs), in_process)

    def with_values(self, values: Mapping[str, object], in_process: bool) -> tuple[str, tuple[Any, ...] | None]:
        """The key of a call with these arguments, and the very values of `determined` that it was made from.

        None if there are no such values: an attribute that stands in the template twice was read twice, and differed.
        """
        if self._template is None or self._expressions is None:
            return self.text(values, in_process), tuple([values[name] for name in self._names])
        found = self._template.values(values)
        once: dict[str, Any] = {}
        same = True
        for expression, value in zip(self._expressions, found, strict=True):
            same &= once.setdefault(expression, value) is value
        return self._template.spell(found), tuple(once.values()) if same else None

    def text(self, values: Mapping[str, object], in_process: bool) -> str:
        """The key of a call with these arguments, by name, without version.

        Raises:
            InvalidKeyError: the arguments make no safe key.
        """
        if self._template is not None:
            return self._template.render(values)
        if self._callable is not None:
            signature = self.binder.signature
            bound = inspect.BoundArguments(signature, {name: values[name] for name in signature.parameters})
            return check_key(self._callable(*bound.args, **bound.kwargs))
        place = self._place + self._serial if in_process else self._place
        return self._spell(place, self._names, [values[name] for name in self._names], in_process)

    def full(self, text: str) -> str:
        """`text` with the version, as `.key()` shows it."""
        return with_version(text, self.version) if self.version else text


def signature_of(fn: Callable[..., Any], name: str) -> inspect.Signature:
    """The signature of `fn`, called `name` in messages.

    Raises:
        ConfigurationError: it has none, as some functions written in C.
    """
    try:
        return inspect.signature(fn)
    except ValueError:
        raise ConfigurationError(f"{name} does not tell its parameters: wrap it in a function that does") from None


def is_generator(fn: Callable[..., Any]) -> bool:
    """Whether calling `fn` gives a generator, plain or async: nothing that a cache could keep."""
    return inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn)


def is_coroutine(fn: object) -> bool:
    """Whether `fn` is async: a function, or an object whose `__call__` is."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004  # we need the method itself, not whether there is one


def location_of(fn: Any) -> tuple[str, int, str]:
    """File, line and module of a function, for warnings about it."""
    module = getattr(fn, "__module__", None) or "?"
    code = getattr(fn, "__code__", None)
    return (code.co_filename, code.co_firstlineno, module) if code else ("<unknown>", 1, module)
