"""Backups: a ledger as one moment left it, in one portable file, and back into a ledger.

A backup is a SQLite ledger, whatever kind of ledger it was taken from and is brought back into.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from shirako.ledger import Total, Write
from shirako.ledger.copies import Progress, Source
from shirako.ledger.opening import SERVERS
from shirako.ledger.sqlite_copying import check_room_for_file, reading_marked, restore_file


@contextmanager
def reading(where: str | Path, actor: str) -> Iterator[Source]:
    """The ledger of `actor` at a path or URL as of one moment, whether the actor runs or not.

    Raises `LedgerError`; what is damaged may show only while it is read.
    """
    if isinstance(where, str) and where.startswith(SERVERS):
        # only who uses a server needs its client library, which takes a while to import
        from shirako.ledger.postgresql.copying import reading_server

        with reading_server(where, actor) as source:
            yield source
        return
    with reading_marked(Path(where)) as source:
        yield source


def check_room(where: str | Path, actor: str) -> None:
    """Raise `LedgerError` unless a ledger can be put there now: nothing is, and nobody uses it."""
    if isinstance(where, str) and where.startswith(SERVERS):
        from shirako.ledger.postgresql.copying import check_room_on_server

        check_room_on_server(where, actor)
        return
    check_room_for_file(Path(where))


def restore(
    where: str | Path, actor: str, source: Source, writes: Sequence[Write], tell: Progress
) -> Total:
    """Put all of the source, and `writes`, where there is no ledger of `actor` yet.

    It is there whole or not at all. Raises `LedgerError`, also while the actor runs.
    """
    if isinstance(where, str) and where.startswith(SERVERS):
        from shirako.ledger.postgresql.copying import restore_on_server

        return restore_on_server(where, actor, source, writes, tell)
    return restore_file(Path(where), source, writes, tell)
