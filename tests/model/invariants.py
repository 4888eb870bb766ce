"""What must hold: of one actor after each of its steps, and of all actors in each state.

Each is computed from what records say, not from the books that the roles keep for themselves.

EXCLUSIVE, CONSERVE, DURABLE, CLEAN and ATOMIC are the design's. ROOTED is here what an honest site
may never hold, whoever presented it: see `tests.model.dishonest`. Further:
EXACTLY ONCE: nothing is taken or said under a number of the past.
WHOLE: no step breaks, whatever comes.
PREEMPTS: a Close or Relinquish is taken in every state.
TOLD: when silence has fallen, nobody waits for an answer that nobody will give; guest, broker and
site agree on what is held, and what was given back is the broker's again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from shirako.actors.authority import Authority, Unit
from shirako.actors.broker import Broker
from shirako.actors.revoking import LIVE, is_gone
from shirako.actors.role import Role
from shirako.core.authority import SiteLease, SiteState, UnitPhase
from shirako.core.broker import BrokerLease, BrokerState
from shirako.core.guest import GuestLease, GuestState
from shirako.core.machine import Key, Record, state_of
from shirako.core.terms import Term
from shirako.trust import digest


class Violation(Exception):
    """A state that must not be; the message names the invariant, `trace` tells how it came."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.trace: list[str] = []

    @property
    def invariant(self) -> str:
        """The invariant's name."""
        return str(self.args[0]).partition(":")[0]

    def __str__(self) -> str:
        return "\n  ".join([self.args[0], *self.trace])


# One actor after a step -----------------------------------------------------------------------


def check_lines(before: Iterable[Record], after: Iterable[Record]) -> None:
    """Numbers only grow: nothing is taken or said under a number of the past (rule 7)."""
    old = {record.key: record.lines for record in before}
    for record in after:
        for kid, line in record.lines.items():
            was = old.get(record.key, {}).get(kid)
            if was is not None and (line.seen < was.seen or line.sent < was.sent):
                raise Violation(f"EXACTLY ONCE: lease {record.id} took a number of the past")


def check_books(live: Role[Any], loaded: Role[Any], at: Iterable[int]) -> None:
    """DURABLE: what memory says is what would be loaded after a crash."""
    if isinstance(live, Broker) and isinstance(loaded, Broker):
        for tick in at:
            here, there = free_at(live, tick), free_at(loaded, tick)
            if here != there:
                raise Violation(
                    f"DURABLE: the broker has {here} units free at {tick}, after a crash {there}"
                )
    if isinstance(live, Authority) and isinstance(loaded, Authority):
        for tick in at:
            here, there = redeemed_at(live, tick), redeemed_at(loaded, tick)
            if here != there:
                raise Violation(
                    f"DURABLE: {here} units are redeemed at {tick}, after a crash {there}"
                )
        if {k: dict(v) for k, v in live.free.items()} != {
            k: dict(v) for k, v in loaded.free.items()
        }:
            raise Violation("DURABLE: other units are free after a crash")
        if live._redeemed != loaded._redeemed:
            raise Violation("DURABLE: other tickets are spent after a crash")


def free_at(broker: Broker, tick: int) -> int:
    """Units that the broker's calendars say can be sold at a tick."""
    moment = Term(tick, tick + 1)
    return sum(s.calendar.free(moment) for shares in broker.shares.values() for s in shares)


def redeemed_at(site: Authority, tick: int) -> int:
    """Units that the site's calendars say are redeemed at a tick."""
    moment = Term(tick, tick + 1)
    return sum(
        calendar.capacity - calendar.free(moment)
        for calendar in site._spending.values()
        if calendar.term.holds(moment)
    )


def check_site(site: Authority, before: Iterable[tuple[str, Key, Any]]) -> None:
    """EXCLUSIVE, CLEAN and ROOTED, of all that a site holds."""
    _check_units(site)
    _check_leases(site)
    _check_revoked(site, before)
    _check_epochs(site, {value.name: value for kind, _, value in before if kind == "unit"})
    _check_spent(site)


