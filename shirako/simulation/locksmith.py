"""Keys that are replaced while everything goes on, and thieves who find those that were retired.

A new key is put in place of the old one's file while the actor runs, or while it is down. It signs
with the old one until it is started again, some time later: by its operator, or because it crashed
then anyhow. Peers may be cut off from it before and after, so what the old key has signed is still
under way when the next one speaks, or comes only to those who have heard of that.

A thief has a retired key. Who has not heard of a later one can not know that, and believes it until
then (`shirako.core.lineage`). So the thief speaks to those who have: nothing of it may be taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shirako import trust
from shirako.core import messages
from shirako.core.claims import Claim
from shirako.core.lineage import SUCCESSIONS_MAX
from shirako.core.messages import Message
from shirako.core.terms import Term
from shirako.simulation.chance import Stream
from shirako.simulation.records import DelegationRecord, LineageRecord
from shirako.simulation.seats import Seat
from shirako.simulation.signatures import CastKey
from shirako.transport.envelope import seal

if TYPE_CHECKING:
    from shirako.simulation.world import World

GRACES = (0, 60, 600, 3600)
"""Ticks for which unseen statements of the key before are believed."""
RESTART_SECONDS = 40.0
CUT_OFF_SECONDS = 150.0
THEFT_SECONDS = 60.0
FUSE_STEPS = 60


class Locksmith:
    """Replaces keys, and hands retired ones to thieves."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._numbers = 0

    def replace(self, seat: Seat, how: Stream) -> None:
        """Give an actor its next key, in one of the ways in which that goes on."""
        old = seat.key
        if seat.gone or len(old.lineage) >= SUCCESSIONS_MAX or seat.hardware.jump_ms:
            return  # a key that is made by a clock that is wrong is good from then on only
        now = seat.tick()
        if old.lineage:
            now = max(now, trust.lineage_in(old.lineage).since)
        grace = how.choice(GRACES)
        seat.key = old.succeeded(now, now + grace)
        number = len(seat.key.lineage)
        self._world.facts.note(seat.name, f"gets its key {number}; {grace} s for the one before")
        self._tell_operators(seat, how)
        self._cut_off(seat, how)
        loop = self._world.loop
        match how.choice(("restart", "crash", "fuse", "already down", "later")):
            case "restart":
                loop.after(how.random() * RESTART_SECONDS, self._restart, seat, how)
            case "crash":
                seat.crash()
            case "fuse":  # it ends between any two steps, perhaps just when it comes back
                if seat.life is not None:
                    seat.life.fuse = how.randint(1, FUSE_STEPS)
                loop.after(RESTART_SECONDS, self._restart, seat, how)
            case "already down":
                seat.crash()
                seat.come_back(how.uniform(1.0, RESTART_SECONDS))
            case "later":
                loop.after(how.uniform(1.0, 4.0) * RESTART_SECONDS, self._restart, seat, how)
        if how.random() < 0.6:
            for _ in range(how.randint(1, 6)):
                loop.after(how.uniform(1.0, 4.0 * THEFT_SECONDS), self._steal, seat, old, how)

    def _restart(self, seat: Seat, how: Stream) -> None:
        """It has the new key from here on, unless it is down; then it has it when it comes back."""
        if seat.running is not None and seat.running.actor.key is not seat.key:
            seat.stop()
            seat.come_back(how.uniform(0.1, 5.0))

    def _tell_operators(self, seat: Seat, how: Stream) -> None:
        """Some peers' operators get the new public file, and have it when they start again."""
        for peer in self._world.seats.values():
            if peer is not seat and how.random() < 0.2:
                peer.pins[seat.party.kid] = seat.key.lineage

    def _cut_off(self, seat: Seat, how: Stream) -> None:
        """Some of its peers do not hear of it for a while."""
        if how.random() < 0.5:
            return
        for peer in self._world.seats.values():
            if peer is not seat and how.random() < 0.5:
                self._world.network.mute(seat.name, peer.name, how.random() * CUT_OFF_SECONDS)

    # Theft ------------------------------------------------------------------------------------

    def _steal(self, victim: Seat, old: CastKey, how: Stream) -> None:
        """Speak with a retired key to somebody who knows better."""
        if self._world.injector.over:
            return
        knowing = [
            seat
            for seat in self._world.seats.values()
            if seat is not victim and seat.life is not None and self._knows(seat, victim, old)
        ]
        if not knowing:
            return
        to = how.choice(knowing)
        if victim.part == "broker" and to.part == "site" and how.random() < 0.7:
            self._sell(victim, to, old, how)
            return
        leases = [lease for lease in to.leases() if not lease.final]
        if not leases:
            return
        lease = how.choice(leases)
        rid, kid = lease.id, lease.guest.kid
        said: Message = how.choice(
            (
                messages.Close(rid=rid, holder=kid, n=10**15, ticket=()),
                messages.Relinquish(rid=rid, holder=kid, n=10**15),
                messages.UpdateLease(rid=rid, holder=kid, n=10**15, closed=True, answers=1),
                messages.UpdateTicket(rid=rid, holder=kid, n=10**15, closed=True, answers=1),
            )
        )
        self._send(victim.name, old, to, said)

    def _knows(self, seat: Seat, victim: Seat, old: CastKey) -> bool:
        record = seat.kept.get(("lineage", (victim.party.kid, "")))
        return isinstance(record, LineageRecord) and len(record.tokens) > len(old.lineage)

    def _sell(self, broker: Seat, site: Seat, old: CastKey, how: Stream) -> None:
        """A ticket for a guest who is in it, when what the old key signs is no longer believed."""
        newer = trust.lineage_in(broker.key.lineage).successions[len(old.lineage)]
        roots = {one.chain[0] for one in site.kept.values() if isinstance(one, DelegationRecord)}
        held = [
            one
            for one in broker.kept.values()
            if isinstance(one, DelegationRecord) and not one.source and one.chain[0] in roots
        ]
        now = site.tick()
        share = how.choice(held) if held else None
        if share is None or now <= newer.until + 60 or not share.term.start <= now < share.term.end:
            return
        guest = how.choice(self._world.guests)
        self._numbers += 1
        rid = f"stolen{self._numbers}"
        self._world.wild.add((guest.party.kid, rid))
        claim = Claim(
            jti=f"of {rid}",
            issuer=broker.party.kid,
            holder=guest.party,
            type=share.type,
            units=1,
            term=Term(now, min(now + 60, share.term.end)),
            digest="",
            parent=trust.digest(share.chain[-1]),
            reservation=rid,
        )
        asked = messages.Redeem(
            rid=rid,
            holder=guest.party.kid,
            n=1,
            ticket=((*share.chain, trust.sign_claim(old, claim)),),
            slice="stolen",
            least_units=1,
        )
        self._send(guest.name, guest.key, site, asked)

    def _send(self, name: str, key: CastKey, to: Seat, said: Message) -> None:
        self._numbers += 1
        now_ms = to.hardware.followed_ms()
        envelope = seal(key, to.party.kid, now_ms + self._numbers, now_ms, [messages.encode(said)])
        self._world.network.inject(name, to.party.url, envelope)
