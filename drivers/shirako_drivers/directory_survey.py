"""What is in the directory against what the jobs say; pure, for it reads nothing itself.

Several pools, and several sites, may share a base. An entry is judged to be left over only where it
says that it is ours: a host by its mark, its unit's name and that unit's address; a slice by its
mark, and only when it has no host and nothing in it is anybody else's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

from shirako.handlers import Difference, UnitJob
from shirako_drivers.entries import (
    FOLDERS,
    Attributes,
    Found,
    Slice,
    Tree,
    host_attributes,
    triples_of,
)

Addresses = Mapping[str, str]
"""The address of each unit that has one, by the unit's name."""


def differences(
    tree: Tree, held: Sequence[tuple[UnitJob, Slice]], addresses: Addresses
) -> Iterator[Difference]:
    """`held`: the jobs with a lease. `addresses` are of all units, also of idle ones."""
    by_slice: dict[str, list[tuple[UnitJob, Slice]]] = defaultdict(list)
    for job, entry in held:
        by_slice[entry.ou.lower()].append((job, entry))
    homes = {job.unit.lower(): entry.ou.lower() for job, entry in held}
    units = {unit.lower(): unit for unit in addresses}
    stale: dict[str, set[str]] = {
        key: {
            name
            for name in found.of("hosts")
            if name in units
            and homes.get(name) != key
            and is_left_over(found, name, addresses[units[name]])
        }
        for key, found in tree.slices.items()
    }
    for key, members in by_slice.items():
        found = tree.slices.get(key) or Found(members[0][1].dn, members[0][1].ou)
        yield from _of_slice(found, members, addresses, stale.get(key, set()))
    for key, found in tree.slices.items():
        for name in sorted(stale[key]):
            yield _difference(units[name], found.dn_of("hosts", name), "left over")
        if key not in by_slice and is_abandoned(found):
            yield _difference("", found.dn, "left over")


def is_left_over(found: Found, host: str, address: str) -> bool:
    """Whether the entry of a unit with this address, which it should not have, is ours."""
    entry = found.of("hosts").get(host, {})
    marked = any(text.startswith("lease ") for text in entry.get("description", ()))
    return marked and address in entry.get("ipHostNumber", ())


def is_abandoned(found: Found) -> bool:
    """Whether a slice is ours, and only a frame without hosts."""
    return found.marked and not found.foreign and not found.of("hosts")


def _of_slice(
    found: Found,
    members: Sequence[tuple[UnitJob, Slice]],
    addresses: Addresses,
    stale: set[str],
) -> Iterator[Difference]:
    """Differences of a slice that lives. What is no unit's own is told of the first of them."""
    members = sorted(members, key=lambda member: member[0].unit)
    speaker, first = members[0][0].unit, members[0][1]
    expected: dict[str, Attributes] = {
        name: entry for name, entry in found.of("hosts").items() if name not in stale
    }
    for job, entry in members:
        address = addresses.get(job.unit)
        there = found.of("hosts").get(job.unit.lower())
        # Without an address of its own, it keeps the one that is written.
        wanted = host_attributes(job, address or "")
        if address is None:
            wanted = {name: value for name, value in wanted.items() if name != "ipHostNumber"}
        expected[job.unit.lower()] = wanted
        yield from _compared(job.unit, entry.host(job.unit), there, wanted)
    if "" not in found.folders:
        yield _difference(speaker, first.dn, "missing")
        return
    for folder in FOLDERS:
        # That of the hosts is missing together with them, and is made again with them.
        if folder not in found.folders and folder != "hosts":
            yield _difference(speaker, first.folder(folder), "missing")
    for entry in {entry.account: entry for _, entry in members}.values():
        yield from _of_account(found, entry, speaker, expected)


def _of_account(
    found: Found, entry: Slice, speaker: str, hosts: Mapping[str, Attributes]
) -> Iterator[Difference]:
    name = entry.account.name
    triples = {"nisNetgroupTriple": triples_of(hosts.values(), name)}
    for folder, dn, wanted in (
        ("people", entry.user, entry.user_numbers),
        ("groups", entry.group, entry.group_numbers),
        ("netgroups", entry.netgroup, triples),
    ):
        if folder in found.folders:
            yield from _compared(speaker, dn, found.of(folder).get(name), wanted)


def _compared(
    unit: str, dn: str, there: Attributes | None, wanted: Attributes
) -> Iterator[Difference]:
    if there is None:
        yield _difference(unit, dn, "missing")
        return
    for attribute, values in wanted.items():
        if sorted(there.get(attribute, ())) != sorted(values):
            is_, should = (", ".join(sorted(text)) for text in (there.get(attribute, ()), values))
            what = f"{dn}: {attribute} is {is_ or 'nothing'}, not {should or 'nothing'}"
            yield _difference(unit, what, "changed")


def _difference(
    unit: str, what: str, fault: Literal["left over", "missing", "changed"]
) -> Difference:
    return Difference(unit=unit, where="directory", what=what, fault=fault)
