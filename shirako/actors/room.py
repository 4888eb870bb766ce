"""Room in an actor's books, and who takes it (BOUNDED).

Nobody who deals with an actor may keep the others out by asking for leases without end:

- of one guest only so many leases *live* at the same time;
- half of the books is for whoever comes first. The other half is shared out equally among those
  whom the descriptor names: a broker's guests, a site's brokers, who answer for the guests that
  they sell to. So each of these always has room for its share, live leases and closed ones that
  still answer together, whatever the others do.

All is counted as it changes: asking costs the same, however many leases there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from shirako.core.machine import Record, State, state_of

RECORDS_MAX = 500_000
"""Live records and tombstones; beyond it new requests are refused as `overloaded`."""


class Full(Exception):
    """There is no room; says what is full, and what would help."""


class Room:
    """What is kept, for whom.

    `leases_a_guest`: how many of one guest may live; `peers`: how many share the second half of the
    books. Who *answers* for a record is one of these, and always the same one.
    """

    def __init__(self, leases_a_guest: int, peers: int) -> None:
        self._leases_a_guest = leases_a_guest
        self._peers = peers
        self._records = 0
        self._live: Counter[str] = Counter()
        """By guest: leases that are not over."""
        self._kept: Counter[str] = Counter()
        """By who answers for them: records, of closed leases, too."""

    def count_anew(self, records: Iterable[tuple[Record, str]]) -> None:
        """These records, each with who answers for it, are all that there is."""
        self._records = 0
        self._live.clear()
        self._kept.clear()
        for record, sponsor in records:
            self.take(record, sponsor)

    def take(self, record: Record, sponsor: str) -> None:
        """A record is new."""
        self._records += 1
        self._kept[sponsor] += 1
        if not state_of(record).final:
            self._live[record.guest.kid] += 1

    def leave(self, record: Record, sponsor: str) -> None:
        """A record is forgotten."""
        self._records -= 1
        _drop(self._kept, sponsor)
        if not state_of(record).final:
            _drop(self._live, record.guest.kid)

    def move(self, before: State, after: State, guest: str) -> None:
        """A record of this guest went from one state to another."""
        if after.final and not before.final:
            _drop(self._live, guest)
        elif before.final and not after.final:
            self._live[guest] += 1

    def check(self) -> None:
        """Raise `Full` when nobody gets in."""
        if self._records >= RECORDS_MAX:
            raise Full("too many leases are kept here; try later")

    def check_share(self, sponsor: str, name: str) -> None:
        """Raise `Full` when who is called `name` has had its share, and others may want theirs."""
        half = RECORDS_MAX // 2
        share = half // max(self._peers, 1)
        if self._peers > 1 and self._records >= half and self._kept[sponsor] >= share:
            raise Full(
                f"more than half of the room for leases is taken here, and {name} has its share: "
                f"{share} leases, with those that were closed lately; try later"
            )

    def check_live(self, guest: str, name: str) -> None:
        """Raise `Full` when no further lease of a guest, called `name`, may live."""
        if self._live[guest] >= self._leases_a_guest:
            raise Full(
                f"{name} has {self._live[guest]} live leases here, and may have "
                f"{self._leases_a_guest} at the same time; close some, or try later"
            )


def _drop(counts: Counter[str], name: str) -> None:
    """One less; names that are left with none are no longer there."""
    counts[name] -= 1
    if not counts[name]:
        del counts[name]
