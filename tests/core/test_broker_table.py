"""What the broker's table makes of grants and receipts."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from shirako.core import broker, machine, messages
from shirako.core.broker import BrokerState, Free, Grant, Granted, Relinquished
from shirako.core.claims import Receipt
from shirako.core.terms import Term
from tests.core.cast import me_of, party_of
from tests.core.test_tables import CHAIN, GUEST, SITE, broker_record

FIRST = Grant(delegation="d1", units=3, term=Term(100, 150), jti="t1", chain=CHAIN)
SECOND = Grant(delegation="d2", units=3, term=Term(150, 200), jti="t2", chain=CHAIN)
ME = me_of("broker")


def receipt(freed: int, tick: int, *claims: str, failed: int = 0) -> Relinquished:
    said = Receipt(
        jti="r",
        issuer=SITE.kid,
        holder=GUEST.kid,
        reservation="L1",
        claims=claims,
        units_freed=freed,
        tick=tick,
        redeemed=True,
        final=True,
        failed_units=tuple(f"n{number}" for number in range(failed)),
    )
    message = messages.Relinquish(rid="L1", holder=GUEST.kid, n=9, receipt="token")
    settled = dict.fromkeys(claims, failed)
    return Relinquished(now=tick, message=message, sender=GUEST.kid, receipt=said, settled=settled)


def test_grants_that_follow_one_another_are_the_same_units() -> None:
    record = broker_record(BrokerState.TICKETING)
    step = machine.step(broker.TABLE, record, Granted(now=90, grants=(FIRST, SECOND)), ME)
    assert step.record.units == 3
    assert step.record.term == Term(100, 200)
    assert step.record.wake == 200


@pytest.mark.parametrize("tick", [90, 120, 160, 200])
def test_a_receipt_frees_what_is_left_of_every_grant(tick: int) -> None:
    record = replace(broker_record(BrokerState.TICKETED), grants=(FIRST, SECOND))
    step = machine.step(broker.TABLE, record, receipt(3, tick, "t1", "t2"), ME)
    assert step.record.grants == ()
    assert step.effects == tuple(
        Free(delegation=g.delegation, units=3, term=Term(max(tick, g.term.start), g.term.end))
        for g in (FIRST, SECOND)
        if tick < g.term.end
    )


def test_units_whose_teardown_failed_stay_sold_until_the_term_is_over() -> None:
    """CONSERVE and rule 12: after a crash, too, since the grants are what is loaded."""
    record = replace(broker_record(BrokerState.TICKETED), grants=(FIRST, SECOND))
    step = machine.step(broker.TABLE, record, receipt(1, 120, "t1", "t2", failed=2), ME)
    assert step.record.state is BrokerState.CLOSED
    assert [g.units for g in step.record.grants] == [2, 2]
    assert [(e.units, e.term.start) for e in step.effects] == [(1, 120), (1, 150)]


def test_units_that_were_cleaned_after_all_are_freed_once() -> None:
    """CONSERVE: the second receipt frees what the first did not, and no copy frees more."""
    record = replace(broker_record(BrokerState.TICKETED), grants=(FIRST, SECOND))
    first = receipt(1, 120, "t1", "t2", failed=2)
    record = machine.step(broker.TABLE, record, first, ME).record
    again = machine.step(broker.TABLE, record, first, ME)
    assert (again.record.grants, again.effects) == (record.grants, ())
    second = receipt(3, 130, "t1", "t2")
    step = machine.step(broker.TABLE, record, second, ME)
    assert step.record.grants == ()
    assert [(e.units, e.term.start) for e in step.effects] == [(2, 130), (2, 150)]
    for late in (first, second):
        after = machine.step(broker.TABLE, step.record, late, ME)
        assert (after.record.grants, after.effects) == ((), ())


def test_a_receipt_for_other_claims_frees_nothing() -> None:
    record = replace(broker_record(BrokerState.TICKETED), grants=(FIRST,))
    step = machine.step(broker.TABLE, record, receipt(3, 120, "other"), ME)
    assert step.record.grants == (FIRST,)
    assert step.effects == ()


def test_what_is_in_no_account_is_not_freed() -> None:
    """Rule 3: with no receipt to cite, the broker would seem to sell it twice."""
    elsewhere = replace(SECOND, chain=("another root", "leaf"))
    record = replace(broker_record(BrokerState.TICKETED), grants=(FIRST, elsewhere))
    unposted = replace(receipt(3, 120, "t1", "t2"), settled={})
    step = machine.step(broker.TABLE, record, unposted, ME)
    assert (step.record, step.effects) == (record, ())
    half = replace(receipt(3, 120, "t1", "t2"), settled={"t1": 0})
    step = machine.step(broker.TABLE, record, half, ME)
    assert step.record.state is BrokerState.CLOSED
    assert step.record.grants == (elsewhere,)
    assert [e.delegation for e in step.effects] == ["d1"]


def test_a_guests_word_alone_frees_nothing() -> None:
    """Rule 2: without a receipt the ticket is shown again, so that the site can void it."""
    record = replace(broker_record(BrokerState.TICKETED), grants=(FIRST,))
    said = messages.Relinquish(rid="L1", holder=GUEST.kid, n=9)
    event = Relinquished(now=120, message=said, sender=GUEST.kid, receipt=None)
    step = machine.step(broker.TABLE, record, event, ME)
    assert step.effects == ()
    (answer,) = step.record.lines[party_of("guest").kid].unacked
    assert isinstance(answer, messages.UpdateTicket)
    assert answer.ticket == (CHAIN,)
