"""Three actors as three processes for each test that wants them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rest import Rest, make_tokens
from shirako.demo.processes import ActorProcesses, make_keys
from shirako.descriptor import read_descriptor
from shirako.testbed.ports import free_ports
from trio import DESCRIPTOR, Trio


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[Callable[..., Trio]]:
    """Makes a trio; its options are those of the null drivers, as XML attributes."""
    running: list[ActorProcesses] = []

    def make(*, driver: str = "", guest_driver: str = "", units: int = 4) -> Trio:
        names = ("site", "broker", "guest")
        ports = free_ports(("127.0.0.1",), seed=str(tmp_path))
        text = DESCRIPTOR.format(
            **{name: next(ports) for name in names},
            driver=driver,
            guest_driver=guest_driver,
            units=units,
        )
        path = tmp_path / "actors.xml"
        path.write_text(text)
        make_keys(read_descriptor(path, keys=False))
        descriptor = read_descriptor(path)
        processes = ActorProcesses(descriptor, tmp_path)
        running.append(processes)
        tokens = make_tokens(descriptor.state)
        processes.start(*names)
        made = Trio(
            processes,
            guest=Rest(processes.url("guest"), tokens["guest"]),
            site=Rest(processes.url("site"), tokens["site-admin"]),
            broker=Rest(processes.url("broker"), tokens["broker-admin"]),
        )
        made.broker.until("/broker/delegations", lambda answer: bool(answer["delegations"]))
        return made

    yield make
    for processes in running:
        processes.stop_all()
