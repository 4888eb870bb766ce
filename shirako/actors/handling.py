"""Runs handlers: starts what the records ask for, stops what they no longer do.

A handler runs at least once: it is started again after a crash until its end is committed. At most
one runs on a unit at a time; a teardown that overtakes a set-up waits until that one has stopped.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Protocol

from shirako.clock import Clock, Entropy
from shirako.core.machine import HandlerEnded, Key, Work
from shirako.handlers import HandlerFailed, Log, Unavailable, Unsuitable

UNAVAILABLE_PAUSE_SECONDS = 2.0
HOLD_PAUSE_SECONDS = 0.3
LOG_LINES_MAX = 2000
LOG_CHARACTERS_MAX = 500
MESSAGE_CHARACTERS_MAX = 1000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a handler that worked gave out."""

    outputs: dict[str, str] = field(default_factory=dict)
    checks: tuple[str, ...] = ()


class Performer(Protocol):
    """Does one piece of work; raises what a handler may raise."""

    async def perform(self, key: Key, work: Work, tell: Log) -> Outcome: ...

    async def probe(self, unit: str, epoch: int, tell: Log, holder: Key | None = None) -> None:
        """Check a unit that was last assigned under `epoch`: that it still works for the lease
        `holder`, or without one, that nothing of any lease is left on it."""
        ...

    async def close(self) -> None: ...


class Handling:
    """One task for each piece of work that a committed record asks for."""

    def __init__(
        self,
        performer: Performer,
        clock: Clock,
        entropy: Entropy,
        ended: Callable[[Key, HandlerEnded], None],
        tell: Callable[[Key, Work, str], None],
        acts: Callable[[], bool],
    ) -> None:
        """`acts`: whether handlers may be started now, asked before each."""
        self._performer = performer
        self._clock = clock
        self._entropy = entropy
        self._ended = ended
        self._tell = tell
        self._acts = acts
        self._tasks: dict[Key, dict[Work, asyncio.Task[None]]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: Counter[str] = Counter()
        """How many hold or wait for each lock; a free lock may still have waiters to wake."""

    def update(self, key: Key, wanted: tuple[Work, ...]) -> None:
        """Make what runs for one lease match what its record asks for."""
        running = self._tasks.get(key)
        if running is None:
            if not wanted:
                return
            running = self._tasks[key] = {}
        for work in [work for work in running if work not in wanted]:
            running.pop(work).cancel()
        loop = asyncio.get_running_loop()
        for work in wanted:
            if work not in running:
                name = f"{work.handler} {work.unit}"
                running[work] = loop.create_task(self._run(key, work), name=name)
        if not running:
            del self._tasks[key]

    async def stop(self) -> None:
        tasks = [task for running in self._tasks.values() for task in running.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._performer.close()

    async def _run(self, key: Key, work: Work) -> None:
        pause = work.after - self._clock.tick()
        if pause > 0:
            await asyncio.sleep(pause)
        async with self.alone_with(work.unit):
            event = await self._attempt(key, work)
        self._ended(key, event)

    @asynccontextmanager
    async def alone_with(self, unit: str) -> AsyncIterator[None]:
        """Waits until nothing runs on the unit, and lets nothing start there in the block."""
        lock = self._locks.setdefault(unit, asyncio.Lock())
        self._users[unit] += 1
        try:
            async with lock:
                yield
        finally:
            self._users[unit] -= 1
            if not self._users[unit]:
                del self._users[unit], self._locks[unit]

    async def _attempt(self, key: Key, work: Work) -> HandlerEnded:
        told = 0

        def tell(line: str) -> None:
            nonlocal told
            told += 1
            if told <= LOG_LINES_MAX:
                self._tell(key, work, line[:LOG_CHARACTERS_MAX])

        while True:
            if not self._acts():
                await asyncio.sleep(HOLD_PAUSE_SECONDS)
                continue
            try:
                outcome = await self._performer.perform(key, work, tell)
            except Unavailable as error:
                # nobody's fault: the record stays as it is until it is there again (DURABLE)
                tell(f"waiting: {error}")
                await asyncio.sleep(UNAVAILABLE_PAUSE_SECONDS * self._entropy.jitter())
            except HandlerFailed as error:
                return self._failed(work, str(error))
            except Unsuitable as error:
                return self._failed(work, str(error), unsuitable=True)
            except Exception as error:
                log.exception("%s of %s broke", work.handler, work.unit)
                return self._failed(work, f"{type(error).__name__}: {error}")
            else:
                return HandlerEnded(
                    now=self._clock.tick(),
                    work=work,
                    ok=True,
                    outputs=outcome.outputs,
                    checks=outcome.checks,
                )

    def _failed(self, work: Work, message: str, *, unsuitable: bool = False) -> HandlerEnded:
        return HandlerEnded(
            now=self._clock.tick(),
            work=work,
            ok=False,
            message=message[:MESSAGE_CHARACTERS_MAX],
            unsuitable=unsuitable,
        )


async def within(seconds: float, what: str, doing: Awaitable[Outcome]) -> Outcome:
    """`doing`, or `HandlerFailed` when it takes longer than `seconds`."""
    try:
        async with asyncio.timeout(seconds):
            return await doing
    except TimeoutError as error:
        raise HandlerFailed(f"{what} did not end within {seconds:g} s") from error
