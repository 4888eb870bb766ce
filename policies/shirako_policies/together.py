"""What shares of one site make up together: one after the other, and side by side.

Few pieces are best, since each becomes a claim of its own: as long as one share has all the units
they come from there, and what was begun with is gone on with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shirako.core.policy import Piece, Share
from shirako.core.terms import Term
from shirako.core.tickets import peak


def free(shares: Sequence[Share], term: Term) -> int:
    """Units that can be had during the whole term."""
    if len(shares) == 1:
        return shares[0].calendar.free(term)
    least, at = _free_at(shares, term.start), term.start
    while at < term.end and least:
        least = min(least, _free_at(shares, at))
        at = _next_change(shares, at, term.end)
    return least


def held(shares: Sequence[Share]) -> int:
    """The most units that are held at any instant."""
    return peak((share.calendar.capacity, share.calendar.term) for share in shares)


def reach(shares: Sequence[Share], units: int, start: int) -> int:
    """The latest tick until which `units` can be had from `start` on; `start` if they can not."""
    end = max(share.calendar.term.end for share in shares)
    return max((until for _, until, _ in _stretches(shares, units, start, end)), default=start)


def first_fit(shares: Sequence[Share], units: int, ticks: int, start: int) -> int | None:
    """The earliest tick at or after `start` from which `units` can be had for `ticks`."""
    if len(shares) == 1:
        return shares[0].calendar.first_fit(units, ticks, start)
    end = max(share.calendar.term.end for share in shares)
    at = max(start, min(share.calendar.term.start for share in shares))
    while at + ticks <= end:
        until = reach(shares, units, at)
        if until >= at + ticks:
            return at
        at = _next_change(shares, max(until, at), end)
    return None


def pieces(shares: Sequence[Share], units: int, term: Term) -> tuple[Piece, ...]:
    """The units during the term, which has to have them (`free`)."""
    for share in shares:
        if share.calendar.free(term) >= units:
            return (Piece(share.delegation, term, units),)
    made: list[Piece] = []
    for start, until, chosen in _stretches(shares, units, term.start, term.end):
        for name, count in chosen.items():
            for index, piece in enumerate(made):
                if (piece.delegation, piece.term.end, piece.units) == (name, start, count):
                    made[index] = Piece(name, Term(piece.term.start, until), count)
                    break
            else:
                made.append(Piece(name, Term(start, until), count))
    return tuple(made)


def _stretches(
    shares: Sequence[Share], units: int, start: int, end: int
) -> Iterator[tuple[int, int, dict[str, int]]]:
    """Stretches of time that follow one another, and how many units come from which delegation;
    they end where there are too few."""
    at, chosen = start, dict[str, int]()
    calendars = {share.delegation: share.calendar for share in shares}
    while at < end:
        chosen = _chosen(shares, units, at, chosen)
        if sum(chosen.values()) < units:
            return
        until = min(calendars[name].free_until(count, at) for name, count in chosen.items())
        until = min(until, end)
        yield at, until, chosen
        at = until


def _chosen(shares: Sequence[Share], units: int, at: int, before: dict[str, int]) -> dict[str, int]:
    """From which delegations the units come at a tick, as far as there are so many."""
    farthest = max(shares, key=lambda share: share.calendar.free_until(units, at))
    if farthest.calendar.free_until(units, at) > at:
        return {farthest.delegation: units}
    moment = Term(at, at + 1)
    frees = {share.delegation: share.calendar.free(moment) for share in shares}
    order = sorted(frees, key=lambda name: (name not in before, -frees[name]))
    chosen: dict[str, int] = {}
    left = units
    for name in order:
        count = min(frees[name], before.get(name, left), left)
        if count:
            chosen[name] = count
            left -= count
    for name in order:
        more = min(frees[name] - chosen.get(name, 0), left)
        if more > 0:
            chosen[name] = chosen.get(name, 0) + more
            left -= more
    return chosen


def _free_at(shares: Sequence[Share], tick: int) -> int:
    return sum(share.calendar.free(Term(tick, tick + 1)) for share in shares)


def _next_change(shares: Sequence[Share], tick: int, end: int) -> int:
    """The next tick at which more or less is free, or `end`."""
    changes = (share.calendar.next_change(tick) for share in shares)
    return min((change for change in changes if change is not None), default=end)
