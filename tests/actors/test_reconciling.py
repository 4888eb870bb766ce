"""Ledger, directory and nodes are held against one another, and what differs is mended."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shirako.actors import performing, reconciling
from shirako.actors.authority import Unit
from shirako.actors.performing import Pool, SitePerformer
from shirako.actors.reconciling import Report, contradictions, fit_again, reconcile
from shirako.actors.role import Refused
from shirako.handlers import Difference, HandlerFailed, Log, Unavailable, UnitJob
from twin import POOL, TwinDriver, TwinWorld, twin_world
from world import until


@pytest.fixture
async def world() -> AsyncIterator[TwinWorld]:
    async with twin_world() as made:
        yield made


async def compare(world: TwinWorld) -> Report:
    return await reconcile(world.site, world.performer, dry_run=True, by="ann")


async def mend(world: TwinWorld) -> Report:
    return await reconcile(world.site, world.performer, dry_run=False, by="ann")


def told(report: Report) -> list[tuple[str, str, str, str]]:
    """Unit, fault, what and what became of it."""
    return [(one.unit, one.fault, one.what, one.done) for one in report.findings]


async def active(world: TwinWorld, units: int = 1) -> Any:
    key = await world.request(units=units)
    await world.reach("guest", key, "Active")
    return key


# Differences ----------------------------------------------------------------------------------


async def test_nothing_differs(world: TwinWorld) -> None:
    await active(world, 2)
    for report in (await compare(world), await mend(world)):
        assert (report.findings, report.busy, report.blind) == ((), (), ())
        assert report.units == 4
    assert "mend" not in {handler for handler, _ in world.driver.done}
    for name in world.units:
        assert await world.notes(f"unit/{name}") == []


async def test_a_dry_run_shows_what_differs_and_changes_nothing(world: TwinWorld) -> None:
    key = await active(world)
    world.driver.on["n0"].clear()
    world.driver.on["n2"].add("account s-old")
    world.driver.loose.add("ou=old")
    before = dict(world.site.role.units)
    report = await compare(world)
    assert told(report) == [
        ("n0", "missing", f"account {key[1]}", "shown"),
        ("n2", "left over", "account s-old", "shown"),
        ("", "left over", "ou=old", "shown"),
    ]
    assert [one.lease for one in report.findings] == [key, None, None]
    assert world.site.role.units == before
    assert world.driver.on["n2"] == {"account s-old"}
    assert await compare(world) == report


async def test_what_differs_is_mended_and_told_in_the_audit_record(world: TwinWorld) -> None:
    key = await active(world)
    world.driver.on["n0"].clear()
    world.driver.on["n2"].add("account s-old")
    world.driver.loose.add("ou=old")
    epochs = {name: world.unit(name).epoch for name in world.units}
    report = await mend(world)
    assert [done for *_, done in told(report)] == ["mended"] * 3
    assert world.driver.on["n0"] == {f"account {key[1]}"}
    assert (world.driver.on["n2"], world.driver.loose) == (set(), set())
    assert told(await compare(world)) == []
    assert world.unit("n0").epoch == epochs["n0"], "a lease's unit was given to somebody else"
    assert world.unit("n2").epoch > epochs["n2"], "what an old handler left may still run there"
    assert [job.epoch for job in world.driver.jobs("mend")] == [
        world.unit("n0").epoch,
        world.unit("n2").epoch,
    ]
    assert await world.notes("unit/n2") == [
        ("Mending", "ann"),
        ("log", "mend n2"),
        ("Mended", "ann"),
    ]
    assert await world.notes("unit/n0") == [("Mending", "ann"), ("Mended", "ann")]
    story = await world.notes("/".join(key))
    assert ("log", "mend n0") in story, "the guest's site story tells what was done to its unit"
    assert await world.notes(f"pool/{POOL}") == [("Mending", "ann")]


async def test_a_unit_that_left_the_site_is_mended_as_no_unit(
    world: TwinWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    stray = Difference(unit="n99", where="directory", what="cn=n99", fault="left over")
    mended: list[UnitJob | None] = []

    async def survey(jobs: Sequence[UnitJob], log: Log) -> Sequence[Difference]:
        return [] if mended else [stray]

    async def note_it(differences: Sequence[Difference], job: UnitJob | None, log: Log) -> None:
        mended.append(job)

    monkeypatch.setattr(world.driver, "survey", survey)
    monkeypatch.setattr(world.driver, "mend", note_it)
    assert told(await mend(world)) == [("n99", "left over", "cn=n99", "mended")]
    assert mended == [None]


# What can not be mended -----------------------------------------------------------------------


async def test_a_dead_unit_of_a_lease_is_replaced(world: TwinWorld) -> None:
    key = await active(world, 2)
    world.driver.dead.add("n1")
    report = await mend(world)
    assert told(report) == [("n1", "changed", "it does not answer", "left")]
    guest = world.actors["guest"].role
    await until(lambda: [unit.unit for unit in guest.leases[key].held] == ["n0", "n2"])
    assert "it does not answer" in world.unit("n1").quarantined
    assert [what for what, _ in await world.notes("unit/n1")] == [
        "Mending",
        "MendFailed",
        "Quarantined",
    ]


async def test_an_idle_unit_that_stays_dirty_is_handed_out_no_more(world: TwinWorld) -> None:
    """CLEAN"""
    world.driver.on["n0"].add("account s-old")
    world.driver.unmendable.add("n0")
    (finding,) = (await mend(world)).findings
    assert (finding.done, finding.note) == ("left", "its disk is full")
    assert world.unit("n0").quarantined == "its disk is full"
    key = await active(world)
    assert [unit.unit for unit in world.actors["guest"].role.leases[key].held] == ["n1"]
    world.driver.unmendable.clear()
    (finding,) = (await mend(world)).findings
    assert finding.done == "mended", "a unit in quarantine is cleaned as well"
    assert world.unit("n0").quarantined, "and stays there until it is released"


async def test_what_does_not_answer_is_told_and_blames_nobody(world: TwinWorld) -> None:
    await active(world)
    world.driver.out = "the directory is down"
    for report in (await compare(world), await mend(world)):
        assert told(report) == []
        assert [(one.driver, one.reason) for one in report.blind] == [
            ("twin", "the directory is down")
        ]
    assert not any(unit.quarantined for unit in world.site.role.units.values())


async def test_what_goes_down_in_between_leaves_the_rest_for_later(
    world: TwinWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.driver.on["n0"].add("account s-old")
    world.driver.loose.add("ou=old")
    monkeypatch.setattr(world.driver, "mend", _down)
    report = await mend(world)
    assert [(one.done, one.note) for one in report.findings] == [("left", "down")] * 2
    assert not world.unit("n0").quarantined


async def _down(*_: object) -> None:
    raise Unavailable("down")


async def test_what_only_seems_to_be_mended_is_left(
    world: TwinWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.driver.on["n0"].add("account s-old")

    async def pretend(differences: Sequence[Difference], job: UnitJob | None, log: Log) -> None:
        world.driver.on["n1"].add("turned up")

    monkeypatch.setattr(world.driver, "mend", pretend)
    report = await mend(world)
    assert [(one.unit, one.done, one.note) for one in report.findings] == [
        ("n0", "left", "it is still there after mending"),
        ("n1", "left", "it turned up meanwhile"),
    ]


async def test_a_driver_that_breaks_takes_nothing_with_it(
    world: TwinWorld, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world.driver.on["n0"].add("account s-old")
    world.driver.loose.add("ou=old")

    async def broken(*_: object) -> None:
        raise ZeroDivisionError("in the driver")

    monkeypatch.setattr(world.driver, "mend", broken)
    report = await mend(world)
    assert {one.note for one in report.findings} == {"ZeroDivisionError: in the driver"}
    assert not world.unit("n0").quarantined
    monkeypatch.setattr(world.driver, "survey", broken)
    (blind,) = (await mend(world)).blind
    assert blind.reason == "ZeroDivisionError: in the driver"
    assert "in the driver" in caplog.text


async def test_what_takes_too_long_is_given_up(
    world: TwinWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.driver.on["n0"].add("account s-old")
    hasty = dataclasses.replace(world.performer.pools[POOL], teardown_timeout=0.05)
    world.performer.pools = {POOL: hasty}
    with world.driver.gate_of("mend"):
        (finding,) = (await mend(world)).findings
    assert finding.note == "mending did not end within 0.05 s"
    monkeypatch.setattr(performing, "SURVEY_SECONDS", 0.05)
    with world.driver.gate_of("survey"):
        (blind,) = (await mend(world)).blind
    assert blind.reason == "it did not look within 0.05 s"


async def test_what_there_is_no_time_for_is_left(
    world: TwinWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.driver.on["n0"].add("account s-old")
    monkeypatch.setattr(reconciling, "MENDING_SECONDS", -1.0)
    (finding,) = (await mend(world)).findings
    assert (finding.done, finding.note) == (
        "left",
        "there was no time left for it: run it again",
    )


# Units in motion ------------------------------------------------------------------------------


async def test_units_in_motion_are_left_out(world: TwinWorld) -> None:
    with world.driver.gate_of("setup"):
        await world.request()
        await until(lambda: "n0" in world.driver.units("setup"))
        world.driver.on["n0"].add("account s-old")
        report = await mend(world)
        assert (report.busy, told(report), report.units) == (("n0",), [], 3)


async def test_a_lost_unit_is_in_motion_until_it_is_cleaned(world: TwinWorld) -> None:
    """It is no lease's any more, and its teardown still runs."""
    key = await active(world)
    with world.driver.gate_of("teardown"):
        await world.site.submit(lambda role, now: role.unit_lost("n0", "fan", now, "test"))
        await until(lambda: "n0" in world.driver.units("teardown"))
        await until(lambda: len(world.site.role.leases[key].working) == 1)
        assert (await mend(world)).busy == ("n0",)
        with pytest.raises(Refused, match="still being cleaned"):
            await asyncio.wait_for(_release_at_once(world), 5)
    await until(lambda: not world.site.role.leases[key].work)
    assert (await mend(world)).busy == ()