def _check_units(site: Authority) -> None:
    """EXCLUSIVE: a unit is one lease's from assignment to verified teardown."""
    users: dict[str, list[tuple[SiteLease, int, UnitPhase]]] = {}
    for lease in site.leases.values():
        for a in lease.assignments:
            if a.phase is not UnitPhase.CLOSED:
                users.setdefault(a.unit, []).append((lease, a.epoch, a.phase))
            elif not a.checks and a.epoch == site.units[a.unit].epoch:  # later ones are the site's
                raise Violation(f"CLEAN: {a.unit} is called clean, and nothing was checked")
    for unit in site.units.values():
        using = users.get(unit.name, [])
        in_use = [u for u in using if u[2] is not UnitPhase.FAILED]
        if len({lease.key for lease, _, _ in in_use}) > 1:
            raise Violation(f"EXCLUSIVE: {unit.name} is in two live leases")
        # under a later epoch the site has cleaned and checked it by itself
        unclean = any(epoch == unit.epoch for _, epoch, _ in using)
        if unclean and unit.owner is None and not unit.quarantined:
            raise Violation(f"EXCLUSIVE: {unit.name} is free before its teardown was verified")
        _check_owner(site, unit)


def _check_leases(site: Authority) -> None:
    """What is over is torn down or given up; what lives has no more units than it was promised."""
    for lease in site.leases.values():
        phases = {a.phase for a in lease.assignments}
        if lease.state.final and phases - {UnitPhase.CLOSED, UnitPhase.FAILED}:
            raise Violation(f"CLEAN: {lease.id} is over, and a unit of it was never torn down")
        if lease.state.final and (lease.state is SiteState.CLOSE_FAILED) != bool(lease.uncleaned):
            raise Violation(f"CLEAN: {lease.id} is {lease.state.value}, and its units are not so")
        for a in lease.uncleaned if lease.state.final else ():
            if site.units[a.unit].epoch > a.epoch and not site.units[a.unit].quarantined:
                raise Violation(f"CLEAN: {lease.id} still calls {a.unit} dirty, which was cleaned")
        if len(lease.live) > _least_spent(lease):
            raise Violation(f"ROOTED: {lease.id} has more units than its ticket is worth")


def _least_spent(lease: SiteLease) -> int:
    """Units that all claims of a lease are worth together, at the instant when they are fewest."""
    ticks = {one.term.start for one in lease.spent}
    together = (sum(s.units for s in lease.spent if s.term.covers(tick)) for tick in ticks)
    return min(together, default=0)


def _check_owner(site: Authority, unit: Unit) -> None:
    if unit.owner is None:
        return
    lease = site.leases.get(unit.owner)
    mine = [] if lease is None else [(a.unit, a.epoch) for a in lease.assignments]
    if (unit.name, unit.epoch) not in mine:
        raise Violation(f"EXCLUSIVE: {unit.name} belongs to a lease that does not have it")
    if lease is not None and state_of(lease).final:
        raise Violation(f"EXCLUSIVE: {unit.name} is kept by a lease that is over")


def _check_epochs(site: Authority, before: dict[str, Unit]) -> None:
    """EXCLUSIVE: each assignment of a unit has an epoch of its own, later than all before."""
    given = [(a.unit, a.epoch) for lease in site.leases.values() for a in lease.assignments]
    if len(set(given)) < len(given):
        raise Violation("EXCLUSIVE: an epoch was given twice")
    for unit in site.units.values():
        was = before.get(unit.name)
        if was is None:
            continue
        fresh = unit.owner is not None and unit.owner != was.owner
        if unit.epoch < was.epoch or (fresh and unit.epoch == was.epoch):
            raise Violation(f"EXCLUSIVE: {unit.name} is given out under an epoch of the past")


def _check_spent(site: Authority) -> None:
    """ROOTED: a ticket is spent once, and siblings together never exceed what is above them."""
    spent = [
        (lease, one)
        for lease in site.leases.values()
        if lease.state is not SiteState.NASCENT
        for one in lease.spent
    ]
    jtis = [one.jti for _, one in spent]
    if len(set(jtis)) < len(jtis):
        raise Violation("ROOTED: a ticket is spent twice")
    live = [one for lease, one in spent if not lease.receipt]
    for tick in {one.term.start for one in live}:
        used: dict[str, int] = {}
        for one in live:
            if one.term.start <= tick < one.term.end:
                for ancestor in one.ancestors:
                    used[ancestor.digest] = used.get(ancestor.digest, 0) + one.units
                    if used[ancestor.digest] > ancestor.capacity:
                        raise Violation(f"ROOTED: more is redeemed at {tick} than was delegated")


