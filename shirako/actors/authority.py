"""The site authority: owns units, delegates shares of them, redeems tickets for leases.

ROOTED and EXCLUSIVE rest here. A ticket is checked against everything that was redeemed before,
per instant and for every claim above it; a unit has one owner from its assignment to its verified
teardown, and every assignment a fresh epoch.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Iterator, Mapping, Set
from contextlib import suppress
from types import MappingProxyType
from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace
from sortedcontainers import SortedDict

from shirako.actors import accounts
from shirako.actors.accounts import Accounts
from shirako.actors.convicting import INSTANTS_MAX, conflict_of
from shirako.actors.resting import NOTHING, Resting
from shirako.actors.role import TOMBSTONE_TICKS, Kept, Refused, Role, forgotten
from shirako.actors.room import Room
from shirako.core import authority as machine
from shirako.core import messages
from shirako.core.account import Entry
from shirako.core.authority import (
    Assign,
    Assigned,
    Quarantine,
    Release,
    RetryAsked,
    Settle,
    Settled,
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
from shirako.core.claims import CHAINS_MAX, Chain, Claim, Party, Ticket, Unfit, check_chain
from shirako.core.conflict import Conflict
from shirako.core.delegation import Delegation, capacity, pushed
from shirako.core.machine import Event, IllegalTransition, Key, Me, say
from shirako.core.messages import Message
from shirako.core.policy import Assignment, Wanted
from shirako.core.properties import fault, name_fault, ssh_key_fault
from shirako.core.terms import Term
from shirako.core.tickets import shared_out, worth
from shirako.transport.limits import LEASES_A_GUEST
from shirako.trust import PublicKey, Untrusted, digest

SUSPECT_CHARACTERS_MAX = 500
SEARCHES_MAX = 8
"""Proofs that are looked for in one tick, below one delegation; each looks at all that is redeemed
there. Beyond it a broker that sold too much is refused without a proof."""
CONFLICTS_MAX = 100
"""Proofs that are kept for people to look at; each guest has its own (BOUNDED)."""


class Unit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One unit of the site: whose it is now, and under which epoch it was last given out."""

    name: str
    type: str
    epoch: int = 0
    owner: Key | None = None
    quarantined: str = ""
    """Why it is not handed out; empty when it is fit."""
    drained: str = ""
    """Why no lease gets it any more, though one that has it keeps it; empty: nobody said so."""

    @property
    def idle(self) -> bool:
        """Whether it may be handed out."""
        return self.owner is None and not self.quarantined and not self.drained


