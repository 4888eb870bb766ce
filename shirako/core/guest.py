"""The service manager's table: one guest's view of one lease, from request to relinquished.

The guest asks a broker for a ticket, redeems it at the authority that the ticket names, joins the
units, extends, and closes. `Consider` asks the demand policy what to do next wherever the guest
has a choice; its answer comes back as one of the events below.

A close ends with the authority's receipt, which goes to the broker (rule 2). A guest never calls
a lease closed because a site did not answer: CloseWait lasts until the receipt is there or the
term and the declared skew are over (rule 9).
"""

from __future__ import annotations

from typing import ClassVar

from msgspec import Struct
from msgspec.structs import replace

from shirako.core import messages
from shirako.core.claims import Party, Ticket
from shirako.core.conflict import Conflict
from shirako.core.exchange import Line
from shirako.core.machine import (
    Arrow,
    Event,
    HandlerEnded,
    Me,
    Record,
    State,
    Step,
    Table,
    Woken,
    Work,
    say,
)
from shirako.core.messages import UnitState
from shirako.core.terms import Term


class GuestState(State):
    NASCENT = "Nascent"
    TICKETING = "Ticketing"
    CANCELLING = "Cancelling"
    TICKETED = "Ticketed"
    REDEEMING = "Redeeming"
    LEASED = "Leased"
    JOINING = "Joining"
    ACTIVE = "Active"
    EXTENDING_TICKET = "ExtendingTicket"
    ACTIVE_TICKETED = "ActiveTicketed"
    EXTENDING_LEASE = "ExtendingLease"
    LEAVING = "Leaving"
    CLOSE_WAIT = "CloseWait"
    CLOSED = "Closed"
    FAILED = "Failed"


S = GuestState


class Answer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What came of the last extension asked for: an honest answer (FIELD: negotiated extension)."""

    asked_end: int
    old_end: int
    granted_end: int
    latest_end: int | None = None
    cap: str = ""
    refused: str = ""


class GuestLease(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The service manager's record of one lease."""

    state: GuestState
    broker: Party
    term: Term
    """As asked for until there is a ticket, then as granted, then as leased."""
    renew: bool = False
    """Extend by the same length again and again until told otherwise."""
    joins: bool = False
    """Whether join and leave handlers are to be run for this lease."""
    owner: str = ""
    """The name of the token that asked for it (ISOLATED)."""
    keys: tuple[str, ...] = ()
    request: dict[str, str] = {}
    configuration: dict[str, str] = {}
    resource: dict[str, str] = {}
    ticket: Ticket = ()
    extension: Ticket = ()
    extended: Term | None = None
    """The term that the extension in hand would give."""
    site: Party | None = None
    lease: str = ""
    receipt: str = ""
    held: tuple[UnitState, ...] = ()
    joined: tuple[str, ...] = ()
    gone: tuple[UnitState, ...] = ()
    """Units that were lost, and whose leave handler still runs."""
    degraded: str = ""
    """Why fewer units work than were leased; empty: all of them do."""
    revoked: str = ""
    """Why the site gives no more of what the lease rests on; empty: it does."""
    revocation: str = ""
    """The site's signed statement that it has revoked what the ticket rested on."""
    conflict: Conflict | None = None
    """What shows that the broker sold the ticket and others twice."""
    answer: Answer | None = None
    closing: str = ""
    """What to call the end once it is there: the reason of the close."""
    refused: bool = False
    """The site refused the redeem: the end is Failed, once the ticket is given back."""
    asked_units: int = 0
    asked_term: Term | None = None
    """As asked for; `units` and `term` become what was given."""
    offer: messages.Offer = messages.Offer()
    """What the broker said beside its last answer: what caps the term, or what would work."""
    fingerprint: str = ""
    """Digest of the request that made this lease, to tell a repetition from a mix-up."""

    def unit(self, name: str, epoch: int) -> UnitState | None:
        """A unit that the guest holds, or that was lost and still has to be left."""
        units = (*self.held, *self.gone)
        return next((u for u in units if (u.unit, u.epoch) == (name, epoch)), None)


