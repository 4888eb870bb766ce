"""Extensions answer with the granted end, the latest possible one, and what caps it."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest

from shirako.api import guest
from shirako.api.models import ExtendRequest
from shirako.client import Client, Problem


async def extend(world: Any, lease: str, body: dict[str, Any]) -> tuple[int, Any]:
    status, told, _ = await world.call("guest", "ann", "POST", f"/leases/{lease}/extend", body)
    return status, told


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


async def end_of(world: Any, lease: str) -> datetime:
    _, told, _ = await world.call("guest", "ann", "GET", f"/leases/{lease}")
    return moment(told["end"])


async def test_an_extension_tells_the_granted_end_and_what_caps_it(world: Any) -> None:
    lease = await world.active()
    status, told = await extend(world, lease.id, {"by": "1h"})
    assert status == 200
    assert moment(told["old_end"]) == lease.end
    assert moment(told["new_end"]) == lease.end + timedelta(hours=1)
    assert moment(told["new_end"]) == moment(told["asked_end"])
    assert moment(told["latest_end"]) > moment(told["new_end"])
    assert (told["cap"], told["refused"], told["pending"]) == ("delegation", "", False)
    assert await end_of(world, lease.id) == moment(told["new_end"])


async def test_less_is_granted_only_to_who_takes_less(world: Any) -> None:
    lease = await world.active()
    asked = lease.end + timedelta(days=1)
    status, told = await extend(world, lease.id, {"end": asked.isoformat()})
    assert status == 409
    assert told["refused"]
    assert moment(told["new_end"]) == moment(told["old_end"]) == lease.end
    assert told["cap"] == "delegation"
    assert await end_of(world, lease.id) == lease.end
    least = lease.end + timedelta(minutes=1)
    body = {"end": asked.isoformat(), "at_least": least.isoformat()}
    status, again = await extend(world, lease.id, body)
    assert status == 200
    assert again["new_end"] == again["latest_end"] == told["latest_end"]
    assert moment(again["asked_end"]) == asked
    assert await end_of(world, lease.id) == moment(again["new_end"])


async def test_what_others_have_booked_caps_an_extension(world: Any) -> None:
    lease = await world.active(units=4)
    start = lease.end + timedelta(minutes=10)
    other = await world.request("bob", units=4, start=start.isoformat())
    await world.until(other.id, "Ticketed")
    status, told = await extend(world, lease.id, {"by": "1h"})
    assert (status, told["cap"]) == (409, "booked")
    assert moment(told["latest_end"]) == start


@pytest.mark.parametrize(
    ("offset", "at_least", "field"),
    [(-600, None, "end"), (0, None, "end"), (600, -60, "at_least"), (600, 0, "at_least")],
)
async def test_an_extension_never_shortens(
    world: Any, offset: int, at_least: int | None, field: str
) -> None:
    lease = await world.active()
    body = {"end": (lease.end + timedelta(seconds=offset)).isoformat()}
    if at_least is not None:
        body["at_least"] = (lease.end + timedelta(seconds=at_least)).isoformat()
    status, told = await extend(world, lease.id, body)
    assert (status, told["field"]) == (422, field)
    assert "never shortens" in told["detail"]
    assert await end_of(world, lease.id) == lease.end


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "by"),
        ({"by": 0}, "by"),
        ({"by": -5}, "by"),
        ({"by": "1h", "end": "2030-01-01T00:00:00Z"}, "by"),
        ({"end": "2030-01-01T00:00:00"}, "end"),
        ({"by": "3650d"}, "by"),
        ({"end": "2030-01-01T00:00:00Z", "at_least": "2030-01-02T00:00:00Z"}, "at_least"),
        ({"by": 60, "units": 4}, "units"),
    ],
)
async def test_bad_extensions_name_their_field(
    world: Any, body: dict[str, Any], field: str
) -> None:
    lease = await world.active()
    status, told = await extend(world, lease.id, body)
    assert (status, told["field"]) == (422, field)


async def test_repeating_an_answered_extension_changes_nothing(world: Any) -> None:
    lease = await world.active()
    body = {"end": (lease.end + timedelta(hours=1)).isoformat()}
    first = await extend(world, lease.id, body)
    assert first[0] == 200
    assert await extend(world, lease.id, body) == first


async def test_an_extension_waits_until_the_lease_is_active(world: Any) -> None:
    world.handlers["site"].gate.clear()
    lease = await world.request()
    asked = asyncio.ensure_future(extend(world, lease.id, {"by": "10m"}))
    await world.until(lease.id, "Redeeming")
    await asyncio.sleep(0.05)
    assert not asked.done()
    world.handlers["site"].gate.set()
    status, told = await asked
    assert status == 200
    assert moment(told["new_end"]) == lease.end + timedelta(minutes=10)


@pytest.mark.parametrize("silent", ["broker", "site"])
async def test_no_answer_in_time_is_said_so(
    world: Any, monkeypatch: pytest.MonkeyPatch, silent: str
) -> None:
    lease = await world.active()
    monkeypatch.setattr(guest, "EXTEND_SECONDS", 0.2)
    await world.actors[silent].stop()
    body = {"end": (lease.end + timedelta(hours=1)).isoformat()}
    status, told = await extend(world, lease.id, body)
    assert (status, told["pending"]) == (202, True)
    assert told["new_end"] == told["old_end"]  # nothing is granted before it is
    status, told = await extend(world, lease.id, body)
    assert (status, told["pending"]) == (202, True)


async def test_a_lease_that_is_over_or_not_ready_is_not_extended(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    lease = await world.active()
    await world.call("guest", "ann", "POST", f"/leases/{lease.id}/close")
    await world.until(lease.id, "Closed")
    status, told = await extend(world, lease.id, {"by": "1h"})
    assert (status, told["type"]) == (409, "urn:shirako:problem:closed")
    monkeypatch.setattr(guest, "EXTEND_SECONDS", 0.2)
    later = await world.request(start=(lease.end + timedelta(minutes=1)).isoformat())
    status, told = await extend(world, later.id, {"by": "1h"})
    assert (status, told["type"]) == (409, "urn:shirako:problem:busy")


async def test_the_client_raises_the_offer_with_the_refusal(world: Any) -> None:
    lease = await world.active()
    async with Client(world.url("guest"), world.secrets["ann"]) as client:
        with pytest.raises(Problem) as refused:
            await client.extend(lease.id, ExtendRequest(by=30 * 86_400))
        assert refused.value.status == 409
        assert refused.value.members["cap"] == "delegation"
        granted = await client.extend(lease.id, ExtendRequest(by=60))
        assert granted.new_end == lease.end + timedelta(minutes=1)
