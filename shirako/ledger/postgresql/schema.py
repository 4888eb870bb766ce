"""The tables of one actor's ledger, and the statements that work on them.

As in SQLite every record carries a checksum, and the fence, which each commit renews, says how
many records there are and what their checksums add up to, and which link is the last: a row that
went missing, or came back from an older page, is noticed. Of damage to single pages the server's
own checksums warn, where its cluster was made with them.
"""

from __future__ import annotations

from typing import LiteralString, NamedTuple

import psycopg

from shirako.ledger import LedgerError

MIGRATIONS: tuple[LiteralString, ...] = (
    # Keys are bytes, since peers choose them and text takes no NUL. Bodies are mostly signatures,
    # which do not get smaller: they stay as they are, and up to a page in their row. Room in the
    # pages keeps a changed row on its page, so that the index need not change with it.
    """
    CREATE TABLE record (
        kind text COLLATE "C" NOT NULL, key bytea NOT NULL,
        sum bigint NOT NULL, body bytea NOT NULL, PRIMARY KEY (kind, key)
    ) WITH (fillfactor = 70, toast_tuple_target = 8160);
    ALTER TABLE record ALTER body SET STORAGE EXTERNAL;
    CREATE TABLE log (number bigint PRIMARY KEY, body bytea NOT NULL, hash text NOT NULL);
    CREATE TABLE story (
        lease bigint NOT NULL, number bigint NOT NULL, PRIMARY KEY (lease, number)
    );
    CREATE TABLE fence (
        only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
        generation bigint NOT NULL, holder text NOT NULL, hold_ms bigint NOT NULL,
        waiting boolean NOT NULL, released boolean NOT NULL,
        commits bigint NOT NULL, records bigint NOT NULL, record_sums numeric NOT NULL,
        links bigint NOT NULL, head text NOT NULL
    ) WITH (fillfactor = 10);
    INSERT INTO fence VALUES (true, 0, '', 0, false, true, 0, 0, 0, 0, '');
    """,
)
"""Scripts that lead from version n to n+1 (table `version`); append only."""

VERSION = len(MIGRATIONS)


class Stored(NamedTuple):
    """How far a ledger has come."""

    commits: int
    links: int
    head: str
    """The hash of the last link."""


COMMIT: LiteralString = """
    WITH written AS MATERIALIZED (
        SELECT * FROM unnest(
            %(kinds)b::text[], %(keys)b::bytea[], %(sums)b::bigint[], %(bodies)b::bytea[]
        ) AS written (kind, key, sum, body)
    ), old AS (
        SELECT count(*) AS records, coalesce(sum(record.sum), 0) AS sums
        FROM written JOIN record USING (kind, key)
    ), held AS (
        UPDATE fence SET
            commits = commits + 1,
            records = fence.records + %(puts)b::bigint - old.records,
            record_sums = fence.record_sums + %(put_sums)b::bigint - old.sums,
            links = %(links)b::bigint,
            head = %(head)b::text
        FROM old
        WHERE generation = %(generation)b::bigint AND commits = %(commits)b::bigint
        RETURNING generation, fence.records, fence.record_sums
    ), put AS (
        INSERT INTO record
        SELECT written.* FROM written, held WHERE body IS NOT NULL
        ON CONFLICT (kind, key) DO UPDATE SET sum = excluded.sum, body = excluded.body
    ), dropped AS (
        DELETE FROM record USING written, held
        WHERE (record.kind, record.key) = (written.kind, written.key) AND written.body IS NULL
    ), linked AS (
        INSERT INTO log
        SELECT %(links)b::bigint, %(link)b::bytea, %(head)b::text
        FROM held WHERE %(link)b::bytea IS NOT NULL
    ), told AS (
        INSERT INTO story
        SELECT lease, %(links)b::bigint FROM unnest(%(leases)b::bigint[]) AS lease, held
    )
    SELECT records, record_sums FROM held
"""
"""A whole commit in one statement: one round trip, and all or nothing without a BEGIN.

It returns no row, and does nothing, unless generation and number of commits are as the writer
knows them. Whoever increments the generation waits for this statement, or it for them: both write
the row of the fence.
"""

STATE: LiteralString = """
    SELECT generation, holder, hold_ms, waiting, released, commits, links, head FROM fence
"""
COUNTED: LiteralString = "SELECT records, record_sums FROM fence"
TOTAL: LiteralString = "SELECT commits, records, record_sums, links, head FROM fence"
TAKE_OVER: LiteralString = """
    UPDATE fence SET generation = %s, holder = %s, hold_ms = %s, waiting = %s, released = %s
"""
CONFIRM: LiteralString = "SELECT FROM fence WHERE generation = %s"
BEGIN_ACTING: LiteralString = """
    UPDATE fence SET waiting = false, hold_ms = %s WHERE generation = %s RETURNING generation
"""
RELEASE: LiteralString = "UPDATE fence SET released = NOT waiting WHERE generation = %s"
FIRST_RECORDS: LiteralString = """
    SELECT kind, key, sum, body FROM record ORDER BY kind, key LIMIT %s
"""
NEXT_RECORDS: LiteralString = """
    SELECT kind, key, sum, body FROM record WHERE (kind, key) > (%s, %s)
    ORDER BY kind, key LIMIT %s
"""
NEXT_LINKS: LiteralString = """
    SELECT number, body, hash FROM log WHERE number > %s ORDER BY number LIMIT %s
"""
LAST_LINK: LiteralString = "SELECT number, body, hash FROM log ORDER BY number DESC LIMIT 1"
STORY: LiteralString = """
    SELECT body FROM log WHERE number IN (SELECT number FROM story WHERE lease = %s)
    ORDER BY number
"""

_HAS_TABLES: LiteralString = "SELECT to_regclass('version') IS NOT NULL"
_DAMAGE: LiteralString = """
    SELECT
        fence.records, found.records, fence.record_sums, found.sums,
        fence.links, coalesce((SELECT max(number) FROM log), 0),
        fence.head, coalesce((SELECT hash FROM log ORDER BY number DESC LIMIT 1), '')
    FROM fence, (SELECT count(*) AS records, coalesce(sum(sum), 0) AS sums FROM record) AS found
"""


def version_of(db: psycopg.Connection) -> int:
    """The version of the tables in the schema of this session; 0 when there are none."""
    row = db.execute(_HAS_TABLES).fetchone()
    if row is None or not row[0]:
        return 0
    row = db.execute("SELECT number FROM version").fetchone()
    if row is None:
        raise LedgerError("its table `version` is empty")
    return int(row[0])


def migrate(db: psycopg.Connection, version: int) -> None:
    """Bring the tables from `version` to `VERSION`, in the transaction that is open."""
    if version == 0:
        db.execute("CREATE TABLE version (number bigint NOT NULL)")
        db.execute("INSERT INTO version VALUES (0)")
    for script in MIGRATIONS[version:]:
        db.execute(script)
    if version != VERSION:
        db.execute("UPDATE version SET number = %s", (VERSION,))


def damage(db: psycopg.Connection) -> str:
    """What does not add up, for people; empty when all does."""
    row = db.execute(_DAMAGE).fetchone()
    if row is None:
        return "its table `fence` is empty"
    for what, said, found in zip(
        ("records", "sum of the records' checksums", "links of the log", "last link"),
        row[0::2],
        row[1::2],
        strict=True,
    ):
        if said != found:
            return f"{what}: {said} were stored, {found} are there"
    return ""
