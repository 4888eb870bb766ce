"""Three actors in one loop, over the in-process transport and ledgers in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from shirako.actors.actor import Actor
from shirako.actors.authority import Authority
from shirako.actors.broker import Broker
from shirako.actors.handling import Outcome
from shirako.actors.service_manager import ServiceManager
from shirako.clock import RealClock, RealEntropy
from shirako.core.claims import Party
from shirako.core.delegation import Delegation
from shirako.core.guest import GuestLease, GuestState
from shirako.core.machine import Key, Work
from shirako.core.terms import Term
from shirako.handlers import HandlerFailed, Log
from shirako.ledger import Ledger
from shirako.ledger.memory import MemoryLedger
from shirako.transport.local import LocalTransport
from shirako.trust import PrivateKey, me_of, party_of
from shirako_policies.first_come import FirstCome
from shirako_policies.first_fit import FirstFit
from shirako_policies.static import Static

NAMES = ("site", "broker", "guest")


class Hands:
    """A performer that does what the test says: nothing, wait at the gate, or fail."""

    def __init__(self) -> None:
        self.done: list[Work] = []
        self.fails: set[tuple[str, str]] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def perform(self, key: Key, work: Work, tell: Log) -> Outcome:
        await self.gate.wait()
        self.done.append(work)
        if (work.handler, work.unit) in self.fails:
            raise HandlerFailed("the test says so")
        return Outcome(outputs={"host": work.unit}, checks=("account_gone",))

    async def probe(self, unit: str, epoch: int, tell: Log, holder: Key | None = None) -> None:
        if ("probe", unit) in self.fails:
            raise HandlerFailed("the test says so")

    async def close(self) -> None:
        """Nothing to give back."""


class World:
    """Keys, ledgers and hands outlive their actors, so that actors can crash and come back."""

    def __init__(self, units: int = 4) -> None:
        self.keys = {name: PrivateKey.generate() for name in NAMES}
        self.parties: dict[str, Party] = {
            name: party_of(key.public, f"local://{name}", name) for name, key in self.keys.items()
        }
        self.ledgers: dict[str, Ledger] = {name: MemoryLedger() for name in NAMES}
        self.hands = {name: Hands() for name in NAMES}
        self.transport = LocalTransport()
        self.actors: dict[str, Actor[Any]] = {}
        self.units = tuple(f"n{number}" for number in range(units))
        self.joins = False
        self.clock = RealClock()
        self._requests = 0

    def _role(self, name: str) -> Callable[[], Any]:
        me = me_of(self.keys[name], self.parties[name], 30)
        near = {other: {self.parties[other].kid: self.parties[other]} for other in NAMES}
        if name == "site":
            pools = {"node": self.units}
            return partial(Authority, me, near["broker"], pools, {"node": FirstFit()})
        if name == "broker":
            return partial(Broker, me, near["site"], near["guest"], FirstCome())
        return partial(ServiceManager, me, near["broker"], Static(), joins=self.joins)

    async def start(self, name: str) -> Actor[Any]:
        actor: Actor[Any] = Actor(
            party=self.parties[name],
            key=self.keys[name],
            open_role=self._role(name),
            ledger=self.ledgers[name],
            transport=self.transport,
            performer=self.hands[name],
            clock=self.clock,
            entropy=RealEntropy(),
            skew=30,
        )
        await actor.start()
        self.actors[name] = actor
        self.transport.listen(self.parties[name].url, actor.receive)
        return actor

    async def crash(self, name: str) -> None:
        """Memory and tasks are gone, the ledger stays."""
        self.transport.stop_listening(self.parties[name].url)
        await self.actors.pop(name).stop()

    async def delegate(self, units: int) -> None:
        now = self.clock.tick()
        wanted = Delegation(
            id="share",
            holder=self.parties["broker"],
            type="node",
            units=units,
            term=Term(now - 10, now + 100_000),
            chain=(),
        )
        await self.actors["site"].submit(lambda role, _now: role.delegate(wanted))
        await until(lambda: bool(self.actors["broker"].role.delegations))

    async def request(self, units: int = 1, seconds: int = 3600, least: int | None = None) -> Key:
        self._requests += 1
        now = self.clock.tick()
        lease = GuestLease(
            id=f"r{self._requests}",
            guest=self.parties["guest"],
            slice="blue",
            type="node",
            units=units,
            least_units=units if least is None else least,
            state=GuestState.NASCENT,
            broker=self.parties["broker"],
            term=Term(now, now + seconds),
        )
        await self.actors["guest"].submit(lambda role, n: role.request(lease, n, "test"))
        return lease.key

    async def close(self, key: Key) -> None:
        await self.actors["guest"].submit(lambda role, n: role.close(key, "done", n, "test"))

    def state(self, name: str, key: Key) -> str:
        record = self.actors[name].role.leases.get(key)
        return str(record.state.value) if record else "-"

    async def reach(self, name: str, key: Key, state: str) -> Any:
        await until(lambda: self.state(name, key) == state, lambda: self.state(name, key))
        return self.actors[name].role.leases[key]


async def until(
    holds: Callable[[], bool], seen: Callable[[], object] = lambda: "", seconds: float = 10.0
) -> None:
    for _ in range(int(seconds / 0.005)):
        if holds():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"it did not come to that; seen last: {seen()}")
