"""Ledgers are lost and come back from backups, and what that is to bring about comes to pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from shirako.simulation import restorations
from shirako.simulation.faults import ALL_FAULTS
from shirako.simulation.run import run

RESTORED = replace(ALL_FAULTS, restored=1.0)
SEEDS = range(401, 421)


def test_what_was_restored_is_held_and_confirmed_and_all_comes_to_its_end() -> None:
    seen: Counter[str] = Counter()
    lost = lives = 0
    for seed in SEEDS:
        outcome = run(seed, RESTORED)
        assert not outcome.violations, f"seed {seed}: {outcome.violations[0]}"
        seen += outcome.seen
        lives += outcome.lives
        lost += sum("loses its ledger" in line.what for line in outcome.trace)
    assert seen[restorations.CURRENT]
    assert seen[restorations.HELD]
    confirmed = seen[restorations.CONFIRMED] + seen[restorations.CURRENT]
    assert len(SEEDS) < confirmed <= lost
    assert lives > len(SEEDS), "hardly anybody got a lease"


def test_a_restore_repeats_itself_to_the_byte() -> None:
    assert run(SEEDS.start, RESTORED).digest == run(SEEDS.start, RESTORED).digest
