"""A violation is told with as few faults as it takes."""

from __future__ import annotations

from typing import Any

import pytest

from shirako.actors.authority import Authority
from shirako.simulation.faults import ALL_FAULTS
from shirako.simulation.run import Outcome, run
from shirako.simulation.shrink import shrink


def violating(monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """A run in which units that failed are handed out again."""
    quarantine = Authority._quarantine

    def forgiving(self: Any, effect: Any, *rest: Any) -> None:
        quarantine(self, effect, *rest)
        self.lift_quarantine(effect.unit, self.units[effect.unit].epoch)

    monkeypatch.setattr(Authority, "_quarantine", forgiving)
    return next(outcome for seed in range(1, 40) if (outcome := run(seed)).violations)


def test_a_violation_is_shown_with_fewer_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = violating(monkeypatch)
    shrunk = shrink(outcome, ALL_FAULTS)
    assert len(shrunk.outcome.injected) < len(outcome.injected) / 4
    assert shrunk.violation.invariant == outcome.violations[0].invariant
    only = frozenset(injection.name for injection in shrunk.outcome.injected)
    again = run(outcome.seed, only=only)
    assert again.digest == shrunk.outcome.digest, "what was shown can be seen again"


def test_each_fault_that_is_left_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = violating(monkeypatch)
    shrunk = shrink(outcome, ALL_FAULTS, runs_max=1000)
    names = [injection.name for injection in shrunk.outcome.injected]
    for name in names:
        fewer = run(outcome.seed, only=frozenset(names) - {name})
        assert shrunk.violation.invariant not in {v.invariant for v in fewer.violations}


def test_it_gives_up_after_so_many_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = violating(monkeypatch)
    shrunk = shrink(outcome, ALL_FAULTS, runs_max=3)
    assert shrunk.runs <= 3
    assert shrunk.violation.invariant == outcome.violations[0].invariant
