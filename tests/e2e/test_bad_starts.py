"""Starts that can not be, each ended at once with a status and words that say what is wrong; and
those that can be although something is missing."""

from __future__ import annotations

import hashlib
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from shirako.demo.processes import make_keys
from shirako.descriptor import read_descriptor
from shirako.testbed.ports import free_ports
from trio import DESCRIPTOR

pytestmark = pytest.mark.real

NAMES = ("site", "broker", "guest")
START_SECONDS = 20.0


class Deployment:
    """A descriptor with its keys in a folder, and `shirako run` on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "actors.xml"
        ports = free_ports(("127.0.0.1",), seed=str(folder))
        self.ports = {name: next(ports) for name in NAMES}
        self.path.write_text(DESCRIPTOR.format(**self.ports, driver="", guest_driver="", units=2))
        make_keys(read_descriptor(self.path, keys=False))

    def change(self, old: str, new: str) -> None:
        text = self.path.read_text()
        assert old in text
        self.path.write_text(text.replace(old, new))

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "shirako", "run", str(self.path), *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """A start that is expected to end by itself."""
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        assert done.stdout == ""
        return done

    @contextmanager
    def running(self, name: str) -> Iterator[subprocess.Popen[str]]:
        """One actor that has come up; its words are in `NAME.log`."""
        with self.log(name).open("w") as log:
            process = subprocess.Popen(
                self.command("--actor", name), cwd=self.folder, stdout=log, stderr=log, text=True
            )
        try:
            self._await(name, process)
            yield process
        finally:
            process.kill()
            process.wait()

    def _await(self, name: str, process: subprocess.Popen[str]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            try:
                with urlopen(f"http://127.0.0.1:{self.ports[name]}/.well-known/shirako", timeout=2):
                    return
            except (URLError, OSError):
                time.sleep(0.02)
        raise AssertionError(f"{name} did not come up: {self.log(name).read_text()}")

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def ledger(self, name: str) -> Path:
        return self.folder / "state" / f"{name}.sqlite"


@pytest.fixture
def deployment(tmp_path: Path) -> Deployment:
    return Deployment(tmp_path)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Deployment:
    """Its site has run and ended in good order."""
    deployment = Deployment(tmp_path_factory.mktemp("stopped"))
    with deployment.running("site") as process:
        process.terminate()
        assert process.wait(10) == 0
    return deployment


@pytest.fixture
def ledger(stopped: Deployment) -> Iterator[Path]:
    """The stopped site's ledger, to be damaged; it is whole again afterwards."""
    path = stopped.ledger("site")
    whole = path.read_bytes()
    yield path
    path.write_bytes(whole)


# The descriptor ---------------------------------------------------------------------------------


def test_each_fault_of_the_descriptor_is_told_with_its_line(deployment: Deployment) -> None:
    deployment.change('setup-timeout="30s"', 'setup-timeout="soon"')
    deployment.change('to="broker" type="node"', 'to="nobody" type="node"')
    deployment.change('allocation="first-come"', 'allocation="luck"')
    lines = deployment.path.read_text().splitlines()
    done = deployment.run()
    assert done.returncode == 2
    for wrong in ("soon", "nobody", "luck"):
        number = next(n for n, line in enumerate(lines, start=1) if f'"{wrong}"' in line)
        told = [line for line in done.stderr.splitlines() if wrong in line]
        # a start tag of two lines is told by its first or its last one
        places = (f"{deployment.path}:{number}:", f"{deployment.path}:{number - 1}:")
        assert any(line.startswith(places) for line in told), done.stderr


