"""Driver `directory`: writes where a slice's units are to LDAP, for NSS clients (RFC 2307).

One subtree a slice, `ou=SLICE,BASE`, or `ou=SLICE@GUEST,BASE` when the authority says in property
`guest` whose the slice is: two guests may use the same name.

    ou=hosts      device and ipHost, one entry a unit: cn=UNIT
    ou=people     posixAccount: the account that the node driver makes, of the same name and uid
    ou=groups     posixGroup
    ou=netgroups  nisNetgroup: one triple (host,user,) for each name of each unit

The first unit of a slice makes the subtree and the last one removes it, so that nobody counts
leases. What goes wrong here blames no unit: every failure is `Unavailable`.

Writers of one process take turns by slice. Two authorities that share one base must not share a
slice, which the guest's thumbprint in its name makes sure of only if each has a base of its own.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import ssl
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import ldap3
from ldap3.core import results
from ldap3.core.exceptions import LDAPException
from ldap3.utils.dn import escape_rdn
from pydantic import Field

from shirako import handlers
from shirako.handlers import DescriptorPath, Log, Unavailable, UnitJob
from shirako_drivers.accounts import Account, AccountOptions, account_of, guest_of, host_name
from shirako_drivers.threads import Call, Threads

T = TypeVar("T")

_LOCKS = 64
"""Slices share this many locks: a fixed number, however many slices there were."""


@dataclass(frozen=True, slots=True)
class _Slice:
    """Where a slice is in the directory, and whose account is in it."""

    ou: str
    base_dn: str
    account: Account

    @property
    def dn(self) -> str:
        return f"ou={escape_rdn(self.ou)},{self.base_dn}"

    def folder(self, name: str) -> str:
        return f"ou={name},{self.dn}"

    def host(self, unit: str) -> str:
        return f"cn={escape_rdn(unit)},{self.folder('hosts')}"

    @property
    def user(self) -> str:
        return f"uid={self.account.name},{self.folder('people')}"

    @property
    def group(self) -> str:
        return f"cn={self.account.name},{self.folder('groups')}"

    @property
    def netgroup(self) -> str:
        return f"cn={self.account.name},{self.folder('netgroups')}"


class DirectoryOptions(AccountOptions):
    """Attributes of `<driver name="directory">`."""

    url: str = Field(pattern=r"^ldap(s|i)?://")
    base_dn: str = Field(min_length=1)
    bind_dn: str = Field(min_length=1)
    password_file: DescriptorPath
    start_tls: bool = False
    ca_file: DescriptorPath | None = None
    """Authority that signed the server's certificate; without it, the system's."""
    connections: int = Field(default=8, ge=1, le=64)
    connect_timeout: float = Field(default=5.0, gt=0)
    operation_timeout: int = Field(default=10, ge=1)
    """Whole seconds: ldap3 takes no others."""
    shell: str = Field(default="/bin/bash", pattern=r"^/[A-Za-z0-9/._-]+$")


class DirectoryDriver:
    """Authority side."""

    Options: ClassVar[type[handlers.Options]] = DirectoryOptions

    def __init__(self, options: DirectoryOptions) -> None:
        self._options = options
        self._threads = Threads(options.connections, "ldap")
        self._locks = tuple(threading.Lock() for _ in range(_LOCKS))

    async def setup(self, job: UnitJob, log: Log) -> Mapping[str, str]:
        def work(call: Call) -> Mapping[str, str]:
            entry = self._slice(job)
            address = _address(job)
            with self._turn(entry), self._directory(call) as directory:
                if not directory.put_host(entry, job, address):
                    directory.put_slice(entry, self._options.shell)
                    if not directory.put_host(entry, job, address):
                        raise Unavailable(f"the directory has no entry {entry.base_dn}")
                directory.update_netgroup(entry)
            call.log(f"the directory names {job.unit} at {entry.host(job.unit)}")
            return {"directory.dn": entry.dn, "directory.netgroup": entry.account.name}

        return await self._threads.run(work, log)

    async def teardown(self, job: UnitJob, log: Log) -> tuple[str, ...]:
        def work(call: Call) -> tuple[str, ...]:
            entry = self._slice(job)
            with self._turn(entry), self._directory(call) as directory:
                directory.remove(entry.host(job.unit))
                if directory.remove(entry.folder("hosts")):
                    directory.remove_slice(entry)
                    call.log(f"the directory has no more units of {entry.ou}")
                else:
                    directory.update_netgroup(entry)
                directory.verify_gone(entry.host(job.unit))
            call.log(f"the directory does not name {job.unit} any more")
            return ("directory_gone",)

        return await self._threads.run(work, log)

    async def probe(self, job: UnitJob, log: Log) -> None:
        def work(call: Call) -> None:
            with self._directory(call) as directory:
                directory.verify_there(self._options.base_dn)

        await self._threads.run(work, log)

    async def close(self) -> None:
        await self._threads.close()

    def _slice(self, job: UnitJob) -> _Slice:
        guest = guest_of(job)
        name = f"{job.slice}@{guest}" if guest else job.slice
        return _Slice(name, self._options.base_dn, account_of(job, self._options))

    def _turn(self, entry: _Slice) -> threading.Lock:
        # Held by the thread, not by the handler: a cancelled handler's thread may still write.
        return self._locks[zlib.crc32(entry.ou.encode()) % _LOCKS]

    def _server(self) -> ldap3.Server:
        """New each time: one that failed remembers its address as bad for a while."""
        ca_file = self._options.ca_file
        return ldap3.Server(
            self._options.url,
            get_info=ldap3.NONE,
            connect_timeout=self._options.connect_timeout,
            tls=ldap3.Tls(
                validate=ssl.CERT_REQUIRED,
                ca_certs_file=None if ca_file is None else str(ca_file),
            ),
        )

    @contextlib.contextmanager
    def _directory(self, call: Call) -> Iterator[_Directory]:
        """A bound connection, new for each handler, so that none is ever stale.

        Raises `Unavailable` for all that goes wrong in the block.
        """
        try:
            connection = ldap3.Connection(
                self._server(),
                self._options.bind_dn,
                self._options.password_file.read_text("utf-8").strip(),
                client_strategy=ldap3.SAFE_SYNC,
                receive_timeout=self._options.operation_timeout,
                auto_referrals=False,
            )
            try:
                connection.open()
                call.guard(connection.socket)
                directory = _Directory(connection)
                if self._options.start_tls:
                    connection.start_tls()
                    call.guard(connection.socket)
                directory.ask("bind", connection.bind)
                yield directory
            finally:
                _close(connection)
        except (LDAPException, OSError) as error:
            raise Unavailable(f"the directory {self._options.url}: {error}") from error


class _Directory:
    """What the driver does to entries, each in a way that may be repeated."""

    def __init__(self, connection: ldap3.Connection) -> None:
        self._connection = connection

    def ask(
        self,
        what: str,
        operation: Callable[..., Any],
        *arguments: Any,
        accept: tuple[int, ...] = (),
    ) -> tuple[int, list[dict[str, Any]]]:
        """Result code and entries; raises `Unavailable` unless it is success or in `accept`."""
        done, result, response, _ = operation(*arguments)
        code = result["result"]
        if not done and code not in (results.RESULT_SUCCESS, *accept):
            raise Unavailable(
                f"the directory refuses to {what}: {result['description']} {result['message']}"
            )
        return code, response or []

    def put_slice(self, entry: _Slice, shell: str) -> None:
        """Make all but the hosts; their folder comes last, and says that the rest is there."""
        account = entry.account
        self._add(entry.dn, "organizationalUnit", {})
        for folder in ("people", "groups", "netgroups"):
            self._add(entry.folder(folder), "organizationalUnit", {})
        self._add(
            entry.user,
            ["account", "posixAccount", "shadowAccount"],
            {
                "cn": account.name,
                "uidNumber": account.uid,
                "gidNumber": account.uid,
                "homeDirectory": account.home,
                "loginShell": shell,
                "gecos": "Shirako slice",
            },
        )
        self._add(entry.group, "posixGroup", {"gidNumber": account.uid})
        self._add(entry.netgroup, "nisNetgroup", {})
        self._add(entry.folder("hosts"), "organizationalUnit", {})

    def put_host(self, entry: _Slice, job: UnitJob, address: str) -> bool:
        """Whether the unit's entry is there now; False when its folder is not."""
        dn = entry.host(job.unit)
        names = sorted({job.unit, job.outputs.get("host.name") or host_name(job)})
        attributes = {"cn": names, "ipHostNumber": [address], "description": [f"lease {job.lease}"]}
        code = self._add(dn, ["device", "ipHost"], attributes)
        if code == results.RESULT_ENTRY_ALREADY_EXISTS:
            changes = {name: [(ldap3.MODIFY_REPLACE, new)] for name, new in attributes.items()}
            self.ask(f"change {dn}", self._connection.modify, dn, changes)
        return code != results.RESULT_NO_SUCH_OBJECT

    def update_netgroup(self, entry: _Slice) -> None:
        """Make the triples those of the hosts that are there."""
        _, hosts = self.ask(
            f"list the hosts of {entry.ou}",
            lambda: self._connection.search(
                entry.folder("hosts"), "(objectClass=ipHost)", ldap3.LEVEL, attributes=["cn"]
            ),
        )
        names = {name for host in hosts for name in host.get("attributes", {}).get("cn", ())}
        triples = sorted(f"({name},{entry.account.name},)" for name in names)
        # The attribute has no equality rule: single values can be neither added nor removed.
        changes = {"nisNetgroupTriple": [(ldap3.MODIFY_REPLACE, triples)]}
        self.ask("change the netgroup", self._connection.modify, entry.netgroup, changes)

    def remove_slice(self, entry: _Slice) -> None:
        """Remove what `put_slice` made, except the hosts' folder, which has to be gone already."""
        for dn in (entry.netgroup, entry.group, entry.user):
            self.remove(dn)
        for folder in ("netgroups", "groups", "people"):
            self.remove(entry.folder(folder))
        self.remove(entry.dn)

    def remove(self, dn: str) -> bool:
        """Whether the entry is not there now; False when others are below it."""
        accept = (results.RESULT_NO_SUCH_OBJECT, results.RESULT_NOT_ALLOWED_ON_NON_LEAF)
        code, _ = self.ask(f"remove {dn}", self._connection.delete, dn, accept=accept)
        return code != results.RESULT_NOT_ALLOWED_ON_NON_LEAF

    def verify_gone(self, dn: str) -> None:
        if self._exists(dn):
            raise Unavailable(f"the directory still names {dn}")

    def verify_there(self, dn: str) -> None:
        if not self._exists(dn):
            raise Unavailable(f"the directory has no entry {dn}")

    def _exists(self, dn: str) -> bool:
        code, _ = self.ask(
            f"read {dn}",
            lambda: self._connection.search(
                dn, "(objectClass=*)", ldap3.BASE, attributes=[ldap3.NO_ATTRIBUTES]
            ),
            accept=(results.RESULT_NO_SUCH_OBJECT,),
        )
        return code == results.RESULT_SUCCESS

    def _add(self, dn: str, classes: str | list[str], attributes: Mapping[str, Any]) -> int:
        """The result code: success, or that the entry is there already, or its parent is not."""
        accept = (results.RESULT_ENTRY_ALREADY_EXISTS, results.RESULT_NO_SUCH_OBJECT)
        code, _ = self.ask(
            f"add {dn}", self._connection.add, dn, classes, attributes, accept=accept
        )
        return code


def _close(connection: ldap3.Connection) -> None:
    # What was the matter was raised before; a broken connection cannot even say goodbye.
    with contextlib.suppress(LDAPException, OSError):
        connection.unbind()
    # A connection whose opening failed half-way counts as closed, and keeps its socket.
    if connection.socket is not None:
        connection.socket.close()


def _address(job: UnitJob) -> str:
    """The unit's IP address, which an ipHost must have; raises `Unavailable`."""
    host = job.node.get("host", "")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return str(socket.getaddrinfo(host, None)[0][4][0])
    except OSError as error:
        raise Unavailable(f"the address of {host!r} is not known: {error}") from error
