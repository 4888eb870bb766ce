"""CONSERVE: the tickets that a broker has issued never exceed what it was delegated.

A ticket counts from the commit that issues it until its term is over, or until the site's receipt
says that it is worth nothing any more; what the broker believes of that does not matter. Instants
that are over when a ticket is issued are nobody's. Brokers that cheat do not conserve: for them
there is ROOTED.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil
from typing import Any, ClassVar, NamedTuple

from shirako.simulation.checks.check import CLOCK_SECONDS, Check
from shirako.simulation.checks.spans import Span, most
from shirako.simulation.facts import Commit
from shirako.simulation.records import (
    BrokerRecord,
    DelegationRecord,
    GrantRecord,
    Key,
    SiteRecord,
    read_receipt,
)
from shirako.simulation.signatures import payload_of


class Issued(NamedTuple):
    """A ticket, or a part of one."""

    key: Key
    grant: GrantRecord


class Conserve(Check):
    invariant: ClassVar[str] = "CONSERVE"
    parts: ClassVar[tuple[str, ...]] = ("site", "broker")

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._issued: dict[str, dict[str, Issued]] = {}
        """Delegation -> `jti` -> what was issued on it."""
        self._receipts: dict[Key, list[tuple[int, int]]] = {}
        """Lease -> (tick, units that are still stuck from then on)."""
        self._delegated: dict[str, DelegationRecord] = {}

    def committed(self, commit: Commit) -> None:
        for kind, key, old, new in commit.changes:
            if isinstance(new, SiteRecord):
                if new.receipt and (old is None or old.receipt != new.receipt):
                    self._take_receipt(key, new.receipt)
            elif isinstance(new, DelegationRecord):
                if kind == "given" or commit.part == "site":
                    self._delegated[new.id] = new
                if kind == "given" and commit.actor not in self.world.cheats:
                    self._take_given(key, new, commit.tick)
            elif isinstance(new, BrokerRecord) and commit.actor not in self.world.cheats:
                known = () if old is None else old.grants
                if new.grants != known:
                    self._check_given_back(key, known, new.grants, commit.tick)
                    self._take_grants(key, new.grants, commit.tick)

    def _check_given_back(
        self,
        key: Key,
        old: tuple[GrantRecord, ...],
        new: tuple[GrantRecord, ...],
        tick: int,
    ) -> None:
        """What is sold stays sold until its term is over or a receipt says otherwise (rule 2)."""
        left = {grant.jti: grant.units for grant in new}
        for grant in old:
            fewer = left.get(grant.jti, 0) < grant.units
            if fewer and tick < grant.term.end - CLOCK_SECONDS and key not in self._receipts:
                self.violated(key, "its ticket is given back, and the site has not said so")

    def _take_receipt(self, key: Key, token: str) -> None:
        payload = payload_of(token)
        if payload is None:
            self.violated(key, "the site has committed a receipt that it has not signed")
            return
        receipt = read_receipt(payload)
        self._receipts.setdefault(key, []).append((receipt.tick, len(receipt.failed_units)))

    def _take_grants(self, key: Key, grants: tuple[GrantRecord, ...], tick: int) -> None:
        for grant in grants:
            issued = self._issued.setdefault(grant.delegation, {})
            if grant.jti not in issued:
                issued[grant.jti] = Issued(key, grant)
                self._check(key, grant, tick)

    def _take_given(self, key: Key, given: DelegationRecord, tick: int) -> None:
        """A broker below gets a share: that is sold, for as long as its term lasts."""
        sold = GrantRecord(
            delegation=given.source,
            units=ceil(given.units * given.overbooking),
            term=given.term,
            jti=f"given {given.id}",
            chain=given.chain,
        )
        self._take_grants(key, (sold,), tick)

    def _check(self, key: Key, grant: GrantRecord, tick: int) -> None:
        delegation = self._delegated.get(grant.delegation)
        term = grant.term
        if (
            delegation is None
            or term.start < delegation.term.start
            or delegation.term.end < term.end
        ):
            self.violated(key, f"{grant.delegation} does not cover the ticket {grant.jti}")
            return
        capacity = int(delegation.units * delegation.overbooking)
        spans = [
            span
            for issued in self._issued[grant.delegation].values()
            for span in self._spans(issued, tick)
        ]
        sold = most(spans, max(tick + CLOCK_SECONDS, term.start), term.end)
        if sold > capacity:
            self.violated(key, f"{sold} units of {grant.delegation} are sold, it has {capacity}")

    def _spans(self, issued: Issued, now: int) -> Iterator[Span]:
        """What it amounts to, from one receipt to the next.

        A receipt that is there frees the units now, also when the site's clock is ahead.
        """
        start, end, units = issued.grant.term.start, issued.grant.term.end, issued.grant.units
        for tick, stuck in self._receipts.get(issued.key, ()):
            freed = min(max(start, min(tick, now)), end)
            yield Span(start, freed, units)
            start, units = freed, min(units, stuck)
        yield Span(start, end, units)
