"""What mutual TLS costs: whole lease lives a second with it, beside the same without.

Three processes with the null driver, as in `bench/lifecycle.py`, 16 and 256 lives in flight; with
and without TLS take turns, so that whatever else the machine does meets both. The reference is the
run without TLS; bare handshakes a second, with certificates at both ends, say what a new connection
costs, of which actors make few.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import ssl
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import uvloop

from bench import lifecycle
from bench.lifecycle import ACTORS, Deployment, Lives, Measured, quantile
from shirako.certificates import client_context, issue, make_authority, server_context
from shirako.clock import RealClock, utc

CERTIFICATES = '<tls certificates="certs" mutual="true"/>'
KINDS = ("plain", "tls")


def make_certificates(folder: Path) -> None:
    """An authority, and a certificate for each actor."""
    now = utc(RealClock().tick())
    make_authority(folder, "bench", now, 30)
    for name in ACTORS:
        issue(folder, name, ("127.0.0.1",), now, 20)


def secured(descriptor: str) -> str:
    """A template of `bench/lifecycle.py`, with https urls and certificates."""
    return descriptor.replace("http://", "https://").replace(
        "</actors>", f"{CERTIFICATES}</actors>"
    )


class Pair:
    """The same deployment twice, without TLS and with it; both stand by while one is measured."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = AsyncExitStack()
        self.deployments: dict[str, Deployment] = {}
        self.lives: dict[str, Lives] = {}

    async def __aenter__(self) -> Pair:
        template = lifecycle.DESCRIPTOR
        for kind in KINDS:
            folder = self._folder / kind
            folder.mkdir()
            if kind == "tls":
                make_certificates(folder / "certs")
                lifecycle.DESCRIPTOR = secured(template)
            self.deployments[kind] = Deployment(folder, processes=3)
            try:
                lives = await self._stack.enter_async_context(self.deployments[kind])
            finally:
                lifecycle.DESCRIPTOR = template
            self.lives[kind] = lives
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def measure(self, kind: str, count: int, in_flight: int) -> Measured:
        deployment = self.deployments[kind]
        before = deployment.cpu_seconds()
        measured = await self.lives[kind].measure(count, in_flight)
        after = deployment.cpu_seconds()
        measured.cpu_ms = {name: (after[name] - before[name]) * 1000 / count for name in after}
        return measured


async def handshakes_per_s(folder: Path, seconds: float) -> float:
    """Connections with certificates at both ends, one after the other, in one process."""
    make_certificates(folder)
    site = server_context(folder / "site.pem", folder / "site.key", folder / "ca.pem")
    guest = client_context(folder / "ca.pem", folder / "guest.pem", folder / "guest.key")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=site)
    port = server.sockets[0].getsockname()[1]
    begun, done = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begun) < seconds:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=guest)
        writer.write(b"x")
        await reader.read()
        writer.close()
        done += 1
    server.close()
    await server.wait_closed()
    return done / elapsed


def joined(runs: list[Measured]) -> Measured:
    """Several runs as one."""
    steps: dict[str, list[float]] = defaultdict(list)
    for run in runs:
        for step, values in run.steps.items():
            steps[step] += values
    whole = Measured(sum(run.lives for run in runs), sum(run.seconds for run in runs), steps)
    whole.cpu_ms = {
        name: sum(run.cpu_ms[name] * run.lives for run in runs) / whole.lives
        for name in runs[0].cpu_ms
    }
    return whole


async def main(*, quick: bool) -> dict[str, Any]:
    counts = {16: 200, 256: 800} if quick else {16: 800, 256: 3000}
    rounds = 2 if quick else 3
    figures: dict[str, float] = {}
    references: dict[str, float] = {}
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="shirako-bench-") as folder:
        async with Pair(Path(folder)) as pair:
            for in_flight, count in counts.items():
                runs: dict[str, list[Measured]] = {kind: [] for kind in KINDS}
                for kind in KINDS:
                    await pair.measure(kind, count // 4, in_flight)  # connections, caches
                for _ in range(rounds):
                    for kind in KINDS:
                        runs[kind].append(await pair.measure(kind, count, in_flight))
                found = {kind: joined(runs[kind]) for kind in KINDS}
                for kind, told in (("plain", references), ("tls", figures)):
                    name = f"{kind}.{in_flight}"
                    measured = found[kind]
                    told[f"lives_per_s.{name}"] = measured.rate
                    told[f"cpu_ms_per_life.{name}"] = sum(measured.cpu_ms.values())
                    for step, values in measured.steps.items():
                        told[f"{step}_ms_p50.{name}"] = statistics.median(values) * 1000
                        told[f"{step}_ms_p99.{name}"] = quantile(values, 0.99)
                    print(f"{name}: {measured.rate:.0f} lives/s", file=sys.stderr)
                ratios[f"lives_tls_to_plain.{in_flight}"] = found["tls"].rate / found["plain"].rate
                spent = {kind: sum(found[kind].cpu_ms.values()) for kind in KINDS}
                ratios[f"cpu_tls_to_plain.{in_flight}"] = spent["tls"] / spent["plain"]
        bare = Path(folder) / "bare"
        references["handshakes_per_s"] = await handshakes_per_s(bare, 0.5 if quick else 2.0)
    return {
        "figures": figures,
        "references": references,
        "ratios": ratios,
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "openssl": ssl.OPENSSL_VERSION,
        },
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer lives a case")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    options = parser.parse_args()
    result = uvloop.run(main(quick=options.quick))
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        for group in ("references", "figures", "ratios"):
            for label, value in result[group].items():
                print(f"{label:44} {value:12.3f}")
