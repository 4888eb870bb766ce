"""What is kept by the hundred thousand is not looked at by the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import msgspec

from shirako.core.terms import Term
from tests.scenarios.stage import Stage


def inside(value: Any) -> Iterator[msgspec.Struct]:
    """The struct itself, and all that it holds."""
    if isinstance(value, msgspec.Struct):
        yield value
        for name in value.__struct_fields__:
            yield from inside(getattr(value, name))
    elif isinstance(value, tuple | list):
        for one in value:
            yield from inside(one)
    elif isinstance(value, dict):
        for one in value.values():
            yield from inside(one)


def kept(stage: Stage) -> set[type]:
    """Types of what the three actors hold; all of it must be out of the collector's sight."""
    found = set()
    for role in stage.roles.values():
        for _, _, record in role.kept():
            for one in inside(record):
                assert not gc.is_tracked(one), f"{type(one).__name__} is looked at"
                found.add(type(one))
    return found


def test_a_lease_in_all_its_states_is_not_collected() -> None:
    stage = Stage(["n1", "n2", "n3"])
    stage.delegate(3, Term(90, 2000))
    stage.tick(100)
    types = set()
    stage.request("L1", 2, Term(100, 900))
    stage.settle()
    types |= kept(stage)
    assert stage.state("guest", "L1") == "Active"
    stage.extend("L1", 1200)
    stage.settle()
    types |= kept(stage)
    stage.close("L1")
    stage.settle()
    types |= kept(stage)
    assert stage.state("guest", "L1") == "Closed"
    names = {one.__name__ for one in types}
    assert {"SiteLease", "BrokerLease", "GuestLease", "Line", "Spent", "Grant"} <= names
