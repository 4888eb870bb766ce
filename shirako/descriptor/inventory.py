"""What a site has and what it grants of it: pools, units, delegations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from lxml import etree

from shirako.descriptor.document import Document
from shirako.descriptor.grammar import children, describe, local_name
from shirako.descriptor.model import Fault
from shirako.descriptor.structure import suggest
from shirako.descriptor.values import attempt, read_count, read_instant

MAX_UNITS = 200_000
"""Of a whole descriptor: a few bytes of `<units>` must not fill the memory."""

_OPEN_START = datetime.min.replace(tzinfo=UTC)
_OPEN_END = datetime.max.replace(tzinfo=UTC)


def count_units(element: etree._Element) -> int:
    """How many units a `<unit>` or `<units>` stands for; 0 where its count is bad."""
    return 1 if local_name(element) == "unit" else attempt(read_count, element, "count") or 0


def name_units(element: etree._Element) -> list[str]:
    """The names of the units of a `<unit>` or `<units>`."""
    if local_name(element) == "unit":
        return [element.get("name", "")]
    prefix = element.get("prefix", "")
    return [f"{prefix}{number}" for number in range(1, count_units(element) + 1)]


def check_inventory(document: Document) -> Iterator[Fault]:
    authorities = children(document.root, "authority")
    units = [
        one
        for site in authorities
        for pool in children(site, "pool")
        for one in children(pool, "unit", "units")
    ]
    total = 0
    for one in units:
        total += count_units(one)
        if total > MAX_UNITS:
            yield document.fault(
                one,
                f"up to {describe(one)} these are {total} units, more than {MAX_UNITS}",
                "spread the sites over several descriptors",
            )
            break
    for site in authorities:
        if total <= MAX_UNITS:
            yield from _unit_names(document, site)
        for pool in children(site, "pool"):
            yield from _pool(document, pool)
        yield from _terms(document, children(site, "delegation"))
        yield from _grants(document, site)


def twins(
    document: Document, elements: Iterable[etree._Element], attribute: str, where: str
) -> Iterator[Fault]:
    """A fault for each element whose `attribute` another one before it has too."""
    first: dict[str, etree._Element] = {}
    for element in elements:
        value = element.get(attribute)
        if value is None:
            continue
        if value in first:
            yield document.fault(
                element,
                f"{describe(element)} is already in {where}, at line "
                f"{document.lines[first[value]]}",
                f"give one of the two another {attribute}, or remove it",
            )
        first.setdefault(value, element)


def _unit_names(document: Document, site: etree._Element) -> Iterator[Fault]:
    taken: dict[str, etree._Element] = {}
    for pool in children(site, "pool"):
        for element in children(pool, "unit", "units"):
            names = name_units(element)
            clash = next((name for name in names if name in taken), None)
            if clash is not None:
                yield document.fault(
                    element,
                    f"unit {clash!r} of {describe(site)} is already there, at line "
                    f"{document.lines[taken[clash]]}",
                    "units of one authority need names of their own: rename one of the two",
                )
            for name in names:
                taken.setdefault(name, element)


def _pool(document: Document, pool: etree._Element) -> Iterator[Fault]:
    yield from twins(document, children(pool, "property"), "name", describe(pool))
    if not children(pool, "unit", "units"):
        yield document.fault(
            pool, f"{describe(pool)} has no units", 'add <unit name="n1" .../> for each of them'
        )
    if not children(pool, "driver"):
        yield document.fault(
            pool,
            f"{describe(pool)} has no driver: nothing would prepare its units or clean them",
            'add <driver name="ssh" .../>, or <driver name="null"/> if nothing shall be done',
        )


def _terms(document: Document, delegations: list[etree._Element]) -> Iterator[Fault]:
    for delegation in delegations:
        start, end = _term(delegation)
        if end <= start:
            yield document.fault(
                delegation,
                f"{describe(delegation)} ends at {delegation.get('end')}, not after its start "
                f"at {delegation.get('start')}",
                "let end be later than start; the term is from start up to, not including, end",
            )


def _term(delegation: etree._Element) -> tuple[datetime, datetime]:
    return (
        attempt(read_instant, delegation, "start") or _OPEN_START,
        attempt(read_instant, delegation, "end") or _OPEN_END,
    )


def _grants(document: Document, site: etree._Element) -> Iterator[Fault]:
    """Pools and delegations of a site: each type once, each delegation of one, none too large."""
    pools = children(site, "pool")
    yield from twins(document, pools, "type", describe(site))
    yield from twins(document, children(site, "delegation"), "name", describe(site))
    sizes = {pool.get("type", ""): _size(pool) for pool in reversed(pools)}
    by_type: defaultdict[str, list[etree._Element]] = defaultdict(list)
    for delegation in children(site, "delegation"):
        kind = delegation.get("type")
        if kind is None:
            continue
        if kind in sizes:
            by_type[kind].append(delegation)
        else:
            yield document.fault(
                delegation,
                f"{describe(delegation)}: {describe(site)} has no pool of type {kind!r}",
                f"add the pool, or name another type: {suggest(kind, sizes)}",
            )
    for kind, delegations in by_type.items():
        if sizes[kind]:
            yield from _excess(document, kind, sizes[kind], delegations)


def _size(pool: etree._Element) -> int:
    """Units of the pool; 0 where that is not known, which is a fault of its own."""
    counts = [count_units(one) for one in children(pool, "unit", "units")]
    return sum(counts) if all(counts) else 0


def _excess(
    document: Document, kind: str, size: int, delegations: list[etree._Element]
) -> Iterator[Fault]:
    """The first instant at which more than the pool is promised.

    What a broker may sell beyond its units, by the overbooking that it is allowed, is no promise.
    """
    terms = {one: _term(one) for one in delegations}
    sound = [(one, start, end) for one, (start, end) in terms.items() if start < end]
    changes = [(start, 1, _units(one)) for one, start, _end in sound]
    # At one instant what ends goes before what starts: terms are half-open.
    changes += [(end, 0, -_units(one)) for one, _start, end in sound]
    weight = 0
    for moment, _order, change in sorted(changes):
        weight += change
        if weight > size:
            live = [one for one, start, end in sound if start <= moment < end]
            granted = sum(_units(one) for one in live)
            when = "at once" if moment == _OPEN_START else f"from {moment:%Y-%m-%dT%H:%M:%SZ}"
            yield document.fault(
                live[-1],
                f"delegations of type {kind!r} ({_some_names(live)}) grant {granted} units {when}, "
                f"but the pool has {size}",
                "grant fewer, add units, or keep the terms apart; how many times they may be sold "
                "is for the attribute overbooking to say",
            )
            return


def _some_names(delegations: list[etree._Element]) -> str:
    names = [repr(one.get("name")) for one in delegations]
    return " and ".join(names if len(names) <= 5 else [*names[:4], f"{len(names) - 4} more"])


def _units(delegation: etree._Element) -> int:
    return attempt(read_count, delegation, "units") or 0
