"""Nodes without root: one sshd process each, on loopback, of the user who starts the testbed.

They share files, accounts and processes with the machine: nothing separates guests from it.
"""

from __future__ import annotations

import os
import pwd
from itertools import islice
from pathlib import Path

from shirako.testbed.children import Child, Children
from shirako.testbed.components import program
from shirako.testbed.ports import free_ports
from shirako.testbed.remains import LOGIN_MARK, Logins, Process, Remains
from shirako.testbed.site import Node, Tell
from shirako.testbed.sshd import await_banner, configuration, key_pair, quoted, write_secret

_HOST = "127.0.0.1"


class ProcessNodes:
    """The nodes of one testbed."""

    def __init__(
        self, folder: Path, names: tuple[str, ...], children: Children, remains: Remains
    ) -> None:
        self._folder = folder
        self._names = names
        self._children = children
        self._remains = remains
        self._logins = Logins(str(folder), Process.of(os.getpid()).started)
        self._nodes: dict[str, Node] = {}
        self._sshds: dict[str, Child] = {}

    def start(self, admin_key: str, tell: Tell) -> tuple[Node, ...]:
        """Start all nodes, side by side; `admin_key` is the public key that logs in."""
        self._remains.add(self._logins)
        if os.geteuid() == 0:
            # Root's sshd insists on it; it stays, since every other sshd of the machine uses it.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        ports = islice(free_ports((_HOST,), seed=f"{self._folder} nodes"), len(self._names))
        for name, port in zip(self._names, ports, strict=True):
            self._nodes[name] = self._prepare(name, port, admin_key)
            self._serve(name)
        for name, node in self._nodes.items():
            await_banner(node.host, node.port, self._sshds[name].check)
            tell(f"{name}: {node.admin_user}@{node.host} port {node.port}")
        return tuple(self._nodes.values())

    def kill(self, name: str) -> None:
        """Kill a node's sshd and all logins to it. Its files stay."""
        self._sshds[name].kill()
        self._logins.end(self._folder / name)

    def revive(self, name: str) -> None:
        """Start a killed node's sshd again, on the port that it had."""
        if self._sshds[name].ended():
            self._serve(name)
            node = self._nodes[name]
            await_banner(node.host, node.port, self._sshds[name].check)

    def _prepare(self, name: str, port: int, admin_key: str) -> Node:
        own = self._folder / name
        own.mkdir(exist_ok=True)
        host_key = key_pair(own / "host_key")
        write_secret(own / "authorized_keys", f"{admin_key}\n".encode())
        write_secret(own / "guest_keys", b"")
        settings = {
            "Port": str(port),
            "ListenAddress": _HOST,
            "HostKey": quoted(f"{own}/host_key"),
            "PidFile": "none",
            "AuthorizedKeysFile": " ".join(
                _key_file(own / name) for name in ("authorized_keys", "guest_keys")
            ),
            # Folders above may be writable for others, as /tmp is.
            "StrictModes": "no",
        }
        text = configuration(settings, environment={LOGIN_MARK: str(own)})
        write_secret(own / "sshd_config", text.encode())
        return Node(
            name=name,
            host=_HOST,
            port=port,
            host_key=host_key,
            root=None,
            accounts=False,
            admin_user=pwd.getpwuid(os.geteuid()).pw_name,
            guest_keys=own / "guest_keys",
        )

    def _serve(self, name: str) -> None:
        own = self._folder / name
        self._sshds[name] = self._children.start(
            f"sshd of {name}",
            [program("sshd"), "-D", "-e", "-f", f"{own}/sshd_config"],
            own / "log",
        )


def _key_file(path: Path) -> str:
    return quoted(str(path).replace("%", "%%"))  # sshd expands %u and the like there
