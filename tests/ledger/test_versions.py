"""Ledgers that older programs wrote are opened, and lose nothing on the way."""

from __future__ import annotations

import gzip
import sqlite3
from pathlib import Path

import pytest

from shirako.ledger import (
    SCHEMA_VERSION,
    Entry,
    LedgerError,
    Link,
    Write,
    decode_entries,
    verify_links,
)
from shirako.ledger.sqlite import SqliteLedger

HERE = Path(__file__).parent
FIRST = sorted(HERE.glob("version_*.sqlite.gz"))
"""A site's ledger of each version, with eight leases, four of them closed."""
RECORDED = [*FIRST, *sorted(HERE.glob("version_*/site.sqlite.gz"))]
"""Those, and those of `tests.ledger.record`."""


@pytest.fixture(
    params=RECORDED, ids=lambda path: str(path.relative_to(HERE)).removesuffix(".sqlite.gz")
)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    written = tmp_path / "site.sqlite"
    written.write_bytes(gzip.decompress(request.param.read_bytes()))
    return written


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    db = sqlite3.connect(path)
    try:
        return db.execute(query).fetchall()
    finally:
        db.close()


def test_each_version_was_recorded() -> None:
    assert [path.name for path in FIRST] == [
        f"version_{number}.sqlite.gz" for number in range(1, SCHEMA_VERSION + 1)
    ]


def test_what_is_recorded_is_opened_and_kept(path: Path) -> None:
    kept = {(row[0], row[1]): row[2] for row in rows(path, "SELECT kind, key, body FROM record")}
    log = [
        Link(*row)  # type: ignore[arg-type]
        for row in rows(path, "SELECT number, body, hash FROM log ORDER BY number")
    ]
    stories: dict[str, list[Entry]] = {}
    for link in log:
        for one in decode_entries(link.body):
            stories.setdefault(one.lease, []).append(one)
    assert len(kept) > 16
    assert len(stories) >= 8
    for _ in range(2):  # migrated, and again as it is now
        ledger = SqliteLedger(path)
        assert {(kind, key): body for kind, key, body in ledger.load()} == kept
        assert list(ledger.links()) == log
        for lease, story in stories.items():
            assert ledger.story(lease) == story
        ledger.close()
    assert rows(path, "PRAGMA user_version") == [(SCHEMA_VERSION,)]


def test_what_is_recorded_goes_on(path: Path) -> None:
    ledger = SqliteLedger(path)
    kind, key, body = next(ledger.load())
    before = verify_links(ledger.links())
    ledger.commit([Write(kind, key, body + b" ")], [Entry(lease=key, tick=1, what="after")])
    ledger.close()
    ledger = SqliteLedger(path)
    assert (kind, key, body + b" ") in list(ledger.load())
    assert verify_links(ledger.links()) == before + 1
    assert ledger.story(key)[-1].what == "after"
    ledger.close()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("UPDATE log SET body = replace(body, 'guest', 'GUEST') WHERE number = 3", "entry 3"),
        ("UPDATE record SET body = CAST(body AS TEXT) WHERE rowid = 1", "of another type"),
        ("DROP TABLE story", "tables"),
    ],
)
def test_an_older_one_that_is_damaged_is_not_migrated(path: Path, change: str, told: str) -> None:
    db = sqlite3.connect(path)
    with db:
        db.execute(change.replace("rowid = 1", "kind = 'delegation'"))
    db.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=told):
        SqliteLedger(path)
    assert path.read_bytes() == before


def test_an_older_one_that_was_cut_is_not_migrated(path: Path) -> None:
    data = path.read_bytes()
    for length in range(0, len(data), 4096):
        path.write_bytes(data[:length])
        if length:
            with pytest.raises(LedgerError, match="damaged"):
                SqliteLedger(path)
            assert path.read_bytes() == data[:length]
