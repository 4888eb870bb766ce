"""What a ledger that was lost is made of again: the records of its mirror, and a log that cites the
one that was lost."""

from __future__ import annotations

from shirako.ledger import Entry, Link, encode_entries, link_hash
from shirako.ledger.copies import Source
from shirako.ledger.mirror.place import MirrorPlace
from shirako.ledger.mirror.reading import Mirrored

ABOUT = "ledger"
"""What the first entry of the new log is about."""


def source_of(found: Mirrored, place: MirrorPlace) -> Source:
    """For `shirako.ledger.copying.restore`."""
    head = found.head
    lost = f"the log before it ended with entry {head.links}, {head.head}" if head.links else ""
    told = f"from the mirror in {place.url} after commit {head.commits}"
    entry = Entry(
        lease=ABOUT, tick=head.tick, what="Rebuilt", note="; ".join(filter(None, (told, lost)))
    )
    body = encode_entries([entry])
    first = Link(1, body, link_hash("", body))
    total = head.total._replace(links=first.number, head=first.hash)
    bodies = {(kind, key): body for kind, key, body in found.records}
    return Source(
        total, head.tick, found.records, [first], lambda kind, key: bodies.get((kind, key))
    )
