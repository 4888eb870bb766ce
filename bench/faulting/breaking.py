"""What is broken when: a schedule out of a seed, and how each fault is made and mended."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from bench.faulting.acts import Acts
from bench.faulting.proxy import Trouble
from bench.faulting.stand import ACTORS, LINKS, Stand, Tell

PAUSE_SECONDS = (0.3, 2.0)
"""From one fault to the next, which may begin while others last; like all durations, times the
pace."""
CALM_SECONDS = 3.0
"""What was mended is left alone for so long, times the pace: otherwise a machine on which actors
start slowly would have none that runs."""
AIM_SECONDS = 3.0
"""What is aimed at an act of a guest happens without one after so long."""

_STOP_SSHD = "pkill -STOP -x sshd || true"
_GO_ON_SSHD = "pkill -CONT -x sshd || true"


@dataclass(frozen=True, slots=True)
class Fault:
    kind: str
    target: str
    seconds: float
    """How long it lasts; for a kill, until it is started again."""
    aim: float | None = None
    """So many seconds after the next act of a guest, and on a node that this is about."""


def rounds(seed: int, nodes: Sequence[str], pace: float) -> Iterator[list[tuple[float, Fault]]]:
    """Rounds of faults, each with the seconds to wait before it; every round has every kind."""
    dice = random.Random(seed)
    while True:
        deck = list(_deck(dice, nodes))
        dice.shuffle(deck)
        yield [
            (dice.uniform(*PAUSE_SECONDS) * pace, replace(fault, seconds=fault.seconds * pace))
            for fault in deck
        ]


def _deck(dice: random.Random, nodes: Sequence[str]) -> Iterator[Fault]:
    for actor in ACTORS:
        yield Fault("kill", actor, dice.uniform(0.0, 2.0))
        yield Fault("kill", actor, 0.0, aim=dice.uniform(0.0, 0.6))
    for actor in ACTORS:
        yield Fault("pause", actor, dice.uniform(0.5, 4.0))
        yield Fault("restart", actor, dice.uniform(0.0, 1.0))
    for trouble in (*Trouble, Trouble.CUT, Trouble.MUTE):
        yield Fault(trouble.value, dice.choice(LINKS), dice.uniform(0.5, 5.0))
    yield Fault("disk", "disk", dice.uniform(2.0, 5.0))
    used = nodes[: len(nodes) // 2]  # units are given out in order
    for kind, longest in (("node-kill", 4), ("node-kill", 12), ("node-hang", 6), ("unplug", 6)):
        seconds, aim = dice.uniform(0.5, longest), dice.uniform(0.0, 0.6)
        yield Fault(kind, dice.choice(used), seconds, aim if kind != "unplug" else None)
    for kind in ("directory-stop", "directory-hang"):
        yield Fault(kind, "directory", dice.uniform(0.5, 5.0))


class Breaker:
    """Breaks a stand by a schedule; one fault a target at a time, several at once."""

    def __init__(self, stand: Stand, acts: Acts, seed: int, pace: float, tell: Tell) -> None:
        self.counts: Counter[str] = Counter()
        """Faults made, by kind."""
        self._stand = stand
        self._acts = acts
        self._tell = tell
        self._pace = pace
        self._schedule = rounds(seed, [node.name for node in stand.nodes], pace)
        self._targets: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._make: dict[str, Callable[[Fault], Awaitable[None]]] = {
            "kill": self._kill,
            "restart": self._restart,
            "pause": self._pause,
            **{trouble.value: self._trouble for trouble in Trouble},
            "disk": self._disk,
            "node-kill": self._node_kill,
            "node-hang": self._node_hang,
            "unplug": self._unplug,
            "directory-stop": self._directory_stop,
            "directory-hang": self._directory_hang,
        }

    @property
    def kills(self) -> int:
        return self.counts["kill"]

    async def run(self, done: Callable[[], bool]) -> None:
        """Whole rounds until `done()`; returns when the last fault is mended.

        What can not be mended is raised, and then nothing more is broken.
        """
        while not done():
            async with asyncio.TaskGroup() as faults:
                for pause, fault in next(self._schedule):
                    await asyncio.sleep(pause)
                    faults.create_task(self._one(fault))

    async def _one(self, fault: Fault) -> None:
        if fault.aim is not None:
            fault = await self._aimed(fault, fault.aim)
        async with self._targets[fault.target]:
            self._tell(f"  {fault.kind} {fault.target} {fault.seconds:.1f} s")
            self.counts[fault.kind] += 1
            await self._make[fault.kind](fault)
            await asyncio.sleep(CALM_SECONDS * self._pace)

    async def _aimed(self, fault: Fault, aim: float) -> Fault:
        act = await self._acts.next(AIM_SECONDS)
        await asyncio.sleep(aim)
        at_node = fault.target not in ACTORS
        return replace(fault, target=act.nodes[0]) if act and act.nodes and at_node else fault

    # Actors and what is between them ----------------------------------------------------------

    async def _kill(self, fault: Fault) -> None:
        actor = self._stand.actors[fault.target]
        await actor.kill()
        await asyncio.sleep(fault.seconds)
        await actor.start()

    async def _restart(self, fault: Fault) -> None:
        """As an operator would; its ledger's log begins anew then, which a full disk will feel."""
        actor = self._stand.actors[fault.target]
        await actor.stop()
        await asyncio.sleep(fault.seconds)
        await actor.start()

    async def _pause(self, fault: Fault) -> None:
        actor = self._stand.actors[fault.target]
        actor.send(signal.SIGSTOP)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            actor.send(signal.SIGCONT)

    async def _trouble(self, fault: Fault) -> None:
        async with self._stand.links[fault.target].in_trouble(Trouble(fault.kind)):
            await asyncio.sleep(fault.seconds)

    async def _disk(self, fault: Fault) -> None:
        with self._stand.disk.full():
            await asyncio.sleep(fault.seconds)

    # Nodes --------------------------------------------------------------------------------------

    async def _node_kill(self, fault: Fault) -> None:
        testbed = self._stand.testbed
        await asyncio.to_thread(testbed.kill_node, fault.target)
        await asyncio.sleep(fault.seconds)
        await asyncio.to_thread(testbed.start_node, fault.target)

    async def _node_hang(self, fault: Fault) -> None:
        await self._inside(fault.target, _STOP_SSHD)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            await self._inside(fault.target, _GO_ON_SSHD)

    async def _inside(self, node: str, script: str) -> None:
        await asyncio.to_thread(self._stand.inside, node, script)

    async def _unplug(self, fault: Fault) -> None:
        await asyncio.to_thread(self._stand.unplug, fault.target)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            await asyncio.to_thread(self._stand.plug, fault.target)

    # The directory ------------------------------------------------------------------------------

    async def _directory_stop(self, fault: Fault) -> None:
        await asyncio.to_thread(self._stand.testbed.stop_directory)
        await asyncio.sleep(fault.seconds)
        await asyncio.to_thread(self._stand.testbed.start_directory)

    async def _directory_hang(self, fault: Fault) -> None:
        pid = self._stand.directory_pid()
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            os.kill(pid, signal.SIGCONT)
