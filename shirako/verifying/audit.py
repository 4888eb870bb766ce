"""The audit record of an actor: the log in its ledger, a hash chain with one link a commit.

A ledger may be in use: it is opened for reading alone, and read as of one moment. That the chain
holds in itself says that nobody changed an entry and left the rest alone. Who can write the ledger
can write the whole chain anew; against that help the balance that each commit leaves beside the
log, the mark of the last commit that was acknowledged (beside a file; a server has none), and most
of all a head that was noted earlier, somewhere else: the record has to go on from there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path

from msgspec import MsgspecError, Struct

from shirako.ledger import LedgerError, Link, LogChanged, decode_entries, verify_links
from shirako.ledger.copying import reading
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
    return found.told()


def read_audit_on_server(url: str, actor: str, noted: str = "") -> Audit:
    """The same of the ledger of `actor` in the PostgreSQL database of a URL.

    It is read in one transaction that may only read, without the ledger's lock: an actor that goes
    on to commit is not in the way, and does not notice. What is raised names no password.
    """
    found = _Counted(noted)
    try:
        with reading(url, actor) as source:
            try:
                verify_links(found.counting(_typed(source.links)))
                _check_left(found, source.total.links, source.total.head)
            except LedgerError as error:
                raise Refuted("audit record", str(error)) from None
    except LogChanged as error:
        raise Refuted("audit record", str(error)) from None
    except LedgerError as error:
        raise Unreadable(str(error)) from None
    return found.told()


def _typed(links: Iterable[Link]) -> Iterator[Link]:
    """Held to the types that the tables promise: who owns them can alter them."""
    for link in links:
        if [type(part) for part in link] != [int, bytes, str]:
            raise LedgerError(f"the log was changed: entry {link.number} is of another type")
        yield link


def _check_end(db: sqlite3.Connection, found: _Counted, marked: int) -> None:
    """Hold the end of the log to what the last commit left beside it; raises `LedgerError`."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version < _BALANCED_SINCE:
        return
    balance = read_balance(db)
    _check_left(found, balance.links, balance.head)
    if balance.commits < marked:
        raise LedgerError(
            f"the log was cut: the ledger ends with its commit {balance.commits}, but commit "
            f"{marked} was acknowledged"
        )


def _check_left(found: _Counted, links: int, head: str) -> None:
    """Hold the end of the log to what the last commit says of it; raises `LedgerError`."""
    if (links, head) != (found.commits, found.head):
        raise LedgerError(
            f"the log was changed: it ends with commit {found.commits}, hash "
            f"{found.head or 'none'}, but the last commit left {links} of them, hash "
            f"{head or 'none'}"
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
        """All of it; raises `Refuted` when what was noted was not seen."""
        if self._asked and not self.noted:
            raise Refuted(
                "audit record", f"no commit has the hash {self._asked}: what was noted is not here"
            )
        return Audit(self.commits, self.entries, self.first, self.last, self.head, self.noted)
