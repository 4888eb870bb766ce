"""Whole lease lives, led by a guest in this process, and what was measured of them."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from shirako.actors.actor import Actor
from shirako.core.guest import GuestLease, GuestState
from shirako.core.terms import Term

TERM_SECONDS = 3600


@dataclass
class Measured:
    """One run: its rate, its steps, and what it cost."""

    lives: int
    seconds: float
    steps: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu_ms: dict[str, float] = field(default_factory=dict)
    """CPU milliseconds a life, by process."""

    @property
    def rate(self) -> float:
        return self.lives / self.seconds

    def told(self, name: str) -> dict[str, float]:
        """As figures that are called after `name`."""
        told = {f"lives_per_s.{name}": self.rate}
        for step, values in self.steps.items():
            told[f"{step}_ms_p50.{name}"] = statistics.median(values) * 1000
            told[f"{step}_ms_p99.{name}"] = quantile(values, 0.99)
        told[f"cpu_ms_per_life.{name}"] = sum(self.cpu_ms.values())
        for process, spent in self.cpu_ms.items():
            told[f"cpu_ms_per_life.{name}.{process}"] = spent
        return told


def joined(runs: Sequence[Measured]) -> Measured:
    """Several runs as one."""
    steps: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for step, values in run.steps.items():
            steps[step] += values
    whole = Measured(sum(run.lives for run in runs), sum(run.seconds for run in runs), steps)
    whole.cpu_ms = {
        name: sum(run.cpu_ms[name] * run.lives for run in runs) / whole.lives
        for name in runs[0].cpu_ms
    }
    return whole


def quantile(values: Sequence[float], part: float) -> float:
    """Of seconds, in milliseconds."""
    return sorted(values)[min(int(len(values) * part), len(values) - 1)] * 1000


class Lives:
    """Lives whole leases against the guest's actor, in this process."""

    def __init__(self, actor: Actor[Any]) -> None:
        self.actor = actor
        self._count = 0
        self._prefix = actor.entropy.fresh_id()

    async def until(self, key: tuple[str, str], *states: GuestState) -> GuestLease:
        async for record in self.actor.changes(key):
            if isinstance(record, GuestLease):
                if record.state in states:
                    return record
                if record.state.final:
                    raise RuntimeError(f"lease ended as {record.state}: {record.reason}")
        raise RuntimeError("the actor stopped")

    async def begin(self) -> tuple[str, str]:
        self._count += 1
        role = self.actor.role
        now = self.actor.clock.tick()
        lease = GuestLease(
            id=f"{self._prefix}{self._count}",
            guest=role.me.party,
            slice="bench",
            type="node",
            units=1,
            least_units=1,
            state=GuestState.NASCENT,
            broker=next(iter(role.brokers.values())),
            term=Term(now, now + TERM_SECONDS),
        )
        await self.actor.submit(lambda r, n: r.request(lease, n, "bench"))
        return lease.key

    async def live(self, steps: dict[str, list[float]]) -> None:
        clock = time.perf_counter
        begun = clock()
        key = await self.begin()
        requested = clock()
        await self.until(key, GuestState.REDEEMING, GuestState.ACTIVE)
        ticketed = clock()
        await self.until(key, GuestState.ACTIVE)
        active = clock()
        await self.actor.submit(lambda r, n: r.close(key, "done", n, "bench"))
        await self.until(key, GuestState.CLOSED)
        closed = clock()
        steps["request"].append(requested - begun)
        steps["ticket"].append(ticketed - requested)
        steps["redeem"].append(active - ticketed)
        steps["to_active"].append(active - requested)
        steps["close"].append(closed - active)

    async def hold(self, count: int) -> None:
        """Make `count` leases and keep them."""
        for start in range(0, count, 500):
            keys = await asyncio.gather(*(self.begin() for _ in range(min(500, count - start))))
            await asyncio.gather(*(self.until(key, GuestState.ACTIVE) for key in keys))

    async def measure(self, count: int, in_flight: int) -> Measured:
        steps: dict[str, list[float]] = defaultdict(list)
        left = iter(range(count))

        async def worker() -> None:
            for _ in left:
                await self.live(steps)

        begun = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(in_flight)))
        return Measured(count, time.perf_counter() - begun, steps)
