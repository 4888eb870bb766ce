"""Backups of a ledger in SQLite, and back into one.

The file is built beside the place that it is for, checked once more as a whole, put on disk, and
only then given its name: it is complete or not there, whenever a process is killed.

What is read is one snapshot. Neither the actor that goes on to commit meanwhile nor its lock is in
the way: readers of the write-ahead log stop no writer.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from shirako.ledger import SCHEMA_VERSION, LedgerError, Link, Total, Write, last_tick
from shirako.ledger.copies import Copy, Progress, Source
from shirako.ledger.inspection import (
    UNREADABLE,
    damaged,
    inspect_file,
    read_links,
    read_records,
    unusable,
)
from shirako.ledger.mark import mark_path, read_mark
from shirako.ledger.schema import MIGRATIONS, Balance, add_functions, read_balance
from shirako.ledger.sqlite import take_lock
from shirako.ledger.wal import index_path, wal_path


@contextmanager
def reading_marked(path: Path) -> Iterator[Source]:
    """The ledger of an actor as of one moment, with nothing missing that it has acknowledged.

    Raises `LedgerError`.
    """
    # taken first: the snapshot is newer, and so has to hold at least what was acknowledged by now
    marked = read_mark(mark_path(path))
    with reading_file(path) as source:
        if source.total.commits < marked:
            raise damaged(
                path, f"it ends with commit {source.total.commits}, commit {marked} is missing"
            )
        yield source


@contextmanager
def reading_file(path: Path) -> Iterator[Source]:
    """The same of a SQLite ledger by itself, such as a backup; an older one as it is today."""
    if not path.exists() or path.stat().st_size == 0:
        raise LedgerError(f"{path} is not there or empty")
    try:
        with ExitStack() as stack:
            where = f"{path.resolve().as_uri()}?mode=ro"
            db = stack.enter_context(
                closing(sqlite3.connect(where, uri=True, isolation_level=None))
            )
            db.execute("BEGIN")
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if not 1 <= version <= SCHEMA_VERSION:
                raise LedgerError(
                    f"{path} has schema {version}, this program knows 1 to {SCHEMA_VERSION}: "
                    "is it a ledger, and of no newer program?"
                )
            if version < SCHEMA_VERSION:
                inspect_file(path)
                db = stack.enter_context(_migrated(db, version))
            balance = read_balance(db)
            last = "SELECT number, body, hash FROM log ORDER BY number DESC LIMIT 1"
            row = db.execute(last).fetchone()
            tick = last_tick(Link(*row) if row else None)

            def find(kind: str, key: str) -> bytes | None:
                query = "SELECT body FROM record WHERE kind = ? AND key = ?"
                found = db.execute(query, (kind, key)).fetchone()
                return None if found is None else bytes(found[0])

            yield Source(balance.total, tick, read_records(db), read_links(db), find)
    except UNREADABLE as error:
        raise unusable(path, error) from error


def kinds_of(path: Path) -> tuple[str, ...]:
    """The kinds of records in a SQLite ledger."""
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
        return tuple(str(kind) for (kind,) in db.execute("SELECT DISTINCT kind FROM record"))


@contextmanager
def _migrated(old: sqlite3.Connection, version: int) -> Iterator[sqlite3.Connection]:
    """A copy of an older ledger with the tables of today; the old one stays as it is."""
    with (
        tempfile.TemporaryDirectory(prefix="shirako-") as folder,
        closing(sqlite3.connect(Path(folder) / "ledger", isolation_level=None)) as db,
    ):
        old.backup(db)
        add_functions(db)
        for script in MIGRATIONS[version:]:
            db.executescript(script)
        yield db


def write_file(
    target: Path,
    source: Source,
    writes: Sequence[Write],
    tell: Progress,
    *,
    replace: bool = False,
) -> Total:
    """Make `target` a ledger of all that is in the source, with one commit more, of `writes`.

    Nobody else may read it. It is there whole or not at all. Raises `LedgerError`, also when
    `target` is there already, unless it is to be replaced.
    """
    if not replace and target.exists():
        raise LedgerError(f"{target} is there already: name another file, or say --force")
    part = target.with_name(f".{target.name}.part")
    try:
        with _building(part) as descriptor:
            total = _fill(part, source, writes, tell)
            inspect_file(part)
            os.fsync(descriptor)
            if replace:
                part.replace(target)
            else:
                try:
                    target.hardlink_to(part)  # unlike a renaming, this takes no other's place
                except FileExistsError:
                    raise LedgerError(f"{target} has come into being meanwhile") from None
                part.unlink()
            _sync_folder(target.parent)
    except OSError as error:
        raise LedgerError(f"{target} can not be written: {error}") from error
    except UNREADABLE as error:
        raise LedgerError(f"{target} can not be written: {error}") from error
    return total


@contextmanager
def _building(part: Path) -> Iterator[int]:
    """An empty file of our own; what a killed process has left there is overwritten."""
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LedgerError(f"another process is writing {part}") from None
        os.fchmod(descriptor, 0o600)
        os.ftruncate(descriptor, 0)
        try:
            yield descriptor
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fill(part: Path, source: Source, writes: Sequence[Write], tell: Progress) -> Total:
    with closing(sqlite3.connect(part, isolation_level=None)) as db:
        # nobody sees it before it is whole and on disk, so nothing has to be undone in it
        db.execute("PRAGMA journal_mode=OFF")
        db.execute("PRAGMA synchronous=OFF")
        db.execute("BEGIN")
        add_functions(db)
        for script in MIGRATIONS:
            for statement in _statements(script):
                db.execute(statement)
        db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        copy = Copy(source, writes, tell)
        for records in copy.records():
            db.executemany("INSERT INTO record VALUES (?, ?, ?, ?)", records)
        for links, stories in copy.links():
            db.executemany("INSERT INTO log VALUES (?, ?, ?)", links)
            db.executemany("INSERT INTO story VALUES (?, ?)", stories)
        total = copy.check()
        balance = Balance(*total, stories=copy.stories, story_sums=copy.story_sums)
        db.execute(
            "UPDATE balance SET commits = ?, records = ?, record_sums = ?, links = ?, head = ?, "
            "stories = ?, story_sums = ?, sum = ?",
            (*balance, balance.sum),
        )
        db.execute("COMMIT")
    return total


def _statements(script: str) -> Iterator[str]:
    """The statements of a script, which `executescript` would not run in our transaction."""
    statement = ""
    for piece in script.split(";"):
        statement += piece + ";"
        if sqlite3.complete_statement(statement):
            if statement.strip() != ";":
                yield statement
            statement = ""


def check_room_for_file(path: Path) -> None:
    """Raise `LedgerError` unless nothing is there, and nobody uses it."""
    with _locked(path):
        _check_empty(path)


def restore_file(path: Path, source: Source, writes: Sequence[Write], tell: Progress) -> Total:
    """Put all of the source, and `writes`, where there is no ledger yet. Raises `LedgerError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise LedgerError(f"{path} can not be written: {error}") from error
    with _locked(path):
        _check_empty(path)
        for other in (wal_path(path), index_path(path), mark_path(path)):
            other.unlink(missing_ok=True)  # of a ledger without any commit
        return write_file(path, source, writes, tell, replace=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    if not path.parent.is_dir():
        yield
        return
    try:
        lock = take_lock(path)
    except OSError as error:
        raise LedgerError(f"{path} can not be used: {error}") from error
    try:
        yield
    finally:
        os.close(lock)


def _check_empty(path: Path) -> None:
    files = [one for one in (path, wal_path(path), mark_path(path)) if one.exists()]
    if read_mark(mark_path(path)) == 0 and not any(one.stat().st_size for one in files):
        return
    if path.exists() and path.stat().st_size and read_mark(mark_path(path)) == 0:
        try:
            if inspect_file(path) == 0:
                return
        except LedgerError:
            pass  # whatever it is, it is somebody's
    files += [one for one in (index_path(path),) if one.exists()]
    names, old = shlex.join(map(str, files)), shlex.quote(str(path.parent / "old"))
    raise LedgerError(
        f"{path} is not empty: a backup takes no ledger's place. Keep what is there, it may be "
        f"newer than the backup: mkdir -p {old} && mv {names} {old}"
    )
