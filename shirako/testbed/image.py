"""The layers that turn the machine's own root file system into that of a node.

A node's root is an overlay: its own writable layer, a layer with its name and host key, a layer
that all nodes share, and below them `/` of the machine, read only. The shared layer hides what is
the machine's alone. At the top only `/usr` and `/etc` (and links into `/usr`) are let through;
whatever else lies there (homes, work trees, data) does not exist in a node. In `/etc`, password
hashes, people's accounts and the machine's SSH keys are replaced.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from shirako.testbed import accounts
from shirako.testbed.components import program
from shirako.testbed.site import TestbedError

_SHOWN = frozenset({"bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc"})
_FOLDERS = {
    **dict.fromkeys(("boot", "dev", "dev/pts", "etc/node", "etc/ssh", "home", "mnt"), 0o755),
    **dict.fromkeys(("opt", "proc", "run", "run/sshd", "srv", "sys", "var", "var/backups"), 0o755),
    **dict.fromkeys(("var/cache", "var/lib", "var/log", "var/mail", "var/spool"), 0o755),
    **dict.fromkeys(("tmp", "var/tmp", "run/lock", "dev/shm"), 0o1777),
    **dict.fromkeys(("root", "root/.ssh"), 0o700),
}
_HIDDEN = (
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/nologin",
    "/etc/passwd-",
    "/etc/shadow-",
    "/etc/shirako",
    "/etc/ssl/private",
    "/etc/sudoers.d",  # rules for people of the machine, whose names a guest may get
)
_LINKS = {
    "dev/fd": "/proc/self/fd",
    "dev/ptmx": "pts/ptmx",
    "dev/stderr": "/proc/self/fd/2",
    "dev/stdin": "/proc/self/fd/0",
    "dev/stdout": "/proc/self/fd/1",
    "var/lock": "/run/lock",
    "var/run": "/run",
}
_DEVICES = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
_LOGIN_RECORDS = ("run/utmp", "var/log/wtmp", "var/log/lastlog")

_MAPS_FROM_FILES = {
    "passwd": "files",
    "group": "files",
    "shadow": "files",
    "gshadow": "files",
    "hosts": "files",
    "networks": "files",
    "protocols": "files",
    "services": "files",
    "netgroup": "files",
}
_MAPS_FROM_DIRECTORY = {
    "passwd": "files ldap",
    "group": "files ldap",
    "hosts": "files ldap",
    "netgroup": "ldap",
}
# The waiting times keep logins of local accounts quick while the directory is down.
_NSLCD = """\
uid nslcd
gid nslcd
uri {url}
base {base_dn}
ssl off
bind_timelimit 2
timelimit 5
reconnect_sleeptime 1
reconnect_retrytime 1
nss_initgroups_ignoreusers ALLLOCAL
"""


class Image:
    """The layers of one testbed, in `folder`: an empty tmpfs that the caller mounted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._common = folder / "common"

    def make_common(self, *, hidden: Iterable[Path], sshd_config: str, admin_key: str) -> None:
        """Make the layer that all nodes share.

        `hidden` are further paths of the machine that must not show; `admin_key` is the public
        key that logs in as root. Raises `TestbedError` when the machine's root is in pieces.
        """
        _check_one_piece()
        self._common.mkdir()
        _like(self._common / "etc", Path("/etc"))
        self._hide_top()
        for name, mode in _FOLDERS.items():
            _fresh_folder(self._common / name, mode)
        for path in (*map(Path, _HIDDEN), *hidden):
            self._hide(path)
        for name, target in _LINKS.items():
            (self._common / name).symlink_to(target)
        for name, (major, minor) in _DEVICES.items():
            _device(self._common / "dev" / name, os.makedev(major, minor))
        for name in _LOGIN_RECORDS:
            self._write(name, "")
        for name, content in accounts.without_people(Path("/etc")).items():
            self._write(f"etc/{name}", content, mode=0o600 if "shadow" in name else 0o644)
        self._write("etc/resolv.conf", "")
        self._write("etc/ssh/sshd_config", sshd_config)
        self._write("root/.ssh/authorized_keys", f"{admin_key}\n", mode=0o600)
        self._write_maps(_MAPS_FROM_FILES)
        self._write_services(_sshd())

    def use_directory(self, url: str, base_dn: str) -> None:
        """Let accounts, groups, netgroups and hosts come from the directory as well."""
        _fresh_folder(self._common / "run/nslcd", 0o755)
        shutil.chown(self._common / "run/nslcd", "nslcd", "nslcd")
        self._write("etc/nslcd.conf", _NSLCD.format(url=url, base_dn=base_dn))
        self._write_maps({**_MAPS_FROM_FILES, **_MAPS_FROM_DIRECTORY})
        self._write_services(program("nslcd"), _sshd())

    def make_node(self, name: str, *, host_key: bytes, hosts: str) -> None:
        """Make the layers of one node; `hosts` is the text of its `/etc/hosts`."""
        own = self._folder / "node" / name
        for layer in ("root", "upper", "work", "node"):
            (self._folder / layer / name).mkdir(parents=True)
        _like(self._folder / "upper" / name, Path("/"))
        _like(own / "etc", Path("/etc"))
        _like(own / "etc/ssh", self._common / "etc/ssh")
        _write(own / "etc/hostname", f"{name}\n", 0o644)
        _write(own / "etc/hosts", hosts, 0o644)
        _write(own / "etc/ssh/ssh_host_ed25519_key", host_key.decode(), 0o600)

    def _hide_top(self) -> None:
        for entry in Path("/").iterdir():
            if entry.name not in _SHOWN and entry.name not in _FOLDERS:
                _whiteout(self._common / entry.name)

    def _hide(self, path: Path) -> None:
        path = path.resolve()
        # Everything elsewhere is out of sight already.
        if len(path.parts) < 3 or path.parts[1] not in _SHOWN or not path.exists():
            return
        cover = self._common / path.relative_to("/")
        for parent in reversed(path.relative_to("/").parents[:-1]):
            _like(self._common / parent, Path("/", parent))
        if path.is_dir():
            _fresh_folder(cover, 0o755)
        else:
            _whiteout(cover)

    def _write_maps(self, maps: Mapping[str, str]) -> None:
        lines = [f"{name}: {sources}\n" for name, sources in maps.items()]
        self._write("etc/nsswitch.conf", "".join(lines))

    def _write_services(self, *commands: str) -> None:
        self._write("etc/node/services", "\n".join(("#!/bin/sh -e", *commands, "")), mode=0o755)

    def _write(self, name: str, content: str, mode: int = 0o644) -> None:
        _write(self._common / name, content, mode)


