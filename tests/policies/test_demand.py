"""What a guest does with a lease: go on, wait, extend, end."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from shirako.core.claims import Party
from shirako.core.guest import Answer, GuestLease, GuestState
from shirako.core.policy import End, Extend, GoOn, Wait, Wanted
from shirako.core.terms import Term
from shirako_policies.first_fit import FirstFit
from shirako_policies.renew import Renew
from shirako_policies.static import Static

SOMEBODY = Party("kid", "x", "http://somebody.test")
LEAD = 2
LEASE = GuestLease(
    id="r1",
    guest=SOMEBODY,
    broker=SOMEBODY,
    slice="s",
    type="node",
    units=1,
    least_units=1,
    state=GuestState.ACTIVE,
    term=Term(1000, 2000),
)


@pytest.mark.parametrize(
    ("state", "now", "decision"),
    [
        (GuestState.TICKETED, 900, Wait(1000)),
        (GuestState.TICKETED, 1000, GoOn()),
        (GuestState.LEASED, 1001, GoOn()),
        (GuestState.ACTIVE_TICKETED, 1001, GoOn()),
        (GuestState.ACTIVE, 1001, Wait(1998)),
        (GuestState.ACTIVE, 1998, End("the term ends")),
        (GuestState.EXTENDING_LEASE, 1999, End("the term ends")),
    ],
)
def test_static(state: GuestState, now: int, decision: object) -> None:
    assert Static().decide(replace(LEASE, state=state), now, LEAD) == decision


def test_static_lets_even_the_shortest_lease_begin() -> None:
    short = replace(LEASE, state=GuestState.TICKETED, term=Term(1000, 1001))
    assert Static().decide(short, 1000, LEAD) == GoOn()


def test_renew_asks_in_time_for_the_same_length_again() -> None:
    renewing = replace(LEASE, renew=True)
    assert Renew().decide(renewing, 1001, LEAD) == Wait(1500)
    assert Renew().decide(renewing, 1500, LEAD) == Extend(3000)
    granted = replace(
        renewing,
        term=Term(1000, 3000),
        answer=Answer(asked_end=3000, old_end=2000, granted_end=3000),
    )
    assert Renew().decide(granted, 2600, LEAD) == Extend(4000)


def test_renew_that_was_refused_lets_the_term_run_out() -> None:
    refused = Answer(asked_end=3000, old_end=2000, granted_end=2000, refused="booked")
    renewing = replace(LEASE, renew=True, answer=refused)
    assert Renew().decide(renewing, 1600, LEAD) == Wait(1998)
    assert Renew().decide(renewing, 1998, LEAD) == End("the term ends")


def test_renew_leaves_other_leases_alone() -> None:
    assert Renew().decide(LEASE, 1600, LEAD) == Wait(1998)


def test_first_fit_gives_the_first_or_as_many_as_will_do() -> None:
    free = {"node": ["n1", "n2", "n3"]}

    def first_fit(count: int, least: int) -> tuple[str, ...]:
        request = Wanted(type="node", count=count, least=least, properties={})
        return next(iter(FirstFit().decide(free, [request], 0)))

    assert first_fit(2, 2) == ("n1", "n2")
    assert first_fit(4, 4) == ()
    assert first_fit(4, 2) == ("n1", "n2", "n3")
