"""A real ledger, as its actor wrote it, at every moment of its life."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from homes import make_home, place, postgres, slapd
from shirako.ledger import Entry, Write
from shirako.ledger.memory import MemoryLedger
from shirako.ledger.sqlite import SqliteLedger
from world import NAMES, World

__all__ = ["make_home", "place", "postgres", "slapd"]

NAME = "site.sqlite"
WAL = "site.sqlite-wal"
MARK = "site.mark"
LEASES = 160
CLOSED = 50
LATE_COMMITS = 40
"""How many commits are in the write-ahead log alone."""

Records = dict[tuple[str, str], bytes]


class _Recording(MemoryLedger):
    """Remembers what an actor commits."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[tuple[list[Write], list[Entry]]] = []

    def commit(self, writes: Sequence[Write], entries: Sequence[Entry]) -> None:
        super().commit(writes, entries)
        self.commits.append((list(writes), list(entries)))


@dataclass(frozen=True)
class Life:
    """What was stored, and the files that hold it."""

    states: tuple[Records, ...]
    """The records after each commit; the first is the empty ledger."""
    twin: MemoryLedger
    """The same commits, in memory."""
    leases: tuple[str, ...]
    """Everything that has a story."""
    closed: Mapping[str, bytes]
    """The files after a close in good order."""
    killed: Mapping[str, bytes]
    """The files as a kill leaves them, the last commits in the write-ahead log alone."""
    earlier: Mapping[str, bytes]
    """The files some commits ago, closed in good order."""

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text("life")  # a megabyte would be printed with each example

    @property
    def last(self) -> Records:
        return self.states[-1]


@pytest.fixture(scope="session")
def life(tmp_path_factory: pytest.TempPathFactory) -> Life:
    recording = asyncio.run(_lived())
    folder = tmp_path_factory.mktemp("life")
    states: list[Records] = [{}]
    early = len(recording.commits) - LATE_COMMITS
    ledger = SqliteLedger(folder / NAME)
    for number, (writes, entries) in enumerate(recording.commits):
        if number == early:
            ledger.close()
            earlier = files_of(folder)
            ledger = SqliteLedger(folder / NAME)
        ledger.commit(writes, entries)
        state = dict(states[-1])
        for kind, key, body in writes:
            if body is None:
                state.pop((kind, key), None)
            else:
                state[kind, key] = body
        states.append(state)
    killed = files_of(folder)
    ledger.close()
    return Life(
        states=tuple(states),
        twin=recording,
        leases=tuple({e.lease for _, entries in recording.commits for e in entries}),
        closed=files_of(folder),
        killed=killed,
        earlier=earlier,
    )


async def _lived() -> _Recording:
    """What the site commits while leases come and go."""
    world = World(units=LEASES)
    recording = _Recording()
    world.ledgers["site"] = recording
    for name in NAMES:
        await world.start(name)
    await world.delegate(LEASES)
    keys = [await world.request() for _ in range(LEASES)]
    for key in keys:
        await world.reach("guest", key, "Active")
    for key in keys[:CLOSED]:
        await world.close(key)
    for key in keys[:CLOSED]:
        await world.reach("guest", key, "Closed")
    for name in NAMES:
        await world.crash(name)
    return recording


def files_of(folder: Path) -> dict[str, bytes]:
    """The files of a ledger that count; `-shm` is made anew, the lock file is empty."""
    return {
        name: (folder / name).read_bytes() for name in (NAME, WAL, MARK) if (folder / name).exists()
    }
