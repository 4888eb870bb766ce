"""From a piece of work in a record to a handler of a driver, with all that it may know."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from shirako.actors.handling import Outcome, within
from shirako.core.authority import SiteLease
from shirako.core.guest import GuestLease
from shirako.core.machine import Key, Work
from shirako.handlers import Driver, GuestDriver, HandlerFailed, Log, UnitJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """How the units of one type are configured."""

    type: str
    units: Mapping[str, Mapping[str, str]]
    """Each unit's attributes, by its name."""
    drivers: Sequence[Driver]
    setup_timeout: float
    teardown_timeout: float


class SitePerformer:
    """Runs a pool's drivers: in order to set up, in reverse to tear down."""

    def __init__(
        self, pools: Mapping[str, Pool], lease_of: Callable[[Key], SiteLease | None]
    ) -> None:
        self._pools = pools
        self._lease_of = lease_of
        self._pool_of = {unit: pool for pool in pools.values() for unit in pool.units}

    async def perform(self, key: Key, work: Work, tell: Log) -> Outcome:
        lease = self._lease_of(key)
        pool = self._pool_of.get(work.unit)
        if lease is None or pool is None:
            raise HandlerFailed(f"{work.unit} is not a unit of this site any more")
        job = site_job(lease, work, pool)
        if work.handler == "setup":
            return await within(pool.setup_timeout, "set-up", self._setup(pool, job, tell))
        return await within(pool.teardown_timeout, "teardown", self._teardown(pool, job, tell))

    async def probe(self, unit: str, epoch: int, tell: Log) -> None:
        """Check a unit that no lease holds; raises `HandlerFailed` or `Unavailable`.

        It is the node that knows of epochs: a check in the name of an older one is refused.
        """
        pool = self._pool_of[unit]
        job = UnitJob(
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
        for driver in pool.drivers:
            await driver.probe(job, tell)

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
        for pool in self._pools.values():
            for driver in pool.drivers:
                await driver.close()


def site_job(lease: SiteLease, work: Work, pool: Pool) -> UnitJob:
    """What the authority's handlers are told."""
    outputs = next(
        (a.outputs for a in lease.assignments if (a.unit, a.epoch) == (work.unit, work.epoch)), {}
    )
    return UnitJob(
        unit=work.unit,
        epoch=work.epoch,
        lease=lease.id,
        slice=lease.slice,
        type=lease.type,
        end=lease.term.end,
        node=pool.units[work.unit],
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
        held = [u for u in lease.held if u.unit == work.unit] if lease else []
        if lease is None or not held:
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
            outputs=held[0].properties,
        )
        doing: Awaitable[Outcome] = self._join(job, tell)
        if work.handler == "leave":
            doing = self._leave(job, tell)
        return await within(self._timeout, work.handler, doing)

    async def _join(self, job: UnitJob, tell: Log) -> Outcome:
        outputs: dict[str, str] = {}
        for driver in self._drivers:
            outputs.update(await driver.join(job, tell))
        return Outcome(outputs=outputs)

    async def _leave(self, job: UnitJob, tell: Log) -> Outcome:
        for driver in reversed(self._drivers):
            await driver.leave(job, tell)
        return Outcome()

    async def probe(self, unit: str, epoch: int, tell: Log) -> None:
        raise HandlerFailed(f"{unit} is not ours to check")

    async def close(self) -> None:
        for driver in self._drivers:
            await driver.close()


class NoPerformer:
    """For brokers, who have no handlers."""

    async def perform(self, key: Key, work: Work, tell: Log) -> Outcome:
        raise HandlerFailed(f"a broker runs no {work.handler}")

    async def probe(self, unit: str, epoch: int, tell: Log) -> None:
        raise HandlerFailed(f"{unit} is not ours to check")

    async def close(self) -> None:
        """Nothing to give back."""
