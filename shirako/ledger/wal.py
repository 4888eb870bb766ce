"""Damage in SQLite's write-ahead log that SQLite itself takes for a crash.

SQLite reads the log up to the first frame whose checksum fails and silently drops the rest: after
a crash in the middle of a commit that is right, after damage it loses commits that were
acknowledged. The two differ in what is dropped. With `synchronous=FULL` nothing of a transaction
is written before the one ahead of it is on disk; so where frames of *two* transactions are
dropped, the first of them was whole once. A log that was cut, or damaged in its last transaction,
looks exactly as a crash leaves it; `shirako.ledger.mark` guards against that.

Format: https://www.sqlite.org/fileformat2.html#the_write_ahead_log
and https://www.sqlite.org/walformat.html#the_wal_index_file_format
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

_HEADER = struct.Struct(">8I")
_FRAME = struct.Struct(">6I")
_INDEX = struct.Struct("@4I2I")
"""The beginning of the index, in the machine's byte order; the fifth is the last valid frame."""
_MAGIC = 0x377F0682
"""Its last bit tells the byte order of the words that checksums are made of: 1 is big-endian."""
_VERSION = 3007000


class _Header(NamedTuple):
    page_size: int
    salts: tuple[int, int]


class _Frame(NamedTuple):
    page: int
    last: bool
    """It ends a transaction."""


def wal_path(path: Path) -> Path:
    """Where SQLite keeps the log of the database `path`."""
    return path.with_name(f"{path.name}-wal")


def index_path(path: Path) -> Path:
    """Where SQLite keeps what it knows of the log; made anew by whoever opens it first."""
    return path.with_name(f"{path.name}-shm")


def wal_damage(path: Path) -> str:
    """What is wrong with the log of the database `path`, for people; empty when nothing is.

    SQLite has to have read the log: the caller holds a connection that has read something.
    """
    log = wal_path(path)
    if not log.exists() or log.stat().st_size <= _HEADER.size:
        return ""  # the header is on disk before the first frame is written
    with log.open("rb") as file:
        header = _read_header(file.read(_HEADER.size))
        if header is None:
            return "its header is not one"
        valid = _INDEX.unpack_from(index_path(path).read_bytes())[4]
        file.seek(valid * (_FRAME.size + header.page_size), 1)
        if _two_transactions(_frames(file, header)):
            return f"it is damaged after frame {valid}, and commits follow"
    return ""


def _read_header(raw: bytes) -> _Header | None:
    magic, version, page_size, _, salt1, salt2, *sums = _HEADER.unpack(raw)
    words = struct.unpack(f"{'>' if magic & 1 else '<'}6I", raw[:24])
    if magic & ~1 != _MAGIC or version != _VERSION or _checksum(words) != sums:
        return None
    return _Header(page_size, (salt1, salt2))


def _checksum(words: tuple[int, ...]) -> list[int]:
    sum1 = sum2 = 0
    for first, second in zip(words[::2], words[1::2], strict=True):
        sum1 = (sum1 + first + sum2) & 0xFFFFFFFF
        sum2 = (sum2 + second + sum1) & 0xFFFFFFFF
    return [sum1, sum2]


def _frames(file: BinaryIO, header: _Header) -> Iterator[_Frame]:
    """The frames from here on that are of this log.

    Those that an earlier one left behind have another first salt, and a random second one.
    """
    while len(raw := file.read(_FRAME.size)) == _FRAME.size:
        page, size, salt1, salt2, _, _ = _FRAME.unpack(raw)
        if salt1 == header.salts[0] or salt2 == header.salts[1]:
            yield _Frame(page, size != 0)
        file.seek(header.page_size, 1)


def _two_transactions(frames: Iterator[_Frame]) -> bool:
    """Whether more than one transaction is in `frames`, whose contents may be damaged.

    A transaction writes its pages in ascending order, each once (`cache_spill` is off), and every
    transaction of a ledger writes the page of the balance. So a descent is a new transaction, also
    where it is the end of the one before that was damaged.
    """
    last_page, ended = 0, False
    for frame in frames:
        if ended or frame.page <= last_page:
            return True
        last_page, ended = frame.page, frame.last
    return False
