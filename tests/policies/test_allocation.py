"""First come, first served: what is given, what is declined, and what would have worked."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shirako.core.calendar import Calendar
from shirako.core.policy import Declined, Demanded, Given, Piece, Share
from shirako.core.terms import Term
from shirako.core.tickets import whole
from shirako_policies.first_come import FirstCome

NOW = 1000


def share(units: int, start: int, end: int, name: str = "d1", site: str = "") -> Share:
    return Share(delegation=name, calendar=Calendar(units, Term(start, end)), site=site)


def wanted(
    units: int,
    start: int,
    end: int,
    *,
    least_units: int | None = None,
    least_end: int | None = None,
    extension: bool = False,
) -> Demanded:
    return Demanded(
        type="node",
        units=units,
        least_units=units if least_units is None else least_units,
        term=Term(start, end),
        least_end=end if least_end is None else least_end,
        extension=extension,
        properties={},
    )


def decide(shares: Sequence[Share], request: Demanded) -> Given | Declined:
    return next(iter(FirstCome().decide({"node": shares}, [request], NOW)))


def test_a_request_that_fits_is_given_whole() -> None:
    decision = decide([share(4, 0, 9000)], wanted(3, NOW, 2000))
    assert isinstance(decision, Given)
    assert (decision.units, decision.pieces) == (3, (Piece("d1", Term(NOW, 2000), 3),))
    assert (decision.offer.latest_end, decision.offer.cap) == (9000, "delegation")


def test_all_units_come_from_one_delegation() -> None:
    shares = [share(2, 0, 9000, "d1"), share(4, 0, 9000, "d2")]
    decision = decide(shares, wanted(3, NOW, 2000))
    assert isinstance(decision, Given)
    assert decision.pieces[0][0] == "d2"


def test_a_refusal_says_what_would_have_worked() -> None:
    one = share(4, 0, 9000)
    one.calendar.book(3, Term(1500, 3000))
    decision = decide([one], wanted(2, NOW, 2000))
    assert isinstance(decision, Declined)
    assert decision.code == "unavailable"
    assert "1 of 2 units" in decision.reason
    offer = decision.offer
    assert (offer.units, offer.latest_end, offer.cap, offer.start) == (1, 1500, "booked", 3000)


def test_fewer_units_only_if_the_guest_takes_them() -> None:
    one = share(4, 0, 9000)
    one.calendar.book(3, Term(1500, 3000))
    decision = decide([one], wanted(2, NOW, 2000, least_units=1))
    assert isinstance(decision, Given)
    assert decision.units == 1


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (wanted(5, NOW, 2000), "unavailable", "this broker holds 4"),
        (wanted(1, NOW, 9001), "unavailable", "beyond what sites have delegated"),
        (wanted(1, 10, NOW), "past", "over"),
    ],
)
def test_reasons(request_: Demanded, code: str, words: str) -> None:
    decision = decide([share(4, 0, 9000)], request_)
    assert isinstance(decision, Declined)
    assert decision.code == code
    assert words in decision.reason


def test_an_unknown_type_is_said_to_be_one() -> None:
    decision = next(iter(FirstCome().decide({}, [wanted(1, NOW, 2000)], NOW)))
    assert isinstance(decision, Declined)
    assert decision.code == "unknown_type"


def test_an_extension_is_granted_up_to_what_is_possible() -> None:
    one = share(2, 0, 9000)
    one.calendar.book(2, Term(3000, 4000))
    asked = wanted(1, 2000, 5000, least_end=2500, extension=True)
    decision = decide([one], asked)
    assert isinstance(decision, Given)
    assert decision.pieces == (Piece("d1", Term(2000, 3000), 1),)
    assert (decision.offer.latest_end, decision.offer.cap) == (3000, "booked")
    whole = wanted(1, 2000, 5000, extension=True)
    declined = decide([one], whole)
    assert isinstance(declined, Declined)
    assert (declined.offer.latest_end, declined.offer.cap) == (3000, "booked")


def test_an_extension_goes_on_in_the_next_delegation() -> None:
    shares = [share(2, 0, 3000, "old"), share(2, 3000, 9000, "new")]
    decision = decide(shares, wanted(2, 2000, 4000, extension=True))
    assert isinstance(decision, Given)
    assert decision.pieces == (
        Piece("old", Term(2000, 3000), 2),
        Piece("new", Term(3000, 4000), 2),
    )
    assert (decision.offer.latest_end, decision.offer.cap) == (9000, "delegation")


def test_units_of_several_delegations_of_a_site_go_together() -> None:
    shares = [share(2, 0, 9000, "d1"), share(3, 0, 9000, "d2")]
    decision = decide(shares, wanted(4, NOW, 2000))
    assert isinstance(decision, Given)
    assert decision.pieces == (
        Piece("d2", Term(NOW, 2000), 3),
        Piece("d1", Term(NOW, 2000), 1),
    )
    assert decision.offer.latest_end == 9000


def test_a_lease_is_at_one_site() -> None:
    shares = [share(2, 0, 9000, "d1", "site1"), share(3, 0, 9000, "d2", "site2")]
    declined = decide(shares, wanted(4, NOW, 2000))
    assert isinstance(declined, Declined)
    assert "this broker holds 3 of node at one site" in declined.reason
    given = decide(shares, wanted(3, NOW, 2000))
    assert isinstance(given, Given)
    assert [piece.delegation for piece in given.pieces] == ["d2"]


def test_a_request_may_begin_in_one_delegation_and_go_on_in_the_next() -> None:
    shares = [share(2, 0, 3000, "old"), share(2, 3000, 9000, "new")]
    decision = decide(shares, wanted(2, 2000, 4000))
    assert isinstance(decision, Given)
    assert [piece.delegation for piece in decision.pieces] == ["old", "new"]


def test_an_extension_stays_at_its_site() -> None:
    shares = [share(2, 0, 3000, "d1", "site1"), share(2, 0, 9000, "d2", "site2")]
    asked = replace(wanted(2, 2000, 4000, least_end=2500, extension=True), site="site1")
    decision = decide(shares, asked)
    assert isinstance(decision, Given)
    assert decision.pieces == (Piece("d1", Term(2000, 3000), 2),)
    gone = decide(shares, replace(asked, site="site3"))
    assert isinstance(gone, Declined)


SPANS = st.tuples(st.integers(0, 3), st.integers(1, 3), st.integers(0, 40), st.integers(1, 20))
SHARES = st.lists(
    st.tuples(st.integers(1, 4), st.integers(0, 30), st.integers(1, 60), st.sampled_from("ab")),
    min_size=1,
    max_size=4,
)


@given(
    held=SHARES,
    bookings=st.lists(SPANS, max_size=8),
    units=st.integers(1, 6),
    start=st.integers(NOW, NOW + 40),
    ticks=st.integers(1, 30),
    extension=st.booleans(),
)
def test_what_is_given_is_free_and_what_is_offered_would_be_given(
    held: list[tuple[int, int, int, str]],
    bookings: list[tuple[int, int, int, int]],
    units: int,
    start: int,
    ticks: int,
    extension: bool,
) -> None:
    """CONSERVE: whatever was booked before, a decision never gives more than is free; and a
    counter-offer is honest: asked for, it is granted."""
    shares = [
        share(count, NOW + begin, NOW + begin + length, f"d{number}", site)
        for number, (count, begin, length, site) in enumerate(held)
    ]
    for which, count, offset, length in bookings:
        calendar = shares[which % len(shares)].calendar
        term = Term(NOW + offset, NOW + offset + length)
        if calendar.free(term) >= count:
            calendar.book(count, term)

    def asked(count: int, begin: int, end: int) -> Given | Declined:
        return decide(shares, replace(wanted(count, begin, end, extension=extension), site="a"))

    decision = asked(units, start, start + ticks)
    if isinstance(decision, Given):
        parts = [(piece.units, piece.term) for piece in decision.pieces]
        assert whole(parts) == (units, Term(start, start + ticks))
        assert max(term.end for _, term in parts) <= (decision.offer.latest_end or 0)
        by_name = {one.delegation: one for one in shares}
        assert len({by_name[piece.delegation].site for piece in decision.pieces}) == 1
        for piece in decision.pieces:
            by_name[piece.delegation].calendar.book(piece.units, piece.term)
        return
    offer = decision.offer
    if offer.latest_end is not None and offer.latest_end > start:
        assert isinstance(asked(units, start, offer.latest_end), Given)
    if offer.start is not None:
        assert isinstance(asked(units, offer.start, offer.start + ticks), Given)
    if offer.units:
        assert isinstance(asked(offer.units, start, start + ticks), Given)
