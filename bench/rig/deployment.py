"""Three actors that run: all in this process, or site and broker each in its own."""

from __future__ import annotations

import asyncio
import os
import resource
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from bench.rig.folder import Folder
from bench.rig.lives import Lives, Measured, joined
from shirako.assembly import running
from shirako.descriptor import read_descriptor
from shirako.testbed.postgres import Postgres

UNITS = 12_000


class Deployment:
    """Actors of a folder, with the guest in this process; in a `with` block, for its lives."""

    def __init__(
        self, folder: Folder, *, processes: int = 3, server: Postgres | None = None
    ) -> None:
        """`server`: the one that keeps the ledgers, if any: its CPU time counts."""
        self.folder = folder
        self.processes = processes
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self._server = server
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Lives:
        path = self.folder.descriptor
        names: tuple[str, ...] = ()
        if self.processes == 3:
            names = ("guest",)
            for name in ("site", "broker"):
                command = [sys.executable, "-m", "shirako", "run", str(path), "--actor", name]
                self.children[name] = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            actors = await self._stack.enter_async_context(running(read_descriptor(path), names))
            guest = next(one.actor for one in actors if one.spec.name == "guest")
            lives = Lives(guest)
            await _until_delegated(lives)
        except BaseException:
            await self.__aexit__()
            raise
        return lives

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        for child in self.children.values():
            child.terminate()
            child.wait()

    def cpu_seconds(self) -> dict[str, float]:
        """Spent until now, by process. This process is the guest's of every deployment."""
        own = resource.getrusage(resource.RUSAGE_SELF)
        used = {"guest" if self.processes == 3 else "all": own.ru_utime + own.ru_stime}
        for name, child in self.children.items():
            used[name] = _cpu_seconds(child.pid)
        if self._server is not None:
            children = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children")
            pids = [self._server.pid, *map(int, children.read_text().split())]
            used["server"] = sum(map(_cpu_seconds, pids))
        return used


async def _until_delegated(lives: Lives) -> None:
    """The broker refuses until the site's delegation has reached it."""
    for _ in range(200):
        try:
            await lives.live(defaultdict(list))
        except RuntimeError:
            await asyncio.sleep(0.1)
        else:
            return
    raise RuntimeError("the broker got no delegation")


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


class Turns:
    """Deployments that stand at the same time and are measured by turns, so that whatever else the
    machine does meets all of them; in a `with` block."""

    def __init__(self, deployments: Mapping[str, Deployment]) -> None:
        self.deployments = deployments
        self.lives: dict[str, Lives] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Turns:
        try:
            for kind, deployment in self.deployments.items():
                self.lives[kind] = await self._stack.enter_async_context(deployment)
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def measure(
        self, kinds: Sequence[str], count: int, in_flight: int, rounds: int
    ) -> dict[str, list[Measured]]:
        """By kind, a run of `count` lives in each round, after one that is not counted."""
        for kind in kinds:
            await self.lives[kind].measure(max(count // 4, in_flight), in_flight)
        runs: dict[str, list[Measured]] = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind in kinds:
                runs[kind].append(await self._measure_once(kind, count, in_flight))
        for kind in kinds:
            rate = joined(runs[kind]).rate
            print(f"{kind}, {in_flight} in flight: {rate:.0f} lives/s", file=sys.stderr)
        return runs

    async def _measure_once(self, kind: str, count: int, in_flight: int) -> Measured:
        deployment = self.deployments[kind]
        before = deployment.cpu_seconds()
        measured = await self.lives[kind].measure(count, in_flight)
        after = deployment.cpu_seconds()
        measured.cpu_ms = {name: (after[name] - before[name]) * 1000 / count for name in after}
        return measured


def rate_ratio(runs: Sequence[Measured], beside: Sequence[Measured]) -> float:
    """The median over rounds of one rate to the other."""
    return statistics.median(one.rate / other.rate for one, other in zip(runs, beside, strict=True))


def cpu_ratio(runs: Sequence[Measured], beside: Sequence[Measured]) -> float:
    """Of the CPU time a life, over all rounds."""
    one, other = joined(runs), joined(beside)
    return sum(one.cpu_ms.values()) / sum(other.cpu_ms.values())
