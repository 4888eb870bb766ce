"""The actor's loop: commits before it performs, survives what breaks, goes on after a crash."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import pytest

from shirako.actors import actor as loop
from shirako.actors.authority import Authority
from shirako.actors.role import Refused
from shirako.core import messages
from shirako.core.authority import SiteState
from shirako.core.machine import Key, Woken
from shirako.ledger import CommitFailed, Entry, Write
from shirako.ledger.memory import MemoryLedger
from shirako.transport.envelope import Rejected, read_acknowledgement, seal
from world import NAMES, World, until


async def test_a_whole_life(world: World) -> None:
    key = await world.request(units=2)
    active = await world.reach("guest", key, "Active")
    assert [unit.properties["host"] for unit in active.held] == ["n0", "n1"]
    await world.close(key)
    closed = await world.reach("guest", key, "Closed")
    assert closed.receipt
    await world.reach("broker", key, "Closed")
    share = world.actors["broker"].role.share("share")
    assert share.calendar.steps()[-2][1] == 0, "capacity that a receipt freed is still booked"


async def test_several_units_wholly_or_not_at_all(world: World) -> None:
    world.hands["site"].fails = {("setup", "n3")}
    key = await world.request(units=4)
    failed = await world.reach("guest", key, "Failed")
    assert "could not be set up" in failed.reason
    units = world.actors["site"].role.units
    assert units["n3"].quarantined
    assert all(units[name].owner is None for name in world.units)


async def test_fewer_units_if_the_guest_takes_them(world: World) -> None:
    world.hands["site"].fails = {("setup", "n3")}
    key = await world.request(units=4, least=2)
    active = await world.reach("guest", key, "Active")
    assert len(active.held) == 3


async def test_a_failed_unit_is_swapped(world: World) -> None:
    world.hands["site"].fails = {("setup", "n0")}
    key = await world.request(units=2)
    active = await world.reach("guest", key, "Active")
    assert {unit.unit for unit in active.held} == {"n1", "n2"}
    await world.close(key)
    await world.reach("guest", key, "Closed")
    units = world.actors["site"].role.units
    assert [name for name in world.units if units[name].quarantined] == ["n0"]


async def test_teardown_that_keeps_failing_is_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shirako.core.authority.TEARDOWN_PAUSE_TICKS", 0)
    world.hands["site"].fails = {("teardown", "n0")}
    key = await world.request()
    await world.reach("guest", key, "Active")
    await world.close(key)
    closed = await world.reach("guest", key, "Closed")
    assert "teardown failed" in closed.reason
    site = await world.reach("site", key, "CloseFailed")
    assert site.receipt
    assert world.actors["site"].role.units["n0"].quarantined
    assert len([w for w in world.hands["site"].done if w.handler == "teardown"]) == 3


async def test_expiry_without_a_close(world: World) -> None:
    """ENDS: the guest is gone, the site tears down at the end of the term all the same."""
    key = await world.request(seconds=5)
    await world.reach("guest", key, "Active")
    await world.crash("guest")
    await world.reach("site", key, "Closed")
    await world.start("guest")
    await world.reach("guest", key, "Closed")


@pytest.mark.parametrize("victim", NAMES)
@pytest.mark.parametrize("when", ["Ticketing", "Redeeming", "Active", "CloseWait"])
async def test_crash_and_return(world: World, victim: str, when: str) -> None:
    """DURABLE: whoever loses its memory, the lease goes on from the ledger."""
    if when == "Ticketing":
        await world.crash("broker")
    if when == "Redeeming":
        world.hands["site"].gate.clear()
    key = await world.request(units=2)
    if when == "CloseWait":
        await world.reach("guest", key, "Active")
        world.hands["site"].gate.clear()
        await world.close(key)
    await world.reach("guest", key, when)
    if victim in world.actors:
        await world.crash(victim)
    for hands in world.hands.values():
        hands.gate.set()
    for name in NAMES:
        if name not in world.actors:
            await world.start(name)
    if when != "CloseWait":
        await world.reach("guest", key, "Active")
        await world.close(key)
    await world.reach("guest", key, "Closed")
    await world.reach("broker", key, "Closed")
    site = await world.reach("site", key, "Closed")
    assert len(site.assignments) == 2, "a unit was assigned twice"


class Brittle(MemoryLedger):
    """Refuses the commits whose numbers it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.refuses = 0

    def commit(self, writes: Sequence[Write], entries: Sequence[Entry]) -> None:
        if self.refuses:
            self.refuses -= 1
            raise CommitFailed("no space left on device")
        super().commit(writes, entries)


@pytest.mark.parametrize("name", NAMES)
async def test_a_failed_commit_is_a_crash(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loop, "RELOAD_SECONDS", 0.01)
    world = World()
    ledger = world.ledgers[name] = Brittle()
    for one in NAMES:
        await world.start(one)
    await world.delegate(4)
    key = await world.request()
    await world.reach("guest", key, "Active")
    ledger.refuses = 1
    while world.state("guest", key) == "Active":
        with contextlib.suppress(Refused):  # a full disk is no final answer: it is tried again
            await world.close(key)
    await until(lambda: ledger.refuses == 0)
    for one in NAMES:
        await world.reach(one, key, "Closed")
    assert "nothing of this turn is stored" in caplog.text
    for actor in world.actors.values():
        await actor.stop()


