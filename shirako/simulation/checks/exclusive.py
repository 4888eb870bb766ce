"""EXCLUSIVE: a unit is one lease's at most at any instant, from set-up to verified teardown."""

from __future__ import annotations

from typing import Any, ClassVar

from shirako.simulation.checks.check import Check
from shirako.simulation.facts import Commit, Restoration
from shirako.simulation.nodes import Node
from shirako.simulation.records import Key, SiteRecord, opened
from shirako.simulation.seats import SKEW


class Exclusive(Check):
    invariant: ClassVar[str] = "EXCLUSIVE"
    parts: ClassVar[tuple[str, ...]] = ("site",)

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._users: dict[str, dict[tuple[Key, int], None]] = {}
        """Unit -> the assignments that it is in."""
        self._ghosts: set[tuple[str, Key, int]] = set()
        """Assignments that were over, and are not by the books of a site that was restored."""
        self._forgotten: list[tuple[str, Key, int, int]] = []
        """Assignments that such a site knows nothing of, and when they end."""
        self._epochs: dict[str, tuple[int, Key]] = {}
        """Unit -> the latest epoch that it was assigned under, and to whom."""

    def restored(self, restoration: Restoration) -> None:
        """Units that the site has forgotten are their leases' until these are over, as ever."""
        before, after = opened(restoration.before), opened(restoration.after)
        self._ghosts |= after.keys() - before.keys()
        lost = before.keys() - after.keys()
        self._forgotten += [(*where, before[where]) for where in sorted(lost)]

    def committed(self, commit: Commit) -> None:
        for unit, key, epoch, end in self._forgotten:
            if commit.tick > end + SKEW:
                self._users.get(unit, {}).pop((key, epoch), None)
        touched: dict[str, Key] = {}
        for _, key, old, new in commit.changes:
            if isinstance(old, SiteRecord):
                for a in old.assignments:
                    self._users.get(a.unit, {}).pop((key, a.epoch), None)
            if isinstance(new, SiteRecord):
                for a in new.assignments:
                    self._note_epoch(key, a.unit, a.epoch)
                    ghost = (a.unit, key, a.epoch) in self._ghosts
                    if a.open and not new.final and not ghost:
                        self._users.setdefault(a.unit, {})[key, a.epoch] = None
                        touched[a.unit] = key
        for unit, owner in touched.items():
            self._check_users(unit, owner)

    def _check_users(self, unit: str, owner: Key) -> None:
        users = self._users[unit]
        for one, key, epoch, _ in self._forgotten:
            if (one, key) == (unit, owner):  # it has got the same unit once more
                users.pop((key, epoch), None)
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
