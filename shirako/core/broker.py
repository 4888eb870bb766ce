"""The broker's table: one ticket, from request to the end of its term.

`Allocate` asks the allocation policy, which answers with `Granted` or `Denied`. Capacity that was
sold is resold only against the authority's receipt, or once the term is over (rule 2): that is
what `Free` says to the broker's calendars.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from shirako.core import messages
from shirako.core.claims import Chain, Receipt, Ticket
from shirako.core.machine import Arrow, Event, Me, Record, State, Step, Table, Woken, say
from shirako.core.messages import Offer
from shirako.core.terms import Term
from shirako.core.tickets import whole


class BrokerState(State):
    NASCENT = "Nascent"
    TICKETING = "Ticketing"
    TICKETED = "Ticketed"
    EXTENDING_TICKET = "ExtendingTicket"
    CLOSED = "Closed"


S = BrokerState


class Grant(Struct, frozen=True, gc=False, kw_only=True):
    """So many units for a term, out of one delegation, promised by the chain that says so."""

    delegation: str
    units: int
    term: Term
    jti: str
    chain: Chain


class BrokerLease(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The broker's record of one lease."""

    state: BrokerState
    term: Term
    request: dict[str, str] = {}
    resource: dict[str, str] = {}
    grants: tuple[Grant, ...] = ()
    asked: int = 0
    """Number of the request that the policy is deciding on."""

    @property
    def ticket(self) -> Ticket:
        return tuple(grant.chain for grant in self.grants)


# Events --------------------------------------------------------------------------------------


class TicketAsked(Event, frozen=True, kw_only=True):
    message: messages.TicketRequest


class ExtendTicketAsked(Event, frozen=True, kw_only=True):
    message: messages.ExtendTicket


class Relinquished(Event, frozen=True, kw_only=True):
    """Capacity is given back; `receipt` is verified, None when there was none to show.

    `sender` is the guest, who gets an answer, or the authority, who needs none.
    """

    message: messages.Relinquish
    sender: str
    receipt: Receipt | None
    settled: dict[str, int] = {}
    """What of the receipt is in the accounts that we follow, and so may be sold again: `jti` of a
    claim -> units of it that were not freed."""


class Granted(Event, frozen=True, kw_only=True):
    """The policy's yes: these grants (signed), for the request in hand."""

    grants: tuple[Grant, ...]
    resource: dict[str, str] = {}
    offer: Offer = Offer()


class Denied(Event, frozen=True, kw_only=True):
    """The policy's no, and what would have worked."""

    code: str
    reason: str
    offer: Offer = Offer()


class Revoked(Event, frozen=True, kw_only=True):
    """The site has revoked what the whole ticket rests on: `revocation` says so, `reason` why."""

    revocation: str
    reason: str


# Effects -------------------------------------------------------------------------------------


class Allocate(Struct, frozen=True, kw_only=True):
    """Ask the policy for `units` during `term`; any end down to `least_end` will do."""

    units: int
    least_units: int
    term: Term
    least_end: int
    extends: str = ""


class Free(Struct, frozen=True, kw_only=True):
    """Give `units` back to the delegation's calendar for `term`."""

    delegation: str
    units: int
    term: Term


# Actions -------------------------------------------------------------------------------------


def ask_policy(r: BrokerLease, e: TicketAsked, _me: Me) -> Step[BrokerLease]:
    r = replace(r, state=S.TICKETING, asked=e.message.n, wake=r.term.end)
    return Step(
        r,
        (Allocate(units=r.units, least_units=r.least_units, term=r.term, least_end=r.term.end),),
    )


def issue(r: BrokerLease, e: Granted, _me: Me) -> Step[BrokerLease]:
    units, term = whole((grant.units, grant.term) for grant in e.grants)
    r = replace(
        r,
        state=S.TICKETED,
        grants=e.grants,
        units=units,
        term=term,
        resource=e.resource,
        wake=term.end,
    )
    return Step(_answer(r, r.ticket, e.offer))


