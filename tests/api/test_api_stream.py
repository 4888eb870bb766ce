"""Server-sent events: every change of a lease, its story, and an end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shirako.api import stream
from shirako.api.models import LeaseEvent, StoryEvent
from shirako.client import Client


async def read(world: Any, lease: str, token: str = "ann", **headers: str) -> list[tuple[str, str]]:
    """All events of a stream as (name, data)."""
    sent = {"Authorization": f"Bearer {world.secrets[token]}", **headers}
    url = f"{world.url('guest')}/api/v1/leases/{lease}/events"
    events, name = [], ""
    async with asyncio.timeout(20), world.session.get(url, headers=sent) as response:
        assert response.status == 200
        assert response.content_type == "text/event-stream"
        async for raw in response.content:
            field, _, value = raw.decode().strip().partition(": ")
            if field == "event":
                name = value
            elif field == "data":
                events.append((name, value))
    return events


async def test_a_stream_tells_states_and_handlers_lines_and_ends(world: Any) -> None:
    world.handlers["guest"].gate.clear()
    lease = await world.request()
    told: list[LeaseEvent | StoryEvent] = []
    logged = asyncio.Event()

    async def listen() -> None:
        async with Client(world.url("guest"), world.secrets["ann"]) as client:
            async for event in client.watch(lease.id):
                told.append(event)
                if isinstance(event, StoryEvent) and event.line.what == "log":
                    logged.set()

    listening = asyncio.ensure_future(listen())
    async with asyncio.timeout(20):
        await logged.wait()  # a line of a handler that still runs: it changed no record
        assert not any(isinstance(e, LeaseEvent) and e.lease.state == "Active" for e in told)
        world.handlers["guest"].gate.set()
        await world.until(lease.id, "Active")
        await world.call("guest", "ann", "POST", f"/leases/{lease.id}/close")
        await listening
    states = [event.lease.state for event in told if isinstance(event, LeaseEvent)]
    assert states[-1] == "Closed"
    assert "Active" in states
    numbers = [event.number for event in told if isinstance(event, StoryEvent)]
    assert numbers == list(range(1, len(numbers) + 1))
    lines = [event.line.note for event in told if isinstance(event, StoryEvent)]
    assert "join begins" in lines


async def test_a_stream_of_a_lease_that_is_over_tells_it_and_ends(world: Any) -> None:
    lease = await world.request(units=99)
    await world.until(lease.id, "Failed")
    names = [name for name, _ in await read(world, lease.id)]
    assert names[-2:] == ["lease", "end"]
    assert names.count("story") == 2


async def test_a_stream_goes_on_where_it_was_lost(world: Any) -> None:
    lease = await world.request(units=99)
    await world.until(lease.id, "Failed")
    events = await read(world, lease.id, **{"Last-Event-ID": "1"})
    assert [name for name, _ in events] == ["story", "lease", "end"]
    odd = await read(world, lease.id, **{"Last-Event-ID": "\u00b2x"})
    assert [name for name, _ in odd].count("story") == 2


async def test_a_server_that_stops_does_not_wait_for_its_streams(world: Any) -> None:
    lease = await world.active()
    listening = asyncio.ensure_future(read(world, lease.id))
    await asyncio.sleep(0.2)
    async with asyncio.timeout(3):
        await world.servers["guest"].close()
        await asyncio.gather(listening, return_exceptions=True)


async def test_clients_that_went_away_leave_nothing_behind(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "HEARTBEAT_SECONDS", 0.05)
    lease = await world.active()
    listening = asyncio.ensure_future(read(world, lease.id))
    await asyncio.sleep(0.2)
    actor = world.actors["guest"]
    assert actor._watchers
    listening.cancel()
    async with asyncio.timeout(5):
        while actor._watchers:  # noqa: ASYNC110 - nothing to wait on
            await asyncio.sleep(0.05)
