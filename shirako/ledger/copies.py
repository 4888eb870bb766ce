"""What a copy of a ledger is made of, whatever kind of ledger it comes from and goes to.

Records and log are copied one by one, each checked against its checksum and the hash chain as it
is read, the sums of all of them at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple, TypeVar

from shirako.ledger import LedgerError, Link, Total, Write, decode_entries, link_hash
from shirako.ledger.schema import story_sum
from shirako.ledger.sums import record_sum, story_key

CHUNK_ROWS = 1000

Progress = Callable[[int, int], None]
"""Called with the rows done and the rows there are."""

T = TypeVar("T")


def _finds_nothing(_kind: str, _key: str) -> bytes | None:
    return None


class Source(NamedTuple):
    """What a copy is made of: a ledger as one commit left it."""

    total: Total
    tick: int
    """The last one that the log names; 0 when it is empty."""
    records: Iterable[tuple[str, str, bytes]]
    links: Iterable[Link]
    find: Callable[[str, str], bytes | None] = _finds_nothing
    """The body of the record of this kind and key; None: there is none."""


class Story(NamedTuple):
    """That link `number` tells of a lease."""

    lease: int
    number: int


class Copy:
    """What goes from a source into a ledger, chunk by chunk, checked and counted on the way.

    First all `records`, then all `links`, then `check`. `writes` take the place of what the source
    has under the same names, as one commit more would.
    """

    def __init__(self, source: Source, writes: Sequence[Write], tell: Progress) -> None:
        self._source = source
        self._writes = {(kind, key): body for kind, key, body in writes}
        self._tell = tell
        self._done = 0
        self._read = Total(source.total.commits, 0, 0, 0, "")
        """What the source turns out to add up to."""
        self._records = self._sums = 0
        self.stories = self.story_sums = 0

    def records(self) -> Iterator[list[tuple[str, str, int, bytes]]]:
        """Rows of kind, key, checksum and body."""
        for rows in _chunks(self._all_records()):
            yield rows
            self._progress(len(rows))

    def _all_records(self) -> Iterator[tuple[str, str, int, bytes]]:
        count = sums = 0
        for kind, key, body in self._source.records:
            check = record_sum(kind, key, body)
            count, sums = count + 1, sums + check
            if (kind, key) not in self._writes:
                yield self._counted(kind, key, check, body)
        self._read = self._read._replace(records=count, record_sums=sums)
        for (kind, key), wanted in self._writes.items():
            if wanted is not None:
                yield self._counted(kind, key, record_sum(kind, key, wanted), wanted)

    def _counted(self, kind: str, key: str, check: int, body: bytes) -> tuple[str, str, int, bytes]:
        self._records, self._sums = self._records + 1, self._sums + check
        return kind, key, check, body

    def links(self) -> Iterator[tuple[list[Link], list[Story]]]:
        """Links, and what they tell of."""
        for links in _chunks(self._all_links()):
            stories = [
                Story(lease, link.number)
                for link in links
                for lease in {story_key(entry.lease) for entry in decode_entries(link.body)}
            ]
            self.stories += len(stories)
            self.story_sums += sum(story_sum(*story) for story in stories)
            yield links, stories
            self._progress(len(links))

    def _all_links(self) -> Iterator[Link]:
        number, head = 0, ""
        for link in self._source.links:
            if link.number != number + 1 or link.hash != link_hash(head, link.body):
                raise LedgerError(
                    f"the log was changed: entry {link.number} does not follow from {number}"
                )
            number, head = link.number, link.hash
            yield link
        self._read = self._read._replace(links=number, head=head)

    def check(self) -> Total:
        """What the copy adds up to; raises `LedgerError` unless the source was whole."""
        wanted = self._source.total
        for name, said, found in zip(Total._fields, wanted, self._read, strict=True):
            if said != found:
                raise LedgerError(
                    f"the ledger that is copied is damaged: {name.replace('_', ' ')}: "
                    f"{said} were stored, {found} are there"
                )
        return wanted._replace(
            commits=wanted.commits + 1, records=self._records, record_sums=self._sums
        )

    def _progress(self, rows: int) -> None:
        self._done += rows
        self._tell(self._done, self._source.total.records + self._source.total.links)


def _chunks(rows: Iterable[T]) -> Iterator[list[T]]:
    left = iter(rows)
    while chunk := list(islice(left, CHUNK_ROWS)):
        yield chunk
