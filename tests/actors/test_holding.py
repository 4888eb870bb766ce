"""A copy of an actor that does not hold its ledger neither acts nor answers; one that can not use
it any more ends (DURABLE)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from shirako.actors.role import Refused
from shirako.ledger import CommitFailed, Entry, LedgerError, LedgerLost, Write
from shirako.ledger.memory import MemoryLedger
from shirako.transport import Unreachable
from world import NAMES, World, until


class Shared(MemoryLedger):
    """A ledger that another copy may take over, as the test says."""

    def __init__(self) -> None:
        super().__init__()
        self.mine = True
        self.lost = False

    def held(self) -> bool:
        if self.lost:
            raise LedgerLost("another copy has taken over")
        return self.mine


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    for name in NAMES:
        world.ledgers[name] = Shared()
        await world.start(name)
    await world.delegate(4)
    yield world
    for name in list(world.actors):
        await world.crash(name)


def ledger(world: World, name: str) -> Shared:
    found = world.ledgers[name]
    assert isinstance(found, Shared)
    return found


async def test_a_site_that_does_not_hold_its_ledger_takes_nothing_and_sets_nothing_up(
    world: World,
) -> None:
    ledger(world, "site").mine = False
    key = await world.request()
    await world.reach("guest", key, "Redeeming")
    await asyncio.sleep(0.6)
    assert world.state("site", key) == "-"
    assert world.hands["site"].done == []
    with pytest.raises(Unreachable, match="another copy"):
        await world.transport.post(world.parties["site"].url, await _envelope(world))
    with pytest.raises(Refused, match="another copy"):
        await world.actors["site"].settled()
    ledger(world, "site").mine = True
    await world.reach("guest", key, "Active")


async def _envelope(world: World) -> bytes:
    from shirako.transport.envelope import seal

    now = world.clock.milliseconds()
    return seal(world.keys["guest"], world.parties["site"].kid, now, now, [])


async def test_a_guest_that_does_not_hold_its_ledger_says_nothing(world: World) -> None:
    ledger(world, "guest").mine = False
    with pytest.raises(Refused, match="another copy"):
        await world.request()
    await asyncio.sleep(0.6)
    assert not world.actors["broker"].role.leases
    ledger(world, "guest").mine = True
    await until(lambda: len(world.actors["broker"].role.leases) == 1)


async def test_a_copy_that_was_replaced_ends_also_when_it_is_idle(world: World) -> None:
    ledger(world, "broker").lost = True
    await asyncio.wait_for(world.actors["broker"].ended.wait(), 10)
    assert isinstance(world.actors["broker"].why_ended, LedgerLost)
    with pytest.raises(Refused):
        await world.actors["broker"].submit(lambda _role, _now: None)


class Broken(MemoryLedger):
    """Can be neither written nor read again from some moment on."""

    broken = False

    def commit(self, writes: Sequence[Write], entries: Sequence[Entry]) -> None:
        if self.broken:
            raise CommitFailed("disk I/O error")
        super().commit(writes, entries)

    def load(self) -> Iterator[tuple[str, str, bytes]]:
        if self.broken:
            raise LedgerError("it is damaged")
        return super().load()


async def test_an_actor_whose_ledger_broke_ends_and_lets_nobody_wait() -> None:
    world = World()
    broken = world.ledgers["guest"] = Broken()
    for name in NAMES:
        await world.start(name)
    await world.delegate(4)
    broken.broken = True
    for _ in range(3):
        with pytest.raises(Refused):
            await asyncio.wait_for(world.request(), 10)
    assert isinstance(world.actors["guest"].why_ended, LedgerError)
    for name in list(world.actors):
        await world.crash(name)


async def test_a_clock_of_the_past_does_not_take_an_actor_back(world: World) -> None:
    """Rule 13: what the ledger has seen is over."""
    key = await world.request()
    await world.reach("guest", key, "Active")
    last = ledger(world, "guest").last_link()
    assert last is not None
    await world.crash("guest")
    told: list[int] = []
    real = world.clock.not_before
    world.clock.not_before = lambda tick: (told.append(tick), real(tick))[1]  # type: ignore[method-assign, func-returns-value]
    await world.start("guest")
    assert len(told) == 1
    assert abs(told[0] - world.clock.tick()) <= 30
