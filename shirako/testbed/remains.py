"""What a testbed made, written down before it is made, and how to clear it.

`stop` and the clearing up after a killed testbed are the same code: both go through the list. A
process is known by its pid and its start time, a link (bridge, end of a cable) by its name, a
mount by its path. Network, mount and process namespaces have no names here: they end with the
processes in them.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import msgspec

from shirako.testbed.components import program
from shirako.testbed.site import TestbedError

KILL_SECONDS = 10.0
LOGIN_MARK = "SHIRAKO_TESTBED_NODE"
"""In process mode each login carries this variable: the folder of the node it is on."""


class Process(msgspec.Struct, frozen=True, tag=True):
    pid: int
    started: int
    """Clock ticks after boot; with the pid it names one process, even if the pid is reused."""

    @classmethod
    def of(cls, pid: int) -> Process:
        """Raises `ProcessLookupError` when there is none, or only a zombie."""
        started = _start_time(pid)
        if started is None:
            raise ProcessLookupError(f"no process {pid}")
        return cls(pid=pid, started=started)


class Link(msgspec.Struct, frozen=True, tag=True):
    name: str


class Mount(msgspec.Struct, frozen=True, tag=True):
    path: str


class Logins(msgspec.Struct, frozen=True, tag=True):
    """Logins to nodes in process mode: they outlive the sshd that let them in."""

    folder: str
    since: int
    """Start time of the testbed, in clock ticks after boot: whatever is older is no login."""

    def end(self, below: Path | None = None) -> None:
        """End all of them, or those below one node's folder."""
        while found := self._processes(below or Path(self.folder)):
            kill(found)  # again, for what they started meanwhile

    def _processes(self, folder: Path) -> list[Process]:
        """Their sshds, and all that runs with their environment."""
        found = []
        for process in running():
            # Processes end while we look, and others' are closed to us: neither is a login.
            with contextlib.suppress(OSError):
                if process.started >= self.since and _is_login(process, folder):
                    found.append(process)
        return found


Thing = Process | Link | Mount | Logins


class _File(msgspec.Struct):
    boot: str
    things: list[Thing]


class Remains:
    """The list of one testbed, in `file`. Not thread-safe: one thread writes things down."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._things = self._read()

    def add(self, *things: Thing) -> None:
        """Write down what is about to be made."""
        self._things += things
        scratch = self._file.with_suffix(".new")
        scratch.write_bytes(msgspec.json.encode(_File(boot=_boot_id(), things=self._things)))
        scratch.replace(self._file)

    def clear(self) -> int:
        """Remove everything on the list; returns how many things were on it.

        Raises `TestbedError` when something resists; the list is kept then.
        """
        count = len(self._things)
        kill(thing for thing in self._things if isinstance(thing, Process))
        for thing in self._things:
            if isinstance(thing, Logins):
                thing.end()
        _delete_links([thing.name for thing in self._things if isinstance(thing, Link)])
        for thing in reversed(self._things):
            if isinstance(thing, Mount):
                _unmount(thing.path)
        self._file.unlink(missing_ok=True)
        self._things = []
        return count

    def _read(self) -> list[Thing]:
        try:
            stored = msgspec.json.decode(self._file.read_bytes(), type=_File)
        except FileNotFoundError:
            return []
        # After a reboot nothing of it exists, and its pids and start times are other processes'.
        return stored.things if stored.boot == _boot_id() else []


def kill(processes: Iterable[Process]) -> None:
    """Kill these processes and return when they are gone (a zombie is gone).

    Raises `TestbedError` when one still runs after `KILL_SECONDS`.
    """
    with contextlib.ExitStack() as stack:
        handles = {}
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                # The handle is taken first: a pid cannot be reused between check and signal.
                handle = os.pidfd_open(process.pid)
                stack.callback(os.close, handle)
                if _start_time(process.pid) == process.started:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    handles[handle] = process
        deadline = time.monotonic() + KILL_SECONDS
        for handle, process in handles.items():
            if not _ended(handle, deadline - time.monotonic()):
                raise TestbedError(f"process {process.pid} does not die")


def running() -> list[Process]:
    """All processes of the machine."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(ProcessLookupError):
            if entry.name.isdecimal():
                found.append(Process.of(int(entry.name)))
    return found


def _is_login(process: Process, folder: Path) -> bool:
    proc = Path(f"/proc/{process.pid}")
    if proc.stat().st_uid != os.geteuid():
        return False
    # sshd writes its title over its environment, so it is known by where it logs to.
    if (proc / "comm").read_text() == "sshd\n":
        return (proc / "fd/2").readlink().is_relative_to(folder)
    mark = f"{LOGIN_MARK}=".encode()
    for variable in (proc / "environ").read_bytes().split(b"\0"):
        if variable.startswith(mark):
            return Path(os.fsdecode(variable.removeprefix(mark))).is_relative_to(folder)
    return False


def _ended(handle: int, seconds: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def _start_time(pid: int) -> int | None:
    """Start time of a process that runs; None for none or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = stat.rpartition(")")[2].split()  # the name before it may hold anything
    return None if state in "ZX" else int(fields[18])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _delete_links(names: list[str]) -> None:
    present = [name for name in names if Path("/sys/class/net", name).exists()]
    if not present:
        return
    commands = "".join(f"link delete {name}\n" for name in present)
    # -force: cables also vanish by themselves, when the namespace at their other end has ended.
    subprocess.run(
        [program("ip"), "-force", "-batch", "-"], input=commands, text=True, capture_output=True
    )
    left = [name for name in present if Path("/sys/class/net", name).exists()]
    if left:
        raise TestbedError(f"network links cannot be deleted: {', '.join(left)}")


def _unmount(path: str) -> None:
    while os.path.ismount(path):
        # Lazy, because a shell of a curious person may stand in it.
        done = subprocess.run([program("umount"), "--lazy", path], capture_output=True, text=True)
        if done.returncode:
            raise TestbedError(f"cannot unmount {path}: {done.stderr.strip()}")
