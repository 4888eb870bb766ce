"""A ledger in memory: the twin for tests, and for actors that may forget."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from shirako.ledger import Entry, Link, Write, encode_entries, link_hash


class MemoryLedger:
    """Keeps everything in dictionaries; survives an actor, not a process."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, str], bytes] = {}
        self._links: list[Link] = []
        self._stories: dict[str, list[Entry]] = {}

    def load(self) -> Iterator[tuple[str, str, bytes]]:
        for (kind, key), body in list(self._records.items()):
            yield kind, key, body

    def commit(self, writes: Sequence[Write], entries: Sequence[Entry]) -> None:
        for kind, key, body in writes:
            if body is None:
                self._records.pop((kind, key), None)
            else:
                self._records[kind, key] = body
        if entries:
            body = encode_entries(list(entries))
            previous = self._links[-1].hash if self._links else ""
            self._links.append(Link(len(self._links) + 1, body, link_hash(previous, body)))
        for entry in entries:
            self._stories.setdefault(entry.lease, []).append(entry)

    def story(self, lease: str) -> list[Entry]:
        return list(self._stories.get(lease, ()))

    def links(self) -> Iterator[Link]:
        return iter(list(self._links))

    def last_link(self) -> Link | None:
        return self._links[-1] if self._links else None

    def close(self) -> None:
        """Nothing to give back."""
