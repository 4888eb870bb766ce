"""The service manager: acts for a guest, between its wishes, a broker and the sites.

It believes a ticket because a pinned broker signed it, and a site because the ticket's own chain
starts at that site's key. Whatever does not fit what was asked for is refused, and told.
"""

from __future__ import annotations

import logging
import math
from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace

from shirako.actors.role import Refused, Role
from shirako.core import guest as machine
from shirako.core import messages
from shirako.core.claims import Claim, Party, Ticket, Unfit, check_chain
from shirako.core.guest import Consider, GuestLease, GuestState
from shirako.core.machine import Event, Key, Me
from shirako.core.messages import RESTORED, Message
from shirako.core.policy import Demand, End, Extend, GoOn, Wait
from shirako.core.terms import Term
from shirako.core.tickets import worth
from shirako.transport.envelope import Refusal
from shirako.trust import PublicKey

POLICY_PAUSE_TICKS = 60
"""When to ask a policy again that broke."""

_AT_SITE = (
    GuestState.REDEEMING,
    GuestState.LEASED,
    GuestState.JOINING,
    GuestState.ACTIVE,
    GuestState.EXTENDING_TICKET,
    GuestState.ACTIVE_TICKETED,
    GuestState.LEAVING,
)
"""States in which the site has the ticket, and there is no end of the lease yet."""

log = logging.getLogger(__name__)


