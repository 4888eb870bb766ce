"""From a run that violates an invariant to one that does so with as few faults as we can find.

A run is repeated with only some of its own injections allowed. First the shortest prefix of them
is looked for, then whole kinds are dropped, then ever smaller parts (delta debugging: Zeller and
Hildebrandt, "Simplifying and isolating failure-inducing input", 2002).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shirako.simulation.facts import Violation
from shirako.simulation.faults import Faults, Injection
from shirako.simulation.run import Outcome, run

RUNS_MAX = 150
"""Repetitions that are spent on one violation."""


@dataclass(frozen=True, slots=True)
class Shrunk:
    """The smallest run that was found, and the violation in it."""

    outcome: Outcome
    violation: Violation
    runs: int


def shrink(
    outcome: Outcome, faults: Faults, runs_max: int = RUNS_MAX, rerun: Callable[..., Outcome] = run
) -> Shrunk:
    """A smaller run with the same invariant violated first; the same run if there is none."""
    return _Search(outcome, faults, runs_max, rerun).best()


class _Search:
    def __init__(
        self, outcome: Outcome, faults: Faults, runs_max: int, rerun: Callable[..., Outcome]
    ) -> None:
        self._faults = faults
        self._rerun = rerun
        self._left = runs_max
        self._runs = 0
        self._invariant = outcome.violations[0].invariant
        self._best = Shrunk(outcome, outcome.violations[0], 0)

    def best(self) -> Shrunk:
        injections = self._prefix(list(self._best.outcome.injected))
        injections = self._without_kinds(injections)
        self._without_parts(injections)
        return Shrunk(self._best.outcome, self._best.violation, self._runs)

    def _violates(self, injections: Sequence[Injection]) -> bool:
        """Run with these alone; what violates the same invariant is the best so far."""
        if self._left <= 0:
            return False
        self._left -= 1
        self._runs += 1
        only = frozenset(injection.name for injection in injections)
        outcome = self._rerun(self._best.outcome.seed, self._faults, only=only)
        found = [v for v in outcome.violations if v.invariant == self._invariant]
        if not found:
            return False
        if len(outcome.injected) <= len(self._best.outcome.injected):
            self._best = Shrunk(outcome, found[0], self._runs)
        return True

    def _prefix(self, injections: list[Injection]) -> list[Injection]:
        """The shortest prefix, if violating is a matter of enough faults having happened."""
        low, high = 0, len(injections)
        while low < high:
            middle = (low + high) // 2
            if self._violates(injections[:middle]):
                high = middle
            else:
                low = middle + 1
        return injections[:high]

    def _without_kinds(self, injections: list[Injection]) -> list[Injection]:
        for kind in sorted({injection.kind for injection in injections}):
            fewer = [injection for injection in injections if injection.kind != kind]
            if self._violates(fewer):
                injections = fewer
        return injections

    def _without_parts(self, injections: list[Injection]) -> list[Injection]:
        parts = 2
        while len(injections) > 1 and self._left > 0:
            size = -(-len(injections) // parts)
            for start in range(0, len(injections), size):
                fewer = injections[:start] + injections[start + size :]
                if self._violates(fewer):
                    injections, parts = fewer, max(parts - 1, 2)
                    break
            else:
                if size == 1:
                    break
                parts = min(parts * 2, len(injections))
        if len(injections) == 1 and self._violates([]):
            return []
        return injections
