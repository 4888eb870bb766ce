"""Sums of amounts over time, by looking at every point where one of them changes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Span(NamedTuple):
    """So much from `start` to before `end`."""

    start: int
    end: int
    units: int


def most(spans: Iterable[Span], start: int, end: int) -> int:
    """The largest sum at any instant of `[start, end)`; 0 when that is empty."""
    if start >= end:
        return 0
    inside = [span for span in spans if span.start < end and start < span.end and span.units]
    points = [start, *(span.start for span in inside if span.start > start)]
    return max(
        (sum(s.units for s in inside if s.start <= point < s.end) for point in points), default=0
    )
