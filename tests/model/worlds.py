"""The small worlds that are explored whole, and what a run in each must be able to reach."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from shirako.actors.role import Role
from tests.model.explorer import Result, explore_world
from tests.model.world import END, Bounds, Pair, Sample, World

ACTIVE = ("Active", "Ticketed", "Active")
CLOSED = ("Closed", "Closed", "Closed")
FAILED = ("Failed", "Closed", "Closed")


@dataclass(frozen=True)
class Case:
    """A world, and what has to be reachable in it: without that, its invariants say nothing."""

    bounds: Bounds
    combinations: tuple[tuple[str, ...], ...] = (ACTIVE, CLOSED)
    """Of the states of the first lease at guest, broker and site."""
    marks: tuple[str, ...] = ()
    """See `explorer._marks`."""

    def missed(self, result: Result) -> list[str]:
        """What had to be reachable and is not."""
        return [
            *("/".join(c) for c in self.combinations if c not in result.combinations),
            *(mark for mark in self.marks if mark not in result.marks),
        ]


EXTENDED = ("guest is Active with an extension", "site is Active with an extension")

REVOKED = (
    "guest is Active and told of a revocation",
    "guest is Failed with a proof of a revocation",
)

SECOND = ("site is Redeeming until units come free", "guest is Active as the second")
CLOSE_FAILED = ("Closed", "Closed", "CloseFailed")

WORLDS = {
    "plain": Case(Bounds(tombstones=True), marks=("all is forgotten",)),
    "extension": Case(Bounds(extensions=1), marks=EXTENDED),
    "extension, until it is forgotten": Case(
        Bounds(extensions=1, tombstones=True, prompt=True), marks=("all is forgotten", *EXTENDED)
    ),
    "lost and late messages": Case(Bounds(faults=2)),
    "lost and late messages while extending": Case(
        Bounds(faults=1, extensions=1, closes=False), marks=EXTENDED
    ),
    "crashes": Case(Bounds(crashes=True, closes=False)),
    "handlers that fail": Case(
        Bounds(failures=4), (ACTIVE, CLOSED, FAILED, ("Closed", "Closed", "CloseFailed"))
    ),
    "a failed teardown tried again": Case(
        Bounds(failures=3, retries=1), marks=("site is Closed with two receipts",)
    ),
    "set-up swapped to another unit": Case(
        Bounds(units=3, sold=2, wanted=2, least=1, failures=1),
        marks=("site is Active with a unit swapped",),
    ),
    "fewer units than asked for": Case(
        Bounds(units=2, sold=2, wanted=2, least=1, failures=1, extensions=1, closes=False),
        marks=("guest is Active with fewer units", *EXTENDED),
    ),
    "what a guest asks for is not to be had": Case(Bounds(unsuitable=1), (ACTIVE, CLOSED, FAILED)),
    "a redeem that is refused": Case(Bounds(refused=True, faults=1), (FAILED,)),
    "units to join": Case(
        Bounds(joins=True, failures=1), marks=("guest is Active with a unit joined",)
    ),
    "a term that begins later": Case(
        Bounds(starts_in=3, site_closes=1), (ACTIVE, CLOSED, ("Ticketed", "Ticketed", "-"))
    ),
    "two guests and one unit": Case(Bounds(guests=2, prompt=True)),
    "one guest after the other": Case(
        Bounds(guests=2, follows=True, prompt=True, deaths=1, mends=1, closes=False),
        marks=SECOND,
    ),
    "leases that the site closes": Case(
        Bounds(site_closes=1, extensions=1, closes=False), marks=EXTENDED
    ),
    "what was revoked, with lost and late messages": Case(
        Bounds(revokes=1, faults=1, extensions=1, prompt=True), (ACTIVE, CLOSED, FAILED), REVOKED
    ),
    "a unit that dies": Case(
        Bounds(deaths=1, units=2, closes=False),
        marks=("guest is Active with another unit", "guest is Active and degraded"),
    ),
    "units that die, used or not": Case(
        Bounds(deaths=2, idle_deaths=1, units=2, prompt=True),
        marks=("guest is Active with another unit", "guest is Active and degraded"),
    ),
    "a unit that dies and is mended": Case(
        Bounds(deaths=1, mends=1, closes=False, joins=True),
        marks=("guest is Active and degraded",),
    ),
}

SMALL = {
    "a stranger": Case(
        Bounds(prompt=True, stranger=True), (("Failed", "-", "-"), ("Closed", "-", "-"))
    ),
    "a lease": Case(Bounds(prompt=True)),
    "refused": Case(Bounds(prompt=True, refused=True), (FAILED,)),
    "later": Case(
        Bounds(prompt=True, starts_in=3), (ACTIVE, CLOSED, ("Ticketed", "Ticketed", "-"))
    ),
    "not to be had": Case(Bounds(prompt=True, unsuitable=1), (ACTIVE, CLOSED, FAILED)),
    "joined": Case(
        Bounds(prompt=True, joins=True, failures=1), marks=("guest is Active with a unit joined",)
    ),
    "joined and extended": Case(
        Bounds(prompt=True, joins=True, extensions=1, patient=True),
        marks=("guest is Active with a unit joined", *EXTENDED),
    ),
    "swapped": Case(
        Bounds(prompt=True, units=2, failures=1), marks=("site is Active with a unit swapped",)
    ),
    "fewer": Case(
        Bounds(prompt=True, units=2, sold=2, wanted=2, failures=1, extensions=1, closes=False),
        marks=("guest is Active with fewer units",),
    ),
    "extended": Case(Bounds(prompt=True, extensions=1), marks=EXTENDED),
    "denied": Case(
        Bounds(prompt=True, extensions=1, delegated_until=150),
        marks=("guest is Active with a refused extension",),
    ),
    "extended by a share that the site forgot": Case(
        Bounds(prompt=True, extensions=1, delegated_until=END, forgotten_share=True),
        marks=("guest is Active with a refused extension",),
    ),
    "failing": Case(
        Bounds(prompt=True, failures=3, retries=1),
        (ACTIVE, CLOSED, FAILED, CLOSE_FAILED),
        ("site is Closed with two receipts",),
    ),
    "dead and mended": Case(
        Bounds(prompt=True, deaths=1, mends=1),
        marks=("guest is Active and degraded", "site is Active with a unit replaced"),
    ),
    "cleaned after all": Case(
        Bounds(prompt=True, failures=3, mends=1), (ACTIVE, CLOSED, FAILED, CLOSE_FAILED)
    ),
    "failing and mended": Case(
        Bounds(prompt=True, failures=5, mends=1, units=2, sold=2, wanted=2, closes=False),
        (ACTIVE, CLOSED, FAILED, CLOSE_FAILED),
    ),
    "dead before": Case(
        Bounds(prompt=True, idle_deaths=1, mends=1),
        marks=("site is Redeeming until units come free",),
    ),
    "dead, and its replacement too": Case(
        Bounds(prompt=True, deaths=1, failures=1, units=4, closes=False),
        marks=("guest is Active with another unit",),
    ),
    "one after the other": Case(
        Bounds(prompt=True, guests=2, follows=True, site_closes=1, failures=1, closes=False),
        marks=SECOND,
    ),
    "revoked": Case(
        Bounds(prompt=True, revokes=1, extensions=1, closes=False),
        (ACTIVE, CLOSED, FAILED),
        (*EXTENDED, *REVOKED, "guest is Active with a proof of a revocation"),
    ),
    "revoked before it begins": Case(
        Bounds(prompt=True, revokes=1, starts_in=3, closes=False),
        (ACTIVE, CLOSED, FAILED, ("Ticketed", "Ticketed", "-")),
        REVOKED,
    ),
    "revoked while it waits": Case(
        Bounds(prompt=True, revokes=1, idle_deaths=1, mends=1, closes=False),
        marks=REVOKED,
    ),
    "revoked and given back": Case(
        Bounds(prompt=True, revokes=2, closes=False), (ACTIVE, CLOSED, FAILED), REVOKED
    ),
    "slow": Case(Bounds(closes=False)),
    "slow to close": Case(Bounds(closes=True)),
    "slow, and dead before": Case(
        Bounds(idle_deaths=1, closes=False), marks=("site is Redeeming until units come free",)
    ),
    "slow and refused": Case(Bounds(refused=True), (FAILED,)),
    "two at once": Case(
        Bounds(prompt=True, guests=2, closes=False), (ACTIVE, CLOSED, ("Failed", "Closed", "-"))
    ),
}
"""Smaller ones, for mutants."""

LARGER = {
    "dead and replaced": Case(
        Bounds(
            prompt=True, patient=True, deaths=1, units=2, extensions=1, joins=True, closes=False
        ),
        marks=("guest is Active with another unit",),
    ),
    "closed by the site": Case(
        Bounds(prompt=True, patient=True, site_closes=1, extensions=1, failures=3),
        (ACTIVE, CLOSED, ("Closed", "Closed", "CloseFailed")),
        EXTENDED,
    ),
    "slow to extend": Case(Bounds(extensions=1, closes=False), marks=EXTENDED),
    "slow to join": Case(Bounds(joins=True, failures=1)),
}
"""For mutants of the tables that those do not catch: all together go along nearly every arrow."""


SHAKEN = {
    "copies and lost answers": Case(Bounds(prompt=True, faults=2, closes=False)),
    "copies while extending": Case(Bounds(prompt=True, faults=1, extensions=1), marks=EXTENDED),
    "copies while closing": Case(Bounds(prompt=True, faults=1)),
    "crashing": Case(Bounds(prompt=True, crashes=True, closes=False)),
    "late from the past": Case(
        Bounds(prompt=True, stale=True, failures=1, units=2, joins=True, closes=False)
    ),
    "forgetting": Case(Bounds(prompt=True, tombstones=True), marks=("all is forgotten",)),
}
"""Small ones for mutants of numbers and memory."""

_ENVIED = Bounds(prompt=True, closes=False, units=4, sold=3, wanted=2, least=2, dishonest=True)
DISHONEST = {
    "forgeries": Case(replace(_ENVIED, extensions=1), marks=EXTENDED),
    "forgeries while a lease is closed": Case(replace(_ENVIED, closes=True)),
    "too much of what is good": Case(
        replace(_ENVIED, presents=2), (("-", "-", "-"),), ("site is Active",)
    ),
}
"""With dishonest guests and brokers: ROOTED and ISOLATED."""
FIRST_FOR_CLAIMS = "forgeries"


@cache
def world(bounds: Bounds) -> World:
    """The honest world, with every step that was made in it."""
    return World(bounds)


@cache
def explored(bounds: Bounds) -> Result:
    """What was found of an honest world."""
    return explore_world(world(bounds))


def samples(bounds: Bounds) -> dict[type[Role[Any]], dict[Pair, dict[Any, Sample]]]:
    """What the tables' arrows were seen to do in an honest world."""
    explored(bounds)
    return world(bounds).samples


@cache
def pairs(bounds: Bounds) -> set[tuple[type[Role[Any]], Pair]]:
    """What the tables were asked for in an honest world."""
    explored(bounds)
    return world(bounds).pairs()
