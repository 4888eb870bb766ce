"""What somebody sends who has some keys and has seen some messages: nonsense, theft, forgery.

The *shadow* is a guest that no descriptor names. It has a key of its own, answers what it is sent,
and gets hold of tickets, receipts and numbers of others. Where a broker cheats it has that broker's
key as well. Other guests misuse their own keys, but never on reservations that they care for: what
somebody does to its own lease is no concern of the invariants.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

import msgspec

from shirako import trust
from shirako.core import messages
from shirako.core.claims import Chain, Claim, Party, Receipt, Ticket
from shirako.core.messages import Message
from shirako.core.terms import Term
from shirako.simulation.chance import Stream
from shirako.simulation.clocks import BASE_MS
from shirako.simulation.loop import Life
from shirako.simulation.records import DelegationRecord, GuestRecord, SiteRecord
from shirako.simulation.seats import Seat
from shirako.simulation.signatures import CastKey, key_of
from shirako.transport.envelope import acknowledge, open_envelope, seal

if TYPE_CHECKING:
    from shirako.simulation.world import World

SHADOW = "shadow"
PAUSE_SECONDS = 25.0


class Shadow:
    """The address behind the shadow's key: takes everything, and says so."""

    name = SHADOW

    def __init__(self, world: World) -> None:
        self.key = key_of(SHADOW)
        self.party: Party = trust.party_of(self.key.public, f"sim://{SHADOW}", SHADOW)
        self.life: Life | None = Life(world.loop, SHADOW, lambda: None)
        self._world = world
        world.network.listen(self.party.url, self)

    def receive(self, data: bytes) -> Coroutine[Any, Any, bytes]:
        return self._receive(data)

    async def _receive(self, data: bytes) -> bytes:
        now_ms = BASE_MS + int(self._world.loop.now * 1000)
        opened = open_envelope(data, self.party.kid, now_ms, 60_000, {})
        return acknowledge(self.key, opened.sender.kid, opened.n, now_ms, ())