# Events --------------------------------------------------------------------------------------


class Requested(Event, frozen=True, kw_only=True):
    """The record was made; ask for its ticket."""


class TicketUpdated(Event, frozen=True, kw_only=True):
    """The broker's UpdateTicket, its claims verified: `term` and `units` are what they say."""

    message: messages.UpdateTicket
    site: Party | None = None
    term: Term | None = None
    units: int = 0
    revoked: str = ""
    """The site has revoked what the ticket rests on: why."""


class LeaseUpdated(Event, frozen=True, kw_only=True):
    """The authority's UpdateLease, its lease or receipt verified; `term` is the lease's."""

    message: messages.UpdateLease
    term: Term | None = None


class Denied(Event, frozen=True, kw_only=True):
    """A Failed of the broker: what was asked of it will not be."""

    message: messages.Failed


class Refused(Event, frozen=True, kw_only=True):
    """A Failed of the authority: what was asked of it will not be."""

    message: messages.Failed


class Unblocked(Event, frozen=True, kw_only=True):
    """The demand policy lets the lease go on: redeem, join or redeem the extension."""


class ExtendAsked(Event, frozen=True, kw_only=True):
    """Hold the units until `end`; any end down to `least_end` will do."""

    end: int
    least_end: int


class CloseAsked(Event, frozen=True, kw_only=True):
    reason: str


class WakeLater(Event, frozen=True, kw_only=True):
    """The demand policy has nothing to do before this tick."""

    quiet: ClassVar[bool] = True

    tick: int


class Consider(Struct, frozen=True):
    """Effect: ask the demand policy what to do with this lease now."""


CONSIDER = (Consider(),)

# Actions -------------------------------------------------------------------------------------


def ask_ticket(r: GuestLease, _e: Requested, _me: Me) -> Step[GuestLease]:
    r = replace(r, state=S.TICKETING, wake=r.term.end, asked_units=r.units, asked_term=r.term)
    request = messages.TicketRequest(
        rid=r.id,
        holder=r.guest.kid,
        guest=r.guest,
        slice=r.slice,
        type=r.type,
        units=r.units,
        least_units=r.least_units,
        term=r.term,
        properties=r.request,
    )
    return Step(say(r, r.broker.kid, request))


def take_ticket(r: GuestLease, e: TicketUpdated, me: Me) -> Step[GuestLease]:
    if e.message.closed:
        return Step(_end(r, S.FAILED, "the broker closed the request"))
    r = replace(_with_ticket(r, e), offer=e.message.offer)
    if e.revoked:
        return give_up_ticket(r, e, me)
    return Step(replace(r, state=S.TICKETED, wake=r.term.end), CONSIDER)


def give_up_ticket(r: GuestLease, e: TicketUpdated, me: Me) -> Step[GuestLease]:
    """A ticket that was revoked before it was redeemed: void it at the site, and say why."""
    if not e.revoked:
        return Step(r)
    r = replace(r, refused=True, revocation=e.message.revocation)
    return _say_close(r, e.revoked, me)


def _with_ticket(r: GuestLease, e: TicketUpdated) -> GuestLease:
    return replace(
        r,
        ticket=e.message.ticket,
        site=e.site,
        term=e.term or r.term,
        units=e.units,
        resource=e.message.properties,
    )


def refused_ticket(r: GuestLease, e: Denied, _me: Me) -> Step[GuestLease]:
    r = replace(r, offer=e.message.offer)
    return Step(_end(r, S.FAILED, e.message.reason))


def give_up_asking(r: GuestLease, e: Woken, me: Me) -> Step[GuestLease]:
    reason = "the broker did not answer before the term asked for was over"
    return _cancel(r, reason, e.now + me.skew)


