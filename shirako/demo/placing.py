"""Fills a descriptor in with what a testbed has: addresses, host keys, the directory.

The descriptor says what the site is (pools, shares, policies); where its nodes are is known only
once they run. Elements and options that are not about places stay as they were written.
"""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from urllib.parse import urlsplit

from lxml import etree

from shirako.testbed import Node, Site
from shirako.testbed.ports import free_ports, is_free

NAMESPACE = "{urn:shirako:actors:1}"


def place(descriptor: Path, site: Site, folder: Path, *, guest_key: Path, keep_ports: bool) -> Path:
    """Write `folder/actors.xml`: `descriptor` with the places of `site`; returns its path.

    Every `<units>` becomes as many `<unit>` elements as it counts, at most as the site has nodes.
    Actors get ports that are free, their own ones if they are to keep them and nobody else listens
    there. Raises OSError or `lxml.etree.XMLSyntaxError`.
    """
    parser = etree.XMLParser(resolve_entities=False, no_network=True, remove_blank_text=True)
    tree = etree.parse(descriptor, parser)
    nodes = list(site.nodes)
    for pool in tree.iter(f"{NAMESPACE}pool"):
        _place_drivers(pool, site)
        for units in list(pool.iter(f"{NAMESPACE}units")):
            _place_units(units, nodes)
    for driver in tree.iter(f"{NAMESPACE}guest-driver"):
        if driver.get("name") == "ssh":
            driver.set("key", str(guest_key))
            _beside(driver, descriptor, "join", "leave")
    for delegation in tree.iter(f"{NAMESPACE}delegation"):
        delegation.set("units", str(min(int(delegation.get("units", "1")), len(site.nodes))))
    _place_actors(tree, str(folder), keep_ports=keep_ports)
    placed = folder / "actors.xml"
    tree.write(str(placed), encoding="UTF-8", xml_declaration=True, pretty_print=True)
    return placed


def _place_drivers(pool: etree._Element, site: Site) -> None:
    for driver in pool.iter(f"{NAMESPACE}driver"):
        if driver.get("name") == "ssh":
            driver.set("admin-key", str(site.admin_key))
        if driver.get("name") == "directory":
            directory = site.directory
            driver.set("url", directory.url)
            driver.set("base-dn", directory.base_dn)
            driver.set("bind-dn", directory.bind_dn)
            driver.set("password-file", str(directory.password_file))


def _place_units(units: etree._Element, nodes: list[Node]) -> None:
    pool = units.getparent()
    if pool is None:
        return
    count = min(int(units.get("count", "0")), len(nodes))
    for node in nodes[:count]:
        unit = etree.SubElement(pool, f"{NAMESPACE}unit", name=node.name, host=node.host)
        unit.set("port", str(node.port))
        unit.set("host-key", node.host_key)
        unit.set("admin-user", node.admin_user)
        if not node.accounts:
            unit.set("accounts", "false")
            unit.set("guest-keys", str(node.guest_keys))
    del nodes[:count]
    pool.remove(units)


def _beside(driver: etree._Element, descriptor: Path, *options: str) -> None:
    """Scripts that the descriptor names are found from its own folder, not from the copy's."""
    for option in options:
        name = driver.get(option)
        if name is not None:
            driver.set(option, str((descriptor.parent / name).absolute()))


def _place_actors(tree: etree._ElementTree, seed: str, *, keep_ports: bool) -> None:
    taken: set[int] = set()
    for actor in tree.getroot():
        url = actor.get("url")
        if url is None or actor.tag == f"{NAMESPACE}peer":
            continue
        address = urlsplit(url)
        host = address.hostname or "127.0.0.1"
        own = (address.port,) if keep_ports and address.port else ()
        ports = chain(own, free_ports((host,), seed=seed))
        port = next(port for port in ports if port not in taken and is_free(host, port))
        taken.add(port)
        actor.set("url", f"{address.scheme}://{host}:{port}")
