"""First come, first served: the broker's default allocation.

A request gets its term wholly, from the first delegation in which all its units are free, or from
several of one site that together have them (`together`); fewer units only if the guest said so. An
extension goes on at the same site, in whatever is delegated there.
A refusal says what would have worked: how many units, until when, or from when.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from shirako.core.messages import Offer
from shirako.core.policy import Declined, Demanded, Given, Share
from shirako.core.terms import Term
from shirako_policies.together import first_fit, free, held, pieces, reach


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
    sites = _sites(shares)
    best = max(sites, key=lambda site: free(site, request.term))
    site = next((s for s in sites if free(s, request.term) >= request.units), best)
    units = min(free(site, request.term), request.units)
    if units >= request.least_units:
        latest, cap = _latest_end(site, units, request.term.start)
        return Given(
            units=units,
            pieces=pieces(site, units, request.term),
            offer=Offer(latest_end=latest, cap=cap),
        )
    return Declined(
        code="unavailable",
        reason=_why(sites, request, units),
        offer=_counter_offer(sites, request, units, now),
    )


def _sites(shares: Sequence[Share]) -> list[list[Share]]:
    """The shares by their sites: a lease is at one of them."""
    sites: dict[str, list[Share]] = {}
    for share in shares:
        sites.setdefault(share.site, []).append(share)
    return list(sites.values())


def _why(sites: Sequence[Sequence[Share]], request: Demanded, units: int) -> str:
    most = max(map(held, sites))
    if request.units > most:
        where = " at one site" if len(sites) > 1 else ""
        return (
            f"{request.units} units were asked for; this broker holds {most} of "
            f"{request.type}{where}"
        )
    terms = [share.calendar.term for site in sites for share in site]
    late = request.term.end > max(term.end for term in terms)
    if late or request.term.start < min(term.start for term in terms):
        return f"the term reaches beyond what sites have delegated of {request.type}"
    return f"{units} of {request.units} units are free during the whole term"


def _counter_offer(
    sites: Sequence[Sequence[Share]], request: Demanded, units: int, now: int
) -> Offer:
    latest, cap = max(_latest_end(site, request.units, request.term.start) for site in sites)
    start = max(request.term.start, now)
    fits = [first_fit(site, request.units, request.term.ticks, start) for site in sites]
    starts = [tick for tick in fits if tick is not None]
    found = latest > request.term.start
    return Offer(
        units=units or None,
        latest_end=latest if found else None,
        cap=cap if found else None,
        start=min(starts) if starts else None,
    )


def _extend(offered: Sequence[Share], request: Demanded) -> Given | Declined:
    shares = [share for share in offered if share.site == request.site]
    if not shares:
        return Declined(code="unavailable", reason="the site has delegated nothing any more")
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
        pieces=pieces(shares, request.units, Term(request.term.start, end)),
        offer=offer,
    )


_SAID = {
    "booked": "somebody else has booked them",
    "delegation": "the site has not delegated them for longer",
}


def _latest_end(shares: Sequence[Share], units: int, start: int) -> tuple[int, str]:
    """Until when `units` can be had of one site from `start` on; and the cap."""
    at = reach(shares, units, start)
    # where less is held than is asked for, nobody else has what is missing
    able = sum(s.calendar.capacity for s in shares if s.calendar.term.covers(at))
    return at, "booked" if able >= units else "delegation"
