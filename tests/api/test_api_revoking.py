"""Taking back, renewing and draining over the REST API."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from shirako.api.models import RenewRequest, RevokeRequest
from shirako.client import Client
from world import until as come_to


async def shown(world: Any, actor: str, path: str) -> Any:
    _, told, _ = await world.call(actor, "looker", "GET", path)
    return told


async def share_of(world: Any) -> Any:
    return (await shown(world, "site", "/site/delegations"))["delegations"][0]


async def story(world: Any, about: str) -> list[tuple[str, str, str]]:
    entries = await world.actors["site"].read_ledger(lambda ledger: ledger.story(about))
    return [(entry.what, entry.by, entry.note) for entry in entries]


async def test_a_dry_run_tells_all_and_changes_nothing(world: Any) -> None:
    lease = await world.active(units=2)
    name = (await share_of(world))["name"]
    path = f"/site/delegations/{name}/revoke"
    body = {"units": 1, "dry_run": True}
    status, told, _ = await world.call("site", "admin", "POST", path, body)
    assert status == 200
    assert [one["id"] for one in told["leases"]] == [lease.id]
    (cut,) = told["delegations"]
    assert (cut["left_before"], cut["left"], cut["redeemed"]) == (cut["units"], 1, 2)
    assert cut["broker"] == "broker"
    assert told["pool"]["delegated_after"] == 2
    assert (told["dry_run"], told["under_way"], told["more"]) == (True, 0, 0)
    assert (await share_of(world))["left"] is None


async def test_it_is_revoked_once_and_the_guest_sees_why(world: Any) -> None:
    lease = await world.active(units=2)
    name = (await share_of(world))["name"]
    async with Client(world.url("site"), world.secrets["admin"]) as client:
        for _ in range(2):
            done = await client.revoke_delegation(name, RevokeRequest(reason="sold"))
            assert not done.dry_run
            assert done.delegations[0].left == 0
    share = await share_of(world)
    assert (share["left"], share["revoked"]) == (0, f"the site has revoked {name}: sold")
    assert (await story(world, f"delegation/{name}"))[-1:] == [
        ("Revoked", "admin", "0 units left: sold")
    ]
    record = world.actors["guest"].role.leases
    await come_to(lambda: all(one.revoked for one in record.values()))
    _, told, _ = await world.call("guest", "admin", "GET", f"/leases/{lease.id}")
    assert (told["state"], told["revoked"]) == ("Active", f"the site has revoked {name}: sold")
    (held,) = (await shown(world, "broker", "/broker/delegations"))["delegations"]
    assert held["left"] == 0


async def test_its_leases_can_be_ended_as_well(world: Any) -> None:
    lease = await world.active(units=2)
    name = (await share_of(world))["name"]
    body = {"close_leases": True, "reason": "sold"}
    status, told, _ = await world.call(
        "site", "admin", "POST", f"/site/delegations/{name}/revoke", body
    )
    assert (status, told["closed"], told["leases"][0]["state"]) == (200, True, "Closing")
    role = world.actors["guest"].role
    await come_to(lambda: all(one.state.final for one in role.leases.values()))
    _, told, _ = await world.call("guest", "admin", "GET", f"/leases/{lease.id}")
    assert told["reason"] == f"the site has revoked {name}: sold"


async def test_it_is_renewed_once(world: Any) -> None:
    name = (await share_of(world))["name"]
    async with Client(world.url("site"), world.secrets["admin"]) as client:
        (share,) = await client.delegations()
        wanted = RenewRequest(end=share.end + timedelta(days=30))
        made = [await client.renew_delegation(name, wanted) for _ in range(2)]
        assert made[0] == made[1]
        assert (made[0].name, made[0].renews) == (f"{name}.2", name)
        assert (made[0].start, made[0].end) == (share.end, wanted.end)
        assert len(await client.delegations()) == 2
    body = {"end": wanted.model_dump(mode="json")["end"]}
    status, _, _ = await world.call(
        "site", "admin", "POST", f"/site/delegations/{name}/renew", body
    )
    assert status == 200


async def test_what_can_not_be_taken_back_is_told(world: Any) -> None:
    name = (await share_of(world))["name"]
    path = f"/site/delegations/{name}/revoke"
    calls: list[tuple[str, str, Any, int]] = [
        ("admin", "/site/delegations/nothing/revoke", {}, 404),
        ("admin", "/site/delegations/nothing/renew", {"end": "2099-01-01T00:00:00Z"}, 404),
        ("admin", path, {"units": 1000}, 422),
        ("admin", path, {"units": -1}, 422),
        ("looker", path, {}, 403),
        ("admin", f"/site/delegations/{name}/renew", {"end": "2020-01-01T00:00:00Z"}, 422),
        ("admin", f"/site/delegations/{name}/renew", {"end": "2099-01-01T00:00:00Z"}, 201),
        ("admin", f"/site/delegations/{name}/renew", {}, 422),
    ]
    for who, where, body, status in calls:
        got, told, _ = await world.call("site", who, "POST", where, body)
        assert got == status, (where, body, told)


async def test_a_drained_node_keeps_its_lease(world: Any) -> None:
    lease = await world.active(units=1)
    body = {"reason": "a new disk"}
    for _ in range(2):
        status, told, _ = await world.call("site", "admin", "POST", "/site/nodes/n0/drain", body)
        assert (status, told["state"], told["drained"]) == (200, "leased", "a new disk")
    assert told["lease"]["id"] == lease.id
    assert told["lease_end"]
    assert [one[0] for one in await story(world, "unit/n0")] == ["Drained"]
    for name in ("n1", "n2", "n3", "n4", "n5"):
        await world.call("site", "admin", "POST", f"/site/nodes/{name}/drain", body)
    nodes = (await shown(world, "site", "/site/nodes"))["nodes"]
    assert [one["state"] for one in nodes[:6]] == ["leased"] + ["drained"] * 5
    _, told, _ = await world.call("site", "admin", "POST", "/site/nodes/n1/undrain")
    assert (told["state"], told["drained"]) == ("free", "")
    other = await world.active(units=1)
    nodes = (await shown(world, "site", "/site/nodes"))["nodes"]
    assert nodes[1]["lease"]["id"] == other.id
    assert (await world.call("site", "admin", "POST", "/site/nodes/n9/drain", body))[0] == 404
    assert (await world.call("site", "looker", "POST", "/site/nodes/n1/undrain"))[0] == 403
