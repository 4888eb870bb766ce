"""What the accounts of receipts are for comes to pass; brokers that cheat are convicted."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from shirako.simulation import sightings
from shirako.simulation.checks import conflicts
from shirako.simulation.faults import ALL_FAULTS, Faults
from shirako.simulation.run import run

MUTE = replace(ALL_FAULTS, backlog=1.0)
CHEATED = replace(ALL_FAULTS, cheating=1.0)


def seen(seeds: range, faults: Faults) -> Counter[str]:
    """What was seen in all of these runs, none of which violates anything."""
    counts: Counter[str] = Counter()
    for seed in seeds:
        outcome = run(seed, faults)
        assert not outcome.violations, f"seed {seed}: {outcome.violations[0]}"
        counts += outcome.seen
    return counts


@pytest.fixture(scope="module")
def mute() -> Counter[str]:
    return seen(range(1, 41), MUTE)


@pytest.fixture(scope="module")
def cheated() -> Counter[str]:
    return seen(range(1, 41), CHEATED)


@pytest.mark.parametrize(
    "what",
    [
        sightings.EARLY,
        sightings.EARLY_OF_SITE,
        sightings.AGAIN,
        sightings.TWICE,
        sightings.STARTED,
        sightings.OPENED,
    ],
)
def test_receipts_are_lost_and_come_again_and_in_another_order(
    mute: Counter[str], what: str
) -> None:
    assert mute[what]


@pytest.mark.parametrize(
    "what",
    ["at a redeem", "at an extension", "of a broker below", "by what a broker below was given"],
)
def test_brokers_that_sell_too_much_are_convicted(cheated: Counter[str], what: str) -> None:
    assert cheated[f"{conflicts.SHOWN}: {what}"]


def test_most_brokers_that_sell_too_much_can_not_avoid_it(cheated: Counter[str]) -> None:
    """But for those that cite what was never written, whose tickets are worth nothing either."""
    shown = sum(count for what, count in cheated.items() if what.startswith(conflicts.SHOWN))
    not_shown = Counter({w: n for w, n in cheated.items() if w.startswith(conflicts.NOT_SHOWN)})
    assert shown > 3 * not_shown.total()
    assert max(not_shown, key=lambda what: not_shown[what]).endswith(conflicts.MADE_UP)
