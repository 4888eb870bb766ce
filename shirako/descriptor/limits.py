"""`<limits/>`: what clients may use, where that differs from what is usual."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lxml import etree

from shirako.descriptor.document import Document
from shirako.descriptor.grammar import children
from shirako.descriptor.model import Fault
from shirako.descriptor.values import read_count, read_idle, read_size, read_timeout
from shirako.transport.limits import Limits, affordable_connections


def check_limits(document: Document) -> Iterator[Fault]:
    """There is one such element at most."""
    found = children(document.root, "limits")
    for twin in found[1:]:
        message = f"<limits> is already there, at line {document.lines[found[0]]}"
        yield document.fault(twin, message, "keep one of them")


def build_limits(root: etree._Element, text: Callable[[etree._Element, str], str]) -> Limits:
    """The limits; `text` gives an attribute's value, or its default in the schema."""
    found = children(root, "limits")
    if not found:
        return Limits()
    (one,) = found
    connections = one.get("connections")
    return Limits(
        connections=affordable_connections() if connections is None else read_count(connections),
        connections_an_address=read_count(text(one, "connections-an-address")),
        header_seconds=float(read_timeout(text(one, "header"))),
        body_seconds=float(read_timeout(text(one, "body"))),
        send_seconds=float(read_timeout(text(one, "send"))),
        idle_seconds=float(read_idle(text(one, "idle"))),
        requests_a_second=float(text(one, "requests-a-second")),
        burst=read_count(text(one, "burst")),
        reading_bytes=read_size(text(one, "reading")),
        streams=read_count(text(one, "streams")),
        streams_a_token=read_count(text(one, "streams-a-token")),
        leases_a_guest=int(text(one, "leases-a-guest")),
    )
