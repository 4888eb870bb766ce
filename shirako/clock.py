"""The one place that knows what time it is, and that rolls dice.

Everything else is handed a `Clock` and an `Entropy`, so that the same code runs under a virtual
clock and repeats itself from a seed.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """An actor's clock. Ticks are whole seconds since the Unix epoch and never go back."""

    def milliseconds(self) -> int:
        """Milliseconds since the Unix epoch, as other actors would read them."""
        ...

    def tick(self) -> int:
        """The current tick; never smaller than one that was returned before (rule 13)."""
        ...

    def jump_ms(self) -> int:
        """By how much the machine's clock jumped ahead (or back, below 0) and is not followed."""
        ...

    def confirm(self) -> None:
        """Follow the machine's clock after a jump: an operator says that it is right."""
        ...

    def not_before(self, tick: int) -> None:
        """Ticks are never smaller than this one: the ledger has seen it."""
        ...


JUMP_MS = 30_000


class SteadyClock:
    """Two sources of time, held against each other (rule 13).

    The *wall* clock is what the machine believes; it can be set, by hand, by a wrong time server,
    by a wrong time zone after a boot. The *steady* clock only counts. As long as they agree the
    wall clock is followed, through drift and small corrections. When it jumps by more than `bound`
    from one look to the next, it is followed no longer: time goes on as the steady clock says, so
    that no lease ends early, until the jump is undone or `confirm` is called.
    """

    def __init__(
        self, wall_ms: Callable[[], int], steady_ms: Callable[[], int], bound_ms: int = JUMP_MS
    ) -> None:
        self._wall_ms = wall_ms
        self._steady_ms = steady_ms
        self._bound_ms = bound_ms
        self._offset = wall_ms() - steady_ms()
        """What is added to the steady clock to give the time."""
        self._jump = 0
        self._last = 0

    def milliseconds(self) -> int:
        self._look()
        return self._steady_ms() + self._offset

    def tick(self) -> int:
        self._last = max(self._last, self.milliseconds() // 1000)
        return self._last

    def jump_ms(self) -> int:
        self._look()
        return self._jump

    def confirm(self) -> None:
        self._offset = self._wall_ms() - self._steady_ms()
        self._jump = 0

    def not_before(self, tick: int) -> None:
        self._last = max(self._last, tick)
        ahead = tick * 1000 - self.milliseconds()
        if ahead > self._bound_ms:  # the machine came up with a clock of the past
            self._offset += ahead

    def _look(self) -> None:
        offset = self._wall_ms() - self._steady_ms()
        apart = offset - self._offset
        if abs(apart) <= self._bound_ms:
            self._offset, self._jump = offset, 0
        else:
            self._jump = apart


class RealClock(SteadyClock):
    """The machine's clocks. The steady one counts while the machine sleeps, too."""

    def __init__(self, bound_ms: int = JUMP_MS) -> None:
        super().__init__(
            lambda: time.time_ns() // 1_000_000,
            lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000,
            bound_ms,
        )


class Entropy(Protocol):
    """Where fresh ids and jitter come from."""

    def fresh_id(self) -> str:
        """A short id that was never used: 16 characters, letters and digits."""
        ...

    def jitter(self) -> float:
        """A number from 0.5 to 1.5, to spread retries."""
        ...


class RealEntropy:
    def fresh_id(self) -> str:
        return secrets.token_hex(8)

    def jitter(self) -> float:
        return random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, guards nothing


def utc(tick: int) -> datetime:
    """The moment of a tick, in UTC."""
    return datetime.fromtimestamp(tick, UTC)


def tick_of(moment: datetime) -> int:
    """The tick that a moment lies in; raises ValueError for one without a time zone."""
    if moment.tzinfo is None:
        raise ValueError("a time without a time zone says nothing: add Z or an offset")
    return int(moment.timestamp())


def new_token() -> str:
    """A bearer token: 256 random bits."""
    return "shk_" + secrets.token_urlsafe(32)
