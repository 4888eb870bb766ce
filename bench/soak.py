"""Whole lease lives at a steady rate for minutes: what grows, and does it get slower?

Three processes over HTTP with the null driver, as in `bench/lifecycle.py`. A short calibration
finds the best rate; then lives begin at a steady rate, half of the best unless `--rate` says
otherwise, whether earlier ones have ended or not (as guests would). A lease is closed as soon as
it is active.

Memory grows by design while tombstones are kept (an hour after a lease's end, so that late copies
of messages are answered right). To tell that from a leak, at the end each actor's ledger is loaded
by a fresh process: what that needs is what the records need, and is the reference of each actor's
memory at the end.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvloop

from bench.restart import in_child
from bench.rig import report
from bench.rig.deployment import UNITS, Deployment
from bench.rig.folder import ACTORS, Folder
from bench.rig.lives import Lives, quantile

IN_FLIGHT = 256
"""Lives at once while the best rate is looked for."""
WAITING_MAX = 4_000
"""Lives begun and not ended; beyond it none is begun, and that is counted."""
REPORT_SECONDS = 10.0


class Soak:
    """Lives begun at a steady rate, and how each of them went."""

    def __init__(self, lives: Lives, rate: float, seconds: float) -> None:
        self.rate = rate
        self.seconds = seconds
        self.ended: list[tuple[float, float]] = []
        """Of each life: when it began, in seconds of the run, and how long it took."""
        self.failed: dict[str, int] = defaultdict(int)
        """Lives that did not end well, by the reason."""
        self.skipped = 0
        self._lives = lives
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        begun = time.perf_counter()
        count = 0
        while (now := time.perf_counter() - begun) < self.seconds:
            while count < now * self.rate:
                count += 1
                self._begin(begun)
            await asyncio.sleep(0.01)
        await asyncio.gather(*self._under_way)

    def _begin(self, begun: float) -> None:
        if len(self._under_way) >= WAITING_MAX:
            self.skipped += 1
            return
        task = asyncio.get_running_loop().create_task(self._live(begun))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _live(self, begun: float) -> None:
        at = time.perf_counter()
        try:
            await self._lives.live(defaultdict(list))
        except Exception as error:
            self.failed[f"{type(error).__name__}: {error}"[:200]] += 1
        else:
            self.ended.append((at - begun, time.perf_counter() - at))

    def tenth(self, number: int) -> list[float]:
        """How long the lives took that began in one tenth of the time, in seconds."""
        width = self.seconds / 10
        return [took for at, took in self.ended if number <= at / width < number + 1]

    @property
    def waiting(self) -> int:
        return len(self._under_way)


class Sizes:
    """Memory of the processes and bytes of the ledgers."""

    def __init__(self, deployment: Deployment) -> None:
        self._folder = deployment.folder
        self._pids = {"guest": os.getpid()}
        self._pids.update({name: child.pid for name, child in deployment.children.items()})

    def rss_mb(self) -> dict[str, float]:
        return {name: self._rss_mb(self._pids[name]) for name in ACTORS}

    def _rss_mb(self, pid: int) -> float:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6

    def ledger_bytes(self) -> dict[str, int]:
        return {name: self._folder.ledger_bytes(name) for name in ACTORS}


async def reporting(soak: Soak, sizes: Sizes) -> None:
    """Says every few seconds how it goes."""
    begun = time.perf_counter()
    while True:
        await asyncio.sleep(REPORT_SECONDS)
        memory = ", ".join(f"{name} {mb:.0f} MB" for name, mb in sizes.rss_mb().items())
        print(
            f"{time.perf_counter() - begun:4.0f} s: {len(soak.ended)} lives, "
            f"{soak.waiting} under way, {sum(soak.failed.values())} failed; {memory}",
            file=sys.stderr,
        )


async def soaked(deployment: Deployment, lives: Lives, rate: float, seconds: float) -> Any:
    """The figures of one run against a deployment that stands."""
    best = (await lives.measure(max(int(seconds * 10), 500), IN_FLIGHT)).rate
    soak = Soak(lives, rate or best / 2, seconds)
    sizes = Sizes(deployment)
    memory, ledgers = sizes.rss_mb(), sizes.ledger_bytes()
    print(f"best rate {best:.0f} lives/s; now {soak.rate:.0f}", file=sys.stderr)
    reports = asyncio.create_task(reporting(soak, sizes))
    await soak.run()
    reports.cancel()
    done = max(len(soak.ended), 1)
    figures = {
        "lives": len(soak.ended),
        "failures": sum(soak.failed.values()),
        "skipped": soak.skipped,
        "lives_per_s": len(soak.ended) / seconds,
        **latencies("start", soak.tenth(0)),
        **latencies("end", soak.tenth(9)),
    }
    for name, mb in sizes.rss_mb().items():
        figures[f"rss_mb.start.{name}"] = memory[name]
        figures[f"rss_mb.end.{name}"] = mb
        figures[f"rss_bytes_per_life.{name}"] = (mb - memory[name]) * 1e6 / done
    for name, size in sizes.ledger_bytes().items():
        figures[f"ledger_bytes.start.{name}"] = ledgers[name]
        figures[f"ledger_bytes.end.{name}"] = size
        figures[f"ledger_bytes_per_life.{name}"] = (size - ledgers[name]) / done
    references = {"best_lives_per_s": best}
    return figures, references, dict(soak.failed)


def latencies(when: str, seconds: Sequence[float]) -> dict[str, float]:
    if not seconds:
        return {}
    values = list(seconds)
    return {
        f"life_ms_p50.{when}": quantile(values, 0.5),
        f"life_ms_p99.{when}": quantile(values, 0.99),
    }


async def main(minutes: float, rate: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="shirako-soak-") as folder:
        deployment = Deployment(Folder.make(Path(folder), UNITS))
        async with deployment as lives:
            figures, references, failed = await soaked(deployment, lives, rate, minutes * 60)
        for name in ACTORS:
            reloaded = in_child("started", Path(folder), name)
            references[f"rss_mb.reloaded.{name}"] = reloaded["rss_mb"]
    ratios = {
        f"rss_to_reloaded.{name}": figures[f"rss_mb.end.{name}"]
        / references[f"rss_mb.reloaded.{name}"]
        for name in ACTORS
    }
    for part in ("p50", "p99"):
        first, last = (figures.get(f"life_ms_{part}.{when}") for when in ("start", "end"))
        if first and last:
            ratios[f"life_ms_{part}.end_to_start"] = last / first
    return {
        "figures": figures,
        "references": references,
        "ratios": ratios,
        "failures": failed,
        "machine": report.machine(),
    }


if __name__ == "__main__":
    parser = report.options(__doc__, "some seconds only")
    parser.add_argument("--minutes", type=float, help="how long; 10, or 0.1 with --quick")
    parser.add_argument("--rate", type=float, default=0.0, help="lives a second; half of the best")
    chosen = parser.parse_args()
    result = uvloop.run(main(chosen.minutes or (0.1 if chosen.quick else 10.0), chosen.rate))
    report.show(result, as_json=chosen.json, groups=(*report.GROUPS, "failures"))
