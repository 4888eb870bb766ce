"""Which units stand still: free, quarantined, or at work for an active lease.

Of such a unit it can be said what should be on it. While a handler prepares or cleans a unit,
everything about it is in motion, and whoever looks at it would see half of something.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

from shirako.actors.authority import Authority, Unit
from shirako.core.authority import SiteLease, SiteState


@dataclass(frozen=True, slots=True)
class Standing:
    """A unit that nothing is being done to, as the books say at this moment."""

    unit: Unit
    lease: SiteLease | None
    """Who holds it; None: it is idle, and nothing of any guest should be on it."""

    def is_as(self, other: Standing | None) -> bool:
        """Whether the unit is in the same hands as at another moment, and was all the time."""
        return other is not None and (self.unit.epoch, self.unit.owner) == (
            other.unit.epoch,
            other.unit.owner,
        )


def standing(role: Authority, name: str, at_work: Set[str] | None = None) -> Standing | None:
    """The unit, if nothing is being done to it. `at_work`: see `units_at_work`, for many units."""
    unit = role.units[name]
    if unit.owner is None:
        # one that was lost is cleaned after it was taken from its lease, and is in quarantine
        if unit.quarantined and name in (units_at_work(role) if at_work is None else at_work):
            return None
        return Standing(unit, None)
    lease = role.leases.get(unit.owner)
    if lease is None or lease.state is not SiteState.ACTIVE:
        return None
    if any((a.unit, a.epoch) == (name, unit.epoch) for a in lease.working):
        return Standing(unit, lease)
    return None


def units_at_work(role: Authority) -> frozenset[str]:
    """Units that a handler works on, or is about to."""
    return frozenset(work.unit for lease in role.leases.values() for work in lease.work)
