"""The audit record of an actor: the log in its ledger, a hash chain with one link a commit.

A ledger may be in use: it is opened for reading alone, and read as of one moment. That the chain
holds in itself says that nobody changed an entry and left the rest alone. Who can write the file
can write the whole chain anew; against that help the balance that each commit leaves beside the
log, the mark of the last commit that was acknowledged, and most of all a head that was noted
earlier, somewhere else: the record has to go on from there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from msgspec import MsgspecError, Struct

from shirako.ledger import LedgerError, Link, decode_entries, verify_links
from shirako.ledger.inspection import UNREADABLE, read_links
from shirako.ledger.mark import mark_path, read_mark
from shirako.ledger.schema import read_balance
from shirako.verifying import Refuted, Unreadable

SQLITE = b"SQLite format 3\0"
"""How a file begins that `read_audit` may be able to read."""
_BALANCED_SINCE = 2
"""The version of the ledger that first kept a balance."""


class Audit(Struct, frozen=True):
    """What an audit record holds, all of it in order."""

    commits: int
    entries: int
    first_tick: int
    """Of its first entry; 0 when there is none, as for the last."""
    last_tick: int
    head: str
    """The hash of the last link: whoever notes it can tell later that nothing before it changed."""
    noted: int = 0
    """The number of the commit whose hash was noted earlier; 0: none was asked for."""


def read_audit(path: Path, noted: str = "") -> Audit:
    """What the ledger `path` records; raises `Refuted` or `Unreadable`.

    `noted`: a head that was told earlier, which has to be in the record.
    """
    marked = read_mark(mark_path(path))
    try:
        db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            db.execute("BEGIN")
            found = _Counted(noted)
            try:
                verify_links(found.counting(read_links(db)))
                _check_end(db, found, marked)
            except LedgerError as error:
                raise Refuted("audit record", str(error)) from None
        finally:
            db.close()
    except UNREADABLE as error:
        raise Unreadable(f"{path} is no ledger that can be read: {error}") from None
    if noted and not found.noted:
        raise Refuted("audit record", f"no commit has the hash {noted}: what was noted is not here")
    return found.told()


def _check_end(db: sqlite3.Connection, found: _Counted, marked: int) -> None:
    """Hold the end of the log to what the last commit left beside it; raises `LedgerError`."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version < _BALANCED_SINCE:
        return
    balance = read_balance(db)
    if (balance.links, balance.head) != (found.commits, found.head):
        raise LedgerError(
            f"the log was changed: it ends with commit {found.commits}, hash "
            f"{found.head or 'none'}, but the last commit left {balance.links} of them, hash "
            f"{balance.head or 'none'}"
        )
    if balance.commits < marked:
        raise LedgerError(
            f"the log was cut: the ledger ends with its commit {balance.commits}, but commit "
            f"{marked} was acknowledged"
        )


class _Counted:
    """What was seen of a log while it was read."""

    def __init__(self, noted: str) -> None:
        self._asked = noted
        self.commits = self.entries = self.noted = 0
        self.first = self.last = 0
        self.head = ""

    def counting(self, links: Iterator[Link]) -> Iterator[Link]:
        for link in links:
            yield link  # whoever takes the next one has found this one good
            self.commits, self.head = link.number, link.hash
            if link.hash == self._asked:
                self.noted = link.number
            try:
                entries = decode_entries(link.body)
            except MsgspecError as error:
                raise LedgerError(f"commit {link.number} holds no entries: {error}") from None
            for entry in entries:
                self.first = self.first or entry.tick
                self.last = entry.tick
            self.entries += len(entries)

    def told(self) -> Audit:
        return Audit(self.commits, self.entries, self.first, self.last, self.head, self.noted)
