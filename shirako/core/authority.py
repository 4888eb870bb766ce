"""The authority's table: one lease on units of the site, from redeem to verified teardown.

`Assign` asks the assignment policy for units; each assignment of a unit has an epoch of its own
(rule 11). A unit that fails is swapped for another and quarantined (`Quarantine`); a unit is the
site's again only after its teardown was verified (`Release`).

A unit that dies while its lease is active (`UnitLost`) is replaced where the pool can. Until then
the lease is Active and `degraded`, which the guest is told; it waits for units that come free.
"""

from __future__ import annotations

from enum import Enum
from typing import ClassVar

from msgspec import Struct
from msgspec.structs import replace

from shirako.core import messages
from shirako.core.account import Posting
from shirako.core.claims import Chain, Lease, Party, Receipt
from shirako.core.conflict import Conflict
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
from shirako.core.terms import Term
from shirako.core.tickets import peak

HOLD_TICKS = 600
"""How long a redeem that cannot be served yet is held before it is refused (rule 6)."""
SWAPS_MAX = 8
"""Units tried in place of failed ones, one after the other, before a lease is given up, or goes on
with fewer units."""
TEARDOWN_ATTEMPTS = 3
TEARDOWN_PAUSE_TICKS = 5


class SiteState(State):
    NASCENT = "Nascent"
    REDEEMING = "Redeeming"
    PRIMING = "Priming"
    ACTIVE = "Active"
    CLOSING = "Closing"
    CLOSED = "Closed"
    CLOSE_FAILED = "CloseFailed"


S = SiteState


class UnitPhase(Enum):
    """Where one assignment of a unit is; the unit's own states of the literature."""

    PRIMING = "priming"
    ACTIVE = "active"
    CLOSING = "closing"
    CLOSED = "closed"
    FAILED = "failed"


