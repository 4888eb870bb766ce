"""What all checks share."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from shirako.simulation.facts import Observer
from shirako.simulation.records import Key

if TYPE_CHECKING:
    from shirako.simulation.world import World

CLOCK_SECONDS = 10
"""How far an actor's clock may be from what we think it is, while it does not follow a jump."""


class Check(Observer):
    """Judges one invariant."""

    invariant: ClassVar[str]

    def __init__(self, world: World) -> None:
        self.world = world
        self.facts = world.facts
        self._told: set[tuple[str, str]] = set()

    def violated(self, key: Key | None, message: str) -> None:
        """Say so, once for the same."""
        lease = self.facts.name_of(key) if key is not None else ""
        if (lease, message) not in self._told:
            self._told.add((lease, message))
            self.facts.violated(self.invariant, lease, message)
