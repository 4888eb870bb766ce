"""All that a role holds, as a value: to see that a refusal changed nothing, and a crash loses
nothing."""

from __future__ import annotations

from enum import Enum
from types import FunctionType, MethodType
from typing import Any

import msgspec

from shirako.actors.role import Batch, Role
from shirako.trust import Verifier

_NO_BOOKS = ("me", "table", "policy", "policies", "skews_ms", "acknowledged")
_NO_BOOK_TYPES = (Verifier, FunctionType, MethodType, Batch)
"""Caches, code, and what is about to be written."""


def books(role: Role[Any]) -> Any:
    """What the role would lose if it forgot everything; equal if and only if nothing changed."""
    return {name: _value(part, 0) for name, part in vars(role).items() if name not in _NO_BOOKS}


def _value(part: Any, depth: int) -> Any:
    if depth > 30:
        raise AssertionError(f"books with a circle in them: {type(part)}")
    if part is None or isinstance(part, str | bytes | int | float | Enum):
        return part
    if isinstance(part, _NO_BOOK_TYPES) or type(part).__module__ == "functools":
        return type(part).__name__
    deeper = depth + 1
    if isinstance(part, msgspec.Struct):
        fields = part.__struct_fields__
        return (type(part).__name__, *(_value(getattr(part, name), deeper) for name in fields))
    if hasattr(part, "items"):
        return {_value(key, deeper): _value(value, deeper) for key, value in part.items()}
    if isinstance(part, set | frozenset):
        return frozenset(_value(one, deeper) for one in part)
    if hasattr(part, "__iter__"):
        return tuple(_value(one, deeper) for one in part)
    slots = [slot for kind in type(part).__mro__ for slot in getattr(kind, "__slots__", ())]
    names = [*getattr(part, "__dict__", {}), *slots]
    if not names:
        raise AssertionError(f"books with something unknown in them: {type(part)}")
    found = {name: _value(getattr(part, name), deeper) for name in names if hasattr(part, name)}
    return (type(part).__name__, tuple(found.items()))