async def _release_at_once(world: TwinWorld) -> None:
    """As `fit_again` would begin, without waiting for the teardown's end."""
    await world.site.submit(
        lambda role, now: reconciling._begin_release(role, world.performer, "n0", now, "ann")
    )


async def test_what_changes_hands_while_it_is_looked_at_is_not_told(world: TwinWorld) -> None:
    """The account of a lease that came in between is no left-over."""
    with world.driver.gate_of("survey"):
        comparing = asyncio.create_task(mend(world))
        await until(lambda: ("survey", None) in world.driver.done)
        key = await active(world, 2)
    report = await comparing
    assert (told(report), report.busy) == ([], ("n0", "n1"))
    assert world.driver.on["n0"] == {f"account {key[1]}"}


async def test_what_changes_hands_before_it_is_mended_is_left(
    world: TwinWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.driver.on["n0"].add("account s-old")
    world.driver.on["n1"].add("account s-old")
    monkeypatch.setattr(reconciling, "MENDS_AT_ONCE", 1)
    mended = world.driver.gates["mend"] = asyncio.Event()
    running = asyncio.create_task(mend(world))
    await until(lambda: world.driver.units("mend") == ["n0"])
    with world.driver.gate_of("setup"):
        key = await world.request(units=2)
        await until(lambda: "n1" in world.driver.units("setup"))
        mended.set()
        report = await running
    await world.reach("guest", key, "Active")
    notes = {one.unit: one.note for one in report.findings}
    assert notes["n1"] == "something is being done to the unit: run it again later"
    assert world.driver.units("mend") == ["n0"]


async def test_a_handler_waits_until_its_unit_is_mended(world: TwinWorld) -> None:
    """The twin itself fails whenever two run on one unit, or one of an older assignment."""
    world.driver.on["n0"].add("account s-old")
    with world.driver.gate_of("mend"):
        mending = asyncio.create_task(mend(world))
        await until(lambda: "n0" in world.driver.units("mend"))
        key = await world.request()
        await until(lambda: world.unit("n0").owner == key)
        await asyncio.sleep(0.02)
        assert world.driver.units("setup") == []
    await mending
    await world.reach("guest", key, "Active")
    assert world.driver.on["n0"] == {f"account {key[1]}"}


# Several drivers ------------------------------------------------------------------------------


async def test_drivers_mend_in_the_order_of_a_set_up_or_a_teardown() -> None:
    async with twin_world() as world:
        second = TwinDriver()
        order: list[str] = []
        pool = world.performer.pools[POOL]
        for name, driver in (("first", world.driver), ("second", second)):
            driver.mend = _noting(order, name, driver.mend)  # type: ignore[method-assign]
        both = Pool(
            type=POOL,
            units=pool.units,
            drivers=[world.driver, second],
            setup_timeout=5.0,
            teardown_timeout=5.0,
        )
        performer = SitePerformer({POOL: both}, world._lease_of)
        world.site.performer = performer
        await active(world)
        world.driver.on["n0"].clear()
        await reconcile(world.site, performer, dry_run=False, by="ann")
        assert order == ["first n0", "second n0"]
        order.clear()
        world.driver.on["n3"].add("x")
        second.on["n3"].add("x")
        await reconcile(world.site, performer, dry_run=False, by="ann")
        assert order == ["second n3", "first n3"]
        second.out = "down"
        (blind,) = (await reconcile(world.site, performer, dry_run=True, by="ann")).blind
        assert blind.driver == "TwinDriver"


def _noting(order: list[str], name: str, doing: Any) -> Any:
    async def mend(differences: Any, job: Any, log: Log) -> None:
        order.append(f"{name} {job.unit}")
        await doing(differences, job, log)

    return mend


# Release --------------------------------------------------------------------------------------


async def lose(world: TwinWorld, name: str) -> None:
    await world.site.submit(lambda role, now: role.unit_lost(name, "fan", now, "test"))


async def release(world: TwinWorld, name: str) -> None:
    await fit_again(world.site, world.performer, name, by="ann")


async def test_a_released_unit_was_cleared_and_checked(world: TwinWorld) -> None:
    await lose(world, "n0")
    world.driver.on["n0"].add("account s-old")
    world.driver.on["n1"].add("not ours to touch")
    await release(world, "n0")
    assert not world.unit("n0").quarantined
    assert world.driver.on["n0"] == set()
    assert world.driver.on["n1"] == {"not ours to touch"}
    assert [handler for handler, job in world.driver.done] == ["survey", "mend", "probe"]
    assert {job.epoch for job in world.driver.jobs("mend") + world.driver.jobs("probe")} == {
        world.unit("n0").epoch
    }
    await release(world, "n0")
    assert await world.notes("unit/n0") == [("Checking", "ann"), ("QuarantineLifted", "ann")]


@pytest.mark.parametrize("how", ["dead", "unmendable", "down"])
async def test_a_unit_that_is_not_fit_stays_in_quarantine(world: TwinWorld, how: str) -> None:
    await lose(world, "n0")
    world.driver.on["n0"].add("account s-old")
    if how == "down":
        world.driver.out = "down"
    else:
        getattr(world.driver, how).add("n0")
    with pytest.raises(Unavailable if how == "down" else HandlerFailed):
        await release(world, "n0")
    assert world.unit("n0").quarantined == "fan"
    assert (await world.notes("unit/n0"))[-1] == ("NotReleased", "ann")


async def test_two_releases_at_once_are_one(world: TwinWorld) -> None:
    await lose(world, "n0")
    await asyncio.gather(release(world, "n0"), release(world, "n0"))
    assert len(world.driver.jobs("probe")) == 1


async def test_a_unit_that_a_lease_has_is_not_released(world: TwinWorld) -> None:
    with world.driver.gate_of("setup"):
        key = await world.request()
        await until(lambda: "n0" in world.driver.units("setup"))
        await lose(world, "n0")
        assert world.unit("n0").quarantined
        releasing = asyncio.create_task(release(world, "n0"))
        await asyncio.sleep(0.01)
    with pytest.raises(Refused, match="in use by the lease"):
        await releasing
    await world.reach("guest", key, "Active")


# The ledger with itself -----------------------------------------------------------------------


async def spoil(world: TwinWorld, name: str, **changes: Any) -> None:
    """Write into a unit's record what no step of ours would."""

    def act(role: Any, now: int) -> None:
        role._keep_unit(replace(role.units[name], **changes))

    await world.site.submit(act)


async def test_a_ledger_of_ours_has_no_contradictions(world: TwinWorld) -> None:
    """Also in the middle of things: a set-up, a replacement, a teardown that fails."""
    site = world.site
    assert [*contradictions(site.role)] == []
    with world.driver.gate_of("setup"):
        key = await world.request(units=2)
        await until(lambda: len(world.driver.units("setup")) == 2)
        assert [*contradictions(site.role)] == []
    await world.reach("guest", key, "Active")
    world.driver.dead.add("n1")
    await lose(world, "n1")
    assert [*contradictions(site.role)] == []
    await until(lambda: len(site.role.leases[key].working) == 2)
    with world.driver.gate_of("teardown"):
        await world.close(key)
        await world.reach("site", key, "Closing")
        assert [*contradictions(site.role)] == []
    await world.reach("guest", key, "Closed")
    assert [*contradictions(site.role)] == []


async def test_a_unit_of_a_lease_that_does_not_have_it_is_put_in_quarantine(
    world: TwinWorld,
) -> None:
    await spoil(world, "n2", owner=("somebody", "gone"))
    report = await compare(world)
    assert [(one.unit, one.where, one.fault) for one in report.findings] == [
        ("n2", "ledger", "left over")
    ]
    assert "gone" in report.findings[0].what
    assert told(await mend(world))[0][-1] == "mended"
    assert (world.unit("n2").owner, bool(world.unit("n2").quarantined)) == (None, True)
    assert told(await compare(world)) == []
    await release(world, "n2")
    assert world.unit("n2") == Unit(name="n2", type=POOL, epoch=world.unit("n2").epoch)


async def test_a_lease_whose_unit_is_another_ones_is_told(world: TwinWorld) -> None:
    key = await active(world)
    await spoil(world, "n0", epoch=world.unit("n0").epoch + 5)
    findings = [(one.unit, one.fault, one.lease, one.done) for one in (await mend(world)).findings]
    assert ("n0", "changed", key, "left") in findings


async def test_a_lease_of_what_left_the_descriptor_is_told(world: TwinWorld) -> None:
    key = await active(world)
    del world.site.role.units["n0"], world.site.role.policies[POOL]
    findings = [one for one in contradictions(world.site.role) if one.lease == key]
    assert {(one.unit, one.fault) for one in findings} == {("", "missing"), ("n0", "missing")}
    assert all("descriptor" in one.note for one in findings)


# Whatever it is -------------------------------------------------------------------------------

NAMES = ("n0", "n1", "n2", "n3")
DAMAGE = st.fixed_dictionaries(
    {
        "leases": st.lists(st.integers(1, 2), max_size=2),
        "emptied": st.sets(st.sampled_from(NAMES)),
        "strewn": st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["a", "b"])),
        "quarantined": st.sets(st.sampled_from(NAMES), max_size=2),
        "dead": st.sets(st.sampled_from(NAMES), max_size=2),
        "loose": st.sets(st.sampled_from(["ou=x", "ou=y"])),
    }
)


