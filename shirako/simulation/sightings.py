"""What came to pass in a run: counted, so that a campaign shows that it happens at all.

Faults are struck at single envelopes and commits. What makes them matter to the accounts of
receipts is how they meet: a receipt overtaken by the next one, said again, taken twice, and an
actor that starts anew between a posting and what it frees.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from shirako.core.account import Citation, Posting, Volume
from shirako.simulation.facts import Commit, Observer, Posted
from shirako.simulation.records import RefusalRecord

if TYPE_CHECKING:
    from shirako.simulation.world import World

EARLY = "receipt before an earlier one"
EARLY_OF_SITE = "receipt before an earlier one, in what its site says"
AGAIN = "receipt said again"
TWICE = "receipt taken twice"
STARTED = "start between a posting and what it frees"
OPENED = "volume opened"


class Sightings(Observer):
    """Judges nothing."""

    parts: ClassVar[tuple[str, ...]] = ("site", "broker")

    def __init__(self, world: World) -> None:
        self._world = world
        self._seen = world.facts.seen
        self._under_way: set[tuple[str, str, bytes]] = set()
        """(sender, broker, message) of receipts that were posted and not answered yet."""
        self._taken: set[tuple[str, str, bytes]] = set()
        self._posted: dict[tuple[str, Citation], tuple[int, ...]] = {}
        """Account and place -> how often site and brokers had started when it was written."""

    def committed(self, commit: Commit) -> None:
        for change in commit.changes:
            new = change.new
            if isinstance(new, Posting):
                self._take_posting(commit, new)
            elif isinstance(new, Volume):
                self._seen[OPENED] += 1

    def _take_posting(self, commit: Commit, posting: Posting) -> None:
        where = (posting.parent, posting.place)
        starts = tuple(seat.incarnations for seat in (*self._world.sites, *self._world.brokers))
        if commit.part == "site":
            self._posted.setdefault(where, starts)
        elif self._posted.get(where, starts) != starts:
            self._seen[STARTED] += 1

    def posted(self, posted: Posted) -> None:
        for head, raw in posted.said if not posted.raw else ():
            if head.what == "Relinquish":
                where = (posted.sender, posted.receiver, raw)
                if where in self._under_way:
                    self._seen[AGAIN] += 1
                self._under_way.add(where)

    def acknowledged(self, posted: Posted, refused: dict[int, RefusalRecord]) -> None:
        for index, (head, raw) in enumerate(posted.said if not posted.raw else ()):
            if head.what != "Relinquish":
                continue
            where = (posted.sender, posted.receiver, raw)
            self._under_way.discard(where)
            if index in refused:
                if refused[index].code == "early":
                    of_site = self._world.seats[posted.sender].part == "site"
                    self._seen[EARLY_OF_SITE if of_site else EARLY] += 1
            elif where in self._taken:
                self._seen[TWICE] += 1
            else:
                self._taken.add(where)
