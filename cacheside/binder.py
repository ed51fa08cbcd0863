"""The arguments of a call by parameter name, however they were given."""

from __future__ import annotations

from inspect import Parameter, Signature


class Binder:
    """The arguments of a call, by parameter name, for one signature. Safe to share between threads.

    Args:
        signature: of the function whose calls are bound; kept as `.signature`.
    """

    def __init__(self, signature: Signature) -> None:
        parameters = signature.parameters.values()
        by_position = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        variadic = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        self.signature = signature
        self.positional: tuple[str, ...] | None = None
        """The names of the parameters, if all of them can be given by position."""
        self._plain = not any(parameter.kind in variadic for parameter in parameters)
        self._names = tuple(signature.parameters)
        self._positional = tuple(parameter.name for parameter in parameters if parameter.kind in by_position)
        if self._positional == self._names:
            self.positional = self._names
        self._keywords = {p.name for p in parameters if p.kind not in (Parameter.POSITIONAL_ONLY, *variadic)}
        self._defaults = {p.name: p.default for p in parameters if p.default is not Parameter.empty}
        self._rests = [self._rest(count) for count in range(len(self._positional) + 1)] if self._plain else []

    def bind(self, args: tuple[object, ...], kwargs: dict[str, object]) -> dict[str, object]:
        """Every parameter and its value, in the order of the signature, with defaults applied.

        It makes no difference whether an argument came by position or by keyword. ``*args`` is a tuple and
        ``**kwargs`` a dict under their own names.

        Raises:
            TypeError: the function cannot be called like this.
        """
        count = len(args)
        if not kwargs and count < len(self._rests):
            rest = self._rests[count]
            if rest is not None:
                values = dict(zip(self._positional, args))  # noqa: B905  # strict= is a third of the cost of this call
                if rest:
                    values.update(rest)
                return values
        elif count < len(self._rests) and self._keywords.issuperset(kwargs):
            values = self._defaults | dict(zip(self._positional, args))  # noqa: B905  # as above
            if kwargs.keys().isdisjoint(self._positional[:count]):
                values |= kwargs
                if len(values) == len(self._names):
                    return {name: values[name] for name in self._names}
        bound = self.signature.bind(*args, **kwargs)  # variadics, and calls that raise TypeError here
        bound.apply_defaults()
        return dict(bound.arguments)

    def _rest(self, count: int) -> dict[str, object] | None:
        """What defaults give after `count` positional arguments; None if that is not enough for a call."""
        names = self._names[count:]
        return {name: self._defaults[name] for name in names} if self._defaults.keys() >= set(names) else None
