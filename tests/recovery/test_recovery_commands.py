"""`shirako backup`, `restore` and `recover`, as an operator uses them on actors that really run."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from rest import Rest, make_tokens
from shirako.cli import main
from shirako.demo.processes import ActorProcesses, make_keys
from shirako.descriptor import read_descriptor
from shirako.testbed.ports import free_ports
from trio import DESCRIPTOR, Trio

pytestmark = pytest.mark.real

NAMES = ("site", "broker", "guest")
ROLE_OF_TOKEN = {"site": "site-admin", "broker": "broker-admin", "guest": "site-admin"}


class Operator:
    """Sits in the folder of the descriptor, and types commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ports = free_ports(("127.0.0.1",), seed=str(folder))
        places = {name: next(ports) for name in NAMES}
        text = DESCRIPTOR.format(**places, driver="", guest_driver="", units=4)
        (folder / "actors.xml").write_text(text)
        make_keys(read_descriptor(folder / "actors.xml", keys=False))
        descriptor = read_descriptor(folder / "actors.xml")
        self.tokens = make_tokens(descriptor.state)
        self.processes = ActorProcesses(descriptor, folder)
        url = self.processes.url
        self.trio = Trio(
            self.processes,
            guest=Rest(url("guest"), self.tokens["guest"]),
            site=Rest(url("site"), self.tokens["site-admin"]),
            broker=Rest(url("broker"), self.tokens["broker-admin"]),
        )

    def __call__(self, *arguments: str, at: str = "", status: int = 0) -> str:
        """What is said on both ways; never a traceback."""
        environment = {"SHIRAKO_URL": "", "SHIRAKO_TOKEN": "", "XDG_CONFIG_HOME": str(self.folder)}
        if at:
            environment["SHIRAKO_URL"] = self.processes.url(at)
            environment["SHIRAKO_TOKEN"] = self.tokens[ROLE_OF_TOKEN[at]]
        with contextlib.chdir(self.folder):
            result = CliRunner().invoke(main, arguments, env=environment)
        assert "Traceback" not in result.output
        assert result.exit_code == status, (arguments, result.exit_code, result.output)
        return result.output

    def json(self, *arguments: str, at: str = "", status: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", at=at, status=status))

    def status(self, name: str) -> Any:
        token = self.tokens[ROLE_OF_TOKEN[name]]
        return Rest(self.processes.url(name), token).get("/status")

    def move_away(self, name: str, said: str) -> None:
        """Do what the refusal of a restore says."""
        found = re.search(r"mkdir -p (\S+) && (mv .+)", " ".join(said.split()))
        assert found, said
        subprocess.run(["mkdir", "-p", found[1]], check=True, cwd=self.folder)
        subprocess.run(shlex.split(found[2]), check=True, cwd=self.folder)
        assert not list((self.folder / "state").glob(f"{name}.sqlite*"))


@pytest.fixture
def operator(tmp_path: Path) -> Iterator[Operator]:
    made = Operator(tmp_path)
    made.processes.start(*NAMES)
    try:
        made.trio.broker.until("/broker/delegations", lambda told: bool(told["delegations"]))
        yield made
    finally:
        made.processes.stop_all()


def test_a_site_is_lost_and_comes_back(operator: Operator) -> None:
    trio = operator.trio
    lease = trio.request(units=2)
    trio.guest.until_state(lease, "Active")
    loaded = threading.Event()

    def load() -> None:
        while not loaded.is_set():
            trio.guest.try_post("/leases", {"slice": "x", "type": "node", "duration": "2s"})
            time.sleep(0.02)

    guests = threading.Thread(target=load)
    guests.start()
    made = operator.json("backup", "site", "-o", "site.backup")
    again = operator("backup", "site", "-o", "site.backup", status=1)
    forced = operator.json("backup", "site", "-o", "site.backup", "--force")
    loaded.set()
    guests.join()
    assert "there already" in again
    assert made["good"]
    assert forced["links"] >= made["links"] > 0
    assert "good" in operator("verify", "site.backup")
    file = operator.folder / "site.backup"
    assert file.stat().st_mode & 0o777 == 0o600
    key = (operator.folder / "keys" / "site.jwk").read_text()
    assert json.loads(key)["d"].encode() not in file.read_bytes()

    assert "in use by" in operator("restore", "site", "site.backup", status=1)
    operator.processes.kill("site")
    said = operator("restore", "site", "site.backup", status=1)
    assert "is not empty" in said
    operator.move_away("site", said)
    other = operator("restore", "broker", "site.backup", status=1)
    assert "site.backup is of role authority, and broker is of role broker" in other
    (operator.folder / "half.backup").write_bytes(file.read_bytes()[:-4096])
    assert "damaged" in operator("restore", "site", "half.backup", "--dry-run", status=1)
    whole = operator.json("restore", "site", "site.backup", "--dry-run")
    assert (whole["dry_run"], whole["actor"], whole["warnings"]) == (True, "site", [])
    assert not (operator.folder / "state" / "site.sqlite").exists()
    assert "restored" in operator("restore", "site", "site.backup")
    assert "no actor" in operator("restore", "nobody", "site.backup", status=2)

    operator.processes.start("site")
    assert operator.status("site")["restored"]["held"]
    assert "was restored from a backup" in operator.processes.log_of("site").read_text()
    assert "shirako recover" in operator("clock", "show", at="site")
    status, problem = trio.site.call("POST", "/site/nodes/n3/quarantine", {"reason": "fan"})
    assert (status, problem["type"]) == (503, "urn:shirako:problem:held")
    shown = operator.json("recover", "site", "--dry-run", at="site")
    assert (shown["held"], shown["dry_run"]) == (True, True)
    assert "site, not broker" in operator("recover", "broker", "--yes", at="site", status=2)
    assert "--yes" in operator("recover", "site", at="site", status=1)
    assert operator.status("site")["restored"]["held"]
    assert "the hold has ended" in operator("recover", "site", "--yes", at="site")
    assert "it is not held" in operator("recover", "site", "--yes", at="site")
    trio.guest.post(f"/leases/{lease}/close", {})
    trio.guest.until_state(lease, "Closed")
    assert "from no backup" in operator("recover", "broker", "--yes", at="broker")


def test_a_confirmation_that_is_killed_was_taken_or_not(operator: Operator) -> None:
    """DURABLE: and whoever asks again gets it done."""
    operator("backup", "broker", "-o", "broker.backup")
    told: list[bool] = []
    for pause in (0.0, 0.002, 0.006, 0.012):
        operator.processes.kill("broker")
        operator.move_away("broker", operator("restore", "broker", "broker.backup", status=1))
        operator("restore", "broker", "broker.backup")
        operator.processes.start("broker")
        assert operator.status("broker")["restored"]["held"]
        asked = threading.Thread(target=operator.trio.broker.try_post, args=("/recovery", {}))
        asked.start()
        time.sleep(pause)
        operator.processes.kill("broker")
        asked.join()
        operator.processes.start("broker")
        restored = operator.status("broker")["restored"]
        told.append(restored["held"])
        assert restored["held"] is (restored["confirmed"] is None)
        done = operator.json("recover", "broker", "--yes", at="broker")
        assert done["held"] is told[-1]
        (unsold,) = done["unsold"]
        assert unsold["id"] == "share"
        after = operator.status("broker")["restored"]
        assert not after["held"]
        assert after["by"].startswith("test-broker-admin")
        if not told[-1]:
            assert after == restored
        (operator.folder / "state" / "old").rename(operator.folder / f"old{len(told)}")
    answer = operator.trio.guest.post(
        "/leases", {"slice": "blue", "type": "node", "units": 1, "duration": "1h"}
    )
    refused = operator.trio.guest.until(f"/leases/{answer['id']}", lambda a: a["final"])
    assert "restored from a backup" in refused["reason"]
