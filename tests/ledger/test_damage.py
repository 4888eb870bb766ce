"""DURABLE: a damaged ledger is refused, or the damage has touched nothing that was stored."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shirako.ledger import Entry, LedgerError, Write, verify_links
from shirako.ledger.sqlite import SqliteLedger
from tests.ledger.conftest import CLOSED, LEASES, MARK, NAME, WAL, Life, Records, files_of

PAGE = 4096
ANYWHERE = st.integers(0, 2**40)
"""An offset, taken modulo the length of the file."""
PAGE_HEADS = st.builds(lambda page, at: page * PAGE + at, st.integers(0, 2**20), st.integers(0, 64))
"""Where SQLite keeps the structure of its pages."""
FILE_HEAD = st.integers(0, 99)
FRAME_HEADS = st.builds(
    lambda frame, at: 32 + frame * (PAGE + 24) + at, st.integers(-1, 2**20), st.integers(-32, 24)
).filter(lambda at: at >= 0)
FLIPS = st.integers(1, 255)


@contextmanager
def laid_out(files: Mapping[str, bytes]) -> Iterator[Path]:
    """The path of a ledger that consists of these files."""
    with tempfile.TemporaryDirectory(prefix="shirako-ledger-") as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        yield Path(folder) / NAME


def flipped(data: bytes, at: int, flip: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]


def records(ledger: SqliteLedger) -> Records:
    return {(kind, key): body for kind, key, body in ledger.load()}


def refused(files: Mapping[str, bytes]) -> str:
    """What is said where these files are opened; empty when they are not refused."""
    with laid_out(files) as path:
        return refusal(path, files)


def refusal(path: Path, files: Mapping[str, bytes]) -> str:
    try:
        SqliteLedger(path).close()
    except LedgerError as error:
        told = str(error)
        assert str(path) in told
        assert "Nothing was changed" in told or "run the newer program" in told
        left = files_of(path.parent)
        assert {n: d for n, d in left.items() if d} == {n: d for n, d in files.items() if d}
        return told
    return ""


def opened(files: Mapping[str, bytes], life: Life) -> Records | None:
    """The records that these files hold, or None when they are refused; never a third thing.

    What is accepted has all its stories as well, and works: it takes a commit and opens again.
    """
    with laid_out(files) as path:
        if refusal(path, files):
            return None
        ledger = SqliteLedger(path)
        found = records(ledger)
        links = list(ledger.links())
        known = list(life.twin.links())
        assert links == known[: len(links)]
        if found == life.last:
            assert links == known
            for lease in life.leases:
                assert ledger.story(lease) == life.twin.story(lease)
        some = list(found.items())[:: max(len(found) // 20, 1)]
        news = [Write(kind, key, body + b" ") for (kind, key), body in some]
        ledger.commit(news, [Entry(lease=lease, tick=1, what="after") for lease in life.leases])
        ledger.close()
        again = SqliteLedger(path)
        assert records(again) == {**found, **{(w.kind, w.key): w.body for w in news}}
        assert verify_links(again.links()) == len(links) + 1
        again.close()
    return found


def test_the_ledger_is_worth_damaging(life: Life) -> None:
    assert len(life.last) >= 2 * LEASES
    assert len(life.leases) >= LEASES
    assert len(life.closed[NAME]) > 100 * PAGE
    assert life.closed.keys() == {NAME, MARK}
    assert len(life.killed[WAL]) > 40 * PAGE
    assert len({len(life.twin.story(lease)) for lease in life.leases}) > 1, CLOSED
    for files in (life.closed, life.killed):
        assert opened(files, life) == life.last
        without = {name: data for name, data in files.items() if name != MARK}
        assert opened(without, life) == life.last


# One byte --------------------------------------------------------------------------------------


@settings(max_examples=250)
@given(at=ANYWHERE | PAGE_HEADS | FILE_HEAD, flip=FLIPS, killed=st.booleans())
@example(at=18, flip=3, killed=True)  # "not write-ahead": SQLite would ignore the log
@example(at=52, flip=1, killed=False)  # "auto-vacuum": all pages would be read in another way
@example(at=63, flip=3, killed=False)  # schema 1, whose migration would run a second time
@example(at=63, flip=2, killed=False)  # schema 0: a new ledger
def test_any_byte_of_the_database(life: Life, at: int, flip: int, killed: bool) -> None:
    files = life.killed if killed else life.closed
    found = opened({**files, NAME: flipped(files[NAME], at, flip)}, life)
    assert found is None or found == life.last


@settings(max_examples=150)
@given(at=ANYWHERE | FRAME_HEADS, flip=FLIPS)
def test_any_byte_of_the_write_ahead_log(life: Life, at: int, flip: int) -> None:
    found = opened({**life.killed, WAL: flipped(life.killed[WAL], at, flip)}, life)
    assert found is None or found == life.last


@settings(max_examples=150)
@given(at=ANYWHERE | FRAME_HEADS, flip=FLIPS)
def test_any_byte_of_the_write_ahead_log_without_a_mark(life: Life, at: int, flip: int) -> None:
    """The one loss that nothing tells from a crash: a part of the very last commit is damaged."""
    damaged = flipped(life.killed[WAL], at, flip)
    found = opened({NAME: life.killed[NAME], WAL: damaged}, life)
    assert found is None or found == life.last or found == life.states[-2]


@settings(max_examples=30)
@given(at=ANYWHERE, flip=FLIPS)
def test_any_byte_of_the_mark(life: Life, at: int, flip: int) -> None:
    """It guards the ledger, and is not needed."""
    found = opened({**life.killed, MARK: flipped(life.killed[MARK], at, flip)}, life)
    assert found is None or found == life.last


# The end is missing ----------------------------------------------------------------------------


@settings(max_examples=60)
@given(length=ANYWHERE, killed=st.booleans())
@example(length=0, killed=False)
@example(length=0, killed=True)  # SQLite would remove the log of an empty database
@example(length=100, killed=False)
@example(length=PAGE, killed=True)
def test_a_database_cut_anywhere(life: Life, length: int, killed: bool) -> None:
    files = life.killed if killed else life.closed
    left = length % len(files[NAME])
    for kept in (files, {name: data for name, data in files.items() if name != MARK}):
        if not (MARK not in kept and WAL not in kept and left == 0):
            # an empty file with nothing beside it is a new ledger
            cut = {**kept, NAME: files[NAME][:left]}
            found = opened(cut, life)
            assert found is None or found == life.last


@settings(max_examples=60)
@given(length=ANYWHERE)
@example(length=0)
@example(length=32)
def test_a_write_ahead_log_cut_anywhere(life: Life, length: int) -> None:
    cut = life.killed[WAL][: length % len(life.killed[WAL])]
    assert opened({**life.killed, WAL: cut}, life) is None


@settings(max_examples=30)
@given(length=ANYWHERE)
@example(length=0)
def test_a_write_ahead_log_cut_anywhere_without_a_mark(life: Life, length: int) -> None:
    """As a crash leaves it: what was committed until then, wholly, and nothing in between."""
    cut = life.killed[WAL][: length % len(life.killed[WAL])]
    found = opened({NAME: life.killed[NAME], WAL: cut}, life)
    assert found in life.states


@pytest.mark.parametrize("lost", [[WAL], [NAME], [NAME, WAL]])
def test_a_file_that_was_removed(life: Life, lost: list[str]) -> None:
    left = {name: data for name, data in life.killed.items() if name not in lost}
    assert refused(left)


def test_an_older_copy_is_told_and_how_to_go_on_from_it(life: Life) -> None:
    older = {**life.earlier, MARK: life.closed[MARK]}
    told = refused(older)
    assert "is this an older copy?" in told
    assert f"commit {len(life.states) - 1} was acknowledged" in told
    mark = told.rsplit("remove ", 1)[1]
    assert Path(mark).name == MARK
    del older[MARK]
    assert opened(older, life) in life.states


# More than a byte ------------------------------------------------------------------------------


@settings(max_examples=60)
@given(at=ANYWHERE, length=st.integers(2, 3 * PAGE), byte=st.sampled_from([0, 0xA5, 0xFF]))
def test_a_stretch_that_was_overwritten(life: Life, at: int, length: int, byte: int) -> None:
    data = life.closed[NAME]
    at %= len(data)
    changed = data[:at] + bytes([byte]) * min(length, len(data) - at) + data[at + length :]
    found = opened({**life.closed, NAME: changed}, life)
    assert found is None or found == life.last


@settings(max_examples=60)
@given(page=st.integers(0, 2**20), gone=st.booleans())
def test_a_page_that_was_not_written(life: Life, page: int, gone: bool) -> None:
    """Sound in itself, and of an earlier commit: a write that the disk lost."""
    now, before = life.closed[NAME], life.earlier[NAME]
    at = page % (len(before) // PAGE) * PAGE
    older = bytes(PAGE) if gone else before[at : at + PAGE]
    changed = now[:at] + older + now[at + PAGE :]
    found = opened({**life.closed, NAME: changed}, life)
    assert found is None or found == life.last


def test_older_pages_of_records_alone_are_refused(life: Life) -> None:
    """Every page that is older is sound in itself."""
    now, before = life.closed[NAME], life.earlier[NAME]
    refusals = []
    for at in range(PAGE, len(before), PAGE):
        if now[at : at + PAGE] != before[at : at + PAGE]:
            changed = now[:at] + before[at : at + PAGE] + now[at + PAGE :]
            files = {**life.closed, NAME: changed}
            refusals.append(refused(files))
            if not refusals[-1]:  # it differs in bytes that mean nothing, behind the last cell
                assert opened(files, life) == life.last
    assert sum(map(bool, refusals)) > 20


@pytest.mark.parametrize("name", [NAME, WAL])
def test_garbage_in_place_of_a_file(life: Life, name: str) -> None:
    assert refused({**life.killed, name: b"no database, and no log of one either" * 400})


# What is told ----------------------------------------------------------------------------------


def test_a_damaged_record_is_named(life: Life) -> None:
    (kind, key), body = max(life.last.items(), key=lambda item: len(item[1]))
    at = life.closed[NAME].rindex(body[:64]) + 30
    told = refused({**life.closed, NAME: flipped(life.closed[NAME], at, 1)})
    assert f"the record {kind} {key}" in told
    assert f"{NAME} is damaged" in told
    assert "put a backup in its place" in told
    assert WAL in told
    assert MARK in told


def test_a_damaged_entry_of_the_log_is_named(life: Life) -> None:
    links = list(life.twin.links())
    link = links[len(links) // 2]
    at = life.closed[NAME].rindex(link.body[:200]) + 12
    told = refused({**life.closed, NAME: flipped(life.closed[NAME], at, 1)})
    assert f"entry {link.number} does not follow" in told


def test_a_damaged_frame_is_named(life: Life) -> None:
    at = 32 + 4 * (PAGE + 24) + 1000
    told = refused({**life.killed, WAL: flipped(life.killed[WAL], at, 1)})
    assert f"{WAL}: it is damaged after frame " in told


def test_a_restored_backup_is_taken(life: Life, tmp_path: Path) -> None:
    """As the refusal tells: all files moved away, the backup in the database's place."""
    path = tmp_path / NAME
    path.write_bytes(life.closed[NAME][: 50 * PAGE])
    (tmp_path / MARK).write_bytes(life.closed[MARK])
    with pytest.raises(LedgerError, match="put a backup in its place"):
        SqliteLedger(path)
    away = tmp_path / "away"
    away.mkdir()
    for name in (NAME, WAL, f"{NAME}-shm", MARK):
        if (tmp_path / name).exists():
            shutil.move(tmp_path / name, away)
    path.write_bytes(life.earlier[NAME])
    ledger = SqliteLedger(path)
    assert records(ledger) in life.states
    ledger.close()
