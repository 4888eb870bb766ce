"""A ledger in memory: the twin for tests, and for actors that may forget."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from shirako.ledger import (
    Entry,
    Link,
    Total,
    Write,
    encode_entries,
    last_tick,
    link_hash,
)
from shirako.ledger.sums import record_sum


class MemorySnapshot(NamedTuple):
    """A copy, as of one commit."""

    total: Total
    tick: int
    records: list[tuple[str, str, bytes]]


class MemoryLedger:
    """Keeps everything in dictionaries; survives an actor, not a process."""

    def __init__(self) -> None:
        self._records: dict[tuple[str, str], bytes] = {}
        self._links: list[Link] = []
        self._stories: dict[str, list[Entry]] = {}
        self._commits = 0
        self._committing = threading.Lock()
        """Held while something is changed, and while a snapshot is taken."""

    def load(self) -> Iterator[tuple[str, str, bytes]]:
        for (kind, key), body in list(self._records.items()):
            yield kind, key, body

    def commit(self, writes: Sequence[Write], entries: Sequence[Entry]) -> None:
        with self._committing:
            self._commit(writes, entries)

    def _commit(self, writes: Sequence[Write], entries: Sequence[Entry]) -> None:
        self._commits += 1
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

    def total(self) -> Total:
        with self._committing:
            return self._total()

    def _total(self) -> Total:
        """Counted anew each time: hardly anybody asks, and commits here are to be quick."""
        records = self._records
        sums = sum(record_sum(kind, key, body) for (kind, key), body in records.items())
        last = self.last_link()
        links, head = (last.number, last.hash) if last else (0, "")
        return Total(self._commits, len(records), sums, links, head)

    @contextmanager
    def snapshot(self) -> Iterator[MemorySnapshot]:
        """All of it as of one moment; from any thread."""
        with self._committing:
            records = [(kind, key, body) for (kind, key), body in self._records.items()]
            taken = MemorySnapshot(self._total(), last_tick(self.last_link()), records)
        yield taken

    def close(self) -> None:
        """Nothing to give back."""
