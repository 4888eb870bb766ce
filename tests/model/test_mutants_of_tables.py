"""Each arrow of the tables with one fault: every fault is caught, or known to break no promise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shirako.actors.authority import Authority
from shirako.actors.role import Role
from shirako.core.authority import SiteState
from shirako.core.machine import State, Woken
from tests.model import harmless, mutants, operators, report
from tests.model.mutants import FUNCTIONS, TABLES

STATES = [
    pytest.param(role, state, id=f"{role.title}-{state.value}")
    for role, table in TABLES.items()
    for state in dict.fromkeys(state for state, _ in table)
]


@pytest.mark.parametrize(("role", "state"), STATES)
def test_faults_of_a_states_arrows_are_caught(
    role: type[Role[Any]], state: State, record_property: Callable[[str, object], None]
) -> None:
    tally = report.of_table(role, state)
    record_property("mutants", tally.made)
    record_property("caught", tally.caught.total())
    record_property("harmless", len(tally.harmless))
    print(tally.summary)
    assert tally.made
    assert not tally.escaped, "\n".join(["neither caught nor listed:", *tally.escaped])
    assert not tally.exposed, "\n".join(["listed, and caught:", *tally.exposed])


def test_a_fault_is_told_from_the_start_on() -> None:
    """The trace of a violation is a run that can be followed."""
    dropped = (SiteState.PRIMING, Woken)
    mutant = next(m for m in mutants.of_tables(Authority) if m.pair == dropped)
    verdict = mutants.judge(mutant)
    assert verdict.invariant == "ENDS"
    assert verdict.told.splitlines()[1].strip().endswith("start => -/-/-")


def test_what_is_listed_as_harmless_exists() -> None:
    """A list that outlives what it speaks of would hide a fault that gets the same name."""
    made = {mutant.name for role in TABLES for mutant in mutants.of_tables(role)}
    made |= {cut.name for group in FUNCTIONS.values() for f in group for cut in operators.cuts(f)}
    listed = [name for names in harmless.REASONS.values() for name in names]
    assert not set(listed) - made
    assert len(set(listed)) == len(listed), "one reason is enough"
