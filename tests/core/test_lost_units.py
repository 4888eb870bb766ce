"""Units that die in an active lease: what the site and the guest make of it (design, section 4)."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from shirako.core import authority, guest, machine, messages
from shirako.core.authority import (
    SWAPS_MAX,
    Assign,
    Assigned,
    Assignment,
    Quarantine,
    Release,
    SiteLease,
    SiteState,
    UnitLost,
    UnitPhase,
)
from shirako.core.guest import GuestLease, GuestState, LeaseUpdated
from shirako.core.machine import HandlerEnded, Work
from shirako.core.messages import UnitState
from tests.core.cast import me_of
from tests.core.test_tables import GUEST, TERM, guest_record, site_record

SITE_ME, GUEST_ME = me_of("site"), me_of("guest")


def active(units: int = 2) -> SiteLease:
    assignments = tuple(
        Assignment(unit=f"n{n}", epoch=n, phase=UnitPhase.ACTIVE) for n in range(1, units + 1)
    )
    record = replace(site_record(SiteState.ACTIVE), assignments=assignments, units=units)
    return replace(record, least_units=units)


def lost(unit: str, epoch: int) -> UnitLost:
    return UnitLost(now=150, unit=unit, epoch=epoch, reason="dead")


def ended(work: Work, *, ok: bool, unsuitable: bool = False) -> HandlerEnded:
    return HandlerEnded(
        now=151, work=work, ok=ok, message="" if ok else "no", unsuitable=unsuitable
    )


def said_to_guest(record: SiteLease) -> messages.UpdateLease:
    (said,) = record.lines[GUEST.kid].unacked
    assert isinstance(said, messages.UpdateLease)
    return said


def test_a_lost_unit_is_quarantined_cleaned_and_replaced() -> None:
    step = machine.step(authority.TABLE, active(), lost("n1", 1), SITE_ME)
    assert step.record.state is SiteState.ACTIVE
    assert step.record.degraded == "n1 was lost: dead"
    assert [u.unit for u in said_to_guest(step.record).units] == ["n2"]
    assert said_to_guest(step.record).degraded
    assert [type(e) for e in step.effects] == [Quarantine, Assign]
    assert step.effects[1] == Assign(count=1, least=1)
    assert step.record.work == (Work(handler="teardown", unit="n1", epoch=1),)
    assigned = Assigned(now=150, units=(("n3", 9),))
    step = machine.step(authority.TABLE, step.record, assigned, SITE_ME)
    assert step.record.missing == 0
    assert [u.unit for u in said_to_guest(step.record).units] == ["n2"]
    step = machine.step(authority.TABLE, step.record, ended(step.record.work[1], ok=True), SITE_ME)
    assert step.record.degraded == ""
    assert [u.unit for u in said_to_guest(step.record).units] == ["n2", "n3"]


def test_a_unit_lost_under_an_older_epoch_changes_nothing() -> None:
    record = active()
    assert machine.step(authority.TABLE, record, lost("n1", 0), SITE_ME).record == record


def test_replacements_that_fail_are_tried_so_often_and_no_more() -> None:
    """BOUNDED: a lease that can not be made whole goes on with what it has."""
    record = machine.step(authority.TABLE, active(), lost("n1", 1), SITE_ME).record
    tries = 0
    while record.missing:
        tries += 1
        unit = (f"m{tries}", 100 + tries)
        record = machine.step(
            authority.TABLE, record, Assigned(now=150, units=(unit,)), SITE_ME
        ).record
        setup = next(w for w in record.work if w.handler == "setup")
        step = machine.step(authority.TABLE, record, ended(setup, ok=False), SITE_ME)
        assert any(isinstance(e, Quarantine) for e in step.effects)
        record = step.record
        for work in record.work:
            record = machine.step(authority.TABLE, record, ended(work, ok=True), SITE_ME).record
    assert tries == SWAPS_MAX + 1
    assert record.state is SiteState.ACTIVE
    assert len(machine.step(authority.TABLE, record, lost("n2", 2), SITE_ME).record.assignments) < 5


def test_a_replacement_that_does_not_suit_is_tried_on_no_other_unit() -> None:
    record = machine.step(authority.TABLE, active(), lost("n1", 1), SITE_ME).record
    assigned = Assigned(now=150, units=(("n3", 9),))
    record = machine.step(authority.TABLE, record, assigned, SITE_ME).record
    setup = record.work[1]
    step = machine.step(authority.TABLE, record, ended(setup, ok=False, unsuitable=True), SITE_ME)
    assert (step.record.missing, step.effects) == (0, ())
    assert step.record.state is SiteState.ACTIVE
    assert said_to_guest(step.record).degraded == "n3: set-up: no"


def test_what_a_lease_asks_for_blames_no_unit() -> None:
    record = site_record(SiteState.PRIMING)
    step = machine.step(
        authority.TABLE, record, ended(record.work[0], ok=False, unsuitable=True), SITE_ME
    )
    assert step.record.state is SiteState.CLOSING
    assert "can not be set up" in step.record.refusal
    assert step.effects == ()
    step = machine.step(authority.TABLE, step.record, ended(step.record.work[0], ok=True), SITE_ME)
    assert any(isinstance(e, Release) for e in step.effects)
    assert not any(isinstance(e, Quarantine) for e in step.effects)


# The guest -----------------------------------------------------------------------------------

N1, N2, N3 = (UnitState(unit=f"n{n}", epoch=n) for n in (1, 2, 3))
HELD = (
    GuestState.ACTIVE,
    GuestState.EXTENDING_TICKET,
    GuestState.ACTIVE_TICKETED,
    GuestState.EXTENDING_LEASE,
)


def holding(state: GuestState, *units: UnitState) -> GuestLease:
    joined = tuple(u.unit for u in units)
    return replace(guest_record(state), held=units, joined=joined, units=len(units), work=())


def snapshot(*units: UnitState, degraded: str = "") -> LeaseUpdated:
    message = messages.UpdateLease(
        rid="L1", holder=GUEST.kid, n=7, lease="l", units=units, degraded=degraded
    )
    return LeaseUpdated(now=150, message=message, term=TERM)


@pytest.mark.parametrize("state", HELD)
def test_a_guest_leaves_what_was_lost_and_joins_what_replaces_it(state: GuestState) -> None:
    record = holding(state, N1, N2)
    record = machine.step(guest.TABLE, record, snapshot(N2, degraded="n1"), GUEST_ME).record
    leave = Work(handler="leave", unit="n1", epoch=1)
    assert (record.work, record.joined, record.units) == ((leave,), ("n2",), 2)
    assert record.unit("n1", 1) == N1  # its properties, for the leave handler
    record = machine.step(guest.TABLE, record, snapshot(N2, N3), GUEST_ME).record
    join = Work(handler="join", unit="n3", epoch=3)
    assert record.work == (leave, join)
    for work in (leave, join):
        record = machine.step(guest.TABLE, record, ended(work, ok=True), GUEST_ME).record
    assert (record.state, record.work, record.gone) == (state, (), ())
    assert record.joined == ("n2", "n3")
    assert record.degraded == ""


def test_a_unit_that_is_lost_while_it_joins_holds_nothing_up() -> None:
    record = holding(GuestState.JOINING, N1, N2)
    joins = tuple(Work(handler="join", unit=u.unit, epoch=u.epoch) for u in (N1, N2))
    record = replace(record, joined=(), work=joins)
    record = machine.step(guest.TABLE, record, ended(joins[1], ok=True), GUEST_ME).record
    assert record.state is GuestState.JOINING
    record = machine.step(guest.TABLE, record, snapshot(N2, degraded="n1"), GUEST_ME).record
    assert (record.state, record.work) == (GuestState.ACTIVE, ())


def test_the_same_name_under_a_new_epoch_is_another_unit() -> None:
    """Fencing: the guest joins it again."""
    record = holding(GuestState.ACTIVE, N1)
    again = UnitState(unit="n1", epoch=8)
    record = machine.step(guest.TABLE, record, snapshot(again), GUEST_ME).record
    assert [(w.handler, w.epoch) for w in record.work] == [("leave", 1), ("join", 8)]
