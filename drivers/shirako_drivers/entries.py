"""A slice's place in the directory: the names and attributes of its entries, and what was found.

ou=hosts      device and ipHost, one entry a unit: cn=UNIT
ou=people     posixAccount: the account that the node driver makes, of the same name and uid
ou=groups     posixGroup
ou=netgroups  nisNetgroup: one triple (host,user,) for each name of each unit
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ldap3.utils.dn import escape_rdn

from shirako.handlers import UnitJob, Unsuitable
from shirako_drivers.accounts import (
    DIRECTORY_MARK,
    Account,
    AccountOptions,
    account_of,
    guest_of,
    host_name,
)

FOLDERS = ("people", "groups", "netgroups", "hosts")
"""In the order in which they are made: that of the hosts says that the others are there."""

ATTRIBUTES = (
    *("objectClass", "cn", "description", "ipHostNumber", "nisNetgroupTriple"),
    *("uidNumber", "gidNumber", "homeDirectory", "gecos"),
)
"""What has to be read of an entry to judge it."""

Attributes = Mapping[str, list[str]]


@dataclass(frozen=True, slots=True)
class Slice:
    """Where a slice is in the directory, and whose account is in it."""

    ou: str
    base_dn: str
    account: Account

    @property
    def dn(self) -> str:
        return slice_dn(self.ou, self.base_dn)

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

    @property
    def user_numbers(self) -> Attributes:
        """What a posixAccount says that the nodes say too."""
        uid = str(self.account.uid)
        return {"uidNumber": [uid], "gidNumber": [uid], "homeDirectory": [self.account.home]}

    @property
    def group_numbers(self) -> Attributes:
        return {"gidNumber": [str(self.account.uid)]}


def slice_dn(ou: str, base_dn: str) -> str:
    return f"ou={escape_rdn(ou)},{base_dn}"


def slice_of(job: UnitJob, base_dn: str, options: AccountOptions) -> Slice:
    """The job's slice, and its guest's; raises `Unsuitable` for what can be no entry's name."""
    guest = guest_of(job)
    ou = f"{job.slice}@{guest}" if guest else job.slice
    if not job.slice or re.search("[\0\ud800-\udfff]", ou):
        raise Unsuitable(f"the slice's name {ou!r} can not be written to a directory")
    return Slice(ou, base_dn, account_of(job, options))


def host_attributes(job: UnitJob, address: str) -> Attributes:
    """What the entry of the job's unit says."""
    names = sorted({job.unit, job.outputs.get("host.name") or host_name(job)})
    return {"cn": names, "ipHostNumber": [address], "description": [f"lease {job.lease}"]}


def triples_of(hosts: Iterable[Attributes], user: str) -> list[str]:
    """The triples of a user's netgroup: one for each name of each host."""
    return sorted({f"({name},{user},)" for host in hosts for name in host.get("cn", ())})


@dataclass(slots=True)
class Found:
    """What there is of one slice."""

    dn: str
    ou: str
    marked: bool = False
    """Whether it says that it is ours."""
    foreign: bool = False
    """Whether something in it is not ours."""
    folders: set[str] = field(default_factory=set)
    entries: dict[tuple[str, str], Attributes] = field(default_factory=dict)
    """By folder and name; names in lower case."""
    names: dict[tuple[str, str], str] = field(default_factory=dict)
    """Their DNs."""

    def of(self, folder: str) -> dict[str, Attributes]:
        return {name: entry for (where, name), entry in self.entries.items() if where == folder}

    def dn_of(self, folder: str, name: str) -> str:
        return self.names[folder, name]


class Tree:
    """The slices below a base, as a search found them."""

    def __init__(self, base_dn: str) -> None:
        self._base = _path(base_dn) or ()
        self.slices: dict[str, Found] = {}
        """By name, in lower case: the directory makes no difference."""

    def add(self, dn: str, attributes: Mapping[str, Any]) -> None:
        """Take an entry that was found at or below the base."""
        path = _path(dn)
        depth = len(self._base)
        if path is None or path[:depth] != self._base:
            self._spoil(dn)
            return
        below = path[depth:]
        if not below or below[0][0] != "ou":
            return
        place = self._place(below[0][1], dn)
        entry = {name: [str(value) for value in attributes.get(name, ())] for name in ATTRIBUTES}
        classes = {name.lower() for name in entry["objectClass"]}
        match below:
            case (_,):
                place.dn = dn
                place.folders.add("")
                place.marked |= DIRECTORY_MARK in entry["description"]
            case (_, ("ou", folder)) if folder in FOLDERS:
                place.folders.add(folder)
            case (_, ("ou", folder), (kind, name)) if _KINDS.get((folder, kind), "?") in classes:
                place.entries[folder, name] = entry
                place.names[folder, name] = dn
                self._judge(place, folder, name, entry)
            case _:
                place.foreign = True

    def _judge(self, place: Found, folder: str, name: str, entry: Attributes) -> None:
        ours = is_ours(folder, name, entry)
        place.foreign |= not ours
        place.marked |= ours and folder == "people"

    def _place(self, key: str, dn: str) -> Found:
        if key not in self.slices:
            self.slices[key] = Found(dn, list(_steps(dn))[-len(self._base) - 1][1])
        return self.slices[key]

    def _spoil(self, dn: str) -> None:
        """An entry with a name that ours never have makes the slices that it may be in foreign."""
        for place in self.slices.values():
            if dn.lower().endswith(place.dn.lower()):
                place.foreign = True


def is_ours(folder: str, name: str, entry: Attributes) -> bool:
    """Whether an entry in a folder of ours is one of ours."""
    if folder == "people":
        return DIRECTORY_MARK in entry["gecos"]
    if folder == "hosts":
        return any(text.startswith("lease ") for text in entry["description"])
    return name.startswith("s-")


_KINDS = {
    ("people", "uid"): "posixaccount",
    ("groups", "cn"): "posixgroup",
    ("netgroups", "cn"): "nisnetgroup",
    ("hosts", "cn"): "iphost",
}
"""Class of the entries of a folder, by folder and by what names them."""


_RDN = re.compile(r"((?:[^\\,+]|\\.)*)([,+]|\Z)", re.DOTALL)


def _path(dn: str) -> tuple[tuple[str, str], ...] | None:
    """Attribute and value of each step from the root, in lower case; None for names of many parts.

    Equal for all ways to write one name: servers and people escape differently, and ldap3's own
    parser refuses some that servers send.
    """
    steps = [(attribute, value.lower()) for attribute, value in _steps(dn)]
    return None if any(attribute == "+" for attribute, _ in steps) else tuple(reversed(steps))


def _steps(dn: str) -> Iterator[tuple[str, str]]:
    """Attribute and value of each step up to the root; the attribute is `+` for one of several."""
    for found in _RDN.finditer(dn):
        attribute, _, value = found[1].partition("=")
        if found[1] or found[2]:
            yield "+" if found[2] == "+" else attribute.strip().lower(), _plain(value)


def _plain(value: str) -> str:
    """A value without its escapes (RFC 4514): two hexadecimal digits, or one character."""

    def bare(found: re.Match[bytes]) -> bytes:
        return bytes.fromhex(found[1].decode()) if len(found[1]) == 2 else found[1]

    text = re.sub(r"(?<!\\) +\Z", "", value.lstrip(" ")).encode("utf-8", "replace")
    return re.sub(rb"\\([0-9A-Fa-f]{2}|.)", bare, text, flags=re.DOTALL).decode(errors="replace")
