"""Taking back what was delegated, and renewing it: what a site's admin does with delegations.

A delegation is renewed by another one that begins where it ends (rule 4). So the two are a
*series*, and who takes the first back takes back what renews it as well.

Nothing here asks a broker or a guest: a revocation counts from the commit on (rule 14), and those
whom it concerns are told with retry.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace

from shirako.actors.authority import Authority, weight
from shirako.actors.role import Refused
from shirako.core.authority import CloseAsked, Revoked, SiteLease, SiteState
from shirako.core.calendar import Calendar
from shirako.core.claims import Revocation
from shirako.core.delegation import Delegation, pushed
from shirako.core.messages import NAME_CHARACTERS_MAX
from shirako.core.terms import Term
from shirako.trust import digest

LIVE = (SiteState.REDEEMING, SiteState.PRIMING, SiteState.ACTIVE)


@dataclass(frozen=True, slots=True)
class Pool:
    """The units of a type against what of them is delegated."""

    units: int
    fit: int
    """Neither quarantined nor drained."""
    delegated: int
    """The most at any instant, from now on, at which one of the delegations in question runs."""
    delegated_after: int
    """The same once it is done."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What taking units back means for one delegation."""

    before: Delegation
    after: Delegation
    redeemed: int
    """Units that are redeemed of it now."""
    unredeemed: int
    """The most that its broker can have sold and nobody has redeemed yet."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What taking units back means, or meant."""

    cuts: tuple[Cut, ...]
    leases: tuple[SiteLease, ...]
    """Live leases under these delegations, the first to end first."""
    pool: Pool
    changed: tuple[Delegation, ...] = ()
    """What was taken back now: those that were so before are not among them."""


def series(role: Authority, name: str, now: int) -> tuple[Delegation, ...]:
    """A delegation and those that renew it, in order, without what is over; raises `Refused`."""
    found = role.delegations.get(name)
    if found is None:
        raise Refused("unknown", f"there is no delegation {name!r}", field="name")
    following = {one.renews: one for one in role.delegations.values() if one.renews}
    chain = [found]
    while chain[-1].id in following:
        chain.append(following[chain[-1].id])
    live = tuple(one for one in chain if one.term.end > now)
    if not live:
        raise Refused(
            "late", f"the term of {name!r} is over: nothing is left to take back or renew"
        )
    return live


# Taking back -----------------------------------------------------------------------------------


def preview(role: Authority, name: str, units: int, reason: str, now: int) -> Effect:
    """What leaving `units` of a delegation would mean; changes nothing. Raises `Refused`."""
    cuts = tuple(_cut(role, one, units, reason, now) for one in series(role, name, now))
    _check_growth(role, cuts)
    kind = cuts[0].before.type
    return Effect(
        cuts=cuts,
        leases=_leases_under(role, cuts),
        pool=_pool(role, kind, cuts, now),
        changed=tuple(cut.after for cut in cuts if cut.after is not cut.before),
    )


def revoke(
    role: Authority,
    name: str,
    units: int,
    reason: str,
    now: int,
    by: str,
    *,
    close_leases: bool = False,
) -> Effect:
    """Leave `units` of a delegation, 0: none; or give back what was taken.

    What is redeemed goes on unless `close_leases` says otherwise. Doing the same again changes
    nothing. Raises `Refused`, and then nothing has changed.
    """
    effect = preview(role, name, units, reason, now)
    for one in effect.changed:
        role.keep("delegation", one.key, pushed(one))
    gone = {digest(cut.after.chain[0]): cut.after for cut in effect.cuts if is_gone(cut.after)}
    why = effect.cuts[0].after.why_revoked
    leases = []
    for lease in effect.leases:
        told = next((gone[root].why_revoked for root in _roots(lease) if root in gone), "")
        if lease.revoked != told:
            lease = role.apply(lease, Revoked(now=now, reason=told), by)
        if close_leases:
            closing = CloseAsked(now=now, reason=told or why or "closed by the site")
            lease = role.apply(lease, closing, by)
        leases.append(lease)
    return replace(effect, leases=tuple(leases))


def is_gone(one: Delegation) -> bool:
    """Whether nothing of it is redeemed any more."""
    return one.revoked is not None and not one.revoked.units


def _roots(lease: SiteLease) -> tuple[str, ...]:
    """Digests of the root claims that a lease rests on."""
    return tuple(spent.ancestors[0].digest for spent in lease.spent)