@given(damage=DAMAGE)
def test_whatever_was_done_by_hand_is_found_and_undone(damage: dict[str, Any]) -> None:
    """After mending, a second run finds nothing but units that can not be mended; and each of
    those is in quarantine (CLEAN)."""
    asyncio.run(_undone(damage))


async def _undone(damage: dict[str, Any]) -> None:
    async with twin_world() as world:
        keys = [await active(world, units) for units in damage["leases"]]
        for name in damage["quarantined"]:
            if world.unit(name).owner is None:
                await lose(world, name)
        for name in damage["emptied"]:
            world.driver.on[name].clear()
        for name, thing in damage["strewn"].items():
            world.driver.on[name].add(thing)
        world.driver.dead |= damage["dead"]
        world.driver.loose |= damage["loose"]
        shown = await compare(world)
        report = await mend(world)
        assert {one[:3] for one in told(shown)} <= {one[:3] for one in told(report)}
        for name in damage["dead"]:
            assert world.unit(name).quarantined
        await until(lambda: not any(one.work for one in world.site.role.leases.values()))
        again = await mend(world)
        assert {one.unit for one in again.findings} <= damage["dead"]
        assert world.driver.loose == set()
        assert [*contradictions(world.site.role)] == []
        for name in NAMES:
            unit = world.unit(name)
            if name not in damage["dead"] and unit.owner is None:
                assert world.driver.on[name] == set()
        for key in keys:
            lease = world.site.role.leases[key]
            for one in lease.working:
                assert world.driver.on[one.unit] == {f"account {key[1]}"}
            assert bool(lease.degraded) == (len(lease.working) < lease.units)