def cancel(r: GuestLease, e: CloseAsked, _me: Me) -> Step[GuestLease]:
    return _cancel(r, e.reason, r.term.end)


def _cancel(r: GuestLease, reason: str, until: int) -> Step[GuestLease]:
    r = replace(r, state=S.CANCELLING, wake=until, closing=reason)
    return Step(say(r, r.broker.kid, messages.Relinquish(rid=r.id, holder=r.guest.kid)))


def cancelled(r: GuestLease, e: TicketUpdated, me: Me) -> Step[GuestLease]:
    """The broker had no ticket out: done. It had one: void it at the site first (rule 2)."""
    if e.message.closed:
        return Step(_end(r, S.CLOSED, r.closing))
    if e.site is None:
        return Step(r)
    return _say_close(_with_ticket(r, e), r.closing, me)


def cancelled_anyway(r: GuestLease, _e: Denied | Woken, _me: Me) -> Step[GuestLease]:
    return Step(_end(r, S.CLOSED, r.closing))


def wake_later(r: GuestLease, e: WakeLater, _me: Me) -> Step[GuestLease]:
    return Step(replace(r, wake=min(e.tick, r.term.end)))


def consider(r: GuestLease, _e: Woken, _me: Me) -> Step[GuestLease]:
    return Step(r, CONSIDER)


def redeem(r: GuestLease, _e: Unblocked, _me: Me) -> Step[GuestLease]:
    r = replace(r, state=S.REDEEMING, wake=r.term.end)
    message = messages.Redeem(
        rid=r.id,
        holder=r.guest.kid,
        ticket=r.ticket,
        slice=r.slice,
        least_units=r.least_units,
        keys=r.keys,
        properties=r.configuration,
    )
    return Step(_say_site(r, message))


def take_lease(r: GuestLease, e: LeaseUpdated, me: Me) -> Step[GuestLease]:
    if e.message.closed:
        return _closed_by_site(r, e, me)
    r = _with_lease(r, e)
    return Step(replace(r, state=S.LEASED, wake=r.term.end), CONSIDER)


def _with_lease(r: GuestLease, e: LeaseUpdated) -> GuestLease:
    return replace(
        r,
        lease=e.message.lease,
        held=e.message.units,
        units=r.units if e.message.degraded else len(e.message.units),
        term=e.term or r.term,
        reason=e.message.reason,
        degraded=e.message.degraded,
        revoked=e.message.revoked,
    )


def refused_redeem(r: GuestLease, e: Refused, me: Me) -> Step[GuestLease]:
    """A refused redeem relinquishes the ticket (rule 9): against the receipt in the refusal, or
    one that is had by closing, since the broker sells again only what the site says is void."""
    r = replace(r, revocation=e.message.revocation, conflict=e.message.conflict)
    if not e.message.receipt:
        return _say_close(replace(r, refused=True), e.message.reason, me)
    r = _relinquish(replace(r, receipt=e.message.receipt))
    return Step(_end(r, S.FAILED, e.message.reason))


def join(r: GuestLease, _e: Unblocked, _me: Me) -> Step[GuestLease]:
    if not r.joins:
        return Step(replace(r, state=S.ACTIVE), CONSIDER)
    work = tuple(Work(handler="join", unit=u.unit, epoch=u.epoch) for u in r.held)
    # every unit may have been lost by now: then no handler's end leads on from here
    return Step(replace(r, state=S.JOINING, work=work, wake=r.term.end))


def join_ended(r: GuestLease, e: HandlerEnded, me: Me) -> Step[GuestLease]:
    r = _without(r, e.work)
    if e.work.handler == "leave":
        left = (e.work.unit, e.work.epoch)
        r = replace(r, gone=tuple(u for u in r.gone if _assignment(u) != left))
    elif e.ok:
        r = replace(r, joined=(*r.joined, e.work.unit))
    else:
        r = replace(r, reason=f"{e.work.unit} did not join: {e.message}")
    return _joined_or_joining(r, me)