class ServiceManager(Role[GuestLease]):
    title = "service-manager"
    kinds: ClassVar[dict[str, type[msgspec.Struct]]] = {"lease": GuestLease}

    def __init__(
        self,
        me: Me,
        brokers: dict[str, Party],
        policy: Demand,
        *,
        joins: bool,
        lead: int = 2,
    ) -> None:
        """`joins`: guest drivers are there to join units; `lead`: ticks to act ahead of an end."""
        super().__init__(me, machine.TABLE, dict(brokers))
        self.brokers = brokers
        self.policy = policy
        self.joins = joins
        self.lead = lead

    def learn(self, record: GuestLease) -> None:
        super().learn(record)
        self.parties.setdefault(record.broker.kid, record.broker)
        if record.site is not None:
            self.parties.setdefault(record.site.kid, record.site)

    def last_end(self, record: GuestLease) -> int:
        if record.receipt or not record.ticket:
            return 0  # nothing: the site has voided it, or there never was a ticket
        return max(record.term.end, record.extended.end if record.extended else 0)

    # Commands ---------------------------------------------------------------------------------

    def request(self, lease: GuestLease, now: int, by: str) -> GuestLease:
        """Begin a lease; the same id again is the same lease (idempotent)."""
        known = self.leases.get(lease.key)
        if known is not None:
            return known
        self.check_room()
        return self.apply(replace(lease, joins=self.joins), machine.Requested(now=now), by)

    def extend(self, key: Key, end: int, least_end: int, now: int, by: str) -> GuestLease:
        """Ask for a later end; raises `Refused` when the lease is in no state to be extended."""
        lease = self._find(key)
        if end <= lease.term.end:
            raise Refused(
                "shortens",
                f"the lease already lasts until tick {lease.term.end}: an extension never shortens",
                field="end",
            )
        if lease.state is not GuestState.ACTIVE:
            raise Refused("busy", f"the lease is {lease.state.value}, not Active", retry=True)
        event = machine.ExtendAsked(now=now, end=end, least_end=least_end)
        return self.apply(lease, event, by)

    def close(self, key: Key, reason: str, now: int, by: str) -> GuestLease:
        """End a lease; closing again changes nothing."""
        lease = self._find(key)
        ending = (GuestState.CANCELLING, GuestState.LEAVING, GuestState.CLOSE_WAIT)
        if lease.state.final or lease.state in ending:
            return lease
        return self.apply(lease, machine.CloseAsked(now=now, reason=reason), by)

    def set_renew(self, key: Key, renew: bool) -> GuestLease:
        lease = replace(self._find(key), renew=renew)
        self.keep("lease", key, lease)
        return lease

    def _find(self, key: Key) -> GuestLease:
        lease = self.leases.get(key)
        if lease is None:
            raise Refused("unknown", "there is no such lease")
        return lease

    # Demand -----------------------------------------------------------------------------------

    def carry_out(self, key: Key, effect: Any, now: int) -> None:
        if isinstance(effect, Consider) and self.held:
            self.keep("lease", key, replace(self.leases[key], wake=now))  # due when the hold ends
        elif isinstance(effect, Consider):
            self._consider(key, now)

    def _consider(self, key: Key, now: int) -> None:
        lease = self.leases[key]
        event: Event
        match self._decide(lease, now):
            case GoOn():
                event = machine.Unblocked(now=now)
            case Wait() if now >= lease.term.end:
                # nothing is left to wait for, whatever the policy hopes (ENDS)
                event = machine.CloseAsked(now=now, reason="the term is over")
            case Wait(until=until):
                event = machine.WakeLater(now=now, tick=max(until, now + 1))
            case Extend(end=end):
                event = machine.ExtendAsked(now=now, end=end, least_end=end)
            case End(reason=reason):
                event = machine.CloseAsked(now=now, reason=reason)
        self.apply(lease, event, "policy")

    def _lead(self, lease: GuestLease) -> int:
        """Ticks to act ahead of an end: more, where the site's clock is ahead of ours."""
        ahead_ms = self.skews_ms.get(lease.site.kid, 0) if lease.site else 0
        return self.lead + max(math.ceil(ahead_ms / 1000), 0)

    def _decide(self, lease: GuestLease, now: int) -> GoOn | Wait | Extend | End:
        """The policy's decision, or a pause when it breaks or says what makes no sense."""
        try:
            decision = self.policy.decide(lease, now, self._lead(lease))
        except Exception:
            log.exception("the demand policy broke on lease %s", lease.id)
            return Wait(now + POLICY_PAUSE_TICKS)
        meaning = {GoOn: machine.Unblocked, Extend: machine.ExtendAsked}.get(type(decision))
        if meaning is not None and (lease.state, meaning) not in self.table:
            log.error("the demand policy wants %s in %s", decision, lease.state.value)
            return Wait(now + POLICY_PAUSE_TICKS)
        return decision

    # After a restore --------------------------------------------------------------------------

    def ask_around(self, now: int) -> None:
        for lease in list(self.leases.values()):
            self._ask_broker_again(lease, now)
            self._ask_site_again(self.leases[lease.key], now)

    def said_again(self, sender: PublicKey, record: GuestLease, message: Message, now: int) -> bool:
        if not isinstance(message, messages.Failed) or message.code != RESTORED:
            return False
        self.keep("lease", record.key, record)
        if record.site is not None and sender.kid == record.site.kid:
            self._ask_site_again(record, now)
        return True

    def _ask_broker_again(self, lease: GuestLease, now: int) -> None:
        match lease.state:
            case GuestState.TICKETING:
                asked = machine.ask_ticket(lease, machine.Requested(now=now), self.me)
            case GuestState.CANCELLING:
                asked = machine.cancel(lease, machine.CloseAsked(now=now, reason=""), self.me)
            case GuestState.EXTENDING_TICKET if lease.answer is not None:
                end = lease.answer.asked_end
                event = machine.ExtendAsked(now=now, end=end, least_end=end)
                asked = machine.ask_extension(lease, event, self.me)
            case _:
                return
        self._say_as(lease, asked.record)

    def _ask_site_again(self, lease: GuestLease, now: int) -> None:
        """Redeem once more what is a lease already: the site's snapshot is the answer, and what
        the site has forgotten is in the ticket."""
        match lease.state:
            case GuestState.EXTENDING_LEASE:
                asked = machine.redeem_extension(lease, machine.Unblocked(now=now), self.me)
            case GuestState.CLOSE_WAIT:
                event = machine.CloseAsked(now=now, reason=lease.closing)
                asked = machine.close(lease, event, self.me)
            case state if state in _AT_SITE:
                asked = machine.redeem(lease, machine.Unblocked(now=now), self.me)
            case _:
                return
        self._say_as(lease, asked.record)

    def _say_as(self, lease: GuestLease, asked: GuestLease) -> None:
        """Say what a step says, and leave all else as it is."""
        self.keep("lease", lease.key, replace(self.leases[lease.key], lines=asked.lines))

    # Messages ---------------------------------------------------------------------------------

    def newcomer(self, sender: PublicKey, message: Message, now: int) -> GuestLease | None:
        if isinstance(message, messages.UpdateLease | messages.UpdateTicket | messages.Failed):
            return None  # of a lease that is long over: taken, so that it is not sent again
        raise Refused("unexpected", f"a service manager takes no {type(message).__name__}")

    def admit(self, sender: PublicKey, record: GuestLease, message: Message) -> None:
        site = record.site.kid if record.site else ""
        if sender.kid not in (record.broker.kid, site):
            raise Refused("stranger", "neither this lease's broker nor its site")

    def event_of(self, sender: PublicKey, record: GuestLease, message: Message, now: int) -> Event:
        from_broker = sender.kid == record.broker.kid
        match message:
            case messages.UpdateTicket() if from_broker:
                return self._ticket_updated(record, message, now)
            case messages.UpdateLease() if not from_broker:
                return self._lease_updated(sender, record, message, now)
            case messages.Failed():
                if message.answers != record.lines[sender.kid].sent:
                    raise Refused("stale", "it answers a request that another one has replaced")
                meaning = machine.Denied if from_broker else machine.Refused
                return meaning(now=now, message=message)
        raise Refused("unexpected", f"no {type(message).__name__} is due from this sender")

    def _ticket_updated(
        self, record: GuestLease, message: messages.UpdateTicket, now: int
    ) -> machine.TicketUpdated:
        if not message.ticket:
            if message.answers and not message.closed and not message.revocation:
                raise Refused("invalid", "a ticket without any claim")
            return machine.TicketUpdated(now=now, message=message)
        claims = self._read_ticket(record, message.ticket)
        units, term = worth([chain[-1] for chain in claims])
        if record.state is GuestState.EXTENDING_TICKET:
            if term.start != record.term.end:
                return machine.TicketUpdated(now=now, message=message)  # of an older request
            term = Term(record.term.start, term.end)
        return machine.TicketUpdated(
            now=now,
            message=message,
            site=claims[0][0].site,
            term=term,
            units=units,
            revoked=self._revoked(claims, message.revocation) if message.revocation else "",
        )

    def _revoked(self, claims: list[tuple[Claim, ...]], token: str) -> str:
        """Why a ticket is worth nothing any more, in the words of its site; empty: it is not so.

        Raises `Refused` or `Untrusted` for a revocation of something else.
        """
        root = claims[0][0]
        if root.site is None:
            raise Refused("unfit", "the ticket's chain has no site")
        said = self.verifier.revocation(token, self.verifier.key(root.site.x))
        if any(chain[0].digest != said.digest for chain in claims):
            raise Refused("unfit", "the revocation is of another claim")
        if said.units:
            return ""
        return "the site has revoked what the ticket rests on" + (
            f": {said.reason}" if said.reason else ""
        )

    def _read_ticket(self, record: GuestLease, ticket: Ticket) -> list[tuple[Claim, ...]]:
        """The chains of a ticket, if it is ours, from our broker, and what we asked for."""
        chains = []
        for tokens in ticket:
            claims = self.verifier.chain(tokens)
            try:
                leaf = check_chain(claims, claims[0].issuer)
            except Unfit as error:
                raise Refused("unfit", str(error)) from error
            if leaf.holder.kid != self.me.party.kid or leaf.reservation != record.id:
                raise Refused("unfit", "the ticket is not for us or not for this lease")
            if leaf.issuer != record.broker.kid:
                raise Refused("unfit", "the ticket is not issued by the broker that was asked")
            chains.append(claims)
        try:
            units, _ = worth([chain[-1] for chain in chains])
        except Unfit as error:
            raise Refused("unfit", str(error)) from error
        fits = record.least_units <= units <= record.asked_units
        if any(chain[-1].type != record.type for chain in chains) or not fits:
            raise Refused("unfit", "the ticket is on another type or number of units")
        if len({chain[0].issuer for chain in chains}) > 1:
            raise Refused("unfit", "the ticket is on units of several sites")
        return chains

    def _lease_updated(
        self,
        sender: PublicKey,
        record: GuestLease,
        message: messages.UpdateLease,
        now: int,
    ) -> machine.LeaseUpdated:
        if message.receipt:
            receipt = self.verifier.receipt(message.receipt, sender)
            if (receipt.holder, receipt.reservation) != record.key:
                raise Refused("untrusted", "the receipt is for another lease")
        if not message.lease:
            return machine.LeaseUpdated(now=now, message=message)
        lease = self.verifier.lease(message.lease, sender)
        if (lease.holder, lease.reservation) != record.key:
            raise Refused("untrusted", "the lease is somebody else's")
        return machine.LeaseUpdated(now=now, message=message, term=lease.term)

    def undeliverable(
        self, kind: str, key: Key, peer: str, message: Message, why: Refusal, now: int
    ) -> None:
        """A refused message is a refusal like any other; one that answers nothing is dropped."""
        super().undeliverable(kind, key, peer, message, why, now)
        lease = self.leases.get(key)
        if lease is None or lease.lines[peer].sent != message.n:
            return
        failed = messages.Failed(
            rid=message.rid,
            holder=message.holder,
            answers=message.n,
            code=why.code,
            reason=why.reason,
            conflict=why.conflict,
        )
        meaning = machine.Denied if peer == lease.broker.kid else machine.Refused
        if (lease.state, meaning) in self.table:
            self.apply(lease, meaning(now=now, message=failed), self.name_of(peer))
