"""The guest's side of the API, against three real actors."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from shirako.api.tokens import Tokens
from shirako.client import Client

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA0YhSZf0B1mFl1k2fRZ6rRkW2cX0cX0cX0cX0cX0cX0 me@home"
UTC_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def at(**offset: float) -> str:
    return (datetime.now(UTC) + timedelta(**offset)).isoformat()


# A life --------------------------------------------------------------------------------------


async def test_a_lease_from_request_to_closed(world: Any) -> None:
    body = {
        "slice": "blue",
        "type": "node",
        "units": 2,
        "duration": 3600,
        "ssh_keys": [KEY],
        "configuration": {"color": "green"},
    }
    status, told, response = await world.call("guest", "ann", "POST", "/leases", body)
    assert status == 201
    assert response.headers["Location"] == f"/api/v1/leases/{told['id']}"
    assert told["asked"]["units"] == 2
    assert told["owner"] == "ann"
    await world.until(told["id"], "Active")
    status, lease, _ = await world.call("guest", "ann", "GET", f"/leases/{told['id']}")
    assert status == 200
    assert lease["state"] == "Active"
    assert [unit["name"] for unit in lease["held"]] == ["n0", "n1"]
    unit = lease["held"][0]
    assert (unit["host"], unit["port"], unit["user"]) == ("10.0.0.1", 22, "s-blue")
    assert unit["host_key"].startswith("ssh-ed25519 ")
    assert lease["site"] == "site"
    assert lease["broker"] == "broker"
    assert lease["cap"] == "delegation"
    for moment in (lease["start"], lease["end"], lease["latest_end"], lease["asked"]["end"]):
        assert UTC_TIME.fullmatch(moment)
    path = f"/leases/{told['id']}"
    assert (await world.call("guest", "ann", "POST", f"{path}/close"))[0] == 200
    await world.until(told["id"], "Closed")
    status, proofs, _ = await world.call("guest", "ann", "GET", f"{path}/proofs")
    assert proofs["receipt"].count(".") == 2
    _, story, _ = await world.call("guest", "ann", "GET", f"{path}/story")
    states = [line["state"] for line in story["story"]]
    assert states[0] == "Ticketing"
    assert states[-1] == "Closed"
    assert "closed by the guest" in story["story"][-1]["note"]
    assert story["story"][0]["by"] == "ann"
    again, closed, _ = await world.call("guest", "ann", "POST", f"{path}/close")
    assert (again, closed["state"]) == (200, "Closed")


async def test_what_only_the_broker_knows_comes_back_as_a_failed_lease(world: Any) -> None:
    lease = await world.request(units=50)
    await world.until(lease.id, "Failed")
    _, told, _ = await world.call("guest", "ann", "GET", f"/leases/{lease.id}")
    assert "50 units were asked for" in told["reason"]
    assert told["offer"]["units"] == 6
    too_long = await world.request(duration="30d")
    await world.until(too_long.id, "Failed")
    _, told, _ = await world.call("guest", "ann", "GET", f"/leases/{too_long.id}")
    assert told["offer"]["cap"] == "delegation"
    assert UTC_TIME.fullmatch(told["offer"]["latest_end"])
    assert (await world.request(type="nothing")).state == "Ticketing"


async def test_fewer_units_are_told_beside_what_was_asked_for(world: Any) -> None:
    lease = await world.active(units=9, least_units=3)
    _, told, _ = await world.call("guest", "ann", "GET", f"/leases/{lease.id}")
    assert (told["asked"]["units"], told["asked"]["least_units"], told["units"]) == (9, 3, 6)


# Idempotency ---------------------------------------------------------------------------------


async def test_the_same_key_is_the_same_lease(world: Any) -> None:
    body = {"slice": "blue", "type": "node", "duration": "1h"}
    headers = {"Idempotency-Key": "build 17"}

    async def ask(token: str, **changes: Any) -> tuple[int, Any]:
        status, told, _ = await world.call(
            "guest", token, "POST", "/leases", {**body, **changes}, headers=headers
        )
        return status, told

    asked = await asyncio.gather(*(ask("ann") for _ in range(5)))
    assert sorted(status for status, _ in asked) == [200, 200, 200, 200, 201]
    assert len({told["id"] for _, told in asked}) == 1
    status, problem = await ask("ann", units=2)
    assert (status, problem["field"]) == (409, "Idempotency-Key")
    status, other = await ask("bob")  # the same key of somebody else is another lease
    assert status == 201
    assert other["id"] != asked[0][1]["id"]
    assert len(world.actors["guest"].role.leases) == 2


async def test_a_repetition_whose_start_has_passed_meanwhile_is_still_the_same_lease(
    world: Any,
) -> None:
    body = {"slice": "blue", "type": "node", "start": at(seconds=1), "duration": "1h"}
    headers = {"Idempotency-Key": "k"}
    _, first, _ = await world.call("guest", "ann", "POST", "/leases", body, headers=headers)
    world.actors["guest"].role.me = dataclasses.replace(world.actors["guest"].role.me, skew=-3600)
    status, again, _ = await world.call("guest", "ann", "POST", "/leases", body, headers=headers)
    assert (status, again["id"]) == (200, first["id"])


async def test_without_a_key_each_request_is_a_lease(world: Any) -> None:
    assert (await world.request()).id != (await world.request()).id


# Isolation (ISOLATED) --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "suffix", "body"),
    [
        ("GET", "", None),
        ("GET", "/story", None),
        ("GET", "/events", None),
        ("GET", "/proofs", None),
        ("POST", "/close", {}),
        ("POST", "/extend", {"by": "1h"}),
        ("PATCH", "", {"renew": True}),
    ],
)
async def test_somebody_elses_lease_is_answered_as_none(
    world: Any, method: str, suffix: str, body: Any
) -> None:
    lease = await world.active("ann")
    before = world.actors["guest"].role.leases.copy()
    other = await world.call("guest", "bob", method, f"/leases/{lease.id}{suffix}", body)
    absent = await world.call("guest", "bob", method, f"/leases/{'0' * 16}{suffix}", body)
    assert other[0] == absent[0] == 404
    assert other[1] == absent[1]
    assert dict(other[2].headers) | {"Date": ""} == dict(absent[2].headers) | {"Date": ""}
    assert world.actors["guest"].role.leases == before


async def test_guests_list_and_count_their_own_leases_alone(world: Any) -> None:
    mine, other = await world.request("ann"), await world.request("bob")
    _, told, _ = await world.call("guest", "ann", "GET", "/leases")
    assert [lease["id"] for lease in told["leases"]] == [mine.id]
    _, status, _ = await world.call("guest", "ann", "GET", "/status")
    assert sum(status["leases"].values()) == 1
    assert (status["peers"], status["counters"]) == ([], {})
    _, told, _ = await world.call("guest", "looker", "GET", "/leases")
    assert {lease["id"] for lease in told["leases"]} == {mine.id, other.id}


async def test_a_viewer_reads_without_secrets_and_changes_nothing(world: Any) -> None:
    lease = await world.active(
        configuration={"password": "x1"}, ssh_keys=[KEY], request={"a": "x1"}
    )
    for path in ("", "/events"):
        text = await _text(world, "looker", f"/leases/{lease.id}{path}", close="ann")
        assert lease.id in text
        for secret in ("x1", "AAAAC3Nza", "10.0.0.1", "s-blue"):
            assert secret not in text
    for method, path, body in (
        ("POST", "/leases", {"slice": "s", "type": "node", "duration": 60}),
        ("POST", f"/leases/{lease.id}/close", {}),
        ("POST", f"/leases/{lease.id}/extend", {"by": 60}),
        ("PATCH", f"/leases/{lease.id}", {"renew": True}),
        ("GET", f"/leases/{lease.id}/proofs", None),
    ):
        assert (await world.call("guest", "looker", method, path, body))[0] == 403


async def _text(world: Any, token: str, path: str, close: str) -> str:
    """The whole answer; a stream is ended by closing its lease as `close`."""
    headers = {"Authorization": f"Bearer {world.secrets[token]}"}
    url = f"{world.url('guest')}/api/v1{path}"
    async with world.session.get(url, headers=headers) as response:
        if path.endswith("/events"):
            lease = path.split("/")[2]
            await world.call("guest", close, "POST", f"/leases/{lease}/close")
        return str(await response.text())


# Tokens --------------------------------------------------------------------------------------


@pytest.mark.parametrize("token", ["", "shk_wrong", "\u00e4", "ann", "x" * 5000])
async def test_without_a_valid_token_nothing_is_told(world: Any, token: str) -> None:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    status, _, response = await world.call("guest", "", "GET", "/leases", headers=headers)
    assert status == 401
    assert response.headers["WWW-Authenticate"].startswith("Bearer")


async def test_tokens_come_and_go_while_the_actor_runs(world: Any) -> None:
    tokens = Tokens(world.tokens.path.parent)  # as the command does, in another process
    secret = tokens.create("carl", "guest")
    assert (await world.call("guest", secret, "GET", "/leases"))[0] == 200
    tokens.revoke("carl")
    assert (await world.call("guest", secret, "GET", "/leases"))[0] == 401
    only = tokens.create("dora", "viewer", "broker")
    assert (await world.call("guest", only, "GET", "/leases"))[0] == 401
    assert (await world.call("broker", only, "GET", "/broker/leases"))[0] == 200


async def test_a_damaged_token_file_lets_nobody_in(world: Any) -> None:
    world.tokens.path.write_text("{")
    status, problem, response = await world.call("guest", "ann", "GET", "/leases")
    assert (status, problem["type"]) == (503, "urn:shirako:problem:unavailable")
    assert response.headers["Retry-After"]


async def test_a_revoked_token_ends_its_streams(world: Any) -> None:
    lease = await world.request(start=at(hours=1))
    headers = {"Authorization": f"Bearer {world.secrets['ann']}"}
    url = f"{world.url('guest')}/api/v1/leases/{lease.id}/events"
    async with asyncio.timeout(15), world.session.get(url, headers=headers) as response:
        assert await response.content.readline()
        world.tokens.revoke("ann")
        key = (world.actors["guest"].party.kid, lease.id)
        await world.actors["guest"].submit(lambda role, now: role.close(key, "x", now, "test"))
        assert "Closed" not in await response.text()


# What is refused before anything is stored -------------------------------------------------------

GOOD = {"slice": "blue", "type": "node", "duration": "1h"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"units": 0}, "units"),
        ({"units": -1}, "units"),
        ({"units": 10_001}, "units"),
        ({"units": 10**30}, "units"),
        ({"units": "2"}, "units"),
        ({"units": 1.5}, "units"),
        ({"units": True}, "units"),
        ({"least_units": 2}, "least_units"),
        ({"least_units": 0}, "least_units"),
        ({"slice": ""}, "slice"),
        ({"slice": "Blue"}, "slice"),
        ({"slice": "a" * 41}, "slice"),
        ({"slice": "../etc"}, "slice"),
        ({"slice": "blue\n"}, "slice"),
        ({"slice": None}, "slice"),
        ({"type": "node small"}, "type"),
        ({"type": "$(id)"}, "type"),
        ({"duration": None}, "duration"),
        ({"duration": 0}, "duration"),
        ({"duration": "2"}, "duration"),
        ({"duration": "soon"}, "duration"),
        ({"duration": "3651d"}, "duration"),
        ({"duration": "999999999d"}, "duration"),
        ({"duration": 1.5}, "duration"),
        ({"end": at(hours=2)}, "duration"),
        ({"duration": None, "end": at(hours=-2)}, "end"),
        ({"duration": None, "end": "2030-01-01T00:00:00"}, "end"),
        ({"duration": None, "end": "2030-01-01"}, "end"),
        ({"duration": None, "end": 1_900_000_000}, "end"),
        ({"duration": None, "end": "1900000000"}, "end"),
        ({"duration": None, "end": "2030-02-30T00:00:00Z"}, "end"),
        ({"duration": None, "end": "0001-01-01T00:00:00+14:00"}, "end"),
        ({"duration": None, "end": "9999-12-31T23:59:59-10:00"}, "end"),
        ({"duration": None, "end": at(days=3700)}, "end"),
        ({"start": at(hours=2), "duration": None, "end": at(hours=1)}, "end"),
        ({"start": at(hours=2), "duration": None, "end": at(hours=2, days=3651)}, "end"),
        ({"start": "2030-01-01T10:00:00"}, "start"),
        ({"start": at(minutes=-5)}, "start"),
        ({"start": "yesterday"}, "start"),
        ({"start": "9998-12-01T00:00:00Z", "duration": "3650d"}, "duration"),
        ({"ssh_keys": ["ssh-ed25519"]}, "ssh_keys"),
        ({"ssh_keys": [f"{KEY}\n{KEY}"]}, "ssh_keys"),
        ({"ssh_keys": [f'command="sh" {KEY}']}, "ssh_keys"),
        ({"ssh_keys": [KEY] * 17}, "ssh_keys"),
        ({"ssh_keys": KEY}, "ssh_keys"),
        ({"request": {"Bad Key": "x"}}, "request"),
        ({"request": {"a": "x" * 4097}}, "request"),
        ({"request": {f"k{i}": "x" for i in range(65)}}, "request"),
        ({"configuration": {"a": "two\nlines"}}, "configuration"),
        ({"configuration": {"a": "nul\x00"}}, "configuration"),
        ({"configuration": {"a": 1}}, "configuration.a"),
        ({"renew": "yes"}, "renew"),
        ({"broker": "nobody"}, "broker"),
        ({"unknown": 1}, "unknown"),
    ],
)
async def test_bad_input_names_its_field_and_stores_nothing(
    world: Any, change: dict[str, Any], field: str
) -> None:
    status, problem, _ = await world.call("guest", "ann", "POST", "/leases", {**GOOD, **change})
    assert status == 422, problem
    assert problem["field"] == field
    assert problem["errors"][0]["field"] == field
    assert problem["detail"].startswith(f"{field}: ")
    assert not world.actors["guest"].role.leases


async def test_all_faults_are_told_at_once(world: Any) -> None:
    bad = {"slice": "Blue", "type": "node", "units": 0, "duration": "1h"}
    _, problem, _ = await world.call("guest", "ann", "POST", "/leases", bad)
    assert {error["field"] for error in problem["errors"]} == {"slice", "units"}


@pytest.mark.parametrize(
    "data", [b"{", b"\xff\xfe", b"[1", b'{"slice": "\\ud800"}', b"[" * 100_000, b'{"a":' * 9999]
)
async def test_what_is_no_json_is_malformed(world: Any, data: bytes) -> None:
    status, problem, _ = await world.call("guest", "ann", "POST", "/leases", data=data)
    assert (status, problem["type"]) == (400, "urn:shirako:problem:malformed")


@pytest.mark.parametrize("data", [b"[]", b"null", b"1", b'"x"', b""])
async def test_other_json_is_invalid(world: Any, data: bytes) -> None:
    assert (await world.call("guest", "ann", "POST", "/leases", data=data))[0] == 422


async def test_large_bodies_are_refused_also_without_a_length(world: Any) -> None:
    large = b'{"slice": "' + b"a" * (256 * 1024) + b'"}'
    status, problem, _ = await world.call("guest", "ann", "POST", "/leases", data=large)
    assert (status, problem["type"]) == (413, "urn:shirako:problem:oversize")

    async def chunks() -> Any:
        yield large[:1000]
        yield large[1000:]

    headers = {"Authorization": f"Bearer {world.secrets['ann']}"}
    url = f"{world.url('guest')}/api/v1/leases"
    async with world.session.post(url, headers=headers, data=chunks()) as response:
        assert response.status == 413
        assert response.content_type == "application/problem+json"


@pytest.mark.parametrize("key", ["", "x" * 256, "caf\u00e9"])
async def test_bad_idempotency_keys_are_refused(world: Any, key: str) -> None:
    headers = {"Idempotency-Key": key}
    status, problem, _ = await world.call("guest", "ann", "POST", "/leases", GOOD, headers=headers)
    assert (status, problem["field"]) == (422, "Idempotency-Key")


# Listing -------------------------------------------------------------------------------------


async def test_pages_filters_and_their_faults(world: Any) -> None:
    made = [await world.request(slice=name) for name in ("red", "blue", "red", "red")]
    red = sorted(lease.id for lease in made if lease.slice == "red")
    _, first, _ = await world.call("guest", "ann", "GET", "/leases?slice=red&limit=2")
    assert [lease["id"] for lease in first["leases"]] == red[:2]
    rest = f"/leases?slice=red&limit=2&after={first['next']}"
    _, second, _ = await world.call("guest", "ann", "GET", rest)
    assert [lease["id"] for lease in second["leases"]] == red[2:]
    assert second["next"] is None
    for lease in made:
        await world.until(lease.id, "Active")
    _, told, _ = await world.call("guest", "ann", "GET", "/leases?state=Active&state=Closed")
    assert len(told["leases"]) == 4
    _, told, _ = await world.call("guest", "ann", "GET", "/leases?state=Closed")
    assert told["leases"] == []
    for query, field in (
        ("state=active", "state"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("limit=1&limit=2", "limit"),
        ("colour=red", "colour"),
    ):
        status, problem, _ = await world.call("guest", "ann", "GET", f"/leases?{query}")
        assert (status, problem["field"]) == (422, field)


async def test_the_client_walks_through_all_pages(world: Any) -> None:
    for _ in range(5):
        await world.request()
    async with Client(world.url("guest"), world.secrets["ann"]) as client:
        assert len(await client.leases()) == 5
        assert len(await client.leases(limit=3)) == 3


# Renewal -------------------------------------------------------------------------------------


async def test_renew_is_set_and_acted_upon(world: Any) -> None:
    lease = await world.active(duration="20s")
    path = f"/leases/{lease.id}"
    status, told, _ = await world.call("guest", "ann", "PATCH", path, {"renew": True})
    assert (status, told["renew"]) == (200, True)
    wake = world.actors["guest"].role.leases[world.actors["guest"].party.kid, lease.id].wake
    assert wake < int(lease.end.timestamp()) - 5  # it will ask well before the end
    _, story, _ = await world.call("guest", "ann", "GET", f"{path}/story")
    assert story["story"][-1]["what"] == "RenewSet"
    await world.call("guest", "ann", "POST", f"{path}/close")
    await world.until(lease.id, "Closed")
    assert (await world.call("guest", "ann", "PATCH", path, {"renew": False}))[0] == 409
