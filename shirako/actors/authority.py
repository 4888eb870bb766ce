"""The site authority: owns units, delegates shares of them, redeems tickets for leases.

ROOTED and EXCLUSIVE rest here. A ticket is checked against everything that was redeemed before,
per instant and for every claim above it; a unit has one owner from its assignment to its verified
teardown, and every assignment a fresh epoch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace
from sortedcontainers import SortedDict

from shirako.actors.role import Kept, Refused, Role
from shirako.core import authority as machine
from shirako.core import messages
from shirako.core.authority import (
    Assign,
    Assigned,
    Quarantine,
    Release,
    RetryAsked,
    SiteLease,
    SiteState,
    Spent,
    Unassigned,
    UnitCleaned,
    UnitLost,
    UnitsFreed,
    Unspend,
)
from shirako.core.calendar import Calendar
from shirako.core.claims import CHAINS_MAX, Claim, Party, Ticket, Unfit, check_chain
from shirako.core.delegation import Delegation, pushed
from shirako.core.machine import Event, IllegalTransition, Key, Me
from shirako.core.messages import Message
from shirako.core.policy import Assignment, Wanted
from shirako.core.properties import fault, name_fault, ssh_key_fault
from shirako.core.terms import Term
from shirako.trust import PublicKey, Untrusted


class Unit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One unit of the site: whose it is now, and under which epoch it was last given out."""

    name: str
    type: str
    epoch: int = 0
    owner: Key | None = None
    quarantined: str = ""
    """Why it is not handed out; empty when it is fit."""


