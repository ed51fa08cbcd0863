"""The targets of a decorated write: from its arguments to the keys it makes stale.

A target is a template over the write function's parameters and `result`, a cached function, or a callable. What cannot
fit is said at decoration.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeAlias

from .binder import Binder
from .core import Core
from .errors import ConfigurationError
from .expiry import UNSET, Duration, Expiry, OrUnset, Ttl, seconds
from .functions import Home
from .keeper import Keeper, Policy
from .keymaker import is_coroutine, location_of, signature_of
from .keys import Template, check_key, split_version
from .options import checked_tags
from .stats import Counters
from .wrappers import AsyncCached, AsyncCachedMany, Cached, CachedMany, bound_to


class Entry(NamedTuple):
    """A key as the backend of its cache knows it, and how a value for it is kept (None: nothing is put there)."""

    core: Core
    key: str
    keeper: Keeper | None = None


Make: TypeAlias = Callable[[dict[str, Any]], Iterable[Entry]]
"""From the arguments of the write by name (and "result", where there is one) to entries."""


class Terms:
    """How a write treats its keys.

    Args:
        strict: guard them before the write, and refuse the write if that fails.
        hold: seconds after which the guard of a writer that died ends.
        update: put the result into the entries; the keys are guarded for that too.
        ttl: of such a result, where the target is no cached function, which has its own.
        tags: templates of tags that the write turns.
        stale: seconds that readers who ask for it may see the old values; 0: they are dropped.

    Raises:
        ConfigurationError: an option that cannot work, or has nothing to work on.
    """

    def __init__(
        self,
        strict: bool = False,
        hold: Duration = 30,
        update: bool = False,
        ttl: Ttl | OrUnset = UNSET,
        tags: Sequence[str] = (),
        stale: Duration = 0,
    ) -> None:
        if not isinstance(strict, bool):
            raise ConfigurationError(f"strict= is True or False, not {strict!r}")
        self.hold: float = seconds(hold, "hold")
        if self.hold != 30 and not (strict or update):
            raise ConfigurationError("hold= is for strict=True: a plain invalidation leaves no mark that could be held")
        self.strict: bool = strict
        self.update: bool = update
        self.ttl: Ttl | OrUnset = ttl
        self.tags: tuple[str, ...] = checked_tags(tags)
        self.stale: float = 0.0 if stale == 0 else seconds(stale, "stale")
        if self.stale and (strict or self.tags):
            raise ConfigurationError(
                "stale= keeps the old values for a while: strict=True drops them before the write, and a tag has none"
            )
        self.decorator: str = "@updates" if update else "@invalidates"
        if ttl is not UNSET:
            Expiry(ttl, 1, 0)

    @property
    def guards(self) -> bool:
        """Whether the keys are guarded, and so have to be known before the write."""
        return self.strict or self.update

    def require(self, name: str, core: Core) -> None:
        """Make sure that the cache can do what is asked of the write `name`."""
        if self.stale and "claims" not in core.capabilities:
            raise ConfigurationError(
                f"{name}: stale= needs a backend with the capability 'claims', which {core.label} lacks"
            )


class Targets:
    """The targets of one write function.

    Args:
        fn: the write function; of a classmethod or staticmethod, the function inside.
        name: what messages call it.
        targets: as the user gave them.
        home: gives the cache of templates and callables at each call.
        terms: how the write treats its keys.
        bound: whether `home` always gives the same cache.

    Raises:
        ConfigurationError: a target that does not fit the function, or a cache that cannot do what is asked of it.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        name: str,
        targets: tuple[Any, ...],
        home: Callable[[], Home],
        terms: Terms,
        bound: bool = False,
    ) -> None:
        if not targets and not terms.tags:
            raise ConfigurationError(
                f"{terms.decorator} needs a target: a key template, a cached function, or a callable"
            )
        self._binder = Binder(signature_of(fn, name))
        self._names = list(self._binder.signature.parameters)
        self._name = name
        self._home = home
        self._terms = terms
        self._where = location_of(fn)
        self._keepers: weakref.WeakKeyDictionary[Home, Keeper] = weakref.WeakKeyDictionary()
        if "result" in self._names:
            raise ConfigurationError(f"{name}: rename its parameter 'result': {{result}} means what the write returned")
        self.early: list[Make] = []
        """Those that need the arguments only."""
        self.late: list[Make] = []
        """Those that need the result as well."""
        made = [(target, *self._made(target)) for target in targets]
        made += [(tag, *self._template(self._parsed(tag), tag=True)) for tag in terms.tags]
        for target, make, needs_result in made:
            if needs_result and terms.guards:
                raise ConfigurationError(
                    f"{name}: {'@updates' if terms.update else 'strict=True'} guards its keys before the write, when "
                    f"there is no result yet: name {target!r} in an @invalidates of its own"
                )
            (self.late if needs_result else self.early).append(make)
        for target in targets:  # of those whose cache is known already; the others are asked at each call
            if isinstance(target, (Cached, AsyncCached)):
                if target._function.bound:
                    terms.require(name, target._function.runtime().core)
            elif bound:
                terms.require(name, home().core)
        if terms.ttl is not UNSET and all(isinstance(target, (Cached, AsyncCached)) for target in targets):
            raise ConfigurationError(f"{name}: ttl= is for targets that are no cached functions, which have their own")

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name."""
        return self._binder.bind(args, kwargs)

    def _made(self, target: Any) -> tuple[Make, bool]:
        if isinstance(target, str):
            return self._template(self._parsed(target))
        if isinstance(target, (Cached, AsyncCached)):
            return self._function(target), False
        if isinstance(target, (CachedMany, AsyncCachedMany)):
            raise ConfigurationError(
                f"{self._name}: {target._function.name} reads many rows: name the template of one instead, or the "
                "function under `cached` that has the same"
            )
        if callable(target) and not is_coroutine(target):
            return self._callable(target)
        raise ConfigurationError(
            f"{self._name}: a target is a key template, a cached function or a plain callable, not {target!r}"
        )

    def _parsed(self, text: str) -> Template:
        return Template(text, [*self._names, "result"], self._name)

    def _template(self, template: Template, tag: bool = False) -> tuple[Make, bool]:
        def make(values: dict[str, Any]) -> Iterable[Entry]:
            home = self._home()
            core, text = home.core, template.render(values)
            yield Entry(core, core.tag_key(text) if tag else core.prefix + text, self._keeper(home))

        return make, "result" in template.fields

    def _function(self, target: Cached[..., Any] | AsyncCached[..., Any]) -> Make:
        function = target._function
        if self._terms.update and function.tags:
            raise ConfigurationError(
                f"{self._name}: {function.name} has tags, whose versions @updates does not know: use @invalidates"
            )
        parameters = list(function.keys.binder.signature.parameters)
        bound = dict(zip(parameters, bound_to(target), strict=False))
        if missing := [name for name in function.keys.needs if name not in self._names and name not in bound]:
            raise ConfigurationError(
                f"{self._name}: the key of {function.name} needs {missing}, which are no parameters of the write: give "
                "the target as a template or a callable"
            )

        def make(values: dict[str, Any]) -> Iterable[Entry]:
            runtime = function.runtime()
            text = function.keys.text({**values, **bound}, runtime.in_process)
            yield Entry(runtime.core, runtime.core.prefix + text, runtime.reader.keeper)

        return make

    def _callable(self, target: Callable[..., Any]) -> tuple[Make, bool]:
        asks = "result" in signature_of(target, f"{self._name}: target {target!r}").parameters
        signature = self._binder.signature

        def make(values: dict[str, Any]) -> Iterable[Entry]:
            home = self._home()
            bound = inspect.BoundArguments(signature, {name: values[name] for name in self._names})
            extra = {"result": values["result"]} if asks else {}
            answer = target(*bound.args, **bound.kwargs, **extra)
            for text in (answer,) if isinstance(answer, str) else answer:
                yield Entry(home.core, server_key(home.core, text), self._keeper(home))

        return make, asks

    def _keeper(self, home: Home) -> Keeper | None:
        """For targets that are no cached functions: the result is kept as one without options would keep it."""
        if not self._terms.update:
            return None
        keeper = self._keepers.get(home)
        if keeper is None:
            ttl = home.ttl if self._terms.ttl is UNSET else self._terms.ttl
            policy = Policy(self._name, self._where, Expiry(ttl, 1, 0), None, ())
            keeper = self._keepers[home] = Keeper(policy, home.codec(), Counters())
        return keeper


def tag_keys(core: Core, tags: Sequence[str]) -> list[str]:
    """Tags by their texts, as the backend of `core` knows them.

    Raises:
        InvalidKeyError: a text that can be no tag.
        ConfigurationError: a single text in the place of several.
    """
    return [core.tag_key(check_key(tag)) for tag in checked_tags(tags)]


def server_key(core: Core, text: str) -> str:
    """A key as `.key()` shows it, as the backend of `core` knows it.

    The version is left out: one entry holds whatever version was filled last, so that a write of any version drops it.

    Raises:
        InvalidKeyError: the text can be no key.
    """
    return core.prefix + split_version(check_key(text))[0]