class Authority(Role[SiteLease]):
    title = "authority"
    kinds: ClassVar[dict[str, type[msgspec.Struct]]] = {
        "lease": SiteLease,
        "unit": Unit,
        "delegation": Delegation,
        **accounts.KINDS,
        "conflict": Conflict,
    }

    def __init__(
        self,
        me: Me,
        brokers: dict[str, Party],
        pools: dict[str, tuple[str, ...]],
        policies: dict[str, Assignment],
        attempts: Mapping[str, int] = MappingProxyType({}),
        *,
        leases_a_guest: int = LEASES_A_GUEST,
        lasting: Container[str] = (),
    ) -> None:
        """`pools`: unit names by resource type, in the pool's order; `policies` by type.

        `attempts`: how often teardowns of a type are tried, where it is not the default. `lasting`:
        ids of delegations that are never forgotten, since whoever starts the site names them.
        """
        room = Room(leases_a_guest, peers=len(brokers))
        super().__init__(me, machine.TABLE, dict(brokers), room=room)
        self.brokers = brokers
        self.policies = policies
        self.attempts = attempts
        self.units = {
            name: Unit(name=name, type=kind) for kind, names in pools.items() for name in names
        }
        self.delegations: dict[str, Delegation] = {}
        self._roots: dict[str, Delegation] = {}
        """By digest of the root claim."""
        self.free: dict[str, SortedDict[int, str]] = {}
        self._order = {name: number for number, name in enumerate(self.units)}
        self.accounts = Accounts(self._note)
        self.conflicts: dict[Key, Conflict] = {}
        """Proofs that we made, by (broker's thumbprint, `jti` of the claim it sold too much of)."""
        self._redeemed: dict[tuple[str, str], Key] = {}
        """(issuer, `jti`) of each claim that was redeemed or voided -> its reservation (rule 1)."""
        self._spending: dict[str, Calendar] = {}
        """Digest of a claim -> what of it is redeemed, per instant (rule 4)."""
        self._below: dict[str, dict[tuple[str, str], Spent]] = {}
        """Digest of a claim -> the claims below it that live leases rest on, by their names."""
        self._resting = Resting()
        """By digest of a claim: records of leases that rest on claims below it."""
        self._lasting = lasting
        self._searches: dict[str, tuple[int, int]] = {}
        """Digest of a root claim -> the tick at which proofs were looked for below it last, and how
        often then."""
        self._held: dict[str, dict[Key, None]] = {}
        """By type: leases that wait for units, in the order in which they came."""
        self.loaded()

    # Books ------------------------------------------------------------------------------------

    def keep(self, kind: str, key: Key, value: Any) -> None:
        value = self.numbered(kind, key, value)
        if kind in accounts.KINDS:
            self.accounts.load(value)
        elif kind == "conflict":
            self.conflicts[key] = value
            self._note(kind, key, value)
        elif kind == "unit":
            if value.name in self._order:  # a unit that has left the descriptor is remembered only
                self.units[value.name] = value
            self.batch.changed[kind, key] = value
        elif kind == "delegation":
            over = value.term.end + 2 * (self.me.skew + TOMBSTONE_TICKS)
            value = replace(value, wake=None if value.id in self._lasting else over)
            self.delegations[value.id] = value
            self._roots[digest(value.chain[0])] = value
            self.batch.changed[kind, key] = value
            self.acknowledged.pop((kind, key), None)
        else:
            known = self.leases.get(key)
            super().keep(kind, key, value)
            self._hold(value)
            self._note_below(known, value)
            same = known is not None and known.spent is value.spent
            if not same or known is None or known.voided is not value.voided:
                self._resting.move(_ancestors(known), _ancestors(value))

    def _note(self, kind: str, key: Key, value: Any) -> None:
        self.batch.changed[kind, key] = value

    def find(self, kind: str, key: Key) -> Any:
        return self.delegations.get(key[1]) if kind == "delegation" else super().find(kind, key)

    def learn(self, record: SiteLease) -> None:
        super().learn(record)
        self.parties.setdefault(record.broker.kid, record.broker)

    def loaded(self) -> None:
        self.accounts.loaded()
        kinds = dict.fromkeys(unit.type for unit in self.units.values())
        self.free = {kind: SortedDict() for kind in kinds}
        for unit in self.units.values():
            self._offer(unit)
        for lease in self.leases.values():
            for claim in lease.claims:
                self._redeemed[claim.name] = lease.key
            for spent in lease.spent:
                if not lease.receipt:  # the receipt gave the capacity back, whatever came later
                    self._spend(spent)
        super().loaded()

    def kept(self) -> Iterator[tuple[str, Key, Kept]]:
        yield from super().kept()
        for delegation in self.delegations.values():
            yield "delegation", delegation.key, delegation

    def sponsor(self, record: SiteLease) -> str:
        """The broker that the site itself delegated to: it can make up others, and guests."""
        root = self._roots.get(record.spent[0].ancestors[0].digest) if record.spent else None
        return root.holder.kid if root else ""

    def last_end(self, record: SiteLease) -> int:
        return max(record.term.end, record.last_end)

    def forget(self, key: Key) -> None:
        for spent in self.leases[key].claims:
            self._redeemed.pop(spent.name, None)  # its claim has expired by now
        self._resting.move(_ancestors(self.leases[key]), NOTHING)
        super().forget(key)

    def delivered(self, kind: str, key: Key, peer: str, n: int) -> Kept | None:
        if kind != "delegation":
            return super().delivered(kind, key, peer, n)
        delegation = self.delegations.get(key[1])
        if delegation is None:
            return None  # forgotten meanwhile
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

    def _note_below(self, known: SiteLease | None, lease: SiteLease) -> None:
        """Index what a lease rests on, from when it does until its receipt gives it back."""
        if lease.receipt:
            for spent in known.spent if known is not None and not known.receipt else ():
                for ancestor in spent.ancestors:
                    below = self._below[ancestor.digest]
                    del below[spent.name]
                    if not below:
                        del self._below[ancestor.digest]
            return
        for spent in lease.spent[len(known.spent) if known is not None else 0 :]:
            for ancestor in spent.ancestors:
                self._below.setdefault(ancestor.digest, {})[spent.name] = spent

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
            case Settle():
                self._settle(key, effect.kept, now)

    def _settle(self, key: Key, kept: int, now: int) -> None:
        lease = self.leases[key]
        parts = [(claim.units, claim.term) for claim in lease.claims]
        postings = tuple(
            self.accounts.post(claim.parent, Entry(claim.jti, claim.term.end, units), now)
            for claim, units in zip(lease.claims, shared_out(parts, kept), strict=True)
        )
        self.apply(lease, Settled(now=now, postings=postings), "site")

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
        if not unit.idle:
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

    def suspect(self, name: str, reason: str) -> None:
        """No further lease gets the unit until it was cleared; one that has it keeps it."""
        self._keep_unit(replace(self.units[name], quarantined=reason[:SUSPECT_CHARACTERS_MAX]))

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

    def drain(self, name: str, reason: str) -> None:
        """Give it to no lease any more; one that has it keeps it to its end."""
        self._keep_unit(replace(self.units[name], drained=reason))

    def undrain(self, name: str, now: int) -> None:
        """Hand it out again, first to who waits."""
        unit = replace(self.units[name], drained="")
        self._keep_unit(unit)
        self._serve_held(unit.type, now)

    def _keep_unit(self, unit: Unit) -> None:
        self.keep("unit", ("", unit.name), unit)
        self._offer(unit)

    def _offer(self, unit: Unit) -> None:
        free, number = self.free[unit.type], self._order[unit.name]
        if unit.idle:
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
        self.check_room(guest=sender.kid if isinstance(message, messages.Redeem) else "")
        claims, spent = self._check_ticket(sender, message.rid, message.ticket, now)
        self.check_room(sponsor=claims[0][1].issuer)
        if isinstance(message, messages.Redeem):
            self._check_unspent(spent, message.ticket, now)
        leaf = claims[0][-1]
        units, term = worth([chain[-1] for chain in claims])
        if any(chain[-1].extends for chain in claims):
            raise Refused("unfit", "an extension is good for extending a live lease only")
        record = SiteLease(
            id=message.rid,
            guest=leaf.holder,
            slice="",
            type=leaf.type,
            units=units,
            least_units=units,
            state=SiteState.NASCENT,
            attempts=self.attempts.get(leaf.type, machine.TEARDOWN_ATTEMPTS),
            term=term,
            broker=claims[0][-2].holder,
            spent=spent,
            last_end=term.end,
        )
        if isinstance(message, messages.Redeem):
            record = self._configured(record, message)
            revoked = self._revoked_above(spent, claims)
            if revoked is not None:
                why, proof = revoked.why_revoked, revoked.revocation
                record = replace(record, refusal=why, revocation=proof)
            for one in spent if revoked is None else ():
                self._spend(one)
        for one in spent:
            self._redeemed[one.name] = record.key
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
            case messages.Redeem() if record.state is SiteState.NASCENT and record.revocation:
                return machine.RedeemUnfit(
                    now=now, message=message, reason=record.refusal, revocation=record.revocation
                )
            case messages.Redeem():
                return machine.RedeemAsked(now=now, message=message)
            case messages.Close():
                voided = self._unused(sender, record, message.ticket, now)
                return machine.CloseMessage(now=now, message=message, voided=voided)
            case messages.ExtendLease():
                event = self._extension(sender, record, message, now)
                if isinstance(event, machine.ExtendLeaseUnfit) and event.code in _NEVER:
                    # its guest lets go of what is refused: nobody else would give it back
                    voided = self._unused(sender, record, message.ticket, now)
                    return replace(event, voided=voided)
                return event
        raise Refused("unexpected", f"an authority takes no {type(message).__name__}")

    def _unused(
        self, sender: PublicKey, record: SiteLease, ticket: Ticket, now: int
    ) -> tuple[Spent, ...]:
        """Claims that would extend the lease, and were not redeemed: void from now on, so that the
        receipt gives them back, too. What proves nothing is left out: nobody gains by it."""
        if record.state.final:
            return ()
        ours = {spent.jti for spent in record.spent}
        found: dict[tuple[str, str], Spent] = {}
        for tokens in ticket[:CHAINS_MAX]:
            with suppress(Refused, Untrusted):
                claims = self._check_chain(sender, record.id, tokens, now)
                one = _spent(claims, tokens)
                if claims[-1].extends in ours and one.name not in self._redeemed:
                    found[one.name] = one
        self._redeemed.update(dict.fromkeys(found, record.key))
        return tuple(found.values())

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
            self._check_unspent(spent, message.ticket, now)
        except Untrusted as error:
            return machine.ExtendLeaseUnfit(
                now=now, message=message, code="untrusted", reason=str(error)
            )
        except Refused as refused:
            return machine.ExtendLeaseUnfit(
                now=now,
                message=message,
                code=refused.code,
                reason=str(refused),
                conflict=refused.conflict,
            )
        revoked = self._revoked_above(spent, claims)
        if revoked is not None:
            return machine.ExtendLeaseUnfit(
                now=now,
                message=message,
                code="revoked",
                reason=revoked.why_revoked,
                revocation=revoked.revocation,
            )
        if self.held:
            now = min(now, record.term.end - 1)  # no term is over before the hold is
        if now < record.term.end:
            for one in spent:
                self._spend(one)
                self._redeemed[one.name] = record.key
        end = worth([chain[-1] for chain in claims])[1].end
        return machine.ExtendLeaseAsked(now=now, message=message, spent=spent, end=end)

    # After a restore --------------------------------------------------------------------------

    def ask_around(self, now: int) -> None:
        """Guests know of extensions that the backup does not."""
        for lease in list(self.leases.values()):
            if lease.state is SiteState.ACTIVE:
                asked = messages.Failed(
                    rid=lease.id,
                    holder=lease.guest.kid,
                    answers=0,
                    code=messages.RESTORED,
                    reason="this site was restored from a backup: redeem once more what you have",
                )
                self.keep("lease", lease.key, say(lease, lease.guest.kid, asked))

    def said_again(self, sender: PublicKey, record: SiteLease, message: Message, now: int) -> bool:
        """A live lease is redeemed or extended by claims that it has: the snapshot answers.

        Among them may be claims that a restored site has forgotten: those extend the lease.
        """
        if not isinstance(message, messages.Redeem | messages.ExtendLease):
            return False
        if record.state is not SiteState.ACTIVE or not 1 <= len(message.ticket) <= CHAINS_MAX:
            return False
        known = {spent.name for spent in record.spent}
        leaves = [self.verifier.chain(chain)[-1] for chain in message.ticket]
        rest = tuple(
            chain
            for chain, leaf in zip(message.ticket, leaves, strict=True)
            if (leaf.issuer, leaf.jti) not in known
        )
        if not rest:
            self.keep("lease", record.key, machine.told_again(record, message.n))
            return True
        if isinstance(message, messages.ExtendLease):
            return False
        extending = messages.ExtendLease(
            rid=record.id, holder=record.guest.kid, n=message.n, ticket=rest
        )
        event = self._extension(sender, record, extending, now)
        self.apply(record, event, self.name_of(sender.kid))
        return True

    # Claims -----------------------------------------------------------------------------------

    def _check_ticket(
        self, sender: PublicKey, rid: str, ticket: Ticket, now: int
    ) -> tuple[list[tuple[Claim, ...]], tuple[Spent, ...]]:
        """The chains of a ticket, in order of time, and what each is worth; raises `Refused`.

        Checked: every signature and link from our own root, that the presenter is the holder,
        that it is for this reservation, unexpired, of one broker, and that the chains make up the
        same units all the time.
        """
        if not 1 <= len(ticket) <= CHAINS_MAX:
            raise Refused("unfit", f"a ticket has 1 to {CHAINS_MAX} chains")
        read = [(self._check_chain(sender, rid, tokens, now), tokens) for tokens in ticket]
        read.sort(key=lambda one: one[0][-1].term)
        chains = [chain for chain, _ in read]
        try:
            worth([chain[-1] for chain in chains])
        except Unfit as error:
            raise Refused("unfit", str(error)) from error
        if len({chain[-1].issuer for chain in chains}) > 1:
            raise Refused("unfit", "the chains of the ticket are of several brokers")
        return chains, tuple(_spent(chain, tokens) for chain, tokens in read)

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
        if digest(self.delegations[claims[0].jti].chain[0]) != claims[0].digest:
            # an old key of ours that leaked could sign others in the name of this delegation
            raise Refused("unfit", "the root claim is not the one that this site has signed")
        self.check_signers(claims[1:], now, self._spending)
        if leaf.holder.kid != sender.kid:
            raise Refused("stolen", "the ticket is somebody else's: its holder's key is not yours")
        if leaf.reservation != rid:
            raise Refused("unfit", "the ticket is for another reservation")
        if leaf.term.end <= now:
            raise Refused("expired", "the ticket's term is over")
        if leaf.type not in self.free:
            raise Refused("unfit", f"this site has no pool of {leaf.type}")
        return claims

    def _check_unspent(self, spent: tuple[Spent, ...], ticket: Ticket, now: int) -> None:
        roots = {digest(chain[0]): chain[0] for chain in ticket}
        for index, one in enumerate(spent):
            if one.name in self._redeemed:
                raise Refused("spent", "the ticket was redeemed before")
            tokens = (roots[one.ancestors[0].digest], *one.tokens)
            refusals = []
            # from the ticket up: where a broker sold too much, those above it are exceeded, too
            for number, ancestor in reversed(list(enumerate(one.ancestors, 1))):
                beside = [other for other in spent[:index] if ancestor in other.ancestors]
                calendar = self._spending.get(ancestor.digest)
                if calendar is None:
                    calendar = Calendar(ancestor.capacity, ancestor.term)
                # what is over is nobody's fault: an honest broker may have sold it before
                ahead = Term(max(one.term.start, calendar.term.start, now), one.term.end)
                if _has_room(calendar, one.units, beside, ahead):
                    continue
                instants = calendar.fullest(ahead, INSTANTS_MAX)
                instants += [o.term.start for o in beside if ahead.covers(o.term.start)]
                refusals.append(self._oversold([one, *beside], tokens[:number], instants, now))
            if refusals:
                raise next((r for r in refusals if r.conflict is not None), refusals[0])

    def _oversold(self, asked: list[Spent], above: Chain, instants: list[int], now: int) -> Refused:
        """With these claims of a ticket more would be redeemed below the last claim of `above` than
        it is worth (rule 4), at some of the instants."""
        sold = self.verifier.chain(above)[-1]
        reason = (
            f"with this ticket more of the claim {sold.jti} would be redeemed than its "
            f"{sold.units} units; {sold.holder.name or sold.holder.kid} sold too much"
        )
        known = self.conflicts.get((sold.holder.kid, sold.jti))
        if known is not None and known.parent == above and _meet(known.instant, asked):
            return Refused("conflict", reason, conflict=known)
        conflict = None
        if self._may_search(digest(above[0]), now):
            spent = [*asked, *self._below.get(sold.digest, {}).values()]
            conflict = conflict_of(spent, above, instants, self.accounts, self.verifier)
        if conflict is not None:
            self._keep_conflict((sold.holder.kid, sold.jti), conflict)
        return Refused("conflict" if conflict else "oversold", reason, conflict=conflict)

    def _may_search(self, root: str, now: int) -> bool:
        """Whether to look for a proof once more: who sells too much could keep us at it."""
        tick, count = self._searches.get(root, (now, 0))
        count = count + 1 if tick == now else 1
        self._searches[root] = (now, count)
        return count <= SEARCHES_MAX

    def _keep_conflict(self, key: Key, conflict: Conflict) -> None:
        """The latest for each claim, and only so many: a broker can make up claims without end."""
        self.conflicts.pop(key, None)
        while len(self.conflicts) >= CONFLICTS_MAX:
            oldest = next(iter(self.conflicts))
            del self.conflicts[oldest]
            self._note("conflict", oldest, None)
        self.keep("conflict", key, conflict)

    def _revoked_above(
        self, spent: tuple[Spent, ...], claims: list[tuple[Claim, ...]]
    ) -> Delegation | None:
        """The delegation that was revoked, or has shrunk too far to honour these claims (rule 14).

        None: all that they ask for is still given.
        """
        for one, chain in zip(spent, claims, strict=True):
            delegation = self.delegations[chain[0].jti]
            if delegation.revoked is None:
                continue
            asked = sum(
                other.units
                for other, beside in zip(spent, claims, strict=True)
                if beside[0].jti == chain[0].jti and other.term.meets(one.term)
            )
            left = capacity(chain[:1], delegation.revoked)
            calendar = self._spending.get(chain[0].digest)
            if calendar is not None:
                ahead = Term(max(one.term.start, calendar.term.start), one.term.end)
                left -= calendar.capacity - calendar.free(ahead)
            if left < asked:
                return delegation
        return None

    def _check_extension(self, record: SiteLease, claims: list[tuple[Claim, ...]]) -> None:
        """An extension claim covers exactly `[old end, new end)` (rule 4)."""
        leaves = [chain[-1] for chain in claims]
        units, term = worth(leaves)
        if any(chain[-1].extends not in {s.jti for s in record.spent} for chain in claims):
            raise Refused("unfit", "the ticket does not extend this lease's ticket")
        if term.start != record.term.end:
            raise Refused("unfit", "the extension does not begin where the lease ends")
        if leaves[0].type != record.type or units < record.units:
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

    # Forgetting -------------------------------------------------------------------------------

    def woken(self, key: Key, now: int) -> None:
        delegation = self.delegations.get(key[1])
        if delegation is not None and delegation.key == key:
            self._resting.look_at(digest(delegation.chain[0]))
        super().woken(key, now)

    def settle(self, now: int) -> None:
        """End of a turn: forget delegations that are long over, once no lease rests on them."""
        if self.held:
            return
        for root in self._resting.take_left():
            delegation = self._roots.get(root)
            if delegation is not None:
                self._let_go(delegation, now)

    def _let_go(self, delegation: Delegation, now: int) -> None:
        """Forget it, and those that it went on from: people call the whole series by the first."""
        one: Delegation | None = delegation
        while one is not None and self._is_outlived(one, now):
            root = digest(one.chain[0])
            del self.delegations[one.id], self._roots[root]
            self._searches.pop(root, None)
            self.accounts.forget(root)
            self.acknowledged.pop(("delegation", one.key), None)
            self._note("delegation", one.key, None)
            self.batch.entries.append(forgotten(one, now))
            self._forget_below(now)
            one = self.delegations.get(one.renews)

    def _is_outlived(self, one: Delegation, now: int) -> bool:
        if one.wake is None or now < one.wake or digest(one.chain[0]) in self._resting:
            return False
        return all(other.renews != one.id for other in self.delegations.values())

    def _forget_below(self, now: int) -> None:
        """Drop what is known of claims below delegations that are forgotten."""
        for claim, end in self.accounts.last_ends().items():
            # whatever it is below has a term that covers the terms of what was given back
            alive = any(one.term.covers(end - 1) for one in self.delegations.values())
            if not alive and claim not in self._resting:
                self.accounts.forget(claim)
        for claim, calendar in list(self._spending.items()):
            if calendar.term.end <= now and claim not in self._resting:
                del self._spending[claim]

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
        self.check_delegable(delegation)
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
        return self.delegations[made.id]

    def check_delegable(self, wanted: Delegation) -> None:
        """Delegations together never exceed the pool, at any instant.

        What a broker may sell beyond its units, by the overbooking that it is allowed, is no
        promise of the site's. One that has shrunk weighs what is left of it, and what is redeemed
        of it beyond that. Raises `Refused`.
        """
        pool = sum(1 for unit in self.units.values() if unit.type == wanted.type)
        calendar = Calendar(pool, wanted.term)
        for other in self.delegations.values():
            if other.type == wanted.type and other.id != wanted.id:
                for units, term in self.weights(other):
                    calendar.restore(units, term)
        free = calendar.free(wanted.term)
        if weight(wanted) > free:
            raise Refused(
                "too_many",
                f"{wanted.units} units of {wanted.type} can not be delegated: the pool has {pool}, "
                f"and {free} of them are not delegated during the whole term",
                field="units",
            )

    def weights(self, delegation: Delegation) -> Iterator[tuple[int, Term]]:
        """Units of the pool that a delegation takes, and when: to be added up."""
        yield weight(delegation), delegation.term
        calendar = self.redeemed(delegation)
        if delegation.revoked is None or calendar is None:
            return
        left = int(delegation.revoked.units * delegation.overbooking)
        for (tick, booked), (end, _) in itertools.pairwise(calendar.steps()):
            if booked > left:
                yield booked - left, Term(tick, end)

    def redeemed(self, delegation: Delegation) -> Calendar | None:
        """What of a delegation is redeemed, per instant; None: nothing is."""
        return self._spending.get(digest(delegation.chain[0]))


