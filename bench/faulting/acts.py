"""What guests do, told at once to whoever wants to break something just then."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Act:
    """A guest asks for something now: a lease, a later end, an end."""

    nodes: tuple[str, ...]
    """Where handlers will run for it, as far as one can know."""


class Acts:
    """All acts of a run, as they happen."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[Act]] = []

    def tell(self, act: Act) -> None:
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if not one.done():
                one.set_result(act)

    async def next(self, seconds: float) -> Act | None:
        """The next act; None when there is none for so long."""
        future: asyncio.Future[Act] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError:
            return None
