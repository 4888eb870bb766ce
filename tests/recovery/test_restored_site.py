"""Rule 13 and EXCLUSIVE: a site that comes back from a backup ends and hands out nothing before an
operator confirms, and what its guests know is not lost."""

from __future__ import annotations

import pytest

from shirako.actors.probing import Probing
from shirako.actors.reconciling import fit_again, reconcile
from shirako.actors.role import Refused
from tests.recovery.conftest import HOUR, Past
from world import until


async def test_terms_of_the_past_end_only_when_it_is_confirmed(past: Past) -> None:
    key = await past.request(2)
    await past.reach("guest", key, "Active")
    file = await past.back_up("site")
    await past.crash("guest")  # it would close the lease itself
    await past.restored("site", file)
    await past.pass_time(2 * HOUR)
    assert past.state("site", key) == "Active"
    assert past.driver.units("teardown") == []
    shown = await past.recover("site", dry_run=True)
    assert [(due.key, due.does, due.units) for due in shown.due] == [
        (key, "torn down", ("n0", "n1"))
    ]
    assert past.state("site", key) == "Active"
    done = await past.recover("site")
    assert done.due == shown.due
    await past.reach("site", key, "Closed")
    assert sorted(past.driver.units("teardown")) == ["n0", "n1"]
    assert past.on("n0") == past.on("n1") == set()
    again = await past.recover("site")
    assert (again.held, again.due) == (False, ())


async def test_a_teardown_of_the_past_waits_too(past: Past) -> None:
    key = await past.request()
    await past.reach("guest", key, "Active")
    with past.driver.gate_of("teardown"):
        await past.close(key)
        await until(lambda: past.driver.units("teardown") == ["n0"])
        file = await past.back_up("site")
        await past.lose("site")
    past.driver.done.clear()
    await past.come_back("site", file)
    await past.turns()
    shown = await past.recover("site", dry_run=True)
    assert [(work.key, work.handler, work.unit) for work in shown.pending] == [
        (key, "teardown", "n0")
    ]
    assert past.driver.units("teardown") == []
    await past.recover("site")
    await past.reach("guest", key, "Closed")
    assert past.on("n0") == set()


async def test_it_is_held_through_restarts_and_free_through_restarts(past: Past) -> None:
    key = await past.request()
    await past.reach("guest", key, "Active")
    site = await past.restored("site", await past.back_up("site"))
    await past.turns(1)
    begun = site.role.restored
    assert begun.begun
    for _ in range(2):
        await past.crash("site")
        site = await past.up("site")
        assert site.role.held
        assert site.role.restored == begun
    await past.recover("site")
    for _ in range(2):
        await past.crash("site")
        site = await past.up("site")
        assert not site.role.held
        assert (await past.recover("site")).restored == site.role.restored
    assert [what for what, _ in await past.notes("ledger")] == ["Restored", "RestoreConfirmed"]
    await past.close(key)
    await past.reach("guest", key, "Closed")


async def test_an_extension_that_the_backup_does_not_know_is_learnt_from_the_guest(
    past: Past,
) -> None:
    key = await past.request()
    await past.reach("guest", key, "Active")
    file = await past.back_up("site")
    first = past.end("site", key)
    second = await past.extend(key, HOUR)
    third = await past.extend(key, HOUR)
    await past.lose("site")
    past.clock.ahead_ms += (first + 60 - past.clock.tick()) * 1000
    await past.come_back("site", file)  # by its books the term is over
    await until(lambda: past.end("site", key) == third)
    assert third > second > first
    assert past.end("guest", key) == third
    assert (await past.recover("site")).due == ()
    await past.turns()
    assert past.state("site", key) == past.state("guest", key) == "Active"
    fourth = await past.extend(key, HOUR)
    assert past.end("site", key) == fourth
    await past.close(key)
    await past.reach("guest", key, "Closed")
    await past.reach("broker", key, "Closed")


async def test_an_extension_comes_through_while_it_is_held(past: Past) -> None:
    key = await past.request()
    await past.reach("guest", key, "Active")
    await past.restored("site", await past.back_up("site"))
    end = await past.extend(key, HOUR)
    assert past.end("site", key) == end


async def test_it_takes_up_nothing_new_until_then(past: Past) -> None:
    await past.restored("site", await past.back_up("site"))
    key = await past.request()
    await past.reach("guest", key, "Redeeming")
    await past.turns()
    assert past.state("site", key) == "-"
    assert past.driver.done == []
    await past.recover("site")
    await past.reach("guest", key, "Active")


async def test_units_that_are_not_as_its_books_say_are_kept_out_of_use(past: Past) -> None:
    """A lease that the backup does not know goes on undisturbed, and its unit is nobody else's."""
    file = await past.back_up("site")
    key = await past.request()
    await past.reach("guest", key, "Active")
    there = set(past.on("n0"))
    assert there
    await past.restored("site", file)
    shown = await past.recover("site", dry_run=True)
    (suspect,) = shown.suspects
    assert (suspect.unit, suspect.lease) == ("n0", None)
    assert "left over" in suspect.why
    assert past.unit("n0").quarantined == ""
    await past.recover("site")
    assert past.unit("n0").quarantined == suspect.why
    assert ("Quarantined", "ops") in await past.notes("unit/n0")
    other = await past.request(2)
    await past.reach("guest", other, "Active")
    assert past.on("n0") == there
    assert sorted(unit for unit in past.units if f"account {other[1]}" in past.on(unit)) == [
        "n1",
        "n2",
    ]


async def test_a_unit_that_can_not_be_looked_at_is_kept_out_of_use(past: Past) -> None:
    held = await past.request()
    await past.reach("guest", held, "Active")
    await past.restored("site", await past.back_up("site"))
    past.driver.out = "the directory does not answer"
    await past.recover("site")
    assert {name for name in past.units if past.unit(name).quarantined} == {"n1", "n2", "n3"}
    assert "does not answer" in past.unit("n1").quarantined


async def test_it_mends_and_clears_nothing_until_then(past: Past) -> None:
    past.on("n3").add("account of a lease that the backup does not know")
    site = await past.restored("site", await past.back_up("site"))
    report = await reconcile(site, past.performer, dry_run=True, by="ops")
    assert [finding.unit for finding in report.findings] == ["n3"]
    with pytest.raises(Refused, match="waits for its operator"):
        await reconcile(site, past.performer, dry_run=False, by="ops")
    await site.submit(lambda role, now: role.unit_lost("n3", "fan", now, "ops"))
    with pytest.raises(Refused, match="waits for its operator"):
        await fit_again(site, past.performer, "n3", by="ops")
    assert past.on("n3")
    await past.recover("site")
    await fit_again(site, past.performer, "n3", by="ops")
    assert not past.on("n3")


async def test_what_the_guest_closes_is_torn_down_when_it_is_confirmed(past: Past) -> None:
    key = await past.request()
    await past.reach("guest", key, "Active")
    await past.restored("site", await past.back_up("site"))
    await past.close(key)
    await past.reach("site", key, "Closing")
    await past.turns()
    assert past.driver.units("teardown") == []
    await past.recover("site")
    await past.reach("guest", key, "Closed")
    assert past.on("n0") == set()


async def test_it_probes_nothing_until_then(past: Past) -> None:
    """What a probe finds is a reason to quarantine and clean."""
    probing = Probing(await past.restored("site", await past.back_up("site")), {"node": 60.0})
    assert probing._standing("n0") is None
    await past.recover("site")
    assert probing._standing("n0") is not None
