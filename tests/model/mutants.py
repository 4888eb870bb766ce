"""Mutants: the tables and functions of the roles with one fault each, and who catches them.

Each mutant is run in small worlds, the smallest first, until an invariant is violated or something
can not be reached any more. One that no world catches is listed in `tests.model.harmless` with the
reason why it breaks no promise; a mutant that is neither caught nor listed fails the tests, and so
does one that is listed and caught.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from shirako.actors import convicting
from shirako.actors.accounts import Accounts
from shirako.actors.authority import Authority
from shirako.actors.broker import Broker
from shirako.actors.role import Role
from shirako.actors.service_manager import ServiceManager
from shirako.core import account, authority, broker, claims, conflict, guest
from shirako.core.account import Account
from shirako.core.exchange import Line
from shirako.core.machine import Arrow
from tests.model import harmless, properties, worlds
from tests.model.explorer import explore_world
from tests.model.invariants import Violation
from tests.model.operators import CHANGES, Cut, Function, changed
from tests.model.world import Mutation, Pair, World
from tests.model.worlds import Case

TABLE_STATES_MAX = 20_000
FUNCTION_STATES_MAX = 3000
"""Of an honest world in which mutants are run; those of functions have to make every step anew."""
GROWTH = 5
"""How many times the states of the honest world a mutant may have before it is called endless."""

TABLES: dict[type[Role[Any]], Mapping[Pair, Arrow[Any]]] = {
    ServiceManager: guest.TABLE,
    Broker: broker.TABLE,
    Authority: authority.TABLE,
}

_TABLE_WORLDS = {**worlds.SMALL, **worlds.LARGER}


@dataclass(frozen=True)
class Mutant:
    """A table with one arrow that is missing or does something else."""

    role: type[Role[Any]]
    pair: Pair
    what: str
    mutation: Mutation

    @property
    def name(self) -> str:
        state, event = self.pair
        return f"{self.role.title}: {state.value}, {event.__name__}: {self.what}"


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant; empty: nobody noticed it."""

    invariant: str = ""
    world: str = ""
    told: str = ""


def of_tables(role: type[Role[Any]]) -> Iterator[Mutant]:
    """Every mutant of a role's table that differs from it in one of the small worlds."""
    table = TABLES[role]
    states = tuple(type(next(iter(table))[0]))
    for pair, arrow in table.items():
        yield Mutant(role, pair, "is dropped", {role: {pair: None}})
        samples = [
            sample
            for case in _TABLE_WORLDS.values()
            for sample in worlds.samples(case.bounds).get(role, {}).get(pair, {}).values()
        ]
        for what, change in CHANGES.items():
            if any(change(r, step) != step for r, _, step in samples):
                yield Mutant(role, pair, what, {role: {pair: changed(arrow, change, states)}})


def judge(mutant: Mutant, states_max: int = TABLE_STATES_MAX) -> Verdict:
    """Runs a mutant in the small worlds that use its arrow, the smallest first."""
    ways = [
        (worlds.explored(case.bounds).states, name)
        for name, case in _TABLE_WORLDS.items()
        if (mutant.role, mutant.pair) in worlds.pairs(case.bounds)
    ]
    for states, name in sorted(ways):
        if states > states_max:
            break
        case = _TABLE_WORLDS[name]
        world = worlds.world(case.bounds).mutated(mutant.mutation)
        verdict = _run(world, name, case, GROWTH * states)
        if verdict.invariant:
            return verdict
    return Verdict()


def _run(world: World, name: str, case: Case, states_max: int) -> Verdict:
    try:
        result = explore_world(world, states_max)
    except Violation as violation:
        return Verdict(violation.invariant, name, str(violation))
    missed = case.missed(result)
    if missed:
        return Verdict("REACHED", name, f"REACHED: {', '.join(missed)} is out of reach")
    return Verdict()


# Functions --------------------------------------------------------------------------------------

FUNCTIONS = {
    "claims": (
        *(Function(claims, name) for name in ("check_link", "check_chain")),
        *(
            Function(Authority, name)
            for name in (
                "_check_ticket",
                "_check_chain",
                "_check_unspent",
                "_check_extension",
                "_revoked_above",
                "_extension",
                "newcomer",
                "admit",
            )
        ),
        *(Function(Broker, name) for name in ("admit", "_receipt", "_take_delegation")),
        *(
            Function(ServiceManager, name)
            for name in ("admit", "event_of", "_read_ticket", "_ticket_updated", "_lease_updated")
        ),
        Function(Role, "_receive"),
    ),
    "books": (
        *(
            Function(Authority, name)
            for name in (
                "loaded",
                "forget",
                "_assign",
                "_take",
                "_release",
                "_quarantine",
                "_serve_held",
                "_unspend",
                "unit_lost",
                "fresh_epoch",
                "retry",
                "lift_quarantine",
            )
        ),
        Function(Broker, "_answer"),
        Function(ServiceManager, "undeliverable"),
        *(Function(Role, name) for name in ("handler_ended", "woken", "apply")),
        *(Function(Line, name) for name in ("say", "say_again")),
    ),
    "accounts": (
        Function(account, "_merged", amounts=True),
        *(
            Function(Account, name, amounts=True)
            for name in (
                "post",
                "follows",
                "holds",
                "take",
                "page",
                "_is_full",
                "_outlasting",
            )
        ),
        *(Function(Accounts, name, amounts=True) for name in ("are_early", "follow", "_stored")),
        *(
            Function(conflict, name, amounts=True)
            for name in ("judge", "_check_page", "_left", "heaviest")
        ),
        *(Function(convicting, name, amounts=True) for name in ("conflict_of", "_at")),
        Function(Broker, "_settled", amounts=True),
        *(Function(Broker, name) for name in ("newcomer", "loaded")),
    ),
}
"""What is asked of whatever comes in, what the roles' books and numbers rest on, and what shows
who has sold too much."""


def judge_cut(cut: Cut, group: str, states_max: int = FUNCTION_STATES_MAX) -> Verdict:
    """Runs a mutant in fresh worlds, the quickest first; forgeries before all to test checks.

    Those of accounts and proofs have to do with many claims, more than a world has: tests of theirs
    come before the worlds.
    """
    if group == "accounts":
        with cut.made():
            failing = properties.failing()
        if failing:
            return Verdict("PROPERTY", failing, f"PROPERTY: {failing}")
    cases = {**worlds.SMALL, **worlds.SHAKEN}
    if not harmless.reason_of(cut.name):
        cases |= worlds.DISHONEST
    ways = sorted(cases, key=lambda name: worlds.explored(cases[name].bounds).seconds)
    if group == "claims" and worlds.FIRST_FOR_CLAIMS in cases:
        ways = [worlds.FIRST_FOR_CLAIMS, *ways]
    for name in ways:
        case = cases[name]
        states = worlds.explored(case.bounds).states
        if states > states_max:
            continue
        with cut.made():
            try:
                verdict = _run(World(case.bounds), name, case, GROWTH * states)
            except Exception as error:  # the world can not even be set up with it
                verdict = Verdict("WHOLE", name, f"WHOLE: nothing works: {error!r}")
        if verdict.invariant:
            return verdict
    return Verdict()
