"""Who may act until when: the rules, without a server. The theory is told in the package."""

from __future__ import annotations

import time
from typing import NamedTuple

from shirako.ledger import LedgerLost

HOLD_SECONDS = 3.0
"""How long a holder goes on without hearing from the server."""
BEATS = 4
"""How often it asks within that time."""
CLOCKS_APART = 1.25
"""A successor waits so many times its predecessor's hold: clocks may differ in speed by a fifth."""


class Fence(NamedTuple):
    """The one row that says who holds a ledger."""

    generation: int
    holder: str
    hold_ms: int
    """The longest hold of all who may still believe that they hold it."""
    waiting: bool
    """The holder waits for its predecessors: they may still act, and it does not."""
    released: bool
    """The holder has ended, and said so."""


def succession(old: Fence, me: str, hold_ms: int, runs: bool | None) -> tuple[Fence, float]:
    """The fence of who takes over, and how many seconds it has to wait once that is stored.

    `runs`: whether the old holder does, None if that is not known.
    """
    over = old.released or (runs is False and not old.waiting)
    fence = Fence(
        generation=old.generation + 1,
        holder=me,
        hold_ms=hold_ms if over else max(hold_ms, old.hold_ms),
        waiting=not over,
        released=False,
    )
    return fence, 0.0 if over else old.hold_ms / 1000 * CLOCKS_APART


class Tenure:
    """What one copy may believe about itself. Times are those of `steady`."""

    def __init__(self, generation: int, hold_seconds: float, acts_from: float) -> None:
        self.generation = generation
        self.acts_from = acts_from
        """Not before: a predecessor might still act."""
        self.waiting = True
        """Whether the fence says that we wait; `begin` is for when it no longer does."""
        self._hold_seconds = hold_seconds
        self._asked = float("-inf")
        self._lost: str | None = None

    def begin(self) -> None:
        """The fence no longer says that we wait."""
        self.waiting = False

    def confirm(self, asked: float) -> None:
        """The server confirmed our generation when we asked at this time."""
        self._asked = max(self._asked, asked)

    def held(self, now: float) -> bool:
        """Whether we may act and answer. Raises `LedgerLost` when we never may again."""
        self.check()
        return not self.waiting and self.acts_from <= now < self._asked + self._hold_seconds

    def lose(self, why: str) -> LedgerLost:
        """It is over; returns what to raise. The first reason stays."""
        if self._lost is None:
            self._lost = why
        return LedgerLost(self._lost)

    def check(self) -> None:
        """Raises `LedgerLost` when it is over."""
        if self._lost is not None:
            raise LedgerLost(self._lost)


def steady() -> float:
    """Seconds by a clock that is never set, and that counts while process or machine sleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
