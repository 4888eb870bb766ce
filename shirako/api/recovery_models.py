"""What `/recovery` takes and tells: the end of the hold of an actor that came from a backup."""

from __future__ import annotations

from typing import Literal

from shirako.api.models import Instant, Inward, Outward, Restored


class RecoveryRequest(Inward):
    """End the hold of a restored actor."""

    dry_run: bool = False
    """Tell what would happen by it, and change nothing."""
    backup_was_current: bool = False
    """Of a broker: nothing was sold or given back since, so it may sell all that it holds."""


class HeldLease(Outward):
    """A lease whose term is over by the restored books."""

    holder: str
    id: str
    slice: str
    end: Instant
    does: Literal["torn down", "refused", "left and closed", "closed", "given up", "over"]
    """What becomes of it."""
    units: tuple[str, ...] = ()


class PendingHandler(Outward):
    """A handler that the end of the hold starts."""

    holder: str
    id: str
    handler: Literal["setup", "teardown", "join", "leave"]
    unit: str
    epoch: int


class SuspectUnit(Outward):
    """A unit that is not as the books say: it is put into quarantine."""

    unit: str
    why: str
    holder: str | None = None
    id: str | None = None
    """The lease that has it by the books, and keeps it."""


class UnsoldDelegation(Outward):
    """A delegation of which this broker may have sold more than it knows."""

    id: str
    type: str
    units: int
    until: Instant
    """Nothing of it is sold before, unless the backup was current."""


class Recovery(Outward):
    """What the end of the hold means, or meant."""

    dry_run: bool
    held: bool
    """Whether there was a hold to end."""
    restored: Restored | None = None
    """None: this ledger is from no backup."""
    due: tuple[HeldLease, ...] = ()
    """The first to end first."""
    pending: tuple[PendingHandler, ...] = ()
    suspects: tuple[SuspectUnit, ...] = ()
    unsold: tuple[UnsoldDelegation, ...] = ()
    unheard: int = 0
    """Messages that peers have not taken yet: they may know what this actor has still to learn."""
    more: int = 0
    """Leases, handlers and units that are not listed."""
