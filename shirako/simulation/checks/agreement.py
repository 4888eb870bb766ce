"""DURABLE, between actors: once all is well again, the three of them say the same of every lease.

Judged when faults have been over for `world.SETTLING_SECONDS`: every message that mattered has had
the time to arrive. A guest that is gone agrees with nobody.
"""

from __future__ import annotations

from typing import Any, ClassVar

from shirako.simulation.checks.check import Check
from shirako.simulation.facts import Commit, Posted
from shirako.simulation.records import (
    BrokerRecord,
    GuestRecord,
    Key,
    RefusalRecord,
    SiteRecord,
    read_receipt,
)
from shirako.simulation.seats import SKEW, Seat
from shirako.simulation.signatures import payload_of

ARRIVAL_SECONDS = 60.0


class Agreement(Check):
    invariant: ClassVar[str] = "DURABLE"

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._changed: dict[Key, float] = {}
        """When anybody last committed something of a lease."""
        self._expired: set[Key] = set()
        """Leases whose ticket their site did not even take back: its key was replaced."""

    def committed(self, commit: Commit) -> None:
        """A guest never calls a lease closed because the site does not answer."""
        for _, key, old, new in commit.changes:
            self._changed[key] = self.world.loop.now
            if not isinstance(new, GuestRecord) or not new.final or not new.ticket:
                continue
            if new.receipt or (old is not None and old.final):
                continue
            if key in self._expired or self._forgotten_by(key, "site", "guest"):
                continue
            if commit.tick < new.term.end - SKEW:
                self.violated(key, f"the guest says {new.state}, and has no receipt")

    def acknowledged(self, posted: Posted, refused: dict[int, RefusalRecord]) -> None:
        """What is not believed any more is worth nothing to anybody until its term is over."""
        for index, refusal in refused.items():
            head, _ = posted.said[index]
            if refusal.code == "retired" and head.what == "Close":
                self._expired.add((head.holder, head.rid))

    def healed(self) -> None:
        for site in self.world.sites:
            for lease in site.leases():
                if isinstance(lease, SiteRecord) and self._is_at_rest(lease.key):
                    self._check_site_lease(site, lease)
        for broker in self.world.brokers:
            for lease in broker.leases():
                if isinstance(lease, BrokerRecord) and self._is_at_rest(lease.key):
                    self._check_capacity(broker, lease)

    def _is_at_rest(self, key: Key) -> bool:
        """Whether what was said of a lease last has had the time to arrive."""
        return self.world.loop.now - self._changed.get(key, 0.0) > ARRIVAL_SECONDS

    def _check_site_lease(self, site: Seat, lease: SiteRecord) -> None:
        """What the site says is over is over at the broker and at the guest."""
        guest = self._seat(lease.guest.kid)
        held = guest.lease(lease.key) if guest is not None and not guest.gone else None
        if self._forgotten_by(lease.key, "site", "guest"):
            held = None  # who was restored may learn of it only when the term is over
        if lease.final and isinstance(held, GuestRecord) and not held.final:
            self.violated(lease.key, f"{site.name} says {lease.state}, the guest {held.state}")
        given_up = isinstance(held, GuestRecord) and held.final and not lease.final
        if given_up and site.tick() < lease.term.end - 2 * SKEW:
            self.violated(lease.key, f"the guest has ended it, {site.name} says {lease.state}")
        payload = payload_of(lease.receipt) if lease.receipt else None
        broker = self._seat(lease.broker.kid)
        if payload is None or broker is None or broker.name in self.world.cheats:
            return
        receipt = read_receipt(payload)
        split = self.world.restorer.split | self.world.restorer.unfollowed
        if self._forgotten_by(lease.key, "broker") or any(
            posting.parent in split for posting in receipt.postings
        ):
            return  # with nothing to show for it, it would seem to sell it twice (rule 3)
        stuck = len(receipt.failed_units)
        sold = broker.lease(lease.key)
        if isinstance(sold, BrokerRecord):
            for grant in sold.grants:
                # an extension that the site never saw is in no receipt, and stays sold
                if grant.jti not in receipt.claims:
                    continue
                if grant.units > stuck and grant.term.end > broker.tick() + SKEW:
                    self.violated(lease.key, f"{broker.name} has not freed what {site.name} has")

    def _check_capacity(self, broker: Seat, lease: BrokerRecord) -> None:
        """What nobody holds and nobody can spend is for sale again."""
        guest = self._seat(lease.guest.kid)
        if guest is None or guest.gone or broker.name in self.world.cheats:
            return
        if lease.key in self.world.wild or lease.key in self._expired:
            return
        if self._forgotten_by(lease.key, "site", "broker", "guest"):
            return
        if any(site.lease(lease.key) is not None for site in self.world.sites):
            return  # judged by what that site says
        held = guest.lease(lease.key)
        if isinstance(held, GuestRecord) and not held.final:
            return
        if any(grant.term.end > broker.tick() + SKEW for grant in lease.grants):
            self.violated(lease.key, f"it is over, and {broker.name} keeps its units")

    def _forgotten_by(self, key: Key, *parts: str) -> bool:
        """Whether one of these was restored, and has lost something of the lease."""
        seats = [seat for seat in self.world.seats.values() if seat.part in parts]
        return self.world.restorer.has_forgotten(seats, key)

    def _seat(self, kid: str) -> Seat | None:
        return self.world.seats.get(self.facts.names.get(kid, ""))
