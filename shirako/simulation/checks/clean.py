"""CLEAN: after a lease nothing of the guest is left on a unit, and a unit that is not clean is
quarantined, never handed out."""

from __future__ import annotations

from typing import Any, ClassVar

from shirako.simulation.checks.check import Check
from shirako.simulation.facts import Commit, Restoration
from shirako.simulation.nodes import Node
from shirako.simulation.records import Key, SiteRecord, UnitRecord


class Clean(Check):
    invariant: ClassVar[str] = "CLEAN"
    parts: ClassVar[tuple[str, ...]] = ("site",)

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._units: dict[str, UnitRecord] = {}
        self._assigned: dict[tuple[str, int], tuple[Key, bool]] = {}
        """(unit, epoch) -> the lease, and whether the unit is still its."""

    def committed(self, commit: Commit) -> None:
        for _, _, old, new in commit.changes:
            if isinstance(new, UnitRecord):
                self._units[new.name] = new
                if old is not None and old.owner is not None and new.owner is None:
                    self._released(old.owner, new)
                if new.owner is None and not new.quarantined and (old and old.quarantined):
                    self._check_empty(None, new.name, "is out of quarantine")
        for _, key, old, new in commit.changes:
            if isinstance(new, SiteRecord):
                self._take_lease(key, old, new)

    def restored(self, restoration: Restoration) -> None:
        """The site knows of its units what the backup does."""
        for record in restoration.after.values():
            if isinstance(record, UnitRecord):
                self._units[record.name] = record

    def _released(self, owner: Key, unit: UnitRecord) -> None:
        if not unit.quarantined:
            self._check_empty(owner, unit.name, "is free again")

    def _take_lease(self, key: Key, old: SiteRecord | None, new: SiteRecord) -> None:
        known = {} if old is None else {(a.unit, a.epoch): a for a in old.assignments}
        for where in known:
            self._assigned[where] = (key, False)
        for a in new.assignments:
            before = known.get((a.unit, a.epoch))
            if before is None and a.phase == "priming":
                self._check_empty(key, a.unit, "is handed out")
            self._assigned[a.unit, a.epoch] = (key, a.open)
            if a.phase == "closed" and (before is None or before.phase != "closed"):
                self._check_gone(key, a.unit)

    def _check_empty(self, key: Key | None, unit: str, what: str) -> None:
        node = self.world.nodes[unit]
        for thing, owner in node.things.items():
            self.violated(key, f"{unit} {what} with {thing.kind} {thing.name} of {owner.lease}")
            return

    def _check_gone(self, key: Key, unit: str) -> None:
        """The teardown is said to be done and verified."""
        name = self.facts.name_of(key)
        for thing in self.world.nodes[unit].of(name):
            self.violated(key, f"{unit} was torn down, and has {thing.kind} {thing.name}")
        for directory in self.world.directories.values():
            if unit in directory.of(name):
                self.violated(key, f"{unit} was torn down, and {directory.name} names it")

    def node_changed(self, node: Any, what: str, lease: str, epoch: int) -> None:
        """Nothing comes back once the unit is the site's again."""
        if not what.endswith("made") or not isinstance(node, Node):
            return
        key, is_open = self._assigned.get((node.name, epoch), (None, False))
        unit = self._units.get(node.name)
        if is_open or unit is None or unit.quarantined:
            return
        self.violated(key, f"{node.name} is no longer of {lease}, and gets {what}")

    def ended(self) -> None:
        for node in self.world.nodes.values():
            unit = self._units.get(node.name)
            if unit is None or not unit.quarantined:
                self._check_empty(None, node.name, "is left")
        for directory in self.world.directories.values():
            for name, lease in directory.entries:
                unit = self._units.get(name)
                if unit is None or not unit.quarantined:
                    self.violated(None, f"{directory.name} still names {name} of {lease}")
