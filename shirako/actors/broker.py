"""The broker: holds delegations of sites, sells tickets on them.

CONSERVE rests here: a grant is booked in its delegation's calendar before the next decision is
made, in the same batch that issues it; and calendars are rebuilt from delegations and grants.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping, Set
from itertools import islice
from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace

from shirako.actors import accounts
from shirako.actors.accounts import Accounts
from shirako.actors.resting import NOTHING, Resting
from shirako.actors.restored import Restored
from shirako.actors.role import TOMBSTONE_TICKS, Kept, Refused, Role, forgotten
from shirako.actors.room import Room
from shirako.clock import utc
from shirako.core import broker as machine
from shirako.core import messages
from shirako.core.broker import (
    Allocate,
    BrokerLease,
    BrokerState,
    Denied,
    Free,
    Grant,
    Granted,
    Revoked,
)
from shirako.core.calendar import Calendar
from shirako.core.claims import (
    CHAIN_LENGTH_MAX,
    Chain,
    Claim,
    Party,
    Receipt,
    Revocation,
    Unfit,
    check_chain,
)
from shirako.core.delegation import Delegation, capacity, pushed
from shirako.core.exchange import Line
from shirako.core.machine import Event, Key, Me
from shirako.core.messages import NAME_CHARACTERS_MAX, Message
from shirako.core.policy import Allocation, Declined, Demanded, Given, Piece, Share
from shirako.core.properties import fault, name_fault
from shirako.core.terms import Term
from shirako.core.tickets import whole
from shirako.transport.limits import LEASES_A_GUEST
from shirako.trust import PublicKey, digest

log = logging.getLogger(__name__)


class Unsound(Exception):
    """A policy has decided what can not be done: it "gave" this."""


class Broker(Role[BrokerLease]):
    title = "broker"
    kinds: ClassVar[dict[str, type[msgspec.Struct]]] = {
        "lease": BrokerLease,
        "delegation": Delegation,
        "given": Delegation,
        **accounts.KINDS,
    }

    def __init__(
        self,
        me: Me,
        suppliers: dict[str, Party],
        guests: dict[str, Party],
        policy: Allocation,
        *,
        leases_a_guest: int = LEASES_A_GUEST,
    ) -> None:
        """`suppliers` may hand us delegations, `guests` may ask for tickets, and brokers among
        them be given delegations; by thumbprint."""
        room = Room(leases_a_guest, peers=len(guests))
        super().__init__(me, machine.TABLE, {**suppliers, **guests}, room=room)
        self.suppliers = suppliers
        self.guests = guests
        self.policy = policy
        self.delegations: dict[str, Delegation] = {}
        """Those that we hold, by id."""
        self.given: dict[str, Delegation] = {}
        """Those that we gave to brokers below us, by id."""
        self.shares: dict[str, list[Share]] = {}
        self.sites: dict[str, None] = {}
        """Thumbprints of the sites that our delegations are rooted at."""
        self.accounts = Accounts(self._note)
        """Of the claims that we sell out of: which receipts we have, as our tickets cite them."""
        self._roots: dict[str, str] = {}
        """Digest of a claim that we sell out of -> the site that it is rooted at."""
        self._claims: dict[str, Claim] = {}
        """Delegation id -> the verified claim that its chain ends in."""
        self._resting = Resting()
        """By delegation id: records of leases with tickets out of it."""
        self._undecided: list[tuple[Key, Allocate]] = []

    # Books ------------------------------------------------------------------------------------

    def keep(self, kind: str, key: Key, value: Any) -> None:
        value = self.numbered(kind, key, value)
        if kind in accounts.KINDS:
            self.accounts.load(value)
        elif kind in ("delegation", "given"):
            value = replace(value, wake=value.term.end + self.me.skew + TOMBSTONE_TICKS)
            (self.given if kind == "given" else self.delegations)[value.id] = value
            self.batch.changed[kind, key] = value
            self.acknowledged.pop((kind, key), None)
        else:
            known = self.leases.get(key)
            super().keep(kind, key, value)
            if known is None or known.grants is not value.grants:
                self._resting.move(_out_of(known), _out_of(value))

    def forget(self, key: Key) -> None:
        self._resting.move(_out_of(self.leases[key]), NOTHING)
        super().forget(key)

    def _note(self, kind: str, key: Key, value: Any) -> None:
        self.batch.changed[kind, key] = value

    def find(self, kind: str, key: Key) -> Any:
        if kind == "given":
            return self.given.get(key[1])
        return self.delegations.get(key[1]) if kind == "delegation" else super().find(kind, key)

    def loaded(self) -> None:
        self.accounts.loaded()
        for delegation in self.delegations.values():
            self._open_share(delegation)
        # a delegation that came anew has another chain than what was sold out of it before
        for chain in {grant.chain[:-1]: None for grant in self._grants() if grant.chain}:
            self._note_root(chain)
        self._restore()
        super().loaded()

    def kept(self) -> Iterator[tuple[str, Key, Kept]]:
        yield from super().kept()
        for delegation in self.delegations.values():
            yield "delegation", delegation.key, delegation
        for delegation in self.given.values():
            yield "given", delegation.key, delegation

    def delivered(self, kind: str, key: Key, peer: str, n: int) -> Kept | None:
        if kind != "given":
            return super().delivered(kind, key, peer, n)
        given = self.given.get(key[1])
        if given is None:
            return None  # forgotten meanwhile
        self.given[key[1]] = replace(given, lines={peer: given.lines[peer].delivered(n)})
        self.acknowledged[kind, key] = None
        return self.given[key[1]]

    def last_end(self, record: BrokerLease) -> int:
        return max((grant.term.end for grant in record.grants), default=0)

    def share(self, delegation: str) -> Share | None:
        held = self.delegations.get(delegation)
        shares = self.shares.get(held.type, ()) if held else ()
        return next((share for share in shares if share.delegation == delegation), None)

    def _open_share(self, delegation: Delegation) -> None:
        claims = self.verifier.chain(delegation.chain)
        claim = claims[-1]
        self._claims[delegation.id] = claim
        self._note_root(delegation.chain)
        self.sites[claims[0].issuer] = None
        units = capacity(claims, delegation.revoked)
        calendar = Calendar(units, claim.term)
        share = Share(delegation=delegation.id, calendar=calendar, site=claims[0].issuer)
        others = [s for s in self.shares.get(delegation.type, []) if s.delegation != delegation.id]
        self.shares[delegation.type] = [*others, share]

    def _note_root(self, chain: Chain) -> None:
        claims = self.verifier.chain(chain)
        self._roots[claims[-1].digest] = claims[0].issuer

    def _grants(self) -> Iterator[Grant]:
        return (grant for lease in self.leases.values() for grant in lease.grants)

    def _book(self, grant: Grant) -> None:
        share = self.share(grant.delegation)
        if share is not None:
            share.calendar.book(grant.units, grant.term)

    def _restore(self, of: str | None = None) -> None:
        """Book what was sold before, of one delegation or of all.

        A delegation that has shrunk since may be exceeded by it.
        """
        for grant in self._grants():
            share = self.share(grant.delegation) if of in (None, grant.delegation) else None
            if share is not None:
                share.calendar.restore(grant.units, grant.term)
        for given in self.given.values():
            share = self.share(given.source) if of in (None, given.source) else None
            if share is not None:
                share.calendar.restore(given.weight, given.term)
        for delegation, end in self.unsold().items():
            share = self.share(delegation) if of in (None, delegation) else None
            if share is not None and end > share.calendar.term.start:
                # whole, for what the backup knows may have been given back and sold once more
                rest = Term(share.calendar.term.start, end)
                share.calendar.restore(share.calendar.capacity, rest)

    # After a restore --------------------------------------------------------------------------

    def sold_until(self) -> Mapping[str, int]:
        return {delegation.id: delegation.term.end for delegation in self.delegations.values()}

    def unsold(self) -> Mapping[str, int]:
        """Until when nothing of a delegation is sold, by its id: more of it may be sold than is
        known, since this broker was restored."""
        return {} if self.restored is None else self.restored.unsold

    def keep_restored(self, known: Restored) -> None:
        super().keep_restored(known)
        for delegation in self.delegations.values():
            self._open_share(delegation)
        self._restore()

    def said_again(
        self, sender: PublicKey, record: BrokerLease, message: Message, now: int
    ) -> bool:
        """A guest that was restored asks once more for the ticket that it was given."""
        asked = isinstance(message, messages.TicketRequest)
        if not asked or record.state is not BrokerState.TICKETED:
            return False
        self.keep("lease", record.key, machine.told_again(record, message.n))
        return True

    # Decisions --------------------------------------------------------------------------------

    def carry_out(self, key: Key, effect: Any, now: int) -> None:
        if isinstance(effect, Allocate):
            self._undecided.append((key, effect))
        elif isinstance(effect, Free):
            share = self.share(effect.delegation)
            if share is not None and share.calendar.term.meets(effect.term):
                # what is over is forgotten, and a renewed delegation may end earlier than it did
                start = max(effect.term.start, share.calendar.term.start)
                end = min(effect.term.end, share.calendar.term.end)
                share.calendar.release(effect.units, Term(start, end))

    def settle(self, now: int) -> None:
        """End of a turn: decide, and forget delegations that are long over."""
        self._decide(now)
        if not self.held:
            for name in self._resting.take_left():
                self._let_go(name, now)

    def _decide(self, now: int) -> None:
        """Put the gathered requests to the policy, extensions first: they keep units in place."""
        undecided = [(k, a) for k, a in self._undecided if self._waits(k)]
        self._undecided = []
        if not undecided:
            return
        for share in (share for shares in self.shares.values() for share in shares):
            share.calendar.forget(now - 2 * self.me.skew)
        undecided.sort(key=lambda item: not item[1].extends)
        requests = [self._demanded(key, asked) for key, asked in undecided]
        decisions = self._decisions(requests, now)
        for (key, asked), decision in zip(undecided, decisions, strict=True):
            lease = self.leases[key]
            try:
                self._read_decision(lease, asked, decision)
                self._answer(lease, asked, decision, now)
            except Unsound as wrong:
                reason = f"the policy {type(self.policy).__name__} gave {wrong}"
                log.exception("lease %s: %s", lease.id, reason)
                self._answer(lease, asked, Declined(code="policy", reason=reason), now)

    def _decisions(self, requests: list[Demanded], now: int) -> Iterator[Given | Declined]:
        """One decision a request, whatever the policy does: what it fails to decide is declined."""
        decided = 0
        try:
            for decision in islice(self.policy.decide(self.shares, requests, now), len(requests)):
                decided += 1
                yield decision
        except Exception:
            log.exception("the allocation policy broke")
        for _ in requests[decided:]:
            yield Declined(code="policy", reason="the broker's policy could not decide; try again")

    def _read_decision(self, lease: BrokerLease, asked: Allocate, decision: object) -> None:
        """Raise `Unsound` unless a decision is one, and can be carried out."""
        try:
            self._check_decision(lease, asked, decision)
        except (AttributeError, TypeError) as error:
            raise Unsound(f"what can not be read: {error}") from error

    def _check_decision(self, lease: BrokerLease, asked: Allocate, decision: object) -> None:
        """Raise `Unsound` unless it says no, or gives what can be promised and was asked for.

        Whether the units are free is found out when they are booked.
        """
        if isinstance(decision, Declined):
            return
        if not isinstance(decision, Given):
            raise Unsound(f"a {type(decision).__name__}, which is no decision")
        for piece in decision.pieces:
            held = self.delegations.get(piece.delegation)
            if held is None or held.type != lease.type:
                raise Unsound(f"units of {piece.delegation!r}, which is no share of {lease.type}")
            if piece.units < 1:
                raise Unsound(f"{piece.units} units of {piece.delegation}")
        if len({self._site_of(piece.delegation) for piece in decision.pieces}) > 1:
            raise Unsound("units of several sites")
        try:
            units, term = whole((piece.units, piece.term) for piece in decision.pieces)
        except Unfit as error:
            raise Unsound(f"pieces that are no ticket: {error}") from error
        if not asked.least_units <= units <= asked.units or units != decision.units:
            raise Unsound(
                f"pieces of {units} units and called them {decision.units}, where "
                f"{asked.least_units} to {asked.units} were asked for"
            )
        if term.start != asked.term.start or not asked.least_end <= term.end <= asked.term.end:
            raise Unsound(f"units for [{term.start}, {term.end}), which is not what was asked for")

    def _site_of(self, delegation: str) -> str:
        share = self.share(delegation)
        return share.site if share else ""

    def _book_all(self, grants: tuple[Grant, ...]) -> None:
        """Book all of them, or none and raise `Unsound`."""
        for number, grant in enumerate(grants):
            try:
                self._book(grant)
            except ValueError as error:
                for booked in grants[:number]:
                    share = self.share(booked.delegation)
                    if share is not None:
                        share.calendar.release(booked.units, booked.term)
                raise Unsound(f"more than there is of {grant.delegation}: {error}") from error

    def _waits(self, key: Key) -> bool:
        """A Relinquish in the same turn may have ended it before it was decided."""
        waiting = (BrokerState.TICKETING, BrokerState.EXTENDING_TICKET)
        return self.leases[key].state in waiting

    def _demanded(self, key: Key, asked: Allocate) -> Demanded:
        lease = self.leases[key]
        return Demanded(
            type=lease.type,
            units=asked.units,
            least_units=asked.least_units,
            term=asked.term,
            least_end=asked.least_end,
            extension=bool(asked.extends),
            site=self.verifier.chain(lease.grants[0].chain[:1])[0].issuer if asked.extends else "",
            properties=lease.request,
        )

    def _answer(
        self, lease: BrokerLease, asked: Allocate, decision: Given | Declined, now: int
    ) -> None:
        event: Event
        if isinstance(decision, Declined):
            reason = decision.reason + self._why_less(lease.type, asked.term.start)
            event = Denied(now=now, code=decision.code, reason=reason, offer=decision.offer)
        else:
            grants = tuple(
                self._grant(lease, asked, number, piece)
                for number, piece in enumerate(decision.pieces)
            )
            self._book_all(grants)
            resource = self.delegations[grants[0].delegation].resource
            event = Granted(now=now, grants=grants, resource=resource, offer=decision.offer)
        self.apply(lease, event, "policy")

    def _why_less(self, kind: str, start: int) -> str:
        """What a refusal adds where this broker sells less than it holds."""
        shares = self.shares.get(kind, ())
        until = max((self.unsold().get(share.delegation, 0) for share in shares), default=0)
        if until <= start:
            return ""
        return f"; restored from a backup, this broker sells no more of some until {utc(until)}"

    def _grant(self, lease: BrokerLease, asked: Allocate, number: int, piece: Piece) -> Grant:
        delegation, term, units = piece
        held = self.delegations[delegation]
        # a number of the guest's request is used once, so the id is unique and yet repeatable
        seed = f"{self.me.party.kid}/{lease.guest.kid}/{lease.id}/{lease.asked}/{number}"
        jti = hashlib.sha256(seed.encode()).hexdigest()[:24]
        claim = Claim(
            jti=jti,
            issuer=self.me.party.kid,
            holder=lease.guest,
            type=lease.type,
            units=units,
            term=term,
            digest="",
            parent=digest(held.chain[-1]),
            reservation=lease.id,
            extends=asked.extends,
            account=self.accounts.place(digest(held.chain[-1])),
        )
        chain: Chain = (*held.chain, self.me.sign_claim(claim))
        return Grant(delegation=delegation, units=units, term=term, jti=jti, chain=chain)

    # Messages ---------------------------------------------------------------------------------

    def deals_with(self, identity: str) -> bool:
        # the sites of a broker below another one are known by its delegations alone
        return identity in self.sites or super().deals_with(identity)

    def newcomer(self, sender: PublicKey, message: Message, now: int) -> BrokerLease | None:
        if isinstance(message, messages.UpdateTicket):
            self._take_delegation(sender, message, now)
            return None
        if isinstance(message, messages.Relinquish) and sender.kid in self.sites:
            if message.receipt:  # for a lease that is forgotten: it has its place all the same
                self._settled(self.verifier.receipt(message.receipt, sender), ())
            return None
        if message.holder != sender.kid or sender.kid not in self.guests:
            raise Refused("stranger", "this broker deals with the guests of its descriptor only")
        if isinstance(message, messages.TicketRequest):
            self.check_room(guest=sender.kid, sponsor=sender.kid)
            return self._requested(message, now)
        self.check_room(sponsor=sender.kid)
        if isinstance(message, messages.Relinquish):
            # A Relinquish that overtook its Ticket. Its tombstone has to outlive any copy of that.
            return BrokerLease(
                id=message.rid,
                guest=self.guests[sender.kid],
                slice="",
                type="",
                units=1,
                least_units=1,
                term=Term(now, now + 2 * self.me.skew + 1),
                state=BrokerState.NASCENT,
            )
        raise Refused("unknown", "this broker has no such reservation")

    def _requested(self, message: messages.TicketRequest, now: int) -> BrokerLease:
        if not self.delegations and not self.sites:
            # who starts first is chance: a guest that asks before any site has spoken asks again
            raise Refused("early", "no site has delegated anything yet", retry=True)
        wrong = (
            name_fault("slice", message.slice)
            or name_fault("type", message.type)
            or fault(message.properties)
        )
        if wrong:
            raise Refused("invalid", wrong)
        if not 1 <= message.least_units <= message.units:
            raise Refused("invalid", "units: at least 1, and no fewer than least_units")
        return BrokerLease(
            id=message.rid,
            guest=self.guests[message.holder],
            slice=message.slice,
            type=message.type,
            units=message.units,
            least_units=message.least_units,
            term=message.term,
            state=BrokerState.NASCENT,
            request=message.properties,
        )

    def admit(self, sender: PublicKey, record: BrokerLease, message: Message) -> None:
        if sender.kid == record.guest.kid:
            return
        if isinstance(message, messages.Relinquish) and sender.kid in self.sites:
            return  # with a receipt: whether it is the site of this lease is checked there
        raise Refused("stranger", "not a reservation of yours")

    def event_of(self, sender: PublicKey, record: BrokerLease, message: Message, now: int) -> Event:
        match message:
            case messages.TicketRequest():
                return machine.TicketAsked(now=now, message=message)
            case messages.ExtendTicket():
                return machine.ExtendTicketAsked(now=now, message=message)
            case messages.Relinquish():
                receipt = self._receipt(sender, record, message) if message.receipt else None
                if receipt is not None and receipt.issuer != sender.kid:
                    self.check_signer(receipt.issuer, message.receipt)
                settled = self._settled(receipt, record.grants) if receipt else {}
                return machine.Relinquished(
                    now=now,
                    message=message,
                    sender=sender.kid,
                    receipt=receipt,
                    settled=settled,
                )
        raise Refused("unexpected", f"a broker takes no {type(message).__name__}")

    def _settled(self, receipt: Receipt, grants: tuple[Grant, ...]) -> dict[str, int]:
        """Take the receipt's places in our accounts; returns what of these grants they settle:
        `jti` -> units that were not freed. What no account says, or says for a part of the term
        only, is not freed: with nothing to show for it, we would seem to sell it twice (rule 3).

        Raises `Refused` while earlier receipts are still under way.
        """
        ends = {grant.jti: grant.term.end for grant in grants}
        settled: dict[str, int] = {}
        ours = [p for p in receipt.postings if self._roots.get(p.parent) == receipt.issuer]
        # what was taken of these since the backup does not come again, nor fits what comes next
        restored = (self.delegations[name] for name in self.unsold() if name in self.delegations)
        lost = {digest(delegation.chain[-1]) for delegation in restored}
        if self.accounts.are_early([p for p in ours if p.parent not in lost]):
            for posting in ours:
                # what comes next is taken all the same: another receipt may wait for it
                self.accounts.follow(posting)
            raise Refused("early", "receipts before this one have not come yet", retry=True)
        for posting in ours:
            entry = posting.entry
            if self.accounts.follow(posting) and entry.end >= ends.get(entry.jti, entry.end + 1):
                settled[entry.jti] = min(entry.kept, settled.get(entry.jti, entry.kept))
        return settled

    def _receipt(
        self, sender: PublicKey, record: BrokerLease, message: messages.Relinquish
    ) -> Receipt | None:
        """The receipt, if it is of the site that our grants rest on and for this lease (rule 2)."""
        if not record.grants or not record.grants[0].chain:
            # given back, or over; a site's receipt has its place in our accounts all the same
            if sender.kid not in self.sites:
                return None
            return self.verifier.receipt(message.receipt, sender)
        # our own delegation's chain, verified long ago; the grant itself we have signed
        root = self.verifier.chain(record.grants[0].chain[:1])[0]
        if root.site is None:
            raise Refused("untrusted", "the grant's own chain has no site")
        receipt = self.verifier.receipt(message.receipt, self.verifier.key(root.site.x))
        if (receipt.holder, receipt.reservation) != record.key:
            raise Refused("untrusted", "the receipt is for another lease")
        return receipt

    # Forgetting -------------------------------------------------------------------------------

    def woken(self, key: Key, now: int) -> None:
        if any(one is not None and one.key == key for one in self._named(key[1])):
            self._resting.look_at(key[1])
        super().woken(key, now)

    def _named(self, name: str) -> tuple[Delegation | None, Delegation | None]:
        return self.delegations.get(name), self.given.get(name)

    def _let_go(self, name: str, now: int) -> None:
        """Forget what is long over, if no ticket out of it is kept any more."""
        held, given = self._named(name)
        if given is not None and given.wake is not None and now >= given.wake:
            del self.given[name]
            self._forgotten("given", given, now)
        if held is None or held.wake is None or now < held.wake or name in self._resting:
            return
        del self.delegations[name], self._claims[name]
        left = [s for s in self.shares[held.type] if s.delegation != name]
        self.shares[held.type] = left
        if not left:
            del self.shares[held.type]
        self._forgotten("delegation", held, now)
        # a delegation that came anew had another chain: its account goes with it
        chains = {one.chain for one in self.delegations.values()}
        chains |= {grant.chain[:-1] for grant in self._grants() if grant.chain}
        known = {digest(chain[-1]) for chain in chains}
        self._roots = {claim: site for claim, site in self._roots.items() if claim in known}
        for claim in self.accounts.last_ends():
            if claim not in known:
                self.accounts.forget(claim)

    def _forgotten(self, kind: str, one: Delegation, now: int) -> None:
        self.acknowledged.pop((kind, one.key), None)
        self._note(kind, one.key, None)
        self.batch.entries.append(forgotten(one, now))

    # Delegations ------------------------------------------------------------------------------

    def granted(self) -> Mapping[str, Delegation]:
        return self.given

    def delegate(self, wanted: Delegation) -> Delegation:
        """Give a broker below us a share of what we hold, and put it out; the chain is made here.

        Doing the same again changes nothing. Raises `Refused`.
        """
        known = self.given.get(wanted.id)
        if known is not None:
            return known
        if wanted.holder.kid not in self.guests:
            raise Refused("stranger", "this broker knows no such broker", field="to")
        source = self._source_of(wanted)
        held = self.delegations[source]
        claim = Claim(
            jti=hashlib.sha256(f"{self.me.party.kid}/{wanted.id}".encode()).hexdigest()[:24],
            issuer=self.me.party.kid,
            holder=wanted.holder,
            type=wanted.type,
            units=wanted.units,
            term=wanted.term,
            digest="",
            parent=digest(held.chain[-1]),
            overbooking=wanted.overbooking,
            account=self.accounts.place(digest(held.chain[-1])),
        )
        chain: Chain = (*held.chain, self.me.sign_claim(claim))
        resource = {**held.resource, **wanted.resource}
        made = replace(wanted, chain=chain, source=source, resource=resource)
        made = pushed(replace(made, revocation=held.revocation, revoked=held.revoked))
        self.keep("given", made.key, made)
        share = self.share(source)
        if share is not None:
            share.calendar.book(made.weight, made.term)
        return self.given[made.id]

    def _source_of(self, wanted: Delegation) -> str:
        """The delegation of ours that has room for it; raises `Refused`."""
        if len(wanted.id) > NAME_CHARACTERS_MAX:
            raise Refused(
                "invalid", f"name: at most {NAME_CHARACTERS_MAX} characters", field="name"
            )
        shares = self.shares.get(wanted.type, [])
        if not shares:
            raise Refused("unknown_type", f"this broker holds no {wanted.type}", field="type")
        deep = [
            s for s in shares if len(self.delegations[s.delegation].chain) < CHAIN_LENGTH_MAX - 1
        ]
        able = [s for s in deep if self._claims[s.delegation].overbooking >= wanted.overbooking]
        free = max((s.calendar.free(wanted.term) for s in able), default=0)
        for share in able:
            if share.calendar.free(wanted.term) >= wanted.weight:
                return share.delegation
        raise Refused(
            "too_many",
            f"{wanted.units} units of {wanted.type} can not be delegated: the most that is free "
            f"during the whole term, in one delegation that allows as much overbooking, is {free}",
            field="units",
        )

    def _take_delegation(self, sender: PublicKey, message: messages.UpdateTicket, now: int) -> None:
        """A pinned site (or broker above) hands us a share; a newer snapshot replaces an older."""
        if sender.kid not in self.suppliers:
            raise Refused("stranger", "this broker takes delegations from its suppliers only")
        if message.holder != self.me.party.kid or len(message.ticket) != 1:
            raise Refused("invalid", "a delegation is one chain, for this broker")
        chain = message.ticket[0]
        claims = self.verifier.chain(chain)
        try:
            claim = check_chain(claims, claims[0].issuer)
        except Unfit as error:
            raise Refused("untrusted", str(error)) from error
        if claim.holder.kid != self.me.party.kid or claim.issuer != sender.kid:
            raise Refused("untrusted", "the claim is not from its sender to this broker")
        if claim.term.end <= now:
            raise Refused("late", "the delegation's term is over")
        held = self.delegations.get(message.rid)
        if held is not None and self._claims[held.id].issuer != sender.kid:
            raise Refused("name_taken", "another supplier's delegation has this name")
        # the supplier may have forgotten one that is over, and give another the same name
        current = held is not None and held.term.end > now
        line = held.lines.get(sender.kid, Line()) if held is not None and current else Line()
        if message.n <= line.seen:
            return
        delegation = Delegation(
            id=message.rid,
            holder=self.me.party,
            type=claim.type,
            units=claim.units,
            term=claim.term,
            chain=chain,
            overbooking=claim.overbooking,
            name=message.rid,
            resource=message.properties,
            lines={sender.kid: line.took(message.n)},
        )
        known = held.revoked if held is not None else None
        if held is not None and known is not None and known.digest == claims[0].digest:
            delegation = delegation.after(held.revocation, known)
        if message.revocation:
            said = self._revocation(claims[0], message.revocation)
            delegation = delegation.after(message.revocation, said)
        self.keep("delegation", delegation.key, delegation)
        self._open_share(delegation)
        self._restore(delegation.id)
        self._pass_on(delegation, known, now)

    def _revocation(self, root: Claim, token: str) -> Revocation:
        """What the site says of its root claim; raises `Refused` or `Untrusted`."""
        if root.site is None:
            raise Refused("untrusted", "the chain has no site")
        said = self.verifier.revocation(token, self.verifier.key(root.site.x))
        if said.digest != root.digest:
            raise Refused("untrusted", "the revocation is of another claim")
        return said

    def _pass_on(self, held: Delegation, known: Revocation | None, now: int) -> None:
        """Tell of a revocation who holds what was carved out of it (rule 14): brokers below, and
        guests, when nothing is left of it."""
        said = held.revoked
        if said is None or said == known:
            return
        for given in list(self.given.values()):
            if given.chain[:1] != held.chain[:1]:
                continue
            told = given.after(held.revocation, said)
            if told is not given:
                self.keep("given", told.key, pushed(told))
        if said.units:
            return
        event = Revoked(now=now, revocation=held.revocation, reason=held.why_revoked)
        for lease in list(self.leases.values()):
            out_of = {grant.delegation for grant in lease.grants}
            if lease.state is BrokerState.TICKETED and out_of == {held.id}:
                self.apply(lease, event, "site")


def _out_of(lease: BrokerLease | None) -> Set[str]:
    """Ids of the delegations that a lease has tickets out of."""
    if lease is None:
        return NOTHING
    return {grant.delegation for grant in lease.grants if grant.chain}
