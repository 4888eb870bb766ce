"""Nodes as sets of namespaces: each has its own files, network, processes, host name and IPC."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shirako.testbed.children import Child, Children
from shirako.testbed.components import ENVIRONMENT, program
from shirako.testbed.image import Image
from shirako.testbed.network import Network, plug
from shirako.testbed.remains import Mount, Process, Remains, kill, running
from shirako.testbed.site import Directory, Node, Tell, TestbedError
from shirako.testbed.sshd import answers, await_banner, configuration, key_pair

_SCRIPT = Path(__file__).with_name("node.sh")
_NEW = ("--mount", "--net", "--pid", "--uts", "--ipc", "--propagation", "private")


@dataclass(frozen=True, slots=True)
class _Running:
    node: Node
    first: Process
    """The node's first process, which holds its namespaces."""


class NamespaceNodes:
    """The nodes of one testbed, on a bridge of their own."""

    def __init__(
        self,
        folder: Path,
        names: tuple[str, ...],
        network: Network,
        children: Children,
        remains: Remains,
        *,
        hidden: Iterable[Path],
        nss: Directory | None,
    ) -> None:
        """`hidden`: paths of the machine that nodes must not see; `nss`: their directory, if any.

        `nss.url` is as nodes reach it.
        """
        self._folder = folder
        self._layers = folder / "layers"
        self._addresses = {
            name: network.address(number) for number, name in enumerate(names, start=1)
        }
        self._network = network
        self._children = children
        self._remains = remains
        self._hidden = tuple(hidden)
        self._nss = nss
        self._running: dict[str, _Running] = {}

    def start(self, admin_key: str, tell: Tell) -> tuple[Node, ...]:
        """Start all nodes, side by side; `admin_key` is the public key that logs in as root."""
        self._mount()
        keys = self._make_layers(admin_key)
        booting = {name: self._boot(name) for name in self._addresses}
        firsts = {name: Process.of(int(child.hear())) for name, child in booting.items()}
        self._remains.add(*firsts.values())
        plug(self._network, [first.pid for first in firsts.values()], self._remains)
        for child in booting.values():
            child.say("plugged")
        for name, child in booting.items():
            child.hear()
            child.close_pipes()
            node = self._node(name, keys[name], firsts[name])
            await_banner(node.host, node.port, child.check)
            self._running[name] = _Running(node, firsts[name])
            tell(f"{name}: root@{node.host}")
        return tuple(up.node for up in self._running.values())

    def kill(self, name: str) -> None:
        """Kill all that runs on a node, its sshd first of all. Its files stay."""
        up = self._running[name]
        doomed = [process for process in _members(up.first) if process != up.first]
        # One signal to all at once: nothing can fork away from it.
        self._inside(up, program("kill"), "-KILL", "--", "-1")
        kill(doomed)

    def revive(self, name: str) -> None:
        """Start a killed node's daemons again."""
        up = self._running[name]
        if not answers(up.node.host, up.node.port):
            self._inside(up, "/etc/node/services")
            await_banner(up.node.host, up.node.port, lambda: None)

    def _mount(self) -> None:
        self._layers.mkdir(exist_ok=True)
        self._remains.add(Mount(str(self._layers)))
        _run(program("mount"), "-t", "tmpfs", "-o", "mode=0700", "tmpfs", str(self._layers))

    def _make_layers(self, admin_key: str) -> dict[str, str]:
        """Make the image and each node's own part; returns the nodes' public host keys."""
        image = Image(self._layers)
        image.make_common(
            hidden=(self._folder, *self._hidden),
            sshd_config=configuration(
                {
                    "AddressFamily": "inet",
                    "HostKey": "/etc/ssh/ssh_host_ed25519_key",
                    "PidFile": "/run/sshd.pid",
                },
                environment={},
            ),
            admin_key=admin_key,
        )
        if self._nss is not None:
            image.use_directory(self._nss.url, self._nss.base_dn)
        hosts = self._hosts()
        keys = {}
        for name in self._addresses:
            path = self._folder / f"{name}.host_key"
            keys[name] = key_pair(path)
            image.make_node(name, host_key=path.read_bytes(), hosts=hosts)
        return keys

    def _hosts(self) -> str:
        lines = [f"{address} {name}\n" for name, address in self._addresses.items()]
        return "".join(("127.0.0.1 localhost\n", *lines))

    def _boot(self, name: str) -> Child:
        address = f"{self._addresses[name]}/{self._network.subnet.prefixlen}"
        namespaces = (program("unshare"), "--fork", "--kill-child", *_NEW)
        script = ("/bin/sh", str(_SCRIPT), str(self._layers), name, address)
        log = self._folder / f"{name}.log"
        return self._children.start(name, [*namespaces, *script], log, talk=True)

    def _node(self, name: str, host_key: str, first: Process) -> Node:
        return Node(
            name=name,
            host=str(self._addresses[name]),
            port=22,
            host_key=host_key,
            root=Path(f"/proc/{first.pid}/root"),
            accounts=True,
            admin_user="root",
            guest_keys=None,
        )

    def _inside(self, up: _Running, *command: str) -> None:
        _run(program("nsenter"), "--target", str(up.first.pid), "--all", *command)


def can_unshare() -> bool:
    """Whether this machine lets us make namespaces and mount in them (containers often do not)."""
    probe = (program("unshare"), "--fork", *_NEW, program("mount"), "-t", "tmpfs", "tmpfs", "/mnt")
    return subprocess.run(probe, capture_output=True).returncode == 0


def _members(first: Process) -> list[Process]:
    """The processes that are in the same process namespace."""
    namespace = Path(f"/proc/{first.pid}/ns/pid").readlink()
    found = []
    for process in running():
        # Processes end while we look, and some are closed even to root: none of those is ours.
        with suppress(OSError):
            if Path(f"/proc/{process.pid}/ns/pid").readlink() == namespace:
                found.append(process)
    return found


def _run(*command: str) -> None:
    # A daemon started here must not hold our output, and says what is wrong before it goes away.
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, umask=0o022)
    if done.returncode:
        raise TestbedError(f"{command[0]} failed: {done.stderr.strip()}")
