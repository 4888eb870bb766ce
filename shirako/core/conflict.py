"""Conflict proofs: what shows to anyone, offline, that a broker sold more than it holds (rule 4).

A proof is the chain of the claim that was sold out of, claims below it that all cover one instant,
and what the newest of them cites of the account of receipts (`core.account`). It holds when these
claims, less what that account says was given back, add up to more than the claim above allows.

Why an honest broker can not be convicted. Before it signs a claim, it books it in a calendar that
holds all that it sold and has no receipt for; the claim cites the receipts that it had taken. Take
any of its claims that all cover an instant, and the one of them that it signed last. Citations only
grow, so none of them cites more, and it is the same account that the proof must open: the citation
is a hash. When that last claim was signed, all the others were in the calendar but for what these
receipts gave back, and together with it they fitted. Claims whose terms were over when the cited
volume was opened are no longer in the account, and may not count: so the instant must be later.
A claim may begin a little in the past, by twice the skew: so the broker keeps what is over in its
calendar for longer than that, over restarts, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from msgspec import Struct

from shirako.core.account import Page
from shirako.core.claims import Chain, Claim, Party, Unfit, check_chain

CHILDREN_MAX = 256
"""Claims that one proof may show. The largest ones are shown first; more are never needed of a
broker whose guests ask for more than a hundredth of what it holds."""


class Conflict(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Claims that can not all be honoured, and what is needed to see it."""

    parent: Chain
    """From the site's root claim down to the one that was sold out of."""
    children: tuple[str, ...]
    """Tokens of claims below it."""
    instant: int
    """A tick at which they exceed it."""
    page: Page = Page()
    """The receipts that the newest of them cites."""


class Verdict(Struct, frozen=True, kw_only=True):
    """What a proof shows."""

    broker: Party
    """Who signed the claims."""
    parent: Claim
    children: tuple[Claim, ...]
    sold: int
    """Units of all these claims at the instant, less what was given back."""
    held: int
    """Units that the broker could sell."""


def allowed(parent: Claim) -> int:
    """Units that may be sold out of a claim at any instant."""
    return int(parent.units * parent.overbooking)


def weight(child: Claim) -> int:
    """Units that a claim takes of the one above it: what its holder may make of it."""
    return math.ceil(child.units * child.overbooking)


def judge(conflict: Conflict, read: Callable[[Chain], tuple[Claim, ...]]) -> Verdict:
    """The verdict of a proof that holds; raises `Unfit` for one that does not.

    `read` verifies the signatures of a chain and returns its claims, or raises what it likes.
    """
    above = read(conflict.parent)
    if not above:
        raise Unfit("the proof names no claim that was sold out of")
    parent = check_chain(above, above[0].issuer)
    if not 1 <= len(conflict.children) <= CHILDREN_MAX:
        raise Unfit(f"a proof shows 1 to {CHILDREN_MAX} claims, not {len(conflict.children)}")
    children = tuple(read((*conflict.parent, token))[-1] for token in conflict.children)
    for child in children:
        if child.issuer != parent.holder.kid or child.parent != parent.digest:
            raise Unfit(f"the claim {child.jti} was not carved out of {parent.jti}")
        if not child.term.covers(conflict.instant):
            raise Unfit(f"the claim {child.jti} does not cover the instant of the conflict")
    if len({child.jti for child in children}) < len(children):
        raise Unfit("a claim is shown twice")
    _check_page(children, conflict.page, conflict.instant)
    sold, held = _outstanding(children, conflict.page), allowed(parent)
    if sold <= held:
        raise Unfit(f"no conflict: {sold} units were sold of the {held} that may be")
    return Verdict(broker=parent.holder, parent=parent, children=children, sold=sold, held=held)


def _check_page(children: Sequence[Claim], page: Page, instant: int) -> None:
    if page.cited_as() != max(child.account for child in children):
        raise Unfit("the receipts shown are not those that the newest of the claims cites")
    if instant < page.volume:
        raise Unfit("the conflict is before the volume of receipts that the newest claim cites")


def _outstanding(children: Iterable[Claim], page: Page) -> int:
    kept = page.kept()
    return sum(_left(child, kept) for child in children)


def _left(child: Claim, kept: dict[str, int]) -> int:
    """Units of a claim that were not given back."""
    return min(weight(child), kept.get(child.jti, weight(child)))


def heaviest(children: Iterable[Claim], page: Page, held: int) -> tuple[Claim, ...]:
    """As few claims as exceed `held` units, given these receipts; empty when all together do not.

    They have to cover one instant, and none may cite more than `page`.
    """
    kept = page.kept()
    chosen: list[Claim] = []
    total = 0
    for child in sorted(children, key=lambda c: (-_left(c, kept), c.jti)):
        if total > held:
            break
        chosen.append(child)
        total += _left(child, kept)
    return tuple(chosen) if total > held else ()
