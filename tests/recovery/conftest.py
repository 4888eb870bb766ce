"""Three actors whose ledgers are files, backups of them while they run, and a clock to turn on."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from shirako.actors import restored
from shirako.actors.performing import SitePerformer
from shirako.actors.recovering import Plan, recover
from shirako.clock import SteadyClock
from shirako.core.delegation import Delegation
from shirako.core.machine import Key
from shirako.core.terms import Term
from shirako.ledger.copying import reading, restore
from shirako.ledger.sqlite import SqliteLedger
from shirako.ledger.sqlite_copying import reading_file, write_file
from twin import TwinWorld
from world import NAMES, until

ROLES = {"site": "authority", "broker": "broker", "guest": "service-manager"}
UNITS = 4
HOUR = 3600


class Turned(SteadyClock):
    """A clock that goes on as it should, and faster when a test wants hours to pass."""

    def __init__(self) -> None:
        self.ahead_ms = 0
        super().__init__(
            lambda: time.time_ns() // 1_000_000 + self.ahead_ms,
            lambda: time.monotonic_ns() // 1_000_000 + self.ahead_ms,
        )


class Past(TwinWorld):
    """A world in which ledgers are lost, and brought back from backups."""

    def __init__(self, folder: Path) -> None:
        super().__init__(UNITS)
        self.folder = folder
        self.clock: Any = Turned()
        for name in NAMES:
            self.open(name)

    def open(self, name: str) -> None:
        self.ledgers[name] = SqliteLedger(self.folder / f"{name}.sqlite")

    async def back_up(self, name: str) -> Path:
        """As `shirako backup` does it, while the actor runs."""
        await self.actors[name].settled()  # what the test has seen is stored
        file = self.folder / f"{name}.backup"
        with reading(self.folder / f"{name}.sqlite", name) as source:
            earlier = source.find(restored.KIND, "/".join(restored.KEY))
            mark = restored.marked(
                restored.decode(earlier) if earlier else None,
                actor=name,
                role=ROLES[name],
                kid="",
                taken=self.clock.tick(),
            )
            writes = [restored.write(mark)]
            write_file(file, source, writes, lambda _done, _of: None, replace=True)
        return file

    async def lose(self, name: str) -> None:
        """The actor's process and its files are gone."""
        await self.crash(name)
        for file in self.folder.glob(f"{name}.sqlite*"):
            file.unlink()
        (self.folder / f"{name}.mark").unlink()

    async def come_back(self, name: str, file: Path) -> Any:
        with reading_file(file) as source:
            restore(self.folder / f"{name}.sqlite", name, source, [], lambda _done, _of: None)
        return await self.up(name)

    async def up(self, name: str) -> Any:
        self.open(name)
        return await self.start(name)

    async def restored(self, name: str, file: Path) -> Any:
        await self.lose(name)
        return await self.come_back(name, file)

    async def recover(
        self, name: str, *, dry_run: bool = False, backup_was_current: bool = False
    ) -> Plan:
        return await recover(
            self.actors[name], dry_run=dry_run, backup_was_current=backup_was_current, by="ops"
        )

    async def pass_time(self, seconds: int) -> None:
        """Hours go by; each actor that is up has had turns to notice."""
        self.clock.ahead_ms += seconds * 1000
        await self.turns()

    async def turns(self, count: int = 5) -> None:
        for _ in range(count):
            for actor in list(self.actors.values()):
                await actor.submit(lambda _role, _now: None)

    async def extend(self, key: Key, ticks: int) -> int:
        """The lease's end after it was extended."""
        end = self.actors["guest"].role.leases[key].term.end + ticks
        await self.actors["guest"].submit(lambda role, now: role.extend(key, end, end, now, "test"))
        await until(lambda: self.actors["guest"].role.leases[key].term.end == end)
        await self.reach("guest", key, "Active")
        return int(end)

    def end(self, name: str, key: Key) -> int:
        return int(self.actors[name].role.leases[key].term.end)

    def booked(self) -> int:
        """Units of the broker's share that are sold right now, by its own books."""
        ((share,),) = self.actors["broker"].role.shares.values()
        now = self.clock.tick()
        return int(share.calendar.capacity - share.calendar.free(Term(now, now + 1)))

    async def delegate_more(self, name: str, units: int, ticks: int) -> None:
        now = self.clock.tick()
        wanted = Delegation(
            id=name,
            holder=self.parties["broker"],
            type="node",
            units=units,
            term=Term(now, now + ticks),
            chain=(),
        )
        await self.actors["site"].submit(lambda role, _now: role.delegate(wanted))
        await until(lambda: name in self.actors["broker"].role.delegations)

    def on(self, unit: str) -> set[str]:
        """What is on a unit."""
        return self.driver.on[unit]


@pytest.fixture
async def past(tmp_path: Path) -> AsyncIterator[Past]:
    made = Past(tmp_path)
    assert isinstance(made.performer, SitePerformer)
    for name in NAMES:
        await made.start(name)
    try:
        await made.delegate(UNITS)
        yield made
    finally:
        for actor in made.actors.values():
            await actor.stop()
