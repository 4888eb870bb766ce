"""Three actors as three processes, with pretended units or on a box of real nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from realworld import NODES, World
from rest import Rest, make_tokens
from shirako.demo.box import Box
from shirako.demo.processes import ActorProcesses, make_keys
from shirako.descriptor import read_descriptor
from shirako.testbed.ports import free_ports
from trio import DESCRIPTOR, Trio

ROOT = Path(__file__).parent.parent.parent

Make = Callable[..., Trio]


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Make]:
    """Makes a trio for one test; its options are those of the null drivers, as XML attributes."""
    with _trios(tmp_path) as make:
        yield make


@pytest.fixture(scope="module")
def standing_trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    """One trio for all tests of a file."""
    with _trios(tmp_path_factory.mktemp("trio")) as make:
        yield make()


@contextmanager
def _trios(folder: Path) -> Iterator[Make]:
    running: list[ActorProcesses] = []

    def make(*, driver: str = "", guest_driver: str = "", units: int = 4) -> Trio:
        names = ("site", "broker", "guest")
        ports = free_ports(("127.0.0.1",), seed=str(folder))
        text = DESCRIPTOR.format(
            **{name: next(ports) for name in names},
            driver=driver,
            guest_driver=guest_driver,
            units=units,
        )
        path = folder / "actors.xml"
        path.write_text(text)
        make_keys(read_descriptor(path, keys=False))
        descriptor = read_descriptor(path)
        processes = ActorProcesses(descriptor, folder)
        running.append(processes)
        tokens = make_tokens(descriptor.state)
        for name in names:
            processes.start(name)
        made = Trio(
            processes,
            guest=Rest(processes.url("guest"), tokens["guest"]),
            site=Rest(processes.url("site"), tokens["site-admin"]),
            broker=Rest(processes.url("broker"), tokens["broker-admin"]),
        )
        made.broker.until("/broker/delegations", lambda answer: bool(answer["delegations"]))
        return made

    try:
        yield make
    finally:
        for processes in running:
            processes.stop_all()


@pytest.fixture(scope="module")
def site_descriptor() -> Path:
    """What the box of a file is made from; a file may have its own."""
    return ROOT / "actors.xml"


@pytest.fixture(scope="module")
def world(site_descriptor: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Real nodes, a real slapd, three actors; one for all tests of a file."""
    with Box(
        tmp_path_factory.mktemp("box"), site_descriptor, nodes=NODES, mode="namespaces"
    ) as box:
        box.start(print)
        yield World(box)
