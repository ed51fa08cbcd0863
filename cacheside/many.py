"""A decorated function that reads many rows at once: `cached_many`. One entry for each row, shared with `cached`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from string import Formatter
from typing import Any

from . import batch, drivers, scopes, telling
from .backends.base import Capability
from .binder import Binder
from .envelope import ABSENT, UNSURE, Absent, Raised
from .errors import CacheWarning, ConfigurationError, InvalidKeyError
from .functions import Function, Home, Runtime
from .hitpath import HitPath, Switch
from .keymaker import is_coroutine, signature_of
from .keys import Template, with_version
from .limiter import Limiter
from .options import Options
from .stats import Counters


class ManyKeys:
    """How the keys of a batch are made: as those of a function whose parameter is one item of the batch.

    Args:
        fn: the user's function.
        name: what messages call it.
        template: of the key of one item.
        ignore: parameters that are no items, and that no field names.
        version: see `cached`.

    Attributes:
        items: the parameter that has the items. item: the field that stands for one of them.
    """

    is_default = False
    determined = None

    def __init__(self, fn: Callable[..., Any], name: str, template: str, ignore: Iterable[str], version: str) -> None:
        self.version: str = version
        self.binder: Binder = Binder(signature_of(fn, name))
        names = list(self.binder.signature.parameters)
        roots = [re.split(r"[.\[]", field, maxsplit=1)[0] for _, field, _, _ in Formatter().parse(template) if field]
        unknown = sorted({root for root in roots if root not in names})
        if len(unknown) != 1:
            raise ConfigurationError(
                f"{name}: one field of {template!r} has to stand for an item of the batch, and so be no parameter "
                f"({', '.join(names)}), like {{user_id}} where the parameter is user_ids; it has {unknown or 'none'}"
            )
        self.item: str = unknown[0]
        if foreign := [each for each in ignore if each not in names]:
            raise ConfigurationError(f"{name}: ignore= names {foreign}, which are no parameters of it")
        left = [each for each in names if each not in roots and each not in ignore]
        if len(left) > 1 and left[0] in ("self", "cls"):
            left = left[1:]
        if len(left) != 1:
            raise ConfigurationError(
                f"{name}: one parameter has to hold the items, and be in no field of {template!r}; there are "
                f"{left or 'none'}: name the others in ignore=, as in ignore=('session',)"
            )
        self.items: str = left[0]
        self.fields: list[str] = [*names, self.item]
        self.template: Template = Template(template, self.fields, name)
        self.needs: list[str] = sorted(self.template.fields)

    def check_server(self) -> None:
        """A template means the same in every process."""


class ManyFunction(Function):
    """One decorated batch function. See `Function`."""

    many = True
    requires: Mapping[Capability, str] = {"batches": "@cached_many"}

    def __init__(self, fn: Callable[..., Any], options: Options, home: Callable[[], Home]) -> None:
        self._name_it(fn, options)
        assert isinstance(options.key, str)  # `cached_many` has seen to it
        self.keys: Any = ManyKeys(fn, self.name, options.key, options.ignore, str(options.version))
        self.tags: tuple[Template, ...] = tuple([Template(tag, self.keys.fields, self.name) for tag in options.tags])
        self.limiter: Limiter | None = None
        self._warned = False
        self._live_at(home)
        coroutine = is_coroutine(fn)
        call = _async_shell(self) if coroutine else _sync_shell(self)
        self.path: HitPath = HitPath(self.keys.binder.signature, None, call, coroutine)

    def spread(
        self, runtime: Runtime, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, list[Any]], list[Sequence[str]]]:
        """The arguments of a call by name; the items of each key, and the tags of each key, in order.

        Raises:
            InvalidKeyError: an item makes no safe key.
        """
        core, keys = runtime.core, self.keys
        values = keys.binder.bind(args, kwargs)
        found: dict[str, list[Any]] = {}
        tags: list[Sequence[str]] = []
        fields = dict(values)
        for item in values[keys.items]:
            fields[keys.item] = item
            key = core.prefix + keys.template.render(fields)
            same = found.get(key)
            if same is None:
                found[key] = [item]
                tags.append([core.tag_key(tag.render(fields)) for tag in self.tags])
            else:
                same.append(item)
        return values, found, tags

    def arguments(self, values: Mapping[str, Any], items: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call of the user's function for some items."""
        from inspect import BoundArguments

        bound = BoundArguments(self.keys.binder.signature, {**values, self.keys.items: items})
        return bound.args, bound.kwargs

    def listed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments of a call, with its items in a list, which can be gone through again."""
        values = self.keys.binder.bind(args, kwargs)
        return self.arguments(values, list(values[self.keys.items]))

    def outcomes(self, returned: Any, items: Sequence[Any], numbers: Sequence[int]) -> dict[int, Any]:
        """What the user's function returned for each of the numbers of `items`.

        (Not for each of the list that it was given, which is its own: it may have sorted it, or emptied it.)
        """
        if not isinstance(returned, Mapping):
            raise TypeError(
                f"{self.name} is a batch: it has to return a mapping from each item to its value, not a "
                f"{type(returned).__qualname__}"
            )
        found = {number: returned.get(items[number], ABSENT) for number in numbers}
        if returned and all(outcome is ABSENT for outcome in found.values()):
            self._warn(next(iter(returned)), items[numbers[0]])
            return dict.fromkeys(numbers, UNSURE)
        return found

    def _warn(self, key: Any, item: Any) -> None:
        """The first time: the function seems to answer under other keys than those that it was asked for."""
        if not self._warned:
            self._warned = True
            file, line, module = self.where
            message = CacheWarning(
                f"{self.name} returned nothing under any of the items that it was asked for, such as {item!r:.100}, "
                f"but something under others, such as {key!r:.100}: it has to return a mapping from each item, just as "
                "it was given, to its value. The items are missing in the result, and not cached as absent"
            )
            warnings.warn_explicit(message, CacheWarning, file, line, module)

    def texts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[str]:
        """The full texts of the keys of a call."""
        runtime = self.runtime()
        _, found, _ = self.spread(runtime, args, kwargs)
        start = len(runtime.core.prefix)
        return [with_version(key[start:], self.keys.version) if self.keys.version else key[start:] for key in found]

    def key(self, /, *args: Any, **kwargs: Any) -> str:
        """The full text of the key of a batch of one."""
        texts = self.texts(args, kwargs)
        if len(texts) != 1:
            raise InvalidKeyError(f"{self.name}: a batch of {len(texts)} has as many keys: .keys() gives them all")
        return texts[0]

    def invalidate(self, /, *args: Any, **kwargs: Any) -> None:
        """Drop the entries of a call, sync."""
        runtime = self.runtime()
        telling.invalidate(runtime.core, list(self.spread(runtime, args, kwargs)[1]))

    async def ainvalidate(self, /, *args: Any, **kwargs: Any) -> None:
        """Drop the entries of a call, async."""
        runtime = self.runtime()
        await telling.ainvalidate(runtime.core, list(self.spread(runtime, args, kwargs)[1]))


def _sync_shell(function: ManyFunction) -> Callable[..., Any]:
    fn, limits = function.fn, function.options.limits

    def call(*args: Any, **kwargs: Any) -> Any:
        if Switch.off and not limits:
            return fn(*args, **kwargs)
        runtime = function.runtime()
        values, found, tags = function.spread(runtime, args, kwargs)
        items = [same[0] for same in found.values()]

        def load(numbers: Sequence[int]) -> dict[int, Any]:
            some, named = function.arguments(values, [items[number] for number in numbers])
            scopes.join(some, named)
            return function.outcomes(fn(*some, **named), items, numbers)

        if not runtime.caches:
            if limits:
                steps = batch.uncached_many(runtime.fresh, len(items), sync=True)
                return _gathered(drivers.drive(steps, runtime.core, load), found)
            _count_uncached(runtime.counters, len(items))
            return _gathered(load(range(len(items))) if items else {}, found)
        steps = batch.read_many(runtime.reader, list(found), tags, True)
        return _gathered(drivers.drive(steps, runtime.core, load), found)

    return call


def _async_shell(function: ManyFunction) -> Callable[..., Awaitable[Any]]:
    fn, limits = function.fn, function.options.limits

    async def call(*args: Any, **kwargs: Any) -> Any:
        if Switch.off and not limits:
            return await fn(*args, **kwargs)
        runtime = function.runtime()
        values, found, tags = function.spread(runtime, args, kwargs)
        items = [same[0] for same in found.values()]

        async def load(numbers: Sequence[int]) -> dict[int, Any]:
            some, named = function.arguments(values, [items[number] for number in numbers])
            scopes.join(some, named)
            return function.outcomes(await fn(*some, **named), items, numbers)

        if not runtime.caches:
            if limits:
                steps = batch.uncached_many(runtime.fresh, len(items), sync=False)
                return _gathered(await drivers.adrive(steps, runtime.core, load), found)
            _count_uncached(runtime.counters, len(items))
            return _gathered(await load(range(len(items))) if items else {}, found)
        steps = batch.read_many(runtime.reader, list(found), tags, False)
        return _gathered(await drivers.adrive(steps, runtime.core, load), found)

    return call


def _gathered(outcomes: batch.Outcomes, found: Mapping[str, list[Any]]) -> dict[Any, Any]:
    """What a call returns: each item that was asked for and has a value, in the order in which it was asked for.

    Raises:
        Exception: what a load raised; what others loaded, and this one before, is in the cache.
    """
    result: dict[Any, Any] = {}
    for number, same in enumerate(found.values()):
        outcome = outcomes[number]
        if type(outcome) is Raised:
            try:
                raise outcome.error
            finally:
                del outcome, outcomes  # as in `drivers.read`
        if type(outcome) is not Absent:
            result.update(dict.fromkeys(same, outcome))
    return result


def _count_uncached(counters: Counters, count: int) -> None:
    counters.misses += count
    counters.bypassed += count
    counters.loads += count
