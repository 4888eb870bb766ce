"""Guests and site admins: what they ask for, as their part of the seed says.

A person's plan is drawn before anything happens. What they do depends on what they see, which is
what is committed; what goes wrong elsewhere does not change what they want.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from shirako.actors.role import Refused
from shirako.actors.service_manager import ServiceManager
from shirako.core.claims import Party
from shirako.core.guest import GuestLease, GuestState
from shirako.core.machine import Key, Woken
from shirako.core.terms import Term
from shirako.handlers import HandlerFailed
from shirako.simulation.chance import Stream, stream
from shirako.simulation.drivers import log_in
from shirako.simulation.facts import Commit, Facts, Observer
from shirako.simulation.nodes import Node
from shirako.simulation.records import GuestRecord
from shirako.simulation.seats import Down, Seat

TRIES = 30
"""How often a person asks again that got no answer."""


@dataclass(frozen=True, slots=True)
class Wish:
    """One lease that a guest wants, and what it does with it."""

    rid: str
    at: float
    """Seconds after the beginning at which it is asked for."""
    broker: Party
    type: str
    slice: str
    units: int
    least: int
    starts_in: int
    ticks: int
    renew: bool
    repeats: bool
    """Ask twice, with the same id."""
    extends: tuple[int, ...]
    """Ticks that are asked for beyond each end."""
    closes_after: float | None
    """Seconds in use before it is closed; None: its term runs out."""
    gives_up_after: float | None
    """Seconds after the request at which it is closed, wherever it is then; None: never."""
    logs_in: bool


@dataclass
class Guest(Observer):
    """A person behind a service manager."""

    parts: ClassVar[tuple[str, ...]] = ("guest",)

    seat: Seat
    nodes: dict[str, Node]
    facts: Facts
    wishes: list[Wish]
    source: Stream
    """What the person does on the way: how long it thinks, in which order."""
    now: Callable[[], float]
    _waiting: dict[Key, list[asyncio.Future[None]]] = field(default_factory=dict)

    # Seeing -----------------------------------------------------------------------------------

    def committed(self, commit: Commit) -> None:
        if commit.actor != self.seat.name:
            return
        for change in commit.changes:
            for waiting in self._waiting.pop(change.key, ()):
                if not waiting.done():
                    waiting.set_result(None)

    def lease(self, key: Key) -> GuestRecord | None:
        record: GuestRecord | None = self.seat.lease(key)
        return record

    async def until(
        self, key: Key, holds: Callable[[GuestRecord | None], bool], seconds: float
    ) -> bool:
        """Wait until the lease is as wanted; False when it does not come to that in time."""
        loop = asyncio.get_running_loop()
        deadline = self.now() + seconds
        while not holds(self.lease(key)):
            if self.now() >= deadline or self.seat.gone:
                return False
            changed = loop.create_future()
            self._waiting.setdefault(key, []).append(changed)
            timer = loop.call_at(deadline, _wake, changed)
            await changed
            timer.cancel()
        return True

    # Acting -----------------------------------------------------------------------------------

    async def live(self, wish: Wish) -> None:
        """One lease, from the wish to its end."""
        await asyncio.sleep(wish.at)
        key = (self.seat.party.kid, wish.rid)
        for _ in range(2 if wish.repeats else 1):
            if not await self.request(wish, key):
                return
            await self.think()
        if wish.gives_up_after is not None:
            await asyncio.sleep(wish.gives_up_after)
            await self.close(key)
        if not await self.until(key, _is_settled, wish.starts_in + wish.ticks + 600.0):
            return
        await self.use(wish, key)
        for more in wish.extends:
            await self.think()
            if not await self.extend(wish, key, more):
                break
        if wish.closes_after is not None:
            await asyncio.sleep(wish.closes_after)
            await self.close(key)
        elif wish.renew:
            await asyncio.sleep(wish.ticks * 2.5)
            await self.do(key, "set_renew", lambda role, now: _renew_no_longer(role, key, now))

    async def think(self) -> None:
        await asyncio.sleep(self.source.choice((0.1, 1.0, 5.0)) * self.source.random())

    async def do(self, key: Key, what: str, act: Callable[[ServiceManager, int], Any]) -> Any:
        """Have the service manager do something; again while nobody answers. None: refused."""
        for _ in range(TRIES):
            if self.seat.gone:
                return None
            try:
                answer = await self.seat.submit(act)
            except Down:
                await asyncio.sleep(1.0 + 8.0 * self.source.random())
                continue
            except Refused as refused:
                self.facts.note(self.seat.name, f"refuses {what}: {refused}", self.name(key))
                if not refused.retry:
                    return None
                await asyncio.sleep(1.0 + 8.0 * self.source.random())
                continue
            self.facts.told(self.seat.name, key, what, answer)
            return answer
        return None

    async def request(self, wish: Wish, key: Key) -> bool:
        name = self.name(key)
        self.facts.note("person", f"{self.seat.name} wants {wish.units} units: {name}", name)

        def act(role: ServiceManager, now: int) -> GuestLease:
            start = now + wish.starts_in
            lease = GuestLease(
                id=wish.rid,
                guest=self.seat.party,
                slice=wish.slice,
                type=wish.type,
                units=wish.units,
                least_units=wish.least,
                state=GuestState.NASCENT,
                broker=wish.broker,
                term=Term(start, start + wish.ticks),
                renew=wish.renew,
                keys=(login_key(name),),
                configuration={"for": wish.rid},
            )
            return role.request(lease, now, "person")

        return await self.do(key, "request", act) is not None

    async def close(self, key: Key) -> None:
        await self.do(key, "close", lambda role, now: role.close(key, "done", now, "person"))

    async def extend(self, wish: Wish, key: Key, more: int) -> bool:
        if not await self.until(key, _is_active_or_over, 300.0):
            return False
        record = self.lease(key)
        if record is None or record.final:
            return False
        end = record.term.end + more
        name = self.name(key)
        self.facts.note("person", f"{self.seat.name} wants {name} until {end}", name)
        least = record.term.end + 1 if more % 2 else end

        def act(role: ServiceManager, now: int) -> GuestLease:
            return role.extend(key, end, least, now, "person")

        return await self.do(key, "extend", act) is not None

    async def use(self, wish: Wish, key: Key) -> None:
        """Log in to every unit that is held, and leave things there."""
        record = self.lease(key)
        if record is None or not wish.logs_in:
            return
        name = self.name(key)
        for unit in record.held:
            await self.think()
            node = self.nodes[unit.unit]
            if not node.reachable or self.seat.gone:
                continue
            try:
                log_in(node, name, (login_key(name),))
            except HandlerFailed as kept_out:
                self.facts.note("person", f"is kept out: {kept_out}", name)

    def name(self, key: Key) -> str:
        return self.facts.name_of(key)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _is_settled(record: GuestRecord | None) -> bool:
    return record is None or record.final or record.state == "Active"


def _is_active_or_over(record: GuestRecord | None) -> bool:
    return record is None or record.final or record.state == "Active"


def _renew_no_longer(role: ServiceManager, key: Key, now: int) -> GuestLease | None:
    record = role.leases.get(key)
    if record is None or record.state.final:
        return None
    record = role.set_renew(key, renew=False)
    if record.state is GuestState.ACTIVE:
        role.apply(record, Woken(now=now), "person")
    return role.leases[key]


def login_key(lease: str) -> str:
    """The SSH key that is used for this lease alone: no other can be mistaken for it."""
    blob = base64.b64encode(lease.encode().ljust(48, b".")).decode()
    return f"ssh-ed25519 {blob}"


def wishes_of(
    seed: int, guest: str, brokers: list[Party], types: list[str], largest: int
) -> list[Wish]:
    """What this guest wants in this run."""
    source = stream(seed, f"wishes {guest}")
    wishes = []
    for number in range(1, source.randint(2, 5) + 1):
        units = min(source.choice((1, 1, 1, 1, 2, 2, 3)), largest)
        ticks = source.choice((45, 60, 90, 120, 180, 400, 1500)) + source.randint(0, 60)
        gives_up = source.choice((0.1, 2.0, 15.0)) * source.random()
        wishes.append(
            Wish(
                rid=f"{guest[0]}{guest[-1]}.{number}",
                at=source.uniform(4.0, 380.0),
                broker=source.choice(brokers),
                type=source.choice(types),
                slice=source.choice(("blue", "green")),
                units=units,
                least=source.choice((units, source.randint(1, units))),
                starts_in=source.choice((0, 0, 0, 0, 5, 40, 90)),
                ticks=ticks,
                renew=source.random() < 0.15,
                repeats=source.random() < 0.15,
                extends=tuple(
                    source.randint(20, 300) for _ in range(source.choice((0, 0, 0, 1, 1, 2)))
                ),
                closes_after=(
                    None
                    if ticks < 1000 and source.random() < 0.4
                    else source.choice((2, 20, 90)) * source.random()
                ),
                gives_up_after=gives_up if source.random() < 0.15 else None,
                logs_in=source.random() < 0.7,
            )
        )
    return wishes
