"""First come, first served: the broker's default allocation.

A request gets its term wholly, from the first delegation in which all its units are free; fewer
units only if the guest said so. An extension may go on in another delegation where the first ends.
A refusal says what would have worked: how many units, until when, or from when.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from shirako.core.messages import Offer
from shirako.core.policy import Declined, Demanded, Given, Share
from shirako.core.terms import Term


class FirstCome:
    """Serves requests in the order in which they came."""

    def decide(
        self, shares: Mapping[str, Sequence[Share]], requests: Sequence[Demanded], now: int
    ) -> Iterator[Given | Declined]:
        for request in requests:
            offered = shares.get(request.type, ())
            if not offered:
                reason = f"no site has delegated {request.type!r} to this broker"
                yield Declined(code="unknown_type", reason=reason)
            elif request.term.end <= now:
                yield Declined(code="past", reason="the term asked for is over")
            elif request.extension:
                yield _extend(offered, request)
            else:
                yield _begin(offered, request, now)


def _begin(shares: Sequence[Share], request: Demanded, now: int) -> Given | Declined:
    best = max(shares, key=lambda share: share.calendar.free(request.term))
    first = next((s for s in shares if s.calendar.free(request.term) >= request.units), best)
    units = min(first.calendar.free(request.term), request.units)
    if units >= request.least_units:
        latest, cap = _latest_end(shares, units, request.term.start)
        return Given(
            units=units,
            pieces=((first.delegation, request.term),),
            offer=Offer(latest_end=latest, cap=cap),
        )
    return Declined(
        code="unavailable",
        reason=_why(shares, request, units),
        offer=_counter_offer(shares, request, units, now),
    )


def _why(shares: Sequence[Share], request: Demanded, free: int) -> str:
    most = max(share.calendar.capacity for share in shares)
    if request.units > most:
        return f"{request.units} units were asked for; this broker holds {most} of {request.type}"
    ends = max(share.calendar.term.end for share in shares)
    if request.term.end > ends or all(s.calendar.term.start > request.term.start for s in shares):
        return f"the term reaches beyond what sites have delegated of {request.type}"
    return f"{free} of {request.units} units are free during the whole term"


def _counter_offer(shares: Sequence[Share], request: Demanded, free: int, now: int) -> Offer:
    latest, cap = _latest_end(shares, request.units, request.term.start)
    fits = [
        s.calendar.first_fit(request.units, request.term.ticks, max(request.term.start, now))
        for s in shares
    ]
    starts = [start for start in fits if start is not None]
    found = latest > request.term.start
    return Offer(
        units=free or None,
        latest_end=latest if found else None,
        cap=cap if found else None,
        start=min(starts) if starts else None,
    )


def _extend(shares: Sequence[Share], request: Demanded) -> Given | Declined:
    latest, cap = _latest_end(shares, request.units, request.term.start)
    offer = Offer(latest_end=latest, cap=cap)
    end = min(request.term.end, latest)
    if end < request.least_end or end <= request.term.start:
        return Declined(
            code="unavailable",
            reason=f"the units can not be held that long: {_SAID[cap]}",
            offer=offer,
        )
    return Given(
        units=request.units,
        pieces=_pieces(shares, request.units, Term(request.term.start, end)),
        offer=offer,
    )


_SAID = {
    "booked": "somebody else has booked them",
    "delegation": "the site has not delegated them for longer",
}


def _latest_end(shares: Sequence[Share], units: int, start: int) -> tuple[int, str]:
    """Until when `units` can be had from `start` on, from one share after another; and the cap."""
    at = start
    while True:
        reach = max(share.calendar.free_until(units, at) for share in shares)
        if reach <= at:
            break
        at = reach
    # of a share that has shrunk below what is asked for, nobody else has what is missing
    able = [share.calendar.term for share in shares if share.calendar.capacity >= units]
    booked = any(term.start <= at < term.end for term in able)
    return at, "booked" if booked else "delegation"


def _pieces(shares: Sequence[Share], units: int, term: Term) -> tuple[tuple[str, Term], ...]:
    """The term cut where one share ends and the next goes on, the one reaching farthest first."""
    pieces: list[tuple[str, Term]] = []
    at = term.start
    while at < term.end:
        share = max(shares, key=lambda s: s.calendar.free_until(units, at))
        reach = min(share.calendar.free_until(units, at), term.end)
        pieces.append((share.delegation, Term(at, reach)))
        at = reach
    return tuple(pieces)
