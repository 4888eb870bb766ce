"""One SSH login to one node, used in a thread: pinned host key, a time-out on every step."""

from __future__ import annotations

import base64
import contextlib
import errno
import hashlib
import io
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import paramiko
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from pydantic import Field

from shirako.handlers import HandlerFailed, Options
from shirako_drivers.threads import Call

T = TypeVar("T")

_LOG_CHANNEL = "shirako_drivers.paramiko"
# paramiko's thread reports each broken connection with a traceback; the handler's error says it.
logging.getLogger(_LOG_CHANNEL).setLevel(logging.CRITICAL + 1)

MAX_LINE = 2_000
MAX_LINES = 10_000
MAX_BYTES = 1 << 20
MAX_BEFORE_LOGIN = 1 << 18
"""Bytes that a node may send before the login is done."""
MAX_RECEIVED = 1 << 23
"""Bytes that a node may send in one connection. paramiko keeps what nobody has read yet."""


class SshOptions(Options):
    """Limits of the connections to nodes."""

    connections: int = Field(default=16, ge=1, le=256)
    """How many handlers run at once; more wait."""
    connect_timeout: float = Field(default=10.0, gt=0)
    """Seconds for each of: TCP connection, banner and key exchange, authentication."""
    command_timeout: float = Field(default=120.0, gt=0)
    """Seconds for each command on the node, from start to end."""
    attempts: int = Field(default=3, ge=1, le=20)
    """How often a handler connects before the unit is blamed."""
    retry_pause: float = Field(default=0.5, ge=0)
    """Seconds before the second attempt; doubles with each one."""


@dataclass(frozen=True, slots=True)
class Login:
    """Whom to log in as, where, and the key that the node must show."""

    host: str
    port: int
    user: str
    host_key: str
    """`type base64`, as in a known_hosts file."""
    key: paramiko.PKey

    def __str__(self) -> str:
        return f"{self.user}@{self.host}:{self.port}"


class Lost(Exception):
    """The connection could not be made, or broke: another attempt may succeed."""


class LoginRefused(HandlerFailed):
    """The node's sshd answers, and takes none of our keys."""


class Session:
    """An open connection, authenticated at both ends."""

    def __init__(self, client: paramiko.SSHClient, call: Call, timeout: float) -> None:
        self._client = client
        self._call = call
        self._timeout = timeout

    def run(self, command: str, stdin: str, on_line: Callable[[str], None]) -> int:
        """Run a command with this text as its input; returns its exit status.

        `on_line` gets each line that it prints on either output, made printable. Raises `Lost`;
        `HandlerFailed` when the command takes too long or prints MAX_LINES or MAX_BYTES.
        """
        return self._run(command, stdin, on_line, ends_input=True)

    def converse(self, command: str, opening: str, answer: Callable[[str], str | None]) -> None:
        """Run a command whose input stays open: what `answer` returns for a line is sent to it.

        Raises as `run` does.
        """
        self._run(command, opening, answer, ends_input=False)

    def _run(
        self, command: str, stdin: str, on_line: Callable[[str], str | None], *, ends_input: bool
    ) -> int:
        deadline = self._call.now() + self._timeout
        try:
            transport = self._client.get_transport()
            if transport is None:
                raise Lost("the connection is closed")
            channel = transport.open_session(timeout=self._timeout)
            with contextlib.closing(channel):
                channel.set_combine_stderr(True)
                channel.settimeout(self._timeout)
                channel.exec_command(command)
                channel.sendall(stdin.encode())
                if ends_input:
                    channel.shutdown_write()
                for line in _lines(channel, lambda: deadline - self._call.now()):
                    reply = on_line(line)
                    if reply is not None:
                        channel.sendall(reply.encode())
                channel.status_event.wait(max(0.0, deadline - self._call.now()))
                done, status = channel.exit_status_ready(), channel.exit_status
        except TimeoutError as error:
            raise HandlerFailed(f"a command took longer than {self._timeout:g} s") from error
        except (Lost, HandlerFailed):
            raise
        # paramiko passes on whatever the node's bytes made its own thread raise.
        except Exception as error:
            raise Lost(_reason(error)) from error
        if not done or status < 0:
            raise Lost("the command was ended before it was done")
        return status


def with_session(login: Login, options: SshOptions, call: Call, work: Callable[[Session], T]) -> T:
    """Log in and do `work`, which must be idempotent: it is done again when the connection breaks.

    Raises `HandlerFailed` when the host key is wrong, when the login is refused, and when the
    connection cannot be made, or breaks, in each of `options.attempts` attempts.
    """
    for attempt in range(1, options.attempts + 1):
        try:
            with _connected(login, options, call) as client:
                return work(Session(client, call, options.command_timeout))
        except Lost as error:
            call.pause(0)
            if attempt == options.attempts:
                raise HandlerFailed(
                    f"no SSH to {login} in {attempt} attempts, the last: {error}"
                ) from error
            call.log(f"SSH to {login}: {error}; trying again")
            call.pause(options.retry_pause * 2 ** (attempt - 1))
    raise AssertionError("unreachable")


