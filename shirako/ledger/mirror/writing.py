"""What is done to a mirror, each in steps after any of which it may be left for good.

At every moment the directory holds one committed state, whole: that of the head. Changes are put
into the journal first, which nobody heeds until the head names them; then the head is moved, in
one operation; then the records are changed. Whoever finds a mirror does what its journal says, if
it is that of the head, and has the records of the head, whether it was done before or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager

from shirako.ledger import Snapshot
from shirako.ledger.mirror.directory import Directory, MirrorUnreachable
from shirako.ledger.mirror.entries import (
    EMPTY,
    FOLDER,
    FOR,
    HEAD,
    JOURNAL,
    MIRROR,
    RECORD,
    RECORD_ATTRIBUTES,
    WRITES,
    Change,
    Head,
    Names,
    change,
    cn_of,
    encode_changes,
    head_of,
    parts_of,
)
from shirako.ledger.mirror.reading import changes_in, read_head, record_in
from shirako.ledger.sums import record_sum

Copying = Callable[[], AbstractContextManager[Snapshot]]
"""Reads the ledger as it is at one moment, in any thread, while its actor goes on to commit."""


class Writing:
    """The mirror of one actor over one connection.

    Raises `MirrorUnreachable` and `HeadChanged`: then it is to be done again, from `open` on.
    `proceed` is called before every step, and raises what ends it all.
    """

    def __init__(self, directory: Directory, names: Names, proceed: Callable[[], None]) -> None:
        self._directory = directory
        self._names = names
        self._proceed = proceed

    def open(self) -> Head:
        """Make the mirror if there is none, and finish what was begun; returns its head."""
        names, directory = self._names, self._directory
        directory.add(names.head, MIRROR, {HEAD: EMPTY.text})
        directory.add(names.records, FOLDER, {})
        directory.add(names.journal, FOLDER, {})
        head = read_head(directory, names)
        if head is None:
            raise MirrorUnreachable(f"{names.head} was removed")
        self._finish(head)
        return head

    def move(self, before: Head, after: Head, changes: Sequence[Change]) -> None:
        """Lead from one state to a later one, which the ledger has committed."""
        parts = self._journal(after, changes)
        self._swap(before, after)
        for one in changes:
            self._apply(one)
        for number in range(1, parts):
            self._directory.remove(self._names.part(str(number)))

    def catch_up(self, before: Head, copy: Copying) -> Head:
        """Compare everything, and lead to what the ledger is now; returns the new head."""
        found = dict(self._found())
        with copy() as snapshot:
            after = head_of(snapshot.total, snapshot.tick)
            self._journal(after, _differences(found, snapshot))
        self._swap(before, after)
        self._finish(after)
        return after

    def _found(self) -> Iterator[tuple[str, int]]:
        """The entries that records are in, and the checksum of each; below 0: it is none."""
        for entry in self._directory.below(self._names.records, "cn", *RECORD_ATTRIBUTES):
            cn, record = entry["cn"].decode().lower(), record_in(entry)
            yield cn, -1 if record is None or cn_of(*record[:2]) != cn else record_sum(*record)

    def _journal(self, head: Head, changes: Iterable[Change]) -> int:
        """Write down what is going to be done; returns in how many parts."""
        parts = 0
        for part in parts_of(changes):
            self._proceed()
            values = {FOR: head.id, WRITES: encode_changes(part)}
            self._directory.put(self._names.part(str(parts)), JOURNAL, values)
            parts += 1
        return parts

    def _swap(self, before: Head, after: Head) -> None:
        self._proceed()
        self._directory.swap(self._names.head, HEAD, before.text, after.text)

    def _finish(self, head: Head) -> None:
        """Do what the journal says if it is that of `head`, and empty it."""
        directory, names = self._directory, self._names
        parts = [entry["cn"].decode() for entry in directory.below(names.journal, "cn")]
        for dn in map(names.part, parts):
            entry = directory.read(dn, FOR, WRITES) or {}
            if entry.get(FOR) == head.id:
                for one in changes_in(entry):
                    self._apply(one)
        for dn in map(names.part, parts):
            directory.remove(dn)

    def _apply(self, one: Change) -> None:
        self._proceed()
        dn = self._names.record(one.cn)
        if one.body is None:
            self._directory.remove(dn)
        else:
            self._directory.put(dn, RECORD, one.values)


def _differences(found: dict[str, int], snapshot: Snapshot) -> Iterator[Change]:
    """What leads from the entries that were found to the records that there are."""
    for kind, key, body in snapshot.records:
        if found.pop(cn_of(kind, key), None) != record_sum(kind, key, body):
            yield change(kind, key, body)
    for cn in found:
        yield Change(cn, "", "", None)
