"""Actor processes that can be killed and stopped, each with a descriptor of its own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from shirako.demo.processes import ActorProcesses, NotUp
from shirako.descriptor import read_descriptor

PATIENCE_SECONDS = 60.0
PAUSE_SECONDS = 0.3

T = TypeVar("T")


class _Processes(ActorProcesses):
    def send(self, name: str, number: signal.Signals) -> None:
        self._running[name].send_signal(number)

    def runs(self, name: str) -> bool:
        return name in self._running


class ActorProcess:
    """One actor: `shirako run` in a process of its own. Its log is `NAME.log` in the folder."""

    def __init__(self, name: str, descriptor: Path) -> None:
        self.name = name
        self._processes = _Processes(read_descriptor(descriptor), descriptor.parent)
        # "die with the parent" means the thread that forked, so one that lasts does all of it
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"starts {name}")
        self.refused_starts: list[str] = []
        """What it said when it would not start."""

    @property
    def url(self) -> str:
        return self._processes.url(self.name)

    def log(self) -> str:
        return self._processes.log_of(self.name).read_text(errors="replace")

    async def start(self) -> None:
        """As a supervisor would: again and again until it is up. Raises `NotUp` in the end."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + PATIENCE_SECONDS
        while True:
            try:
                await self._in_thread(lambda: self._processes.start(self.name))
            except NotUp as error:
                said = self.log().strip().rpartition("\n")[2]
                self.refused_starts.append(said)
                await self.stop()
                if loop.time() > deadline:
                    raise NotUp(f"{self.name} does not start any more; it says: {said}") from error
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                return

    async def kill(self) -> None:
        """`kill -9`."""
        await self._in_thread(lambda: self._processes.kill(self.name))

    async def stop(self) -> None:
        """Ask it to stop, and wait; does nothing when it does not run."""
        await self._in_thread(lambda: self._processes.stop(self.name))

    def send(self, number: signal.Signals) -> None:
        """A signal; nothing when it does not run."""
        if self._processes.runs(self.name):
            self._processes.send(self.name, number)

    def end(self) -> None:
        """Stop it for good, whatever is under way; blocks."""
        self.send(signal.SIGCONT)
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._processes.stop_all()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)
