"""Terms are half-open, never empty, and are only ever extended."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shirako.core.terms import FOREVER, Term

ticks = st.integers(0, 60)


@st.composite
def terms(draw: st.DrawFn) -> Term:
    start = draw(st.integers(0, 50))
    return Term(start, draw(st.integers(start + 1, 60)))


def ticks_in(term: Term) -> set[int]:
    return set(range(term.start, term.end))


@pytest.mark.parametrize(
    ("start", "end"), [(5, 5), (6, 5), (-1, 5), (0, FOREVER + 1), (FOREVER, FOREVER)]
)
def test_a_term_that_holds_no_tick_is_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="empty, backward or out of range"):
        Term(start, end)


def test_the_longest_term_there_is() -> None:
    assert Term(0, FOREVER).ticks == FOREVER


@given(terms(), terms())
def test_holds_and_meets_are_those_of_sets_of_ticks(one: Term, other: Term) -> None:
    assert one.holds(other) == (ticks_in(other) <= ticks_in(one))
    assert one.meets(other) == bool(ticks_in(one) & ticks_in(other))
    assert one.meets(other) == other.meets(one)
    assert one.ticks == len(ticks_in(one))


@given(terms(), ticks)
def test_an_extension_never_shortens(term: Term, end: int) -> None:
    if end < term.end:
        with pytest.raises(ValueError, match="shorten"):
            term.extended(end)
    else:
        longer = term.extended(end)
        assert longer.holds(term)
        assert (longer.start, longer.end) == (term.start, end)
