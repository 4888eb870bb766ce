"""What every ledger promises: all or nothing, reload, stories, and a log that shows its changes."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shirako.ledger import (
    SCHEMA_VERSION,
    CommitFailed,
    Entry,
    Ledger,
    LedgerError,
    Link,
    Write,
    encode_entries,
    link_hash,
    verify_links,
)
from shirako.ledger.memory import MemoryLedger
from shirako.ledger.sqlite import SqliteLedger
from shirako.ledger.sums import story_key

Reopen = Callable[[Ledger], Ledger]


@pytest.fixture(params=["memory", "sqlite"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    if request.param == "memory":
        yield MemoryLedger()
        return
    opened = SqliteLedger(tmp_path / "state" / "site.db")
    yield opened
    opened.close()  # for some tests the second time


@pytest.fixture
def reopen(tmp_path: Path) -> Reopen:
    """The ledger as an actor finds it after it was restarted."""

    def again(ledger: Ledger) -> Ledger:
        if isinstance(ledger, MemoryLedger):
            return ledger
        ledger.close()
        return SqliteLedger(tmp_path / "state" / "site.db")

    return again


def entry(lease: str, what: str, tick: int = 1) -> Entry:
    return Entry(lease=lease, tick=tick, what=what, state="Active", by="guest", note="ünïcode\t")


def records(ledger: Ledger) -> dict[tuple[str, str], bytes]:
    return {(kind, key): body for kind, key, body in ledger.load()}


def test_a_new_ledger_is_empty(ledger: Ledger) -> None:
    assert records(ledger) == {}
    assert ledger.story("g/L1") == []
    assert verify_links(ledger.links()) == 0


def test_what_was_committed_is_there_after_a_restart(ledger: Ledger, reopen: Reopen) -> None:
    """DURABLE."""
    ledger.commit(
        [Write("lease", "g/L1", b"1"), Write("lease", "g/L2", b"2"), Write("unit", "/n1", b"3")],
        [entry("g/L1", "Requested"), entry("g/L2", "Requested")],
    )
    ledger.commit([Write("lease", "g/L1", b"11")], [entry("g/L1", "Granted", 2)])
    ledger.commit([Write("lease", "g/L2", None)], [])
    again = reopen(ledger)
    assert records(again) == {("lease", "g/L1"): b"11", ("unit", "/n1"): b"3"}
    assert [e.what for e in again.story("g/L1")] == ["Requested", "Granted"]
    assert [e.what for e in again.story("g/L2")] == ["Requested"]
    assert verify_links(again.links()) == 2
    again.commit([], [entry("g/L1", "Closed", 3)])
    assert verify_links(again.links()) == 3
    again.close()


def test_kinds_and_keys_do_not_run_into_each_other(ledger: Ledger) -> None:
    ledger.commit([Write("lease", "a/b", b"1"), Write("leasea", "/b", b"2")], [])
    ledger.commit([Write("lease", "a/b", None), Write("unit", "never/was", None)], [])
    assert records(ledger) == {("leasea", "/b"): b"2"}


def test_the_last_write_of_a_commit_counts(ledger: Ledger) -> None:
    ledger.commit([Write("lease", "g/L1", b"old"), Write("lease", "g/L1", b"new")], [])
    assert records(ledger) == {("lease", "g/L1"): b"new"}


def test_bodies_are_bytes_as_they_were_given(ledger: Ledger, reopen: Reopen) -> None:
    body = bytes(range(256)) * 100
    ledger.commit([Write("lease", "g/L1", body), Write("lease", "g/empty", b"")], [])
    again = reopen(ledger)
    assert records(again) == {("lease", "g/L1"): body, ("lease", "g/empty"): b""}
    again.close()


def test_stories_are_kept_apart_and_in_order(ledger: Ledger) -> None:
    for tick in range(1, 6):
        ledger.commit([], [entry(f"g/L{n}", f"{tick}.{n}", tick) for n in (1, 2, 1)])
    assert [e.what for e in ledger.story("g/L1")] == [f"{t}.1" for t in range(1, 6) for _ in (1, 2)]
    assert [e.tick for e in ledger.story("g/L2")] == [1, 2, 3, 4, 5]
    assert ledger.story("g/L") == []
    assert ledger.story("g/L1")[0] == entry("g/L1", "1.1")


def test_a_story_outlives_its_record(ledger: Ledger, reopen: Reopen) -> None:
    ledger.commit([Write("lease", "g/L1", b"1")], [entry("g/L1", "Requested")])
    ledger.commit([Write("lease", "g/L1", None)], [entry("g/L1", "Closed")])
    again = reopen(ledger)
    assert [e.what for e in again.story("g/L1")] == ["Requested", "Closed"]
    again.close()


def test_twin_and_real_write_the_same_log(tmp_path: Path) -> None:
    twin, real = MemoryLedger(), SqliteLedger(tmp_path / "x.db")
    for tick in range(5):
        for one in (twin, real):
            one.commit([Write("lease", "g/L1", b"x")], [entry("g/L1", "step", tick)] * (tick % 3))
    assert list(twin.links()) == list(real.links())
    assert list(twin.load()) == list(real.load())
    real.close()


def chain(*bodies: list[Entry]) -> list[Link]:
    links: list[Link] = []
    for number, entries in enumerate(bodies, 1):
        body = encode_entries(entries)
        previous = links[-1].hash if links else ""
        links.append(Link(number, body, link_hash(previous, body)))
    return links


SOUND = chain([entry("g/L1", "a")], [entry("g/L1", "b")], [entry("g/L2", "c")])


@pytest.mark.parametrize(
    ("changed", "number"),
    [
        ([SOUND[0], SOUND[1]._replace(body=SOUND[1].body.replace(b"b", b"B", 1)), SOUND[2]], 2),
        ([SOUND[0], SOUND[2]], 3),
        ([SOUND[1], SOUND[0], SOUND[2]], 2),
        ([SOUND[0]._replace(hash="0" * 64), *SOUND[1:]], 1),
        (SOUND[1:], 2),
        ([SOUND[0], SOUND[0], *SOUND[1:]], 1),
        ([SOUND[0], SOUND[1]._replace(number=5), SOUND[2]], 5),
    ],
)
def test_a_changed_log_names_the_first_entry_that_does_not_fit(
    changed: list[Link], number: int
) -> None:
    assert verify_links(SOUND) == 3
    with pytest.raises(LedgerError, match=f"entry {number} does not follow"):
        verify_links(changed)


def test_a_rewritten_entry_breaks_every_later_link(ledger: Ledger) -> None:
    """Who rewrites an entry and its own hash is still found by the next link."""
    for what in ("a", "b", "c"):
        ledger.commit([], [entry("g/L1", what)])
    links = list(ledger.links())
    body = encode_entries([entry("g/L1", "forged")])
    links[1] = Link(2, body, link_hash(links[0].hash, body))
    with pytest.raises(LedgerError, match="entry 3"):
        verify_links(links)


# SQLite alone: what only a file can suffer ---------------------------------------------------


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


KEYS = st.sampled_from(["g/L1", "g/L2", "g/L3", "h/L1"])
WRITES = st.builds(
    Write, st.sampled_from(["lease", "unit"]), KEYS, st.none() | st.binary(max_size=6000)
)
ENTRIES = st.builds(entry, KEYS, st.text(max_size=20))


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    commits=st.lists(
        st.tuples(st.lists(WRITES, max_size=5), st.lists(ENTRIES, max_size=4)), max_size=6
    ),
    reopened=st.integers(0, 6),
)
def test_twin_and_real_agree_whatever_is_committed(
    tmp_path: Path,
    commits: list[tuple[list[Write], list[Entry]]],
    reopened: int,
) -> None:
    """And what the commits left adds up: the file opens again."""
    with tempfile.TemporaryDirectory(dir=tmp_path) as folder:
        file = Path(folder) / "site.db"
        twin, real = MemoryLedger(), SqliteLedger(file)
        for number, (writes, entries) in enumerate(commits):
            if number == reopened:
                real.close()
                real = SqliteLedger(file)
            twin.commit(writes, entries)
            real.commit(writes, entries)
        real.close()
        real = SqliteLedger(file)
        assert records(real) == records(twin)
        assert list(real.links()) == list(twin.links())
        for lease in ("g/L1", "g/L2", "g/L3", "h/L1"):
            assert real.story(lease) == twin.story(lease)
        real.close()


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


@pytest.mark.real
def test_what_was_committed_survives_kill_9(path: Path) -> None:
    """DURABLE: whatever a process said it had committed is there after it was killed."""
    program = """
import sys
from pathlib import Path
from shirako.ledger import Entry, Write
from shirako.ledger.sqlite import SqliteLedger
ledger = SqliteLedger(Path(sys.argv[1]))
number = 0
while True:
    number += 1
    key = f"g/L{number}"
    ledger.commit([Write("lease", key, b"x")], [Entry(lease=key, tick=number, what="made")])
    print(number, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdout is not None
        said = [int(writer.stdout.readline()) for _ in range(200)][-1]
        writer.kill()
        rest = writer.stdout.read().split()
        said = int(rest[-1]) if rest else said
    ledger = SqliteLedger(path)
    found = records(ledger)
    assert said >= 200
    assert {("lease", f"g/L{n}") for n in range(1, said + 1)} <= set(found)
    assert len(found) <= said + 1
    assert verify_links(ledger.links()) == len(found)
    ledger.close()
