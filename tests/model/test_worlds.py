"""The product of the three tables, explored whole within bounds.

EXCLUSIVE, CONSERVE, ROOTED, ENDS, CLEAN, DURABLE, ATOMIC and exactly-once hold in every reachable
state; see `explorer` and `invariants`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shirako.core.authority import SiteState
from shirako.core.broker import BrokerState
from shirako.core.guest import GuestState
from tests.core.cast import SKEW
from tests.model import report
from tests.model.explorer import possible
from tests.model.world import END, LONGER
from tests.model.worlds import ACTIVE, DISHONEST, SHAKEN, WORLDS, explored

CLOSE_FAILS_BY = 15
"""Ticks that three tries of a teardown take, and so much later may a lease be at an end."""


@pytest.mark.parametrize("name", WORLDS)
def test_every_run_keeps_the_invariants(
    name: str, record_property: Callable[[str, object], None]
) -> None:
    case = WORLDS[name]
    bounds, result = case.bounds, explored(case.bounds)
    for what in ("states", "edges", "depth", "seconds"):
        record_property(what, getattr(result, what))
    record_property("combinations", len(result.combinations))
    assert not case.missed(result), "what a run must be able to reach"
    last = LONGER if bounds.extensions or bounds.follows else END
    tries = CLOSE_FAILS_BY * (1 + bounds.retries) if bounds.failures else 0
    assert result.latest_end <= last + SKEW + tries  # ENDS: bounded


@pytest.mark.parametrize("name", [*SHAKEN, *DISHONEST])
def test_no_dishonesty_and_no_crash_gains_anything(name: str) -> None:
    """ROOTED, ISOLATED and DURABLE, in the worlds in which mutants of the functions are run."""
    case = {**SHAKEN, **DISHONEST}[name]
    assert not case.missed(explored(case.bounds))


def test_combinations_of_states(record_property: Callable[[str, object], None]) -> None:
    """The paper counts about 360 combinations of its three machines, 30 of them reachable."""
    reachable = report.reachable()
    record_property("declared", possible())
    record_property("reachable", len(reachable))
    print(f"{len(reachable)} of {possible()} combinations are reachable")
    assert possible() == len(GuestState) * len(BrokerState) * len(SiteState)
    assert len(reachable) < possible() / 5
    # what no run may reach: a guest that has what its site has not set up yet
    assert ("Active", "Ticketed", "Redeeming") not in reachable
    assert ACTIVE in reachable
