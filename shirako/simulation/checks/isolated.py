"""ISOLATED: nobody hears of another guest's lease, has a part in it, or gets into its units."""

from __future__ import annotations

from typing import Any, ClassVar

from shirako.simulation.checks.check import Check
from shirako.simulation.facts import Commit, Posted
from shirako.simulation.nodes import Node
from shirako.simulation.people import login_key
from shirako.simulation.records import GuestRecord, LeaseRecord, SiteRecord


class Isolated(Check):
    invariant: ClassVar[str] = "ISOLATED"

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._sites = {seat.party.kid for seat in world.sites}
        self._brokers = {seat.party.kid for seat in world.brokers}

    def posted(self, posted: Posted) -> None:
        if posted.raw:
            return
        sender = self.world.seats[posted.sender].party.kid
        for head, _ in posted.said:
            if head.holder in (sender, posted.to):
                continue
            if head.what == "Relinquish" and sender in self._sites and posted.to in self._brokers:
                continue
            key = (head.holder, head.rid)
            self.violated(key, f"{posted.sender} tells {posted.receiver} of it: {head.what}")

    def committed(self, commit: Commit) -> None:
        for _, key, old, new in commit.changes:
            if isinstance(new, LeaseRecord) and (old is None or len(old.lines) < len(new.lines)):
                for peer in new.lines:
                    if peer not in self._parties(new):
                        name = self.facts.names.get(peer, peer)
                        self.violated(key, f"{commit.actor} takes what {name} says of it")

    def _parties(self, lease: LeaseRecord) -> set[str]:
        """Who has a part in a lease."""
        if isinstance(lease, SiteRecord):
            return {lease.guest.kid, lease.broker.kid}
        if isinstance(lease, GuestRecord):
            return {lease.broker.kid, *self._sites}
        return {lease.guest.kid, *self._sites}

    def node_changed(self, node: Any, what: str, lease: str, epoch: int) -> None:
        if not isinstance(node, Node) or not what.startswith("key ") or not what.endswith("made"):
            return
        for thing, owner in node.things.items():
            if thing.kind != "key" or thing.name.startswith("trial "):
                continue
            if thing.name != login_key(owner.lease):
                self.violated(None, f"{node.name} lets a stranger in for {owner.lease}")
