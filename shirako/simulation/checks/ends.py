"""ENDS: every lease comes to an end, whatever others do or fail to do.

Judged when faults have ceased, nodes are repaired and the last term has been over for the bound of
`world.ENDING_SECONDS`. Actors that are gone for ever end nothing; the others do without them.
"""

from __future__ import annotations

from typing import ClassVar

from shirako.simulation.checks.check import Check
from shirako.simulation.records import SiteRecord, UnitRecord


class Ends(Check):
    invariant: ClassVar[str] = "ENDS"

    def ended(self) -> None:
        for seat in self.world.seats.values():
            if seat.gone:
                continue
            for lease in seat.leases():
                if not lease.final:
                    self.violated(lease.key, f"it stays {lease.state} at {seat.name}")
            for record in seat.kept.values():
                if isinstance(record, UnitRecord) and record.owner is not None:
                    self.violated(record.owner, f"it still has {record.name}")
                if isinstance(record, SiteRecord):
                    for a in record.assignments:
                        if a.open:
                            self.violated(record.key, f"{a.unit} stays {a.phase} in it")
