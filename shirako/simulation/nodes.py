"""Simulated nodes and the directory: what is on them, whatever becomes of the actors.

A handler's work on a node is a *program*: steps that the node does one after another by itself,
also when nobody waits for them any more. What stops a program is the fence (rule 11): a program
starts only after the node holds its epoch, and ends those of older epochs. A reboot, or the node's
death, ends them too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import inf
from typing import NamedTuple

from shirako.handlers import HandlerFailed
from shirako.simulation.chance import Stream, stream
from shirako.simulation.facts import Facts
from shirako.simulation.faults import Injector
from shirako.simulation.loop import VirtualLoop

STEP_SECONDS = 0.6
LATE_SECONDS = 90.0
"""How long a slow program takes at most."""
LOST_SECONDS = 5.0
"""How long it takes until a connection is known to be lost."""


class Thing(NamedTuple):
    """Something of a guest on a node."""

    kind: str
    """`account`, `key`, `file`, `process`."""
    name: str


class Owner(NamedTuple):
    """In whose name it was made."""

    lease: str
    epoch: int


Step = Callable[[], None]


class Program:
    """A handler's work on a node, while it runs."""

    def __init__(
        self, name: str, owner: Owner, steps: Sequence[Step], done: asyncio.Future[None]
    ) -> None:
        self.name = name
        self.owner = owner
        self.steps = list(steps)
        self.done = done
        self.ended = False
        self.pace = 1.0
        """How many times as slow as usual it is."""
        self.breaks_at = -1
        """The step that fails; -1: none does."""
        self.hangs_at = -1

    def end(self, failure: str = "") -> None:
        """What it has done stays; whoever waits for it hears how it ended."""
        self.ended = True
        if self.done.done():
            return
        if failure:
            self.done.set_exception(HandlerFailed(failure))
        else:
            self.done.set_result(None)


