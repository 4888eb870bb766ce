"""Chance from a seed: named streams that do not disturb each other.

A stream's numbers depend on the seed and on its name alone. So an injected fault that is left out
in a replay, or a guest that does one thing more, changes what others draw only by what it does to
them.
"""

from __future__ import annotations

import math
import random  # noqa: TID251 - every stream starts from the seed of the run
from hashlib import blake2b

Stream = random.Random
"""A source of numbers."""


def stream(seed: int, name: str) -> Stream:
    """The stream of this name in the run of this seed."""
    return random.Random(f"{seed}/{name}")  # noqa: S311 - chooses faults, guards nothing


def gap(seed: int, name: str, rate: float) -> int:
    """How many opportunities pass until the next hit, at `rate` hits an opportunity; at least 1.

    Drawn for this name alone: most places are never hit, and do not need a stream.
    """
    if rate >= 1.0:
        return 1
    drawn = int.from_bytes(blake2b(f"{seed}/{name}".encode(), digest_size=7).digest(), "big")
    return int(math.log(1.0 - drawn / 2.0**56) / math.log(1.0 - rate)) + 1
