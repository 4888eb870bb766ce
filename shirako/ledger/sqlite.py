"""The embedded ledger: one SQLite file an actor.

WAL with `synchronous=FULL`: a commit is on disk when it returns. Every transaction is `BEGIN
IMMEDIATE`, so that a writer never finds out at its end that it may not write. One process at a
time: an exclusive lock on a file beside the database, held for as long as the ledger is open.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path

from shirako.ledger import (
    SCHEMA_VERSION,
    CommitFailed,
    Entry,
    LedgerError,
    Link,
    Write,
    decode_entries,
    encode_entries,
    link_hash,
)

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE record (
        kind TEXT NOT NULL, key TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, key)
    ) WITHOUT ROWID;
    CREATE TABLE log (number INTEGER PRIMARY KEY, body BLOB NOT NULL, hash TEXT NOT NULL);
    CREATE TABLE story (
        lease TEXT NOT NULL, number INTEGER NOT NULL REFERENCES log, PRIMARY KEY (lease, number)
    ) WITHOUT ROWID;
    """,
)
"""Scripts that lead from version n to n+1 (`PRAGMA user_version`); append only."""

if len(MIGRATIONS) != SCHEMA_VERSION:  # pragma: no cover - a mistake in this file
    raise AssertionError("every schema version has its migration")


class SqliteLedger:
    """The ledger in the file `path`. Raises `LedgerError` when it can not be used."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._path = path
        self._lock: int | None = _lock(path)
        try:
            # the actor's writer thread commits, its loop thread reads stories: never at once
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            path.chmod(0o600)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._check()
            self._migrate()
        except sqlite3.DatabaseError as error:
            os.close(self._lock)
            raise LedgerError(
                f"{path} is damaged ({error}): put a backup in its place; nothing was changed"
            ) from error
        except LedgerError:
            os.close(self._lock)
            raise
        last = "SELECT number, hash FROM log ORDER BY number DESC LIMIT 1"
        row = self._db.execute(last).fetchone()
        self._number: int = row[0] if row else 0
        self._hash: str = row[1] if row else ""

    def _check(self) -> None:
        problems = self._db.execute("PRAGMA quick_check(3)").fetchall()
        if problems != [("ok",)]:
            found = "; ".join(str(row[0]) for row in problems)
            raise LedgerError(
                f"{self._path} is damaged ({found}): put a backup in its place; nothing was changed"
            )

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise LedgerError(
                f"{self._path} has schema {version}, this program knows {SCHEMA_VERSION}: "
                "run the newer program"
            )
        for number in range(version, SCHEMA_VERSION):
            script = MIGRATIONS[number]
            self._db.executescript(
                f"BEGIN IMMEDIATE; {script} PRAGMA user_version={number + 1}; COMMIT;"
            )

    def load(self) -> Iterator[tuple[str, str, bytes]]:
        yield from self._db.execute("SELECT kind, key, body FROM record")

    def commit(self, writes: Sequence[Write], entries: Sequence[Entry]) -> None:
        puts = [write for write in writes if write.body is not None]
        drops = [(write.kind, write.key) for write in writes if write.body is None]
        number, link = self._number, self._hash
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            db.executemany("INSERT OR REPLACE INTO record VALUES (?, ?, ?)", puts)
            if drops:
                db.executemany("DELETE FROM record WHERE kind = ? AND key = ?", drops)
            if entries:
                body = encode_entries(list(entries))
                number, link = number + 1, link_hash(link, body)
                db.execute("INSERT INTO log VALUES (?, ?, ?)", (number, body, link))
                leases = dict.fromkeys(entry.lease for entry in entries)
                db.executemany(
                    "INSERT INTO story VALUES (?, ?)", [(lease, number) for lease in leases]
                )
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise CommitFailed(f"{self._path}: {error}") from error
        self._number, self._hash = number, link

    def story(self, lease: str) -> list[Entry]:
        rows = self._db.execute(
            "SELECT body FROM log WHERE number IN (SELECT number FROM story WHERE lease = ?) "
            "ORDER BY number",
            (lease,),
        )
        return [e for (body,) in rows for e in decode_entries(body) if e.lease == lease]

    def links(self) -> Iterator[Link]:
        for row in self._db.execute("SELECT number, body, hash FROM log ORDER BY number"):
            yield Link(*row)

    def close(self) -> None:
        self._db.close()
        if self._lock is not None:  # its number may be another file's by the second time
            os.close(self._lock)
            self._lock = None


def _lock(path: Path) -> int:
    """An exclusive lock for this process; the kernel frees it when the process dies."""
    descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise LedgerError(f"{path} is in use by another process: stop that one first") from error
    return descriptor
