"""The three state tables are total, connected, and refuse without a trace what they do not name."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import msgspec
import pytest

from shirako.core import authority, broker, guest, machine, messages
from shirako.core.authority import Assignment, SiteLease, SiteState, Spent, UnitPhase
from shirako.core.broker import BrokerLease, BrokerState, Grant
from shirako.core.claims import Receipt
from shirako.core.guest import Answer, GuestLease, GuestState
from shirako.core.machine import Event, HandlerEnded, IllegalTransition, Record, State, Woken, Work
from shirako.core.messages import UnitState
from shirako.core.terms import Term
from tests.core.cast import TYPE, me_of, party_of

TERM = Term(100, 200)
CHAIN = ("root", "leaf")
BROKER, SITE, GUEST = party_of("broker"), party_of("site"), party_of("guest")
SHARED: dict[str, Any] = {
    "id": "L1",
    "guest": GUEST,
    "slice": "s",
    "type": TYPE,
    "units": 1,
    "least_units": 1,
    "term": TERM,
    "wake": 200,
}
RECEIPT = Receipt(
    jti="r",
    issuer=SITE.kid,
    holder=GUEST.kid,
    reservation="L1",
    claims=("t1",),
    units_freed=1,
    tick=150,
    redeemed=True,
    final=True,
)


def work_of(record: Record) -> Work:
    return record.work[0] if record.work else Work(handler="join", unit="n1", epoch=1)


# Records: one in each state, as it would be in the middle of a life ---------------------------


def guest_record(state: GuestState) -> GuestLease:
    handlers = {GuestState.JOINING: "join", GuestState.LEAVING: "leave"}
    late = state not in (GuestState.NASCENT, GuestState.TICKETING, GuestState.CANCELLING)
    work: tuple[Work, ...] = ()
    if state in handlers:
        work = (Work(handler=handlers[state], unit="n1", epoch=1),)  # type: ignore[arg-type]
    extending = state in (GuestState.ACTIVE_TICKETED, GuestState.EXTENDING_LEASE)
    return GuestLease(
        **SHARED,
        state=state,
        broker=BROKER,
        joins=True,
        ticket=(CHAIN,) if late else (),
        extension=(CHAIN,) if extending else (),
        extended=Term(100, 300) if extending else None,
        site=SITE if late else None,
        held=(UnitState(unit="n1", epoch=1),) if late else (),
        joined=("n1",) if state is GuestState.LEAVING else (),
        answer=Answer(asked_end=300, old_end=200, granted_end=200),
        work=work,
        closing="done",
    )


def broker_record(state: BrokerState) -> BrokerLease:
    sold = state in (BrokerState.TICKETED, BrokerState.EXTENDING_TICKET)
    grant = Grant(delegation="d1", units=1, term=TERM, jti="t1", chain=CHAIN)
    return BrokerLease(**SHARED, state=state, grants=(grant,) if sold else (), asked=1)


def site_record(state: SiteState) -> SiteLease:
    phases = {
        SiteState.PRIMING: (UnitPhase.PRIMING, "setup"),
        SiteState.ACTIVE: (UnitPhase.ACTIVE, ""),
        SiteState.CLOSING: (UnitPhase.CLOSING, "teardown"),
        SiteState.CLOSED: (UnitPhase.CLOSED, ""),
        SiteState.CLOSE_FAILED: (UnitPhase.FAILED, ""),
    }
    phase, handler = phases.get(state, (None, ""))
    assignments = (Assignment(unit="n1", epoch=1, phase=phase),) if phase else ()
    work = (Work(handler=handler, unit="n1", epoch=1),) if handler else ()  # type: ignore[arg-type]
    spent = Spent(jti="t1", issuer=BROKER.kid, units=1, term=TERM, ancestors=())
    return SiteLease(
        **SHARED, state=state, broker=BROKER, spent=(spent,), assignments=assignments, work=work
    )


# Events: one or more of each class ------------------------------------------------------------

NOW = 150
NAMES: dict[str, Any] = {"rid": "L1", "holder": GUEST.kid, "n": 5}
FAILED = messages.Failed(**NAMES, answers=1, code="no", reason="no")
TICKETS = [
    messages.UpdateTicket(**NAMES, ticket=(CHAIN,)),
    messages.UpdateTicket(**NAMES, closed=True),
]
LEASES = [
    messages.UpdateLease(**NAMES, lease="l", units=(UnitState(unit="n1", epoch=1),)),
    messages.UpdateLease(**NAMES, closed=True, receipt="r"),
]
REDEEM = messages.Redeem(**NAMES, ticket=(CHAIN,), slice="s", least_units=1)
CLOSE = messages.Close(**NAMES, ticket=(CHAIN,))
EXTEND = messages.ExtendLease(**NAMES, ticket=(CHAIN,))


def handler_events(record: Record) -> list[Event]:
    return [
        HandlerEnded(now=NOW, work=work_of(record), ok=ok, message="" if ok else "broken")
        for ok in (True, False)
    ]


def woken(_record: Record) -> list[Event]:
    return [Woken(now=now) for now in (NOW, 200, 5000)]


Make = Callable[[Any], list[Event]]

GUEST_EVENTS: dict[type[Event], Make] = {
    guest.Requested: lambda _: [guest.Requested(now=NOW)],
    guest.TicketUpdated: lambda _: [
        guest.TicketUpdated(
            now=NOW, message=m, site=SITE if m.ticket else None, term=t, units=1, revoked=why
        )
        for m in TICKETS
        for t in (TERM, Term(100, 300), None)
        for why in ("", "sold")
        if m.ticket or not why
    ],
    guest.LeaseUpdated: lambda _: [
        guest.LeaseUpdated(now=NOW, message=m, term=t)
        for m in LEASES
        for t in (TERM, Term(100, 300))
    ],
    guest.Denied: lambda _: [guest.Denied(now=NOW, message=FAILED)],
    guest.Refused: lambda _: [guest.Refused(now=NOW, message=FAILED)],
    guest.Unblocked: lambda _: [guest.Unblocked(now=NOW)],
    guest.ExtendAsked: lambda _: [guest.ExtendAsked(now=NOW, end=300, least_end=250)],
    guest.CloseAsked: lambda _: [guest.CloseAsked(now=NOW, reason="done")],
    guest.WakeLater: lambda _: [guest.WakeLater(now=NOW, tick=180)],
    HandlerEnded: handler_events,
    Woken: woken,
}
BROKER_EVENTS: dict[type[Event], Make] = {
    broker.TicketAsked: lambda _: [
        broker.TicketAsked(
            now=NOW,
            message=messages.TicketRequest(
                **NAMES, guest=GUEST, slice="s", type=TYPE, units=1, least_units=1, term=TERM
            ),
        )
    ],
    broker.ExtendTicketAsked: lambda _: [
        broker.ExtendTicketAsked(
            now=NOW, message=messages.ExtendTicket(**NAMES, end=end, least_end=end)
        )
        for end in (150, 300)
    ],
    broker.Relinquished: lambda _: [
        broker.Relinquished(
            now=NOW, message=messages.Relinquish(**NAMES), sender=sender, receipt=receipt
        )
        for sender in (GUEST.kid, SITE.kid)
        for receipt in (None, RECEIPT, msgspec.structs.replace(RECEIPT, claims=("other",)))
    ],
    broker.Granted: lambda _: [
        broker.Granted(
            now=NOW,
            grants=(Grant(delegation="d1", units=1, term=Term(200, 300), jti="t2", chain=CHAIN),),
        )
    ],
    broker.Denied: lambda _: [broker.Denied(now=NOW, code="no", reason="no")],
    broker.Revoked: lambda _: [broker.Revoked(now=NOW, revocation="r", reason="sold")],
    HandlerEnded: handler_events,
    Woken: woken,
}
SITE_EVENTS: dict[type[Event], Make] = {
    authority.RedeemAsked: lambda _: [
        authority.RedeemAsked(now=now, message=REDEEM) for now in (50, NOW)
    ],
    authority.RedeemUnfit: lambda _: [
        authority.RedeemUnfit(now=NOW, message=REDEEM, reason="sold", revocation="r")
    ],
    authority.Revoked: lambda _: [
        authority.Revoked(now=NOW, reason=reason) for reason in ("sold", "")
    ],
    authority.Assigned: lambda _: [authority.Assigned(now=NOW, units=(("n2", 7),))],
    authority.Unassigned: lambda _: [authority.Unassigned(now=NOW, reason="none are free")],
    authority.UnitsFreed: lambda _: [authority.UnitsFreed(now=NOW)],
    authority.Settled: lambda _: [authority.Settled(now=NOW, postings=())],
    authority.UnitCleaned: lambda _: [
        authority.UnitCleaned(now=NOW, unit=unit) for unit in ("n1", "other")
    ],
    authority.UnitLost: lambda _: [
        authority.UnitLost(now=NOW, unit=unit, epoch=1, reason="dead") for unit in ("n1", "other")
    ],
    authority.ExtendLeaseAsked: lambda _: [
        authority.ExtendLeaseAsked(now=now, message=EXTEND, spent=(), end=300) for now in (NOW, 200)
    ],
    authority.ExtendLeaseUnfit: lambda _: [
        authority.ExtendLeaseUnfit(now=NOW, message=EXTEND, code="no", reason="no")
    ],
    authority.CloseMessage: lambda _: [authority.CloseMessage(now=NOW, message=CLOSE)],
    authority.CloseAsked: lambda _: [authority.CloseAsked(now=NOW, reason="drained")],
    authority.RetryAsked: lambda _: [authority.RetryAsked(now=NOW, epochs={"n1": 9})],
    HandlerEnded: handler_events,
    Woken: woken,
}


@dataclass(frozen=True)
class Actor:
    name: str
    module: ModuleType
    states: type[State]
    record: Callable[[Any], Record]
    events: dict[type[Event], Make]

    @property
    def table(self) -> Mapping[tuple[State, type[Event]], machine.Arrow[Any]]:
        table: Mapping[tuple[State, type[Event]], machine.Arrow[Any]] = self.module.TABLE
        return table

    def leads_to(self) -> dict[State, set[State]]:
        found: dict[State, set[State]] = {state: set() for state in self.states}
        for (state, _), arrow in self.table.items():
            found[state] |= set(arrow.targets)
        return found


ACTORS = [
    Actor("guest", guest, GuestState, guest_record, GUEST_EVENTS),
    Actor("broker", broker, BrokerState, broker_record, BROKER_EVENTS),
    Actor("site", authority, SiteState, site_record, SITE_EVENTS),
]
EVERY_PAIR = [
    pytest.param(actor, state, kind, id=f"{actor.name}-{state.value}-{kind.__name__}")
    for actor in ACTORS
    for state in actor.states
    for kind in actor.events
]
every_actor = pytest.mark.parametrize("actor", ACTORS, ids=lambda actor: actor.name)


@every_actor
def test_the_examples_name_every_event_of_the_module(actor: Actor) -> None:
    declared = {
        kind
        for _, kind in inspect.getmembers(actor.module, inspect.isclass)
        if issubclass(kind, Event) and kind is not Event
    }
    assert declared <= set(actor.events)
    assert {kind for _, kind in actor.table} <= declared


@pytest.mark.parametrize(("actor", "state", "kind"), EVERY_PAIR)
def test_every_pair_is_an_arrow_or_refused_without_a_trace(
    actor: Actor, state: State, kind: type[Event]
) -> None:
    record = actor.record(state)
    before = msgspec.json.encode(record)
    assert machine.state_of(record) is state
    arrow = actor.table.get((state, kind))
    me = me_of("site" if actor.name == "site" else actor.name)
    for event in actor.events[kind](record):
        if arrow is None:
            with pytest.raises(IllegalTransition, match=state.value):
                machine.step(actor.table, record, event, me)
        else:
            result = machine.step(actor.table, record, event, me)
            assert machine.state_of(result.record) in arrow.targets
            assert result.record.key == record.key
            # the same again leads to the same: an action has no memory and no dice
            assert machine.step(actor.table, record, event, me) == result
        assert msgspec.json.encode(record) == before


@every_actor
def test_every_declared_target_is_a_state(actor: Actor) -> None:
    for (state, _), arrow in actor.table.items():
        assert isinstance(state, actor.states)
        assert arrow.targets
        assert all(isinstance(target, actor.states) for target in arrow.targets)


@every_actor
def test_every_state_can_be_reached_from_nascent(actor: Actor) -> None:
    leads_to = actor.leads_to()
    reached = {actor.states("Nascent")}
    while True:
        more = reached.union(*(leads_to[state] for state in reached))
        if more == reached:
            break
        reached = more
    assert reached == set(actor.states)


@every_actor
def test_every_state_has_a_way_to_an_end(actor: Actor) -> None:
    """ENDS, of each table by itself: there is no state without a path to a final one."""
    leads_to = actor.leads_to()
    ending = {state for state in actor.states if state.final}
    while True:
        more = ending | {state for state, targets in leads_to.items() if targets & ending}
        if more == ending:
            break
        ending = more
    assert ending == set(actor.states)


@every_actor
def test_an_end_is_an_end(actor: Actor) -> None:
    """Nothing leads out of a final state, save what mends a teardown that failed."""
    mended = (authority.RetryAsked, authority.UnitCleaned)
    for (state, kind), arrow in actor.table.items():
        if state.final and kind not in mended:
            assert set(arrow.targets) == {state}


@every_actor
def test_an_undeclared_target_is_noticed(actor: Actor) -> None:
    (state, kind), arrow = next(
        (pair, arrow) for pair, arrow in actor.table.items() if not pair[0].final
    )
    record = actor.record(state)
    wrong = {(state, kind): machine.Arrow(arrow.action, ())}
    with pytest.raises(AssertionError, match="undeclared"):
        machine.step(wrong, record, actor.events[kind](record)[0], me_of("guest"))


@pytest.mark.parametrize(
    "state", [s for s in SiteState if not s.final and s is not SiteState.NASCENT]
)
def test_close_pre_empts_every_live_state_of_the_site(state: SiteState) -> None:
    """Rule 7."""
    assert (state, authority.CloseMessage) in authority.TABLE


@pytest.mark.parametrize("state", list(BrokerState))
def test_relinquish_pre_empts_every_state_of_the_broker(state: BrokerState) -> None:
    """Rule 7."""
    assert (state, broker.Relinquished) in broker.TABLE


@pytest.mark.parametrize(
    "state",
    [
        s
        for s in GuestState
        if not s.final
        and s
        not in (
            GuestState.NASCENT,
            GuestState.CANCELLING,
            GuestState.LEAVING,
            GuestState.CLOSE_WAIT,
        )
    ],
)
def test_a_guest_may_close_in_every_state_that_is_not_closing(state: GuestState) -> None:
    assert (state, guest.CloseAsked) in guest.TABLE


@every_actor
def test_what_waits_is_woken(actor: Actor) -> None:
    """ENDS: whoever waits for another actor has a deadline of its own, except for handlers."""
    for state in actor.states:
        waits = not state.final and state.value not in ("Nascent", "Closing")
        if waits:
            assert (state, Woken) in actor.table, f"{state} waits without a deadline"
