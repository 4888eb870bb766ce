"""What only a ledger in a file can suffer: another process, other people, a full disk."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from homes import chain, entry, records
from shirako.ledger import SCHEMA_VERSION, CommitFailed, LedgerError, Write, verify_links
from shirako.ledger.sqlite import SqliteLedger
from shirako.ledger.sums import story_key


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "site.db"


def filled(path: Path, commits: int = 40) -> None:
    ledger = SqliteLedger(path)
    for number in range(commits):
        ledger.commit(
            [Write("lease", f"g/L{number}", b"x" * 200)], [entry(f"g/L{number}", "Requested")]
        )
    ledger.close()


def test_a_second_open_is_refused_and_harms_nothing(path: Path) -> None:
    first = SqliteLedger(path)
    with pytest.raises(LedgerError, match="in use by another process"):
        SqliteLedger(path)
    first.commit([Write("lease", "g/L1", b"1")], [])
    assert records(first) == {("lease", "g/L1"): b"1"}
    first.close()
    SqliteLedger(path).close()


OPEN = """
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from shirako.ledger import LedgerError, Write
from shirako.ledger.sqlite import SqliteLedger
try:
    ledger = SqliteLedger(Path(sys.argv[1]))
except LedgerError as error:
    print(error)
    raise SystemExit(3)
