"""The programs of the machine that a testbed is made of, and the Debian packages they are in."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

from shirako.testbed.site import MissingComponent

_PACKAGES = {
    "ip": "iproute2",
    "kill": "procps",
    "mount": "mount",
    "nslcd": "nslcd",
    "nsenter": "util-linux",
    "prlimit": "util-linux",
    "setpriv": "util-linux",
    "slapadd": "slapd",
    "slapd": "slapd",
    "sshd": "openssh-server",
    "umount": "mount",
    "unshare": "util-linux",
}
_PROCESSES = ("prlimit", "setpriv", "slapadd", "slapd", "sshd")
_NAMESPACES = (*_PROCESSES, "ip", "kill", "mount", "nsenter", "umount", "unshare")

# Not the caller's PATH: an unprivileged user's often lacks the folders that daemons are in, and a
# node has the system's programs alone.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
ENVIRONMENT = {"PATH": _PATH, "LANG": "C.UTF-8"}
"""All that a daemon gets of the environment: nothing of the caller's leaks into nodes."""


@cache
def program(name: str) -> str:
    """Absolute path of a program (sshd insists on one).

    Raises `MissingComponent`.
    """
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise MissingComponent((_PACKAGES[name],))
    return found


def require(*, namespaces: bool, nss: bool) -> None:
    """Check that all programs are there, before anything is started.

    Raises `MissingComponent` with every package that is missing, not the first alone.
    """
    wanted = _NAMESPACES if namespaces else _PROCESSES
    if nss:
        wanted = (*wanted, "nslcd")
    missing = {_PACKAGES[name] for name in wanted if not shutil.which(name, path=_PATH)}
    if nss and not _has_nss_module():
        missing.add("libnss-ldapd")
    if missing:
        raise MissingComponent(tuple(sorted(missing)))


def _has_nss_module() -> bool:
    name = "libnss_ldap.so.2"
    return any(any(Path("/usr").glob(f"{folder}/{name}")) for folder in ("lib*", "lib*/*"))
