"""The hit of one decorated function in memory: the only code that is generated, and the only one that has to be fast.

A decorated function gets a wrapper of its very own signature, so that Python itself binds the arguments. The wrapper
looks its raw arguments up in a table of the function's own; a row that is there, of exactly these types and not past
its deadline, is the hit. All else goes to the *slow path*, which makes the key and asks the engine; and where that
finds a value, it puts a row in for the next time. For ``def get(user_id, lang="en")`` and the key "user:{user_id}"::

    def call(user_id, lang):
        try:
            row = rows[user_id]
            if type(user_id) is row.type0 and clock() < row.deadline:
                row.hits += 1.0
                return row.value
        except Exception:
            pass
        return slow(user_id, lang)

Why a row is right: the key has to follow from what the table is asked for. So only the arguments that the key is made
from are asked for (of ``{user.id}`` the id), and only where that is safe (`rawkeys.py`) there is a row; True equals 1,
hence the exact types.
A function that has been called with arguments that had to be taken apart looks for those first, by `parts`. Where there
is no table, as over a server, the wrapper calls the slow path at once: it is the same function, with other code. There
the slow path, once it has found out which cache it is, puts a shorter one in its place, which need not ask. Functions
whose key comes from a callable, or whose signature has ``*args`` or ``**kwargs``, have no rows, and no wrapper but the
slow path.

Races: an invalidation kills the rows of its entry before it returns, and no row is made for an entry that has gone (see
`entries.py`). Between the look at the deadline and the return the interpreter does not switch threads: what is returned
was in the cache after the call began. A cache that is no longer that of the function (`configure`) and caching that is
switched off (`testing.disabled`) take the table away, under `_switching`, under which the slow path puts it back; so
does an invalidation that was interrupted (Ctrl-C), and is pending.
"""

from __future__ import annotations

import functools
import keyword
import weakref
from collections.abc import Awaitable, Callable, Mapping, Sequence
from enum import Enum
from inspect import Parameter, Signature
from types import CodeType, FunctionType
from typing import Any

from . import forks
from .entries import Table

SLOTS = 3  # for exact types; the rest are compared as a tuple
VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)

_switching = forks.Lock()
_hit_paths: weakref.WeakSet[HitPath] = weakref.WeakSet()


class Switch:
    """Caching in this process: on, unless some `testing.disabled()` block has turned it off."""

    off = 0


def reset() -> None:
    """Have every call go through the slow path, until that has found out which cache it belongs to now."""
    with _switching:
        for path in _hit_paths:
            path.use(None, None)


class Way(Enum):
    """Where the calls of a function go."""

    SLOW = "to the slow path"
    ROWS = "to the rows"
    PARTS = "to the rows of what was taken apart, then to the others"


class HitPath:
    """The wrapper of one function, and its source.

    Args:
        signature: of the function; with `*args` or `**kwargs` no call of it can be found in a table.
        needs: what its keys are made from: parameters, or expressions such as ``user.id``; None if nobody can say.
        slow: what to call for all that is not a hit.
        coroutine: whether `slow` is to be awaited.

    Attributes:
        call: the wrapper.
        names: what its table is asked for, in this order; None if it has no table.
    """

    def __init__(
        self, signature: Signature, needs: Sequence[str] | None, slow: Callable[..., Any], coroutine: bool
    ) -> None:
        parameters = list(signature.parameters.values())
        usual = all(
            p.kind not in VARIADIC and p.name.isidentifier() and not keyword.iskeyword(p.name) for p in parameters
        )
        self.names: tuple[str, ...] | None = None
        self.call: Callable[..., Any] = _awaiting(slow) if coroutine else slow
        if needs is None or not usual:
            return
        self.names = tuple(needs)
        self._words = words = _Words(signature.parameters)
        self._parameters = parameters
        self._coroutine = coroutine
        self._globals: dict[str, Any] = {
            "__name__": __name__,
            words("type"): type,
            words("Exception"): Exception,
            words("slow"): slow,
            words("rows"): None,
            words("parts"): None,
            words("clock"): None,
        }
        self._slow = slow
        self._table: Table | None = None
        self._codes: dict[Way, CodeType] = {}
        self.call = FunctionType(self._code(Way.SLOW), self._globals)
        given = [p for p in parameters if p.default is not Parameter.empty]
        self.call.__defaults__ = tuple([p.default for p in given if p.kind is not Parameter.KEYWORD_ONLY])
        self.call.__kwdefaults__ = {p.name: p.default for p in given if p.kind is Parameter.KEYWORD_ONLY}
        _hit_paths.add(self)

    def source(self, way: Way) -> str:
        """How the wrapper is written while calls go that way; empty for a function that has none."""
        if self.names is None:
            return ""
        return _source(self._parameters, self.names, self._words, self._coroutine, way)

    def use(self, table: Table | None, clock: Callable[[], float] | None) -> None:
        """Look up hits in another table, or in none, by another clock; all else as before. With `_switching`."""
        words, way = self._words, _way_to(table)
        self._table = table
        self._globals[words("slow")] = self._slow
        # Those who are in the old code find no table any more.
        self._globals.update({words("rows"): {}, words("parts"): _nothing})
        if table is not None:
            self._globals.update({words("clock"): clock, words("rows"): table.rows, words("parts"): table.find})
        self.call.__code__ = self._code(way)

    def switch(self, table: Table, clock: Callable[[], float], still: Callable[[], bool]) -> None:
        """Look up hits in `table`, if `still()` says that this is right: asked when nobody can change the answer."""
        if self._uses(table):
            return
        with _switching:
            if not Switch.off and still():
                self.use(table, clock)

    def serve(self, known: Callable[..., Any], still: Callable[[], bool]) -> None:
        """Until the next `reset`, call `known` instead of the slow path, if `still()` says that this is right."""
        with _switching:
            if not Switch.off and still():
                self._globals[self._words("slow")] = known

    def _uses(self, table: Table) -> bool:
        return self._table is table and self.call.__code__ is self._codes.get(_way_to(table))

    def _code(self, way: Way) -> CodeType:
        found = self._codes.get(way)
        if found is None:
            # A code object of its own: the interpreter notes in it what it has learned about these very globals.
            found = self._codes[way] = _compiled(self.source(way)).replace()
        return found