class Assignment(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """A unit in this lease: under this epoch, with what its handlers gave out."""

    unit: str
    epoch: int
    phase: UnitPhase = UnitPhase.PRIMING
    outputs: dict[str, str] = {}
    checks: tuple[str, ...] = ()
    swapped: bool = False
    """It failed and another one took its place."""
    message: str = ""


class Ancestor(Struct, frozen=True, gc=False, kw_only=True):
    """A claim that another one was carved out of: how much may be redeemed below it."""

    digest: str
    capacity: int
    term: Term


class Spent(Struct, frozen=True, gc=False, kw_only=True):
    """A claim that this lease rests on: what it was worth, and the claims above it."""

    jti: str
    issuer: str
    units: int
    term: Term
    ancestors: tuple[Ancestor, ...]
    """Root first."""
    tokens: Chain = ()
    """The claims themselves below the root claim, to prove a conflict with; none once settled."""

    @property
    def name(self) -> tuple[str, str]:
        """What no other claim is called: an issuer may well use another one's `jti`."""
        return (self.issuer, self.jti)

    @property
    def parent(self) -> str:
        """Digest of the claim that this one was carved out of."""
        return self.ancestors[-1].digest


class SiteLease(Record, frozen=True, kw_only=True, omit_defaults=True):
    """The authority's record of one lease."""

    state: SiteState
    term: Term
    broker: Party
    """Who issued the ticket: gets the receipt too."""
    spent: tuple[Spent, ...] = ()
    voided: tuple[Spent, ...] = ()
    """Claims that would have extended the lease: given back unused when it was closed."""
    keys: tuple[str, ...] = ()
    configuration: dict[str, str] = {}
    assignments: tuple[Assignment, ...] = ()
    attempts: int = TEARDOWN_ATTEMPTS
    """How often a teardown is tried before its unit is given up."""
    swaps: int = 0
    degraded: str = ""
    """Why fewer units work than were leased; empty: all of them do."""
    answers: int = 0
    """Number of the guest's request that the next update answers."""
    refusal: str = ""
    """The redeem is being refused: what the Failed will say once all is torn down."""
    revocation: str = ""
    """The redeem is being refused because what it rests on was revoked: the signed statement."""
    revoked: str = ""
    """Why nothing more is given of what the lease rests on; it runs on to its end."""
    redeemed: bool = False
    """The guest was told of the lease."""
    lease: str = ""
    receipt: str = ""
    postings: tuple[Posting, ...] = ()
    """Of the receipt, when another one may follow."""
    last_end: int = 0
    """End of the latest claim, kept for the tombstone."""

    @property
    def claims(self) -> tuple[Spent, ...]:
        """All that the receipt gives back."""
        return (*self.spent, *self.voided)

    @property
    def live(self) -> tuple[Assignment, ...]:
        """Assignments that count towards the lease."""
        gone = (UnitPhase.CLOSED, UnitPhase.FAILED)
        return tuple(a for a in self.assignments if not a.swapped and a.phase not in gone)

    @property
    def uncleaned(self) -> tuple[Assignment, ...]:
        """Assignments whose teardown failed, and that nobody else has taken over."""
        return tuple(a for a in self.assignments if a.phase is UnitPhase.FAILED and not a.swapped)

    @property
    def working(self) -> tuple[Assignment, ...]:
        """Assignments that the guest has: set up, and not lost."""
        return tuple(a for a in self.live if a.phase is UnitPhase.ACTIVE)

    @property
    def missing(self) -> int:
        """Units of an active lease that were lost, and that another one is wanted for."""
        if self.state is not SiteState.ACTIVE or self.swaps > SWAPS_MAX:
            return 0
        return self.units - len(self.live)


# Events --------------------------------------------------------------------------------------


class RedeemAsked(Event, frozen=True, kw_only=True):
    """A ticket that proved to be good; the record already says what it is worth."""

    message: messages.Redeem


class RedeemUnfit(Event, frozen=True, kw_only=True):
    """A ticket that is sound but not honoured: it is void now, and a receipt says so."""

    message: messages.Redeem
    reason: str
    revocation: str = ""


class Assigned(Event, frozen=True, kw_only=True):
    """The policy's yes: these units, each under a fresh epoch."""

    units: tuple[tuple[str, int], ...]


class Unassigned(Event, frozen=True, kw_only=True):
    """The policy's no: too few units are free now."""

    quiet: ClassVar[bool] = True

    reason: str


class UnitsFreed(Event, frozen=True, kw_only=True):
    """Units of the type came free: a held redeem may be served."""

    quiet: ClassVar[bool] = True


class UnitLost(Event, frozen=True, kw_only=True):
    """A unit of an active lease does not work any more, under this epoch."""

    unit: str
    epoch: int
    reason: str


class ExtendLeaseAsked(Event, frozen=True, kw_only=True):
    """Claims that proved to be good for `[old end, term.end)`."""

    message: messages.ExtendLease
    spent: tuple[Spent, ...]
    end: int


class ExtendLeaseUnfit(Event, frozen=True, kw_only=True):
    """Claims that are no good for extending this lease."""

    message: messages.ExtendLease
    code: str
    reason: str
    conflict: Conflict | None = None
    revocation: str = ""
    voided: tuple[Spent, ...] = ()
    """Those that would extend the lease, had they been good: its receipt gives them back."""


class Revoked(Event, frozen=True, kw_only=True):
    """What the lease rests on was revoked, `reason` says why; or no longer is, if that is empty."""

    reason: str


class CloseMessage(Event, frozen=True, kw_only=True):
    """The guest closes, perhaps before its Redeem arrived; the record then is a new one."""

    message: messages.Close
    voided: tuple[Spent, ...] = ()
    """Claims in it that would extend the lease, and were not redeemed."""


class CloseAsked(Event, frozen=True, kw_only=True):
    """The site closes the lease."""

    reason: str


class RetryAsked(Event, frozen=True, kw_only=True):
    """An admin wants the failed teardown tried again, under these fresh epochs of its units."""

    epochs: dict[str, int]


class Settled(Event, frozen=True, kw_only=True):
    """The accounts say that this lease's claims were given back, and where."""

    quiet: ClassVar[bool] = True

    postings: tuple[Posting, ...]


class UnitCleaned(Event, frozen=True, kw_only=True):
    """A unit whose teardown had failed was cleaned and checked in the site's own name."""

    unit: str


# Effects -------------------------------------------------------------------------------------


class Assign(Struct, frozen=True, kw_only=True):
    """Ask the policy for `count` units, or at least `least`."""

    count: int
    least: int


class Release(Struct, frozen=True, kw_only=True):
    """The unit's teardown under this epoch was verified: it is the site's again."""

    unit: str
    epoch: int


class Quarantine(Struct, frozen=True, kw_only=True):
    """The unit failed under this epoch: it is not handed out any more."""

    unit: str
    epoch: int
    reason: str


class Unspend(Struct, frozen=True, kw_only=True):
    """These claims' units are no longer in use from `tick` on."""

    spent: tuple[Spent, ...]
    tick: int


class Settle(Struct, frozen=True, kw_only=True):
    """Write into the accounts that the lease's claims are given back, but for `kept` units."""

    kept: int


# Redeeming -----------------------------------------------------------------------------------


def take_redeem(r: SiteLease, e: RedeemAsked, _me: Me) -> Step[SiteLease]:
    r = replace(r, state=S.REDEEMING, answers=e.message.n)
    if e.now < r.term.start:
        return Step(replace(r, wake=r.term.start))
    return Step(replace(r, wake=_hold_until(r, e.now)), (_all_units(r),))


def _hold_until(r: SiteLease, now: int) -> int:
    return min(max(now, r.term.start) + HOLD_TICKS, r.term.end)


def _all_units(r: SiteLease) -> Assign:
    return Assign(count=r.units, least=r.least_units)


def try_again(r: SiteLease, _e: UnitsFreed, _me: Me) -> Step[SiteLease]:
    return Step(r, (_all_units(r),))


def held_long_enough(r: SiteLease, e: Woken, _me: Me) -> Step[SiteLease]:
    if e.now < r.term.end and e.now < r.term.start + HOLD_TICKS:
        return Step(replace(r, wake=_hold_until(r, r.term.start)), (_all_units(r),))
    reason = r.reason or "no units came free before the redeem's deadline"
    return _settle(replace(r, refusal=reason), e.now)


def prime(r: SiteLease, e: Assigned, _me: Me) -> Step[SiteLease]:
    r = _assigned(r, e)
    return Step(replace(r, state=S.PRIMING, units=len(e.units), wake=r.term.end, reason=""))


def _assigned(r: SiteLease, e: Assigned) -> SiteLease:
    new = tuple(Assignment(unit=unit, epoch=epoch) for unit, epoch in e.units)
    work = tuple(Work(handler="setup", unit=unit, epoch=epoch) for unit, epoch in e.units)
    return replace(r, assignments=(*r.assignments, *new), work=(*r.work, *work))


def hold(r: SiteLease, e: Unassigned, _me: Me) -> Step[SiteLease]:
    return Step(replace(r, reason=e.reason))


# Priming -------------------------------------------------------------------------------------


def handler_ended(r: SiteLease, e: HandlerEnded, me: Me) -> Step[SiteLease]:
    """While priming: set-ups of this lease's units, teardowns of those that were swapped."""
    r = replace(r, work=tuple(w for w in r.work if w != e.work))
    if e.work.handler == "teardown":
        return _swapped_unit_cleaned(r, e)
    if e.ok:
        r = _mark(r, e.work, phase=UnitPhase.ACTIVE, outputs=e.outputs)
        return _active_if_ready(r, me)
    if e.unsuitable:
        return _close(replace(r, refusal=f"it can not be set up: {e.message}"), e.now)
    return _swap(r, e, me)


def _active_if_ready(r: SiteLease, me: Me) -> Step[SiteLease]:
    if any(a.phase is not UnitPhase.ACTIVE for a in r.live) or len(r.live) < r.least_units:
        return Step(r)
    r = replace(r, state=S.ACTIVE, units=len(r.live), redeemed=True, swaps=0)
    return Step(_tell_guest(_with_lease_token(r, me)))


def _swap(r: SiteLease, e: HandlerEnded, me: Me) -> Step[SiteLease]:
    """Quarantine the unit, clean it as far as it lets us, ask for another one."""
    reason = f"{e.work.unit}: {e.message}"
    r = _mark(r, e.work, phase=UnitPhase.CLOSING, swapped=True, message=e.message)
    clean = Work(handler="teardown", unit=e.work.unit, epoch=e.work.epoch)
    r = replace(r, work=(*r.work, clean), swaps=r.swaps + 1, reason=reason)
    quarantine = Quarantine(unit=e.work.unit, epoch=e.work.epoch, reason=f"set-up: {e.message}")
    if r.swaps > SWAPS_MAX:
        step = _fewer_or_none(r, e.now, me)
        return Step(step.record, (quarantine, *step.effects))
    return Step(r, (quarantine, Assign(count=1, least=1)))


def _swapped_unit_cleaned(r: SiteLease, e: HandlerEnded) -> Step[SiteLease]:
    """In quarantine it stays there whether it was cleaned or not: a probe has to pass first."""
    phase = UnitPhase.CLOSED if e.ok else UnitPhase.FAILED
    r = _mark(r, e.work, phase=phase, checks=e.checks, message=e.message)
    unit, epoch = e.work.unit, e.work.epoch
    if e.ok:
        return Step(r, (Release(unit=unit, epoch=epoch),))
    return Step(r, (Quarantine(unit=unit, epoch=epoch, reason=f"teardown: {e.message}"),))


def prime_another(r: SiteLease, e: Assigned, _me: Me) -> Step[SiteLease]:
    return Step(_assigned(r, e))


def no_other(r: SiteLease, e: Unassigned, me: Me) -> Step[SiteLease]:
    return _fewer_or_none(replace(r, reason=f"{r.reason}; {e.reason}"), e.now, me)


def _fewer_or_none(r: SiteLease, now: int, me: Me) -> Step[SiteLease]:
    """Fewer units only if the guest said so; otherwise wholly or not at all (ATOMIC)."""
    if len(r.live) >= r.least_units:
        return _active_if_ready(r, me)
    return _close(replace(r, refusal=f"the units could not be set up: {r.reason}"), now)


# Active --------------------------------------------------------------------------------------


def unit_lost(r: SiteLease, e: UnitLost, me: Me) -> Step[SiteLease]:
    """Quarantine it, clean it as far as it lets us, ask for another one, tell the guest."""
    lost = Work(handler="teardown", unit=e.unit, epoch=e.epoch)
    if not any((a.unit, a.epoch) == (e.unit, e.epoch) for a in r.working):
        return Step(r)
    r = _without_ended_swaps(r)
    r = _mark(r, lost, phase=UnitPhase.CLOSING, swapped=True, message=e.reason)
    r = replace(r, work=(*r.work, lost), degraded=f"{e.unit} was lost: {e.reason}")
    quarantine = Quarantine(unit=e.unit, epoch=e.epoch, reason=f"lost: {e.reason}")
    return Step(_tell_guest(_with_lease_token(r, me)), (quarantine, _missing_units(r)))


def _missing_units(r: SiteLease) -> Assign:
    return Assign(count=r.missing, least=1)


def _without_ended_swaps(r: SiteLease) -> SiteLease:
    """Units that were swapped and are done with: a lease may live long and lose many."""
    ended = (UnitPhase.CLOSED, UnitPhase.FAILED)
    kept = tuple(a for a in r.assignments if not (a.swapped and a.phase in ended))
    return replace(r, assignments=kept)


def replacement_ended(r: SiteLease, e: HandlerEnded, me: Me) -> Step[SiteLease]:
    """A handler in an active lease: the set-up of a replacement, or the teardown of the lost."""
    r = replace(r, work=tuple(w for w in r.work if w != e.work))
    if e.work.handler == "teardown":
        return _swapped_unit_cleaned(r, e)
    if e.ok:
        r = _mark(r, e.work, phase=UnitPhase.ACTIVE, outputs=e.outputs)
        whole = len(r.working) == r.units
        r = replace(r, degraded="" if whole else r.degraded, swaps=0)
        return Step(_tell_guest(_with_lease_token(r, me)))
    r = _mark(r, e.work, phase=UnitPhase.CLOSING, swapped=True, message=e.message)
    clean = Work(handler="teardown", unit=e.work.unit, epoch=e.work.epoch)
    degraded = f"{e.work.unit}: set-up: {e.message}"
    # what is suitable for no unit is not tried on another one
    swaps = SWAPS_MAX + 1 if e.unsuitable else r.swaps + 1
    r = replace(r, work=(*r.work, clean), degraded=degraded, swaps=swaps)
    if e.unsuitable:
        return Step(_tell_guest(r))
    quarantine = Quarantine(unit=e.work.unit, epoch=e.work.epoch, reason=f"set-up: {e.message}")
    return Step(r, (quarantine, _missing_units(r)))


def replace_lost(r: SiteLease, _e: UnitsFreed, _me: Me) -> Step[SiteLease]:
    return Step(r, (_missing_units(r),) if r.missing else ())


def no_replacement(r: SiteLease, _e: Unassigned, _me: Me) -> Step[SiteLease]:
    """It stays degraded until a unit comes free."""
    return Step(r)


def extend(r: SiteLease, e: ExtendLeaseAsked, me: Me) -> Step[SiteLease]:
    """Counts if it is committed before the lease's own end (rule 10)."""
    if e.now >= r.term.end:
        return refuse_extension(
            r,
            ExtendLeaseUnfit(
                now=e.now, message=e.message, code="late", reason="the lease's term is over"
            ),
            me,
        )
    term = r.term.extended(e.end)
    r = replace(
        r,
        term=term,
        wake=term.end,
        last_end=term.end,
        spent=(*r.spent, *e.spent),
        answers=e.message.n,
    )
    return Step(_tell_guest(_with_lease_token(r, me)))


def refuse_extension(r: SiteLease, e: ExtendLeaseUnfit, _me: Me) -> Step[SiteLease]:
    failed = messages.Failed(
        rid=r.id,
        holder=r.guest.kid,
        answers=e.message.n,
        code=e.code,
        reason=e.reason,
        conflict=e.conflict,
        revocation=e.revocation,
    )
    r = replace(_voiding(r, e.voided), answers=e.message.n)
    return Step(say(r, r.guest.kid, failed))


def note_revocation(r: SiteLease, e: Revoked, _me: Me) -> Step[SiteLease]:
    """The lease runs on (rule 14). Who is still waiting for it hears of it with the lease."""
    r = replace(r, revoked=e.reason)
    return Step(_tell_guest(r) if r.state is S.ACTIVE else r)


def term_over(r: SiteLease, e: Woken, _me: Me) -> Step[SiteLease]:
    if e.now < r.term.end:
        return Step(replace(r, wake=r.term.end))
    return _close(replace(r, reason="the term is over"), e.now)


# Closing -------------------------------------------------------------------------------------


def close_by_guest(r: SiteLease, e: CloseMessage, _me: Me) -> Step[SiteLease]:
    r = _voiding(r, e.voided)
    return _close(replace(r, answers=e.message.n, reason="closed by the guest"), e.now)


def close_by_site(r: SiteLease, e: CloseAsked, _me: Me) -> Step[SiteLease]:
    return _close(replace(r, reason=e.reason), e.now)


def _close(r: SiteLease, now: int) -> Step[SiteLease]:
    """Tear down every unit that was ever assigned and is not clean yet."""
    work = tuple(w for w in r.work if w.handler == "teardown")
    closing = {UnitPhase.PRIMING, UnitPhase.ACTIVE}
    assignments = tuple(
        replace(a, phase=UnitPhase.CLOSING) if a.phase in closing else a for a in r.assignments
    )
    work += tuple(
        Work(handler="teardown", unit=a.unit, epoch=a.epoch)
        for a in r.assignments
        if a.phase in closing
    )
    r = replace(r, state=S.CLOSING, assignments=assignments, work=work, wake=None)
    return Step(r) if work else _settle(r, now)


def close_again(r: SiteLease, e: CloseMessage, _me: Me) -> Step[SiteLease]:
    return Step(replace(_voiding(r, e.voided), answers=e.message.n))


def _voiding(r: SiteLease, voided: tuple[Spent, ...]) -> SiteLease:
    last_end = max((s.term.end for s in voided), default=0)
    return replace(r, voided=(*r.voided, *voided), last_end=max(r.last_end, last_end))


def teardown_ended(r: SiteLease, e: HandlerEnded, _me: Me) -> Step[SiteLease]:
    r = replace(r, work=tuple(w for w in r.work if w != e.work))
    unit, epoch = e.work.unit, e.work.epoch
    swapped = any(a.swapped for a in r.assignments if (a.unit, a.epoch) == (unit, epoch))
    effects: tuple[object, ...] = ()
    if e.ok:
        r = _mark(r, e.work, phase=UnitPhase.CLOSED, checks=e.checks)
        effects = (Release(unit=unit, epoch=epoch),)
    elif e.work.attempt < r.attempts and not swapped:
        again = replace(
            e.work,
            attempt=e.work.attempt + 1,
            after=e.now + TEARDOWN_PAUSE_TICKS * e.work.attempt,
        )
        r = replace(r, work=(*r.work, again), reason=f"{unit}: teardown: {e.message}")
    else:
        r = _mark(r, e.work, phase=UnitPhase.FAILED, message=e.message)
        reason = f"teardown: {e.message}"
        effects = (Quarantine(unit=unit, epoch=epoch, reason=reason),)
    if r.work:
        return Step(r, effects)
    settled = _settle(r, e.now)
    return Step(settled.record, (*effects, *settled.effects))


def _settle(r: SiteLease, now: int) -> Step[SiteLease]:
    """All is torn down or given up: what the lease rested on is given back."""
    # a ticket that was never redeemed was never booked against the claims above it, and one whose
    # teardown was tried again has a receipt already
    booked = r.state is not S.NASCENT and not r.receipt
    unspend = (Unspend(spent=r.spent, tick=now),) if booked else ()
    r = replace(r, state=S.CLOSING, wake=None, work=())
    return Step(r, (*unspend, Settle(kept=len(r.uncleaned))))


def write_receipt(r: SiteLease, e: Settled, me: Me) -> Step[SiteLease]:
    """The receipt, to the guest and to the broker (rule 3)."""
    now = e.now
    failed = tuple(a.unit for a in r.uncleaned)
    # the receipt before this one may be replaced by it on its way: no place is left out
    postings = (*r.postings, *e.postings)
    claimed = peak((s.units, s.term) for s in r.spent)
    checks = sorted({check for a in r.assignments for check in a.checks})
    receipt = Receipt(
        jti=f"{r.id}/{now}",
        issuer=me.party.kid,
        holder=r.guest.kid,
        reservation=r.id,
        claims=tuple(s.jti for s in r.claims),
        units_freed=max(claimed - len(failed), 0),
        tick=now,
        redeemed=r.redeemed,
        final=True,
        checks=tuple(checks),
        failed_units=failed,
        postings=postings,
    )
    state = S.CLOSE_FAILED if failed else S.CLOSED
    if failed:
        r = replace(r, reason=f"teardown failed on {', '.join(failed)}")
    r = replace(
        r,
        state=state,
        receipt=me.sign_receipt(receipt),
        spent=tuple(replace(s, tokens=()) for s in r.spent),
        voided=tuple(replace(s, tokens=()) for s in r.voided),
    )
    if failed:
        r = replace(r, postings=postings)
    r = _answer_end(r)
    to_broker = messages.Relinquish(rid=r.id, holder=r.guest.kid, receipt=r.receipt)
    return Step(say(r, r.broker.kid, to_broker))


def _answer_end(r: SiteLease) -> SiteLease:
    if r.refusal:
        failed = messages.Failed(
            rid=r.id,
            holder=r.guest.kid,
            answers=r.answers,
            code="revoked" if r.revocation else "unavailable",
            reason=r.refusal,
            receipt=r.receipt,
            revocation=r.revocation,
        )
        return say(r, r.guest.kid, failed)
    update = messages.UpdateLease(
        rid=r.id,
        holder=r.guest.kid,
        answers=r.answers,
        closed=True,
        close_failed=r.state is S.CLOSE_FAILED,
        receipt=r.receipt,
        reason=r.reason,
    )
    return say(r, r.guest.kid, update)


def void(r: SiteLease, e: CloseMessage, _me: Me) -> Step[SiteLease]:
    """A Close that overtook its Redeem, or of a ticket never redeemed: void it, say so."""
    return _settle(replace(r, answers=e.message.n, reason="never redeemed"), e.now)


def refuse_redeem(r: SiteLease, e: RedeemUnfit, _me: Me) -> Step[SiteLease]:
    """Void it at once: the guest is rid of it, and the broker has its receipt."""
    r = replace(r, answers=e.message.n, refusal=e.reason, revocation=e.revocation)
    return _settle(r, e.now)


def answer_from_tombstone(r: SiteLease, e: RedeemAsked | CloseMessage, _me: Me) -> Step[SiteLease]:
    r = replace(r, answers=e.message.n)
    if isinstance(e, RedeemAsked) and not r.refusal:
        r = replace(r, refusal="the lease was closed")
    return Step(_answer_end(r))


def retry_teardown(r: SiteLease, e: RetryAsked, _me: Me) -> Step[SiteLease]:
    """Under fresh epochs: the node may have seen others since, of cleaning that did not succeed."""
    r = replace(
        r,
        assignments=tuple(
            replace(a, epoch=e.epochs[a.unit]) if a in r.uncleaned else a for a in r.assignments
        ),
    )
    work = tuple(Work(handler="teardown", unit=a.unit, epoch=a.epoch) for a in r.uncleaned)
    r = replace(r, state=S.CLOSING, work=work, reason="torn down once more, as an admin asked")
    for w in work:
        r = _mark(r, w, phase=UnitPhase.CLOSING)
    return Step(r)


def cleaned_after_all(r: SiteLease, e: UnitCleaned, _me: Me) -> Step[SiteLease]:
    """What is left to tear down there is no more: nobody has to try that again."""
    dirty = (UnitPhase.FAILED, UnitPhase.CLOSING)
    assignments = tuple(
        replace(a, phase=UnitPhase.CLOSED) if a.unit == e.unit and a.phase in dirty else a
        for a in r.assignments
    )
    if assignments == r.assignments:
        return Step(r)
    work = tuple(w for w in r.work if w.unit != e.unit)
    r = replace(r, assignments=assignments, work=work, reason=f"{e.unit} was cleaned after all")
    return Step(r) if r.work else _settle(r, e.now)


# Shared --------------------------------------------------------------------------------------


def _mark(r: SiteLease, work: Work, **changes: object) -> SiteLease:
    assignments = tuple(
        replace(a, **changes) if (a.unit, a.epoch) == (work.unit, work.epoch) else a
        for a in r.assignments
    )
    return replace(r, assignments=assignments)


def _with_lease_token(r: SiteLease, me: Me) -> SiteLease:
    lease = Lease(
        jti=f"{r.id}/{r.term.end}",
        issuer=me.party.kid,
        holder=r.guest.kid,
        reservation=r.id,
        type=r.type,
        units=tuple(a.unit for a in r.working),
        term=r.term,
    )
    return replace(r, lease=me.sign_lease(lease))


def told_again(r: SiteLease, n: int) -> SiteLease:
    """The snapshot, in answer to request `n` for what the guest has: one of them was restored."""
    return _tell_guest(replace(r, answers=n))


def _tell_guest(r: SiteLease) -> SiteLease:
    update = messages.UpdateLease(
        rid=r.id,
        holder=r.guest.kid,
        answers=r.answers,
        lease=r.lease,
        units=tuple(
            messages.UnitState(unit=a.unit, epoch=a.epoch, properties=a.outputs) for a in r.working
        ),
        reason=r.reason,
        degraded=r.degraded,
        revoked=r.revoked,
    )
    return say(r, r.guest.kid, update)


# The table -----------------------------------------------------------------------------------

_A = Arrow[SiteLease]
_ENDED = (S.CLOSED, S.CLOSE_FAILED)

TABLE: Table[SiteLease] = {
    (S.NASCENT, RedeemAsked): _A(take_redeem, (S.REDEEMING,)),
    (S.NASCENT, RedeemUnfit): _A(refuse_redeem, (S.CLOSING,)),
    (S.NASCENT, CloseMessage): _A(void, (S.CLOSING,)),
    (S.REDEEMING, Assigned): _A(prime, (S.PRIMING,)),
    (S.REDEEMING, Unassigned): _A(hold, (S.REDEEMING,)),
    (S.REDEEMING, UnitsFreed): _A(try_again, (S.REDEEMING,)),
    (S.REDEEMING, Woken): _A(held_long_enough, (S.REDEEMING, S.CLOSING)),
    (S.PRIMING, HandlerEnded): _A(handler_ended, (S.PRIMING, S.ACTIVE, S.CLOSING)),
    (S.PRIMING, Assigned): _A(prime_another, (S.PRIMING,)),
    (S.PRIMING, Unassigned): _A(no_other, (S.PRIMING, S.ACTIVE, S.CLOSING)),
    (S.PRIMING, Woken): _A(term_over, (S.PRIMING, S.CLOSING)),
    (S.ACTIVE, UnitLost): _A(unit_lost, (S.ACTIVE,)),
    (S.ACTIVE, HandlerEnded): _A(replacement_ended, (S.ACTIVE,)),
    (S.ACTIVE, Assigned): _A(prime_another, (S.ACTIVE,)),
    (S.ACTIVE, Unassigned): _A(no_replacement, (S.ACTIVE,)),
    (S.ACTIVE, UnitsFreed): _A(replace_lost, (S.ACTIVE,)),
    (S.ACTIVE, ExtendLeaseAsked): _A(extend, (S.ACTIVE,)),
    (S.ACTIVE, ExtendLeaseUnfit): _A(refuse_extension, (S.ACTIVE,)),
    (S.ACTIVE, Woken): _A(term_over, (S.ACTIVE, S.CLOSING)),
    **{
        (state, event): _A(action, (S.CLOSING,))
        for state in (S.REDEEMING, S.PRIMING, S.ACTIVE)
        for event, action in ((CloseMessage, close_by_guest), (CloseAsked, close_by_site))
    },
    **{
        (state, Revoked): _A(note_revocation, (state,))
        for state in (S.REDEEMING, S.PRIMING, S.ACTIVE)
    },
    (S.CLOSING, HandlerEnded): _A(teardown_ended, (S.CLOSING,)),
    (S.CLOSING, Settled): _A(write_receipt, _ENDED),
    (S.CLOSING, CloseMessage): _A(close_again, (S.CLOSING,)),
    (S.CLOSING, ExtendLeaseUnfit): _A(refuse_extension, (S.CLOSING,)),
    (S.CLOSE_FAILED, RetryAsked): _A(retry_teardown, (S.CLOSING,)),
    (S.CLOSE_FAILED, UnitCleaned): _A(cleaned_after_all, (S.CLOSING, S.CLOSE_FAILED)),
    (S.CLOSING, UnitCleaned): _A(cleaned_after_all, (S.CLOSING,)),
    **{
        (state, event): _A(answer_from_tombstone, (state,))
        for state in _ENDED
        for event in (RedeemAsked, CloseMessage)
    },
    **{(state, ExtendLeaseUnfit): _A(refuse_extension, (state,)) for state in _ENDED},
}
