"""CONSERVE rests on the calendar: it is held against a list of amounts, one for each tick."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shirako.core.calendar import Calendar
from shirako.core.terms import Term

START, END, CAPACITY = 10, 40, 5


class NaiveCalendar:
    """What a calendar means, tick by tick."""

    def __init__(self, capacity: int, term: Term) -> None:
        self.capacity = capacity
        self.term = term
        self.booked = dict.fromkeys(range(term.start, term.end), 0)

    def during(self, term: Term) -> list[int]:
        return [self.booked[tick] for tick in range(term.start, term.end)]

    def free(self, term: Term) -> int:
        if not self.term.holds(term):
            return 0
        return max(self.capacity - max(self.during(term)), 0)

    def add(self, units: int, term: Term) -> None:
        for tick in range(max(term.start, self.term.start), min(term.end, self.term.end)):
            self.booked[tick] += units

    def free_until(self, units: int, start: int) -> int:
        tick = start
        while tick in self.booked and self.booked[tick] + units <= self.capacity:
            tick += 1
        return tick

    def first_fit(self, units: int, ticks: int, start: int) -> int | None:
        for candidate in range(max(start, self.term.start), self.term.end - ticks + 1):
            if self.free(Term(candidate, candidate + ticks)) >= units:
                return candidate
        return None

    def forget(self, before: int) -> None:
        start = min(max(before, self.term.start), self.term.end - 1)
        self.booked = {tick: units for tick, units in self.booked.items() if tick >= start}
        self.term = Term(start, self.term.end)


@st.composite
def terms(draw: st.DrawFn, low: int = START - 4, high: int = END + 4) -> Term:
    start = draw(st.integers(low, high - 1))
    return Term(start, draw(st.integers(start + 1, high)))


amounts = st.integers(1, CAPACITY + 1)


class CalendarMachine(RuleBasedStateMachine):
    """The same operations on both; every question gets the same answer at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.real = Calendar(CAPACITY, Term(START, END))
        self.naive = NaiveCalendar(CAPACITY, Term(START, END))
        self.bookings: list[tuple[int, Term]] = []

    @rule(units=amounts, term=terms())
    def book(self, units: int, term: Term) -> None:
        if units <= self.naive.free(term):
            self.real.book(units, term)
            self.naive.add(units, term)
            self.bookings.append((units, term))
        else:
            with pytest.raises(ValueError, match="not free"):
                self.real.book(units, term)

    @rule(units=amounts, term=terms())
    def restore(self, units: int, term: Term) -> None:
        """What was sold is noted even where it no longer fits."""
        self.real.restore(units, term)
        self.naive.add(units, term)

    @precondition(lambda self: self.bookings)
    @rule(data=st.data())
    def release_rest(self, data: st.DataObject) -> None:
        """A receipt gives back what is left of a booking from its tick on."""
        units, term = self.bookings.pop(data.draw(st.integers(0, len(self.bookings) - 1)))
        tick = data.draw(st.integers(term.start, term.end - 1))
        start = max(tick, self.naive.term.start)
        if start < term.end:
            self.real.release(units, Term(start, term.end))
            self.naive.add(-units, Term(start, term.end))

    @rule(units=amounts, term=terms())
    def release_what_is_not_booked(self, units: int, term: Term) -> None:
        booked = self.naive.term.holds(term) and min(self.naive.during(term)) >= units
        if not booked:
            with pytest.raises(ValueError, match="not booked"):
                self.real.release(units, term)

    @rule(tick=st.integers(START - 2, END + 2))
    def forget(self, tick: int) -> None:
        self.real.forget(tick)
        self.naive.forget(tick)

    @rule(units=st.integers(1, CAPACITY + 1), start=st.integers(START - 3, END + 3))
    def ask_free_until(self, units: int, start: int) -> None:
        assert self.real.free_until(units, start) == self.naive.free_until(units, start)

    @rule(
        units=st.integers(1, CAPACITY + 1),
        ticks=st.integers(1, END - START + 2),
        start=st.integers(START - 3, END + 3),
    )
    def ask_first_fit(self, units: int, ticks: int, start: int) -> None:
        assert self.real.first_fit(units, ticks, start) == self.naive.first_fit(units, ticks, start)

    @invariant()
    def same_amounts(self) -> None:
        assert self.real.term == self.naive.term
        for tick in range(START - 1, END + 1):
            assert self.real.free(Term(tick, tick + 1)) == self.naive.free(Term(tick, tick + 1))

    @invariant()
    def steps_are_few_and_in_order(self) -> None:
        """A long-lived calendar does not grow: no two neighbours say the same."""
        steps = self.real.steps()
        points = [point for point, _ in steps]
        assert points == sorted(set(points))
        assert (points[0], points[-1]) == (self.real.term.start, self.real.term.end)
        amounts = [units for _, units in steps[:-1]]
        assert all(one != other for one, other in pairwise(amounts))


CalendarMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestCalendar = CalendarMachine.TestCase


@given(st.lists(st.tuples(st.integers(1, 3), terms(START, END)), max_size=12), terms(START, END))
def test_never_more_booked_than_there_is(wanted: list[tuple[int, Term]], asked: Term) -> None:
    """CONSERVE: whatever is asked for, `book` never lets the sum at a tick pass the capacity."""
    calendar = Calendar(CAPACITY, Term(START, END))
    taken: list[tuple[int, Term]] = []
    for units, term in wanted:
        try:
            calendar.book(units, term)
        except ValueError:
            continue
        taken.append((units, term))
    sums = [sum(u for u, t in taken if t.start <= tick < t.end) for tick in range(START, END)]
    assert max(sums) <= CAPACITY
    assert calendar.free(asked) == CAPACITY - max(sums[asked.start - START : asked.end - START])


def test_what_is_over_leaves_no_steps() -> None:
    """BOUNDED: ten thousand short bookings that came and went leave two breakpoints."""
    calendar = Calendar(1, Term(0, 100_000))
    for start in range(0, 50_000, 5):
        calendar.book(1, Term(start, start + 4))
        calendar.forget(start)
    assert len(calendar.steps()) <= 4