def _awaiting(slow: Callable[..., Awaitable[Any]]) -> Callable[..., Any]:
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await slow(*args, **kwargs)

    return call


def _way_to(table: Table | None) -> Way:
    if table is None:
        return Way.SLOW
    return Way.PARTS if table.apart else Way.ROWS


def _nothing(values: tuple[object, ...]) -> None:
    return None


class _Words:
    """Names of our own that no parameter has."""

    def __init__(self, taken: Mapping[str, object]) -> None:
        self._taken = taken

    def __call__(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        return name


def _source(parameters: Sequence[Parameter], names: Sequence[str], words: _Words, coroutine: bool, way: Way) -> str:
    row, clock = words("row"), words("clock")
    # What is no parameter is read once: it may be a property, and change.
    read = {each: words(f"value{n}") for n, each in enumerate(names) if not each.isidentifier()}
    reads = [f"        {word} = {each}" for each, word in read.items()]
    names = [read.get(each, each) for each in names]
    lines = [f"{'async ' if coroutine else ''}def call({_declared(parameters)}):"]
    if way is not Way.SLOW:
        lines += ["    try:", *reads]
    if way is Way.PARTS:
        lines += [
            f"        {row} = {words('parts')}(({''.join(f'{name}, ' for name in names)}))",
            f"        if {row} is not None and {clock}() < {row}.deadline:",
            f"            {row}.hits += 1.0",
            f"            return {row}.value",
        ]
    if way is not Way.SLOW:
        types = [f"{words('type')}({name})" for name in names]
        if len(names) <= SLOTS:
            tests = [f"{kind} is {row}.type{number}" for number, kind in enumerate(types)]
        else:
            tests = [f"({', '.join(types)}) == {row}.types"]
        # The clock last: from there to the end nothing lets another thread run.
        tests.append(f"{clock}() < {row}.deadline")
        raw = names[0] if len(names) == 1 else ", ".join(names) or "()"
        lines += [
            f"        {row} = {words('rows')}[{raw}]",
            f"        if {' and '.join(tests)}:",
            f"            {row}.hits += 1.0",
            f"            return {row}.value",
            f"    except {words('Exception')}:  # it is not there; or an argument has no hash, or one that fails",
            "        pass",
        ]
    lines += [f"    return {'await ' if coroutine else ''}{words('slow')}({_passed(parameters)})"]
    return "\n".join([*lines, ""])


def _declared(parameters: Sequence[Parameter]) -> str:
    """As in the `def` of a function with this signature, but without defaults."""
    parts: list[str] = []
    previous: Any = None
    for parameter in parameters:
        if previous is Parameter.POSITIONAL_ONLY and parameter.kind is not previous:
            parts.append("/")
        if parameter.kind is Parameter.KEYWORD_ONLY and previous is not Parameter.KEYWORD_ONLY:
            parts.append("*")
        previous = parameter.kind
        parts.append(parameter.name)
    if previous is Parameter.POSITIONAL_ONLY:
        parts.append("/")
    return ", ".join(parts)


def _passed(parameters: Sequence[Parameter]) -> str:
    """As in a call that hands them all on."""
    return ", ".join([f"{p.name}={p.name}" if p.kind is Parameter.KEYWORD_ONLY else p.name for p in parameters])


@functools.lru_cache(maxsize=256)
def _compiled(source: str) -> CodeType:
    module = compile(source, "<hit path of cacheside>", "exec")
    (code,) = [each for each in module.co_consts if isinstance(each, CodeType)]
    return code
