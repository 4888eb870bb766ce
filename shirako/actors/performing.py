"""From a piece of work in a record to a handler of a driver, with all that it may know."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from shirako.actors.handling import Outcome, within
from shirako.core.authority import SiteLease
from shirako.core.guest import GuestLease
from shirako.core.machine import Key, Work
from shirako.handlers import (
    Difference,
    Driver,
    GuestDriver,
    HandlerFailed,
    Log,
    Unavailable,
    UnitJob,
)

SURVEY_SECONDS = 300.0
"""Within this a driver has looked at all units of a pool."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """How the units of one type are configured."""

    type: str
    units: Mapping[str, Mapping[str, str]]
    """Each unit's attributes, by its name."""
    drivers: Sequence[Driver]
    setup_timeout: float
    teardown_timeout: float
    driver_names: Sequence[str] = ()
    """What the drivers are called, for people."""

    def driver_name(self, number: int) -> str:
        if number < len(self.driver_names):
            return self.driver_names[number]
        return type(self.drivers[number]).__name__


@dataclass(frozen=True, slots=True)
class Found:
    """A difference, and the number of the pool's driver that found it, and can mend it."""

    driver: int
    difference: Difference


@dataclass(frozen=True, slots=True)
class Blind:
    """A driver that could not look, and why."""

    type: str
    driver: str
    reason: str


class SitePerformer:
    """Runs a pool's drivers: in order to set up, in reverse to tear down."""

    def __init__(
        self, pools: Mapping[str, Pool], lease_of: Callable[[Key], SiteLease | None]
    ) -> None:
        self.pools = pools
        self._lease_of = lease_of
        self._pool_of = {unit: pool for pool in pools.values() for unit in pool.units}

    async def perform(self, key: Key, work: Work, tell: Log) -> Outcome:
        lease = self._lease_of(key)
        pool = self._pool_of.get(work.unit)
        if lease is None or pool is None:
            raise HandlerFailed(f"{work.unit} is not a unit of this site any more")
        job = site_job(lease, work.unit, work.epoch, pool)
        if work.handler == "setup":
            return await within(pool.setup_timeout, "set-up", self._setup(pool, job, tell))
        return await within(pool.teardown_timeout, "teardown", self._teardown(pool, job, tell))

    def job(self, unit: str, epoch: int, lease: SiteLease | None) -> UnitJob:
        """What drivers are told of a unit that nothing is being done to; `lease`: who holds it."""
        pool = self._pool_of[unit]
        if lease is not None:
            return site_job(lease, unit, epoch, pool)
        return UnitJob(
            unit=unit,
            epoch=epoch,
            lease="",
            slice="",
            type=pool.type,
            end=0,
            node=pool.units[unit],
            properties={},
            keys=(),
            outputs={},
        )

    async def probe(self, unit: str, epoch: int, tell: Log, holder: Key | None = None) -> None:
        """Check a unit that nothing is being done to; raises `HandlerFailed` or `Unavailable`.

        It is the node that knows of epochs: a check in the name of an older one is refused.
        """
        job = self.job(unit, epoch, self._lease_of(holder) if holder else None)
        missing: Unavailable | None = None  # what others find about the unit counts all the same
        for driver in self._pool_of[unit].drivers:
            try:
                await driver.probe(job, tell)
            except Unavailable as error:
                missing = missing or error
        if missing is not None:
            raise missing

    async def survey(self, pool: Pool, jobs: Sequence[UnitJob]) -> tuple[list[Found], list[Blind]]:
        """What the drivers of a pool find that is not as the jobs say, and who could not look.

        The jobs are about all units of the pool that nothing is being done to.
        """
        looked = await asyncio.gather(
            *(self._look(pool, number, jobs) for number in range(len(pool.drivers)))
        )
        found = [one for result in looked if isinstance(result, list) for one in result]
        return found, [one for one in looked if isinstance(one, Blind)]

    async def _look(self, pool: Pool, number: int, jobs: Sequence[UnitJob]) -> list[Found] | Blind:
        name = pool.driver_name(number)
        lines: list[str] = []
        try:
            async with asyncio.timeout(SURVEY_SECONDS):
                differences = await pool.drivers[number].survey(jobs, lines.append)
        except TimeoutError:
            return Blind(pool.type, name, f"it did not look within {SURVEY_SECONDS:g} s")
        except (HandlerFailed, Unavailable) as error:
            return Blind(pool.type, name, str(error))
        except Exception as error:
            log.exception("survey of %s by %s broke", pool.type, name)
            return Blind(pool.type, name, f"{type(error).__name__}: {error}")
        return [Found(number, difference) for difference in differences]

    async def mend(
        self,
        pool: Pool,
        driver: int,
        differences: Sequence[Difference],
        job: UnitJob | None,
        tell: Log,
    ) -> None:
        """Let the driver that found them mend differences of one unit, or of none.

        Raises `HandlerFailed` or `Unavailable`.
        """
        makes = job is not None and job.lease
        seconds = pool.setup_timeout if makes else pool.teardown_timeout
        try:
            async with asyncio.timeout(seconds):
                await pool.drivers[driver].mend(differences, job, tell)
        except TimeoutError as error:
            raise HandlerFailed(f"mending did not end within {seconds:g} s") from error

    async def _setup(self, pool: Pool, job: UnitJob, tell: Log) -> Outcome:
        outputs: dict[str, str] = {}
        for driver in pool.drivers:
            outputs.update(
                await driver.setup(replace(job, outputs={**job.outputs, **outputs}), tell)
            )
        return Outcome(outputs=outputs)

    async def _teardown(self, pool: Pool, job: UnitJob, tell: Log) -> Outcome:
        checks: list[str] = []
        for driver in reversed(pool.drivers):
            checks.extend(await driver.teardown(job, tell))
        return Outcome(checks=tuple(checks))

    async def close(self) -> None:
        for pool in self.pools.values():
            for driver in pool.drivers:
                await driver.close()


