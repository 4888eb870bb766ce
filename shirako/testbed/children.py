"""Starts processes that are written down before they run, and that die with this one."""

from __future__ import annotations

import contextlib
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from shirako.testbed.components import ENVIRONMENT, program
from shirako.testbed.remains import Process, Remains, kill
from shirako.testbed.site import TestbedError

# Waits until its pid is on the list. If we die before that, `read` fails and nothing runs; exec
# keeps pid and start time.
_GATE = 'read -r _ && exec "$@"'


class Child:
    """One process; its standard error, and its output unless `talk`, go to `log`."""

    def __init__(self, what: str, popen: subprocess.Popen[str], log: Path) -> None:
        self._what = what
        self._popen = popen
        self._log = log
        self.process = Process.of(popen.pid)

    def say(self, line: str) -> None:
        """Write a line to its standard input. Raises `TestbedError` when it has ended."""
        assert self._popen.stdin is not None  # noqa: S101 - opened by Children.start
        try:
            self._popen.stdin.write(line + "\n")
            self._popen.stdin.flush()
        except BrokenPipeError:
            raise self.failure() from None

    def hear(self) -> str:
        """The next line of its output. Raises `TestbedError` when it ended without one."""
        assert self._popen.stdout is not None  # noqa: S101 - asked for with talk=True
        line = self._popen.stdout.readline()
        if not line:
            raise self.failure()
        return line.strip()

    def close_pipes(self) -> None:
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                # Closing flushes, and the other end may be dead.
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def ended(self) -> bool:
        return self._popen.poll() is not None

    def check(self) -> None:
        """Raises `TestbedError`, with the end of its log, when it has ended."""
        if self.ended():
            raise self.failure()

    def terminate(self, seconds: float) -> None:
        """Ask it to end, and wait for that; kill it after so many seconds."""
        self._popen.terminate()
        try:
            self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        kill((self.process,))
        self.bury()

    def bury(self) -> None:
        """Reap it; it is dead or about to be."""
        self.close_pipes()
        self._popen.wait()

    def failure(self) -> TestbedError:
        tail = self._log.read_text(errors="replace").splitlines()[-8:]
        return TestbedError(f"{self._what} failed; the end of {self._log}:\n" + "\n".join(tail))


class Children:
    """The processes of one testbed."""

    def __init__(self, remains: Remains) -> None:
        self._remains = remains
        self._children: list[Child] = []
        # "Die with the parent" means the thread that forked, so one that lasts does all of it.
        self._parent = ThreadPoolExecutor(1, thread_name_prefix="testbed-parent")

    def start(self, what: str, argv: list[str], log: Path, *, talk: bool = False) -> Child:
        """Run `argv`; with `talk` its input and output stay open for `say` and `hear`."""
        gated = [program("setpriv"), "--pdeathsig", "KILL", "/bin/sh", "-c", _GATE, "sh", *argv]
        with log.open("a") as output:
            popen = self._parent.submit(
                subprocess.Popen[str],
                gated,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if talk else output,
                stderr=output,
                env=ENVIRONMENT,
                umask=0o022,
                start_new_session=True,  # Ctrl-C is for us, who then stop things in order
                text=True,
            ).result()
        child = Child(what, popen, log)
        self._children.append(child)
        self._remains.add(child.process)
        child.say("run")
        if not talk:
            child.close_pipes()
        return child

    def bury(self) -> None:
        """Reap all; they were killed."""
        for child in self._children:
            child.bury()
        self._parent.shutdown()
