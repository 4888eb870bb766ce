"""Real logins, real lookups, and what there is on the machine to compare before and after."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import msgspec
import pytest

from shirako.testbed import Node, Site, Testbed

Done = subprocess.CompletedProcess[str]


class Login(Protocol):
    def __call__(
        self, site: Site, node: Node, command: str, *, user: str = ..., key: Path | None = ...
    ) -> Done: ...


class Held:
    """A testbed in another process."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        assert popen.stdin is not None
        assert popen.stdout is not None
        self.popen = popen
        self._stdin, self._stdout = popen.stdin, popen.stdout
        line = self._stdout.readline()
        assert line, "the holder failed; see its standard error"
        first = msgspec.json.decode(line)
        self.told: list[str] = first["told"]
        self.site = msgspec.convert(
            first["site"], Site, dec_hook=lambda kind, value: kind(value), strict=False
        )

    def do(self, command: str) -> None:
        self._stdin.write(command + "\n")
        self._stdin.flush()
        assert self._stdout.readline() == "done\n"

    def kill(self) -> None:
        self.popen.kill()
        self.popen.wait()


class Hold(Protocol):
    def __call__(self, folder: Path, nodes: int, mode: str, *prefix: str) -> Held: ...


@pytest.fixture(scope="session")
def login(tmp_path_factory: pytest.TempPathFactory) -> Login:
    """Runs a command on a node with the system's ssh client, its host key pinned."""
    folder = tmp_path_factory.mktemp("login")

    def run(
        site: Site, node: Node, command: str, *, user: str = "", key: Path | None = None
    ) -> Done:
        known = folder / f"{node.name}.{node.port}.known"
        known.write_text(f"[{node.host}]:{node.port} {node.host_key}\n")
        if node.port == 22:
            known.write_text(f"{node.host} {node.host_key}\n")
        identity = str(key or site.admin_key).replace("%", "%%")  # ssh expands %u and the like
        options = {
            "BatchMode": "yes",
            "ConnectTimeout": "10",
            "GlobalKnownHostsFile": "none",
            "IdentitiesOnly": "yes",
            "IdentityFile": f'"{identity}"',
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(known),
        }
        return subprocess.run(
            [
                *("ssh", "-F", "none", "-p", str(node.port)),
                *(f"-o{name}={value}" for name, value in options.items()),
                f"{user or node.admin_user}@{node.host}",
                command,
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture(scope="module")
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Testbed, Site]]:
    folder = tmp_path_factory.mktemp("two_nodes")
    hidden = (Path("/usr/share/doc"), Path("/etc/debian_version"))
    with Testbed(folder, nodes=2, mode="namespaces", hidden=hidden) as testbed:
        yield testbed, testbed.start(print)


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Starts a testbed in another process; ends that at the end."""
    with ExitStack() as stack:

        def start(folder: Path, nodes: int, mode: str, *prefix: str) -> Held:
            holder = Path(__file__).with_name("holder.py")
            popen = subprocess.Popen(
                [*prefix, sys.executable, str(holder), str(folder), str(nodes), mode],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(popen)
            stack.callback(popen.kill)
            return Held(popen)

        yield start


@pytest.fixture
def ldap() -> Callable[..., Done]:
    """Runs one of OpenLDAP's own clients on the directory: as its admin, or as nobody."""

    def run(site: Site, program: str, *arguments: str, ldif: str = "", admin: bool = True) -> Done:
        directory = site.directory
        who = ("-D", directory.bind_dn, "-y", str(directory.password_file)) if admin else ()
        return subprocess.run(
            [program, "-x", "-H", directory.url, *who, *arguments],
            input=ldif,
            capture_output=True,
            text=True,
            timeout=30,
        )

    return run