def load_key(path: Path) -> paramiko.PKey:
    """Read a private key; raises OSError, or ValueError naming the file but none of its content."""
    try:
        return paramiko.PKey.from_path(path)
    except (paramiko.SSHException, ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a private key without passphrase") from error


def one_time_key() -> paramiko.PKey:
    """A new key that lives in this process's memory alone."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
    )
    return paramiko.Ed25519Key.from_private_key(io.StringIO(pem.decode()))


def fingerprint(key: str) -> str:
    """How people write the public key `type base64`: its SHA-256."""
    try:
        blob = base64.b64decode(key.split()[1])
    except (ValueError, IndexError):
        return "(not a key)"
    return f"SHA256:{base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip('=')}"


def printable(text: str) -> str:
    """The text without what could move a terminal's cursor."""
    return "".join(c if c.isprintable() else "?" for c in text[:MAX_LINE])


@contextlib.contextmanager
def _connected(login: Login, options: SshOptions, call: Call) -> Iterator[paramiko.SSHClient]:
    timeout = options.connect_timeout
    with contextlib.ExitStack() as stack:
        try:
            sock = stack.enter_context(_connect(login, timeout))
        # What is no host's name, or no port, is not always an OSError.
        except (OSError, ValueError, OverflowError) as error:
            raise Lost(_reason(error)) from error
        call.guard(sock)
        client = stack.enter_context(contextlib.closing(_pinned_client(login)))
        try:
            client.connect(
                login.host,
                login.port,
                username=login.user,
                pkey=login.key,
                sock=sock,
                timeout=timeout,
                banner_timeout=timeout,
                auth_timeout=timeout,
                channel_timeout=timeout,
                allow_agent=False,
                look_for_keys=False,
            )
        except paramiko.BadHostKeyException as error:
            raise HandlerFailed(
                f"{login.host}:{login.port} shows another host key than the one that is pinned"
            ) from error
        except paramiko.AuthenticationException as error:
            if not _is_refusal(client, error):
                raise Lost(_reason(error)) from error
            raise LoginRefused(f"the login {login} is refused: {_reason(error)}") from error
        except Exception as error:
            raise Lost(_reason(error)) from error
        sock.allow(MAX_RECEIVED)
        yield client


def _is_refusal(client: paramiko.SSHClient, error: paramiko.AuthenticationException) -> bool:
    """Whether the node said no; paramiko raises the same when it says nothing, or hangs up."""
    transport = client.get_transport()
    answered = transport is not None and transport.is_active()
    return answered and str(error) != "Authentication timeout."


class _NodeSocket(socket.socket):
    """Takes only so many bytes from a node, and acknowledges them at once: sshd sends short packets
    and, without a terminal, waits for each acknowledgement (Nagle's algorithm), which Linux
    otherwise delays by 40 ms."""

    _left = 0

    def allow(self, size: int) -> None:
        """So many more bytes may come."""
        self._left = size

    def recv(self, size: int, flags: int = 0, /) -> bytes:
        received = super().recv(size, flags)
        self._left -= len(received)
        if self._left < 0:
            raise OSError(errno.EMSGSIZE, "the node sends more than anybody asked for")
        if hasattr(socket, "TCP_QUICKACK"):
            # The kernel forgets this setting, so that it is renewed each time.
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return received


def _connect(login: Login, timeout: float) -> _NodeSocket:
    plain = socket.create_connection((login.host, login.port), timeout=timeout)
    sock = _NodeSocket(fileno=plain.detach())
    sock.settimeout(timeout)
    sock.allow(MAX_BEFORE_LOGIN)
    # The same delay in the other direction.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _pinned_client(login: Login) -> paramiko.SSHClient:
    client = paramiko.SSHClient()
    client.set_log_channel(_LOG_CHANNEL)
    client.set_missing_host_key_policy(paramiko.RejectPolicy())
    name = login.host if login.port == 22 else f"[{login.host}]:{login.port}"
    try:
        entry = paramiko.hostkeys.HostKeyEntry.from_line(f"{name} {login.host_key}")
    # The key's bytes are parsed without any check.
    except Exception:
        entry = None
    if entry is None or entry.key is None:
        raise HandlerFailed(f"the host key pinned for {login.host} is not one: {login.host_key!r}")
    client.get_host_keys().add(name, entry.key.get_name(), entry.key)
    return client


def _lines(channel: paramiko.Channel, left: Callable[[], float]) -> Iterator[str]:
    """Lines until the command closes its output; raises TimeoutError after `left` seconds."""
    pending = b""
    count = size = 0
    while True:
        remaining = left()
        if remaining <= 0:
            raise TimeoutError
        channel.settimeout(remaining)
        chunk = channel.recv(1 << 15)
        *whole, pending = (pending + chunk).split(b"\n")
        if not chunk and pending:
            whole, pending = [pending], b""
        size += len(chunk)
        for line in whole:
            yield printable(line.decode(errors="replace"))
            count += 1
            if count == MAX_LINES:
                break
        if count == MAX_LINES or size > MAX_BYTES:
            raise HandlerFailed(f"a command printed {MAX_LINES} lines or {MAX_BYTES} bytes")
        if not chunk:
            return


def _reason(error: BaseException) -> str:
    return printable(str(error)) or type(error).__name__
