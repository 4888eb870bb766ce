"""A small disk that can be filled up: a tmpfs with a file that is only ballast."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shirako.testbed.remains import Mount, Remains

BALLAST = "ballast"


class NoDisk(Exception):
    """The disk could not be made; the message says why."""


class SmallDisk:
    """Mounted at `path`, of `megabytes`; `unmount` takes it away with all that is on it."""

    def __init__(self, path: Path, megabytes: int) -> None:
        self.path = path
        self._megabytes = megabytes
        self._remains = Remains(path.with_name(f"{path.name}.mounts.json"))

    def mount(self) -> None:
        """Raises `NoDisk` unless root may mount here."""
        if os.geteuid() != 0:
            raise NoDisk("a disk of a fixed size has to be mounted, which only root may")
        self.path.mkdir(mode=0o700)
        self._remains.add(Mount(str(self.path)))
        done = subprocess.run(
            [
                "mount",
                "-t",
                "tmpfs",
                "-o",
                f"mode=0700,size={self._megabytes}m",
                "tmpfs",
                self.path,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NoDisk(f"no tmpfs can be mounted at {self.path}: {done.stderr.strip()}")

    def unmount(self) -> None:
        """Does nothing when it is not mounted."""
        self._remains.clear()

    @contextmanager
    def full(self) -> Iterator[None]:
        """Not a page is free, until it is freed again."""
        ballast = self.path / BALLAST
        try:
            with ballast.open("ab") as file:
                self._fill(file.fileno())
            yield
        finally:
            ballast.unlink(missing_ok=True)

    def _fill(self, file: int) -> None:
        while free := self._free():
            try:
                os.posix_fallocate(file, os.fstat(file).st_size, free)
            except OSError as error:
                if error.errno != errno.ENOSPC:  # others took some of it meanwhile: what is left
                    raise

    def _free(self) -> int:
        """Bytes."""
        now = os.statvfs(self.path)
        return now.f_bavail * now.f_frsize