def _check_revoked(site: Authority, before: Iterable[tuple[str, Key, Any]]) -> None:
    """ROOTED: nothing is redeemed or extended out of what was revoked before."""
    things = list(before)
    gone = {digest(v.chain[0]) for kind, _, v in things if kind == "delegation" and is_gone(v)}
    known = {one.jti for kind, _, v in things if kind == "lease" for one in v.spent}
    for lease in site.leases.values():
        for one in lease.spent if lease.state in LIVE else ():
            if one.jti not in known and one.ancestors[0].digest in gone:
                raise Violation(f"ROOTED: {lease.id} gets what was revoked")


# All actors in one state ----------------------------------------------------------------------


def check_conserved(
    brokers: Iterable[Record],
    sites: Iterable[Record],
    tickets: Iterable[tuple[GuestLease, tuple[tuple[str, Term], ...]]],
    capacity: int,
    now: int,
    at: Iterable[int],
) -> None:
    """CONSERVE: what the broker may sell, and what is redeemed, fit into what was delegated.

    `tickets`: the leases of guests, with `jti` and term of each claim that they hold.
    """
    booked = {r.key: {g.jti: g for g in r.grants} for r in brokers if isinstance(r, BrokerLease)}
    grants = [grant for held in booked.values() for grant in held.values()]
    for tick in at:
        sold = sum(g.units for g in grants if g.term.start <= tick < g.term.end)
        if sold > capacity:
            raise Violation(f"CONSERVE: {sold} units are sold at {tick}")
    over = set()
    for lease in sites:
        assert isinstance(lease, SiteLease)
        if lease.state.final:
            over.add(lease.key)
            continue
        for spent in lease.spent:
            if spent.jti not in booked.get(lease.key, ()) and now < spent.term.end:
                raise Violation(f"CONSERVE: lease {lease.id} is live, and its ticket is sold again")
    for held, claims in tickets:
        if held.key in over:
            continue
        for jti, term in claims:
            if jti not in booked.get(held.key, ()) and now < term.end:
                raise Violation(f"CONSERVE: the ticket of {held.id} is out and was sold again")


def check_whole(records: Iterable[Record]) -> None:
    """ATOMIC: wholly or not at all, unless the guest said it takes less."""
    for r in records:
        few = -1
        if isinstance(r, GuestLease) and r.state is GuestState.LEASED and not r.degraded:
            few = len(r.held)
        elif isinstance(r, BrokerLease) and r.grants and not state_of(r).final:
            few = min(g.units for g in r.grants)
        if 0 <= few < r.least_units:
            raise Violation(f"ATOMIC: lease {r.id} has {few} units, and {r.least_units} were due")


def check_ends_honestly(records: Iterable[Record], now: int) -> None:
    """ENDS: a guest that has a ticket calls its lease over when the site has said so, or when its
    term is over."""
    for r in records:
        if not isinstance(r, GuestLease) or not r.state.final:
            continue
        if r.ticket and not r.receipt and now < r.term.end:
            raise Violation(f"ENDS: {r.id} is called over, and the site has not said so")


_MAY_REST = {
    GuestState.TICKETED,
    GuestState.REDEEMING,
    GuestState.JOINING,
    GuestState.ACTIVE,
}
"""Where a guest may be when nothing is under way; in Redeeming if the site holds the redeem, in
Joining if all that it was to join was lost and is not replaced yet."""
_MAY_WAIT = {GuestState.LEASED, GuestState.ACTIVE_TICKETED}
"""Where else, if its policy takes its time."""


