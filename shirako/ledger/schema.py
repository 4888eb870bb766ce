"""What the tables of a SQLite ledger are, and what their contents have to add up to.

Every record carries a checksum of itself; the `balance` is one row that each commit renews. It
says how many records, links and story rows there are and what their checksums sum up to, so that a
row that went missing, or an older body that a lost write left in its place, is noticed although
it is sound in itself. The log needs no checksums: it is a hash chain, whose head is in the balance.
"""

from __future__ import annotations

import hashlib
import sqlite3
from typing import NamedTuple

from shirako.ledger import SCHEMA_VERSION, LedgerError, Total
from shirako.ledger.sums import record_sum, story_key

_TOTAL = """
    SELECT
        (SELECT count(*) FROM record),
        (SELECT coalesce(sum(sum), 0) FROM record),
        (SELECT count(*) FROM log),
        coalesce((SELECT hash FROM log ORDER BY number DESC LIMIT 1), ''),
        (SELECT count(*) FROM story),
        (SELECT coalesce(sum((lease % 2147483647 + number * 7919) % 2147483647), 0) FROM story)
"""
"""What the rows add up to; the last is the sum of `story_sum`, said in SQL."""

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
    # Records get checksums, and rows of their own: bodies of some kilobytes waste half of each
    # page of a table without rowids. Stories name a lease by 8 bytes instead of 70.
    """
    ALTER TABLE record RENAME TO old_record;
    CREATE TABLE record (
        kind TEXT NOT NULL, key TEXT NOT NULL, sum INTEGER NOT NULL, body BLOB NOT NULL,
        PRIMARY KEY (kind, key)
    );
    INSERT INTO record SELECT kind, key, record_sum(kind, key, body), body FROM old_record;
    DROP TABLE old_record;
    DROP TABLE story;
    CREATE TABLE story (
        lease INTEGER NOT NULL, number INTEGER NOT NULL, PRIMARY KEY (lease, number)
    ) WITHOUT ROWID;
    INSERT OR IGNORE INTO story
        SELECT story_key(json_extract(entry.value, '$.lease')), log.number
        FROM log, json_each(CAST(log.body AS TEXT)) AS entry;
    CREATE TABLE balance (
        commits INTEGER NOT NULL, records INTEGER NOT NULL, record_sums INTEGER NOT NULL,
        links INTEGER NOT NULL, head TEXT NOT NULL,
        stories INTEGER NOT NULL, story_sums INTEGER NOT NULL, sum INTEGER NOT NULL
    );
    INSERT INTO balance
        SELECT 0, *, balance_sum(0, records, record_sums, links, head, stories, story_sums)
        FROM (SELECT
            (SELECT count(*) FROM record) AS records,
            (SELECT coalesce(sum(sum), 0) FROM record) AS record_sums,
            (SELECT count(*) FROM log) AS links,
            coalesce((SELECT hash FROM log ORDER BY number DESC LIMIT 1), '') AS head,
            (SELECT count(*) FROM story) AS stories,
            (SELECT coalesce(sum((lease % 2147483647 + number * 7919) % 2147483647), 0)
                FROM story) AS story_sums);
    """,
)
"""Scripts that lead from version n to n+1 (`PRAGMA user_version`); append only."""

if len(MIGRATIONS) != SCHEMA_VERSION:  # pragma: no cover - a mistake in this file
    raise AssertionError("every schema version has its migration")


class Balance(NamedTuple):
    """What a ledger adds up to after a commit."""

    commits: int
    records: int
    record_sums: int
    links: int
    head: str
    """The hash of the last link."""
    stories: int
    story_sums: int

    @property
    def total(self) -> Total:
        return Total(self.commits, self.records, self.record_sums, self.links, self.head)

    @property
    def sum(self) -> int:
        """The checksum of this row itself."""
        return balance_sum(*self)


def story_sum(lease: int, number: int) -> int:
    return (lease % 2147483647 + number * 7919) % 2147483647


def balance_sum(*fields: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(fields).encode()).digest()[:4])


def add_functions(db: sqlite3.Connection) -> None:
    """What migrations call."""
    for function in (record_sum, story_key, balance_sum):
        db.create_function(function.__name__, -1, function, deterministic=True)


def tables(db: sqlite3.Connection) -> set[tuple[str, ...]]:
    """Everything that the database says it has, in words."""
    return set(db.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema"))


def tables_of(version: int) -> set[tuple[str, ...]]:
    """What a ledger of this version has to have."""
    db = sqlite3.connect(":memory:")
    try:
        add_functions(db)
        for script in MIGRATIONS[:version]:
            db.executescript(script)
        return tables(db)
    finally:
        db.close()


def total(db: sqlite3.Connection) -> tuple[object, ...]:
    """The balance as the rows have it, from `records` on."""
    row: tuple[object, ...] = db.execute(_TOTAL).fetchone()
    return row


def read_balance(db: sqlite3.Connection) -> Balance:
    """The balance as it was written; raises `LedgerError` when that is damaged."""
    rows = db.execute(
        "SELECT commits, records, record_sums, links, head, stories, story_sums, sum FROM balance"
    ).fetchall()
    if len(rows) != 1 or balance_sum(*rows[0][:-1]) != rows[0][-1]:
        raise LedgerError("the balance of the ledger does not fit its checksum")
    return Balance(*rows[0][:-1])
