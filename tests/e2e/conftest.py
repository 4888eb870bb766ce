"""Three actors as three processes, with pretended units for each test or real nodes for a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from realworld import NODES, World
from shirako.demo.box import Box
from shirako.demo.processes import ActorProcesses
from trio import Trio, make_trio

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Callable[..., Trio]]:
    """Makes a trio; its options are those of the null drivers, as XML attributes."""
    running: list[ActorProcesses] = []

    def make(**options: object) -> Trio:
        made = make_trio(tmp_path, running, **options)
        return made

    yield make
    for processes in running:
        processes.stop_all()
