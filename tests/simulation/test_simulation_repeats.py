"""The same seed is the same run to the byte: in another process, with other hashes, with several
workers, and when every signature is verified."""

from __future__ import annotations

import os
import subprocess
import sys

from shirako.simulation.campaign import campaign
from shirako.simulation.faults import ALL_FAULTS
from shirako.simulation.run import run

SEEDS = range(201, 207)
PROGRAM = f"""
from shirako.simulation.run import run
for seed in range({SEEDS.start}, {SEEDS.stop}):
    print(seed, run(seed).digest)
"""


def in_a_process_of_its_own(hash_seed: str) -> dict[int, str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    pairs = (line.split() for line in done.stdout.splitlines())
    return {int(seed): digest for seed, digest in pairs}


def test_a_run_repeats_itself_in_another_process() -> None:
    here = {seed: run(seed).digest for seed in SEEDS}
    assert len(set(here.values())) == len(SEEDS)
    for hash_seed in ("0", "4711"):
        assert in_a_process_of_its_own(hash_seed) == here


def test_a_run_repeats_itself_in_the_same_process() -> None:
    """Nothing of one run is left for the next one."""
    first = run(SEEDS.start)
    run(SEEDS.start + 1)
    again = run(SEEDS.start)
    assert [str(line) for line in again.trace] == [str(line) for line in first.trace]


def test_every_signature_may_as_well_be_verified() -> None:
    for seed in SEEDS[:3]:
        assert run(seed, memory=False).digest == run(seed).digest


def test_a_replay_with_all_of_its_own_faults_is_the_same_run() -> None:
    first = run(SEEDS.start)
    only = frozenset(injection.name for injection in first.injected)
    assert run(SEEDS.start, only=only).digest == first.digest
    assert run(SEEDS.start, only=frozenset()).injected == ()


def test_a_campaign_does_not_depend_on_how_many_work_on_it() -> None:
    seeds = range(301, 321)
    alone, together = (campaign(seeds, ALL_FAULTS, jobs=jobs) for jobs in (1, 2))
    assert alone.digest == together.digest
    assert (alone.seeds, alone.events, alone.lives) == (20, together.events, together.lives)
    assert alone.faults == together.faults
