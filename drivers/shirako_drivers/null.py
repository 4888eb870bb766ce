"""Drivers that touch no unit: for simulations, benchmarks and tests of failures."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from shirako import handlers
from shirako.handlers import Difference, HandlerFailed, Log, Options, UnitJob


def _comma_list(value: object) -> object:
    if isinstance(value, str):
        return frozenset(name.strip() for name in value.split(",") if name.strip())
    return value


class _Pretence(Options):
    delay: float = Field(default=0.0, ge=0.0, le=86400.0)
    """How long each handler takes, in seconds."""
    fail_units: Annotated[frozenset[str], BeforeValidator(_comma_list)] = frozenset()
    """Units for which handler `fail` fails, a comma-separated list; none means all units."""

    async def act(self, handler: str, job: UnitJob, fail: str, hang: str) -> None:
        """Take the time, or end, as the options say; raises `HandlerFailed`."""
        if hang == handler:
            await asyncio.get_running_loop().create_future()
        if self.delay:
            await asyncio.sleep(self.delay)
        if fail == handler and (not self.fail_units or job.unit in self.fail_units):
            raise HandlerFailed(f"{handler} of {job.unit} fails because the options say so")


class NullOptions(_Pretence):
    """What is pretended."""

    fail: Literal["", "setup", "teardown", "probe"] = ""
    hang: Literal["", "setup", "teardown", "probe"] = ""
    """Handler that never returns; it ends only when it is cancelled."""


class NullDriver:
    """Authority side; returns the unit's own name as its host."""

    Options: ClassVar[type[handlers.Options]] = NullOptions

    def __init__(self, options: NullOptions) -> None:
        self._options = options

    async def setup(self, job: UnitJob, log: Log) -> Mapping[str, str]:
        await self._act("setup", job)
        log(f"{job.unit} is set up (nothing was touched)")
        return {"host": job.unit}

    async def teardown(self, job: UnitJob, log: Log) -> tuple[str, ...]:
        await self._act("teardown", job)
        log(f"{job.unit} is torn down (nothing was touched)")
        return ("nothing_was_touched",)

    async def probe(self, job: UnitJob, log: Log) -> None:
        await self._act("probe", job)

    async def survey(self, jobs: Sequence[UnitJob], log: Log) -> Sequence[Difference]:
        return ()

    async def mend(self, differences: Sequence[Difference], job: UnitJob | None, log: Log) -> None:
        """There is nothing to mend."""

    async def close(self) -> None:
        """There is nothing to give back."""

    async def _act(self, handler: str, job: UnitJob) -> None:
        await self._options.act(handler, job, self._options.fail, self._options.hang)


class NullGuestOptions(_Pretence):
    """What is pretended."""

    fail: Literal["", "join", "leave"] = ""
    hang: Literal["", "join", "leave"] = ""
    """Handler that never returns; it ends only when it is cancelled."""


class NullGuest:
    """Guest side; joins nothing."""

    Options: ClassVar[type[handlers.Options]] = NullGuestOptions

    def __init__(self, options: NullGuestOptions) -> None:
        self._options = options

    async def join(self, job: UnitJob, log: Log) -> Mapping[str, str]:
        await self._act("join", job)
        log(f"{job.unit} has joined (nothing was touched)")
        return {"joined": "true"}

    async def leave(self, job: UnitJob, log: Log) -> None:
        await self._act("leave", job)
        log(f"{job.unit} has left (nothing was touched)")

    async def close(self) -> None:
        """There is nothing to give back."""

    async def _act(self, handler: str, job: UnitJob) -> None:
        await self._options.act(handler, job, self._options.fail, self._options.hang)