def check_told(
    guest: GuestLease,
    broker: BrokerLease | None,
    site: SiteLease | None,
    now: int,
    *,
    patient: bool,
    gone: bool,
    all_join: bool,
) -> None:
    """TOLD: nothing is under way any more, so everybody knows what became of the lease."""
    who = f"TOLD: lease {guest.id}"
    may_rest = _MAY_REST | _MAY_WAIT if patient else _MAY_REST
    if not guest.state.final and guest.state not in may_rest:
        raise Violation(f"{who} stays {guest.state.value}, and no answer is under way")
    if guest.state is GuestState.REDEEMING and (
        site is None or site.state is not SiteState.REDEEMING
    ):
        raise Violation(f"{who} waits for a site that does not hold its redeem")
    if guest.state is GuestState.JOINING and guest.held:
        raise Violation(f"{who} is Joining, and no unit is being joined")
    if guest.state in (GuestState.ACTIVE, GuestState.JOINING, *_MAY_WAIT):
        _check_agreed(who, guest, broker, site, now)
    if gone and guest.state is GuestState.TICKETED:
        raise Violation(f"{who} is Ticketed, and what its ticket rests on was revoked")
    if site is not None and site.state is SiteState.ACTIVE and bool(site.revoked) != gone:
        raise Violation(f"{who}: its site does not know whether what it rests on was revoked")
    if all_join and guest.state is GuestState.ACTIVE:
        _check_joined(who, guest)
    if site is not None and site.state.final:
        if not guest.state.final:
            raise Violation(f"{who} is over at the site, and its guest does not know")
        came_late = site.refusal and now >= guest.term.end  # and says nothing that matters
        if not guest.receipt and not came_late:
            raise Violation(f"{who} is over, and its guest has not got the receipt")
        _check_given_back(who, broker, site)
    if site is None and guest.state.final and now < guest.term.end and broker and broker.grants:
        raise Violation(f"{who} is over, and what it was sold is lost until its term ends")


def check_heard(
    site: Iterable[tuple[str, Key, Any]], broker: Iterable[tuple[str, Key, Any]]
) -> bool:
    """TOLD: nothing is under way, so the broker knows what was revoked. Whether anything is."""
    said = {v.id: v.revoked for kind, _, v in site if kind == "delegation"}
    heard = {v.id: v.revoked for kind, _, v in broker if kind == "delegation"}
    if any(said.get(name, one) != one for name, one in heard.items()):
        raise Violation("TOLD: the broker has not heard what was revoked, or given back")
    return any(one is not None and not one.units for one in said.values())


def check_served(site: Iterable[Record], units: Iterable[Unit], now: int) -> None:
    """TOLD: nothing is under way, so no lease waits for units while there are free ones."""
    free = sum(1 for unit in units if unit.owner is None and not unit.quarantined)
    for lease in site:
        assert isinstance(lease, SiteLease)
        held = lease.state is SiteState.REDEEMING and lease.term.start <= now
        if free >= (lease.least_units if held else 1) and (held or lease.missing):
            raise Violation(f"TOLD: lease {lease.id} waits for a unit, and one is free")


def _check_joined(who: str, guest: GuestLease) -> None:
    if {unit.unit for unit in guest.held} != set(guest.joined) or guest.gone:
        raise Violation(f"{who}: what its guest has joined is not what it holds")


def _check_agreed(
    who: str, guest: GuestLease, broker: BrokerLease | None, site: SiteLease | None, now: int
) -> None:
    if site is None or site.state is not SiteState.ACTIVE:
        raise Violation(f"{who} is Active, and the site does not have it so")
    if guest.term != site.term or broker is None or broker.term.end < site.term.end:
        raise Violation(f"{who}: guest, broker and site disagree on its term")
    if broker.state is not BrokerState.TICKETED and now < broker.term.end:
        raise Violation(f"{who} is Active, and {broker.state.value} at the broker")
    if guest.revoked != site.revoked:
        raise Violation(f"{who}: its guest has not heard what was revoked, or given back")
    if guest.units != site.units:
        raise Violation(f"{who}: guest and site disagree on how many units it has")
    theirs = {(a.unit, a.epoch) for a in site.working}
    if {(u.unit, u.epoch) for u in guest.held} != theirs:
        raise Violation(f"{who}: guest and site disagree on its units")


def _check_given_back(who: str, broker: BrokerLease | None, site: SiteLease) -> None:
    failed = len(site.uncleaned)
    # of an extension that the site never saw no receipt can tell: it stays sold to its term's end
    known = {claim.jti for claim in site.claims}
    stuck = max(
        (grant.units for grant in (broker.grants if broker else ()) if grant.jti in known),
        default=0,
    )
    if stuck > failed:
        raise Violation(f"{who} is over, and the broker may not sell its {stuck} units again")
