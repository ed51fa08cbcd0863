"""How values become bytes on a cache server, and come back as exactly what they were.

A serializer either promises that `loads(dumps(value))` has the same value *and the same types* as `value`, or it
refuses with `NotCacheableError`: a hit must not differ from the miss before it.

Three ship with cacheside: ``msgpack`` (the default), ``json`` (readable, same types) and ``pickle`` (opt-in, signed;
read its warning). Nothing of them is imported before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeGuard, runtime_checkable

from ..errors import ConfigurationError
from ..registry import Registry

if TYPE_CHECKING:
    from .classes import register_type
    from .compression import Compressed, Compression, Compressor

    Compress: TypeAlias = str | Compressor | Compression
else:
    Compress = object

__all__ = [
    "Compress", "Compressed", "Compression", "Compressor", "Factory", "Secret", "Serializer", "around", "create",
    "refuse_secret", "register", "register_compressor", "register_type", "registry",
]  # fmt: skip

Secret: TypeAlias = str | bytes | Sequence[str | bytes]
"""What signs payloads: one secret, or several for rotation (the first signs, any of them verifies)."""


@runtime_checkable
class Serializer(Protocol):
    """Turns values into bytes and back. One object serves all threads at once."""

    @property
    def name(self) -> str:
        """The name it is registered under, such as "msgpack"."""
        ...

    def dumps(self, value: object) -> bytes:
        """The bytes from which `loads` makes an equal value of exactly the same types.

        Raises:
            NotCacheableError: no such promise can be made; the message names the type and the cure.
        """
        ...

    def loads(self, data: bytes) -> object:
        """The value that `dumps` was given.

        Raises:
            DecodeError: the bytes are corrupt, foreign, of another shape, or name something that may not be built.
                No other exception ever leaves it.
        """
        ...


Factory: TypeAlias = Callable[["Secret | None"], Serializer]
"""Makes a serializer from the user's `secret=`, which is None if there is none."""

registry: Registry[Factory | Serializer] = Registry(
    "serializer",
    "cacheside.serializers",
    builtin={
        "msgpack": "cacheside.serializers.msgpack:create",
        "json": "cacheside.serializers.json:create",
        "pickle": "cacheside.serializers.pickle:create",
    },
    extras={},
)


def register(name: str, target: str | Factory | Serializer) -> None:
    """Make a serializer known as ``serializer="name"``.

    Args:
        name: what users write.
        target: a factory that takes the secret (or None) and returns a `Serializer`; or a `Serializer`; or the path
            of either, ``"package.module:Attribute"``, imported on first use.

    Raises:
        ConfigurationError: the name is taken, or the path has no colon.
    """
    registry.register(name, target)


def create(serializer: str | Serializer, secret: Secret | None = None) -> Serializer:
    """The serializer that a user asked for.

    Args:
        serializer: a registered name, or a `Serializer`, which is taken as it is.
        secret: for serializers that sign. At least 16 bytes each; ``secrets.token_hex(32)`` makes a good one.

    Raises:
        ConfigurationError: the name is unknown, the object is no serializer, a secret is missing, too short, or given
            to a serializer that has no use for it.
    """
    target = registry.get(serializer) if isinstance(serializer, str) else serializer
    if _is_serializer(target):
        refuse_secret(target.name, secret)
        return target
    if not isinstance(serializer, str):
        raise ConfigurationError(
            f"serializer={serializer!r} is neither a name nor an object with name, dumps and loads"
        )
    made = target(secret) if callable(target) else target
    if not _is_serializer(made):
        raise ConfigurationError(f"serializer {serializer!r}: {target!r} made no object with name, dumps and loads")
    return made


def refuse_secret(name: str, secret: Secret | None) -> None:
    """For factories of serializers that sign nothing: a secret that is ignored would promise safety it does not give.

    Raises:
        ConfigurationError: a secret was given.
    """
    if secret is not None:
        raise ConfigurationError(f"serializer {name!r} signs nothing: leave secret= out, or choose serializer='pickle'")


def around(serializer: Serializer, compress: Compress | None) -> Serializer:
    """`serializer`, with the compression that a user asked for.

    Raises:
        ConfigurationError: the compressor is unknown, or a number cannot be.
        MissingExtraError: its package is not installed; the message has the pip command.
    """
    if compress is None:
        return serializer
    from .compression import Compressed, Compression

    return Compressed(serializer, compress if isinstance(compress, Compression) else Compression(compress))


def register_compressor(name: str, target: str | type[Compressor] | Compressor) -> None:
    """Make a compressor known as ``compress="name"``.

    Args:
        name: what users write.
        target: a `Compressor`, its class, or the path of either, ``"package.module:Attribute"``.

    Raises:
        ConfigurationError: the name is taken, or the path has no colon.
    """
    from .compression import registry as compressors

    compressors.register(name, target)


def __getattr__(name: str) -> Any:
    # They are costly to import, and few need them.
    if name == "register_type":
        from .classes import register_type

        return register_type
    if name in ("Compressed", "Compression", "Compressor"):
        from . import compression

        return getattr(compression, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _is_serializer(candidate: object) -> TypeGuard[Serializer]:
    return isinstance(candidate, Serializer) and not isinstance(candidate, type)  # a class has the attributes as well
