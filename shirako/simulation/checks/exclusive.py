"""EXCLUSIVE: a unit is one lease's at most at any instant, from set-up to verified teardown."""

from __future__ import annotations

from typing import Any, ClassVar

from shirako.simulation.checks.check import Check
from shirako.simulation.facts import Commit
from shirako.simulation.nodes import Node
from shirako.simulation.records import Key, SiteRecord


class Exclusive(Check):
    invariant: ClassVar[str] = "EXCLUSIVE"
    parts: ClassVar[tuple[str, ...]] = ("site",)

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._users: dict[str, dict[tuple[Key, int], None]] = {}
        """Unit -> the assignments that it is in."""
        self._epochs: dict[str, tuple[int, Key]] = {}
        """Unit -> the latest epoch that it was assigned under, and to whom."""

    def committed(self, commit: Commit) -> None:
        touched: dict[str, None] = {}
        for _, key, old, new in commit.changes:
            if isinstance(old, SiteRecord):
                for a in old.assignments:
                    self._users.get(a.unit, {}).pop((key, a.epoch), None)
            if isinstance(new, SiteRecord):
                for a in new.assignments:
                    self._note_epoch(key, a.unit, a.epoch)
                    if a.open and not new.final:
                        self._users.setdefault(a.unit, {})[key, a.epoch] = None
                        touched[a.unit] = None
        for unit in touched:
            users = self._users[unit]
            if len(users) > 1:
                names = ", ".join(f"{self.facts.name_of(k)} ({e})" for k, e in users)
                self.violated(next(iter(users))[0], f"{unit} belongs to {names}")

    def _note_epoch(self, key: Key, unit: str, epoch: int) -> None:
        """Epochs of a unit grow and never repeat (rule 11)."""
        latest, whose = self._epochs.get(unit, (0, key))
        if epoch > latest:
            self._epochs[unit] = (epoch, key)
        elif epoch == latest and whose != key:
            self.violated(key, f"{unit} has the epoch {epoch} of {self.facts.name_of(whose)}")

    def node_changed(self, node: Any, what: str, lease: str, epoch: int) -> None:
        if not isinstance(node, Node) or not what.endswith("made"):
            return
        users = self._users.get(node.name, {})
        for owner in node.things.values():
            for key, held in users:
                if owner.lease == self.facts.name_of(key) != lease and held == owner.epoch:
                    self.violated(key, f"{node.name} is in use, and gets {what} for {lease}")
