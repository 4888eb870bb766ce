"""The simulation finds mistakes in taking back: each is put into the actors on purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from shirako.actors import authority, broker
from shirako.actors.authority import Authority, Unit
from shirako.core import authority as site_machine
from shirako.core import delegation
from shirako.core.authority import SiteState
from shirako.core.machine import Arrow, Step
from shirako.simulation import admins
from shirako.simulation.faults import ALL_FAULTS
from shirako.simulation.run import run

Patch = pytest.MonkeyPatch
SEEDS = 30


def redeemed_after_a_revocation(patch: Patch) -> None:
    patch.setattr(Authority, "_revoked_above", lambda self, spent, claims: None)


def shrunk_and_not_counted(patch: Patch) -> None:
    """What is left is compared with each ticket by itself, not with all that is redeemed."""
    patch.setattr(authority, "capacity", lambda claims, revoked: 99 if revoked.units else 0)


def sold_after_a_revocation(patch: Patch) -> None:
    whole = delegation.capacity
    patch.setattr(broker, "capacity", lambda claims, revoked: whole(claims, None))


def handed_out_though_drained(patch: Patch) -> None:
    idle = property(lambda self: self.owner is None and not self.quarantined)
    patch.setattr(Unit, "idle", idle)


def refused_and_not_void(patch: Patch) -> None:
    """The refused ticket stays with its guest, and nobody gets a receipt for it."""

    def refuse(r: Any, e: Any, _me: Any) -> Any:
        return Step(replace(r, state=SiteState.CLOSING, answers=e.message.n))

    where = (SiteState.NASCENT, site_machine.RedeemUnfit)
    table: Any = site_machine.TABLE
    patch.setitem(table, where, Arrow(refuse, (SiteState.CLOSING,)))


MUTANTS: dict[str, tuple[Callable[[Patch], None], tuple[str, ...]]] = {
    "redeemed after a revocation": (redeemed_after_a_revocation, ("ROOTED",)),
    "shrunk and not counted": (shrunk_and_not_counted, ("ROOTED",)),
    "sold after a revocation": (sold_after_a_revocation, ("ROOTED",)),
    "handed out though drained": (handed_out_though_drained, ("ROOTED",)),
    "refused and not void": (refused_and_not_void, ("ENDS",)),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mistake_is_found(name: str, monkeypatch: Patch) -> None:
    make, breaks = MUTANTS[name]
    make(monkeypatch)
    monkeypatch.setattr(admins, "FICKLE", 1.0)
    for seed in range(1, SEEDS + 1):
        found = {violation.invariant for violation in run(seed, ALL_FAULTS).violations}
        if found & set(breaks):
            print(name, seed)
            return
    raise AssertionError(f"not found within {SEEDS} seeds")
