"""What policies promise: pure decisions over a view that the actor keeps.

`decide` is a generator: the actor books each decision before it asks for the next one, so that a
policy always sees what it has given away so far. Policies do no I/O and read no clock.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from msgspec import Struct

from shirako.core.calendar import Calendar
from shirako.core.guest import GuestLease
from shirako.core.messages import Offer
from shirako.core.terms import Term

# Allocation: a broker's choice ----------------------------------------------------------------


class Demanded(Struct, frozen=True, kw_only=True):
    """One request to the allocation policy."""

    type: str
    units: int
    least_units: int
    term: Term
    least_end: int
    extension: bool
    site: str = ""
    """Of an extension: the thumbprint of the site that the lease is at."""
    properties: Mapping[str, str]


class Share(Struct, frozen=True, kw_only=True):
    """What a broker holds of one type from one delegation, and what of it is sold."""

    delegation: str
    calendar: Calendar
    site: str = ""
    """Thumbprint of the site that it is rooted at."""


class Piece(NamedTuple):
    """A part of what is given: so many units, out of one delegation, for a part of the term."""

    delegation: str
    term: Term
    units: int


class Given(Struct, frozen=True, kw_only=True):
    """Yes: `units`, out of pieces that make up as many at each instant of the term.

    They follow one another or run side by side, and all are of one site.
    """

    units: int
    pieces: tuple[Piece, ...]
    offer: Offer = Offer()


class Declined(Struct, frozen=True, kw_only=True):
    """No, why, and what would have worked."""

    code: str
    reason: str
    offer: Offer = Offer()


class Allocation(Protocol):
    """Who gets how much, out of which delegation, and when."""

    def decide(
        self, shares: Mapping[str, Sequence[Share]], requests: Sequence[Demanded], now: int
    ) -> Iterator[Given | Declined]:
        """One decision a request, in their order; `shares` by resource type."""
        ...


# Assignment: an authority's choice --------------------------------------------------------------


class Wanted(Struct, frozen=True, kw_only=True):
    """One request to the assignment policy: `count` units of a type, or at least `least`."""

    type: str
    count: int
    least: int
    properties: Mapping[str, str]


class Assignment(Protocol):
    """Which units."""

    def decide(
        self, free: Mapping[str, Sequence[str]], requests: Sequence[Wanted], now: int
    ) -> Iterator[tuple[str, ...]]:
        """Names of free units for each request; an empty tuple: not now."""
        ...


# Demand: a service manager's choice -------------------------------------------------------------


class GoOn(Struct, frozen=True):
    """Redeem the ticket, join the units, or redeem the extension in hand."""


class Wait(Struct, frozen=True):
    """Nothing to do before this tick."""

    until: int


class Extend(Struct, frozen=True):
    """Ask for an extension to `end`."""

    end: int


class End(Struct, frozen=True):
    """Close the lease."""

    reason: str


class Demand(Protocol):
    """What a guest does with a lease, wherever it has a choice."""

    def decide(self, lease: GuestLease, now: int, lead: int) -> GoOn | Wait | Extend | End:
        """`lead`: ticks to act ahead of a deadline, from the declared and measured skew."""
        ...


AnyPolicy = Any
"""A policy class as found by its entry point; constructed without arguments."""