_NEVER = ("revoked", "conflict", "oversold")
"""Refusals of a sound extension that will not be honoured later, either."""


def _has_room(calendar: Calendar, units: int, beside: list[Spent], term: Term) -> bool:
    """Whether so many units are free all the time, with these claims of the same ticket booked."""
    ends = {tick for one in beside for tick in (one.term.start, one.term.end) if term.covers(tick)}
    for start, end in itertools.pairwise(sorted({term.start, *ends, term.end})):
        taken = sum(one.units for one in beside if one.term.covers(start))
        if calendar.free(Term(start, end)) < units + taken:
            return False
    return True


def _ancestors(lease: SiteLease | None) -> Set[str]:
    """Digests of all claims above those that a lease rests on, or gave back."""
    if lease is None:
        return NOTHING
    return {ancestor.digest for claim in lease.claims for ancestor in claim.ancestors}


def _meet(instant: int, asked: list[Spent]) -> bool:
    return any(one.term.covers(instant) for one in asked)


def weight(delegation: Delegation) -> int:
    """Units of the pool that it takes: what is left of it."""
    return delegation.units if delegation.revoked is None else delegation.revoked.units


def _spent(chain: tuple[Claim, ...], tokens: Chain) -> Spent:
    leaf = chain[-1]
    return Spent(
        jti=leaf.jti,
        tokens=tokens[1:],
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
