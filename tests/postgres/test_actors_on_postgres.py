"""Real actors over ledgers in PostgreSQL: a standby takes over when the active copy is killed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from rest import Rest, make_tokens
from shirako.demo.processes import make_keys
from shirako.descriptor import Descriptor, read_descriptor
from shirako.testbed.ports import free_ports
from shirako.testbed.postgres import Postgres
from trio import DESCRIPTOR


@pytest.fixture
def descriptor(tmp_path: Path, postgres: Postgres) -> Descriptor:
    ports = free_ports(("127.0.0.1",), seed=str(tmp_path))
    text = DESCRIPTOR.format(
        site=next(ports),
        broker=next(ports),
        guest=next(ports),
        driver="",
        guest_driver="",
        units=4,
    )
    path = tmp_path / "actors.xml"
    ledger = _without_password(postgres.url, tmp_path / "pgpass")
    path.write_text(text.replace("state=", f'ledger="{ledger}" state=', 1))
    make_keys(read_descriptor(path, keys=False))
    return read_descriptor(path)


def _without_password(url: str, passfile: Path) -> str:
    """The same server, with its password where libpq looks for it."""
    at = urlsplit(url)
    where = f"{at.hostname}:{at.port}:{at.path.strip('/')}:{at.username}"
    passfile.write_text(f"{where}:{at.password}\n")
    passfile.chmod(0o600)
    return f"postgresql://{at.username}@{at.hostname}:{at.port}{at.path}?passfile={passfile}"


class Copy:
    """One process that runs all three actors."""

    def __init__(self, descriptor: Descriptor, log: Path, *options: str) -> None:
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "shirako", "run", str(descriptor.path), *options],
                stdout=out,
                stderr=subprocess.STDOUT,
            )

    def says(self, text: str, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while text not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def test_a_standby_takes_over_what_a_killed_copy_held(
    descriptor: Descriptor, tmp_path: Path
) -> None:
    """DURABLE: the lease is there, goes on and ends, at the same addresses."""
    url = next(one.url for one in descriptor.actors if one.name == "guest")
    guest = Rest(url, make_tokens(descriptor.state)["guest"])
    active = Copy(descriptor, tmp_path / "active.log")
    copies = [active]
    try:
        active.says("service-manager guest runs at")
        body = {"slice": "blue", "type": "node", "units": 2, "duration": "1h"}
        lease = guest.post("/leases", body)["id"]
        held = guest.until_state(lease, "Active")
        second = Copy(descriptor, tmp_path / "second.log")
        assert second.process.wait(60) == 1
        assert "in use" in second.log.read_text()
        standby = Copy(descriptor, tmp_path / "standby.log", "--standby")
        copies.append(standby)
        standby.says("waits for its ledger")
        active.end()
        standby.says("service-manager guest runs at")
        again = guest.until_state(lease, "Active")
        assert again["units"] == held["units"]
        guest.post(f"/leases/{lease}/close", {})
        guest.until_state(lease, "Closed")
    finally:
        for copy in copies:
            copy.end()


def test_a_standby_that_is_told_to_end_ends(descriptor: Descriptor, tmp_path: Path) -> None:
    # as a standby, too: the server may not have noticed yet that an earlier holder was killed
    active = Copy(descriptor, tmp_path / "active.log", "--standby")
    active.says("service-manager guest runs at")
    standby = Copy(descriptor, tmp_path / "standby.log", "--standby")
    try:
        standby.says("waits for its ledger")
        standby.process.send_signal(signal.SIGTERM)
        assert standby.process.wait(30) == 0
        active.process.send_signal(signal.SIGTERM)
        assert active.process.wait(30) == 0
    finally:
        active.end()
        standby.end()
