"""A hundred worlds in which everything goes wrong that may, and no invariant is violated."""

from __future__ import annotations

import pytest

from shirako.simulation.faults import NO_FAULTS
from shirako.simulation.run import run

STRETCH = 10


@pytest.mark.parametrize("first", range(1, 101, STRETCH))
def test_no_invariant_is_violated_whatever_goes_wrong(first: int) -> None:
    lives = injected = 0
    for seed in range(first, first + STRETCH):
        outcome = run(seed)
        assert not outcome.violations, (
            f"{outcome.violations[0]}; see: shirako simulate --faults --seeds 1 --seed {seed}"
        )
        lives += outcome.lives
        injected += len(outcome.injected)
    assert lives > STRETCH, "hardly anybody got a lease"
    assert injected > 10 * STRETCH, "hardly anything went wrong"


def test_without_faults_nothing_goes_wrong() -> None:
    for seed in range(1, 11):
        outcome = run(seed, NO_FAULTS)
        assert not outcome.violations
        assert not outcome.injected
        assert not any(" FAULT " in str(line) for line in outcome.trace)
