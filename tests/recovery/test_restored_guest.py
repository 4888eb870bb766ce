"""Rule 13: a service manager that comes back from a backup leaves and closes nothing by itself
before it is confirmed, and learns from its peers what became of its leases."""

from __future__ import annotations

import pytest

from tests.recovery.conftest import HOUR, Past
from world import until


async def test_it_leaves_nothing_before_it_is_confirmed(past: Past) -> None:
    past.joins = True
    await past.crash("guest")
    await past.up("guest")
    key = await past.request(2)
    await past.reach("guest", key, "Active")
    file = await past.back_up("guest")
    await past.lose("guest")
    await past.crash("site")  # it can not be asked
    past.hands["guest"].done.clear()
    await past.come_back("guest", file)
    await past.pass_time(2 * HOUR)
    assert past.state("guest", key) == "Active"
    shown = await past.recover("guest", dry_run=True)
    assert [(due.key, due.does) for due in shown.due] == [(key, "left and closed")]
    assert past.hands["guest"].done == []
    await past.recover("guest")
    await past.reach("guest", key, "Closed")
    assert {work.handler for work in past.hands["guest"].done} == {"leave"}


async def test_it_learns_of_an_extension_while_it_is_held(past: Past) -> None:
    key = await past.request()
    await past.reach("guest", key, "Active")
    file = await past.back_up("guest")
    first = past.end("guest", key)
    second = await past.extend(key, HOUR)
    await past.lose("guest")
    past.clock.ahead_ms += (first + 60 - past.clock.tick()) * 1000
    await past.come_back("guest", file)
    await until(lambda: past.end("guest", key) == second)
    assert past.actors["guest"].role.held
    assert (await past.recover("guest")).due == ()
    await past.turns()
    assert past.state("guest", key) == past.state("site", key) == "Active"


@pytest.mark.parametrize("state", ["Ticketing", "Redeeming", "ExtendingTicket"])
async def test_it_asks_again_for_what_it_had_asked_for(past: Past, state: str) -> None:
    """The answer was given to the one that was lost."""
    if state == "Ticketing":
        await past.crash("broker")
    if state == "Redeeming":
        await past.crash("site")
    key = await past.request()
    if state == "ExtendingTicket":
        await past.reach("guest", key, "Active")
        await past.crash("broker")
        end = past.end("guest", key) + HOUR
        await past.actors["guest"].submit(lambda role, now: role.extend(key, end, end, now, "t"))
    await past.reach("guest", key, state)
    file = await past.back_up("guest")
    await past.up("site" if state == "Redeeming" else "broker")
    await past.reach("guest", key, "Active")
    if state == "ExtendingTicket":
        await until(lambda: past.end("guest", key) == end)
    leased = past.end("site", key)
    await past.restored("guest", file)
    await past.recover("guest")
    await past.reach("guest", key, "Active")
    await until(lambda: past.end("guest", key) == leased)
    await past.close(key)
    await past.reach("guest", key, "Closed")
    await past.reach("broker", key, "Closed")
    assert past.booked() == 0


async def test_it_finds_a_lease_again_that_it_asks_for_by_the_same_name(past: Past) -> None:
    """As what a descriptor demands: the backup is from before it was asked for."""
    file = await past.back_up("guest")
    key = await past.request(2)
    await past.reach("guest", key, "Active")
    await past.restored("guest", file)
    assert past.state("guest", key) == "-"
    past._requests = 0
    assert await past.request(2) == key
    await past.recover("guest")
    lease = await past.reach("guest", key, "Active")
    assert [unit.unit for unit in lease.held] == ["n0", "n1"]
    assert past.booked() == 2
    await past.close(key)
    await past.reach("guest", key, "Closed")
    await past.reach("broker", key, "Closed")
    assert past.booked() == 0


async def test_what_was_closed_since_is_closed(past: Past) -> None:
    key = await past.request()
    await past.reach("guest", key, "Active")
    file = await past.back_up("guest")
    await past.close(key)
    await past.reach("guest", key, "Closed")
    await past.restored("guest", file)
    assert past.state("guest", key) == "Active"
    await past.recover("guest")
    await past.close(key)
    await past.reach("guest", key, "Closed")


async def test_its_policy_decides_nothing_before_it_is_confirmed(past: Past) -> None:
    await past.crash("broker")
    key = await past.request()
    await past.restored("guest", await past.back_up("guest"))
    await past.up("broker")
    await past.reach("guest", key, "Ticketed")
    await past.turns()
    assert past.state("guest", key) == "Ticketed"
    await past.recover("guest")
    await past.reach("guest", key, "Active")
