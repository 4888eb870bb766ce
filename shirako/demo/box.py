"""Starts and stops a whole site in one folder: testbed, keys, and each actor as its own process."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

from shirako.demo.placing import place
from shirako.demo.processes import ActorProcesses, make_keys
from shirako.descriptor import Descriptor, read_descriptor
from shirako.testbed import Mode, Site, Testbed

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class GuestKey:
    """The key pair that the guest logs in with."""

    private: Path
    public: str


class Box:
    """One site in `folder`; everything it makes lies there. A context manager."""

    def __init__(
        self,
        folder: Path,
        descriptor: Path,
        *,
        nodes: int,
        mode: Mode | Literal["auto"] = "auto",
        keep_ports: bool = False,
    ) -> None:
        """`keep_ports`: the actors' ports as the descriptor has them, where they are free."""
        self.folder = folder.absolute()
        self._template = descriptor.absolute()
        self._keep_ports = keep_ports
        self.testbed = Testbed(self.folder / "testbed", nodes=nodes, mode=mode)
        self.site: Site
        self.descriptor: Descriptor
        self.actors: ActorProcesses
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

    def start(self, tell: Tell) -> None:
        """Everything, with a fresh state. Raises `NotUp` or `TestbedError`."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.site = self.testbed.start(tell)
        shutil.rmtree(self.folder / "state", ignore_errors=True)
        self.guest_key = make_guest_key(self.folder / "guest_key")
        path = place(
            self._template,
            self.site,
            self.folder,
            guest_key=self.guest_key.private,
            keep_ports=self._keep_ports,
        )
        for made in make_keys(read_descriptor(path, keys=False)):
            tell(f"made key {made.relative_to(self.folder)}")
        self.descriptor = read_descriptor(path)
        self.actors = ActorProcesses(self.descriptor, self.folder)
        self.actors.start(*(spec.name for spec in self.descriptor.actors))
        for spec in self.descriptor.actors:
            tell(f"{spec.role} {spec.name} runs at {spec.url}")

    def stop(self) -> None:
        if hasattr(self, "actors"):
            self.actors.stop_all()
        self.testbed.stop()


def make_guest_key(path: Path) -> GuestKey:
    """An Ed25519 key pair of the guest's for ssh, made once."""
    if not path.exists():
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "guest", "-f", str(path)],
            check=True,
            stdin=subprocess.DEVNULL,
        )
    return GuestKey(path, path.with_suffix(".pub").read_text().strip())