def snapshot(r: GuestLease, e: LeaseUpdated, me: Me) -> Step[GuestLease]:
    """A newer snapshot that nobody asked for: taken as it is (rule 8)."""
    if e.message.closed:
        return _closed_by_site(r, e, me)
    return Step(_with_lease(r, e))


def snapshot_while_joined(r: GuestLease, e: LeaseUpdated, me: Me) -> Step[GuestLease]:
    """The same, where units may have been lost and replaced: those leave, these join."""
    if e.message.closed:
        return _closed_by_site(r, e, me)
    return _joined_or_joining(_exchange_units(r, _with_lease(r, e)), me)


def _exchange_units(before: GuestLease, r: GuestLease) -> GuestLease:
    if not r.joins:
        return r
    now, then = set(map(_assignment, r.held)), set(map(_assignment, before.held))
    lost = tuple(u for u in before.held if _assignment(u) not in now)
    new = tuple(u for u in r.held if _assignment(u) not in then)
    left = tuple(u for u in lost if u.unit in before.joined)
    work = tuple(w for w in r.work if (w.unit, w.epoch) not in set(map(_assignment, lost)))
    work += tuple(Work(handler="leave", unit=u.unit, epoch=u.epoch) for u in left)
    work += tuple(Work(handler="join", unit=u.unit, epoch=u.epoch) for u in new)
    lost_names = {u.unit for u in lost}
    joined = tuple(name for name in r.joined if name not in lost_names)
    return replace(r, work=work, joined=joined, gone=(*r.gone, *left))


def _assignment(unit: UnitState) -> tuple[str, int]:
    return (unit.unit, unit.epoch)


def _joined_or_joining(r: GuestLease, me: Me) -> Step[GuestLease]:
    """While joining: the lease is active as soon as nothing is left to join."""
    if r.state is not S.JOINING or r.work or not r.held:
        return Step(r)
    if not r.joined:
        return _say_close(r, f"no unit joined; {r.reason}", me)
    return Step(replace(r, state=S.ACTIVE), CONSIDER)


def _closed_by_site(r: GuestLease, e: LeaseUpdated, me: Me) -> Step[GuestLease]:
    reason = r.closing or e.message.reason or "the site closed the lease"
    return closed(replace(r, closing=reason, work=()), e, me)


def ask_extension(r: GuestLease, e: ExtendAsked, _me: Me) -> Step[GuestLease]:
    answer = Answer(asked_end=e.end, old_end=r.term.end, granted_end=r.term.end)
    r = replace(r, state=S.EXTENDING_TICKET, answer=answer, wake=_last_moment(r, e.now))
    message = messages.ExtendTicket(rid=r.id, holder=r.guest.kid, end=e.end, least_end=e.least_end)
    return Step(say(r, r.broker.kid, message))


def _last_moment(r: GuestLease, now: int) -> int:
    """When an unanswered extension has to give way to leaving; later than `now`."""
    return max(now + 1, r.term.end - 1)


def take_extension(r: GuestLease, e: TicketUpdated, _me: Me) -> Step[GuestLease]:
    if e.term is None or r.answer is None:
        return _unfit_extension(r, e)
    offer = e.message.offer
    answer = replace(
        r.answer, latest_end=offer.latest_end, cap=offer.cap or "", granted_end=e.term.end
    )
    r = replace(r, extension=e.message.ticket, extended=e.term, answer=answer)
    return Step(replace(r, state=S.ACTIVE_TICKETED), CONSIDER)


def _unfit_extension(r: GuestLease, e: TicketUpdated) -> Step[GuestLease]:
    """A snapshot that answers something older is dropped; an answer that does not fit is a no."""
    asked = r.lines.get(r.broker.kid, Line()).sent
    if r.answer is None or e.message.answers != asked:
        return Step(r)
    refused = "the broker's ticket does not go on where the lease ends"
    answer = replace(r.answer, refused=refused)
    return Step(replace(r, state=S.ACTIVE, answer=answer), CONSIDER)


