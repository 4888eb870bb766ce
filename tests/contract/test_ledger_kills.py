"""DURABLE: after a kill a ledger holds what was acknowledged, and its mirror is no further."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from homes import DURABLE, Home, MakeHome, await_mirror, records
from shirako.ledger import CountedLedger, verify_links
from shirako.ledger.memory import MemoryLedger
from tests.contract.writer import commit_of

pytestmark = pytest.mark.real

ROUNDS = (1, 90, 20)
"""So many commits of each writer are awaited before it is killed, within a moment more."""
MOMENT_SECONDS = 0.15
WRITER = Path(__file__).with_name("writer.py")
SUPPORT = Path(__file__).parent.parent / "support"


class Twin:
    """What the writer's ledger has to be after each of its commits."""

    def __init__(self) -> None:
        self.ledger = MemoryLedger()
        self.commits = 0

    def at(self, commits: int) -> MemoryLedger:
        """After so many, which are not fewer than those of the time before."""
        while self.commits < commits:
            self.commits += 1
            self.ledger.commit(*commit_of(self.commits))
        return self.ledger


def killed(home: Home, commits: int, moment: float) -> int:
    """Let a writer go on with its ledger, and kill it; the last commit that it acknowledged."""
    environment = {**os.environ, "PYTHONPATH": str(SUPPORT)}
    with subprocess.Popen(
        [sys.executable, str(WRITER), home.words],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(commits)]
        time.sleep(moment)
        writer.kill()
        said += [int(line) for line in writer.stdout if line.endswith("\n")]
    assert said == list(range(said[0], said[-1] + 1))
    return said[-1]


@pytest.mark.parametrize("kind", DURABLE)
def test_killed_while_it_writes(make_home: MakeHome, kind: str) -> None:
    """Each writer goes on where the kill of the one before it has left the ledger."""
    home, twin, chance = make_home(kind), Twin(), random.Random(kind)
    mirrored = Twin()
    for commits in ROUNDS:
        said = killed(home, commits, chance.uniform(0, MOMENT_SECONDS))
        behind = home.mirror() if home.place is not None else None
        ledger = home.open()
        found: CountedLedger = ledger  # type: ignore[assignment] # every kind of them counts
        stored = found.total().commits
        assert said <= stored <= said + 1
        assert found.total() == twin.at(stored).total()
        assert records(ledger) == records(twin.ledger)
        assert list(ledger.links()) == list(twin.ledger.links())
        assert verify_links(ledger.links()) == stored
        if behind is not None:
            past = mirrored.at(behind.head.commits)
            assert behind.head.commits <= stored, "the mirror is ahead of the ledger"
            assert behind.head.total == past.total()
            assert {(kind, key): body for kind, key, body in behind.records} == records(past)
            await_mirror(ledger)
            assert home.mirror().head.total == found.total()
            assert home.mirrored_records() == records(ledger)
        ledger.close()
