"""Backups: a ledger as one moment left it, in one portable file, and back into a ledger.

A backup is a SQLite ledger, whatever kind of ledger it was taken from and is brought back into:
records and log are copied one by one, each checked against its checksum and the hash chain as it
is read, the sums of all of them at the end. The file is built beside the place that it is for,
checked once more as a whole, put on disk, and only then given its name: it is complete or not
there, whenever a process is killed.

What is read is one snapshot. Neither the actor that goes on to commit meanwhile nor its lock is in
the way: in SQLite readers of the write-ahead log stop no writer.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from shirako.ledger import (
    SCHEMA_VERSION,
    LedgerError,
    Link,
    Total,
    Write,
    decode_entries,
    last_tick,
    link_hash,
)
from shirako.ledger.inspection import (
    UNREADABLE,
    damaged,
    inspect_file,
    read_links,
    read_records,
    unusable,
)
from shirako.ledger.mark import mark_path, read_mark
from shirako.ledger.opening import SERVERS
from shirako.ledger.schema import MIGRATIONS, Balance, add_functions, read_balance, story_sum
from shirako.ledger.sqlite import take_lock
from shirako.ledger.sums import record_sum, story_key
from shirako.ledger.wal import index_path, wal_path

CHUNK_ROWS = 1000

Progress = Callable[[int, int], None]
"""Called with the rows done and the rows there are."""

T = TypeVar("T")


def _finds_nothing(_kind: str, _key: str) -> bytes | None:
    return None


class Source(NamedTuple):
    """What a copy is made of: a ledger as one commit left it."""

    total: Total
    tick: int
    """The last one that the log names; 0 when it is empty."""
    records: Iterable[tuple[str, str, bytes]]
    links: Iterable[Link]
    find: Callable[[str, str], bytes | None] = _finds_nothing
    """The body of the record of this kind and key; None: there is none."""


class Story(NamedTuple):
    """That link `number` tells of a lease."""

    lease: int
    number: int


@contextmanager
def reading(where: str | Path, actor: str) -> Iterator[Source]:
    """The ledger of `actor` at a path or URL as of one moment, whether the actor runs or not.

    Raises `LedgerError`; what is damaged may show only while it is read.
    """
    if isinstance(where, str) and where.startswith(SERVERS):
        # only who uses a server needs its client library, which takes a while to import
        from shirako.ledger.postgresql.copying import reading_server

        with reading_server(where, actor) as source:
            yield source
        return
    path = Path(where)
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


class Copy:
    """What goes from a source into a ledger, chunk by chunk, checked and counted on the way.

    First all `records`, then all `links`, then `check`. `writes` take the place of what the source
    has under the same names, as one commit more would.
    """

    def __init__(self, source: Source, writes: Sequence[Write], tell: Progress) -> None:
        self._source = source
        self._writes = {(kind, key): body for kind, key, body in writes}
        self._tell = tell
        self._done = 0
        self._read = Total(source.total.commits, 0, 0, 0, "")
        """What the source turns out to add up to."""
        self._records = self._sums = 0
        self.stories = self.story_sums = 0

    def records(self) -> Iterator[list[tuple[str, str, int, bytes]]]:
        """Rows of kind, key, checksum and body."""
        for rows in _chunks(self._all_records()):
            yield rows
            self._progress(len(rows))

    def _all_records(self) -> Iterator[tuple[str, str, int, bytes]]:
        count = sums = 0
        for kind, key, body in self._source.records:
            check = record_sum(kind, key, body)
            count, sums = count + 1, sums + check
            if (kind, key) not in self._writes:
                yield self._counted(kind, key, check, body)
        self._read = self._read._replace(records=count, record_sums=sums)
        for (kind, key), wanted in self._writes.items():
            if wanted is not None:
                yield self._counted(kind, key, record_sum(kind, key, wanted), wanted)

    def _counted(self, kind: str, key: str, check: int, body: bytes) -> tuple[str, str, int, bytes]:
        self._records, self._sums = self._records + 1, self._sums + check
        return kind, key, check, body

    def links(self) -> Iterator[tuple[list[Link], list[Story]]]:
        """Links, and what they tell of."""
        for links in _chunks(self._all_links()):
            stories = [
                Story(lease, link.number)
                for link in links
                for lease in {story_key(entry.lease) for entry in decode_entries(link.body)}
            ]
            self.stories += len(stories)
            self.story_sums += sum(story_sum(*story) for story in stories)
            yield links, stories
            self._progress(len(links))

    def _all_links(self) -> Iterator[Link]:
        number, head = 0, ""
        for link in self._source.links:
            if link.number != number + 1 or link.hash != link_hash(head, link.body):
                raise LedgerError(
                    f"the log was changed: entry {link.number} does not follow from {number}"
                )
            number, head = link.number, link.hash
            yield link
        self._read = self._read._replace(links=number, head=head)

    def check(self) -> Total:
        """What the copy adds up to; raises `LedgerError` unless the source was whole."""
        wanted = self._source.total
        for name, said, found in zip(Total._fields, wanted, self._read, strict=True):
            if said != found:
                raise LedgerError(
                    f"the ledger that is copied is damaged: {name.replace('_', ' ')}: "
                    f"{said} were stored, {found} are there"
                )
        return wanted._replace(
            commits=wanted.commits + 1, records=self._records, record_sums=self._sums
        )

    def _progress(self, rows: int) -> None:
        self._done += rows
        self._tell(self._done, self._source.total.records + self._source.total.links)


def _chunks(rows: Iterable[T]) -> Iterator[list[T]]:
    left = iter(rows)
    while chunk := list(islice(left, CHUNK_ROWS)):
        yield chunk


def check_room(where: str | Path, actor: str) -> None:
    """Raise `LedgerError` unless a ledger can be put there now: nothing is, and nobody uses it."""
    if isinstance(where, str) and where.startswith(SERVERS):
        from shirako.ledger.postgresql.copying import check_room_on_server

        check_room_on_server(where, actor)
        return
    with _locked(Path(where)):
        _check_empty(Path(where))


def restore(
    where: str | Path, actor: str, source: Source, writes: Sequence[Write], tell: Progress
) -> Total:
    """Put all of the source, and `writes`, where there is no ledger of `actor` yet.

    It is there whole or not at all. Raises `LedgerError`, also while the actor runs.
    """
    if isinstance(where, str) and where.startswith(SERVERS):
        from shirako.ledger.postgresql.copying import restore_on_server

        return restore_on_server(where, actor, source, writes, tell)
    path = Path(where)
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
