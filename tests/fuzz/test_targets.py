"""Whatever comes in at any edge is taken or refused, and nothing breaks; what is refused changes
nothing. For longer, and guided by coverage: `python -m tests.fuzz`."""

from __future__ import annotations

import re
from random import Random

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.fuzz.hunting import change
from tests.fuzz.targets import BY_NAME, TARGETS, Target

EXAMPLES = 250
names = pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)


@names
def test_what_is_in_order_is_taken(target: Target) -> None:
    """Otherwise all that is made from it would end at the door."""
    outcomes = [target.run(seed) for seed in target.seeds()]
    assert any(re.match(target.good, one) for one in outcomes), outcomes


@pytest.mark.parametrize("receiver", ["site", "broker", "guest"])
def test_every_message_of_the_recorded_lives_is_taken(receiver: str) -> None:
    target = BY_NAME[f"message-to-{receiver}"]
    assert {target.run(seed) for seed in target.seeds()} == {"taken"}


@names
@settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
@given(number=st.integers(0, 2**64), others=st.integers(0, 3))
def test_what_is_changed_breaks_nothing(target: Target, number: int, others: int) -> None:
    chance = Random(number)
    seeds = list(target.seeds())
    data = chance.choice(seeds)
    for _ in range(others + 1):
        data = target.change(data, seeds, chance)
    note(repr(data))
    target.run(data)


@names
@settings(max_examples=50)
@given(st.binary(max_size=300))
def test_any_bytes_break_nothing(target: Target, data: bytes) -> None:
    target.run(data)


def test_a_change_can_be_made_again_from_its_number() -> None:
    """So that what a hunt found is found again."""
    for target in TARGETS:
        seeds = list(target.seeds())
        first, again = (change(target, seeds, Random(5)) for _ in range(2))
        assert first == again