def deny(r: BrokerLease, e: Denied, _me: Me) -> Step[BrokerLease]:
    r = replace(r, state=S.CLOSED, reason=e.reason, wake=None)
    return Step(_refuse(r, e.code, e.reason, e.offer))


def ask_policy_again(r: BrokerLease, e: ExtendTicketAsked, _me: Me) -> Step[BrokerLease]:
    r = replace(r, asked=e.message.n)
    if e.message.end <= r.term.end or not r.grants:
        refused = _refuse(r, "shortens", "an extension ends later than the lease does now", Offer())
        return Step(refused)
    effect = Allocate(
        units=r.units,
        least_units=r.units,  # an extension keeps all units, or none (ATOMIC)
        term=Term(r.term.end, e.message.end),
        least_end=min(e.message.least_end, e.message.end),
        extends=r.grants[0].jti,
    )
    return Step(replace(r, state=S.EXTENDING_TICKET), (effect,))


def issue_extension(r: BrokerLease, e: Granted, _me: Me) -> Step[BrokerLease]:
    end = max(g.term.end for g in e.grants)
    r = replace(
        r,
        state=S.TICKETED,
        grants=(*r.grants, *e.grants),
        term=Term(r.term.start, end),
        wake=end,
    )
    return Step(_answer(r, tuple(g.chain for g in e.grants), e.offer))


def deny_extension(r: BrokerLease, e: Denied, _me: Me) -> Step[BrokerLease]:
    return Step(_refuse(replace(r, state=S.TICKETED), e.code, e.reason, e.offer))


def take_back(r: BrokerLease, e: Relinquished, _me: Me) -> Step[BrokerLease]:
    """Against a receipt the capacity is ours again from its tick on; without one it is not.

    A guest that gives up without a receipt while a ticket is out gets the ticket (again): with it
    the site can void it and write the receipt.
    """
    if e.receipt is None:
        if e.sender != r.guest.kid:
            return Step(r)
        r = replace(r, asked=e.message.n)
        if not r.grants:
            return Step(_closed(replace(r, state=S.CLOSED, wake=None)))
        return Step(_answer(r, r.ticket, Offer()))
    if not any(grant.jti in e.settled for grant in r.grants):
        return Step(r)
    left, effects = _freed(r, e.receipt, e.settled, e.now)
    if not e.receipt.final and left:
        term = Term(r.term.start, max(g.term.end for g in left))
        return Step(replace(r, grants=left, term=term, wake=term.end), effects)
    reason = r.reason or "relinquished with a receipt of the site"
    r = replace(r, state=S.CLOSED, grants=left, wake=None, reason=reason)
    return Step(r, effects)


def _freed(
    r: BrokerLease, receipt: Receipt, settled: dict[str, int], now: int
) -> tuple[tuple[Grant, ...], tuple[Free, ...]]:
    """What stays sold until its term is over, and what the calendars get back.

    Units whose teardown failed are nobody's to have, and what no account says is freed can not be
    shown to be: an extension that the site never saw, say. The site's clock may be ahead of ours: a
    receipt that is here frees the units now.
    """
    since = min(receipt.tick, now)
    left: list[Grant] = []
    effects: list[Free] = []
    for grant in r.grants:
        kept = min(settled.get(grant.jti, grant.units), grant.units)
        if kept:
            left.append(replace(grant, units=kept))
        if kept < grant.units and since < grant.term.end:
            term = Term(max(grant.term.start, since), grant.term.end)
            free = Free(delegation=grant.delegation, units=grant.units - kept, term=term)
            effects.append(free)
    return tuple(left), tuple(effects)


def tell_revoked(r: BrokerLease, e: Revoked, _me: Me) -> Step[BrokerLease]:
    """A guest that has not redeemed yet need not try. What is sold stays booked: who has redeemed
    goes on, and of the others the site says so in a receipt (rule 2)."""
    return Step(_answer(replace(r, reason=e.reason), r.ticket, Offer(), e.revocation))