class Node:
    """One unit as it is."""

    def __init__(
        self, loop: VirtualLoop, seed: int, name: str, injector: Injector, facts: Facts
    ) -> None:
        self.name = name
        self.things: dict[Thing, Owner] = {}
        self.epoch = 0
        self.phase = 0
        """The fence: the newest epoch that acted here, and whether it was torn down (2)."""
        self.stuck: Thing | None = None
        """What can not be removed for now."""
        self.jammed = False
        """It stays stuck until the node is repaired."""
        self.down_until = 0.0
        self._loop = loop
        self._injector = injector
        self._facts = facts
        self._source = stream(seed, f"node {name}")
        self._running: Program | None = None

    # What it is -------------------------------------------------------------------------------

    @property
    def reachable(self) -> bool:
        return self._loop.now >= self.down_until

    @property
    def waits_for_repair(self) -> bool:
        return self.down_until == inf

    def of(self, lease: str) -> list[Thing]:
        """What is there of this lease."""
        return [thing for thing, owner in self.things.items() if owner.lease == lease]

    def put(self, thing: Thing, owner: Owner) -> None:
        if self.things.get(thing) == owner:
            return
        self.things[thing] = owner
        self._facts.node_changed(self, f"{thing.kind} {thing.name} made", *owner)

    def take(self, thing: Thing) -> None:
        if thing == self.stuck:
            return
        owner = self.things.pop(thing, None)
        if owner is not None:
            self._facts.node_changed(self, f"{thing.kind} {thing.name} removed", *owner)

    def jam(self) -> None:
        """Choose whether something refuses to be removed this time, or from now on."""
        if self.jammed:
            return
        self.stuck = None
        how = self._injector.strike("left_behind", self.name)
        if how is not None and self.things:
            self.stuck = how.choice(list(self.things))
            self.jammed = how.random() < 0.4

    # What befalls it --------------------------------------------------------------------------

    def lose_power(self, until: float) -> None:
        """Nothing runs, nothing answers; accounts and files stay."""
        self.down_until = until
        self.reboot()

    def lose_network(self, until: float) -> None:
        """Nothing answers; what runs goes on, and nobody hears of its end."""
        self.down_until = until
        running = self._running
        if running is not None and not running.done.done():
            self._loop.after(LOST_SECONDS, _lost, running.done)

    def reboot(self) -> None:
        if self._running is not None:
            self._running.end("the connection was lost")
            self._running = None
        for thing in [thing for thing in self.things if thing.kind == "process"]:
            self.stuck = None if thing == self.stuck else self.stuck
            self.take(thing)

    def repair(self, *, replaced: bool) -> None:
        """It works again; `replaced`: by a new machine on which nothing was ever done."""
        self.down_until = 0.0
        self.stuck, self.jammed = None, False
        if replaced:
            self.reboot()
            for thing in list(self.things):
                self.take(thing)
            self.epoch = self.phase = 0

    # Programs ---------------------------------------------------------------------------------

    def start(
        self, name: str, owner: Owner, phase: int, steps: Sequence[Step]
    ) -> asyncio.Future[None]:
        """Run a program in the name of a lease's epoch; `phase` 1 sets up, 2 tears down."""
        done: asyncio.Future[None] = self._loop.create_future()
        program = Program(name, owner, [lambda: self._fence(program, phase), *steps], done)
        self._spoil(program)
        self._loop.after(self._pause(program), self._go_on, program)
        return done

    def _spoil(self, program: Program) -> None:
        """Choose what goes wrong with it."""
        strike = self._injector.strike
        if strike("handler_fails", self.name) is not None:
            program.breaks_at = 1
        how = strike("handler_half", self.name)
        if how is not None:
            program.breaks_at = how.randint(2, max(len(program.steps) - 1, 2))
        how = strike("handler_hangs", self.name)
        if how is not None:
            program.hangs_at = how.randint(0, len(program.steps))
        how = strike("handler_late", self.name)
        if how is not None:
            program.pace = how.uniform(5.0, LATE_SECONDS / STEP_SECONDS / len(program.steps))

    def _pause(self, program: Program) -> float:
        return STEP_SECONDS * (0.5 + self._source.random()) * program.pace

    def _go_on(self, program: Program, at: int = 0) -> None:
        if program.ended:
            return
        if not self.reachable and self._running is not program:
            program.end("the connection was lost")
            return
        if at == program.hangs_at:
            return
        try:
            if at == program.breaks_at:
                raise HandlerFailed(f"{program.name} breaks at its step {at}")
            if at < len(program.steps):
                program.steps[at]()
        except HandlerFailed as failure:
            program.end(str(failure))
            return
        if at >= len(program.steps):
            program.end()
            return
        self._loop.after(self._pause(program), self._go_on, program, at + 1)

    def _fence(self, program: Program, phase: int) -> None:
        """Rule 11, as the real fence does it."""
        epoch = program.owner.epoch
        if epoch < self.epoch:
            raise HandlerFailed(f"stale: epoch {epoch}, but the node holds epoch {self.epoch}")
        if epoch == self.epoch and phase and phase < self.phase:
            raise HandlerFailed(f"stale: epoch {epoch} was torn down, it is not set up again")
        if not phase and epoch == self.epoch:
            return  # a probe of the newest epoch changes nothing
        if self._running is not None and self._running is not program:
            self._running.end("ended by a newer handler")
        self._running = program
        self.phase = max(phase, self.phase) if epoch == self.epoch else phase
        self.epoch = epoch


def _lost(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_exception(HandlerFailed("the connection was lost"))


class Directory:
    """What one site has written about its units."""

    def __init__(self, loop: VirtualLoop, name: str, facts: Facts) -> None:
        self.name = name
        self.entries: dict[tuple[str, str], Owner] = {}
        """By unit and lease."""
        self.out_until = 0.0
        self._loop = loop
        self._facts = facts

    @property
    def answers(self) -> bool:
        return self._loop.now >= self.out_until

    def put(self, unit: str, owner: Owner) -> None:
        if self.entries.get((unit, owner.lease)) != owner:
            self.entries[unit, owner.lease] = owner
            self._facts.node_changed(self, f"entry {unit} made", *owner)

    def take(self, unit: str, lease: str) -> None:
        owner = self.entries.pop((unit, lease), None)
        if owner is not None:
            self._facts.node_changed(self, f"entry {unit} removed", *owner)

    def of(self, lease: str) -> list[str]:
        """Units that it names as this lease's."""
        return [unit for unit, whose in self.entries if whose == lease]

    def about(self, unit: str) -> list[str]:
        """Leases that it names as this unit's."""
        return [lease for named, lease in self.entries if named == unit]


def jolt(node: Node, how: Stream, now: float) -> str:
    """Let a node die in one of the ways that nodes die; tells which."""
    until = now + how.uniform(10.0, how.choice((60.0, 400.0)))
    if how.random() < 0.3:
        until = inf
    if how.random() < 0.5:
        node.lose_power(until)
        return "loses power"
    node.lose_network(until)
    return "is cut off from the network"
