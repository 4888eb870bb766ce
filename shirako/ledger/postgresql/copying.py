"""Backups of a ledger in PostgreSQL, and back into one: see `shirako.ledger.copying`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import psycopg
from psycopg import sql

from shirako.ledger import LedgerError, Link, Total, Write, last_tick
from shirako.ledger.copies import Copy, Progress, Source
from shirako.ledger.postgresql import schema
from shirako.ledger.postgresql.session import Session, Target, told
from shirako.ledger.sums import record_sum

PAGE_ROWS = 1000
NO_END = 0.0
"""A session that the server does not end while it is not used: nobody waits for its lock."""


@contextmanager
def reading_server(url: str, actor: str) -> Iterator[Source]:
    """The ledger as of one moment, whoever holds it. Raises `LedgerError`."""
    target = Target(url, actor)
    with _session(target) as session, session.db.transaction():
        db = session.db
        db.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        version = schema.version_of(db)
        if version != schema.VERSION:
            raise LedgerError(
                f"{target} has schema {version}, this program reads {schema.VERSION}"
                if version
                else f"{target} is not there"
            )
        row = db.execute(schema.TOTAL).fetchone()
        if row is None:
            raise LedgerError(f"{target} is damaged: its table `fence` is empty")
        commits, records, sums, links, head = row
        total = Total(commits, records, int(sums), links, head)
        last = db.execute(schema.LAST_LINK).fetchone()
        tick = last_tick(Link(*last) if last else None)

        def find(kind: str, key: str) -> bytes | None:
            query = "SELECT body FROM record WHERE kind = %s AND key = %s"
            found = db.execute(query, (kind, key.encode())).fetchone()
            return None if found is None else bytes(found[0])

        yield Source(total, tick, _records(target, db), _links(db), find)


def _records(target: Target, db: psycopg.Connection) -> Iterator[tuple[str, str, bytes]]:
    rows = db.execute(schema.FIRST_RECORDS, (PAGE_ROWS,), binary=True).fetchall()
    while rows:
        for kind, raw_key, stored, body in rows:
            key = raw_key.decode()
            if record_sum(kind, key, body) != stored:
                raise LedgerError(
                    f"{target} is damaged: the record {kind} {key} does not fit its checksum"
                )
            yield kind, key, body
        after = (*rows[-1][:2], PAGE_ROWS)
        rows = db.execute(schema.NEXT_RECORDS, after, binary=True).fetchall()


def _links(db: psycopg.Connection) -> Iterator[Link]:
    number = 0
    while rows := db.execute(schema.NEXT_LINKS, (number, PAGE_ROWS), binary=True).fetchall():
        for row in rows:
            yield Link(*row)
        number = rows[-1][0]


def check_room_on_server(url: str, actor: str) -> None:
    """Raise `LedgerError` unless the actor has no ledger there, and nobody uses it."""
    target = Target(url, actor)
    with _locked(target) as session:
        _check_empty(target, session.db)


def restore_on_server(
    url: str, actor: str, source: Source, writes: Sequence[Write], tell: Progress
) -> Total:
    """Put all of the source there in one transaction. Raises `LedgerError`."""
    target = Target(url, actor)
    with _locked(target) as session, session.db.transaction():
        db = session.db
        _check_empty(target, db)
        if db.execute("SELECT to_regnamespace(%s)", (target.schema,)).fetchone() == (None,):
            db.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(target.schema)))
        schema.migrate(db, schema.version_of(db))
        total = _fill(db, Copy(source, writes, tell))
        wrong = schema.damage(db)
        if wrong:
            raise LedgerError(f"{target}: the copy is not whole: {wrong}; nothing was stored")
    return total


def _fill(db: psycopg.Connection, copy: Copy) -> Total:
    into = db.cursor()
    with into.copy("COPY record (kind, key, sum, body) FROM STDIN (FORMAT BINARY)") as rows:
        rows.set_types(["text", "bytea", "int8", "bytea"])
        for records in copy.records():
            for kind, key, check, body in records:
                rows.write_row((kind, key.encode(), check, body))
    for links, stories in copy.links():
        with into.copy("COPY log (number, body, hash) FROM STDIN (FORMAT BINARY)") as rows:
            rows.set_types(["int8", "bytea", "text"])
            for link in links:
                rows.write_row(link)
        with into.copy("COPY story (lease, number) FROM STDIN (FORMAT BINARY)") as rows:
            rows.set_types(["int8", "int8"])
            for story in stories:
                rows.write_row(story)
    total = copy.check()
    # a generation of its own: nothing that an earlier holder still sends is stored
    db.execute(
        "UPDATE fence SET generation = generation + 1, released = true, waiting = false, "
        "commits = %s, records = %s, record_sums = %s, links = %s, head = %s",
        total,
    )
    return total


def _check_empty(target: Target, db: psycopg.Connection) -> None:
    if schema.version_of(db) == 0:
        return
    row = db.execute(schema.TOTAL).fetchone()
    if row is not None and row[0] == 0:
        return
    raise LedgerError(
        f"{target} is not empty: a backup takes no ledger's place. Keep what is there, it may be "
        f"newer than the backup: ALTER SCHEMA {target.schema} RENAME TO {target.schema}_old"
    )


@contextmanager
def _session(target: Target) -> Iterator[Session]:
    session = target.connect(NO_END)
    try:
        yield session
    except psycopg.Error as error:
        raise LedgerError(f"{target}: {told(error)}") from error
    finally:
        session.close()


@contextmanager
def _locked(target: Target) -> Iterator[Session]:
    with _session(target) as session:
        if not session.lock():
            raise LedgerError(f"{target} is in use by another process: stop that one first")
        yield session