@pytest.mark.parametrize("handler", ["setup", "teardown"])
async def test_a_handlers_end_outlives_a_failed_commit(
    handler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody asks again for what a handler answered: it is kept until it is committed."""
    monkeypatch.setattr(loop, "RELOAD_SECONDS", 0.01)
    world = World()
    ledger = world.ledgers["site"] = Brittle()
    for one in NAMES:
        await world.start(one)
    await world.delegate(4)
    hands = world.hands["site"]
    if handler == "setup":
        hands.gate.clear()
    key = await world.request()
    if handler == "teardown":
        await world.reach("guest", key, "Active")
        hands.gate.clear()
        await world.close(key)
    await world.reach("site", key, "Priming" if handler == "setup" else "Closing")
    await world.actors["site"].settled()
    ledger.refuses = 1
    hands.gate.set()
    await until(lambda: ledger.refuses == 0)
    if handler == "setup":
        await world.reach("guest", key, "Active")
        await world.close(key)
    for one in NAMES:
        await world.reach(one, key, "Closed")
    for actor in world.actors.values():
        await actor.stop()


async def test_a_step_that_breaks_refuses_its_own_event_only(world: World) -> None:
    guest = world.actors["guest"]

    def broken(role: Any, now: int) -> None:
        role.leases.clear()  # half of something
        raise ZeroDivisionError

    key = await world.request()
    await world.reach("guest", key, "Active")
    outcomes = await asyncio.gather(
        guest.submit(broken), guest.submit(lambda role, _: len(role.leases)), return_exceptions=True
    )
    assert isinstance(outcomes[0], ZeroDivisionError)
    assert outcomes[1] == 1, "what the broken step did was not undone"
    await world.close(key)
    await world.reach("guest", key, "Closed")


async def test_a_timer_that_breaks_stops_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENDS: for the others at once, and for this one as soon as its step can be made."""
    monkeypatch.setattr(loop, "BROKEN_TIMER_TICKS", 1)
    bad, good = await world.request(seconds=2), await world.request(seconds=2)
    for key in (bad, good):
        await world.reach("site", key, "Active")
    whole = Authority.woken

    def woken(role: Authority, key: Key, now: int) -> None:
        if key == bad and role.leases[key].state is SiteState.ACTIVE:
            raise ZeroDivisionError
        whole(role, key, now)

    await world.crash("guest")  # it would close them itself
    monkeypatch.setattr(Authority, "woken", woken)
    await world.reach("site", good, "Closed")
    assert world.state("site", bad) == "Active"
    monkeypatch.setattr(Authority, "woken", whole)
    await world.reach("site", bad, "Closed")


async def test_an_envelope_that_came_twice_is_acknowledged_and_taken_once(world: World) -> None:
    broker, guest = world.parties["broker"], world.keys["guest"]
    now = world.clock.milliseconds()
    asked = messages.Relinquish(rid="never", holder=guest.public.kid, n=1)
    envelope = seal(guest, broker.kid, now, now, [messages.encode(asked)])
    answers = [await world.actors["broker"].receive(envelope) for _ in range(2)]
    assert answers[0] == answers[1]
    public = world.keys["broker"].public
    assert read_acknowledgement(answers[0], public, guest.public.kid, now).refused == ()


async def test_overload_is_refused_and_may_be_retried(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """BOUNDED."""
    monkeypatch.setattr(loop, "QUEUE_MAX", 0)
    now = world.clock.milliseconds()
    envelope = seal(world.keys["guest"], world.parties["broker"].kid, now, now, [])
    with pytest.raises(Rejected) as refused:
        await world.actors["broker"].receive(envelope)
    assert refused.value.status == 503


async def test_refusals_are_counted_and_logged_once_a_minute(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(5):
        with pytest.raises(Rejected):
            await world.actors["broker"].receive(b"not an envelope")
    assert world.actors["broker"].counters["refused.signature"] == 5
    assert sum("not a compact JWS" in record.message for record in caplog.records) <= 2


async def test_a_stranger_is_not_served(world: World) -> None:
    from shirako.trust import PrivateKey

    stranger, broker = PrivateKey.generate(), world.parties["broker"]
    now = world.clock.milliseconds()
    kid = stranger.public.kid
    asked = messages.Relinquish(rid="r1", holder=kid, n=1)
    envelope = seal(stranger, broker.kid, now, now, [messages.encode(asked)])
    answer = await world.actors["broker"].receive(envelope)
    refused = read_acknowledgement(answer, world.keys["broker"].public, kid, now).refused
    assert [refusal.code for refusal in refused] == ["stranger"]
    assert (kid, "r1") not in world.actors["broker"].role.leases


async def test_a_guest_leaves_earlier_where_the_sites_clock_is_ahead(world: World) -> None:
    """The measured skew of a peer drives how early a guest acts."""
    guest, site = world.actors["guest"], world.parties["site"]
    key = await world.request(seconds=1000)
    lease = await world.reach("guest", key, "Active")
    assert -1000 < guest.skews[site.kid] <= 0, "both clocks are the same one"
    assert lease.wake == lease.term.end - guest.role.lead
    guest.skews[site.kid] = 4200
    await guest.submit(lambda role, now: role.apply(lease, Woken(now=now), "test"))
    later = guest.role.leases[key]
    assert later.wake == lease.term.end - guest.role.lead - 5
