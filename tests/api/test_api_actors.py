"""The site's and the broker's routes, what all actors have, and the one form of refusals."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shirako.api.models import DelegationRequest
from shirako.client import Client
from shirako.core import authority
from shirako.ledger import CommitFailed
from world import until as come_to

DELEGATION = {"name": "more", "to": "broker", "type": "big", "units": 1}


def at(**offset: float) -> str:
    return (datetime.now(UTC) + timedelta(**offset)).isoformat()


# The site ------------------------------------------------------------------------------------


async def test_nodes_are_free_leased_or_quarantined(world: Any) -> None:
    lease = await world.active(units=2)
    _, told, _ = await world.call("site", "looker", "GET", "/site/nodes")
    by_name = {node["name"]: node for node in told["nodes"]}
    assert len(by_name) == 7
    assert by_name["n0"]["state"] == "leased"
    assert by_name["n0"]["lease"]["id"] == lease.id
    assert (by_name["n0"]["guest"], by_name["n0"]["slice"]) == ("guest", "blue")
    assert by_name["n5"]["state"] == "free"


async def test_a_failed_teardown_is_told_and_retried(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(authority, "TEARDOWN_ATTEMPTS", 1)  # no pause has to be waited for
    lease = await world.active()
    handlers = world.handlers["site"]
    handlers.failing.add("teardown")
    holder = world.actors["guest"].party.kid
    path = f"/site/leases/{holder}/{lease.id}"
    status, problem, _ = await world.call("site", "admin", "POST", f"{path}/retry")
    assert (status, problem["detail"]) == (409, "the lease is Active, not CloseFailed")
    assert (await world.call("site", "admin", "POST", f"{path}/close"))[0] == 200
    async for record in world.actors["site"].changes((holder, lease.id)):
        if record.state.value == "CloseFailed":
            break
    _, told, _ = await world.call("site", "looker", "GET", path)
    assert (told["state"], told["assignments"][0]["phase"]) == ("CloseFailed", "failed")
    _, nodes, _ = await world.call("site", "looker", "GET", "/site/nodes")
    assert nodes["nodes"][0]["state"] == "quarantined"
    assert "the test says so" in nodes["nodes"][0]["quarantined"]
    handlers.gate.clear()
    status, told, _ = await world.call("site", "admin", "POST", f"{path}/retry")
    assert (status, told["state"]) == (200, "Closing")
    handlers.failing.clear()
    handlers.gate.set()
    async with asyncio.timeout(10):
        async for record in world.actors["site"].changes((holder, lease.id)):
            if record.state.value == "Closed":
                break
    _, told, _ = await world.call("site", "looker", "GET", path)
    assert told["assignments"][0]["checks"] == ["account_gone"]


async def test_a_quarantined_node_is_released_once(world: Any) -> None:
    world.handlers["site"].failing.add("setup")
    lease = await world.request()
    await world.until(lease.id, "Failed")
    world.handlers["site"].failing.add("probe")
    status, problem, _ = await world.call("site", "admin", "POST", "/site/nodes/n0/release")
    assert status == 409, "it is not fit, and was handed out again"
    assert problem["type"].endswith("unfit")
    world.handlers["site"].failing.discard("probe")
    status, node, _ = await world.call("site", "admin", "POST", "/site/nodes/n0/release")
    assert (status, node["state"]) == (200, "free")
    assert (await world.call("site", "admin", "POST", "/site/nodes/n0/release"))[0] == 200
    site = world.actors["site"]
    entries = await site.read_ledger(lambda ledger: ledger.story("unit/n0"))
    assert [(e.what, e.by) for e in entries] == [
        ("Checking", "admin"),
        ("NotReleased", "admin"),
        ("Checking", "admin"),
        ("QuarantineLifted", "admin"),
    ]
    assert (await world.call("site", "admin", "POST", "/site/nodes/zz/release"))[0] == 404


async def test_a_lease_closed_by_the_site_ends_at_the_guest(world: Any) -> None:
    lease = await world.active()
    holder = world.actors["guest"].party.kid
    path = f"/site/leases/{holder}/{lease.id}"
    body = {"reason": "maintenance"}
    assert (await world.call("site", "admin", "POST", f"{path}/close", body))[0] == 200
    record = await world.until(lease.id, "Closed")
    assert "maintenance" in record.reason
    assert (await world.call("site", "admin", "POST", f"{path}/close"))[0] == 200
    _, story, _ = await world.call("site", "looker", "GET", f"{path}/story")
    assert ("CloseAsked", "admin") in [(line["what"], line["by"]) for line in story["story"]]


async def test_site_leases_are_found_by_id_and_state(world: Any) -> None:
    one, two = await world.active(), await world.active("bob", slice="red")
    async with Client(world.url("site"), world.secrets["admin"]) as client:
        assert {lease.id for lease in await client.site_leases()} == {one.id, two.id}
        (found,) = await client.site_leases(lease=two.id)
        assert (found.slice, found.state, found.guest) == ("red", "Active", "guest")
        assert await client.site_leases(state=["Closed"]) == ()
        lines = await client.site_story(found.holder, found.id)
        assert any(line.what == "log" for line in lines)


async def test_delegations_are_made_once(world: Any) -> None:
    body = {**DELEGATION, "end": at(days=2), "start": at(hours=1)}
    status, told, _ = await world.call("site", "admin", "POST", "/site/delegations", body)
    assert status == 201
    assert (told["site"], told["broker"]) == ("site", "broker")
    status, again, _ = await world.call("site", "admin", "POST", "/site/delegations", body)
    assert (status, again) == (200, told)
    other = {**body, "overbooking": 2.0}
    status, problem, _ = await world.call("site", "admin", "POST", "/site/delegations", other)
    assert status == 409
    assert "overbooking differs" in problem["detail"]
    async with Client(world.url("site"), world.secrets["admin"]) as client:
        made = await client.delegate(DelegationRequest.model_validate(body))
        assert made.model_dump(mode="json") == told
        assert [d.name for d in await client.delegations()] == ["more", "share"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"to": "nobody"}, "to"),
        ({"type": "none"}, "type"),
        ({"units": 0}, "units"),
        ({"units": 2}, "units"),
        ({"overbooking": 0.5}, "overbooking"),
        ({"overbooking": 1e9}, "overbooking"),
        ({"end": at(hours=-1)}, "end"),
        ({"end": "2030-01-01T00:00:00"}, "end"),
        ({"start": at(days=3), "end": at(days=2)}, "end"),
        ({"name": "Bad name"}, "name"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_bad_delegations_name_their_field(
    world: Any, change: dict[str, Any], field: str
) -> None:
    body = {**DELEGATION, "end": at(days=2), **change}
    status, problem, _ = await world.call("site", "admin", "POST", "/site/delegations", body)
    assert (status, problem.get("field")) == (422, field), problem
    assert set(world.actors["site"].role.delegations) == {"share"}


# The broker ----------------------------------------------------------------------------------


async def test_the_calendar_tells_what_is_sold(world: Any) -> None:
    lease = await world.active(units=4)
    async with Client(world.url("broker"), world.secrets["seller"]) as client:
        (share,) = (await client.calendar()).calendar
        assert (share.delegation, share.site, share.capacity) == ("share", "site", 6)
        steps = {step.start: step.booked for step in share.steps}
        assert steps[lease.start] == 4
        assert steps[lease.end] == 0
        (ticket,) = (await client.broker_leases()).leases
        assert (ticket.id, ticket.state, ticket.units) == (lease.id, "Ticketed", 4)
        assert ticket.grants[0].delegation == "share"
        (delegation,) = await client.broker_delegations()
        assert (delegation.name, delegation.site, delegation.units) == ("share", "site", 6)


async def test_the_calendar_is_shown_in_part(world: Any) -> None:
    lease = await world.active(units=4)
    later = (lease.start + timedelta(minutes=5)).isoformat().replace("+00:00", "Z")
    path = f"/broker/calendar?start={later}&end={later}"
    _, told, _ = await world.call("broker", "seller", "GET", path)
    assert [step["booked"] for step in told["calendar"][0]["steps"]] == [4]


async def test_a_broker_delegates_a_share_of_what_it_holds(world: Any) -> None:
    body = {
        "name": "part",
        "to": "guest",
        "type": "node",
        "units": 2,
        "start": at(minutes=1),
        "end": at(hours=2),
    }
    path = "/broker/delegations"
    status, made, _ = await world.call("broker", "seller", "POST", path, body)
    assert (status, made["units"], made["broker"], made["site"]) == (201, 2, "guest", "site")
    status, again, _ = await world.call("broker", "seller", "POST", path, body)
    assert (status, again) == (200, made)
    more = {**body, "name": "more", "units": 99}
    status, problem, _ = await world.call("broker", "seller", "POST", path, more)
    assert (status, problem["field"]) == (422, "units")
    async with Client(world.url("broker"), world.secrets["seller"]) as client:
        await client.delegate_below(DelegationRequest.model_validate(body))
        assert [one.name for one in await client.broker_delegations()] == ["share", "part"]


# Who may what --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actor", "method", "path", "allowed"),
    [
        ("site", "GET", "/site/nodes", {"looker", "admin", "seller"}),
        ("site", "GET", "/site/leases", {"looker", "admin", "seller"}),
        ("site", "GET", "/site/delegations", {"looker", "admin", "seller"}),
        ("site", "POST", "/site/delegations", {"admin"}),
        ("site", "POST", "/site/nodes/n9/release", {"admin"}),
        ("site", "POST", "/site/nodes/n9/quarantine", {"admin"}),
        ("site", "POST", "/site/reconcile", {"admin"}),
        ("site", "POST", "/clock/confirm", {"admin"}),
        ("broker", "POST", "/clock/confirm", {"seller"}),
        ("guest", "POST", "/clock/confirm", {"admin", "seller"}),
        ("site", "POST", "/site/leases/a/b/close", {"admin"}),
        ("site", "POST", "/site/leases/a/b/retry", {"admin"}),
        ("broker", "GET", "/broker/calendar", {"looker", "admin", "seller"}),
        ("broker", "GET", "/broker/leases", {"looker", "admin", "seller"}),
        ("broker", "GET", "/broker/delegations", {"looker", "admin", "seller"}),
        ("broker", "POST", "/broker/delegations", {"seller"}),
        ("guest", "POST", "/leases", {"ann", "bob"}),
        ("guest", "GET", "/leases", {"ann", "bob", "looker", "admin", "seller"}),
    ],
)
async def test_each_route_is_for_its_roles_alone(
    world: Any, actor: str, method: str, path: str, allowed: set[str]
) -> None:
    for token in world.secrets:
        status, _, _ = await world.call(actor, token, method, path)
        assert (status != 403) == (token in allowed), token
    assert (await world.call(actor, "", method, path))[0] == 401


# Every actor ---------------------------------------------------------------------------------


@pytest.mark.parametrize("actor", ["site", "broker", "guest"])
async def test_status_and_health(world: Any, actor: str) -> None:
    await world.active()
    async with Client(world.url(actor), world.secrets["looker"]) as client:
        status = await client.status()
        assert (await client.health()).status == "ok"
    assert (status.name, status.kid) == (actor, world.actors[actor].party.kid)
    assert status.leases in ({"Active": 1}, {"Ticketed": 1})
    assert any(peer.skew_ms is not None for peer in status.peers)
    health, _, _ = await world.call(actor, "", "GET", "/health")
    assert health == 200


async def test_messages_that_wait_for_a_peer_are_counted(world: Any) -> None:
    await world.actors["broker"].stop()
    await world.request()
    _, status, _ = await world.call("guest", "looker", "GET", "/status")
    waiting = {peer["name"]: peer["waiting"] for peer in status["peers"]}
    assert waiting["broker"] == 1


async def test_a_peer_that_can_not_be_reached_is_told_and_since_when(world: Any) -> None:
    transport = world.actors["guest"]._transport
    url, taking = world.actors["broker"].party.url, world.actors["broker"].receive
    transport.stop_listening(url)
    await world.request()
    await come_to(lambda: world.actors["guest"].couriers[broker_of(world)].failures > 0)
    _, status, _ = await world.call("guest", "looker", "GET", "/status")
    (peer,) = [one for one in status["peers"] if one["name"] == "broker"]
    assert peer["failures"] >= 1
    assert peer["unreachable_since"] <= status["time"]
    transport.listen(url, taking)
    await come_to(lambda: world.actors["guest"].couriers[broker_of(world)].failures == 0)
    _, status, _ = await world.call("guest", "looker", "GET", "/status")
    (peer,) = [one for one in status["peers"] if one["name"] == "broker"]
    assert (peer["failures"], peer["unreachable_since"]) == (0, None)


def broker_of(world: Any) -> str:
    kid: str = world.actors["broker"].party.kid
    return kid


@pytest.mark.parametrize("actor", ["site", "broker", "guest"])
async def test_openapi_describes_every_route(world: Any, actor: str) -> None:
    status, told, _ = await world.call(actor, "", "GET", "/openapi.json")
    assert status == 200
    assert told["openapi"] == "3.1.0"
    served = {
        (route.method.lower(), route.resource.canonical)
        for route in world.servers[actor].app.router.routes()
    }
    described = {(method, path) for path, methods in told["paths"].items() for method in methods}
    assert served - described == {("get", "/api/v1/openapi.json")}
    assert described <= served
    operations = [op for methods in told["paths"].values() for op in methods.values()]
    assert len({op["operationId"] for op in operations}) == len(operations)
    for path, methods in told["paths"].items():
        for operation in methods.values():
            declared = {p["name"] for p in operation["parameters"] if p["in"] == "path"}
            assert declared == set(re.findall(r"{(\w+)}", path))
            # each status by itself: with a default, nothing would be against the document
            assert {"400", "403", "500", "503"} <= operation["responses"].keys()
            assert "default" not in operation["responses"]
            assert len(operation["responses"]) >= 2
    schemas = told["components"]["schemas"]
    for name in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(told)):
        assert name in schemas
    assert not re.findall(r'"\$ref": "#/\$defs', json.dumps(told))
    if actor == "guest":
        assert schemas["LeaseRequest"]["additionalProperties"] is False
        assert schemas["LeaseRequest"]["required"] == ["slice", "type"]
        assert told["paths"]["/api/v1/leases"]["post"]["security"] == [{"token": []}]
        assert told["paths"]["/api/v1/health"]["get"]["security"] == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/leases/none", 404),
        ("GET", "/leases/%2e%2e%2fx/story", 404),
        ("DELETE", "/leases", 405),
        ("PUT", "/leases/x", 405),
        ("POST", "/health", 405),
        ("GET", "/site/nodes", 404),
    ],
)
async def test_what_is_not_there_is_told_as_a_problem(
    world: Any, method: str, path: str, status: int
) -> None:
    found, _, response = await world.call("guest", "ann", method, path)
    assert found == status
    if status == 405:
        assert response.headers["Allow"]
    assert response.headers["Cache-Control"] == "no-store"


async def test_a_fault_of_ours_has_a_reference_and_no_traceback(
    world: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("secret detail")

    lease = await world.request()
    monkeypatch.setattr(world.actors["guest"], "read_ledger", broken)
    with caplog.at_level(logging.ERROR):
        path = f"/leases/{lease.id}/story"
        status, problem, _ = await world.call("guest", "ann", "GET", path)
    assert status == 500
    assert "secret detail" not in json.dumps(problem)
    assert problem["reference"] in caplog.text
    assert "secret detail" in caplog.text
    assert world.secrets["ann"] not in caplog.text


async def test_an_actor_that_can_not_write_says_when_to_try_again(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = world.actors["guest"]._ledger

    def full(*_: object) -> None:
        raise CommitFailed("the disk is full")

    monkeypatch.setattr(ledger, "commit", full)
    body = {"slice": "blue", "type": "node", "duration": "1h"}
    status, problem, response = await world.call("guest", "ann", "POST", "/leases", body)
    assert status == 503
    assert response.headers["Retry-After"]
    assert "disk" not in problem["detail"]