def refused_extension(r: GuestLease, e: Denied | Refused, _me: Me) -> Step[GuestLease]:
    """Back to Active, unchanged (rule 9); an extension ticket in hand is given back."""
    offer = e.message.offer
    if r.answer is not None:
        answer = replace(
            r.answer,
            refused=e.message.reason,
            granted_end=r.answer.old_end,
            latest_end=r.answer.latest_end if offer.latest_end is None else offer.latest_end,
            cap=offer.cap or r.answer.cap,
        )
        r = replace(r, answer=answer)
    if r.extension and e.message.receipt:
        relinquish = messages.Relinquish(rid=r.id, holder=r.guest.kid, receipt=e.message.receipt)
        r = say(r, r.broker.kid, relinquish)
    r = replace(
        r,
        state=S.ACTIVE,
        extension=(),
        extended=None,
        revocation=e.message.revocation or r.revocation,
        conflict=e.message.conflict or r.conflict,
    )
    return Step(r, CONSIDER)


def redeem_extension(r: GuestLease, e: Unblocked, _me: Me) -> Step[GuestLease]:
    r = replace(r, state=S.EXTENDING_LEASE, wake=_last_moment(r, e.now))
    message = messages.ExtendLease(rid=r.id, holder=r.guest.kid, ticket=r.extension)
    return Step(_say_site(r, message))


def extended(r: GuestLease, e: LeaseUpdated, me: Me) -> Step[GuestLease]:
    if e.message.closed:
        return _closed_by_site(r, e, me)
    grown = _exchange_units(r, _with_lease(r, e))
    if r.extended is None or grown.term.end < r.extended.end:
        return Step(grown)  # an older snapshot that crossed the request
    return Step(
        replace(
            grown,
            state=S.ACTIVE,
            ticket=(*r.ticket, *r.extension),
            extension=(),
            extended=None,
        ),
        CONSIDER,
    )


def leave(r: GuestLease, e: CloseAsked, me: Me) -> Step[GuestLease]:
    """Leave handlers where units were joined, or straight to the site."""
    joined = [u for u in r.held if u.unit in r.joined]
    if not joined:
        return _say_close(replace(r, work=()), e.reason, me)
    work = tuple(Work(handler="leave", unit=u.unit, epoch=u.epoch) for u in joined)
    wake = max(e.now + 1, r.term.end)
    r = replace(r, state=S.LEAVING, work=work, gone=(), closing=e.reason, wake=wake)
    return Step(r)


def leave_ended(r: GuestLease, e: HandlerEnded, me: Me) -> Step[GuestLease]:
    r = _without(r, e.work)
    if not e.ok:
        r = replace(r, reason=f"{e.work.unit} did not leave cleanly: {e.message}")
    return Step(r) if r.work else _say_close(r, r.closing, me)


def leave_no_longer(r: GuestLease, _e: Woken, me: Me) -> Step[GuestLease]:
    """The term is over: the site tears down whether the guest has left or not."""
    return _say_close(replace(r, work=()), r.closing, me)


def close(r: GuestLease, e: CloseAsked, me: Me) -> Step[GuestLease]:
    return _say_close(r, e.reason, me)


def close_late(r: GuestLease, _e: Woken, me: Me) -> Step[GuestLease]:
    return _say_close(r, r.closing or "the term was over before the site gave a lease", me)


def _say_close(r: GuestLease, reason: str, me: Me) -> Step[GuestLease]:
    over = max(r.term.end, r.extended.end if r.extended else 0)
    r = replace(r, state=S.CLOSE_WAIT, closing=reason, wake=over + me.skew)
    message = messages.Close(rid=r.id, holder=r.guest.kid, ticket=(*r.ticket, *r.extension))
    return Step(_say_site(r, message))


