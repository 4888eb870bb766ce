"""Tickets: sets of chains that together promise the same units at every instant of a term (rule 4).

Chains may follow one another, where a delegation ends and another goes on, and run side by side,
where no single one has as many units as were asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

from shirako.core.claims import Claim, Unfit
from shirako.core.terms import Term

Part = tuple[int, Term]
"""So many units for a term."""


def whole(parts: Iterable[Part]) -> Part:
    """What all parts are worth together; raises `Unfit` unless that is the same at each instant."""
    changes = _changes(parts)
    if not changes:
        raise Unfit("a ticket has at least one chain")
    first, *between, last = sorted(changes)
    if any(changes[tick] for tick in between):
        raise Unfit("the chains of the ticket leave a gap, overlap, or differ in units")
    return changes[first], Term(first, last)


def peak(parts: Iterable[Part]) -> int:
    """The most that the parts are worth together at any instant."""
    changes = _changes(parts)
    return max(accumulate(changes[tick] for tick in sorted(changes)), default=0)


def _changes(parts: Iterable[Part]) -> dict[int, int]:
    """Tick -> by how much the sum of the parts changes there."""
    changes: dict[int, int] = {}
    for units, term in parts:
        changes[term.start] = changes.get(term.start, 0) + units
        changes[term.end] = changes.get(term.end, 0) - units
    return changes


def worth(leaves: Sequence[Claim]) -> Part:
    """What a ticket with these leaves promises; raises `Unfit` where they are no ticket."""
    if len({leaf.type for leaf in leaves}) > 1:
        raise Unfit("the chains of the ticket are on several types")
    if len({(leaf.issuer, leaf.jti) for leaf in leaves}) < len(leaves):
        raise Unfit("the ticket holds the same claim twice")
    return whole((leaf.units, leaf.term) for leaf in leaves)


def shared_out(parts: Sequence[Part], units: int) -> tuple[int, ...]:
    """How many of each part's units make up `units`, as far as there are so many, at each instant.

    Of parts that run side by side the first ones give first; of parts that follow one another each
    gives by itself.
    """
    given: list[int] = []
    for own, term in parts:
        edges = {tick for _, t in parts for tick in (t.start, t.end)}
        ticks = {term.start} | {tick for tick in edges if term.covers(tick)}
        beside = [
            sum(g for g, (_, t) in zip(given, parts, strict=False) if t.covers(tick))
            for tick in ticks
        ]
        given.append(min(own, max(units - min(beside), 0)))
    return tuple(given)
