"""Logging in to a unit with the system's ssh, held to the host key that the lease states.

Host, user and key come from a site: they are checked before they get near a command line, and
the host key is pinned in a file that lasts as long as the session.
"""

from __future__ import annotations

import re
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from shirako.api.models import Lease, Unit

_HOST = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:_-]{0,254}\Z")
_USER = re.compile(r"[A-Za-z_][A-Za-z0-9._-]{0,63}\Z")
_HOST_KEY = re.compile(r"[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,3}(?: [ -~]*)?\Z")
_ALIAS = "shirako-unit"


def log_in(lease: Lease, name: str | None, identity: str | None, command: tuple[str, ...]) -> int:
    """Run ssh to a unit of the lease; returns its exit status. Raises ClickException."""
    unit = _choose(lease, name)
    with tempfile.TemporaryDirectory(prefix="shirako-") as folder:
        known_hosts = Path(folder) / "known_hosts"
        known_hosts.write_text(f"{_ALIAS} {unit.host_key}\n", "utf-8")
        arguments = ssh_arguments(unit, known_hosts, identity, command)
        # Ctrl-C is for what runs on the unit; ssh passes it on, and we stay to clear up
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            return subprocess.run(arguments, check=False).returncode
        except FileNotFoundError:
            raise click.ClickException("there is no ssh on this machine") from None
        finally:
            signal.signal(signal.SIGINT, before)


def _choose(lease: Lease, name: str | None) -> Unit:
    names = ", ".join(unit.name for unit in lease.held)
    if not lease.held:
        raise click.ClickException(f"lease {lease.id} is {lease.state}: it holds no units")
    if name is None and len(lease.held) > 1:
        raise click.UsageError(f"which unit? --unit one of: {names}")
    for unit in lease.held:
        if name in (None, unit.name):
            return unit
    raise click.UsageError(f"there is no unit {name!r}; the lease holds {names}")


def ssh_arguments(
    unit: Unit, known_hosts: Path, identity: str | None, command: tuple[str, ...]
) -> list[str]:
    """The command line. Raises ClickException for a unit that can not be logged in to."""
    host, user, host_key = unit.host or "", unit.user or "", unit.host_key or ""
    for what, value, form in (
        ("host", host, _HOST),
        ("user", user, _USER),
        ("host_key", host_key, _HOST_KEY),
    ):
        if not form.match(value):
            raise click.ClickException(
                f"{unit.name} can not be logged in to: its {what} is {value[:60]!r}"
            )
    options = {
        "UserKnownHostsFile": str(known_hosts),
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "HostKeyAlias": _ALIAS,
        "CheckHostIP": "no",
        "UpdateHostKeys": "no",
    }
    if identity:
        options["IdentitiesOnly"] = "yes"
    arguments = ["ssh", *(f"-o{name}={value}" for name, value in options.items())]
    arguments += ["-i", identity] if identity else []
    return [*arguments, "-p", str(unit.port or 22), "-l", user, "--", host, *command]
