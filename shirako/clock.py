"""The one place that knows what time it is, and that rolls dice.

Everything else is handed a `Clock` and an `Entropy`, so that the same code runs under a virtual
clock and repeats itself from a seed.
"""

from __future__ import annotations

import random
import secrets
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """An actor's clock. Ticks are whole seconds since the Unix epoch and never go back."""

    def milliseconds(self) -> int:
        """Wall-clock milliseconds since the Unix epoch, as other actors would read them."""
        ...

    def tick(self) -> int:
        """The current tick; never smaller than one that was returned before (rule 13)."""
        ...


class RealClock:
    """The machine's clock, held so that it never goes back."""

    def __init__(self) -> None:
        self._last = 0

    def milliseconds(self) -> int:
        return time.time_ns() // 1_000_000

    def tick(self) -> int:
        self._last = max(self._last, self.milliseconds() // 1000)
        return self._last


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
