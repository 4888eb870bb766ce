"""Every unit is looked at in its turn; one that fails again and again leaves its lease."""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from shirako.actors import probing
from shirako.actors.authority import Unit
from shirako.actors.handling import Handling
from shirako.actors.probing import Probing
from shirako.core.machine import Key
from shirako.handlers import HandlerFailed, Log, UnitJob
from shirako.ledger import CommitFailed
from twin import POOL, TwinWorld, twin_world
from world import until

INTERVAL = 0.05


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "BREATH_SECONDS", 0.0)


@pytest.fixture
async def world() -> AsyncIterator[TwinWorld]:
    async with twin_world() as made:
        yield made


@pytest.fixture
async def look(world: TwinWorld) -> AsyncIterator[Callable[[], Probing]]:
    """Begins to look at the units."""
    begun: list[Probing] = []

    def start() -> Probing:
        made = Probing(world.site, {POOL: INTERVAL})
        made.start()
        begun.append(made)
        return made

    yield start
    for one in begun:
        await one.stop()


Look = Callable[[], Probing]


async def rounds(world: TwinWorld, probes: Probing, number: int = 2) -> None:
    """Until every unit that can be looked at was, so often."""
    before = Counter(world.driver.units("probe"))

    def seen() -> bool:
        now = Counter(world.driver.units("probe"))
        names = [name for name in world.units if probes._standing(name) is not None]
        return all(now[name] - before[name] >= number for name in names)

    await until(seen, lambda: world.driver.units("probe"))


# All is well ----------------------------------------------------------------------------------


async def test_free_units_and_those_at_work_are_looked_at_and_nothing_is_written(
    world: TwinWorld, look: Look
) -> None:
    key = await world.request(units=2)
    await world.reach("guest", key, "Active")
    await asyncio.sleep(0)
    await world.site.settled()
    written = await world.site.read_ledger(lambda ledger: sum(1 for _ in ledger.links()))
    probes = look()
    await rounds(world, probes)
    assert {name: probe.verdict for name, probe in probes.results.items()} == dict.fromkeys(
        world.units, "fit"
    )
    leases = {job.unit: job.lease for job in world.driver.jobs("probe")}
    assert leases == {"n0": key[1], "n1": key[1], "n2": "", "n3": ""}
    assert all(job.epoch == world.unit(job.unit).epoch for job in world.driver.jobs("probe"))
    assert written == await world.site.read_ledger(lambda ledger: sum(1 for _ in ledger.links()))


async def test_units_in_motion_and_in_quarantine_are_left_alone(
    world: TwinWorld, look: Look
) -> None:
    world.driver.dead.add("n0")
    await world.site.submit(lambda role, now: role.unit_lost("n3", "burnt", now, "test"))
    with world.driver.gate_of("setup"):
        key = await world.request()
        await until(lambda: "n0" in world.driver.units("setup"))
        await rounds(world, look())
        assert set(world.driver.units("probe")) == {"n1", "n2"}
    await world.reach("guest", key, "Active")


async def test_a_handler_waits_for_the_probe_that_runs_on_its_unit(
    world: TwinWorld, look: Look
) -> None:
    """The twin itself fails whenever two run on one unit."""
    key = await world.request()
    await world.reach("guest", key, "Active")
    with world.driver.gate_of("probe"):
        look()
        await until(lambda: "n0" in world.driver.units("probe"))
        await world.close(key)
        await world.reach("site", key, "Closing")
        await world.request()
        await asyncio.sleep(INTERVAL)
        assert world.driver.units("teardown") == []
    await world.reach("guest", key, "Closed")
    assert not world.unit("n0").quarantined


# One unit fails ---------------------------------------------------------------------------------


async def test_a_dead_unit_of_a_lease_is_replaced(world: TwinWorld, look: Look) -> None:
    key = await world.request(units=2)
    await world.reach("guest", key, "Active")
    world.driver.dead.add("n1")
    look()
    guest = world.actors["guest"].role
    await until(
        lambda: [unit.unit for unit in guest.leases[key].held] == ["n0", "n2"],
        lambda: guest.leases[key],
    )
    assert world.state("guest", key) == "Active"
    assert not guest.leases[key].degraded
    assert "it does not answer" in world.unit("n1").quarantined
    assert await world.notes("unit/n1") == [("Quarantined", "probe")]
    assert world.site.counters["probes.lost"] == 1
    failed = [job for job in world.driver.jobs("probe") if (job.unit, job.lease) == ("n1", key[1])]
    assert len(failed) >= probing.ATTEMPTS


async def test_a_dead_free_unit_is_handed_out_no_more(world: TwinWorld, look: Look) -> None:
    world.driver.on["n0"].add("account of nobody")
    look()
    await until(lambda: bool(world.unit("n0").quarantined))
    key = await world.request()
    assert [u.unit for u in (await world.reach("guest", key, "Active")).held] == ["n1"]


