"""Instances of a user's classes: taken apart into plain data, and put together again without running their code.

The rules:

- A stored class is named ``module:qualname``. To find it, nothing is imported and no module is asked for an attribute
  (a module's `__getattr__` may import): `sys.modules`, then the namespaces of the module and its classes, and no more.
- Only enums, namedtuples, dataclasses, attrs classes, pydantic models and registered types are built.
- Building calls neither `__init__`, `__new__`, `__post_init__`, `__setattr__` nor any descriptor of the class. What is
  kept is the raw storage: the slots and `__dict__`, with cached properties and unset fields as they were.
- The names of the fields are stored too. If the class has other fields by now, the entry is a miss.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from enum import Enum, Flag
from types import BuiltinFunctionType, MemberDescriptorType, ModuleType
from typing import Any, NamedTuple, TypeVar, cast

from ..errors import ConfigurationError, DecodeError, NotCacheableError

T = TypeVar("T")

PLAIN_TYPES = frozenset({type(None), bool, int, float, str, bytes, list, dict})
"""What every format holds as it is, or nearly; these can be given no other form."""


class Registered(NamedTuple):
    """One type of `register_type`."""

    name: str
    kind: type
    dump: Callable[[Any], object]
    load: Callable[[Any], object]


class Plan(NamedTuple):
    """How instances of one class are taken apart."""

    fields: str
    slots: dict[str, MemberDescriptorType]


_tuple: Any = tuple  # its raw methods, which type checkers know for tuples of a known item type only
_by_class: dict[type, Registered] = {}
_by_name: dict[str, Registered] = {}
_plans: dict[type, Plan] = {}  # only of classes that a module holds, so it does not grow with classes made at run time


def register_type(cls: type[T], dump: Callable[[T], object], load: Callable[[Any], T], name: str | None = None) -> None:
    """Teach the serializers a class of yours (the pickle one needs no teaching). Do it where the class is defined.

    Args:
        cls: the class. Exactly this one: a subclass needs its own registration.
        dump: makes of an instance anything that can be serialized.
        load: makes of that an instance of exactly `cls`. It gets what is stored on the server, so it should trust it
            no more than you trust the server.
        name: the name in stored data, by default ``module:qualname``. Give one that stays if the class may move.

    Raises:
        ConfigurationError: the class or the name is registered already, or `cls` is no class, or one such as `int`
            that every format holds as it is.
    """
    if not isinstance(cast(object, cls), type) or cls in PLAIN_TYPES:
        raise ConfigurationError(f"register_type takes a class that is not a plain one such as int, not {cls!r}")
    entry = Registered(name or wire_name(cls), cls, dump, load)
    if _by_name.setdefault(entry.name, entry) is not entry:
        raise ConfigurationError(f"register_type: the name {entry.name!r} is taken already: give another as name=")
    if _by_class.setdefault(cls, entry) is not entry:
        del _by_name[entry.name]
        raise ConfigurationError(f"register_type: {wire_name(cls)} is registered already: register each class once")


def wire_name(kind: type) -> str:
    """``module:qualname``."""
    return f"{kind.__module__}:{kind.__qualname__}"


def find(wire: str) -> object | None:
    """What goes by this name in the modules loaded now, or None; imports and calls nothing."""
    module, _, qualname = wire.partition(":")
    scope: object = sys.modules.get(module)
    if not issubclass(type(scope), ModuleType):
        return None
    namespace: Mapping[str, object] = object.__getattribute__(
        scope, "__dict__"
    )  # vars() would wake an importlib.util.LazyLoader module
    found: object = None
    for part in qualname.split("."):
        found = namespace.get(part)
        namespace = vars(cast("type[Any]", found)) if _is_class(found) else {}
    return found


def take_apart_registered(value: object, kind: type[Any]) -> tuple[str, object] | None:
    """The tag and payload of an instance of a registered type; None if `kind` is not registered."""
    entry = _by_class.get(kind)
    return None if entry is None else ("registered", [entry.name, entry.dump(value)])


def take_apart_instance(value: Any, kind: type[Any]) -> tuple[str, object] | None:
    """The tag and payload of an enum member, namedtuple, dataclass, attrs or pydantic instance; None for all else.

    Raises:
        NotCacheableError: it is one, but its class could not be found again by its name.
    """
    if issubclass(kind, Enum):
        known = kind.__members__.get(value._name_) is value
        if not known and not issubclass(kind, Flag):
            return None
        return ("enum", [_name_of(kind), value._name_]) if known else ("flag", [_name_of(kind), value._value_])
    if tuple in kind.__mro__:
        names = _tuple_fields(kind)
        if names is None:
            return None
        items = list(_tuple.__iter__(value))  # whatever iteration the class defines
        return "namedtuple", [_name_of(kind), names, items, _attributes(value, kind)]
    plan = _plan(kind)
    if plan is None:
        return None
    slots: dict[str, Any] = {}
    for name, slot in plan.slots.items():
        try:
            slots[name] = slot.__get__(value, kind)
        except AttributeError:
            continue  # a slot that was never filled stays so
    if slots.get("_attrs_cached_hash") is not None:
        slots["_attrs_cached_hash"] = None  # hashes of text differ from process to process
    attributes = _attributes(value, kind)
    if "_attrs_cached_hash" in attributes:
        attributes = {**attributes, "_attrs_cached_hash": None}
    if slots.get("__pydantic_private__"):
        slots["__pydantic_private__"] = _defined(slots["__pydantic_private__"])
    return "object", [_name_of(kind), plan.fields, attributes, slots]


def build_registered(payload: Any) -> object:
    """From the payload of "registered"."""
    name, dumped = payload
    entry = _by_name.get(name)
    if entry is None:
        raise DecodeError("the stored type is not registered here: call serializers.register_type at import")
    value = entry.load(dumped)
    if type(value) is not entry.kind:
        raise DecodeError(f"the load function registered for {entry.name} returned a {wire_name(type(value))}")
    return value


def build_enum(payload: Any) -> object:
    """From the payload of "enum": a member by its name."""
    wire, name = payload
    kind = _class(wire)
    if not issubclass(kind, Enum):
        raise DecodeError(f"{wire} is no enum")
    return kind.__members__[name]


def build_flag(payload: Any) -> object:
    """From the payload of "flag": a combination of members, which has no name of its own."""
    wire, value = payload
    kind = _class(wire)
    if not issubclass(kind, Flag) or type(value) is not int:
        raise DecodeError(f"{wire} is no flag")
    return kind(value)


def build_namedtuple(payload: Any) -> object:
    """From the payload of "namedtuple"."""
    wire, fields, values, attributes = payload
    kind = _class(wire)
    if tuple not in kind.__mro__ or _tuple_fields(kind) != fields or len(values) != len(kind._fields):
        raise DecodeError(f"{wire} is no namedtuple with the stored fields")
    value = _tuple.__new__(kind, values)
    if attributes:
        value.__dict__.update(attributes)
    return value


def build_object(payload: Any) -> object:
    """From the payload of "object": a dataclass, attrs or pydantic instance."""
    wire, fields, attributes, slots = payload
    kind = _class(wire)
    plan = _plan(kind)
    if plan is None or plan.fields != fields or not plan.slots.keys().isdisjoint(attributes):
        raise DecodeError(f"{wire} is no class with the stored fields that may be built here")
    value = object.__new__(kind)
    if attributes:
        object.__getattribute__(value, "__dict__").update(attributes)
    for name, stored in slots.items():
        plan.slots[name].__set__(value, stored)
    return value


def _attributes(value: object, kind: type) -> dict[str, object]:
    # not getattr: for a class without __dict__ that may end in a __getattr__ which asks another object
    return object.__getattribute__(value, "__dict__") if kind.__dictoffset__ else {}


def _is_class(found: object) -> bool:
    return issubclass(type(found), type)  # isinstance would ask an object that is none for its __class__


def _class(wire: str) -> type[Any]:
    found = find(wire)
    if not _is_class(found):
        raise DecodeError(f"{wire} is no class that is loaded here")
    return cast("type[Any]", found)


def _name_of(kind: type) -> str:
    wire = wire_name(kind)
    if find(wire) is not kind:
        raise NotCacheableError(
            f"{wire} cannot be found again under that name: define the class at the top level of its module,"
            " or teach it with serializers.register_type(cls, dump, load)"
        )
    return wire


def _tuple_fields(kind: type) -> str | None:
    names = getattr(kind, "_fields", None)
    return ",".join(cast("tuple[str, ...]", names)) if isinstance(names, tuple) else None


def _plan(kind: type) -> Plan | None:
    plan = _plans.get(kind)
    if plan is not None:
        return plan
    names = _field_names(kind)
    if names is None or any(type(vars(base).get("__new__")) is BuiltinFunctionType for base in kind.__mro__[:-1]):
        return None  # a base written in C, such as dict or Exception, has state that object.__new__ cannot give back
    slots: dict[str, MemberDescriptorType] = {}
    for base in kind.__mro__:
        for name, slot in vars(base).items():
            if type(slot) is MemberDescriptorType:
                slots.setdefault(name, slot)
    plan = Plan(",".join(names), slots)
    if find(wire_name(kind)) is kind:
        _plans[kind] = plan
    return plan


def _field_names(kind: type[Any]) -> list[str] | None:
    own = vars(kind)
    if "__dataclass_fields__" in own:
        from dataclasses import fields  # costly to import; loaded already, since there is a dataclass

        return [field.name for field in fields(kind)]
    if "__attrs_attrs__" in own and "attr" in sys.modules:
        return [attribute.name for attribute in own["__attrs_attrs__"]]
    if find("pydantic.main:BaseModel") in cast("tuple[object, ...]", kind.__mro__) and own.get("__pydantic_complete__"):
        return [*kind.model_fields, *kind.__private_attributes__]
    return None


def _defined(private: dict[str, object]) -> dict[str, object]:
    undefined = find("pydantic_core._pydantic_core:PydanticUndefined")  # pydantic's own __getstate__ leaves it out too
    return {name: value for name, value in private.items() if value is not undefined}
