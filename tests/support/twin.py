"""A driver whose nodes are sets of names in memory, which tests can look at and spoil."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any, ClassVar

from shirako import handlers
from shirako.actors.performing import Pool, SitePerformer
from shirako.core.machine import Key
from shirako.handlers import Difference, HandlerFailed, Log, Unavailable, UnitJob
from world import NAMES, World

POOL = "node"


class TwinDriver:
    """Sets up a unit by putting the lease's name on it; holds every rule a real node would."""

    Options: ClassVar[type[handlers.Options]] = handlers.Options

    def __init__(self) -> None:
        self.on: defaultdict[str, set[str]] = defaultdict(set)
        """What is on each unit: `account LEASE`, or what a test put there."""
        self.loose: set[str] = set()
        """What is about no unit."""
        self.epochs: defaultdict[str, int] = defaultdict(int)
        self.dead: set[str] = set()
        self.unmendable: set[str] = set()
        self.out = ""
        """Why nothing that is not the unit answers; empty: it does."""
        self.gates: dict[str, asyncio.Event] = {}
        """Handlers of these names wait until their gate is opened."""
        self.done: list[tuple[str, UnitJob | None]] = []
        self._inside: set[str] = set()

    def jobs(self, handler: str) -> list[UnitJob]:
        """The units that a handler was run on, as it was told of them."""
        return [job for name, job in self.done if name == handler and job is not None]

    def units(self, handler: str) -> list[str]:
        return [job.unit for job in self.jobs(handler)]

    async def setup(self, job: UnitJob, log: Log) -> Mapping[str, str]:
        async with self._alone("setup", job):
            self.on[job.unit].add(f"account {job.lease}")
            return {"host": job.unit}

    async def teardown(self, job: UnitJob, log: Log) -> tuple[str, ...]:
        async with self._alone("teardown", job):
            self.on[job.unit].discard(f"account {job.lease}")
            return ("account_gone",)

    async def probe(self, job: UnitJob, log: Log) -> None:
        async with self._alone("probe", job):
            for difference in self._differences(job):
                raise HandlerFailed(f"{difference.what} is {difference.fault}")

    async def survey(self, jobs: Sequence[UnitJob], log: Log) -> Sequence[Difference]:
        await self._pass("survey", None)
        found = [one for job in jobs for one in self._differences(job)]
        return [*found, *(_difference("", what, "left over") for what in sorted(self.loose))]

    async def mend(self, differences: Sequence[Difference], job: UnitJob | None, log: Log) -> None:
        if job is None:
            await self._pass("mend", None)
            self.loose -= {one.what for one in differences}
            return
        async with self._alone("mend", job):
            if job.unit in self.unmendable:
                raise HandlerFailed("its disk is full")
            log(f"mends {len(differences)}")
            self.on[job.unit] = self._wanted(job)

    async def close(self) -> None:
        """Nothing to give back."""

    def _wanted(self, job: UnitJob) -> set[str]:
        return {f"account {job.lease}"} if job.lease else set()

    def _differences(self, job: UnitJob) -> Iterator[Difference]:
        if job.unit in self.dead:
            yield _difference(job.unit, "it does not answer", "changed")
            return
        there, wanted = self.on[job.unit], self._wanted(job)
        yield from (_difference(job.unit, what, "left over") for what in sorted(there - wanted))
        yield from (_difference(job.unit, what, "missing") for what in sorted(wanted - there))

    async def _pass(self, handler: str, job: UnitJob | None) -> None:
        self.done.append((handler, job))
        if handler in self.gates:
            await self.gates[handler].wait()
        if self.out:
            raise Unavailable(self.out)

    @asynccontextmanager
    async def _alone(self, handler: str, job: UnitJob) -> AsyncIterator[None]:
        """EXCLUSIVE on the node: one handler at a time, and none of an older assignment."""
        assert job.unit not in self._inside, f"{handler} of {job.unit}: another handler runs there"
        if handler == "probe" and job.epoch < self.epochs[job.unit]:
            raise HandlerFailed(f"stale: epoch {job.epoch}")
        assert job.epoch >= self.epochs[job.unit], f"{handler} of {job.unit}: of an old assignment"
        self.epochs[job.unit] = job.epoch
        self._inside.add(job.unit)
        try:
            await self._pass(handler, job)
            if job.unit in self.dead:
                raise HandlerFailed("it does not answer")
            yield
        finally:
            self._inside.discard(job.unit)

    @contextmanager
    def gate_of(self, handler: str) -> Iterator[None]:
        """Handlers of this name wait as long as the block lasts."""
        self.gates[handler] = asyncio.Event()
        try:
            yield
        finally:
            self.gates.pop(handler).set()


def _difference(unit: str, what: str, fault: Any) -> Difference:
    return Difference(unit=unit, where="node", what=what, fault=fault)


class TwinWorld(World):
    """Three actors, the site with units of the twin's."""

    def __init__(self, units: int = 4) -> None:
        super().__init__(units)
        self.driver = TwinDriver()
        pool = Pool(
            type=POOL,
            units={name: {} for name in self.units},
            drivers=[self.driver],
            setup_timeout=5.0,
            teardown_timeout=5.0,
            driver_names=["twin"],
        )
        self.performer = SitePerformer({POOL: pool}, self._lease_of)
        self.hands["site"] = self.performer  # type: ignore[assignment] # does what hands do

    def _lease_of(self, key: Key) -> Any:
        return self.actors["site"].role.leases.get(key)

    @property
    def site(self) -> Any:
        """The site's actor."""
        return self.actors["site"]

    def unit(self, name: str) -> Any:
        """The site's record of a unit."""
        return self.site.role.units[name]

    async def notes(self, about: str) -> list[tuple[str, str]]:
        """What the audit record has about something: what was done, and by whom."""
        entries = await self.site.read_ledger(lambda ledger: ledger.story(about))
        return [(entry.what, entry.by) for entry in entries]


@asynccontextmanager
async def twin_world(units: int = 4) -> AsyncIterator[TwinWorld]:
    """A world whose broker may sell all units."""
    made = TwinWorld(units)
    for name in NAMES:
        await made.start(name)
    try:
        await made.delegate(units)
        yield made
    finally:
        for actor in made.actors.values():
            await actor.stop()
