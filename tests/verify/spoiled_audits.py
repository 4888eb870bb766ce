"""Audit records that were changed by somebody who can write the file.

The ledger is a real one of six commits. Some who change it know how its hashes are made, and the
last one mends everything that lies beside it: only a head that was noted earlier tells.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from shirako.ledger import Entry, Write, encode_entries, link_hash
from shirako.ledger.mark import mark_path
from shirako.ledger.schema import balance_sum
from shirako.ledger.sqlite import SqliteLedger
from tests.verify.kit import spoiled

COMMITS = 6
TICK = 1_800_000_000


def write_ledger(path: Path) -> str:
    """A sound ledger at `path`, no longer in use; returns the head that one would note."""
    ledger = SqliteLedger(path)
    for number in range(1, COMMITS + 1):
        entry = Entry(lease="g/L1", tick=TICK + number, what=f"Event{number}", state="Active")
        ledger.commit([Write("lease", "g/L1", b'{"n":%d}' % number)], [entry])
    last = ledger.last_link()
    ledger.close()
    if last is None:
        raise AssertionError("there are commits")
    return last.hash


def change(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)


def recompute(path: Path, since: int) -> str:
    """Write the hashes anew from a commit on; returns the new head."""
    with closing(sqlite3.connect(path)) as db, db:
        rows: Iterable[tuple[int, bytes, str]] = db.execute(
            "SELECT number, body, hash FROM log ORDER BY number"
        ).fetchall()
        head = ""
        for number, body, stored in rows:
            head = link_hash(head, body) if number >= since else stored
            db.execute("UPDATE log SET hash = ? WHERE number = ?", (head, number))
    return head


def forget(number: int) -> str:
    """SQL that changes what a commit says, and leaves it the bytes that it is."""
    told = f"CAST(replace(CAST(body AS TEXT), 'Event{number}', 'Nothing') AS BLOB)"
    return f"UPDATE log SET body = {told} WHERE number = {number}"


@spoiled("the log was changed", "entry 3 does not follow from 2")
def entry_changed(path: Path) -> None:
    change(path, forget(3))


@spoiled("the log was changed", "entry 3 is of another type")
def entry_turned_into_text(path: Path) -> None:
    change(path, "UPDATE log SET body = CAST(body AS TEXT) WHERE number = 3")


@spoiled("the log was changed", "entry 4 does not follow from 2")
def entry_removed(path: Path) -> None:
    change(path, "DELETE FROM log WHERE number = 3")


@spoiled("the log was changed", "entry 3 does not follow from 2")
def entry_removed_and_the_others_numbered_anew(path: Path) -> None:
    change(
        path,
        "DELETE FROM log WHERE number = 3",
        "UPDATE log SET number = number - 1 WHERE number > 3",
    )


@spoiled("the log was changed", "entry 2 does not follow from 0")
def first_entry_removed(path: Path) -> None:
    change(path, "DELETE FROM log WHERE number = 1")


@spoiled("the log was changed", "entry 3 does not follow from 2")
def entries_reordered(path: Path) -> None:
    change(
        path,
        "UPDATE log SET number = 99 WHERE number = 3",
        "UPDATE log SET number = 3 WHERE number = 4",
        "UPDATE log SET number = 4 WHERE number = 99",
    )


@spoiled("the log was changed", "entry 7 does not follow from 6")
def entry_appended(path: Path) -> None:
    change(path, "INSERT INTO log SELECT 7, body, hash FROM log WHERE number = 6")


@spoiled("the log was changed", "it ends with commit 7", "the last commit left 6")
def entry_appended_with_its_hash(path: Path) -> None:
    entry = encode_entries([Entry(lease="g/L1", tick=TICK + 9, what="Invented")])
    with closing(sqlite3.connect(path)) as db, db:
        (head,) = db.execute("SELECT hash FROM log WHERE number = 6").fetchone()
        db.execute("INSERT INTO log VALUES (7, ?, ?)", (entry, link_hash(head, entry)))


@spoiled("the log was changed", "entry 4 does not follow from 3")
def entry_changed_with_its_own_hash(path: Path) -> None:
    change(path, forget(3))
    with closing(sqlite3.connect(path)) as db, db:
        (before,) = db.execute("SELECT hash FROM log WHERE number = 2").fetchone()
        (body,) = db.execute("SELECT body FROM log WHERE number = 3").fetchone()
        db.execute("UPDATE log SET hash = ? WHERE number = 3", (link_hash(before, body),))


@spoiled("the log was changed", "it ends with commit 6", "the last commit left 6")
def hashes_recomputed_from_there_on(path: Path) -> None:
    change(path, forget(3))
    recompute(path, 3)


@spoiled("commit 3 holds no entries")
def entry_that_is_none(path: Path) -> None:
    change(path, "UPDATE log SET body = CAST('{}' AS BLOB) WHERE number = 3")
    rebalance(path, recompute(path, 3))


@spoiled("the log was changed", "it ends with commit 4", "the last commit left 6")
def end_cut_off(path: Path) -> None:
    change(path, "DELETE FROM log WHERE number > 4")


@spoiled("the balance of the ledger does not fit its checksum")
def end_cut_off_and_the_balance_changed(path: Path) -> None:
    change(
        path,
        "DELETE FROM log WHERE number > 4",
        "UPDATE balance SET links = 4, head = (SELECT hash FROM log WHERE number = 4)",
    )


@spoiled("the log was cut", "commit 6 was acknowledged")
def end_cut_off_and_the_balance_made_anew(path: Path) -> None:
    change(path, "DELETE FROM log WHERE number > 4", "UPDATE balance SET commits = 4, links = 4")
    with closing(sqlite3.connect(path)) as db, db:
        (head,) = db.execute("SELECT hash FROM log WHERE number = 4").fetchone()
    rebalance(path, head)


@spoiled("what was noted is not here", needs_head=True)
def end_cut_off_with_balance_and_mark(path: Path) -> None:
    end_cut_off_and_the_balance_made_anew(path)
    mark_path(path).unlink()


@spoiled("what was noted is not here", needs_head=True)
def hashes_recomputed_and_the_balance_made_anew(path: Path) -> None:
    change(path, forget(3))
    rebalance(path, recompute(path, 3))


def rebalance(path: Path, head: str) -> None:
    """Make the balance fit a log that ends with `head`."""
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE balance SET head = ?", (head,))
        row = db.execute(
            "SELECT commits, records, record_sums, links, head, stories, story_sums FROM balance"
        ).fetchone()
        db.execute("UPDATE balance SET sum = ?", (balance_sum(*row),))