class Attacker:
    """Sends by hand, past all actors."""

    def __init__(self, world: World, shadow: Shadow, source: Stream) -> None:
        self._world = world
        self._shadow = shadow
        self._source = source
        self._numbers = 0
        self._names = 0

    async def cheat(self, broker: Seat) -> None:
        """With the key of a broker that cheats: forge, from time to time."""
        while True:
            await asyncio.sleep(PAUSE_SECONDS * (0.3 + self._source.random()))
            if self._world.injector.over:
                return
            self._forge(broker)

    def bother(self, guest: Seat, how: Stream) -> None:
        """One piece of nonsense, from a guest or from the shadow."""
        doing = how.choice(
            (
                self._rubbish,
                self._strange_envelope,
                self._unknown_id,
                self._steal,
                self._steal,
                self._meddle,
                self._meddle,
                self._false_answer,
                self._false_receipt,
                self._wrong_numbers,
            )
        )
        doing(guest, how)

    # Sending ----------------------------------------------------------------------------------

    def _send(self, name: str, key: CastKey, to: Party, *said: Message | bytes) -> None:
        encoded = [m if isinstance(m, bytes) else messages.encode(m) for m in said]
        self._world.network.inject(name, to.url, self._sealed(key, to, encoded))

    def _sealed(self, key: CastKey, to: Party, encoded: list[bytes], late_ms: int = 0) -> bytes:
        self._numbers += 1
        now_ms = BASE_MS + int(self._world.loop.now * 1000) - late_ms
        return seal(key, to.kid, now_ms + self._numbers, now_ms, encoded)

    def _anybody(self, how: Stream) -> Party:
        seats = [seat.party for seat in self._world.seats.values()]
        return how.choice(seats)

    def _site(self, how: Stream) -> Seat:
        return how.choice(self._world.sites)

    def _new_id(self) -> str:
        self._names += 1
        return f"x{self._names}"

    # Nonsense ---------------------------------------------------------------------------------

    def _rubbish(self, guest: Seat, how: Stream) -> None:
        """Bytes that are no envelope, or one whose signature does not hold."""
        to = self._anybody(how)
        good = self._sealed(guest.key, to, [b"{}"])
        at = how.randrange(len(good) - 1)
        other = b"A" if good[at : at + 1] != b"A" else b"B"
        bad = how.choice(
            (b"", b"\xff\xfe", b"a.b.c", good[:at], good[:at] + other + good[at + 1 :])
        )
        self._world.network.inject(guest.name, to.url, bad)

    def _strange_envelope(self, guest: Seat, how: Stream) -> None:
        """For somebody else, of another time, or full of what nobody understands."""
        to, other = self._anybody(how), self._anybody(how)
        kind = how.choice(("audience", "stale", "early", "unknown", "deep"))
        if kind == "audience":
            envelope = self._sealed(guest.key, other, [b"{}"])
        elif kind == "stale":
            envelope = self._sealed(guest.key, to, [], late_ms=how.randint(60_000, 9_000_000))
        elif kind == "early":
            envelope = self._sealed(guest.key, to, [], late_ms=-how.randint(60_000, 9_000_000))
        elif kind == "unknown":
            said = [b'{"is":"Sing","rid":"r1","holder":"me"}', b"[1,2,3]", b'{"is":"Close"}']
            envelope = self._sealed(guest.key, to, said)
        else:
            envelope = self._sealed(guest.key, to, [b"[" * 5000 + b"]" * 5000])
        self._world.network.inject(guest.name, to.url, envelope)

    def _unknown_id(self, guest: Seat, how: Stream) -> None:
        """About reservations that were never made."""
        rid, kid = self._new_id(), guest.party.kid
        n = how.choice((0, 1, 2, 10**12, -1))
        said: Message = how.choice(
            (
                messages.ExtendTicket(rid=rid, holder=kid, n=n, end=1, least_end=1),
                messages.Relinquish(rid=rid, holder=kid, n=n),
                messages.Close(rid=rid, holder=kid, n=n, ticket=()),
                messages.Redeem(rid=rid, holder=kid, n=n, ticket=(), slice="s", least_units=1),
                messages.ExtendLease(rid=rid, holder=kid, n=n, ticket=(("a.b.c",),)),
                messages.UpdateLease(rid=rid, holder=kid, n=n, closed=True),
                messages.UpdateTicket(rid=rid, holder=kid, n=n, closed=True),
                messages.Failed(rid=rid, holder=kid, n=n, answers=1, code="no", reason="no"),
            )
        )
        self._world.wild.add((kid, rid))
        self._send(guest.name, guest.key, self._anybody(how), said)

    def _wrong_numbers(self, guest: Seat, how: Stream) -> None:
        """A request of its own by hand, whose numbers and repetitions make no sense."""
        rid, kid = self._new_id(), guest.party.kid
        broker = how.choice(self._world.brokers)
        now = broker.tick()
        start = now + how.choice((-100, 0, 50))
        asked = messages.TicketRequest(
            rid=rid,
            holder=kid,
            n=how.choice((1, 5, 10**9)),
            guest=guest.party,
            slice="nonsense",
            type=how.choice(("small", "large", "none")),
            units=how.choice((1, 2, 1000)),
            least_units=how.choice((0, 1, 2)),
            term=Term(start, start + how.choice((1, 60, 10**7))),
        )
        later = messages.ExtendTicket(rid=rid, holder=kid, n=asked.n - 1, end=now, least_end=now)
        back = messages.Relinquish(rid=rid, holder=kid, n=asked.n + how.choice((0, 1)))
        self._world.wild.add((kid, rid))
        self._send(guest.name, guest.key, broker.party, asked, later, asked, back)

    # Theft ------------------------------------------------------------------------------------

    def _steal(self, guest: Seat, how: Stream) -> None:
        """Spend, extend with, or void somebody else's ticket."""
        victim = self._with_ticket(how)
        if victim is None:
            return
        thief, name = (self._shadow.key, SHADOW) if how.random() < 0.5 else (guest.key, guest.name)
        if thief.public.kid == victim.guest.kid:
            return
        holder = thief.public.kid if how.random() < 0.8 else victim.guest.kid
        ticket: Ticket = victim.ticket
        said: Message = how.choice(
            (
                messages.Redeem(
                    rid=victim.id, holder=holder, n=9, ticket=ticket, slice="s", least_units=1
                ),
                messages.Close(rid=victim.id, holder=holder, n=9, ticket=ticket),
                messages.ExtendLease(rid=victim.id, holder=holder, n=9, ticket=ticket),
            )
        )
        self._send(name, thief, self._site(how).party, said)

    def _meddle(self, guest: Seat, how: Stream) -> None:
        """Change, close or give back what is somebody else's."""
        victim = self._record(how, GuestRecord)
        if victim is None or victim.guest.kid == guest.party.kid:
            return
        rid, kid = victim.id, victim.guest.kid
        end = victim.term.end + 100
        said: Message = how.choice(
            (
                messages.Close(rid=rid, holder=kid, n=99, ticket=()),
                messages.ExtendTicket(rid=rid, holder=kid, n=99, end=end, least_end=end),
                messages.Relinquish(rid=rid, holder=kid, n=99),
                messages.Redeem(rid=rid, holder=kid, n=99, ticket=(), slice="s", least_units=1),
            )
        )
        to = how.choice((*self._world.sites, *self._world.brokers))
        self._send(guest.name, guest.key, to.party, said)

    def _false_answer(self, guest: Seat, how: Stream) -> None:
        """In the name of nobody who could say so: an answer to somebody else's lease."""
        victim = self._record(how, GuestRecord)
        if victim is None or victim.guest.kid == guest.party.kid:
            return
        rid, kid = victim.id, victim.guest.kid
        said: Message = how.choice(
            (
                messages.UpdateLease(rid=rid, holder=kid, n=99, closed=True, answers=1),
                messages.UpdateTicket(rid=rid, holder=kid, n=99, closed=True, answers=1),
                messages.Failed(rid=rid, holder=kid, n=99, answers=1, code="no", reason="no"),
            )
        )
        to = self._world.seats[self._world.facts.names[kid]].party
        self._send(guest.name, guest.key, to, said)

    def _false_receipt(self, guest: Seat, how: Stream) -> None:
        """A receipt that the thief has written itself, or that is another lease's."""
        victim = self._record(how, SiteRecord)
        if victim is None:
            return
        other = self._record(how, SiteRecord)
        receipt = other.receipt if other is not None and other.key != victim.key else ""
        if not receipt:
            forged = Receipt(
                jti="forged",
                issuer=how.choice((self._world.sites[0].party.kid, guest.party.kid)),
                holder=victim.guest.kid,
                reservation=victim.id,
                claims=tuple(spent.jti for spent in victim.spent),
                units_freed=victim.units,
                tick=self._world.sites[0].tick() - 100,
                redeemed=True,
                final=True,
            )
            receipt = trust.sign_receipt(guest.key, forged)
        said = messages.Relinquish(
            rid=victim.id, holder=victim.guest.kid, n=how.choice((1, 99)), receipt=receipt
        )
        if guest.party.kid == victim.guest.kid:
            return
        self._send(guest.name, guest.key, how.choice(self._world.brokers).party, said)

    def _with_ticket(self, how: Stream) -> GuestRecord | None:
        """Somebody's lease with a ticket, best one that no site has seen yet."""
        found = [
            record
            for seat in self._world.guests
            for record in seat.leases()
            if isinstance(record, GuestRecord) and record.ticket
        ]
        fresh = [r for r in found if all(site.lease(r.key) is None for site in self._world.sites)]
        found = fresh or found
        return how.choice(found) if found else None

    def _record(self, how: Stream, kind: type[Any]) -> Any:
        """Some lease that somebody has."""
        part = "guest" if kind is GuestRecord else "site"
        found = [
            record
            for seat in self._world.seats.values()
            if seat.part == part
            for record in seat.leases()
        ]
        return how.choice(found) if found else None

    # Forgery ----------------------------------------------------------------------------------

    def _forge(self, broker: Seat) -> None:
        """A ticket for the shadow, of the broker's making, good or bad."""
        source = self._source
        held = [
            record
            for (kind, _), record in broker.kept.items()
            if kind == "delegation" and isinstance(record, DelegationRecord)
        ]
        if not held:
            return
        share = source.choice(held)
        site = self._site_of(share)
        rid = self._new_id()
        now = site.tick()
        term = Term(
            max(now, share.term.start),
            max(min(now + source.randint(30, 300), share.term.end), now + 1),
        )
        units = source.randint(1, share.units)
        end = self._end_of_a_lease(site, share) if source.random() < 0.3 else None
        if end is not None:  # whoever extends that lease finds that all of it was sold
            term, units = Term(end, min(end + 200, share.term.end)), share.units
        claim = Claim(
            jti=f"forged {rid}",
            issuer=broker.party.kid,
            holder=self._shadow.party,
            type=share.type,
            units=units,
            term=term,
            digest="",
            parent=trust.digest(share.chain[-1]),
            reservation=rid,
        )
        chain = source.choice(self._forgeries())(claim, share, broker)
        asked: Message = messages.Redeem(
            rid=rid,
            holder=self._shadow.party.kid,
            n=1,
            ticket=(chain,),
            slice="shadow",
            least_units=1,
        )
        self._send(SHADOW, self._shadow.key, site.party, asked)
        if source.random() < 0.5:
            again = msgspec.structs.replace(asked, rid=self._new_id())
            self._send(SHADOW, self._shadow.key, site.party, again)

    def _end_of_a_lease(self, site: Seat, share: DelegationRecord) -> int | None:
        """When a lease that rests on this delegation ends, if there is any that may be extended."""
        root = trust.digest(share.chain[0])
        ends = [
            lease.term.end
            for lease in site.leases()
            if isinstance(lease, SiteRecord) and lease.state == "Active"
            if any(spent.ancestors[0].digest == root for spent in lease.spent)
            if lease.term.end < share.term.end
        ]
        return self._source.choice(ends) if ends else None

    def _site_of(self, share: DelegationRecord) -> Seat:
        return next(
            site
            for site in self._world.sites
            if any(
                isinstance(record, DelegationRecord) and record.chain[0] == share.chain[0]
                for record in site.kept.values()
            )
        )

    def _forgeries(self) -> tuple[Callable[[Claim, DelegationRecord, Seat], Chain], ...]:
        """Ways to make a chain; some are good ones that the broker has not booked."""
        change = msgspec.structs.replace

        def good(claim: Claim, share: DelegationRecord, broker: Seat) -> Chain:
            return (*share.chain, trust.sign_claim(broker.key, claim))

        def changed(**changes: Any) -> Callable[[Claim, DelegationRecord, Seat], Chain]:
            return lambda claim, share, broker: good(change(claim, **changes), share, broker)

        def wide(claim: Claim, share: DelegationRecord, broker: Seat) -> Chain:
            return good(change(claim, units=share.units * 2 + 1), share, broker)

        def long(claim: Claim, share: DelegationRecord, broker: Seat) -> Chain:
            term = Term(claim.term.start, share.term.end + 1)
            return good(change(claim, term=term), share, broker)

        def known(claim: Claim, share: DelegationRecord, broker: Seat) -> Chain:
            """The number of a claim that was issued before, perhaps void by now."""
            spent = [
                s.jti
                for site in self._world.sites
                for r in site.leases()
                if isinstance(r, SiteRecord)
                for s in r.spent
            ]
            jti = self._source.choice(spent) if spent else claim.jti
            return good(change(claim, jti=jti), share, broker)

        def by_another(claim: Claim, share: DelegationRecord, _broker: Seat) -> Chain:
            return (*share.chain, trust.sign_claim(self._shadow.key, claim))

        def altered(claim: Claim, share: DelegationRecord, broker: Seat) -> Chain:
            chain = good(claim, share, broker)
            at = self._source.randrange(len(chain[-1]) - 2)
            other = "A" if chain[-1][at] != "A" else "B"
            return (*chain[:-1], chain[-1][:at] + other + chain[-1][at + 1 :])

        def own_root(claim: Claim, share: DelegationRecord, broker: Seat) -> Chain:
            root = change(
                claim,
                jti=share.id,
                holder=broker.party,
                parent="",
                reservation="",
                site=self._shadow.party,
                issuer=self._shadow.party.kid,
                units=share.units,
            )
            token = trust.sign_claim(self._shadow.key, root)
            leaf = change(claim, parent=trust.digest(token))
            return (token, trust.sign_claim(broker.key, leaf))

        def through_another(claim: Claim, share: DelegationRecord, broker: Seat) -> Chain:
            """By way of a claim to the shadow as a broker, which it then exceeds."""
            middle = change(claim, reservation="", units=1)
            token = trust.sign_claim(broker.key, middle)
            leaf = change(
                claim,
                jti=f"{claim.jti} leaf",
                issuer=self._shadow.party.kid,
                parent=trust.digest(token),
                units=self._source.choice((1, 2)),
                overbooking=self._source.choice((1.0, 2.0)),
            )
            return (*share.chain, token, trust.sign_claim(self._shadow.key, leaf))

        return (
            good,
            good,
            good,
            known,
            known,
            wide,
            long,
            by_another,
            altered,
            own_root,
            through_another,
            changed(type="large"),
            changed(parent="0" * 64),
            changed(parent=""),
            changed(reservation=""),
            changed(extends="something"),
            changed(overbooking=9.0),
        )
