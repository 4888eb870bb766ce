"""Who is there, who talks with whom, and whether what one asks of another can be had."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from lxml import etree

from shirako.descriptor.document import Document
from shirako.descriptor.grammar import children, describe, local_name
from shirako.descriptor.inventory import twins
from shirako.descriptor.model import Fault
from shirako.descriptor.structure import suggest
from shirako.descriptor.values import attempt, read_address

_ACTORS = ("authority", "broker", "service-manager")
# Units go from site to broker to guest; edges are written that way round.
_TALK = frozenset({("authority", "broker"), ("broker", "broker"), ("broker", "service-manager")})


def check_references(document: Document) -> Iterator[Fault]:
    root = document.root
    members = children(root, *_ACTORS, "peer")
    yield from twins(document, members, "name", "this file")
    if not children(root, *_ACTORS):
        yield document.fault(
            root, "no actor runs here", "add an <authority>, a <broker> or a <service-manager>"
        )
    yield from _addresses(document, members)
    web = _Web.of(document)
    yield from web.faults
    for site in children(root, "authority"):
        for delegation in children(site, "delegation"):
            yield from _recipient(document, web, site, delegation)
    for guest in children(root, "service-manager"):
        yield from twins(document, children(guest, "lease"), "name", describe(guest))
        yield from _wishes(document, web, guest)


def _role(member: etree._Element) -> str:
    """Authority, broker or service-manager; empty where the file does not say."""
    kind = local_name(member)
    role = member.get("role", "") if kind == "peer" else kind
    return role if role in _ACTORS else ""


def _addresses(document: Document, members: list[etree._Element]) -> Iterator[Fault]:
    taken: dict[tuple[str, int], etree._Element] = {}
    for member in members:
        address = attempt(read_address, member, "url")
        if address is None:
            continue
        other = taken.setdefault(address.socket, member)
        if other is not member:
            yield document.fault(
                member,
                f"{describe(member)} has the host and port of {describe(other)}, at line "
                f"{document.lines[other]}",
                "give one of the two another port",
            )


@dataclass(frozen=True, slots=True)
class _Web:
    """The sound edges, and the faults of the others."""

    members: dict[str, etree._Element]
    brokers: tuple[str, ...]
    above: dict[str, set[str]]
    """By actor: those nearer the site that it has an edge with."""
    doubtful: frozenset[str]
    """Names in bad edges."""
    faults: tuple[Fault, ...]

    @classmethod
    def of(cls, document: Document) -> _Web:
        members: dict[str, etree._Element] = {}
        for member in children(document.root, *_ACTORS, "peer"):
            name = member.get("name")
            if name is not None:
                members.setdefault(name, member)
        brokers = tuple(name for name, member in members.items() if _role(member) == "broker")
        above: dict[str, set[str]] = {name: set() for name in members}
        pairs: dict[frozenset[str], etree._Element] = {}
        doubtful: set[str] = set()
        faults: list[Fault] = []
        for edge in children(document.root, "edge"):
            source, target = edge.get("from"), edge.get("to")
            if source is None or target is None:
                doubtful |= {name for name in (source, target) if name}
                continue
            found = list(_edge(document, members, pairs, edge, source, target))
            faults += found
            if found:
                doubtful |= {source, target}
                continue
            pairs[frozenset((source, target))] = edge
            above[target].add(source)
        return cls(members, brokers, above, frozenset(doubtful), tuple(faults))

    def is_unsure(self, names: set[str]) -> bool:
        """Whether these may lack an edge only because another is bad, which is no second fault."""
        misspelt = self.doubtful - self.members.keys()
        return bool(misspelt or names & self.doubtful)

    def upstream(self, name: str) -> set[str]:
        """All that `name` can get units from, through any number of brokers."""
        found: set[str] = set()
        todo = deque(self.above.get(name, ()))
        while todo:
            one = todo.popleft()
            if one not in found:
                found.add(one)
                todo.extend(self.above[one])
        return found


def _edge(
    document: Document,
    members: dict[str, etree._Element],
    pairs: dict[frozenset[str], etree._Element],
    edge: etree._Element,
    source: str,
    target: str,
) -> Iterator[Fault]:
    unknown = [name for name in dict.fromkeys((source, target)) if name not in members]
    for name in unknown:
        yield document.fault(
            edge,
            f"{describe(edge)}: there is no actor {name!r}",
            f"add it (as <peer> if it runs elsewhere): {suggest(name, members)}",
        )
    if unknown:
        return
    if source == target:
        yield document.fault(edge, f"{describe(edge)} joins an actor with itself", "remove it")
        return
    ends = members[source], members[target]
    if all(local_name(end) == "peer" for end in ends):
        yield document.fault(
            edge,
            f"{describe(edge)}: both run elsewhere",
            "remove it: their own sites pin their keys",
        )
    roles = _role(ends[0]), _role(ends[1])
    if "" in roles:
        return
    if roles not in _TALK:
        yield document.fault(
            edge, f"{describe(edge)}: {_misfit(*roles)}", _way_round(source, target, *roles)
        )
    twin = pairs.get(frozenset((source, target)))
    if twin is not None:
        yield document.fault(
            edge,
            f"{describe(edge)} is already there, at line {document.lines[twin]}",
            "remove one of the two: an edge holds both ways",
        )


def _misfit(source: str, target: str) -> str:
    if (target, source) in _TALK:
        return f"runs from {source} to {target}, against the way that units go"
    if source == target:
        return f"two actors of role {source} never talk"
    return f"{source} and {target} meet through tickets and need no edge"


def _way_round(source: str, target: str, source_role: str, target_role: str) -> str:
    if (target_role, source_role) in _TALK:
        return f'turn it round: <edge from="{target}" to="{source}"/>'
    return "remove it; edges go authority to broker, broker to broker, broker to service-manager"


def _recipient(
    document: Document, web: _Web, site: etree._Element, delegation: etree._Element
) -> Iterator[Fault]:
    to, name = delegation.get("to"), site.get("name", "")
    if to is None:
        return
    what = describe(delegation)
    member = web.members.get(to)
    if member is None:
        yield document.fault(
            delegation,
            f"{what}: there is no actor {to!r}",
            f"name a broker: {suggest(to, web.brokers)}",
        )
    elif _role(member) not in ("broker", ""):
        yield document.fault(
            delegation,
            f"{what} goes to {describe(member)}, which is no broker",
            f"name a broker: {suggest(to, web.brokers)}",
        )
    elif name and name not in web.above[to] and not web.is_unsure({name, to}):
        yield document.fault(
            delegation,
            f"{what}: no edge joins {name!r} and {to!r}",
            f'add <edge from="{name}" to="{to}"/>',
        )


def _wishes(document: Document, web: _Web, guest: etree._Element) -> Iterator[Fault]:
    """Leases of a guest that no broker it can reach could ever serve."""
    leases, name = children(guest, "lease"), guest.get("name", "")
    reach = web.upstream(name)
    if not leases or web.is_unsure(reach | {name}):
        return
    if not reach:
        yield document.fault(
            guest,
            f"{describe(guest)} asks for leases, but has no edge to a broker",
            f'add <edge from="BROKER" to="{name}"/>',
        )
        return
    if any(local_name(web.members[one]) == "peer" for one in reach):
        return  # what is offered elsewhere is not known here
    offered = {
        delegation.get("type", "")
        for one in reach
        for delegation in children(web.members[one], "delegation")
        if delegation.get("to") in reach
    }
    for lease in leases:
        kind = lease.get("type")
        if kind is not None and kind not in offered:
            yield document.fault(
                lease,
                f"{describe(lease)}: no broker that {name!r} can reach is delegated type {kind!r}",
                f"delegate it, or ask for another type: {suggest(kind, offered)}",
            )
