"""The simulated disk of one actor: a ledger that outlives it.

A commit may fail before anything of it is stored, fall into a time in which the disk is full, take
long, or be the last thing that the actor does, stored or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import inf

from shirako.ledger import CommitFailed, Entry, LedgerError, LedgerLost, Link, Write
from shirako.ledger.memory import MemoryLedger
from shirako.simulation.chance import stream
from shirako.simulation.faults import Injector
from shirako.simulation.loop import Life, VirtualLoop

COMMIT_SECONDS = 0.002
SLOW_SECONDS = 6.0
FULL_SECONDS = 40.0
HOLD_SECONDS = 3.0
"""How long a copy that may be one of several acts without hearing from the server."""
CLOCKS_APART = 1.25
"""So many times that long its successor waits."""

Stored = Callable[[Sequence[Write], Sequence[Entry]], None]


class Disk:
    """What is stored, and how well that goes."""

    def __init__(
        self, loop: VirtualLoop, seed: int, name: str, injector: Injector, stored: Stored
    ) -> None:
        """`stored` hears of each commit as soon as it is durable."""
        self.ledger = MemoryLedger()
        self.generation = 0
        """How many copies of the actor have held it, where several may."""
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
        if strike("commit_unsure", self._name) is not None:
            raise CommitFailed("the connection was lost; nobody knows whether it is stored")
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


class SharedLedgerOfLife(LedgerOfLife):
    """The handle of one of several copies of an actor: as a server would hand it out.

    A copy that does not reach the server may act for `HOLD_SECONDS` more, and a copy that takes
    over does not act before its predecessor's time is certainly over.
    """

    def __init__(self, disk: Disk, life: Life, loop: VirtualLoop) -> None:
        super().__init__(disk, life)
        disk.generation += 1
        self._loop = loop
        self._generation = disk.generation
        self._acts_from = loop.now + (HOLD_SECONDS * CLOCKS_APART if disk.generation > 1 else 0.0)
        self._severed_at = inf
        self._severed_until = -inf

    def sever(self, seconds: float) -> None:
        """It does not reach the server for so long."""
        self._severed_at = self._loop.now
        self._severed_until = self._loop.now + seconds

    def held(self) -> bool:
        now = self._loop.now
        if self._is_severed():
            return self._acts_from <= now < self._severed_at + HOLD_SECONDS
        self._check()
        return self._acts_from <= now

    def load(self) -> Iterator[tuple[str, str, bytes]]:
        if self._is_severed():
            raise LedgerError("the server does not answer")
        self._check()
        return super().load()

    def commit(self, writes: Sequence[Write], entries: Sequence[Entry]) -> None:
        if self._is_severed():
            raise CommitFailed("the server does not answer")
        self._check()
        super().commit(writes, entries)

    def _is_severed(self) -> bool:
        return self._severed_at <= self._loop.now < self._severed_until

    def _check(self) -> None:
        if self._generation != self._disk.generation:
            raise LedgerLost("another copy has taken over")
