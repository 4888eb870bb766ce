"""The private directory: one slapd, fresh at each start of the testbed."""

from __future__ import annotations

import secrets
import shutil
import socket
import subprocess
import time
from importlib.resources import files
from pathlib import Path

from shirako.testbed.children import Child, Children
from shirako.testbed.components import ENVIRONMENT, program
from shirako.testbed.ports import free_ports
from shirako.testbed.site import Directory, TestbedError
from shirako.testbed.sshd import write_secret

BASE_DN = "dc=shirako,dc=test"
LEDGERS_DN = "ou=ledgers"
"""Where mirrors of ledgers may be, apart from all else. Nobody but the administrator reads them."""
START_SECONDS = 20.0
STOP_SECONDS = 10.0
MOST_FILES = 4096

# sizelimit: NSS maps are read whole, and the default ends them at 500 entries.
# dbnosync: the data need not outlive the machine, only the process.
_CONFIGURATION = """\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/nis.schema
include /etc/ldap/schema/inetorgperson.schema
include "{schema}"
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile "{folder}/pid"
argsfile "{folder}/args"
sizelimit unlimited
access to attrs=userPassword by anonymous auth by * none
access to dn.subtree="{ledgers_dn}" by * none
access to * by * read

database mdb
maxsize 268435456
suffix "{base_dn}"
rootdn "{bind_dn}"
rootpw {password}
directory "{folder}/data"
dbnosync
index objectClass,uid,cn,uidNumber,gidNumber,memberUid,ipHostNumber eq

database mdb
maxsize 1073741824
suffix "{ledgers_dn}"
rootdn "{bind_dn}"
directory "{folder}/ledgers"
dbnosync
"""

_TOP_ENTRY = f"""\
dn: {BASE_DN}
objectClass: dcObject
objectClass: organization
dc: shirako
o: Shirako testbed
"""
_LEDGERS_ENTRY = f"""\
dn: {LEDGERS_DN}
objectClass: organizationalUnit
ou: ledgers
"""


class Slapd:
    """A slapd that listens on loopback and, if given, on one more address of this machine."""

    def __init__(self, folder: Path, children: Children, address: str | None = None) -> None:
        self._folder = folder
        self._children = children
        self._addresses = ("127.0.0.1", *([address] if address else []))
        self._child: Child | None = None
        folder.mkdir(exist_ok=True)
        self.port = next(free_ports(self._addresses, seed=str(folder)))
        self.directory = Directory(
            url=f"ldap://127.0.0.1:{self.port}",
            base_dn=BASE_DN,
            bind_dn=f"cn=admin,{BASE_DN}",
            password_file=folder / "password",
        )

    def start_empty(self) -> None:
        """Start with the base entry alone; returns before it answers: see `await_ready`."""
        self._write_password()
        write_secret(self._folder / "slapd.conf", self._configuration().encode())
        for name in ("data", "ledgers"):
            shutil.rmtree(self._folder / name, ignore_errors=True)
            (self._folder / name).mkdir(mode=0o700)
        self._load(_TOP_ENTRY, BASE_DN)
        self._load(_LEDGERS_ENTRY, LEDGERS_DN)
        self.start()

    def start(self) -> None:
        """Start on the data and the port that it had; does nothing when it runs."""
        if self._child is not None and not self._child.ended():
            return
        urls = " ".join(f"ldap://{address}:{self.port}" for address in self._addresses)
        # slapd takes memory for as many connections as it may have files open: in a container,
        # that may be a thousand million.
        limited = [program("prlimit"), f"--nofile={MOST_FILES}:"]
        # -d 0 keeps it in the foreground and quiet.
        command = [program("slapd"), "-d", "0", "-f", f"{self._folder}/slapd.conf", "-h", urls]
        self._child = self._children.start("slapd", [*limited, *command], self._folder / "log")

    def stop(self) -> None:
        """End it, keeping the data; does nothing when it does not run."""
        if self._child is not None:
            self._child.terminate(STOP_SECONDS)
            self._child = None

    def await_ready(self) -> None:
        """Return when it takes connections. Raises `TestbedError` when it will not."""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=2).close()
            except OSError:
                time.sleep(0.003)
            else:
                return
            if self._child is not None:
                self._child.check()
        raise TestbedError(f"slapd does not answer on port {self.port}")

    def _write_password(self) -> None:
        if not self.directory.password_file.exists():
            write_secret(self.directory.password_file, secrets.token_urlsafe(24).encode())

    def _configuration(self) -> str:
        return _CONFIGURATION.format(
            folder=self._folder,
            schema=files("shirako.ledger") / "mirror" / "shirako.schema",
            base_dn=BASE_DN,
            ledgers_dn=LEDGERS_DN,
            bind_dn=self.directory.bind_dn,
            password=self.directory.password_file.read_text(),
        )

    def _load(self, ldif: str, suffix: str) -> None:
        done = subprocess.run(
            [program("slapadd"), "-q", "-b", suffix, "-f", f"{self._folder}/slapd.conf"],
            input=ldif,
            capture_output=True,
            text=True,
            env=ENVIRONMENT,
        )
        if done.returncode:
            raise TestbedError(f"slapadd failed: {done.stderr.strip()}")