def closed(r: GuestLease, e: LeaseUpdated, _me: Me) -> Step[GuestLease]:
    """The final update: its receipt is what the broker resells against."""
    if not e.message.closed:
        return Step(r)  # a snapshot from before the close
    reason = f"{r.closing}; {e.message.reason}" if e.message.close_failed else r.closing
    r = _relinquish(replace(r, receipt=e.message.receipt, held=(), extension=()))
    return Step(_end(r, _end_state(r), reason))


def closed_without_receipt(r: GuestLease, e: Woken | Refused, _me: Me) -> Step[GuestLease]:
    receipt = e.message.receipt if isinstance(e, Refused) else ""
    r = _relinquish(replace(r, receipt=receipt, held=()))
    return Step(_end(r, _end_state(r), r.closing))


def _end_state(r: GuestLease) -> GuestState:
    return S.FAILED if r.refused else S.CLOSED


def late_receipt(r: GuestLease, e: LeaseUpdated | Refused, _me: Me) -> Step[GuestLease]:
    """The site answers after all: the broker may still learn of what is left of the term."""
    if r.receipt or not e.message.receipt:
        return Step(r)
    return Step(_relinquish(replace(r, receipt=e.message.receipt)))


def ignore(r: GuestLease, _e: Event, _me: Me) -> Step[GuestLease]:
    return Step(r)


def _relinquish(r: GuestLease) -> GuestLease:
    message = messages.Relinquish(rid=r.id, holder=r.guest.kid, receipt=r.receipt)
    return say(r, r.broker.kid, message)


def _say_site(r: GuestLease, message: messages.Message) -> GuestLease:
    if r.site is None:
        raise AssertionError("a lease with a ticket knows its site")
    return say(r, r.site.kid, message)


def _without(r: GuestLease, work: Work) -> GuestLease:
    return replace(r, work=tuple(w for w in r.work if w != work))


def _end(r: GuestLease, state: GuestState, reason: str) -> GuestLease:
    return replace(r, state=state, reason=reason, work=(), wake=None)


# The table -----------------------------------------------------------------------------------

_A = Arrow[GuestLease]
_HELD = (S.ACTIVE, S.EXTENDING_TICKET, S.ACTIVE_TICKETED, S.EXTENDING_LEASE)
_CONSIDERED = (S.TICKETED, S.LEASED, S.JOINING, *_HELD)
_LEAVE = _A(leave, (S.LEAVING, S.CLOSE_WAIT))
_ENDED_BY_SITE = (S.CLOSED,)

