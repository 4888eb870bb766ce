"""Three actors as three processes, with pretended units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rest import Rest, make_tokens
from shirako.demo.processes import ActorProcesses, make_keys
from shirako.descriptor import read_descriptor
from shirako.testbed.ports import free_ports
from trio import DESCRIPTOR, Trio

NAMES = ("site", "broker", "guest")


@dataclass(frozen=True)
class Folder:
    """Where the three have their descriptor, keys and ledgers."""

    path: Path
    trio: Trio

    @property
    def descriptor(self) -> Path:
        return self.path / "actors.xml"

    def key(self, name: str) -> Path:
        return self.path / "keys" / f"{name}.jwk"

    def rest(self, name: str) -> Rest:
        return {"guest": self.trio.guest, "site": self.trio.site, "broker": self.trio.broker}[name]

    def restart(self, name: str) -> None:
        self.trio.processes.stop(name)
        self.trio.processes.start(name)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    ports = free_ports(("127.0.0.1",), seed=str(tmp_path))
    text = DESCRIPTOR.format(
        **{name: next(ports) for name in NAMES},
        driver="",
        guest_driver='<guest-driver name="null"/>',
        units=2,
    )
    path = tmp_path / "actors.xml"
    path.write_text(text)
    make_keys(read_descriptor(path, keys=False))
    descriptor = read_descriptor(path)
    processes = ActorProcesses(descriptor, tmp_path)
    tokens = make_tokens(descriptor.state)
    try:
        processes.start(*NAMES)
        trio = Trio(
            processes,
            guest=Rest(processes.url("guest"), tokens["guest"]),
            site=Rest(processes.url("site"), tokens["site-admin"]),
            broker=Rest(processes.url("broker"), tokens["broker-admin"]),
        )
        trio.broker.until("/broker/delegations", lambda answer: bool(answer["delegations"]))
        yield Folder(tmp_path, trio)
    finally:
        processes.stop_all()
