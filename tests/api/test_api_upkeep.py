"""What keeps a site in order: reconcile, quarantine, probes; and every actor's clock."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shirako.api import views
from shirako.client import Client
from world import until as come_to


async def until(world: Any, actor: str, path: str, holds: Any) -> Any:
    async with asyncio.timeout(10):
        while True:
            _, told, _ = await world.call(actor, "admin", "GET", path)
            if holds(told):
                return told
            await asyncio.sleep(0.02)


async def node(world: Any, name: str) -> Any:
    _, told, _ = await world.call("site", "looker", "GET", "/site/nodes")
    return next(one for one in told["nodes"] if one["name"] == name)


# Quarantine -----------------------------------------------------------------------------------


async def test_a_free_node_is_quarantined_once_with_its_first_reason(world: Any) -> None:
    path = "/site/nodes/n5/quarantine"
    status, told, _ = await world.call("site", "admin", "POST", path, {"reason": "fan"})
    assert (status, told["state"], told["quarantined"]) == (200, "quarantined", "fan")
    status, told, _ = await world.call("site", "admin", "POST", path, {"reason": "disk"})
    assert (status, told["quarantined"]) == (200, "fan")
    entries = await world.actors["site"].read_ledger(lambda ledger: ledger.story("unit/n5"))
    assert [(one.what, one.by, one.note) for one in entries] == [("Quarantined", "admin", "fan")]
    await world.active(units=5)
    assert (await node(world, "n5"))["state"] == "quarantined"


async def test_a_node_of_a_lease_is_replaced_only_when_that_is_said(world: Any) -> None:
    lease = await world.active(units=2)
    path = "/site/nodes/n0/quarantine"
    status, problem, _ = await world.call("site", "admin", "POST", path, {"reason": "fan"})
    assert (status, problem["type"]) == (409, "urn:shirako:problem:in_use")
    assert f"works for the lease {lease.id} of guest" in problem["detail"]
    assert (await node(world, "n0"))["state"] == "leased"
    async with Client(world.url("site"), world.secrets["admin"]) as client:
        assert (await client.quarantine_node("n0", "fan", replace=True)).state == "quarantined"
        assert (await client.quarantine_node("n0", "fan", replace=True)).state == "quarantined"
    whole = await until(
        world,
        "guest",
        f"/leases/{lease.id}",
        lambda a: [unit["name"] for unit in a["held"]] == ["n1", "n2"],
    )
    assert (whole["state"], whole["degraded"]) == ("Active", "")


async def test_a_lease_without_a_replacement_is_shown_as_degraded_and_heals(world: Any) -> None:
    lease = await world.active(units=6)
    body = {"reason": "fan", "replace": True}
    await world.call("site", "admin", "POST", "/site/nodes/n0/quarantine", body)
    shown = await until(world, "guest", f"/leases/{lease.id}", lambda a: a["degraded"])
    assert shown["state"] == "Active"
    assert "n0 was lost: fan" in shown["degraded"]
    assert len(shown["held"]) == 5
    assert shown["units"] == 6
    _, told, _ = await world.call("site", "looker", "GET", "/site/leases")
    assert "n0 was lost: fan" in told["leases"][0]["degraded"]
    record = world.actors["site"].role.leases[world.actors["guest"].party.kid, lease.id]
    await come_to(lambda: not world.actors["site"].role.leases[record.key].work)
    assert (await world.call("site", "admin", "POST", "/site/nodes/n0/release"))[0] == 200
    healed = await until(world, "guest", f"/leases/{lease.id}", lambda a: not a["degraded"])
    assert len(healed["held"]) == 6


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/site/nodes/zz/quarantine", {"reason": "x"}, 404),
        ("/site/nodes/n0/quarantine", {}, 422),
        ("/site/nodes/n0/quarantine", {"reason": ""}, 422),
        ("/site/nodes/n0/quarantine", {"reason": "two\nlines"}, 422),
        ("/site/nodes/n0/quarantine", {"reason": "x" * 201}, 422),
        ("/site/nodes/n0/quarantine", {"reason": "x", "replace": "yes"}, 422),
        ("/site/reconcile", {"dry_run": 1}, 422),
        ("/site/reconcile", {"dry": True}, 422),
        ("/clock/confirm", {"dry_run": "no"}, 422),
    ],
)
async def test_what_is_wrong_is_told_and_changes_nothing(
    world: Any, path: str, body: Any, status: int
) -> None:
    found, _, _ = await world.call("site", "admin", "POST", path, body)
    assert found == status
    assert not any(unit.quarantined for unit in world.actors["site"].role.units.values())
    assert world.handlers["site"].done == []


# Reconcile ------------------------------------------------------------------------------------


async def test_differences_are_shown_and_then_mended(world: Any) -> None:
    lease = await world.active()
    nodes = world.handlers["site"]
    nodes.on["n0"].clear()
    nodes.on["n4"].add("account s-old")
    async with Client(world.url("site"), world.secrets["admin"]) as client:
        shown = await client.reconcile(dry_run=True)
        assert (shown.dry_run, shown.units, shown.counts) == (True, 7, {"shown": 2})
        held, idle = shown.differences
        assert (held.unit, held.where, held.fault) == ("n0", "node", "missing")
        assert held.lease is not None
        assert held.lease.id == lease.id
        assert (idle.unit, idle.fault, idle.what) == ("n4", "left over", "account s-old")
        mended = await client.reconcile()
        assert (mended.counts, [one.done for one in mended.differences]) == (
            {"mended": 2},
            ["mended", "mended"],
        )
        assert (await client.reconcile(dry_run=True)).counts == {}
    entries = await world.actors["site"].read_ledger(lambda ledger: ledger.story("unit/n4"))
    assert {one.by for one in entries if one.what == "Mended"} == {"admin"}


async def test_who_does_not_answer_is_told(world: Any) -> None:
    world.handlers["site"].out = "the directory is down"
    _, told, _ = await world.call("site", "admin", "POST", "/site/reconcile")
    assert told["unavailable"] == [
        {"type": kind, "driver": "twin", "reason": "the directory is down"}
        for kind in ("node", "big")
    ]
    assert told["differences"] == []


async def test_one_reconciles_at_a_time(world: Any) -> None:
    nodes = world.handlers["site"]
    with nodes.gate_of("survey"):
        first = asyncio.create_task(world.call("site", "admin", "POST", "/site/reconcile"))
        await come_to(lambda: ("survey", None) in nodes.done)
        status, problem, response = await world.call("site", "admin", "POST", "/site/reconcile")
        assert (status, problem["type"]) == (409, "urn:shirako:problem:busy")
        assert response.headers["Retry-After"]
    assert (await first)[0] == 200
    assert (await world.call("site", "admin", "POST", "/site/reconcile"))[0] == 200


async def test_a_list_that_nobody_could_read_is_cut(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "DIFFERENCES_MAX", 2)
    for number in range(5):
        world.handlers["site"].on["n0"].add(f"account {number}")
    body = {"dry_run": True}
    _, told, _ = await world.call("site", "admin", "POST", "/site/reconcile", body)
    assert (len(told["differences"]), told["more"], told["counts"]) == (2, 3, {"shown": 5})


# Probes ---------------------------------------------------------------------------------------


async def test_the_last_look_at_a_node_is_shown(world: Any) -> None:
    assert (await node(world, "n0"))["probe"] is None
    world.handlers["site"].dead.add("n1")
    world.probing.start()
    told = await until(
        world, "site", "/site/nodes", lambda a: a["nodes"][1]["state"] == "quarantined"
    )
    good, bad = told["nodes"][:2]
    assert good["probe"]["verdict"] == "fit"
    assert good["probe"]["time"].endswith("Z")
    assert (bad["probe"]["verdict"], bad["probe"]["note"]) == ("unfit", "it does not answer")
    assert bad["quarantined"] == "it does not answer"
    assert told["nodes"][-1]["probe"] is None, "the pool of b0 is not looked at"
    _, status, _ = await world.call("site", "looker", "GET", "/status")
    assert status["counters"]["probes.lost"] == 1


# The clock ------------------------------------------------------------------------------------


async def test_a_jump_is_shown_and_not_followed(world: Any) -> None:
    _, before, _ = await world.call("site", "looker", "GET", "/status")
    assert before["clock"]["jump_seconds"] == 0
    world.clock.set_ahead = 7200
    for actor in ("site", "broker", "guest"):
        _, told, _ = await world.call(actor, "looker", "GET", "/status")
        assert told["clock"]["jump_seconds"] == 7200
        assert told["clock"]["tick"] < before["clock"]["tick"] + 600
        assert told["time"] == told["clock"]["time"]
    world.clock.set_ahead = 0
    _, told, _ = await world.call("site", "looker", "GET", "/status")
    assert told["clock"]["jump_seconds"] == 0


async def test_a_jump_is_followed_when_an_admin_says_so(world: Any) -> None:
    short, long = await world.active(duration="1h"), await world.active(duration="3h", slice="red")
    world.clock.set_ahead = 7200
    async with Client(world.url("site"), world.secrets["admin"]) as client:
        ahead = await client.confirm_clock(dry_run=True)
        assert (ahead.jump_seconds, [one.id for one in ahead.due]) == (7200, [short.id])
        assert ahead.due[0].end == short.end
        assert (await client.status()).clock.jump_seconds == 7200
        done = await client.confirm_clock()
        assert (done.jump_seconds, [one.id for one in done.due]) == (7200, [short.id])
        assert done.clock.jump_seconds == 0
        assert done.clock.tick >= ahead.clock.tick + 7200
        again = await client.confirm_clock()
        assert (again.jump_seconds, again.due) == (0, ())
    key = (world.actors["guest"].party.kid, short.id)
    async with asyncio.timeout(10):
        async for record in world.actors["site"].changes(key):
            if record.state.final:
                break
    site = world.actors["site"]
    assert site.role.leases[key[0], long.id].state.value == "Active"
    entries = await site.read_ledger(lambda ledger: ledger.story("clock"))
    assert [(one.what, one.by) for one in entries] == [("ClockConfirmed", "admin")]
    assert "7200 s" in entries[0].note


async def test_a_jump_back_ends_nothing(world: Any) -> None:
    await world.active()
    world.clock.set_ahead = -7200
    body = {"dry_run": False}
    _, told, _ = await world.call("broker", "seller", "POST", "/clock/confirm", body)
    assert (told["jump_seconds"], told["due"]) == (-7200, [])
    assert told["clock"]["jump_seconds"] == 0
