"""How far a command has come."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[float], None]
"""Is told how much of a phase has been done, from 0 to 1."""