ledger.commit([Write("lease", "g/L1", b"from the other")], [])
print("open", flush=True)
sys.stdin.read()
"""


@pytest.mark.real
def test_a_second_process_is_refused_until_the_first_is_killed(path: Path) -> None:
    """Two copies of one actor never both act; the kernel frees the lock of one that died."""
    command = [sys.executable, "-c", OPEN, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(LedgerError, match="in use"):
            SqliteLedger(path)
        third = subprocess.run(
            command, input="", capture_output=True, text=True, check=False, timeout=30
        )
        assert third.returncode == 3
        assert "stop that one first" in third.stdout
        other.kill()
        other.wait(30)
    ledger = SqliteLedger(path)
    assert records(ledger) == {("lease", "g/L1"): b"from the other"}
    ledger.close()


def test_the_file_is_its_owners_alone(path: Path) -> None:
    SqliteLedger(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_newer_schema_is_refused(path: Path) -> None:
    filled(path)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(LedgerError, match=r"has schema 99.*run the newer program"):
        SqliteLedger(path)


def test_a_refused_ledger_is_not_left_locked(path: Path) -> None:
    filled(path)
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    for _ in range(3):
        with pytest.raises(LedgerError, match="has schema 99"):
            SqliteLedger(path)
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    db.close()
    SqliteLedger(path).close()


def test_a_file_that_is_no_database_is_refused(path: Path) -> None:
    path.write_bytes(b"this is not a database, but long enough to look like one" * 40)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=r"damaged.*put a backup in its place"):
        SqliteLedger(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("left", [0.9, 0.6, 0.3, 0.05])
def test_a_truncated_file_is_refused(path: Path, left: float) -> None:
    filled(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * left)])
    with pytest.raises(LedgerError, match="damaged"):
        SqliteLedger(path)


def test_a_commit_that_fails_leaves_nothing_of_itself(path: Path) -> None:
    """ATOMIC and rule 15: records and log stay as they were, and the next commit works."""
    ledger = SqliteLedger(path)
    ledger.commit([Write("lease", "g/L1", b"1")], [entry("g/L1", "a")])
    ledger._db.execute(
        f"CREATE TRIGGER full BEFORE INSERT ON story WHEN NEW.lease = {story_key('g/L9')} "
        "BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    with pytest.raises(CommitFailed, match="disk full"):
        ledger.commit(
            [Write("lease", "g/L1", None), Write("lease", "g/L2", b"2")],
            [entry("g/L2", "b"), entry("g/L9", "c")],
        )
    assert records(ledger) == {("lease", "g/L1"): b"1"}
    assert ledger.story("g/L2") == []
    ledger.commit([Write("lease", "g/L3", b"3")], [entry("g/L3", "d")])
    assert verify_links(ledger.links()) == 2
    ledger.close()


def test_what_can_not_be_written_leaves_nothing_of_its_commit(path: Path) -> None:
    ledger = SqliteLedger(path)
    with pytest.raises(UnicodeEncodeError):
        ledger.commit([Write("lease", "g/L1", b"1"), Write("lease", "\ud800", b"2")], [])
    ledger.commit([Write("lease", "g/L2", b"2")], [entry("g/L2", "a")])
    ledger.close()
    ledger = SqliteLedger(path)
    assert records(ledger) == {("lease", "g/L2"): b"2"}
    ledger.close()


def test_a_full_disk_is_a_commit_that_failed(path: Path) -> None:
    ledger = SqliteLedger(path)
    ledger.commit([Write("lease", "g/L1", b"1")], [entry("g/L1", "a")])
    (pages,) = ledger._db.execute("PRAGMA page_count").fetchone()
    ledger._db.execute(f"PRAGMA max_page_count={pages}")
    with pytest.raises(CommitFailed, match="full"):
        ledger.commit([Write("lease", "g/L2", b"x" * 100_000)], [entry("g/L2", "b")])
    assert records(ledger) == {("lease", "g/L1"): b"1"}
    ledger._db.execute("PRAGMA max_page_count=100000")
    ledger.commit([Write("lease", "g/L2", b"x" * 100_000)], [entry("g/L2", "b")])
    assert verify_links(ledger.links()) == 2
    ledger.close()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            "UPDATE log SET body = replace(body, 'Requested', 'Forgotten') WHERE number = 3",
            "entry 3",
        ),
        ("UPDATE log SET body = CAST(body AS TEXT) WHERE number = 3", "entry 3"),
        ("DELETE FROM log WHERE number = 3", "entry 4"),
        ("DELETE FROM log WHERE number = 5", "not as many entries"),
        ("UPDATE record SET body = x'00' WHERE key = 'g/L2'", "lease g/L2"),
        ("UPDATE record SET body = 'text' WHERE key = 'g/L2'", "lease.*g/L2"),
        ("UPDATE record SET key = 'g/L9' WHERE key = 'g/L2'", "lease g/L9"),
        ("DELETE FROM record WHERE key = 'g/L2'", "records are missing"),
        ("DELETE FROM story WHERE number = 3", "stories are not complete"),
        ("UPDATE story SET lease = lease + 1 WHERE number = 3", "stories were changed"),
        ("UPDATE balance SET commits = commits + 1", "balance"),
        ("DELETE FROM balance", "balance"),
        ("CREATE TABLE more (than TEXT)", "tables"),
        ("DROP TABLE story", "tables"),
    ],
)
def test_what_was_changed_in_the_file_is_told(path: Path, change: str, told: str) -> None:
    """By somebody who can use SQLite, but did not do it through the ledger."""
    filled(path, 5)
    with sqlite3.connect(path) as db:
        db.execute(change)
    db.close()
    with pytest.raises(LedgerError, match=f"damaged: .*{told}.*put a backup in its place"):
        SqliteLedger(path)


def test_an_older_page_of_records_is_refused(path: Path) -> None:
    """What only the balance tells: bodies of one size, so the older page fits its neighbours."""
    filled(path)
    before = path.read_bytes()
    ledger = SqliteLedger(path)
    ledger.commit([Write("lease", f"g/L{number}", b"y" * 200) for number in range(40)], [])
    ledger.close()
    now = path.read_bytes()
    pages = [at for at in range(4096, len(now), 4096) if b"y" * 200 in now[at : at + 4096]]
    assert len(pages) > 1
    for at in pages:
        path.write_bytes(now[:at] + before[at : at + 4096] + now[at + 4096 :])
        with pytest.raises(LedgerError, match="records are older or newer than the last commit"):
            SqliteLedger(path)


def test_a_log_forged_throughout_is_no_longer_what_the_balance_says(path: Path) -> None:
    filled(path, 5)
    forged = chain(*([entry(f"g/L{n}", "NeverHappened")] for n in range(5)))
    with sqlite3.connect(path) as db:
        db.executemany(
            "UPDATE log SET body = ?, hash = ? WHERE number = ?",
            [(link.body, link.hash, link.number) for link in forged],
        )
    db.close()
    with pytest.raises(LedgerError, match="the log does not end as it was written"):
        SqliteLedger(path)


def test_a_ledger_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where the folder has to be")
    with pytest.raises(LedgerError, match=r"state/site.db can not be used: "):
        SqliteLedger(tmp_path / "state" / "site.db")