def term_over(r: BrokerLease, _e: Woken, _me: Me) -> Step[BrokerLease]:
    """What was sold is kept in mind without a receipt: a request that was long on its way may ask
    for a term that began before this one ended."""
    grants = tuple(replace(grant, chain=()) for grant in r.grants)
    return Step(replace(r, state=S.CLOSED, grants=grants, wake=None, reason="the term is over"))


def answer_closed_request(
    r: BrokerLease, e: TicketAsked | ExtendTicketAsked, _me: Me
) -> Step[BrokerLease]:
    return Step(_refuse(replace(r, asked=e.message.n), "closed", r.reason or "given back", Offer()))


def leave_tombstone(r: BrokerLease, e: Relinquished, _me: Me) -> Step[BrokerLease]:
    """A Relinquish that overtook its Ticket, or came again: what follows is answered closed."""
    if e.sender != r.guest.kid:
        return Step(replace(r, state=S.CLOSED, wake=None))
    r = replace(r, state=S.CLOSED, asked=e.message.n, wake=None)
    return Step(r if e.message.receipt else _closed(r))


def take_rest(r: BrokerLease, e: Relinquished, me: Me) -> Step[BrokerLease]:
    """A second receipt: units whose teardown had failed were cleaned after all."""
    if e.receipt is None or not e.receipt.final:
        return leave_tombstone(r, e, me)
    left, effects = _freed(r, e.receipt, e.settled, e.now)
    return Step(replace(r, grants=left), effects)


def _answer(r: BrokerLease, ticket: Ticket, offer: Offer, revocation: str = "") -> BrokerLease:
    update = messages.UpdateTicket(
        rid=r.id,
        holder=r.guest.kid,
        answers=r.asked,
        ticket=ticket,
        offer=offer,
        properties=r.resource,
        revocation=revocation,
    )
    return say(r, r.guest.kid, update)


def told_again(r: BrokerLease, n: int) -> BrokerLease:
    """The whole ticket, in answer to request `n` for what the guest was given: it was restored."""
    return _answer(replace(r, asked=n), r.ticket, Offer())


def _closed(r: BrokerLease) -> BrokerLease:
    update = messages.UpdateTicket(rid=r.id, holder=r.guest.kid, answers=r.asked, closed=True)
    return say(r, r.guest.kid, update)


def _refuse(r: BrokerLease, code: str, reason: str, offer: Offer) -> BrokerLease:
    failed = messages.Failed(
        rid=r.id, holder=r.guest.kid, answers=r.asked, code=code, reason=reason, offer=offer
    )
    return say(r, r.guest.kid, failed)


# The table -----------------------------------------------------------------------------------

_A = Arrow[BrokerLease]
_LIVE = (S.TICKETING, S.TICKETED, S.EXTENDING_TICKET)

TABLE: Table[BrokerLease] = {
    (S.NASCENT, TicketAsked): _A(ask_policy, (S.TICKETING,)),
    (S.NASCENT, Relinquished): _A(leave_tombstone, (S.CLOSED,)),
    (S.TICKETING, Granted): _A(issue, (S.TICKETED,)),
    (S.TICKETING, Denied): _A(deny, (S.CLOSED,)),
    (S.TICKETED, Revoked): _A(tell_revoked, (S.TICKETED,)),
    (S.TICKETED, ExtendTicketAsked): _A(ask_policy_again, (S.TICKETED, S.EXTENDING_TICKET)),
    (S.EXTENDING_TICKET, Granted): _A(issue_extension, (S.TICKETED,)),
    (S.EXTENDING_TICKET, Denied): _A(deny_extension, (S.TICKETED,)),
    **{(state, Relinquished): _A(take_back, (state, S.CLOSED)) for state in _LIVE},
    **{(state, Woken): _A(term_over, (S.CLOSED,)) for state in _LIVE},
    (S.CLOSED, TicketAsked): _A(answer_closed_request, (S.CLOSED,)),
    (S.CLOSED, ExtendTicketAsked): _A(answer_closed_request, (S.CLOSED,)),
    (S.CLOSED, Relinquished): _A(take_rest, (S.CLOSED,)),
}
