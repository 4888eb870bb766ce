"""A calendar of bookings against a fixed capacity: how much is taken, when, and what still fits.

The calendar is a step function, kept as sorted breakpoints with the amount booked from each
breakpoint to the next. Every question costs the breakpoints it crosses, not the bookings there
are; a sorted list of breakpoints is the usual structure for reservation calendars (see the survey
in Burchard & Heiss, "Performance evaluation of data structures for admission control", 2002).
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import nsmallest

from sortedcontainers import SortedDict

from shirako.core.terms import Term


class Calendar:
    """Bookings of `units` over terms, within `capacity` units during `term`."""

    __slots__ = ("_steps", "capacity", "term")

    def __init__(self, capacity: int, term: Term) -> None:
        self.capacity = capacity
        self.term = term
        # breakpoint -> units booked from there to the next breakpoint; never empty
        self._steps: SortedDict[int, int] = SortedDict({term.start: 0, term.end: 0})

    def book(self, units: int, term: Term) -> None:
        """Take `units` during `term`. Raises ValueError where they are not free."""
        if units > self.free(term):
            raise ValueError(f"{units} units are not free during [{term.start}, {term.end})")
        self._add(units, term)

    def restore(self, units: int, term: Term) -> None:
        """Note a booking that was made before, whether it fits or not; clipped to our own term."""
        if self.term.meets(term):
            clipped = Term(max(term.start, self.term.start), min(term.end, self.term.end))
            self._add(units, clipped)

    def release(self, units: int, term: Term) -> None:
        """Give `units` back that were booked during `term`."""
        if not self.term.holds(term) or min(self._during(term)) < units:
            raise ValueError(f"{units} units were not booked during [{term.start}, {term.end})")
        self._add(-units, term)

    def free(self, term: Term) -> int:
        """Units that are free during the whole of `term`; 0 outside the calendar's own term."""
        if not self.term.holds(term):
            return 0
        return max(self.capacity - max(self._during(term)), 0)

    def free_until(self, units: int, start: int) -> int:
        """The latest tick until which `units` are free from `start` on; `start` if none are."""
        if units > self.capacity or not self.term.start <= start < self.term.end:
            return start
        room = self.capacity - units
        for point in self._from(start):
            if self._steps[point] > room:
                return max(point, start)
        return self.term.end

    def next_change(self, tick: int) -> int | None:
        """The first tick after `tick` at which more or less is free."""
        return next(iter(self._steps.irange(tick, inclusive=(False, False))), None)

    def fullest(self, term: Term, most: int) -> list[int]:
        """Up to `most` instants of `term` at which others begin to be booked, or cease to be, and
        its first one; the fullest ones first."""
        points = nsmallest(most, self._from(term.start, term.end), key=lambda p: -self._steps[p])
        return [max(point, term.start) for point in points]

    def first_fit(self, units: int, ticks: int, start: int) -> int | None:
        """The earliest tick at or after `start` from which `units` are free for `ticks`."""
        candidate = max(start, self.term.start)
        while candidate + ticks <= self.term.end:
            blocked = self.free_until(units, candidate)
            if blocked >= candidate + ticks:
                return candidate
            following = self._next_room(units, blocked)
            if following is None:
                return None
            candidate = following
        return None

    def forget(self, before: int) -> None:
        """Drop what was booked before `before`: it is over, and memory has limits."""
        start = min(max(before, self.term.start), self.term.end - 1)
        booked = self._steps.peekitem(self._steps.bisect_right(start) - 1)[1]
        for point in list(self._steps.irange(None, start)):
            del self._steps[point]
        self._steps[start] = booked
        self.term = Term(start, self.term.end)

    def steps(self) -> list[tuple[int, int]]:
        """`(tick, units booked from there on)` in order; for people and pictures."""
        return [(int(point), int(booked)) for point, booked in self._steps.items()]

    def _next_room(self, units: int, start: int) -> int | None:
        """The first breakpoint after `start` where `units` are free."""
        for point in self._steps.irange(start, inclusive=(False, False)):
            if point < self.term.end and self.capacity - self._steps[point] >= units:
                return int(point)
        return None

    def _from(self, start: int, end: int | None = None) -> Iterator[int]:
        """Breakpoints from the one that governs `start` to the last before `end`."""
        governing = self._steps.keys()[max(self._steps.bisect_right(start) - 1, 0)]
        return iter(self._steps.irange(governing, end, inclusive=(True, False)))

    def _during(self, term: Term) -> Iterator[int]:
        return (self._steps[point] for point in self._from(term.start, term.end))

    def _add(self, units: int, term: Term) -> None:
        steps = self._steps
        for point in (term.start, term.end):
            if point not in steps:
                steps[point] = steps.peekitem(steps.bisect_right(point) - 1)[1]
        for point in list(steps.irange(term.start, term.end, inclusive=(True, False))):
            steps[point] += units
        # equal neighbours say nothing: without this a long-lived calendar only grows
        for point in (term.end, term.start):
            index = steps.index(point)
            if 0 < index < len(steps) - 1 and steps.peekitem(index - 1)[1] == steps[point]:
                del steps[point]
