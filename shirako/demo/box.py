"""Starts and stops a whole site in one folder: testbed, keys, and each actor as its own process."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.error import URLError
from urllib.request import urlopen

from shirako import trust
from shirako.demo.placing import place
from shirako.descriptor import Descriptor, read_descriptor
from shirako.testbed import Mode, Site, Testbed

Tell = Callable[[str], None]

START_SECONDS = 20.0
STOP_SECONDS = 10.0


class BoxFailed(Exception):
    """Part of the box did not come up; the message says which, and where its log is."""


@dataclass(frozen=True, slots=True)
class GuestKey:
    """The key pair that the guest logs in with."""

    private: Path
    public: str


class Box:
    """One site in `folder`; everything it makes lies there. A context manager."""

    def __init__(
        self, folder: Path, descriptor: Path, *, nodes: int, mode: Mode | str = "auto"
    ) -> None:
        self.folder = folder.absolute()
        self._template = descriptor.absolute()
        self._testbed = Testbed(self.folder / "testbed", nodes=nodes, mode=mode)  # type: ignore[arg-type]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.site: Site
        self.descriptor: Descriptor
        self.guest_key = GuestKey(self.folder / "guest_key", "")

    def __enter__(self) -> Box:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def testbed(self) -> Testbed:
        return self._testbed

    def start(self, tell: Tell) -> None:
        """Everything, with a fresh state. Raises `BoxFailed` or `TestbedError`."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.site = self._testbed.start(tell)
        shutil.rmtree(self.folder / "state", ignore_errors=True)
        self.guest_key = make_guest_key(self.folder / "guest_key")
        path = place(self._template, self.site, self.folder, guest_key=self.guest_key.private)
        for made in make_keys(read_descriptor(path, keys=False)):
            tell(f"made key {made.relative_to(self.folder)}")
        self.descriptor = read_descriptor(path)
        for spec in self.descriptor.actors:
            self.start_actor(spec.name)
            tell(f"{spec.role} {spec.name} runs at {spec.url}")

    def stop(self) -> None:
        for name in list(self._processes):
            self.stop_actor(name)
        self._testbed.stop()

    def url(self, name: str) -> str:
        return next(spec.url for spec in self.descriptor.actors if spec.name == name)

    def log_of(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    # Actors as processes ------------------------------------------------------------------------

    def start_actor(self, name: str) -> None:
        """Start one actor and wait until it answers; it dies with this process."""
        command = [sys.executable, "-m", "shirako", "run", str(self.descriptor.path)]
        with self.log_of(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "--", *command, "--actor", name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
            )
        self._await(name)

    def _await(self, name: str) -> None:
        process, until = self._processes[name], time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            if process.poll() is not None:
                break
            try:
                with urlopen(f"{self.url(name)}/.well-known/shirako", timeout=2):  # noqa: S310
                    return
            except (URLError, OSError):
                time.sleep(0.02)
        raise BoxFailed(f"actor {name} did not come up; its log is {self.log_of(name)}")

    def stop_actor(self, name: str) -> None:
        """Ask it to stop, and wait."""
        process = self._processes.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def kill_actor(self, name: str) -> None:
        """`kill -9`, as bad luck would; `start_actor` starts it again."""
        process = self._processes.pop(name)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()


def make_keys(descriptor: Descriptor) -> list[Path]:
    """Make the key of every actor that has none yet; returns the files made."""
    made = []
    for spec in descriptor.actors:
        if not spec.key.exists():
            trust.PrivateKey.generate().write(spec.key)
            made.append(spec.key)
    return made


def make_guest_key(path: Path) -> GuestKey:
    """An Ed25519 key pair of the guest's for ssh, made once."""
    if not path.exists():
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "guest", "-f", str(path)],
            check=True,
            stdin=subprocess.DEVNULL,
        )
    return GuestKey(path, path.with_suffix(".pub").read_text().strip())
