"""Terms: half-open intervals of ticks.

A tick is one second since the Unix epoch. It is the unit of `nbf` and `exp` in every claim and of
every clock in the system, so that nothing is converted between actors; people see UTC and local
times at the edges only.
"""

from __future__ import annotations

from msgspec import Struct

FOREVER = 253_402_300_799
"""The last tick that RFC 3339 can write: 9999-12-31T23:59:59Z."""


class Term(Struct, frozen=True, order=True):
    """`[start, end)` in ticks. An empty or backward term is a mistake of whoever made it."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= FOREVER:
            raise ValueError(f"term [{self.start}, {self.end}) is empty, backward or out of range")

    @property
    def ticks(self) -> int:
        return self.end - self.start

    def holds(self, other: Term) -> bool:
        """Whether `other` lies within this term."""
        return self.start <= other.start and other.end <= self.end

    def covers(self, tick: int) -> bool:
        """Whether the tick lies within this term."""
        return self.start <= tick < self.end

    def meets(self, other: Term) -> bool:
        """Whether the two share a tick."""
        return self.start < other.end and other.start < self.end

    def extended(self, end: int) -> Term:
        """The same start with a later `end`; raises ValueError when that would shorten it."""
        if end < self.end:
            raise ValueError(f"an extension to {end} would shorten a term that ends at {self.end}")
        return Term(self.start, end)
