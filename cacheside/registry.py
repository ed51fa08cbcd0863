"""One lazy registry, used for backends and for serializers.

A name maps to an object or to a path ``"module:Attr"`` that is imported on first use, so that nothing is loaded which
is not used. Names that were not registered here are looked for in an entry-point group. A name is never silently
overwritten.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from .errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoints

T = TypeVar("T")


class Registry(Generic[T]):
    """Names and what they stand for.

    Args:
        kind: what is registered, for messages ("backend").
        group: the entry-point group searched for unknown names ("cacheside.backends").
        builtin: name -> path of what ships with cacheside.
        extras: name -> the extra of cacheside that brings its packages.
    """

    def __init__(self, kind: str, group: str, builtin: dict[str, str], extras: dict[str, str]) -> None:
        self._kind = kind
        self._group = group
        self._items: dict[str, str | T] = dict(builtin)
        self._loaded: dict[str, T] = {}
        self._extras = extras

    def register(self, name: str, target: str | T) -> None:
        """Give `name` a meaning: an object, or a path ``"module:Attr"`` imported on first use.

        Raises:
            ConfigurationError: the name has another meaning already, or the path has no colon.
        """
        if isinstance(target, str) and target.count(":") != 1:
            raise ConfigurationError(
                f"{self._kind} {name!r}: a path is written 'package.module:Attribute', not {target!r}"
            )
        known = self._items.setdefault(name, target)
        if known is not target and known != target:
            raise ConfigurationError(f"{self._kind} {name!r} is registered already ({known!r}): choose another name")

    def names(self) -> list[str]:
        """All names that can be used now, those of installed packages included."""
        return sorted({*self._items, *(point.name for point in self._entry_points())})

    def get(self, name: str) -> T:
        """What `name` stands for, imported if need be.

        Raises:
            ConfigurationError: nobody knows the name; the message lists the known ones.
            MissingExtraError: a package it needs is not installed.
        """
        if name in self._loaded:
            return self._loaded[name]
        target = self._items.get(name)
        if target is None:
            target = next((point.value for point in self._entry_points(name)), None)
        if target is None:
            raise ConfigurationError(f"unknown {self._kind} {name!r}; known are: {', '.join(self.names())}")
        if not isinstance(target, str):
            return target
        module, _, attribute = target.partition(":")
        try:
            loaded = cast(T, getattr(importlib.import_module(module), attribute))
        except ModuleNotFoundError as error:
            extra = self._extras.get(name)
            if extra is None or (error.name or "").partition(".")[0] == "cacheside":
                raise
            raise MissingExtraError(
                f"the {self._kind} {name!r} needs the package {error.name!r}: pip install 'cacheside[{extra}]'"
            ) from error
        self._loaded[name] = loaded
        return loaded

    def _entry_points(self, name: str | None = None) -> EntryPoints:
        from importlib.metadata import entry_points  # slow to import, and seldom needed

        points = entry_points(group=self._group)
        return points if name is None else points.select(name=name)