TABLE: Table[GuestLease] = {
    (S.NASCENT, Requested): _A(ask_ticket, (S.TICKETING,)),
    (S.TICKETING, TicketUpdated): _A(take_ticket, (S.TICKETED, S.CLOSE_WAIT, S.FAILED)),
    (S.TICKETING, Denied): _A(refused_ticket, (S.FAILED,)),
    (S.TICKETING, CloseAsked): _A(cancel, (S.CANCELLING,)),
    (S.TICKETING, Woken): _A(give_up_asking, (S.CANCELLING,)),
    (S.CANCELLING, TicketUpdated): _A(cancelled, (S.CANCELLING, S.CLOSED, S.CLOSE_WAIT)),
    (S.CANCELLING, Denied): _A(cancelled_anyway, (S.CLOSED,)),
    (S.CANCELLING, Woken): _A(cancelled_anyway, (S.CLOSED,)),
    (S.TICKETED, Unblocked): _A(redeem, (S.REDEEMING,)),
    (S.TICKETED, TicketUpdated): _A(give_up_ticket, (S.TICKETED, S.CLOSE_WAIT)),
    (S.TICKETED, CloseAsked): _A(close, (S.CLOSE_WAIT,)),
    (S.REDEEMING, LeaseUpdated): _A(take_lease, (S.LEASED, *_ENDED_BY_SITE)),
    (S.REDEEMING, Refused): _A(refused_redeem, (S.FAILED, S.CLOSE_WAIT)),
    (S.REDEEMING, CloseAsked): _A(close, (S.CLOSE_WAIT,)),
    (S.REDEEMING, Woken): _A(close_late, (S.CLOSE_WAIT,)),
    (S.LEASED, Unblocked): _A(join, (S.JOINING, S.ACTIVE)),
    (S.LEASED, LeaseUpdated): _A(snapshot, (S.LEASED, *_ENDED_BY_SITE)),
    (S.LEASED, CloseAsked): _LEAVE,
    (S.JOINING, HandlerEnded): _A(join_ended, (S.JOINING, S.ACTIVE, S.CLOSE_WAIT)),
    (S.JOINING, LeaseUpdated): _A(
        snapshot_while_joined, (S.JOINING, S.ACTIVE, S.CLOSE_WAIT, *_ENDED_BY_SITE)
    ),
    (S.JOINING, CloseAsked): _LEAVE,
    (S.ACTIVE, ExtendAsked): _A(ask_extension, (S.EXTENDING_TICKET,)),
    **{(state, WakeLater): _A(wake_later, (state,)) for state in _CONSIDERED},
    **{(state, Woken): _A(consider, (state,)) for state in _CONSIDERED},
    (S.EXTENDING_TICKET, TicketUpdated): _A(
        take_extension, (S.EXTENDING_TICKET, S.ACTIVE_TICKETED, S.ACTIVE)
    ),
    (S.EXTENDING_TICKET, Denied): _A(refused_extension, (S.ACTIVE,)),
    (S.ACTIVE_TICKETED, Unblocked): _A(redeem_extension, (S.EXTENDING_LEASE,)),
    (S.EXTENDING_LEASE, LeaseUpdated): _A(extended, (S.EXTENDING_LEASE, S.ACTIVE, *_ENDED_BY_SITE)),
    (S.EXTENDING_LEASE, Refused): _A(refused_extension, (S.ACTIVE,)),
    **{
        (state, LeaseUpdated): _A(snapshot_while_joined, (state, *_ENDED_BY_SITE))
        for state in (S.ACTIVE, S.EXTENDING_TICKET, S.ACTIVE_TICKETED)
    },
    **{(state, HandlerEnded): _A(join_ended, (state,)) for state in _HELD},
    **{(state, CloseAsked): _LEAVE for state in _HELD},
    (S.LEAVING, HandlerEnded): _A(leave_ended, (S.LEAVING, S.CLOSE_WAIT)),
    (S.LEAVING, Woken): _A(leave_no_longer, (S.CLOSE_WAIT,)),
    (S.LEAVING, LeaseUpdated): _A(snapshot, (S.LEAVING, *_ENDED_BY_SITE)),
    (S.CLOSE_WAIT, LeaseUpdated): _A(closed, (S.CLOSE_WAIT, S.CLOSED, S.FAILED)),
    (S.CLOSE_WAIT, Refused): _A(closed_without_receipt, (S.CLOSED, S.FAILED)),
    (S.CLOSE_WAIT, Woken): _A(closed_without_receipt, (S.CLOSED, S.FAILED)),
    (S.CLOSE_WAIT, TicketUpdated): _A(ignore, (S.CLOSE_WAIT,)),
    (S.CLOSED, LeaseUpdated): _A(late_receipt, (S.CLOSED,)),
    (S.CLOSED, Refused): _A(late_receipt, (S.CLOSED,)),
    (S.CLOSED, TicketUpdated): _A(ignore, (S.CLOSED,)),
    (S.FAILED, TicketUpdated): _A(ignore, (S.FAILED,)),
    (S.FAILED, LeaseUpdated): _A(late_receipt, (S.FAILED,)),
    (S.FAILED, Refused): _A(late_receipt, (S.FAILED,)),
}
