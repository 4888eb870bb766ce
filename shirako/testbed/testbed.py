"""A site in a folder: a private directory and N nodes, which go away together."""

from __future__ import annotations

import fcntl
import os
import pwd
import time
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

from shirako.testbed.children import Children
from shirako.testbed.components import require
from shirako.testbed.namespaces import NamespaceNodes, can_unshare
from shirako.testbed.network import MOST_NODES, make_network
from shirako.testbed.processes import ProcessNodes
from shirako.testbed.remains import Remains
from shirako.testbed.site import InUse, Mode, Node, Site, Tell, TestbedError
from shirako.testbed.slapd import Slapd
from shirako.testbed.sshd import key_pair

LOCK_TRIES = 20
LOCK_PAUSE_SECONDS = 0.05


class _Nodes(Protocol):
    def start(self, admin_key: str, tell: Tell) -> tuple[Node, ...]: ...
    def kill(self, name: str) -> None: ...
    def revive(self, name: str) -> None: ...


@dataclass(frozen=True, slots=True)
class _Parts:
    directory: Slapd
    nodes: _Nodes


class Testbed:
    """Starts and stops a site in `folder`; use it in a `with` statement.

    Everything made is written down in `folder` first, and daemons die with this process. What a
    killed one left (a bridge, a mount) is cleared by the next `start` there, or by `clear`.
    Keys, passwords and logs stay in `folder`; nodes and directory are new at each start.
    """

    __test__ = False  # its name is no pytest class

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int,
        mode: Literal["auto", Mode] = "auto",
        nss: bool = True,
        hidden: Iterable[Path] = (),
    ) -> None:
        """`nss`: let nodes take accounts, groups, netgroups and hosts from the directory.

        `hidden`: paths that nodes must not see, beside those that they never do: `folder`, and
        whatever is not in `/usr` or `/etc`.
        """
        if not 1 <= nodes <= MOST_NODES:
            raise ValueError(f"nodes must be 1 to {MOST_NODES}, not {nodes}")
        self._folder = folder.resolve()
        self._names = tuple(f"node-{number}" for number in range(1, nodes + 1))
        self._mode = mode
        self._nss = nss
        self._hidden = tuple(hidden)
        self._stack = ExitStack()
        self._parts: _Parts | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @classmethod
    def clear(cls, folder: Path) -> int:
        """Clear what a killed testbed left; returns how many things that were.

        Raises `InUse` when it is not killed but runs.
        """
        if not folder.exists():
            return 0
        with ExitStack() as stack:
            _hold(folder.resolve(), stack)
            return _remains(folder.resolve()).clear()

    def start(self, tell: Tell) -> Site:
        """Start everything and return when it can be used.

        Raises `InUse`, `MissingComponent`, or `TestbedError` for what else goes wrong; nothing is
        left running then.
        """
        if self._parts is not None:
            raise InUse(f"the testbed in {self._folder} is already started")
        mode = _settle(self._mode, tell)
        require(namespaces=mode == "namespaces", nss=self._nss and mode == "namespaces")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with ExitStack() as stack:
            _hold(self._folder, stack)
            remains = _remains(self._folder)
            if left := remains.clear():
                tell(f"cleared what a killed testbed left here ({left} entries)")
            children = Children(remains)
            stack.callback(children.bury)
            stack.callback(remains.clear)
            admin_key = key_pair(self._folder / "admin_key")
            parts = self._make_parts(mode, children, remains)
            parts.directory.start_empty()
            nodes = parts.nodes.start(admin_key, tell)
            parts.directory.await_ready()
            directory = parts.directory.directory
            tell(f"directory: {directory.url}, base {directory.base_dn}")
            self._stack = stack.pop_all()
        self._parts = parts
        return Site(
            nodes=nodes, directory=directory, admin_key=self._folder / "admin_key", mode=mode
        )

    def stop(self) -> None:
        """End and remove everything that was made; does nothing when nothing was."""
        self._parts = None
        self._stack.close()

    def kill_node(self, name: str) -> None:
        """Kill a node's sshd and all other processes on it, at once; its files stay."""
        self._running().nodes.kill(self._known(name))

    def start_node(self, name: str) -> None:
        """Start a killed node again; does nothing when it runs."""
        self._running().nodes.revive(self._known(name))

    def stop_directory(self) -> None:
        """End the directory's server; its data stays. Does nothing when it does not run."""
        self._running().directory.stop()

    def start_directory(self) -> None:
        """Start it again, on the same port; does nothing when it runs."""
        self._running().directory.start()
        self._running().directory.await_ready()

    def _make_parts(self, mode: Mode, children: Children, remains: Remains) -> _Parts:
        folder = self._folder / "directory"
        if mode == "processes":
            nodes = ProcessNodes(self._folder, self._names, children, remains)
            return _Parts(Slapd(folder, children), nodes)
        network = make_network(self._folder, remains)
        slapd = Slapd(folder, children, address=str(network.gateway))
        seen_inside = replace(slapd.directory, url=f"ldap://{network.gateway}:{slapd.port}")
        return _Parts(
            slapd,
            NamespaceNodes(
                self._folder,
                self._names,
                network,
                children,
                remains,
                hidden=self._hidden,
                nss=seen_inside if self._nss else None,
            ),
        )

    def _running(self) -> _Parts:
        if self._parts is None:
            raise TestbedError(f"the testbed in {self._folder} is not started")
        return self._parts

    def _known(self, name: str) -> str:
        if name not in self._names:
            raise TestbedError(f"no node {name}; there are {self._names[0]} to {self._names[-1]}")
        return name


def _settle(wanted: Literal["auto", Mode], tell: Tell) -> Mode:
    """The mode to use; raises `TestbedError` when the wanted one is not possible here."""
    if wanted == "processes":
        obstacle = "as asked"
    elif os.geteuid() != 0:
        obstacle = "not root"
    elif not can_unshare():
        obstacle = "this machine does not let root make namespaces; is it a container?"
    else:
        return "namespaces"
    need = "nodes with accounts, files and network of their own need root and namespaces"
    if wanted == "namespaces":
        raise TestbedError(f"{need}: {obstacle}")
    user = pwd.getpwuid(os.geteuid()).pw_name
    tell(f"nodes are sshd processes of user {user} on 127.0.0.1, without accounts ({obstacle})")
    tell(need)
    return "processes"


def _remains(folder: Path) -> Remains:
    return Remains(folder / "remains.json")


def _hold(folder: Path, stack: ExitStack) -> None:
    """Take the folder for this process, until `stack` ends or the process does."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    stack.callback(os.close, handle)
    # A holder that was killed may leave a child between fork and exec, which has the lock too.
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_SECONDS)
        else:
            return
    raise InUse(f"another testbed runs in {folder}")
