"""A ledger with a mirror: the actor sees the ledger, and the mirror what it committed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shirako.ledger import CountedLedger, Entry, Lag, Link, SharedLedger, Total, Write, last_tick
from shirako.ledger.mirror.entries import head_of
from shirako.ledger.mirror.following import Follower
from shirako.ledger.mirror.place import MirrorPlace
from shirako.ledger.mirror.writing import Copying


class MirroredLedger:
    """Everything is done by the ledger; what it has durably done is told to its mirror."""

    def __init__(
        self, ledger: CountedLedger, copy: Copying, place: MirrorPlace, actor: str
    ) -> None:
        self._ledger = ledger
        begins = head_of(ledger.total(), last_tick(ledger.last_link()))
        self._follower = Follower(begins, copy, place, actor, self._may_write)

    def load(self) -> Iterator[tuple[str, str, bytes]]:
        return self._ledger.load()

    def commit(self, writes: Sequence[Write], entries: Sequence[Entry]) -> None:
        self._ledger.commit(writes, entries)
        self._follower.committed(self._ledger.total(), writes, entries)

    def story(self, lease: str) -> list[Entry]:
        return self._ledger.story(lease)

    def links(self) -> Iterator[Link]:
        return self._ledger.links()

    def last_link(self) -> Link | None:
        return self._ledger.last_link()

    def total(self) -> Total:
        return self._ledger.total()

    def lag(self) -> Lag:
        """How far the mirror is behind; from any thread."""
        return self._follower.lag()

    def close(self) -> None:
        self._follower.close()
        self._ledger.close()

    def _may_write(self) -> bool:
        return not isinstance(self._ledger, SharedLedger) or self._ledger.held()


class SharedMirroredLedger(MirroredLedger):
    """As `MirroredLedger`, for a ledger that other copies of the actor may take over."""

    def held(self) -> bool:
        return self._may_write()


def mirrored(
    ledger: CountedLedger, copy: Copying, place: MirrorPlace, actor: str
) -> MirroredLedger:
    """`ledger` with a mirror of it at `place`, which is reached when it can be."""
    kind = SharedMirroredLedger if isinstance(ledger, SharedLedger) else MirroredLedger
    return kind(ledger, copy, place, actor)
