"""Tickets of several chains: one after the other, side by side, and split among parts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shirako import trust
from shirako.actors.authority import Authority
from shirako.core import messages
from shirako.core.claims import Chain, Claim, Unfit
from shirako.core.terms import Term
from shirako.core.tickets import Part, peak, shared_out, whole
from shirako.trust import digest
from tests.core.cast import TYPE, key_of, open_site, party_of, share_of
from tests.scenarios.stage import Stage

GUEST = key_of("guest").public
WHOLE, LIFE = Term(90, 1000), Term(100, 200)
parts = st.lists(
    st.tuples(st.integers(1, 4), st.integers(0, 20), st.integers(1, 15)).map(
        lambda p: (p[0], Term(p[1], p[1] + p[2]))
    ),
    min_size=1,
    max_size=6,
)


def at(some: list[Part], tick: int) -> int:
    return sum(units for units, term in some if term.covers(tick))


@given(parts)
def test_a_ticket_is_worth_the_same_all_the_time_or_is_none(some: list[Part]) -> None:
    first = min(term.start for _, term in some)
    last = max(term.end for _, term in some)
    levels = {at(some, tick) for tick in range(first, last)}
    assert peak(some) == max(levels)
    if len(levels) == 1:
        assert whole(some) == (levels.pop(), Term(first, last))
    else:
        with pytest.raises(Unfit, match="leave a gap, overlap, or differ in units"):
            whole(some)


@given(parts, st.integers(0, 8))
def test_units_are_shared_out_among_parts(some: list[Part], units: int) -> None:
    """CONSERVE: at each instant as many stay sold as are not free, as far as there are so many."""
    shared = shared_out(some, units)
    assert all(0 <= count <= own for count, (own, _) in zip(shared, some, strict=True))
    kept = [(count, term) for count, (_, term) in zip(shared, some, strict=True)]
    for tick in range(36):
        assert at(kept, tick) >= min(units, at(some, tick))
    side_by_side = {term for _, term in some}
    if len(side_by_side) == 1:
        assert sum(shared) == min(units, sum(own for own, _ in some))


# At the site --------------------------------------------------------------------------------------


def sold(above: Chain, name: str, units: int, term: Term = LIFE, *, by: str = "broker") -> Chain:
    claim = Claim(
        jti=name,
        issuer=key_of(by).public.kid,
        holder=party_of("guest"),
        type=TYPE,
        units=units,
        term=term,
        digest="",
        parent=digest(above[-1]),
        reservation="L1",
    )
    return (*above, trust.sign_claim(key_of(by), claim))


def redeem(site: Authority, *ticket: Chain) -> str:
    asking = messages.Redeem(
        rid="L1", holder=GUEST.kid, n=1, ticket=ticket, slice="s", least_units=1
    )
    refusal = site.receive(GUEST, asking, 150)
    return refusal.code if refusal else ""


@pytest.fixture
def site() -> Authority:
    return open_site([f"n{n}" for n in range(8)], ("broker", "other"))


def test_chains_side_by_side_make_one_lease(site: Authority) -> None:
    one, two = (site.delegate(share_of(2, WHOLE, name=name)).chain for name in ("d1", "d2"))
    assert redeem(site, sold(one, "a", 2), sold(two, "b", 1)) == ""
    (lease,) = site.leases.values()
    assert (lease.units, lease.term, len(lease.live)) == (3, Term(100, 200), 3)


@pytest.mark.parametrize(
    ("second", "code"),
    [
        (2, "conflict"),  # three of the two that the broker holds
        (1, ""),
    ],
)
def test_chains_of_one_ticket_count_together(site: Authority, second: int, code: str) -> None:
    """ROOTED: none of them is spent yet when the others are looked at."""
    above = site.delegate(share_of(2, WHOLE)).chain
    assert redeem(site, sold(above, "a", 1), sold(above, "b", second)) == code


def test_what_is_no_ticket_is_refused(site: Authority) -> None:
    one, two = (site.delegate(share_of(2, WHOLE, name=name)).chain for name in ("d1", "d2"))
    others = site.delegate(share_of(2, WHOLE, name="d3", to="other")).chain
    first = sold(one, "a", 2)
    for beside in (
        first,
        sold(two, "b", 1, Term(100, 199)),
        sold(two, "b", 1, Term(150, 200)),
        sold(two, "b", 2, Term(201, 300)),
        sold(others, "b", 1, by="other"),
    ):
        assert redeem(site, first, beside) == "unfit"
    assert not site.leases
    assert redeem(site, first, sold(two, "b", 2, Term(200, 300))) == ""


# Whole lives -------------------------------------------------------------------------------------


def free_of(stage: Stage, name: str, term: Term) -> int:
    share = stage.broker.share(name)
    assert share is not None
    return share.calendar.free(term)


def test_a_life_on_two_delegations() -> None:
    """Asked for, granted from both, set up, extended, closed; and all is the broker's again."""
    stage = Stage(units=("n1", "n2", "n3", "n4"))
    for name in ("d1", "d2"):
        stage.delegate(2, Term(90, 400), name=name)
    stage.tick(100)
    stage.request("L1", 3, Term(100, 200))
    stage.settle()
    assert stage.state("guest", "L1") == "Active"
    assert len(stage.record("guest", "L1").held) == 3
    assert [free_of(stage, name, Term(100, 200)) for name in ("d1", "d2")] == [0, 1]
    stage.extend("L1", 300)
    stage.settle()
    assert stage.record("site", "L1").term == Term(100, 300)
    stage.crash("broker")
    stage.crash("site")
    stage.close("L1")
    stage.settle()
    assert [stage.state(who, "L1") for who in ("guest", "broker", "site")] == ["Closed"] * 3
    assert [free_of(stage, name, Term(100, 400)) for name in ("d1", "d2")] == [2, 2]


def test_units_that_stay_dirty_stay_sold_once() -> None:
    """CONSERVE and rule 12: one unit's teardown fails, and one unit is not sold again."""
    stage = Stage(units=("n1", "n2", "n3", "n4"))
    for name in ("d1", "d2"):
        stage.delegate(2, Term(90, 400), name=name)
    stage.tick(100)
    stage.request("L1", 4, Term(100, 200))
    stage.settle()
    stage.failing["teardown", "n2"] = "it burns"
    stage.close("L1")
    for tick in (110, 120, 130, 140):
        stage.settle()
        stage.tick(tick)
    assert stage.state("site", "L1") == "CloseFailed"
    assert sum(free_of(stage, name, Term(180, 200)) for name in ("d1", "d2")) == 3