async def test_without_a_free_unit_the_lease_is_degraded_until_one_comes_free(
    world: TwinWorld, look: Look
) -> None:
    other, key = await world.request(units=1), await world.request(units=3)
    for one in (other, key):
        await world.reach("guest", one, "Active")
    world.driver.dead.add("n2")
    look()
    guest = world.actors["guest"].role
    await until(lambda: bool(guest.leases[key].degraded))
    assert "n2 was lost" in guest.leases[key].degraded
    assert [unit.unit for unit in guest.leases[key].held] == ["n1", "n3"]
    assert world.state("guest", key) == "Active"
    await world.close(other)
    await until(lambda: not guest.leases[key].degraded, lambda: guest.leases[key])
    assert {unit.unit for unit in guest.leases[key].held} == {"n0", "n1", "n3"}


async def test_a_unit_that_hangs_is_dead(
    world: TwinWorld, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probing, "PROBE_SECONDS", 0.05)

    async def hang(job: UnitJob, log: Log) -> None:
        if job.unit == "n1":
            await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(world.driver, "probe", hang)
    look()
    await until(lambda: bool(world.unit("n1").quarantined))
    assert "no answer within 0.05 s" in world.unit("n1").quarantined


# Nobody is blamed --------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [probing.ATTEMPTS - 1, probing.ATTEMPTS + 1])
async def test_a_failure_that_passes_is_forgiven(
    world: TwinWorld, look: Look, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Even at the last look, after another unit has answered: all may have been down until then."""
    failures = iter(range(times))
    well = world.driver.probe

    async def stumble(job: UnitJob, log: Log) -> None:
        if job.unit == "n1" and next(failures, None) is not None:
            raise HandlerFailed("not now")
        await well(job, log)

    monkeypatch.setattr(world.driver, "probe", stumble)
    probes = look()
    await until(lambda: world.site.counters["probes.unfit"] == times)
    await rounds(world, probes)
    assert probes.results["n1"].verdict == "fit"
    assert world.site.counters["probes.unfit"] == times
    assert not world.unit("n1").quarantined


async def test_a_node_that_knows_newer_epochs_than_the_ledger_is_asked_in_a_new_one(
    world: TwinWorld, look: Look
) -> None:
    """A ledger that was restored, or a new one over nodes that are not."""
    for name in world.units:
        world.driver.epochs[name] = 1000 + world.unit(name).epoch
    probes = look()
    await until(lambda: {one.verdict for one in probes.results.values()} == {"fit"})
    await rounds(world, probes)
    assert not any(unit.quarantined for unit in world.site.role.units.values())
    assert world.site.counters["probes.unfit"] == len(world.units) * probing.ATTEMPTS


async def test_what_is_not_the_unit_blames_nobody(world: TwinWorld, look: Look) -> None:
    world.driver.out = "the directory is down"
    probes = look()
    await rounds(world, probes, probing.ATTEMPTS + 1)
    assert probes.results["n2"].verdict == "unknown"
    assert probes.results["n2"].note == "the directory is down"
    assert not any(unit.quarantined for unit in world.site.role.units.values())


async def test_a_driver_that_breaks_blames_nobody(
    world: TwinWorld, look: Look, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(job: UnitJob, log: Log) -> None:
        raise ZeroDivisionError("in the driver")

    monkeypatch.setattr(world.driver, "probe", broken)
    probes = look()
    await until(lambda: probes.results.keys() == set(world.units))
    assert probes.results["n2"].note == "ZeroDivisionError: in the driver"
    assert "in the driver" in caplog.text
    assert not any(unit.quarantined for unit in world.site.role.units.values())


async def test_when_no_unit_answers_the_network_is_down_and_not_the_units(
    world: TwinWorld, look: Look
) -> None:
    key = await world.request(units=2)
    await world.reach("guest", key, "Active")
    world.driver.dead |= set(world.units)
    look()
    await until(lambda: world.site.counters["probes.unproven"] >= 4)
    assert not any(unit.quarantined for unit in world.site.role.units.values())
    world.driver.dead = {"n0"}
    await until(lambda: bool(world.unit("n0").quarantined))
    assert [name for name in world.units if world.unit(name).quarantined] == ["n0"]


async def test_a_single_unit_needs_no_witness() -> None:
    async with twin_world(units=1) as world:
        world.driver.dead.add("n0")
        probes = Probing(world.site, {POOL: INTERVAL})
        probes.start()
        await until(lambda: bool(world.unit("n0").quarantined))
        await probes.stop()


async def test_a_unit_that_changed_hands_meanwhile_is_not_blamed(
    world: TwinWorld, look: Look, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = await world.request()
    await world.reach("guest", key, "Active")
    asked, closing = asyncio.Event(), asyncio.Event()

    async def fail(job: UnitJob, log: Log) -> None:
        if job.lease:
            asked.set()
            await closing.wait()
            raise HandlerFailed("the account is gone")

    monkeypatch.setattr(world.driver, "probe", fail)
    look()
    await asked.wait()
    await world.close(key)
    await world.reach("site", key, "Closing")
    closing.set()
    await world.reach("guest", key, "Closed")
    assert world.site.counters["probes.unfit"] == 0
    assert not world.unit("n0").quarantined


async def test_a_ledger_that_can_not_be_written_puts_it_off(
    world: TwinWorld,
    look: Look,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object) -> None:
        raise CommitFailed("the disk is full")

    world.driver.dead.add("n1")
    with monkeypatch.context() as patch:
        patch.setattr(world.ledgers["site"], "commit", full)
        look()
        await until(lambda: "n1 stays as it is for now" in caplog.text)
        await world.site.settled()
        assert not world.unit("n1").quarantined
    await until(lambda: bool(world.unit("n1").quarantined))


# The rota ---------------------------------------------------------------------------------------


class _SkippingLoop(asyncio.SelectorEventLoop):
    """Time goes on at once to the next thing that somebody waits for."""

    def __init__(self) -> None:
        super().__init__()
        self.skipped = 0.0

    def time(self) -> float:
        return self.skipped

    def _run_once(self) -> None:
        ready, timers = self._ready, self._scheduled  # type: ignore[attr-defined]
        while timers and timers[0]._cancelled:
            heapq.heappop(timers)._scheduled = False
        if not ready and timers:
            self.skipped = max(self.skipped, timers[0]._when)
        super()._run_once()  # type: ignore[misc]


def in_no_time(doing: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=_SkippingLoop) as runner:
        runner.run(doing)


class Watch:
    """A performer that notes who is looked at when, and takes its time."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.times: list[tuple[str, float]] = []
        self.seconds = seconds
        self.now = 0
        self.most = 0

    async def probe(self, unit: str, epoch: int, tell: Log, holder: Key | None = None) -> None:
        self.times.append((unit, asyncio.get_running_loop().time()))
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self.seconds)
        self.now -= 1


