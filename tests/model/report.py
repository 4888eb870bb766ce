"""What the checker found, as a table for people and as JSON."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from shirako.actors.role import Role
from shirako.core.machine import State
from tests.model import harmless, mutants, worlds
from tests.model.explorer import possible
from tests.model.mutants import FUNCTIONS, TABLES, Verdict
from tests.model.operators import Function, cuts

PAPER = {"combinations": 360, "reachable": 30}
"""Of the paper's three machines, in its own words "about" and "about"."""


@dataclass(frozen=True)
class Row:
    """One world. `depth`: the longest of the shortest ways to a state; `seconds` of one core."""

    world: str
    states: int
    edges: int
    depth: int
    steps: int
    combinations: int
    seconds: float


@dataclass
class Tally:
    """What became of a group of mutants."""

    group: str
    made: int = 0
    caught: Counter[str] = field(default_factory=Counter)
    """By the invariant that was violated."""
    harmless: list[str] = field(default_factory=list)
    """Listed, with a reason, and caught by nobody."""
    escaped: list[str] = field(default_factory=list)
    """Neither caught nor listed: a fault of the checker."""
    exposed: list[str] = field(default_factory=list)
    """Listed and caught: the list is wrong."""

    def add(self, name: str, verdict: Verdict) -> None:
        """Count one mutant."""
        self.made += 1
        listed = harmless.reason_of(name) is not None
        if verdict.invariant:
            self.caught[verdict.invariant] += 1
            if listed:
                self.exposed.append(f"{name}: {verdict.told}")
        else:
            (self.harmless if listed else self.escaped).append(name)

    @property
    def summary(self) -> str:
        """One line for people."""
        by = ", ".join(f"{count} by {what}" for what, count in self.caught.most_common())
        return (
            f"{self.group}: {self.made} mutants, {self.caught.total()} caught ({by or '-'}), "
            f"{len(self.harmless)} harmless, {len(self.escaped)} escaped"
        )


def rows() -> Iterator[Row]:
    """Explores every world."""
    for name, case in worlds.WORLDS.items():
        found = worlds.explored(case.bounds)
        yield Row(
            name,
            found.states,
            found.edges,
            found.depth,
            found.steps,
            len(found.combinations),
            round(found.seconds, 2),
        )


def reachable() -> set[tuple[str, ...]]:
    """Combinations of three states that are reached in any world, where all three have a record."""
    return {
        combination
        for case in worlds.WORLDS.values()
        for combination in worlds.explored(case.bounds).combinations
        if "-" not in combination
    }


def of_table(role: type[Role[Any]], state: State | None = None) -> Tally:
    """Makes and runs the mutants of a role's table, or of what leads out of one of its states."""
    made = [m for m in mutants.of_tables(role) if state in (None, m.pair[0])]
    named = ((mutant.name, partial(mutants.judge, mutant)) for mutant in made)
    limits = (mutants.TABLE_STATES_MAX, harmless.TABLE_STATES_MAX)
    return _tally(f"table of the {role.title}", named, *limits)


def of_function(function: Function, group: str) -> Tally:
    """Makes and runs the mutants of a function."""
    named = ((cut.name, partial(mutants.judge_cut, cut, group)) for cut in cuts(function))
    limits = (mutants.FUNCTION_STATES_MAX, harmless.FUNCTION_STATES_MAX)
    return _tally(function.title, named, *limits)


def _tally(
    group: str,
    named: Iterable[tuple[str, Callable[[int], Verdict]]],
    states_max: int,
    if_listed: int,
) -> Tally:
    logging.disable(logging.CRITICAL)  # mutants make policies and roles complain
    try:
        tally = Tally(group)
        for name, judge in named:
            listed = harmless.reason_of(name) is not None
            tally.add(name, judge(if_listed if listed else states_max))
        return tally
    finally:
        logging.disable(logging.NOTSET)


def report(*, with_mutants: bool) -> dict[str, Any]:
    """All of it, for JSON."""
    found = list(rows())
    said: dict[str, Any] = {
        "declared": possible(),
        "reachable": len(reachable()),
        "paper": PAPER,
        "worlds": [asdict(row) for row in found],
        "totals": {
            "states": sum(row.states for row in found),
            "edges": sum(row.edges for row in found),
            "depth": max(row.depth for row in found),
            "steps": sum(row.steps for row in found),
            "seconds": round(sum(row.seconds for row in found), 2),
        },
    }
    if with_mutants:
        tallies = [of_table(role) for role in TABLES]
        tallies += [of_function(f, group) for group, fs in FUNCTIONS.items() for f in fs]
        said["mutants"] = [{**vars(tally), "caught": dict(tally.caught)} for tally in tallies]
        said["mutants_made"] = sum(tally.made for tally in tallies)
        said["mutants_caught"] = sum(tally.caught.total() for tally in tallies)
        said["mutants_harmless"] = sum(len(tally.harmless) for tally in tallies)
    return said


def text(said: dict[str, Any]) -> str:
    """The same for people."""
    names = ("states", "edges", "depth", "steps", "combinations", "seconds")
    head = f"{'world':42}" + "".join(f"{name:>13}" for name in names)
    shown = [*said["worlds"], {"world": "all", "combinations": "", **said["totals"]}]
    lines = [head]
    lines += [f"{row['world']:42}" + "".join(f"{row[name]:>13}" for name in names) for row in shown]
    lines.append(
        f"\n{said['reachable']} of {said['declared']} combinations of the three tables' states are "
        f"reachable; the paper counts about {PAPER['combinations']} of its machines, "
        f"about {PAPER['reachable']} of them legal and reachable"
    )
    lines += [
        Tally(**{**tally, "caught": Counter(tally["caught"])}).summary
        for tally in said.get("mutants", ())
    ]
    if "mutants_made" in said:
        lines.append(
            f"mutants: {said['mutants_made']} made, {said['mutants_caught']} caught, "
            f"{said['mutants_harmless']} harmless for a reason that is listed"
        )
    return "\n".join(lines)
