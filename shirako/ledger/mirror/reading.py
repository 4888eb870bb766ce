"""What a mirror says: its head, and the records of the state that the head names.

A mirror is believed whole or not at all: each record has to fit its checksum, and all have to add
up to what the head says. So entries that are missing, that came from nowhere, are older than the
rest or were changed are noticed; not so a mirror that was replaced, wholly, by an older copy, nor
what somebody did who can write there and calculates.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import msgspec

from shirako.ledger import LedgerError
from shirako.ledger.mirror.directory import Directory, MirrorUnreachable
from shirako.ledger.mirror.entries import (
    BODY,
    FOR,
    FORM,
    HEAD,
    KEY,
    KIND,
    RECORD_ATTRIBUTES,
    SUM,
    WRITES,
    Change,
    Head,
    Names,
    cn_of,
    decode_changes,
    decode_head,
)
from shirako.ledger.mirror.place import MirrorPlace
from shirako.ledger.sums import record_sum

FAULTS_TOLD = 3

Record = tuple[str, str, bytes]


class Mirrored(NamedTuple):
    """A committed state of a ledger, as it was found in the directory."""

    head: Head
    records: Sequence[Record]
    """In the order of their names."""


def read_mirror(place: MirrorPlace, actor: str) -> Mirrored:
    """What the mirror of `actor` says; nothing is changed there.

    Raises `LedgerError` when it can not be read, or is not what was written.
    """
    names = Names(place.base, actor)
    try:
        with Directory(place) as directory:
            return _read(directory, names, place)
    except MirrorUnreachable as error:
        raise LedgerError(f"the mirror can not be read: {error}") from error


def read_head(directory: Directory, names: Names) -> Head | None:
    """The head; None when there is none. Raises `MirrorUnreachable` for what is no head of ours."""
    entry = directory.read(names.head, HEAD)
    if entry is None:
        return None
    text = entry.get(HEAD, b"")
    try:
        head = decode_head(text)
    except msgspec.DecodeError as error:
        raise MirrorUnreachable(
            f"{names.head} is no head of a mirror ({error}): remove it with all that is below it"
        ) from error
    if head.form != FORM or head.text != text:
        raise MirrorUnreachable(
            f"{names.head} has form {head.form}, this program knows {FORM}: run the program that "
            "wrote it, or remove it with all that is below it"
        )
    return head


def record_in(entry: Mapping[str, bytes]) -> Record | None:
    """The record in an entry; None when it does not fit its own checksum."""
    try:
        kind, key, body = entry[KIND].decode(), entry[KEY].decode(), entry[BODY]
        fits = int(entry[SUM]) == record_sum(kind, key, body)
    except (KeyError, ValueError):
        return None
    return (kind, key, body) if fits else None


def changes_in(entry: Mapping[str, bytes]) -> list[Change]:
    """What a part of the journal says; raises `MirrorUnreachable` when it can not be read."""
    try:
        return decode_changes(entry[WRITES])
    except (KeyError, msgspec.DecodeError) as error:
        raise MirrorUnreachable(f"the journal of the mirror can not be read: {error}") from error


def _read(directory: Directory, names: Names, place: MirrorPlace) -> Mirrored:
    head = read_head(directory, names)
    if head is None:
        raise LedgerError(
            f"{place} has no mirror of this actor ({names.head}): is it the right directory, and "
            "the right actor?"
        )
    records: dict[str, Record] = {}
    broken: set[str] = set()
    for entry in directory.below(names.records, "cn", *RECORD_ATTRIBUTES):
        cn, record = entry["cn"].decode().lower(), record_in(entry)
        if record is None or cn_of(*record[:2]) != cn:
            broken.add(cn)
        else:
            records[cn] = record
    for one in _journal(directory, names, head):
        broken.discard(one.cn)
        records.pop(one.cn, None)
        if one.body is not None:
            records[one.cn] = (one.kind, one.key, one.body)
    faults = [f"{names.record(cn)} does not fit its checksum" for cn in sorted(broken)]
    faults = faults or _amiss(head, records.values())
    if faults:
        more = f"; and {len(faults) - FAULTS_TOLD} more" if len(faults) > FAULTS_TOLD else ""
        raise LedgerError(
            f"the mirror {names.head} at {place.url} is not what was written: "
            f"{'; '.join(faults[:FAULTS_TOLD])}{more}. Nothing was changed. Restore the directory "
            "or the ledger from a backup"
        )
    return Mirrored(head, [records[cn] for cn in sorted(records)])


def _journal(directory: Directory, names: Names, head: Head) -> list[Change]:
    """The changes that lead to `head`, which may be in the records or not."""
    parts = directory.below(names.journal, FOR, WRITES)
    return [one for part in parts if part.get(FOR) == head.id for one in changes_in(part)]


def _amiss(head: Head, records: Collection[Record]) -> list[str]:
    """What the records do not add up to."""
    sums = sum(record_sum(*record) for record in records)
    if len(records) != head.records:
        return [f"{head.records} records were written, {len(records)} are there"]
    if sums != head.record_sums:
        return ["records are older or newer than the head, or came from elsewhere"]
    return []
