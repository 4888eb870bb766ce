"""BOUNDED: nobody says more than a few things a second, envelopes have a size, and what is over is
forgotten."""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar

from shirako.simulation.checks.check import Check
from shirako.simulation.facts import Posted
from shirako.transport.envelope import ENVELOPE_BYTES_MAX

WINDOW_SECONDS = 20.0
POSTS_MAX = 75
"""Envelopes from one actor to another within a window."""


class Bounded(Check):
    invariant: ClassVar[str] = "BOUNDED"

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._times: dict[tuple[str, str], deque[float]] = {}

    def posted(self, posted: Posted) -> None:
        if posted.raw:
            return
        if len(posted.envelope) > ENVELOPE_BYTES_MAX:
            self.violated(None, f"{posted.sender} sends {len(posted.envelope)} bytes at once")
        pair = (posted.sender, posted.receiver)
        times = self._times.get(pair)
        if times is None:
            times = self._times[pair] = deque(maxlen=POSTS_MAX)
        now = self.world.loop.now
        if len(times) == POSTS_MAX and now - times[0] < WINDOW_SECONDS:
            self.violated(None, f"{posted.sender} does not cease to call {posted.receiver}")
        times.append(now)

    def forgotten(self) -> None:
        """What is over is kept for a while, and no longer; failed teardowns wait for somebody."""
        for seat in self.world.seats.values():
            for lease in seat.leases():
                if self.world.restorer.has_forgotten(self.world.seats.values(), lease.key):
                    continue  # what was lost of it may come up again, when all have forgotten it
                if lease.state != "CloseFailed":
                    self.violated(lease.key, f"{seat.name} does not forget it ({lease.state})")