def _leases_under(role: Authority, cuts: tuple[Cut, ...]) -> tuple[SiteLease, ...]:
    roots = {digest(cut.before.chain[0]) for cut in cuts}
    found = (
        lease
        for lease in role.leases.values()
        if lease.state in LIVE and not roots.isdisjoint(_roots(lease))
    )
    return tuple(sorted(found, key=lambda lease: (lease.term.end, lease.key)))


def _cut(role: Authority, one: Delegation, units: int, reason: str, now: int) -> Cut:
    if not 0 <= units <= one.units:
        raise Refused(
            "too_many", f"{one.id} has {one.units} units: leave 0 to {one.units}", field="units"
        )
    left = one.revoked.units if one.revoked is not None else one.units
    after = one
    if units != left:
        said = Revocation(
            issuer=role.me.party.kid,
            holder=one.holder.kid,
            claim=one.id,
            digest=digest(one.chain[0]),
            units=units,
            tick=now,
            number=one.revoked.number + 1 if one.revoked is not None else 1,
            reason=reason,
        )
        after = one.after(role.me.sign_revocation(said), said)
    ahead = _redeemed(role.redeemed(one), Term(max(now, one.term.start), one.term.end))
    return Cut(
        before=one,
        after=after,
        redeemed=ahead[0],
        unredeemed=max(int(left * one.overbooking) - min(ahead), 0),
    )


def _redeemed(calendar: Calendar | None, term: Term) -> list[int]:
    """Units that are redeemed from the term's first instant on, in order."""
    if calendar is None:
        return [0]
    steps = itertools.pairwise(calendar.steps())
    return [units for (tick, units), (end, _) in steps if Term(tick, end).meets(term)] or [0]


def _check_growth(role: Authority, cuts: tuple[Cut, ...]) -> None:
    """What is given back was perhaps delegated to somebody else in the meantime."""
    for cut in cuts:
        if weight(cut.after) > weight(cut.before):
            role.check_delegable(cut.after)


def _pool(role: Authority, kind: str, cuts: tuple[Cut, ...], now: int) -> Pool:
    units = [unit for unit in role.units.values() if unit.type == kind]
    held = {one.id: one for one in role.delegations.values() if one.type == kind}
    after = {**held, **{cut.after.id: cut.after for cut in cuts}}
    terms = [cut.before.term for cut in cuts]
    span = Term(max(now, min(t.start for t in terms)), max(t.end for t in terms))
    return Pool(
        units=len(units),
        fit=sum(1 for unit in units if not unit.quarantined and not unit.drained),
        delegated=_most(role, held.values(), span),
        delegated_after=_most(role, after.values(), span),
    )


def _most(role: Authority, held: Iterable[Delegation], span: Term) -> int:
    """The most units that these delegations take of their pool at any instant of the span."""
    calendar = Calendar(0, span)
    for one in held:
        for units, term in role.weights(one):
            calendar.restore(units, term)
    return max(units for _, units in calendar.steps())


# Renewing --------------------------------------------------------------------------------------


def renew(
    role: Authority, name: str, end: int, units: int | None, now: int
) -> tuple[Delegation, bool]:
    """Go on with a delegation until `end`, by another one that begins where it ends.

    The same end again is the same delegation. `units`: None stands for as many as there are now.
    Returns what goes on until then, and whether it is new. Raises `Refused`.
    """
    known = series(role, name, now)
    same = next((one for one in known if one.term.end == end), None)
    if same is not None and units in (None, same.units):
        return same, False
    last = known[-1]
    if end <= last.term.end:
        raise Refused(
            "shortens",
            f"{last.id} goes on for longer already: revoke it to shorten it",
            field="end",
        )
    left = last.units if last.revoked is None else last.revoked.units
    if units is None and not left:
        raise Refused("revoked", f"{last.id} is revoked: say with how many units it shall go on")
    wanted = Delegation(
        id=_next_name(role, name),
        holder=last.holder,
        type=last.type,
        units=left if units is None else units,
        term=Term(last.term.end, end),
        chain=(),
        overbooking=last.overbooking,
        name=last.name,
        renews=last.id,
        resource=last.resource,
    )
    return role.delegate(wanted), True


def _next_name(role: Authority, name: str) -> str:
    """`NAME.2` and so on: the first one that nothing else is called."""
    first = name
    while role.delegations[first].renews:
        first = role.delegations[first].renews
    number = next(n for n in itertools.count(2) if f"{first}.{n}" not in role.delegations)
    made = f"{first}.{number}"
    if len(made) > NAME_CHARACTERS_MAX:
        raise Refused(
            "invalid", f"{made!r}: at most {NAME_CHARACTERS_MAX} characters", field="name"
        )
    return made
