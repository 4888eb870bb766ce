"""CONSERVE: a broker that comes back from a backup sells nothing that it may have sold since."""

from __future__ import annotations

from shirako.core.machine import Key
from tests.recovery.conftest import HOUR, UNITS, Past
from world import until


async def sold_twice_over(past: Past) -> tuple[Key, Key]:
    """Half is sold before the backup, the other half after it: two leases."""
    known = await past.request(UNITS // 2)
    await past.reach("guest", known, "Active")
    file = await past.back_up("broker")
    forgotten = await past.request(UNITS // 2)
    await past.reach("guest", forgotten, "Active")
    await past.restored("broker", file)
    assert past.state("broker", forgotten) == "-"
    return known, forgotten


async def test_it_sells_nothing_while_it_is_held(past: Past) -> None:
    known, _ = await sold_twice_over(past)
    broker = past.actors["broker"].role
    key = await past.request()
    await past.turns()
    assert past.state("guest", key) == "Ticketing"
    assert past.state("broker", key) == "-"
    assert past.state("broker", known) == "Ticketed"
    assert set(broker.leases) == {known}


async def test_it_does_not_oversell_when_it_is_confirmed(past: Past) -> None:
    known, forgotten = await sold_twice_over(past)
    key = await past.request()
    plan = await past.recover("broker")
    (unsold,) = plan.unsold
    assert (unsold.id, unsold.units) == ("share", UNITS)
    refused = await past.reach("guest", key, "Failed")
    assert "restored from a backup" in refused.reason
    assert past.booked() == UNITS
    for _ in range(2):  # what is known to be given back may have been sold again
        await past.close(known)
        await past.reach("guest", known, "Closed")
        await past.reach("broker", known, "Closed")
        refused_too = await past.request()
        await past.reach("guest", refused_too, "Failed")
        await past.crash("broker")
        await past.up("broker")
    assert past.state("site", forgotten) == "Active"


async def test_a_delegation_of_after_the_restore_is_sold(past: Past) -> None:
    known, forgotten = await sold_twice_over(past)
    for key in (known, forgotten):
        await past.close(key)
        await past.reach("guest", key, "Closed")
    site = past.actors["site"].role
    past.units += ("n4", "n5")
    await past.crash("site")
    past.performer.pools["node"].units.update({"n4": {}, "n5": {}})  # type: ignore[attr-defined]
    past.performer = type(past.performer)(past.performer.pools, past._lease_of)
    past.hands["site"] = past.performer  # type: ignore[assignment]
    await past.up("site")
    del site
    await past.recover("broker")
    await past.delegate_more("fresh", 2, 10 * HOUR)
    key = await past.request(2)
    await past.reach("guest", key, "Active")
    more = await past.request()
    await past.reach("guest", more, "Failed")


async def test_it_sells_all_when_the_backup_was_current(past: Past) -> None:
    known = await past.request(UNITS // 2)
    await past.reach("guest", known, "Active")
    await past.restored("broker", await past.back_up("broker"))
    await past.recover("broker", backup_was_current=True)
    assert past.booked() == UNITS // 2
    key = await past.request(UNITS // 2)
    await past.reach("guest", key, "Active")
    more = await past.request()
    await past.reach("guest", more, "Failed")
    await past.crash("broker")
    await past.up("broker")
    assert past.booked() == UNITS


async def test_it_takes_what_is_given_back(past: Past) -> None:
    known = await past.request(UNITS // 2)
    await past.reach("guest", known, "Active")
    await past.restored("broker", await past.back_up("broker"))
    await past.close(known)
    await past.reach("guest", known, "Closed")
    await past.reach("broker", known, "Closed")
    await past.recover("broker", backup_was_current=True)
    assert past.booked() == 0


async def test_an_extension_waits_for_the_confirmation(past: Past) -> None:
    key = await past.request()
    await past.reach("guest", key, "Active")
    await past.restored("broker", await past.back_up("broker"))
    end = past.end("guest", key) + HOUR
    await past.actors["guest"].submit(lambda role, now: role.extend(key, end, end, now, "test"))
    await past.turns()
    assert past.state("guest", key) == "ExtendingTicket"
    await past.recover("broker", backup_was_current=True)
    await until(lambda: past.end("guest", key) == end)
