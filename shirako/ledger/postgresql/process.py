"""Which process holds a ledger, in words that another process can check."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import msgspec


class Process(msgspec.Struct, frozen=True, kw_only=True):
    """One process of one boot of one machine; never the name of another one."""

    host: str
    pid: int
    boot: str
    namespace: str
    """The pid namespace: containers of one machine count their processes each for itself."""
    started: int
    """Clock ticks after boot: tells it from a later process with the same pid. 0: not known."""

    @classmethod
    def this(cls) -> Process:
        pid = os.getpid()
        return cls(
            host=socket.gethostname(),
            pid=pid,
            boot=_boot(),
            namespace=_namespace(),
            started=_started(pid) or 0,
        )

    @classmethod
    def read(cls, text: str) -> Process | None:
        """The process that `str()` described; None for what is no description."""
        try:
            return msgspec.json.decode(text, type=cls)
        except msgspec.MsgspecError:
            return None

    def __str__(self) -> str:
        return msgspec.json.encode(self).decode()

    def runs(self) -> bool | None:
        """Whether it still runs; None when that can not be seen from here."""
        if (self.boot, self.namespace) != (_boot(), _namespace()):
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # it is there, and somebody else's
        started = _started(self.pid)
        if not started or not self.started:
            return None
        return started == self.started


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _namespace() -> str:
    return str(Path("/proc/self/ns/pid").readlink())


def _started(pid: int) -> int | None:
    """When a process started; -1 for one that is dead and not yet buried, None if not visible."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None  # also where /proc hides the processes of others
    state, *fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return -1 if state in "ZX" else int(fields[18])