def site_job(lease: SiteLease, unit: str, epoch: int, pool: Pool) -> UnitJob:
    """What the authority's handlers are told."""
    outputs = next((a.outputs for a in lease.assignments if (a.unit, a.epoch) == (unit, epoch)), {})
    return UnitJob(
        unit=unit,
        epoch=epoch,
        lease=lease.id,
        slice=lease.slice,
        type=lease.type,
        end=lease.term.end,
        node=pool.units[unit],
        # whose slice it is: equal names of two guests' slices are two slices
        properties={**lease.configuration, "guest": lease.guest.kid},
        keys=lease.keys,
        outputs=outputs,
    )


class GuestPerformer:
    """Runs a service manager's guest drivers: in order to join, in reverse to leave."""

    def __init__(
        self,
        drivers: Sequence[GuestDriver],
        timeout: float,
        lease_of: Callable[[Key], GuestLease | None],
    ) -> None:
        self._drivers = drivers
        self._timeout = timeout
        self._lease_of = lease_of

    async def perform(self, key: Key, work: Work, tell: Log) -> Outcome:
        lease = self._lease_of(key)
        held = lease.unit(work.unit, work.epoch) if lease else None
        if lease is None or held is None:
            raise HandlerFailed(f"{work.unit} is not held any more")
        job = UnitJob(
            unit=work.unit,
            epoch=work.epoch,
            lease=lease.id,
            slice=lease.slice,
            type=lease.type,
            end=lease.term.end,
            node={},
            properties=lease.configuration,
            keys=lease.keys,
            outputs=held.properties,
        )
        handler = self._leave if work.handler == "leave" else self._join
        return await within(self._timeout, work.handler, handler(job, tell))

    async def _join(self, job: UnitJob, tell: Log) -> Outcome:
        outputs: dict[str, str] = {}
        for driver in self._drivers:
            outputs.update(await driver.join(job, tell))
        return Outcome(outputs=outputs)

    async def _leave(self, job: UnitJob, tell: Log) -> Outcome:
        for driver in reversed(self._drivers):
            await driver.leave(job, tell)
        return Outcome()

    async def probe(self, unit: str, epoch: int, tell: Log, holder: Key | None = None) -> None:
        raise HandlerFailed(f"{unit} is not ours to check")

    async def close(self) -> None:
        for driver in self._drivers:
            await driver.close()


class NoPerformer:
    """For brokers, who have no handlers."""

    async def perform(self, key: Key, work: Work, tell: Log) -> Outcome:
        raise HandlerFailed(f"a broker runs no {work.handler}")

    async def probe(self, unit: str, epoch: int, tell: Log, holder: Key | None = None) -> None:
        raise HandlerFailed(f"{unit} is not ours to check")

    async def close(self) -> None:
        """Nothing to give back."""
