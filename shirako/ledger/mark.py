"""How many commits were acknowledged, noted beside the ledger: a guard against losing its end.

A write-ahead log that was removed or cut leaves a database that is sound and merely old, and so
does an old copy of the ledger. Going on from there would sell again what is sold. The mark tells:
it is written after each commit, without waiting for the disk. So it survives the death of the
process; after the machine lost power it may be behind, and then guards less, but it is never ahead
of what is on disk. Whoever wants an older state back removes the mark with it.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path


def mark_path(path: Path) -> Path:
    """Where the mark of the ledger `path` is."""
    return path.with_suffix(".mark")


def read_mark(path: Path) -> int:
    """The number of commits that the mark at `path` knows of.

    0 when there is none, or it can not be read: the power may have gone while it was written.
    """
    try:
        number, _, check = path.read_bytes().partition(b" ")
    except FileNotFoundError:
        return 0
    return int(number) if check == _check(number) and number.isdigit() else 0


class Mark:
    """The mark at `path`, held open for writing."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)

    def write(self, commits: int) -> None:
        number = b"%020d" % commits
        with contextlib.suppress(OSError):  # the commit is done: a mark behind only guards less
            os.pwrite(self._file, number + b" " + _check(number), 0)

    def close(self) -> None:
        os.close(self._file)


def _check(number: bytes) -> bytes:
    return b"%08x\n" % zlib.crc32(number)