def still_actor(performer: Watch, units: int) -> Any:
    """An authority of free units that nothing happens to."""
    handling: Any = Handling(performer, None, None, None, None, None)  # type: ignore[arg-type]
    role = SimpleNamespace(
        units={f"n{n}": Unit(name=f"n{n}", type=POOL) for n in range(units)},
        leases={},
        held=False,
    )
    clock = SimpleNamespace(tick=lambda: 1)
    return SimpleNamespace(
        role=role, performer=performer, handling=handling, clock=clock, counters=Counter()
    )


def test_a_pool_is_spread_evenly_over_the_interval() -> None:
    watch = Watch()

    async def three_intervals() -> None:
        probes = Probing(still_actor(watch, 10), {POOL: 60.0, "none": 60.0})
        probes.start()
        await asyncio.sleep(179.0)
        await probes.stop()

    in_no_time(three_intervals())
    wanted = [(f"n{n % 10}", 60.0 + 6.0 * n) for n in range(20)]
    assert [(unit, round(time, 6)) for unit, time in watch.times] == wanted


def test_a_pool_that_is_off_is_not_looked_at() -> None:
    watch = Watch()

    async def a_day() -> None:
        probes = Probing(still_actor(watch, 3), {POOL: 0})
        probes.start()
        await asyncio.sleep(86_400)
        await probes.stop()

    in_no_time(a_day())
    assert watch.times == []


def test_slow_units_are_looked_at_in_turn_and_not_all_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What does not fit into the interval makes the round longer."""
    monkeypatch.setattr(probing, "BREATH_SECONDS", 0.25)
    watch = Watch(seconds=30.0)

    async def an_hour() -> None:
        probes = Probing(still_actor(watch, 100), {POOL: 60.0})
        probes.start()
        await asyncio.sleep(3600)
        await probes.stop()

    in_no_time(an_hour())
    assert watch.most == probing.PROBES_AT_ONCE
    seen = Counter(unit for unit, _ in watch.times)
    assert len(seen) == 100
    assert max(seen.values()) - min(seen.values()) <= 1
    assert len(watch.times) >= 0.9 * (3600 - 60) / 30 * probing.PROBES_AT_ONCE


def test_a_large_pool_is_woken_for_a_few_times_a_second() -> None:
    """100 units a second: sleeping for each of them would be most of the work."""
    watch = Watch()
    slept = 0
    sleep = asyncio.sleep

    async def counted(seconds: float) -> None:
        nonlocal slept
        slept += 1
        await sleep(seconds)

    async def two_intervals() -> None:
        probes = Probing(still_actor(watch, 6000), {POOL: 60.0})
        probes.start()
        await sleep(119.9)
        await probes.stop()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probing, "BREATH_SECONDS", 0.25)
        patch.setattr("shirako.actors.probing.asyncio.sleep", counted)
        in_no_time(two_intervals())
    assert len({unit for unit, _ in watch.times}) >= 5900
    watched = sum(1 for _ in watch.times)
    assert slept - watched <= 60 / 0.25 + 2, "each probe of the test sleeps once, too"