def _sshd() -> str:
    return f"{program('sshd')} -E /var/log/sshd.log"


def _check_one_piece() -> None:
    # A lower layer does not include what is mounted on it.
    for folder in ("/usr", "/etc"):
        if os.path.ismount(folder):
            raise TestbedError(
                f"{folder} is a mount of its own, so nodes cannot share this machine's files; "
                "mode 'processes' does not need to"
            )


def _fresh_folder(path: Path, mode: int) -> None:
    """A folder that shows nothing of the same folder in the layers below."""
    path.mkdir(exist_ok=True)
    path.chmod(mode)
    os.setxattr(path, "trusted.overlay.opaque", b"y")


def _like(path: Path, model: Path) -> None:
    """A folder that is merged with `model` below; the upper one's owner and mode are seen."""
    path.mkdir(exist_ok=True)
    status = model.stat()
    os.chown(path, status.st_uid, status.st_gid)
    path.chmod(stat.S_IMODE(status.st_mode))


def _whiteout(path: Path) -> None:
    _device(path, os.makedev(0, 0))


def _device(path: Path, device: int) -> None:
    os.mknod(path, stat.S_IFCHR, device)
    path.chmod(0o666)


def _write(path: Path, content: str, mode: int) -> None:
    path.write_text(content)
    path.chmod(mode)
