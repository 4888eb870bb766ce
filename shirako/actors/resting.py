"""How many records of leases rest on a thing: what none rests on any more may be forgotten."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set

NOTHING: Set[str] = frozenset()


class Resting:
    """Counts, kept as records change."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._to_look_at: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._counts

    def move(self, before: Set[str], after: Set[str]) -> None:
        """A record rested on the things before, and rests on those after."""
        for name in after - before:
            self._counts[name] += 1
        for name in before - after:
            self._counts[name] -= 1
            if not self._counts[name]:
                del self._counts[name]
                self._to_look_at.add(name)

    def look_at(self, name: str) -> None:
        """Whether it may be forgotten is to be asked, also if no record was dropped."""
        self._to_look_at.add(name)

    def take_left(self) -> list[str]:
        """What nothing rests on any more, and what is to be looked at; each is told once."""
        left = sorted(self._to_look_at)
        self._to_look_at.clear()
        return left
