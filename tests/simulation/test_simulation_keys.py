"""Keys are replaced in the middle of everything, and what that is to bring about comes to pass."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from shirako.simulation import locksmith
from shirako.simulation.checks import keys
from shirako.simulation.faults import ALL_FAULTS, NO_FAULTS, Faults
from shirako.simulation.run import run

REKEYED = replace(ALL_FAULTS, key_replaced=1.0)
SEEDS = range(401, 421)


def test_old_keys_are_refused_and_what_they_signed_is_taken_in_time() -> None:
    seen: Counter[str] = Counter()
    for seed in SEEDS:
        outcome = run(seed, REKEYED)
        assert not outcome.violations, f"seed {seed}: {outcome.violations[0]}"
        seen += outcome.seen
    assert min(seen[what] for what in (keys.REFUSED, keys.BELIEVED, keys.EXPIRED)) > 0, seen


def test_a_new_key_costs_hardly_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for one that its guest can not ask for in time, since its peers are cut off, too."""
    monkeypatch.setattr(locksmith, "GRACES", (3600,))
    with_new_keys = without = 0
    for seed in SEEDS:
        outcome = run(seed, Faults(key_replaced=1.0))
        assert not outcome.violations, f"seed {seed}: {outcome.violations[0]}"
        assert outcome.faults["key_replaced"]
        assert not outcome.seen[keys.EXPIRED]
        with_new_keys += outcome.lives
        without += run(seed, NO_FAULTS).lives
    assert with_new_keys > 0.9 * without
