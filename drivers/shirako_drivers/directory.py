"""Driver `directory`: writes where a slice's units are to LDAP, for NSS clients (RFC 2307).

One subtree a slice, `ou=SLICE,BASE`, or `ou=SLICE@GUEST,BASE` when the authority says in property
`guest` whose the slice is: two guests may use the same name. What is in it: see `entries`.

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
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import ldap3
from ldap3.core import results
from ldap3.core.exceptions import LDAPException
from pydantic import Field

from shirako import handlers
from shirako.handlers import (
    DescriptorPath,
    Difference,
    HandlerFailed,
    Log,
    SecretPath,
    Unavailable,
    UnitJob,
    Unsuitable,
)
from shirako_drivers.accounts import DIRECTORY_MARK, AccountOptions
from shirako_drivers.directory_survey import differences, is_abandoned, is_left_over
from shirako_drivers.entries import (
    ATTRIBUTES,
    FOLDERS,
    Attributes,
    Slice,
    Tree,
    host_attributes,
    is_ours,
    slice_dn,
    slice_of,
    triples_of,
)
from shirako_drivers.threads import Call, Threads

_PAGED_RESULTS = "1.2.840.113556.1.4.319"

_LOCKS = tuple(threading.Lock() for _ in range(64))
"""Slices share these: a fixed number, however many slices there were. Pools share them too, since
a slice may have units of several."""

_PAGE = 500
"""Entries that a search asks for at once; many servers give no more."""


class DirectoryOptions(AccountOptions):
    """Attributes of `<driver name="directory">`."""

    url: str = Field(pattern=r"^ldap(s|i)?://")
    base_dn: str = Field(min_length=1)
    bind_dn: str = Field(min_length=1)
    password_file: SecretPath
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

    async def setup(self, job: UnitJob, log: Log) -> Mapping[str, str]:
        def work(call: Call) -> Mapping[str, str]:
            entry = slice_of(job, self._options.base_dn, self._options)
            attributes = host_attributes(job, _address(job))
            with _turn(entry.dn), self._directory(call) as directory:
                if not directory.put_host(entry.host(job.unit), attributes):
                    self._put_slice(directory, entry)
                    if not directory.put_host(entry.host(job.unit), attributes):
                        raise Unavailable(f"the directory has no entry {entry.base_dn}")
                if entry.account.name not in directory.update_netgroups(entry.dn):
                    # It is not the slice's first lease, and its account has another name.
                    self._put_slice(directory, entry)
                    directory.update_netgroups(entry.dn)
            call.log(f"the directory names {job.unit} at {entry.host(job.unit)}")
            return {"directory.dn": entry.dn, "directory.netgroup": entry.account.name}

        return await self._threads.run(work, log)

    async def teardown(self, job: UnitJob, log: Log) -> tuple[str, ...]:
        def work(call: Call) -> tuple[str, ...]:
            try:
                entry = slice_of(job, self._options.base_dn, self._options)
            except Unsuitable:
                # It was refused before anything was written.
                return ("directory_gone",)
            with _turn(entry.dn), self._directory(call) as directory:
                if directory.remove_host(entry.host(job.unit), entry.dn):
                    call.log(f"the directory has no more units of {entry.ou}")
                directory.verify_gone(entry.host(job.unit))
            call.log(f"the directory does not name {job.unit} any more")
            return ("directory_gone",)

        return await self._threads.run(work, log)

    async def probe(self, job: UnitJob, log: Log) -> None:
        def work(call: Call) -> None:
            with self._directory(call) as directory:
                directory.verify_there(self._options.base_dn)

        await self._threads.run(work, log)

    async def survey(self, jobs: Sequence[UnitJob], log: Log) -> Sequence[Difference]:
        def work(call: Call) -> Sequence[Difference]:
            held = [
                (job, slice_of(job, self._options.base_dn, self._options))
                for job in jobs
                if job.lease
            ]
            addresses = {}
            for job in jobs:
                try:
                    addresses[job.unit] = _address(job)
                except (HandlerFailed, Unavailable) as error:
                    call.log(f"addresses of {job.unit} are not compared: {error}")
            with self._directory(call) as directory:
                tree = directory.tree(self._options.base_dn)
            return list(differences(tree, held, addresses))

        return await self._threads.run(work, log)

    async def mend(self, differences: Sequence[Difference], job: UnitJob | None, log: Log) -> None:
        """Write what the job's unit needs, and take off what is left over.

        Each entry is looked at again before it goes: it may have come right meanwhile, or it may
        be that of a set-up that has just begun.
        """
        left = [one.what for one in differences if one.fault == "left over"]

        def work(call: Call) -> None:
            with self._directory(call) as directory:
                for dn in left:
                    with _turn(self._slice_around(dn)):
                        self._remove_left_over(directory, dn, job)
                if job is None or not job.lease:
                    return
                entry = slice_of(job, self._options.base_dn, self._options)
                with _turn(entry.dn):
                    self._put_slice(directory, entry)
                    directory.put_host(entry.host(job.unit), host_attributes(job, _address(job)))
                    directory.update_netgroups(entry.dn)

        await self._threads.run(work, log)

    async def close(self) -> None:
        await self._threads.close()

    def _put_slice(self, directory: _Directory, entry: Slice) -> None:
        """Make all but the hosts; their folder comes last, and says that the rest is there."""
        account = entry.account
        directory.put(entry.dn, ["organizationalUnit"], {"description": [DIRECTORY_MARK]})
        for folder in FOLDERS[:-1]:
            directory.put(entry.folder(folder), ["organizationalUnit"], {})
        about = {
            "cn": [account.name],
            "loginShell": [self._options.shell],
            "gecos": [DIRECTORY_MARK],
        }
        classes = ["account", "posixAccount", "shadowAccount"]
        directory.put(entry.user, classes, {**about, **entry.user_numbers})
        directory.put(entry.group, ["posixGroup"], entry.group_numbers)
        directory.put(entry.netgroup, ["nisNetgroup"], {})
        directory.put(entry.folder(FOLDERS[-1]), ["organizationalUnit"], {})

    def _slice_around(self, dn: str) -> str:
        """The DN of the slice that an entry is in; "" when it is in none."""
        tree = Tree(self._options.base_dn)
        tree.add(dn, {})
        return next((slice_dn(one.ou, self._options.base_dn) for one in tree.slices.values()), "")

    def _remove_left_over(self, directory: _Directory, dn: str, job: UnitJob | None) -> None:
        around = self._slice_around(dn)
        tree = directory.tree(around) if around else None
        for found in tree.slices.values() if tree else ():
            if job is None:
                if is_abandoned(found):
                    directory.remove_slice(found.dn)
                return
            own = slice_of(job, self._options.base_dn, self._options) if job.lease else None
            unit = job.unit.lower()
            at_home = own is not None and own.ou.lower() == found.ou.lower()
            if not at_home and is_left_over(found, unit, _address(job)):
                directory.remove_host(found.dn_of("hosts", unit), found.dn)

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
                directory = _Directory(connection, self._options.base_dn)
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

    def __init__(self, connection: ldap3.Connection, base_dn: str) -> None:
        self._connection = connection
        self._base_dn = base_dn

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
            raise Unavailable(_refusal(what, result))
        return code, response or []

    def put(self, dn: str, classes: list[str], attributes: Attributes) -> bool:
        """Whether the entry is there now, and says this; False when what it would be in is not."""
        accept = (results.RESULT_ENTRY_ALREADY_EXISTS, results.RESULT_NO_SUCH_OBJECT)
        code, _ = self.ask(
            f"add {dn}", self._connection.add, dn, classes, attributes, accept=accept
        )
        if code == results.RESULT_ENTRY_ALREADY_EXISTS and attributes:
            changes = {name: [(ldap3.MODIFY_REPLACE, new)] for name, new in attributes.items()}
            self.ask(f"change {dn}", self._connection.modify, dn, changes)
        return code != results.RESULT_NO_SUCH_OBJECT

    def put_host(self, dn: str, attributes: Attributes) -> bool:
        """As `put`, for a unit."""
        return self.put(dn, ["device", "ipHost"], attributes)

    def tree(self, dn: str) -> Tree:
        """All that is at and below an entry that is in, or is, the base."""
        tree = Tree(self._base_dn)
        for entry in self._search(dn):
            tree.add(entry["dn"], entry["attributes"])
        return tree

    def _search(self, dn: str) -> Iterator[dict[str, Any]]:
        cookie: Any = None
        while True:
            done, result, response, _ = self._connection.search(
                dn,
                "(objectClass=*)",
                ldap3.SUBTREE,
                attributes=ATTRIBUTES,
                paged_size=_PAGE,
                paged_cookie=cookie,
            )
            if result["result"] == results.RESULT_NO_SUCH_OBJECT:
                return
            if result["result"] != results.RESULT_SUCCESS:
                raise Unavailable(_refusal(f"list {dn}", result))
            yield from (one for one in response or () if one["type"] == "searchResEntry")
            control = result.get("controls", {}).get(_PAGED_RESULTS, {})
            cookie = control.get("value", {}).get("cookie")
            if not done or not cookie:
                return

    def update_netgroups(self, dn: str) -> set[str]:
        """Make the triples of a slice's netgroups those of the hosts that are there.

        Returns the netgroups' names.
        """
        names: set[str] = set()
        for found in self.tree(dn).slices.values():
            hosts = found.of("hosts").values()
            for user, entry in found.of("netgroups").items():
                triples = triples_of(hosts, user)
                names.add(user)
                if sorted(entry["nisNetgroupTriple"]) != triples:
                    # The attribute has no equality rule: single values can be neither added nor
                    # removed.
                    changes = {"nisNetgroupTriple": [(ldap3.MODIFY_REPLACE, triples)]}
                    netgroup = found.dn_of("netgroups", user)
                    self.ask("change a netgroup", self._connection.modify, netgroup, changes)
        return names

    def remove_host(self, host: str, dn: str) -> bool:
        """Remove a host, and its slice with the last one; whether that has gone too."""
        self.remove(host)
        if self.remove(f"ou=hosts,{dn}"):
            self.remove_slice(dn)
            return True
        self.update_netgroups(dn)
        return False

    def remove_slice(self, dn: str) -> None:
        """Remove what was made of a slice without hosts, and nothing that others put there."""
        if not self.remove(f"ou=hosts,{dn}"):
            return
        for found in self.tree(dn).slices.values():
            for folder in ("netgroups", "groups", "people"):
                for name, entry in found.of(folder).items():
                    if is_ours(folder, name, entry):
                        self.remove(found.dn_of(folder, name))
        for folder in ("netgroups", "groups", "people"):
            self.remove(f"ou={folder},{dn}")
        self.remove(dn)

    def remove(self, dn: str) -> bool:
        """Whether the entry is not there now; False when others are below it."""
        accept = (results.RESULT_NO_SUCH_OBJECT, results.RESULT_NOT_ALLOWED_ON_NON_LEAF)
        code, _ = self.ask(f"remove {dn}", self._connection.delete, dn, accept=accept)
        return code != results.RESULT_NOT_ALLOWED_ON_NON_LEAF

    def verify_gone(self, dn: str) -> None:
        if self.has(dn):
            raise Unavailable(f"the directory still names {dn}")

    def verify_there(self, dn: str) -> None:
        if not self.has(dn):
            raise Unavailable(f"the directory has no entry {dn}")

    def has(self, dn: str) -> bool:
        code, _ = self.ask(
            f"read {dn}",
            lambda: self._connection.search(
                dn, "(objectClass=*)", ldap3.BASE, attributes=[ldap3.NO_ATTRIBUTES]
            ),
            accept=(results.RESULT_NO_SUCH_OBJECT,),
        )
        return code == results.RESULT_SUCCESS


def _turn(dn: str) -> threading.Lock:
    """The lock of a slice: held by the thread, not by the handler, for a cancelled handler's thread
    may still write."""
    return _LOCKS[zlib.crc32(dn.lower().encode()) % len(_LOCKS)]


def _refusal(what: str, result: Mapping[str, Any]) -> str:
    return f"the directory refuses to {what}: {result['description']} {result['message']}"


def _close(connection: ldap3.Connection) -> None:
    # What was the matter was raised before; a broken connection cannot even say goodbye.
    with contextlib.suppress(LDAPException, OSError):
        connection.unbind()
    # A connection whose opening failed half-way counts as closed, and keeps its socket.
    if connection.socket is not None:
        connection.socket.close()


def _address(job: UnitJob) -> str:
    """The unit's IP address, which an ipHost must have.

    Raises `Unavailable`, or `HandlerFailed` when what the unit has for a host can be none.
    """
    host = job.node.get("host", "")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return str(socket.getaddrinfo(host, None)[0][4][0])
    except OSError as error:
        raise Unavailable(f"the address of {host!r} is not known: {error}") from error
    except ValueError as error:
        raise HandlerFailed(f"{job.unit} has the host {host!r}, which can be none") from error
