"""How much memory a value takes: an estimate, for `max_bytes`."""

from __future__ import annotations

import gc
import sys
import types
from collections import deque
from typing import Any

_SHARED = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType)


def size_of(value: Any) -> int:
    """Bytes of `value` and of all that it refers to, each object once; but for classes, modules and functions.

    As `sys.getsizeof` sees it, with the garbage collector's own view of what refers to what. It takes a time in
    proportion to the number of objects: give a function of your own for values that are large.
    """
    total = 0
    seen: set[int] = set()
    left = deque([value])
    while left:
        each = left.pop()
        if id(each) in seen or isinstance(each, _SHARED):
            continue
        seen.add(id(each))
        total += sys.getsizeof(each)
        left.extend(gc.get_referents(each))
    return total
