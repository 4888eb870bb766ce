"""Clocks and entropy of simulated actors.

The *hardware clock* belongs to the machine: it is set wrong, drifts, jumps, and outlives crashes.
The actor's clock is the real `SteadyClock`, over this hardware instead of the machine's own.
"""

from __future__ import annotations

from shirako.clock import JUMP_MS, SteadyClock
from shirako.simulation.chance import Stream
from shirako.simulation.loop import VirtualLoop

BASE_MS = 1_800_000_000_000
"""The true time at which every simulated world begins, in milliseconds since the Unix epoch."""


def true_tick(now: float) -> int:
    """The tick of a perfect clock, `now` seconds after the world began."""
    return BASE_MS // 1000 + int(now)


class Hardware:
    """The clock of one machine."""

    def __init__(self, loop: VirtualLoop, offset_ms: int, drift_ppm: float) -> None:
        self.offset_ms = offset_ms
        """How far it is ahead of the true time, without its drift."""
        self.jump_ms = 0
        """By how much it has jumped away from that, until somebody puts it right."""
        self._loop = loop
        self._rate = 1.0 + drift_ppm / 1e6

    def wall_ms(self) -> int:
        return self.right_ms() + self.jump_ms

    def right_ms(self) -> int:
        """What it would say had it not jumped."""
        return BASE_MS + int(self._loop.now * 1000.0 * self._rate) + self.offset_ms

    def followed_ms(self) -> int:
        """What an actor should take it for: a jump beyond the bound is not followed (rule 13)."""
        jump = self.jump_ms if abs(self.jump_ms) <= JUMP_MS else 0
        return self.right_ms() + jump

    def steady_ms(self) -> int:
        """Counts since the machine was switched on, and never jumps."""
        return int(self._loop.now * 1000.0 * self._rate)

    def clock(self) -> SteadyClock:
        """The clock of a process that starts now."""
        return SteadyClock(self.wall_ms, self.steady_ms)


class SeededEntropy:
    """Ids and jitter from a stream."""

    def __init__(self, source: Stream) -> None:
        self._source = source

    def fresh_id(self) -> str:
        return f"{self._source.getrandbits(64):016x}"

    def jitter(self) -> float:
        return 0.5 + self._source.random()
