"""ROOTED: what a site has taken back is nobody's to have.

Once the revocation of a root claim is committed, nothing more is redeemed or extended below it than
it leaves (rule 14); once a unit is drained, no lease gets it; and a broker that has heard of a
revocation sells nothing of what is gone. What is done and taken back in one commit has no order
that could be seen from here: it is held against what was said before and after.
"""

from __future__ import annotations

from typing import Any, ClassVar

from shirako.simulation.checks.check import CLOCK_SECONDS, Check
from shirako.simulation.checks.spans import Span, most
from shirako.simulation.facts import Commit, Restoration
from shirako.simulation.records import (
    BrokerRecord,
    DelegationRecord,
    Key,
    SiteRecord,
    SpentRecord,
    UnitRecord,
    read_revocation,
    spent_in,
)
from shirako.simulation.signatures import payload_of
from shirako.trust import digest


class Withdrawn(Check):
    invariant: ClassVar[str] = "ROOTED"
    parts: ClassVar[tuple[str, ...]] = ("site", "broker")

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._left: dict[str, int] = {}
        """Digest of a root claim -> units that may be redeemed below it."""
        self._spent: dict[str, dict[tuple[Key, str], Span]] = {}
        """Digest of a root claim -> what is redeemed below it."""
        self._drained: set[tuple[str, str]] = set()
        """(site, unit)"""
        self._gone: set[tuple[str, str]] = set()
        """(broker, delegation) of which it knows that nothing is left."""

    def committed(self, commit: Commit) -> None:
        before, drained, gone = dict(self._left), set(self._drained), set(self._gone)
        for _, _, _, new in commit.changes:
            if isinstance(new, DelegationRecord):
                self._hear(commit.actor, commit.part, new)
            elif isinstance(new, UnitRecord):
                where = (commit.actor, new.name)
                (self._drained.add if new.drained else self._drained.discard)(where)
        left = {
            root: max(units, before[root]) for root, units in self._left.items() if root in before
        }
        drained &= self._drained
        gone &= self._gone
        for _, key, old, new in commit.changes:
            if isinstance(new, SiteRecord):
                self._check_redeemed(commit, key, old, new, left)
                self._check_units(commit, key, old, new, drained)
            elif isinstance(new, BrokerRecord) and commit.actor not in self.world.cheats:
                self._check_sold(commit, key, old, new, gone)

    def restored(self, restoration: Restoration) -> None:
        """What the actor was told after the backup it does not know of any more."""
        actor, after = restoration.actor, restoration.after.values()
        self._drained = {where for where in self._drained if where[0] != actor}
        self._gone = {where for where in self._gone if where[0] != actor}
        for record in restoration.before.values():
            if isinstance(record, DelegationRecord) and restoration.part == "site":
                self._left.pop(digest(record.chain[0]), None)
        for record in after:
            if isinstance(record, UnitRecord) and record.drained:
                self._drained.add((actor, record.name))
            elif isinstance(record, DelegationRecord):
                self._hear(actor, restoration.part, record)
        if restoration.part == "site":
            for key, spent in spent_in(restoration.before) - spent_in(restoration.after):
                self._spent.get(spent.ancestors[0].digest, {}).pop((key, spent.jti), None)

    def _hear(self, actor: str, part: str, new: DelegationRecord) -> None:
        if not new.revocation:
            return
        payload = payload_of(new.revocation)
        if payload is None:
            self.violated(None, f"{actor} believes a revocation that nobody has signed")
            return
        said = read_revocation(payload)
        if said.digest != digest(new.chain[0]):
            self.violated(None, f"{actor} believes a revocation of another claim")
        elif part == "site":
            self._left[said.digest] = int(said.units * new.overbooking)
        else:
            where = (actor, new.id)
            (self._gone.discard if said.units else self._gone.add)(where)

    def _check_redeemed(
        self,
        commit: Commit,
        key: Key,
        old: SiteRecord | None,
        new: SiteRecord,
        left: dict[str, int],
    ) -> None:
        known = {spent.jti for spent in old.spent} if old is not None else set()
        for spent in new.spent:
            if new.final:
                self._spent.get(spent.ancestors[0].digest, {}).pop((key, spent.jti), None)
            elif spent.jti not in known:
                self._take(commit, key, spent, left)

    def _take(self, commit: Commit, key: Key, spent: SpentRecord, left: dict[str, int]) -> None:
        root = spent.ancestors[0].digest
        spans = self._spent.setdefault(root, {})
        spans[key, spent.jti] = Span(spent.term.start, spent.term.end, spent.units)
        if root not in left:
            return
        start = max(spent.term.start, commit.tick + CLOCK_SECONDS)
        redeemed = most(spans.values(), start, spent.term.end)
        if redeemed > left[root]:
            self.violated(key, f"{redeemed} units are redeemed of what has {left[root]} left")

    def _check_units(
        self,
        commit: Commit,
        key: Key,
        old: SiteRecord | None,
        new: SiteRecord,
        drained: set[tuple[str, str]],
    ) -> None:
        known = {(a.unit, a.epoch) for a in old.assignments} if old is not None else set()
        for a in new.assignments:
            fresh = (a.unit, a.epoch) not in known and a.open
            # a teardown that is tried again has another epoch, and no other unit
            again = old is not None and old.state == "CloseFailed"
            if fresh and not again and (commit.actor, a.unit) in drained:
                self.violated(key, f"it gets {a.unit}, which is drained")

    def _check_sold(
        self,
        commit: Commit,
        key: Key,
        old: BrokerRecord | None,
        new: BrokerRecord,
        gone: set[tuple[str, str]],
    ) -> None:
        known = {grant.jti for grant in old.grants} if old is not None else set()
        for grant in new.grants:
            if grant.jti not in known and (commit.actor, grant.delegation) in gone:
                self.violated(key, f"{commit.actor} sells {grant.delegation}, which is revoked")
