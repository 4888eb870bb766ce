"""Runs each actor of a descriptor as an operating system process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from shirako import trust
from shirako.descriptor import ActorSpec, Descriptor

START_SECONDS = 60.0
STOP_SECONDS = 10.0
POLL_SECONDS = 0.02


class NotUp(Exception):
    """An actor did not come up; the message says which, why, and where its log is."""


class ActorProcesses:
    """Actors of one descriptor. They die with this process; their logs lie in `folder`."""

    def __init__(self, descriptor: Descriptor, folder: Path) -> None:
        self._descriptor = descriptor
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def url(self, name: str) -> str:
        return self._spec(name).url

    def _spec(self, name: str) -> ActorSpec:
        return next(spec for spec in self._descriptor.actors if spec.name == name)

    def log_of(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def start(self, *names: str) -> None:
        """Start actors, all at once, and wait until each answers. Raises `NotUp`."""
        for name in names:
            self._launch(name)
        for name in names:
            self._await(name)

    def _launch(self, name: str) -> None:
        command = [sys.executable, "-m", "shirako", "run", str(self._descriptor.path)]
        with self.log_of(name).open("ab") as log:
            self._running[name] = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", "--", *command, "--actor", name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )

    def _await(self, name: str) -> None:
        process, spec = self._running[name], self._spec(name)
        kid = trust.read_public(trust.public_path(spec.key)).kid
        why = f"it does not answer within {START_SECONDS:.0f} seconds"
        for _ in range(int(START_SECONDS / POLL_SECONDS)):
            if process.poll() is not None:
                last = self.log_of(name).read_text(errors="replace").strip().rpartition("\n")[2]
                why = f"it has ended: {last}"
                break
            try:
                with urlopen(f"{spec.url}/.well-known/shirako", timeout=2) as answer:  # noqa: S310
                    if json.load(answer).get("kid") == kid:
                        return
                    why = f"somebody else answers at {spec.url}"
                    break
            except (URLError, OSError, ValueError):
                time.sleep(POLL_SECONDS)
        raise NotUp(f"actor {name} did not come up: {why}; its log is {self.log_of(name)}")

    def stop(self, name: str) -> None:
        """Ask it to stop, and wait."""
        process = self._running.pop(name, None)
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop_all(self) -> None:
        for name in list(self._running):
            self.stop(name)

    def kill(self, name: str) -> None:
        """`kill -9`, as bad luck would; `start` starts it again."""
        process = self._running.pop(name)
        process.kill()
        process.wait()


def make_keys(descriptor: Descriptor) -> list[Path]:
    """Make the key of every actor that has none yet; returns the files made."""
    made = []
    for spec in descriptor.actors:
        if not spec.key.exists():
            trust.PrivateKey.generate().write(spec.key)
            made.append(spec.key)
    return made
