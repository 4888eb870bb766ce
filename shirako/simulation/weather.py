"""What befalls the world from minute to minute: crashes, partitions, dying nodes, wrong clocks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import permutations
from typing import TYPE_CHECKING

from shirako.simulation.chance import Stream
from shirako.simulation.disk import FULL_SECONDS
from shirako.simulation.nodes import Directory, Node, jolt
from shirako.simulation.seats import Seat

if TYPE_CHECKING:
    from shirako.simulation.world import World

MINUTE = 30.0
"""How long the opportunity of a fault that is not tied to an action lasts, in seconds."""
DOWN_SECONDS = (0.2, 3.0, 20.0, 120.0)
FUSE_STEPS = 400
BACKLOG_SECONDS = 300.0
OUTAGE_SECONDS = 90.0
STEP_MS = 4000
JUMPS_MS = (20_000, 45_000, 3_600_000, 86_400_000)


class Weather:
    """Asks the injector about everything, once a minute."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._strike = world.injector.strike
        self._doings: dict[str, Callable[[Seat, Stream], None]] = {
            "crash": _light_fuse,
            "restart": _restart,
            "disk_full": _fill_disk,
            "clock_steps": _step_clock,
            "clock_jumps": self._jump_clock,
        }
        for seat in world.seats.values():
            seat.crashed = self._come_back_later(seat)  # type: ignore[method-assign]

    def _come_back_later(self, seat: Seat) -> Callable[[], None]:
        """After a crash somebody starts the actor again, sooner or later."""
        source = self._world.stream(f"down {seat.name}")

        def crashed() -> None:
            seat.come_back(source.random() * source.choice(DOWN_SECONDS))

        return crashed

    async def blow(self, seconds: float) -> None:
        """Until so many seconds from now."""
        world = self._world
        loop = world.loop
        until = loop.now + seconds
        self._befall_once(seconds)
        pairs = [pair for pair in permutations(world.seats, 2) if pair[0] < pair[1]]
        while loop.now + MINUTE < until:
            for seat in world.seats.values():
                self._befall(seat)
            for one, other in pairs:
                how = self._strike("partition", f"{one}-{other}")
                if how is not None:
                    self._later(how, self._part, one, other, how)
            for node in world.nodes.values():
                self._befall_node(node)
            for directory in world.directories.values():
                how = self._strike("directory_out", directory.name)
                if how is not None:
                    self._later(how, self._go_out, directory, how)
            await asyncio.sleep(MINUTE)
        await asyncio.sleep(max(until - loop.now, 0.0))

    def _befall_once(self, seconds: float) -> None:
        """What comes over an actor once in a run, or makes it another kind of actor."""
        loop = self._world.loop
        for seat in self._world.seats.values():
            how = self._strike("takeover", seat.name)
            if how is not None:
                seat.shared = True
                for _ in range(3):
                    loop.after(how.uniform(MINUTE, seconds), seat.take_over, how)
            how = self._strike("key_replaced", seat.name)
            if how is not None:
                replace = self._world.locksmith.replace
                for _ in range(how.choice((1, 1, 2, 3))):
                    loop.after(how.uniform(MINUTE, seconds), replace, seat, how)
            how = self._strike("restored", seat.name)
            if how is not None:
                self._world.restorer.lose_later(seat, how, seconds)
            if seat.part == "site":
                how = self._strike("backlog", seat.name)
                if how is not None:
                    latest = seconds - BACKLOG_SECONDS
                    loop.after(how.uniform(MINUTE, latest), self._pile_up, seat, how)
            if seat.part == "guest":
                how = self._strike("guest_vanishes", seat.name)
                if how is not None:
                    loop.after(how.uniform(MINUTE, seconds), seat.vanish)

    def _later(self, how: Stream, what: Callable[..., object], *args: object) -> None:
        self._world.loop.after(how.random() * MINUTE, what, *args)

    def _befall(self, seat: Seat) -> None:
        for kind, doing in self._doings.items():
            how = self._strike(kind, seat.name)
            if how is not None:
                self._later(how, doing, seat, how)
        if seat.part == "guest":
            how = self._strike("nonsense", seat.name)
            if how is not None and not seat.gone:
                self._later(how, self._world.attacker.bother, seat, how)

    def _befall_node(self, node: Node) -> None:
        how = self._strike("node_dies", node.name)
        if how is not None:
            self._later(how, self._kill_node, node, how)
        how = self._strike("node_reboots", node.name)
        if how is not None:
            self._later(how, self._reboot, node)

    def _part(self, one: str, other: str, how: Stream) -> None:
        ways = self._world.network.part(one, other, how)
        self._world.facts.note("world", f"{one} and {other} are apart, {ways}")

    def _pile_up(self, site: Seat, how: Stream) -> None:
        """What was to be said meanwhile is said in another order than it came up in."""
        seconds = how.uniform(MINUTE, BACKLOG_SECONDS)
        for broker in self._world.brokers:
            self._world.network.mute(site.name, broker.name, seconds)
        self._world.facts.note(site.name, "no broker hears it")
        self._world.loop.after(seconds - 1.0, site.crash)

    def _go_out(self, directory: Directory, how: Stream) -> None:
        directory.out_until = self._world.loop.now + how.uniform(3.0, OUTAGE_SECONDS)
        self._world.facts.note(directory.name, "does not answer")

    def _kill_node(self, node: Node, how: Stream) -> None:
        if node.reachable:
            self._world.facts.note(node.name, jolt(node, how, self._world.loop.now))

    def _reboot(self, node: Node) -> None:
        if node.reachable:
            self._world.facts.note(node.name, "reboots")
            node.reboot()

    def _jump_clock(self, seat: Seat, how: Stream) -> None:
        """By less or more than the bound, in either direction; somebody puts it right later."""
        if seat.hardware.jump_ms:
            return
        seat.hardware.jump_ms = how.choice((-1, 1)) * how.choice(JUMPS_MS)
        self._world.facts.note(seat.name, f"its clock jumps by {seat.hardware.jump_ms} ms")
        self._world.loop.after(how.uniform(20.0, 200.0), self._put_right, seat)

    def _put_right(self, seat: Seat) -> None:
        if seat.hardware.jump_ms:
            seat.hardware.jump_ms = 0
            self._world.facts.note(seat.name, "its clock is put right")


def _light_fuse(seat: Seat, how: Stream) -> None:
    life = seat.life
    if life is not None and not life.fuse:
        life.fuse = how.randint(1, how.choice((10, 60, FUSE_STEPS)))


def _restart(seat: Seat, how: Stream) -> None:
    seat.stop()
    seat.come_back(how.uniform(0.5, 5.0))


def _fill_disk(seat: Seat, how: Stream) -> None:
    seat.disk.fill(how.uniform(1.0, FULL_SECONDS))


def _step_clock(seat: Seat, how: Stream) -> None:
    step = how.randint(-STEP_MS, STEP_MS)
    if abs(seat.hardware.offset_ms + step) <= 3 * STEP_MS:
        seat.hardware.offset_ms += step
