"""The simulated disk of one actor: a ledger that outlives it.

A commit may fail before anything of it is stored, fall into a time in which the disk is full, take
long, or be the last thing that the actor does, stored or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from shirako.ledger import CommitFailed, Entry, Link, Write
from shirako.ledger.memory import MemoryLedger
from shirako.simulation.chance import stream
from shirako.simulation.faults import Injector
from shirako.simulation.loop import Life, VirtualLoop

COMMIT_SECONDS = 0.002
SLOW_SECONDS = 6.0
FULL_SECONDS = 40.0

Stored = Callable[[Sequence[Write], Sequence[Entry]], None]


class Disk:
    """What is stored, and how well that goes."""

    def __init__(
        self, loop: VirtualLoop, seed: int, name: str, injector: Injector, stored: Stored
    ) -> None:
        """`stored` hears of each commit as soon as it is durable."""
        self.ledger = MemoryLedger()
        self._loop = loop
        self._name = name
        self._injector = injector
        self._stored = stored
        self._source = stream(seed, f"disk {name}")
        self._full_until = 0.0

    def fill(self, seconds: float) -> None:
        """No commit succeeds for so long."""
        self._full_until = self._loop.now + seconds

    def heal(self) -> None:
        self._full_until = 0.0

    def delay(self) -> float:
        """How long the next thing takes."""
        how = self._injector.strike("slow_disk", self._name)
        if how is not None:
            return how.uniform(0.5, SLOW_SECONDS)
        return COMMIT_SECONDS * (0.5 + self._source.random())

    def commit(self, life: Life, writes: Sequence[Write], entries: Sequence[Entry]) -> None:
        strike = self._injector.strike
        if self._loop.now < self._full_until:
            raise CommitFailed("the disk is full")
        if strike("commit_failed", self._name) is not None:
            raise CommitFailed("the disk did not take it")
        if strike("crash_before_commit", self._name) is not None:
            life.cut_off()
            return
        self.ledger.commit(writes, entries)
        self._stored(writes, entries)
        if strike("crash_after_commit", self._name) is not None:
            life.cut_off()


class LedgerOfLife:
    """One incarnation's handle on the disk: worth nothing once its life has ended."""

    def __init__(self, disk: Disk, life: Life) -> None:
        self._disk = disk
        self._life = life

    def load(self) -> Iterator[tuple[str, str, bytes]]:
        return self._disk.ledger.load()

    def commit(self, writes: Sequence[Write], entries: Sequence[Entry]) -> None:
        if self._life.dead:
            raise CommitFailed("this process is gone")
        self._disk.commit(self._life, writes, entries)

    def story(self, lease: str) -> list[Entry]:
        return self._disk.ledger.story(lease)

    def links(self) -> Iterator[Link]:
        return self._disk.ledger.links()

    def last_link(self) -> Link | None:
        return self._disk.ledger.last_link()

    def close(self) -> None:
        """The disk stays."""