class Authority(Role[SiteLease]):
    title = "authority"
    kinds: ClassVar[dict[str, type[msgspec.Struct]]] = {
        "lease": SiteLease,
        "unit": Unit,
        "delegation": Delegation,
    }

    def __init__(
        self,
        me: Me,
        brokers: dict[str, Party],
        pools: dict[str, tuple[str, ...]],
        policies: dict[str, Assignment],
        attempts: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """`pools`: unit names by resource type, in the pool's order; `policies` by type.

        `attempts`: how often teardowns of a type are tried, where it is not the default.
        """
        super().__init__(me, machine.TABLE, dict(brokers))
        self.brokers = brokers
        self.policies = policies
        self.attempts = attempts
        self.units = {
            name: Unit(name=name, type=kind) for kind, names in pools.items() for name in names
        }
        self.delegations: dict[str, Delegation] = {}
        self.free: dict[str, SortedDict[int, str]] = {}
        self._order = {name: number for number, name in enumerate(self.units)}
        self._redeemed: dict[str, Key] = {}
        """`jti` of every claim that was redeemed or voided here -> its reservation (rule 1)."""
        self._spending: dict[str, Calendar] = {}
        """Digest of a claim -> what of it is redeemed, per instant (rule 4)."""
        self._held: dict[str, dict[Key, None]] = {}
        """By type: leases that wait for units, in the order in which they came."""
        self.loaded()

    # Books ------------------------------------------------------------------------------------

    def keep(self, kind: str, key: Key, value: Any) -> None:
        if kind == "unit":
            if value.name in self._order:  # a unit that has left the descriptor is remembered only
                self.units[value.name] = value
            self.batch.changed[kind, key] = value
        elif kind == "delegation":
            self.delegations[value.id] = value
            self.batch.changed[kind, key] = value
            self.acknowledged.pop((kind, key), None)
        else:
            super().keep(kind, key, value)
            self._hold(value)

    def find(self, kind: str, key: Key) -> Any:
        return self.delegations.get(key[1]) if kind == "delegation" else super().find(kind, key)

    def learn(self, record: SiteLease) -> None:
        super().learn(record)
        self.parties.setdefault(record.broker.kid, record.broker)

    def loaded(self) -> None:
        kinds = dict.fromkeys(unit.type for unit in self.units.values())
        self.free = {kind: SortedDict() for kind in kinds}
        for unit in self.units.values():
            self._offer(unit)
        for lease in self.leases.values():
            for spent in lease.spent:
                self._redeemed[spent.jti] = lease.key
                if not lease.receipt:  # the receipt gave the capacity back, whatever came later
                    self._spend(spent)
        super().loaded()

    def kept(self) -> Iterator[tuple[str, Key, Kept]]:
        yield from super().kept()
        for delegation in self.delegations.values():
            yield "delegation", delegation.key, delegation

    def last_end(self, record: SiteLease) -> int:
        return max(record.term.end, record.last_end)

    def forget(self, key: Key) -> None:
        for spent in self.leases[key].spent:
            self._redeemed.pop(spent.jti, None)  # its claim has expired by now
        super().forget(key)

    def delivered(self, kind: str, key: Key, peer: str, n: int) -> Kept | None:
        if kind != "delegation":
            return super().delivered(kind, key, peer, n)
        delegation = self.delegations[key[1]]
        line = delegation.lines[peer].delivered(n)
        self.delegations[key[1]] = replace(delegation, lines={peer: line})
        self.acknowledged[kind, key] = None
        return self.delegations[key[1]]

    def _hold(self, lease: SiteLease) -> None:
        waiting = self._held.setdefault(lease.type, {})
        if (lease.state is SiteState.REDEEMING and lease.reason) or lease.missing:
            waiting.setdefault(lease.key)
        else:
            waiting.pop(lease.key, None)

    # Units ------------------------------------------------------------------------------------

    def carry_out(self, key: Key, effect: Any, now: int) -> None:
        match effect:
            case Assign():
                self._assign(key, effect, now)
            case Release():
                self._release(effect, key, now)
            case Quarantine():
                self._quarantine(effect)
            case Unspend():
                for spent in effect.spent:
                    self._unspend(spent, effect.tick)

    def _assign(self, key: Key, wanted: Assign, now: int) -> None:
        lease = self.leases[key]
        request = Wanted(
            type=lease.type,
            count=wanted.count,
            least=wanted.least,
            properties=lease.configuration,
        )
        free = {kind: list_view.values() for kind, list_view in self.free.items()}
        chosen = next(iter(self.policies[lease.type].decide(free, [request], now)))
        if not chosen:
            waiting = f"{len(free[lease.type])} units of {lease.type} are free now"
            self.apply(lease, Unassigned(now=now, reason=waiting), "policy")
            return
        taken = tuple((name, self._take(name, key, now)) for name in chosen)
        try:
            self.apply(lease, Assigned(now=now, units=taken), "policy")
        except IllegalTransition:
            for name, epoch in taken:
                self._release(Release(unit=name, epoch=epoch), key, now)

    def _take(self, name: str, owner: Key, now: int) -> int:
        """Give a free unit to a lease; returns the epoch of this assignment.

        Epochs follow the clock, so that they do not repeat after an old ledger was restored.
        """
        unit = self.units[name]
        if unit.owner is not None or unit.quarantined:
            raise AssertionError(f"the policy gave out {name}, which is not free")
        unit = replace(unit, owner=owner, epoch=max(unit.epoch + 1, now))
        self._keep_unit(unit)
        return unit.epoch

    def _release(self, release: Release, key: Key, now: int) -> None:
        unit = self.units.get(release.unit)
        if unit is None or unit.epoch != release.epoch or unit.owner != key:
            return  # of an older assignment: it is somebody else's by now
        self._keep_unit(replace(unit, owner=None))
        self._serve_held(unit.type, now)

    def _quarantine(self, quarantine: Quarantine) -> None:
        unit = self.units.get(quarantine.unit)
        if unit is not None and unit.epoch == quarantine.epoch:
            first = unit.quarantined or quarantine.reason  # what failed first is what to mend
            self._keep_unit(replace(unit, owner=None, quarantined=first))

    def unit_lost(self, name: str, reason: str, now: int, by: str) -> None:
        """The unit is not fit for use: no lease gets it until its quarantine is lifted.

        An active lease gets another one in its place; one that is being set up or torn down is
        left to its handler.
        """
        unit = self.units[name]
        lease = self.leases.get(unit.owner) if unit.owner else None
        active = lease is not None and lease.state is SiteState.ACTIVE
        if lease is not None and active and any(a.unit == name for a in lease.working):
            self.apply(lease, UnitLost(now=now, unit=name, epoch=unit.epoch, reason=reason), by)
        elif not unit.quarantined:
            self._keep_unit(replace(unit, quarantined=reason))

    def fresh_epoch(self, name: str, now: int) -> int:
        """A new epoch for a unit that is no lease's, to act on it in the site's own name.

        Raises `Refused` when a lease has it.
        """
        unit = self.units[name]
        if unit.owner is not None:
            raise Refused("busy", f"{name} is in use by the lease {unit.owner[1]}", retry=True)
        self._keep_unit(replace(unit, epoch=max(unit.epoch + 1, now)))
        return self.units[name].epoch

    def retry(self, key: Key, now: int, by: str) -> SiteLease:
        """Try the teardown of a `CloseFailed` lease again; raises `Refused`."""
        lease = self.leases[key]
        if lease.state is not SiteState.CLOSE_FAILED:
            raise Refused("state", f"the lease is {lease.state.value}, not CloseFailed")
        gone = [a.unit for a in lease.uncleaned if a.unit not in self.units]
        if gone:
            raise Refused("unknown", f"{', '.join(gone)}: no unit of this site any more")
        epochs = {a.unit: self.fresh_epoch(a.unit, now) for a in lease.uncleaned}
        return self.apply(lease, RetryAsked(now=now, epochs=epochs), by)

    def lift_quarantine(self, name: str, now: int) -> None:
        """Hand the unit out again: whoever calls this has cleaned it, under an epoch of its own
        (`fresh_epoch`), and checked it."""
        unit = self.units[name]
        self._keep_unit(replace(unit, quarantined=""))
        ending = (SiteState.CLOSING, SiteState.CLOSE_FAILED)
        for lease in [lease for lease in self.leases.values() if lease.state in ending]:
            if any(a.unit == name and a.epoch < unit.epoch for a in lease.assignments):
                self.apply(lease, UnitCleaned(now=now, unit=name), "site")
        self._serve_held(unit.type, now)

    def _keep_unit(self, unit: Unit) -> None:
        self.keep("unit", ("", unit.name), unit)
        self._offer(unit)

    def _offer(self, unit: Unit) -> None:
        free, number = self.free[unit.type], self._order[unit.name]
        if unit.owner is None and not unit.quarantined:
            free[number] = unit.name
        else:
            free.pop(number, None)

    def _serve_held(self, kind: str, now: int) -> None:
        """Offer free units to who waits: first to leases that have lost what they were given."""
        waiting = list(self._held.get(kind, ()))
        waiting.sort(key=lambda key: self.leases[key].state is not SiteState.ACTIVE)
        for key in waiting:
            if not self.free[kind]:
                return
            self.apply(self.leases[key], UnitsFreed(now=now), "clock")

    # Messages ---------------------------------------------------------------------------------

    def newcomer(self, sender: PublicKey, message: Message, now: int) -> SiteLease | None:
        if message.holder != sender.kid:
            raise Refused("stranger", "not a reservation of yours")
        if not isinstance(message, messages.Redeem | messages.Close):
            raise Refused("unknown", "this site has no such lease")
        self.check_room()
        claims, spent = self._check_ticket(sender, message.rid, message.ticket, now)
        if isinstance(message, messages.Redeem):
            self._check_unspent(spent, claims)
        leaf = claims[0][-1]
        if leaf.extends:
            raise Refused("unfit", "an extension is good for extending a live lease only")
        record = SiteLease(
            id=message.rid,
            guest=leaf.holder,
            slice="",
            type=leaf.type,
            units=leaf.units,
            least_units=leaf.units,
            state=SiteState.NASCENT,
            attempts=self.attempts.get(leaf.type, machine.TEARDOWN_ATTEMPTS),
            term=Term(leaf.term.start, max(chain[-1].term.end for chain in claims)),
            broker=claims[0][-2].holder,
            spent=spent,
            last_end=max(chain[-1].term.end for chain in claims),
        )
        if isinstance(message, messages.Redeem):
            record = self._configured(record, message)
            for one in spent:
                self._spend(one)
        for one in spent:
            self._redeemed[one.jti] = record.key
        return record

    def _configured(self, record: SiteLease, message: messages.Redeem) -> SiteLease:
        wrong = (
            name_fault("slice", message.slice)
            or fault(message.properties)
            or ssh_key_fault(message.keys)
        )
        if wrong:
            raise Refused("invalid", wrong)
        if not message.least_units >= 1:
            raise Refused("invalid", "least_units: at least 1")
        return replace(
            record,
            slice=message.slice,
            least_units=min(message.least_units, record.units),
            keys=message.keys,
            configuration=message.properties,
        )

    def admit(self, sender: PublicKey, record: SiteLease, message: Message) -> None:
        if sender.kid != record.guest.kid:
            raise Refused("stranger", "not a reservation of yours")

    def event_of(self, sender: PublicKey, record: SiteLease, message: Message, now: int) -> Event:
        match message:
            case messages.Redeem():
                return machine.RedeemAsked(now=now, message=message)
            case messages.Close():
                return machine.CloseMessage(now=now, message=message)
            case messages.ExtendLease():
                return self._extension(sender, record, message, now)
        raise Refused("unexpected", f"an authority takes no {type(message).__name__}")

    def _extension(
        self, sender: PublicKey, record: SiteLease, message: messages.ExtendLease, now: int
    ) -> Event:
        if record.state is not SiteState.ACTIVE:
            if record.state in (SiteState.REDEEMING, SiteState.PRIMING):
                raise Refused("busy", "the lease is being set up", retry=True)
            return machine.ExtendLeaseUnfit(
                now=now, message=message, code="closed", reason="the lease is closing or closed"
            )
        try:
            claims, spent = self._check_ticket(sender, record.id, message.ticket, now)
            self._check_extension(record, claims)
            self._check_unspent(spent, claims)
        except (Refused, Untrusted) as error:
            code = error.code if isinstance(error, Refused) else "untrusted"
            return machine.ExtendLeaseUnfit(now=now, message=message, code=code, reason=str(error))
        if now < record.term.end:
            for one in spent:
                self._spend(one)
                self._redeemed[one.jti] = record.key
        end = max(chain[-1].term.end for chain in claims)
        return machine.ExtendLeaseAsked(now=now, message=message, spent=spent, end=end)

    # Claims -----------------------------------------------------------------------------------

    def _check_ticket(
        self, sender: PublicKey, rid: str, ticket: Ticket, now: int
    ) -> tuple[list[tuple[Claim, ...]], tuple[Spent, ...]]:
        """The chains of a ticket, in order of time, and what each is worth; raises `Refused`.

        Checked: every signature and link from our own root, that the presenter is the holder,
        that it is for this reservation, unexpired, and that the chains follow one another.
        """
        if not 1 <= len(ticket) <= CHAINS_MAX:
            raise Refused("unfit", f"a ticket has 1 to {CHAINS_MAX} chains")
        chains = [self._check_chain(sender, rid, chain, now) for chain in ticket]
        chains.sort(key=lambda chain: chain[-1].term.start)
        for earlier, later in itertools.pairwise(chains):
            before, after = earlier[-1], later[-1]
            if after.term.start != before.term.end:
                raise Refused("unfit", "the chains of the ticket leave a gap or overlap")
            if (after.units, after.type) != (before.units, before.type):
                raise Refused("unfit", "the chains of the ticket differ in units or type")
        return chains, tuple(_spent(chain) for chain in chains)

    def _check_chain(
        self, sender: PublicKey, rid: str, chain: tuple[str, ...], now: int
    ) -> tuple[Claim, ...]:
        claims = self.verifier.chain(chain)
        try:
            leaf = check_chain(claims, self.me.party.kid)
        except Unfit as error:
            raise Refused("unfit", str(error)) from error
        if len(claims) < 2 or claims[0].jti not in self.delegations:
            raise Refused("unfit", "the root claim is not one of this site's delegations")
        if leaf.holder.kid != sender.kid:
            raise Refused("stolen", "the ticket is somebody else's: its holder's key is not yours")
        if leaf.reservation != rid:
            raise Refused("unfit", "the ticket is for another reservation")
        if leaf.term.end <= now:
            raise Refused("expired", "the ticket's term is over")
        if leaf.type not in self.free:
            raise Refused("unfit", f"this site has no pool of {leaf.type}")
        return claims

    def _check_unspent(self, spent: tuple[Spent, ...], claims: list[tuple[Claim, ...]]) -> None:
        for one, chain in zip(spent, claims, strict=True):
            if one.jti in self._redeemed:
                raise Refused("spent", "the ticket was redeemed before")
            for parent in chain[:-1]:
                calendar = self._spending.get(parent.digest)
                if calendar is None:
                    continue
                ahead = Term(max(one.term.start, calendar.term.start), one.term.end)
                if calendar.free(ahead) < one.units:
                    raise Refused(
                        "oversold",
                        f"with this ticket more of the claim {parent.jti} would be redeemed than "
                        f"its {parent.units} units; the broker sold too much",
                    )

    def _check_extension(self, record: SiteLease, claims: list[tuple[Claim, ...]]) -> None:
        """An extension claim covers exactly `[old end, new end)` (rule 4)."""
        first = claims[0][-1]
        if any(chain[-1].extends not in {s.jti for s in record.spent} for chain in claims):
            raise Refused("unfit", "the ticket does not extend this lease's ticket")
        if first.term.start != record.term.end:
            raise Refused("unfit", "the extension does not begin where the lease ends")
        if first.type != record.type or first.units < record.units:
            raise Refused("unfit", "the extension is on another type or on fewer units")

    def _spend(self, spent: Spent) -> None:
        for ancestor in spent.ancestors:
            calendar = self._spending.get(ancestor.digest)
            if calendar is None:
                calendar = Calendar(ancestor.capacity, ancestor.term)
                self._spending[ancestor.digest] = calendar
            calendar.restore(spent.units, spent.term)

    def _unspend(self, spent: Spent, tick: int) -> None:
        if tick >= spent.term.end:
            return
        rest = Term(max(tick, spent.term.start), spent.term.end)
        for ancestor in spent.ancestors:
            calendar = self._spending.get(ancestor.digest)
            if calendar is not None:
                calendar.release(spent.units, rest)
                calendar.forget(tick)

    # Delegations ------------------------------------------------------------------------------

    def granted(self) -> Mapping[str, Delegation]:
        return self.delegations

    def delegate(self, delegation: Delegation) -> Delegation:
        """Grant a share to a broker and put it out; `delegation.chain` is made here.

        Doing the same again changes nothing. Raises `Refused`.
        """
        known = self.delegations.get(delegation.id)
        if known is not None:
            return known
        if delegation.holder.kid not in self.brokers:
            raise Refused("stranger", "this site knows no such broker", field="to")
        if delegation.type not in self.free:
            raise Refused("unknown_type", f"no pool of {delegation.type}", field="type")
        self._check_delegable(delegation)
        claim = Claim(
            jti=delegation.id,
            issuer=self.me.party.kid,
            holder=delegation.holder,
            type=delegation.type,
            units=delegation.units,
            term=delegation.term,
            digest="",
            overbooking=delegation.overbooking,
            site=self.me.party,
        )
        made = pushed(replace(delegation, chain=(self.me.sign_claim(claim),)))
        self.keep("delegation", made.key, made)
        return made

    def _check_delegable(self, wanted: Delegation) -> None:
        """Delegations together never exceed the pool, at any instant.

        One that allows overbooking says openly that not all of it can be had at once: it weighs
        its units divided by that factor, here as in the descriptor.
        """
        pool = sum(1 for unit in self.units.values() if unit.type == wanted.type)
        calendar = Calendar(pool, wanted.term)
        for other in self.delegations.values():
            if other.type == wanted.type:
                calendar.restore(_weight(other), other.term)
        free = calendar.free(wanted.term)
        if _weight(wanted) > free:
            raise Refused(
                "too_many",
                f"{wanted.units} units of {wanted.type} can not be delegated: the pool has {pool}, "
                f"and {free} of them are not delegated during the whole term",
                field="units",
            )


def _weight(delegation: Delegation) -> int:
    return math.ceil(delegation.units / delegation.overbooking)


def _spent(chain: tuple[Claim, ...]) -> Spent:
    leaf = chain[-1]
    return Spent(
        jti=leaf.jti,
        issuer=leaf.issuer,
        units=leaf.units,
        term=leaf.term,
        ancestors=tuple(
            machine.Ancestor(
                digest=claim.digest,
                capacity=int(claim.units * claim.overbooking),
                term=claim.term,
            )
            for claim in chain[:-1]
        ),
    )
