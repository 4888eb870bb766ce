"""What every sshd of a testbed has in common: keys, settings, and how to see that it is up."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shirako.testbed.site import TestbedError

START_SECONDS = 20.0

# SHLVL: bash takes a first-level shell whose input is a socket for rsh and reads ~/.bashrc.
# MaxStartups: many logins at once are what a testbed is for.
_SETTINGS = {
    "AllowAgentForwarding": "no",
    "KbdInteractiveAuthentication": "no",
    "MaxSessions": "100",
    "MaxStartups": "200:30:400",
    "PasswordAuthentication": "no",
    "PermitRootLogin": "prohibit-password",
    "PrintLastLog": "no",
    "PrintMotd": "no",
    "Subsystem": "sftp internal-sftp",
    "UseDNS": "no",
    "UsePAM": "no",
    "X11Forwarding": "no",
}


def key_pair(path: Path) -> str:
    """The public key, `ssh-ed25519 AAAA...`, of the private key at `path`; made if not there.

    A key stays the same from one start to the next, so that a descriptor that pins it stays true.
    """
    if path.exists():
        loaded = serialization.load_ssh_private_key(path.read_bytes(), password=None)
        return _openssh(loaded.public_key())
    key = Ed25519PrivateKey.generate()
    write_secret(
        path,
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        ),
    )
    return _openssh(key.public_key())


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that is never readable by others, and never half there."""
    scratch = path.with_name(path.name + ".new")
    scratch.unlink(missing_ok=True)
    scratch.touch(mode=0o600, exist_ok=False)
    scratch.write_bytes(content)
    scratch.replace(path)


def configuration(more: Mapping[str, str], *, environment: Mapping[str, str]) -> str:
    """Text of an sshd_config; `environment` is set in every login."""
    variables = {"SHLVL": "1", **environment}
    words = " ".join(quoted(f"{name}={value}") for name, value in variables.items())
    settings = {**_SETTINGS, **more, "SetEnv": words}
    return "".join(f"{name} {value}\n" for name, value in settings.items())


def quoted(word: str) -> str:
    """A word of an sshd_config that may hold spaces."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def await_banner(host: str, port: int, check: Callable[[], None]) -> None:
    """Return when an sshd answers there.

    `check` is called between attempts and raises when waiting is in vain; raises `TestbedError`
    after `START_SECONDS`.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if answers(host, port):
            return
        check()
        time.sleep(0.005)
    raise TestbedError(f"no sshd answers at {host} port {port}")


def answers(host: str, port: int) -> bool:
    """Whether an sshd says hello there within two seconds."""
    try:
        with socket.create_connection((host, port), timeout=2) as connection:
            return connection.recv(8) == b"SSH-2.0-"
    except OSError:
        return False


def _openssh(key: serialization.ssh.SSHPublicKeyTypes) -> str:
    return key.public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    ).decode()
