"""The embedded ledger: one SQLite file an actor.

WAL with `synchronous=FULL`: a commit is on disk when it returns. Every transaction is `BEGIN
IMMEDIATE`, so that a writer never finds out at its end that it may not write. One process at a
time: an exclusive lock on a file beside the database, held for as long as the ledger is open.

Before it is opened for writing a ledger is inspected (`shirako.ledger.inspection`): one that is
not what was stored is refused and left as it is.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from shirako.ledger import (
    SCHEMA_VERSION,
    CommitFailed,
    Entry,
    LedgerError,
    Link,
    Total,
    Write,
    decode_entries,
    encode_entries,
    link_hash,
)
from shirako.ledger.inspection import (
    UNREADABLE,
    damaged,
    inspect,
    read_links,
    read_records,
    unusable,
)
from shirako.ledger.mark import Mark, mark_path
from shirako.ledger.schema import (
    MIGRATIONS,
    Balance,
    add_functions,
    read_balance,
    story_sum,
)
from shirako.ledger.sums import record_sum, story_key

_FIND = "SELECT rowid, sum FROM record WHERE kind = ? AND key = ?"
_INSERT = "INSERT INTO record VALUES (?, ?, ?, ?)"
_UPDATE = "UPDATE record SET sum = ?, body = ? WHERE rowid = ?"
_DELETE = "DELETE FROM record WHERE rowid = ?"
_BALANCE = (
    "UPDATE balance SET commits = ?, records = ?, record_sums = ?, links = ?, head = ?, "
    "stories = ?, story_sums = ?, sum = ?"
)


class SqliteLedger:
    """The ledger in the file `path`. Raises `LedgerError` when it can not be used."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with ExitStack() as opened:
            try:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                lock = take_lock(path)
                opened.callback(os.close, lock)
                inspect(path)
                self._mark = Mark(mark_path(path))
                opened.callback(self._mark.close)
                # the actor's writer thread commits, its loop thread reads stories: never at once
                self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
                opened.callback(self._db.close)
                path.chmod(0o600)
                self._prepare()
                self._balance = read_balance(self._db)
            except OSError as error:
                raise LedgerError(f"{path} can not be used: {error}") from error
            except UNREADABLE as error:
                raise unusable(path, error) from error
            self._opened = opened.pop_all()

    def _prepare(self) -> None:
        db = self._db
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA cache_spill=OFF")  # as `shirako.ledger.wal` relies on
        (version,) = db.execute("PRAGMA user_version").fetchone()
        add_functions(db)
        for number in range(version, SCHEMA_VERSION):
            db.executescript(
                f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA user_version={number + 1}; COMMIT;"
            )

    def load(self) -> Iterator[tuple[str, str, bytes]]:
        with self._reading():
            yield from read_records(self._db)

    def commit(self, writes: Sequence[Write], entries: Sequence[Entry]) -> None:
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            balance = self._put(writes, self._balance)
            if entries:
                balance = self._append(entries, balance)
            balance = balance._replace(commits=balance.commits + 1)
            db.execute(_BALANCE, (*balance, balance.sum))
            db.execute("COMMIT")
        except Exception as error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise CommitFailed(f"{self._path}: {error}") from error
            raise  # what was to be written can not be: nothing of it is
        self._balance = balance
        self._mark.write(balance.commits)

    def _put(self, writes: Sequence[Write], balance: Balance) -> Balance:
        """Write records; the last of a commit counts. What they replace leaves the balance.

        Updated in place, although bodies grow and leave half-empty pages: put to the end of the
        table they would take a fifth less room, and a third more time, for the index moves too.
        """
        records, sums = balance.records, balance.record_sums
        fresh: list[tuple[str, str, int, bytes]] = []
        changed: list[tuple[int, bytes, int]] = []
        dropped: list[tuple[int]] = []
        for (kind, key), body in {(kind, key): body for kind, key, body in writes}.items():
            row = self._db.execute(_FIND, (kind, key)).fetchone()
            if row is not None:
                records, sums = records - 1, sums - row[1]
            if body is not None:
                check = record_sum(kind, key, body)
                records, sums = records + 1, sums + check
                if row is None:
                    fresh.append((kind, key, check, body))
                else:
                    changed.append((check, body, row[0]))
            elif row is not None:
                dropped.append((row[0],))
        # in the order of their keys: small rows between large ones would have a page each
        self._db.executemany(_INSERT, sorted(fresh))
        self._db.executemany(_UPDATE, changed)
        self._db.executemany(_DELETE, dropped)
        return balance._replace(records=records, record_sums=sums)

    def _append(self, entries: Sequence[Entry], balance: Balance) -> Balance:
        """Add a link to the log, and to the stories of the leases that it tells of."""
        body = encode_entries(list(entries))
        number, head = balance.links + 1, link_hash(balance.head, body)
        self._db.execute("INSERT INTO log VALUES (?, ?, ?)", (number, body, head))
        leases = {story_key(entry.lease) for entry in entries}
        self._db.executemany("INSERT INTO story VALUES (?, ?)", [(one, number) for one in leases])
        return balance._replace(
            links=number,
            head=head,
            stories=balance.stories + len(leases),
            story_sums=balance.story_sums + sum(story_sum(one, number) for one in leases),
        )

    def story(self, lease: str) -> list[Entry]:
        with self._reading():
            rows = self._db.execute(
                "SELECT body FROM log WHERE number IN (SELECT number FROM story WHERE lease = ?) "
                "ORDER BY number",
                (story_key(lease),),
            )
            return [e for (body,) in rows for e in decode_entries(body) if e.lease == lease]

    def links(self) -> Iterator[Link]:
        with self._reading():
            yield from read_links(self._db)

    def last_link(self) -> Link | None:
        last = "SELECT number, body, hash FROM log ORDER BY number DESC LIMIT 1"
        with self._reading():
            row = self._db.execute(last).fetchone()
        return Link(*row) if row else None

    def total(self) -> Total:
        return self._balance.total

    def close(self) -> None:
        self._opened.close()  # the second time there is nothing left to close

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """What goes wrong while the ledger is in use is told as when it is opened."""
        try:
            yield
        except UNREADABLE as error:
            raise unusable(self._path, error) from error
        except LedgerError as error:
            raise damaged(self._path, str(error)) from error


def take_lock(path: Path) -> int:
    """An exclusive lock for this process; the kernel frees it when the process dies.

    Raises `LedgerError` when another one has it.
    """
    descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise LedgerError(f"{path} is in use by another process: stop that one first") from error
    return descriptor
