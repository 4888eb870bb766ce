"""Where an actor lives: its name, key, address, disk and clock, which outlive it.

One incarnation after the other takes the seat. Each is a real `Actor`, unchanged; when it is cut
off, everything that it held is worth nothing any more, and the next one starts from the disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from shirako.actors.actor import Actor
from shirako.actors.handling import Performer
from shirako.actors.role import Role
from shirako.clock import Clock
from shirako.core.claims import Party
from shirako.core.machine import Key, Me
from shirako.simulation.chance import Stream, stream
from shirako.simulation.clocks import Hardware, SeededEntropy
from shirako.simulation.disk import Disk, LedgerOfLife, SharedLedgerOfLife
from shirako.simulation.facts import Facts
from shirako.simulation.loop import Handle, Life, VirtualLoop
from shirako.simulation.network import Network, Wire
from shirako.simulation.records import LeaseRecord, Record
from shirako.simulation.signatures import CastKey
from shirako.trust import me_of, party_of

SKEW = 30
"""Declared skew of every actor, in seconds."""

T = TypeVar("T")

LeaseOf = Callable[[Key], Any]
Setting = tuple[Callable[[], Role[Any]], Performer]
"""How to open an empty role, and what performs handlers."""


class Down(Exception):
    """Nobody answers here now, or the answer was lost: whoever asked does not know."""


@dataclass(slots=True)
class Running:
    """One incarnation."""

    life: Life
    actor: Actor[Any]
    clock: Clock
    ledger: LedgerOfLife


class Seat:
    """One actor of the world, through all its incarnations."""

    def __init__(
        self,
        loop: VirtualLoop,
        seed: int,
        name: str,
        part: str,
        key: CastKey,
        network: Network,
        facts: Facts,
    ) -> None:
        """`part`: `site`, `broker` or `guest`. Disk, hardware and setting are given later."""
        self.name = name
        self.part = part
        self.key = key
        """What its key file holds; who runs may have been started with an older one."""
        self.pins: dict[str, tuple[str, ...]] = {}
        """Lineages of peers that its operator was told of, by identity; read at each start."""
        self.party: Party = party_of(key.public, f"sim://{name}", name)
        self.disk: Disk
        self.hardware: Hardware
        self.setting: Callable[[LeaseOf, Life], Setting]
        self.begin: Callable[[Actor[Any]], None] = lambda _actor: None
        """What else runs in each incarnation, beside the actor."""
        self.running: Running | None = None
        self.outdated: list[Running] = []
        """Incarnations that run on although another one has taken over."""
        self.shared = False
        """Several copies of it may be started; its ledger says which of them acts."""
        self.gone = False
        """It never comes back."""
        self.incarnations = 0
        self._loop = loop
        self._network = network
        self._facts = facts
        self._entropy = SeededEntropy(stream(seed, f"entropy {name}"))
        self._comes_back: Handle | None = None
        network.listen(self.party.url, self)

    # What is known of it ----------------------------------------------------------------------

    @property
    def life(self) -> Life | None:
        running = self.running
        return running.life if running is not None else None

    @property
    def kept(self) -> dict[tuple[str, Key], Record]:
        """What its ledger holds."""
        return self._facts.kept.setdefault(self.name, {})

    def lease(self, key: Key) -> Any:
        """What it has committed of a lease; None: nothing."""
        return self.kept.get(("lease", key))

    def leases(self) -> list[LeaseRecord]:
        return [record for record in self.kept.values() if isinstance(record, LeaseRecord)]

    def me(self) -> Me:
        """What the core of an incarnation needs that starts now."""
        return me_of(self.key, self.party, SKEW)

    def tick(self) -> int:
        """What its clock should say."""
        return self.hardware.followed_ms() // 1000

    # Life and death ---------------------------------------------------------------------------

    def start(self) -> None:
        """A new incarnation, from what is on the disk."""
        if self.running is not None or self.gone:
            return
        self.incarnations += 1
        self.hardware.jump_ms = 0  # a machine that comes up asks a time server
        life = Life(self._loop, self.name, lambda: self._cut_off(life))
        life.disk_delay = self.disk.delay
        clock = self.hardware.clock()
        box: list[Actor[Any]] = []
        open_role, performer = self.setting(lambda key: box[0].role.leases.get(key), life)
        ledger = LedgerOfLife(self.disk, life)
        if self.shared:
            ledger = SharedLedgerOfLife(self.disk, life, self._loop)
        actor: Actor[Any] = Actor(
            party=self.party,
            key=self.key,
            open_role=open_role,
            ledger=ledger,
            transport=Wire(self._network, self.name, life),
            performer=performer,
            clock=clock,
            entropy=self._entropy,
            skew=SKEW,
            lineages={**self.pins, self.key.public.kid: self.key.lineage},
        )
        box.append(actor)
        self.running = Running(life, actor, clock, ledger)
        self._facts.note(self.name, f"starts, incarnation {self.incarnations}")
        life.spawn(self._begin(actor, life)).add_done_callback(self._started)

    async def _begin(self, actor: Actor[Any], life: Life) -> None:
        await actor.start()
        self.begin(actor)
        if self.shared:
            await actor.ended.wait()
            self._facts.note(self.name, f"an incarnation ends: {actor.why_ended}")
            self._loop.call_soon(self._cut_off, life)

    def _started(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._facts.broke(self.name, f"can not start: {task.exception()!r}")

    def crash(self) -> None:
        """`kill -9`: it is gone between two of its steps; somebody starts it again later."""
        if self.running is not None:
            self._cut_off(self.running.life)

    def _cut_off(self, life: Life) -> None:
        """End one incarnation: the one that runs, or an older one that did not know."""
        if life.dead:
            return
        life.end()
        for broken in life.broken:
            self._facts.broke(self.name, broken)
        self._facts.note(self.name, "is cut off")
        self.outdated = [running for running in self.outdated if running.life is not life]
        if self.running is not None and self.running.life is life:
            self.running = None
            self.crashed()

    def take_over(self, how: Stream) -> None:
        """Another copy is started, while this one still runs and perhaps does not learn of it."""
        old = self.running
        if old is None or not isinstance(old.ledger, SharedLedgerOfLife):
            return
        severed = how.choice((0.0, 1.0, 5.0, 60.0)) * how.random()
        old.ledger.sever(severed)
        self._facts.note(self.name, f"does not reach its ledger for {severed:.1f} s")
        if how.random() < 0.8:
            self._loop.after(how.random() * 6.0, self._second_copy, old)

    def _second_copy(self, old: Running) -> None:
        if self.running is old:
            self.outdated.append(old)
            self.running = None
            self.start()

    def crashed(self) -> None:
        """What follows a crash; the world says what."""

    def come_back(self, after: float) -> None:
        """Start again, so many seconds from now."""
        if self._comes_back is not None:
            self._comes_back.cancel()
        self._comes_back = self._loop.after(after, self.start)

    def stop(self) -> None:
        """An orderly end."""
        running = self.running
        if running is None:
            return
        self._facts.note(self.name, "is stopped")
        task = running.life.spawn(running.actor.stop())
        self.running = None
        task.add_done_callback(lambda _done: running.life.end())

    def vanish(self) -> None:
        """Cut off, and never started again."""
        self.gone = True
        self.vanish_for_now()

    def vanish_for_now(self) -> None:
        """All copies of it are cut off."""
        for old in list(self.outdated):
            self._cut_off(old.life)
        self.crash()

    # Doors ------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> Coroutine[Any, Any, bytes]:
        running = self.running
        if running is None:
            raise AssertionError(f"nobody lives at {self.name}")
        return running.actor.receive(data)

    async def ask(self, what: Callable[[Actor[Any]], Coroutine[Any, Any, T]]) -> T:
        """Have this incarnation do something for a person; raises `Down` when it ends over it."""
        running = self.running
        if running is None:
            raise Down(f"{self.name} is down")
        task = running.life.spawn(what(running.actor))
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if running.life.dead or running is not self.running:
                raise Down(f"{self.name} went down") from None
            raise

    async def submit(self, act: Callable[[Any, int], T]) -> T:
        """The same for one command of the actor."""

        async def doing(actor: Actor[Any]) -> T:
            return await actor.submit(act)

        return await self.ask(doing)
