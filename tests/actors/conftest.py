"""A world of three actors for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from world import NAMES, World


@pytest.fixture
async def world() -> AsyncIterator[World]:
    made = World()
    for name in NAMES:
        await made.start(name)
    await made.delegate(4)
    yield made
    for actor in made.actors.values():
        await actor.stop()
