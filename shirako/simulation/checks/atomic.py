"""ATOMIC: a lease has all its units, or as few as the guest said, or none; an extension has all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from shirako.simulation.checks.check import Check
from shirako.simulation.facts import Commit
from shirako.simulation.records import (
    BrokerRecord,
    GrantRecord,
    GuestRecord,
    Key,
    SiteRecord,
    SpentRecord,
)


class Atomic(Check):
    invariant: ClassVar[str] = "ATOMIC"

    def committed(self, commit: Commit) -> None:
        for _, key, old, new in commit.changes:
            if isinstance(new, SiteRecord):
                self._check_site(key, new)
            elif isinstance(new, BrokerRecord):
                if commit.actor not in self.world.cheats:
                    self._check_broker(key, old, new)
            elif isinstance(new, GuestRecord):
                self._check_guest(key, new)

    def _check_site(self, key: Key, lease: SiteRecord) -> None:
        if lease.state != "Active" or lease.degraded:
            return
        working = sum(1 for a in lease.assignments if a.phase == "active" and not a.swapped)
        sold = min(_levels(lease.spent))
        if not lease.least_units <= working <= sold or working != lease.units:
            self.violated(
                key,
                f"it is active with {working} units, of {lease.units}; at least "
                f"{lease.least_units} and at most {sold} were to be had",
            )

    def _check_broker(self, key: Key, old: BrokerRecord | None, lease: BrokerRecord) -> None:
        if lease.final or not lease.grants:
            return
        levels = _levels(lease.grants)
        if min(levels) != max(levels):
            self.violated(key, "its tickets leave a gap, overlap or differ in units")
        asked = old.units if old is not None and not old.grants else lease.units
        if not lease.least_units <= levels[0] <= asked:
            self.violated(key, f"its ticket is on {levels[0]} units")

    def _check_guest(self, key: Key, lease: GuestRecord) -> None:
        if lease.state != "Active" or lease.degraded:
            return
        if not lease.least_units <= len(lease.held) <= lease.asked_units:
            self.violated(key, f"the guest holds {len(lease.held)} units and calls it active")


def _levels(parts: Sequence[GrantRecord | SpentRecord]) -> list[int]:
    """Units of all parts together, from each tick on at which one of them begins or ends."""
    ticks = sorted({tick for part in parts for tick in (part.term.start, part.term.end)})
    return [
        sum(part.units for part in parts if part.term.start <= tick < part.term.end)
        for tick in ticks[:-1]
    ]
