"""Whether a SQLite ledger is what was stored, found out before anything is written to it.

SQLite notices damage to its structure, and only when asked. Here all is asked: its own complete
check, the schema, the checksum of every record, the hash chain of the log, the sums of the
balance, what SQLite drops of the write-ahead log, and the mark of the last commit. What is refused
is left exactly as it was found, for whoever wants to rescue something from it.

What can not be seen: a ledger that was replaced, wholly and with its mark, by an older copy; and
the loss of the last commits where the mark was lost as well, say by a failure of power.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from shirako.ledger import SCHEMA_VERSION, LedgerError, Link, verify_links
from shirako.ledger.mark import mark_path, read_mark
from shirako.ledger.schema import read_balance, tables, tables_of, total
from shirako.ledger.sums import record_sum
from shirako.ledger.wal import index_path, wal_damage, wal_path

PROBLEMS_MAX = 3
"""Faults of the structure that are told."""
UNREADABLE = (sqlite3.Error, UnicodeError)
"""What reading a damaged database raises; UnicodeError where its own message is garbage."""
_NOT_DAMAGE = (
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
)


def inspect(path: Path) -> None:
    """Raise `LedgerError` unless the ledger at `path` is sound, or new. Changes nothing."""
    marked, log = read_mark(mark_path(path)), wal_path(path)
    if not path.exists() or path.stat().st_size == 0:
        if marked or (log.exists() and log.stat().st_size):
            raise damaged(path, "it is missing or empty, but there have been commits")
        return
    commits = inspect_file(path)
    if commits < marked:
        raise LedgerError(
            f"{path} ends with commit {commits}, but commit {marked} was acknowledged: its end is "
            f"missing. Was {log.name} removed or cut, or is this an older copy? Nothing was "
            f"changed. Put the newest files back; or, to go on from this older state and lose "
            f"what came after it, remove {mark_path(path)}"
        )


def inspect_file(path: Path) -> int:
    """How many commits the file `path` and its log hold, whatever a mark beside it says.

    Raises `LedgerError` unless it is sound.
    """
    _inspect_header(path)
    try:
        db = sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            return _inspect_contents(path, db)
        finally:
            db.close()
    except UNREADABLE as error:
        raise unusable(path, error) from error


def damaged(path: Path, what: str) -> LedgerError:
    """The refusal of a damaged ledger: what is wrong, and how to restore it."""
    others = f"{wal_path(path).name}, {index_path(path).name} and {mark_path(path).name}"
    return LedgerError(
        f"{path} is damaged: {what}. Nothing was changed. To restore it, move it away together "
        f"with {others} (where they exist), then put a backup in its place: shirako restore"
    )


def unusable(path: Path, error: Exception) -> LedgerError:
    """The refusal of a ledger that SQLite could not read or write: damaged, or out of reach."""
    # extended codes have the plain one in their lowest byte
    if getattr(error, "sqlite_errorcode", 0) & 0xFF in _NOT_DAMAGE:
        # on a full disk SQLite can not make its index of the log: an I/O error, and no damage
        name = getattr(error, "sqlite_errorname", "")
        return LedgerError(
            f"{path} can not be used: {error} ({name}): is the disk full or failing? Nothing was "
            "changed"
        )
    return damaged(path, str(error))


def read_records(db: sqlite3.Connection) -> Iterator[tuple[str, str, bytes]]:
    """Every record; raises `LedgerError` at the first that is not what was stored."""
    for kind, key, stored, body in db.execute("SELECT kind, key, sum, body FROM record"):
        _check_types(kind, key, body)
        if record_sum(kind, key, body) != stored:
            raise LedgerError(f"the record {kind} {key} does not fit its checksum")
        yield kind, key, body


def read_links(db: sqlite3.Connection) -> Iterator[Link]:
    """The whole log; `verify_links` tells whether it is what was stored."""
    for number, body, link in db.execute("SELECT number, body, hash FROM log ORDER BY number"):
        if not (isinstance(body, bytes) and isinstance(link, str)):
            raise LedgerError(f"the log was changed: entry {number} is of another type")
        yield Link(number, body, link)


def _inspect_header(path: Path) -> None:
    """What SQLite would act on before it can be asked: another way of writing the file."""
    with path.open("rb") as file:
        ways = file.read(20)[18:]
    if ways not in (b"\1\1", b"\2\2"):
        raise damaged(path, "its header names no way of writing that is known")


def _inspect_contents(path: Path, db: sqlite3.Connection) -> int:
    """The number of commits that the ledger has seen; raises `LedgerError` or an `UNREADABLE`."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if wrong := wal_damage(path):
        raise damaged(path, f"{wal_path(path).name}: {wrong}")
    if version > SCHEMA_VERSION:
        raise LedgerError(
            f"{path} has schema {version}, this program knows {SCHEMA_VERSION}: "
            "run the newer program"
        )
    faults = db.execute(f"PRAGMA integrity_check({PROBLEMS_MAX})").fetchall()
    if faults != [("ok",)]:
        raise damaged(path, "; ".join(str(row[0]) for row in faults))
    if tables(db) != tables_of(max(version, 0)):
        raise damaged(path, f"its tables are not those of schema {version}")
    try:
        if version < 1:
            return 0
        if version == 1:  # before records had checksums
            for row in db.execute("SELECT kind, key, body FROM record"):
                _check_types(*row)
            verify_links(read_links(db))
            return 0
        return _inspect_rows(db)
    except LedgerError as error:
        raise damaged(path, str(error)) from error


def _inspect_rows(db: sqlite3.Connection) -> int:
    balance = read_balance(db)
    for _ in read_records(db):
        pass
    verify_links(read_links(db))
    names = balance._fields[1:]
    for name, written, found in zip(names, balance[1:], total(db), strict=True):
        if written != found:
            raise LedgerError(f"{_SAID[name]}: the last commit left {written}, now it is {found}")
    return balance.commits


_SAID = {
    "records": "records are missing or came from nowhere",
    "record_sums": "records are older or newer than the last commit",
    "links": "the log has not as many entries as were written",
    "head": "the log does not end as it was written",
    "stories": "leases' stories are not complete",
    "story_sums": "leases' stories were changed",
}


def _check_types(kind: object, key: object, body: object) -> None:
    if not (isinstance(kind, str) and isinstance(key, str) and isinstance(body, bytes)):
        raise LedgerError(f"the record {kind!r} {key!r} is of another type")
