"""What a testbed offers once it is up, and how it says that it cannot be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Mode = Literal["namespaces", "processes"]

Tell = Callable[[str], None]
"""Takes one line of progress, for a person."""


class TestbedError(Exception):
    """The testbed could not be started or changed; the message says what failed and where."""

    __test__ = False  # its name is no pytest class


class InUse(TestbedError):
    """Another process holds a testbed in this folder."""


class MissingComponent(TestbedError):
    """Programs are not installed; `packages` are the Debian packages that have them."""

    def __init__(self, packages: tuple[str, ...]) -> None:
        self.packages = packages
        names = " ".join(packages)
        super().__init__(
            f"missing: {', '.join(packages)}; install with: "
            f"apt-get install --no-install-recommends {names}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One machine of the testbed: a real sshd that is logged in to with the admin's key."""

    name: str
    host: str
    port: int
    host_key: str
    """Public host key, `ssh-ed25519 AAAA...`, for pinning."""
    root: Path | None
    """Its root file system as seen from outside; None in process mode."""
    accounts: bool
    """Whether accounts can be made; False in process mode, where guests are the same user."""
    admin_user: str
    guest_keys: Path | None
    """Process mode: a second authorized_keys file of this node, for guests' keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """A private LDAP server: anyone reads, `bind_dn` writes."""

    url: str
    base_dn: str
    bind_dn: str
    password_file: Path
    """Holds the password of `bind_dn`, without a newline; mode 0600."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    nodes: tuple[Node, ...]
    directory: Directory
    admin_key: Path
    """OpenSSH private key that logs in to each node as its `admin_user`; mode 0600."""
    mode: Mode