@pytest.mark.parametrize("text", ["", "<actors", "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "\0"])
def test_what_is_no_descriptor_at_all(deployment: Deployment, text: str) -> None:
    deployment.path.write_text(text)
    done = deployment.run()
    assert done.returncode == 2
    assert re.match(rf"{re.escape(str(deployment.path))}:\d+: ", done.stderr), done.stderr


def test_no_descriptor(deployment: Deployment) -> None:
    deployment.path.unlink()
    done = deployment.run()
    assert done.returncode == 2
    assert str(deployment.path) in done.stderr


def test_a_missing_key_is_told_and_how_to_make_it(deployment: Deployment) -> None:
    (deployment.folder / "keys" / "broker.jwk").unlink()
    done = deployment.run()
    assert done.returncode == 2
    assert re.match(rf"{re.escape(str(deployment.path))}:\d+: ", done.stderr), done.stderr
    assert "broker.jwk" in done.stderr
    assert "shirako keys" in done.stderr


def test_an_actor_that_the_descriptor_does_not_have(deployment: Deployment) -> None:
    done = deployment.run("--actor", "sitee")
    assert done.returncode == 2
    assert "sitee" in done.stderr
    assert all(name in done.stderr for name in NAMES)


# The ledger -------------------------------------------------------------------------------------


def test_a_ledger_is_of_one_process(deployment: Deployment) -> None:
    """DURABLE: two copies of an actor never both act, even where the port would be free."""
    with deployment.running("site"):
        first_port = deployment.ports["site"]
        other = next(free_ports(("127.0.0.1",), seed="another"))
        deployment.change(f":{first_port}", f":{other}")
        done = deployment.run("--actor", "site")
        assert done.returncode == 1
        assert str(deployment.ledger("site")) in done.stderr
        assert "in use by another process" in done.stderr
        with urlopen(f"http://127.0.0.1:{first_port}/.well-known/shirako", timeout=5) as answer:
            assert answer.status == 200


def truncated(ledger: bytes) -> bytes:
    return ledger[: len(ledger) // 2 + 100]


def not_a_database(ledger: bytes) -> bytes:
    return b"SQLite gormat 3\0" + ledger[16:]


def wrong_page_size(ledger: bytes) -> bytes:
    return ledger[:16] + b"\x03\x07" + ledger[18:]


def flipped_inside(ledger: bytes) -> bytes:
    """The first page's list of cells: the schema itself can not be read."""
    return ledger[:100] + bytes(byte ^ 0xFF for byte in ledger[100:140]) + ledger[140:]


@pytest.mark.parametrize("damage", [truncated, not_a_database, wrong_page_size, flipped_inside])
def test_a_damaged_ledger_is_left_as_it_is(
    stopped: Deployment, ledger: Path, damage: Callable[[bytes], bytes]
) -> None:
    """No start over it with an empty one, which would sell everything a second time."""
    ledger.write_bytes(damage(ledger.read_bytes()))
    before = digest(ledger)
    done = stopped.run("--actor", "site")
    assert done.returncode == 1
    assert str(ledger) in done.stderr
    assert "damaged" in done.stderr
    assert "backup" in done.stderr
    assert digest(ledger) == before


def test_a_ledger_of_a_newer_program(stopped: Deployment, ledger: Path) -> None:
    text = ledger.read_bytes()
    ledger.write_bytes(text[:60] + (99).to_bytes(4) + text[64:])  # PRAGMA user_version
    before = digest(ledger)
    done = stopped.run("--actor", "site")
    assert done.returncode == 1
    assert "newer" in done.stderr
    assert digest(ledger) == before


def digest(ledger: Path) -> str:
    return hashlib.sha256(ledger.read_bytes()).hexdigest()


# The network ------------------------------------------------------------------------------------


def test_a_port_in_use(deployment: Deployment) -> None:
    with socket.create_server(("127.0.0.1", deployment.ports["site"])):
        done = deployment.run("--actor", "site")
    assert done.returncode == 1
    assert f"127.0.0.1:{deployment.ports['site']}" in done.stderr.replace("', ", ":")
    assert "in use" in done.stderr
    with deployment.running("site"):
        pass  # nothing of the failed start stands in the way


def test_a_peer_that_is_down_is_a_warning(deployment: Deployment) -> None:
    with deployment.running("site") as process:
        deadline = time.monotonic() + START_SECONDS
        log = deployment.log("site")
        while "broker can not be reached" not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        assert process.poll() is None
        assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("name", "number"),
    [("site", signal.SIGTERM), ("broker", signal.SIGINT), ("guest", signal.SIGTERM)],
)
def test_an_actor_stops_when_asked(
    deployment: Deployment, name: str, number: signal.Signals
) -> None:
    """At once, although it waits for peers that are not there."""
    with deployment.running(name) as process:
        process.send_signal(number)
        assert process.wait(5) == 0
    assert "Traceback" not in deployment.log(name).read_text()
