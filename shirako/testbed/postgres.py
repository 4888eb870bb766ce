"""A private PostgreSQL server, for tests and benchmarks: on loopback and on a Unix socket.

The server refuses to run as root, so for root it runs as the user that its Debian package makes,
with its data in a folder of that user's.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from shirako.testbed.children import Child, Children
from shirako.testbed.components import ENVIRONMENT, program
from shirako.testbed.ports import free_ports
from shirako.testbed.remains import Remains
from shirako.testbed.site import MissingComponent, TestbedError

USER = "shirako"
DATABASE = "shirako"
START_SECONDS = 30.0
_PACKAGE = "postgresql"
_ACCOUNT = "postgres"
_SUPERUSER = "postgres"
_PROGRAMS = Path("/usr/lib/postgresql")

# Whoever reaches the socket is the user who runs the server, or root. Loopback is everybody's.
_ACCESS = """\
local all all trust
host all all 127.0.0.1/32 scram-sha-256
"""


class Postgres:
    """A server with the database `shirako`, owned by the user `shirako`, who is no superuser.

    `settings` are the server's, as in postgresql.conf; durability is left as it is by default. In
    a `with` block: started at its beginning, at its end stopped and removed with all its data.
    """

    def __init__(
        self, settings: Mapping[str, str] | None = None, *, folder: Path | None = None
    ) -> None:
        """`folder`: where the data is put, and left; by default a new one that is removed."""
        self._own = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="shirako-postgres-"))
        self._settings = dict(settings or {})
        self._remains = Remains(self.folder / "remains")
        self._children = Children(self._remains)
        self._child: Child | None = None
        self._data = self.folder / "data"
        self.port = next(free_ports(("127.0.0.1",), seed=str(self.folder)))
        self.password = secrets.token_urlsafe(12)
        self.url = f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/{DATABASE}"
        """Over loopback, with the password."""
        self.socket_url = f"postgresql://{USER}@:{self.port}/{DATABASE}?host={self.folder}"
        """Over the Unix socket, without one."""

    def __enter__(self) -> Postgres:
        try:
            self._make()
            self.start()
            self.run(f"CREATE ROLE {USER} LOGIN PASSWORD '{self.password}'")
            self.run(f"CREATE DATABASE {DATABASE} OWNER {USER}")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    @property
    def pid(self) -> int:
        """Of the server's first process, while it runs."""
        if self._child is None:
            raise TestbedError("the server does not run")
        return self._child.process.pid

    def start(self) -> None:
        """Start it on the data and the port that it had; returns when it answers.

        Raises `TestbedError` when it will not.
        """
        command = [_program("postgres"), "-D", str(self._data), "-p", str(self.port)]
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            **self._settings,
        }
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        log = self.folder / "log"
        # as another user a process no longer ends with its parent, unless it says so again
        command = [*_as_account(), *command]
        self._child = self._children.start("postgres", command, log)
        self._await_ready(self._child)

    def stop(self) -> None:
        """End it in order, and all connections with it."""
        self._signal(signal.SIGINT)

    def crash(self) -> None:
        """End it as a failure of power would: without writing what is not written yet."""
        self._signal(signal.SIGQUIT)

    def run(self, statement: str, database: str = _SUPERUSER) -> str:
        """What a statement answers that is run as the superuser; raises `TestbedError`."""
        done = subprocess.run(
            [
                *(_program("psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"),
                *("-h", str(self.folder), "-p", str(self.port), "-U", _SUPERUSER),
                *("-d", database, "-c", statement),
            ],
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
        )
        if done.returncode:
            raise TestbedError(f"psql failed: {done.stderr.strip()}")
        return done.stdout.strip()

    def _make(self) -> None:
        account = _as_account()
        if account:
            found = pwd.getpwnam(_ACCOUNT)
            os.chown(self.folder, found.pw_uid, found.pw_gid)
        self.folder.chmod(0o700)
        options = ["--locale=C.UTF-8", "--encoding=UTF8", "--auth=trust", "--no-sync"]
        done = subprocess.run(
            [*account, _program("initdb"), "-D", str(self._data), "-U", _SUPERUSER, *options],
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
            cwd="/",
        )
        if done.returncode:
            raise TestbedError(f"initdb failed: {done.stderr.strip()}")
        (self._data / "pg_hba.conf").write_text(_ACCESS)

    def _await_ready(self, child: Child) -> None:
        deadline = time.monotonic() + START_SECONDS
        path = str(self.folder / f".s.PGSQL.{self.port}")
        while time.monotonic() < deadline:
            child.check()
            if self._answers(path):
                return
            time.sleep(0.03)
        raise TestbedError(f"postgres does not answer on port {self.port}")

    def _answers(self, path: str) -> bool:
        """Whether it takes connections: while it recovers it says so, and hangs up."""
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(2)
            try:
                probe.connect(path)
            except OSError:
                return False
        try:
            self.run("SELECT")
        except TestbedError:
            return False
        return True

    def _signal(self, number: signal.Signals) -> None:
        if self._child is not None:
            if not self._child.ended():
                os.kill(self._child.process.pid, number)
            self._child.bury()
            self._child = None

    def _end(self) -> None:
        self._signal(signal.SIGQUIT)
        self._remains.clear()
        self._children.bury()
        if self._own:
            shutil.rmtree(self.folder)


def _as_account() -> list[str]:
    """Words before a command that run it as an account that the server accepts."""
    if os.geteuid() != 0:
        return []
    try:
        found = pwd.getpwnam(_ACCOUNT)
    except KeyError:
        raise MissingComponent((_PACKAGE,)) from None
    who = (f"--reuid={found.pw_uid}", f"--regid={found.pw_gid}", "--clear-groups")
    return [program("setpriv"), *who, "--pdeathsig", "KILL"]


def _program(name: str) -> str:
    """Debian keeps one folder of programs for each version; the newest is taken."""
    versions = sorted(
        (path for path in _PROGRAMS.glob(f"*/bin/{name}")), key=lambda path: int(path.parts[-3])
    )
    found = str(versions[-1]) if versions else shutil.which(name, path=ENVIRONMENT["PATH"])
    if found is None:
        raise MissingComponent((_PACKAGE,))
    return found
