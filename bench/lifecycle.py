"""How many whole lease lives a second: request, ticket, redeem, set-up, active, close, receipt.

The null driver configures nothing, so this measures the brokering itself: signatures, ledgers,
messages. One process (envelopes by function call) and three processes over HTTP on loopback; 1, 16
and 256 lives in flight; with and without leases already held; ledgers in SQLite (synchronous=FULL)
and in a private PostgreSQL server (fsync and synchronous_commit on), over loopback. What is
compared stands at the same time and takes turns.

References in the same run: bare Ed25519 sign+verify pairs, bare aiohttp POST round trips, both
before and after all else; for PostgreSQL the same with SQLite.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench.rig import report
from bench.rig.deployment import UNITS, Deployment, Turns, cpu_ratio, rate_ratio
from bench.rig.folder import Folder, new_database, server_settings
from bench.rig.lives import Measured, joined
from shirako.testbed.ports import free_ports
from shirako.testbed.postgres import Postgres

LEDGERS = {
    "sqlite": ("sqlite",),
    "postgresql": ("postgresql",),
    "both": ("sqlite", "postgresql"),
}
IN_FLIGHT = (1, 16, 256)


class Size:
    """How much is measured."""

    def __init__(self, *, quick: bool) -> None:
        self.lives = {1: 10, 16: 100, 256: 400} if quick else {1: 50, 16: 250, 256: 900}
        """A round, by lives in flight."""
        self.rounds = 1 if quick else 5
        self.held = 0 if quick else 5000
        """Leases, in a deployment of its own that is measured beside the one without."""
        self.reference_seconds = 0.3 if quick else 1.0


# References -----------------------------------------------------------------------------------


class References:
    """Bare operations, measured twice."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._taken: dict[str, list[float]] = {}

    async def measure(self) -> None:
        per_s, cpu_us = ed25519_pairs(self._seconds)
        taken = {
            "ed25519_pairs_per_s": per_s,
            "ed25519_pair_cpu_us": cpu_us,
            "aiohttp_posts_per_s": await aiohttp_posts_per_s(self._seconds),
        }
        for name, value in taken.items():
            self._taken.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        return {name: statistics.mean(values) for name, values in self._taken.items()}


def ed25519_pairs(seconds: float) -> tuple[float, float]:
    """Pairs of a signature and a verification of 1 KB, a second; CPU microseconds of each."""
    key = Ed25519PrivateKey.generate()
    public, message = key.public_key(), b"x" * 1024
    begun, spent, done = time.perf_counter(), time.process_time(), 0
    while (elapsed := time.perf_counter() - begun) < seconds:
        public.verify(key.sign(message), message)
        done += 1
    return done / elapsed, (time.process_time() - spent) / done * 1e6


async def aiohttp_posts_per_s(seconds: float) -> float:
    """Round trips to another process, one at a time, 1 KB each way."""
    port = next(free_ports(("127.0.0.1",), seed="posts"))
    child = subprocess.Popen([sys.executable, __file__, "--serve", str(port)])
    try:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{port}/"
            for _ in range(400):
                try:
                    await session.post(url, data=b"x")
                    break
                except aiohttp.ClientError:
                    await asyncio.sleep(0.05)
            begun, done = time.perf_counter(), 0
            while (elapsed := time.perf_counter() - begun) < seconds:
                async with session.post(url, data=b"x" * 1024) as response:
                    await response.read()
                done += 1
            return done / elapsed
    finally:
        child.terminate()
        child.wait()


def serve(port: int) -> None:
    async def echo(request: web.Request) -> web.Response:
        return web.Response(body=await request.read())

    app = web.Application()
    app.router.add_post("/", echo)
    web.run_app(app, host="127.0.0.1", port=port, print=None, loop=uvloop.new_event_loop())


# Lives ----------------------------------------------------------------------------------------


async def one_process(path: Path, size: Size) -> dict[int, list[Measured]]:
    """By lives in flight, with SQLite."""
    turns = Turns({"1p": Deployment(Folder.make(path, UNITS), processes=1)})
    async with turns:
        return {
            in_flight: (await turns.measure(["1p"], size.lives[in_flight], in_flight, size.rounds))[
                "1p"
            ]
            for in_flight in IN_FLIGHT
        }


async def three_processes(
    path: Path, size: Size, ledgers: tuple[str, ...], server: Postgres | None
) -> dict[tuple[str, int, int], list[Measured]]:
    """By ledger, lives in flight, and leases held meanwhile."""
    deployments: dict[str, Deployment] = {}
    urls = {"sqlite": ""}
    if server is not None:
        urls["postgresql"] = new_database(server, "lives", path / "passwords")
    for ledger in ledgers:
        folder = Folder.make(path / ledger, UNITS, ledger=urls[ledger])
        deployments[ledger] = Deployment(folder, server=server if urls[ledger] else None)
    if size.held and "sqlite" in ledgers:
        deployments["held"] = Deployment(Folder.make(path / "held", UNITS))
    found: dict[tuple[str, int, int], list[Measured]] = {}
    async with Turns(deployments) as turns:
        if "held" in deployments:
            await turns.lives["held"].hold(size.held)
        for in_flight in IN_FLIGHT:
            kinds = list(deployments) if in_flight == max(IN_FLIGHT) else list(ledgers)
            runs = await turns.measure(kinds, size.lives[in_flight], in_flight, size.rounds)
            for kind, measured in runs.items():
                key = ("sqlite", in_flight, size.held) if kind == "held" else (kind, in_flight, 0)
                found[key] = measured
    return found


def name_of(ledger: str, in_flight: int, held: int) -> str:
    """Of a case with three processes; what is not said is SQLite, and no leases held."""
    words = ["3p", str(in_flight)]
    if ledger != "sqlite":
        words.insert(0, ledger)
    if held:
        words.append(str(held))
    return ".".join(words)


async def main(*, quick: bool, ledgers: tuple[str, ...]) -> dict[str, Any]:
    size = Size(quick=quick)
    bare = References(size.reference_seconds)
    figures: dict[str, float] = {}
    settings: dict[str, str] = {}
    alone: dict[int, list[Measured]] = {}
    with tempfile.TemporaryDirectory(prefix="shirako-bench-") as name, ExitStack() as stack:
        await bare.measure()
        server = stack.enter_context(Postgres()) if "postgresql" in ledgers else None
        if server is not None:
            settings = server_settings(server)
        if "sqlite" in ledgers:
            alone = await one_process(Path(name) / "1p", size)
        found = await three_processes(Path(name), size, ledgers, server)
        await bare.measure()
    for in_flight, runs in alone.items():
        figures |= joined(runs).told(f"1p.{in_flight}")
    for key, runs in found.items():
        figures |= joined(runs).told(name_of(*key))
    references = bare.means()
    return {
        "figures": figures,
        "references": references,
        "ratios": ratios_of(figures, references) | comparisons(found, size.held),
        "machine": report.machine(**settings),
    }


def ratios_of(figures: dict[str, float], references: dict[str, float]) -> dict[str, float]:
    """To the bare operations."""
    ratios = {}
    for name in ("1p.256", "3p.256", "postgresql.3p.256"):
        if f"lives_per_s.{name}" not in figures:
            continue
        rate, cpu_ms = figures[f"lives_per_s.{name}"], figures[f"cpu_ms_per_life.{name}"]
        ratios[f"lives_per_ed25519_pair.{name}"] = rate / references["ed25519_pairs_per_s"]
        ratios[f"lives_per_post.{name}"] = rate / references["aiohttp_posts_per_s"]
        ratios[f"cpu_in_ed25519_pairs.{name}"] = cpu_ms * 1000 / references["ed25519_pair_cpu_us"]
    return ratios


def comparisons(found: dict[tuple[str, int, int], list[Measured]], held: int) -> dict[str, float]:
    """Of what took turns."""
    ratios = {}
    for in_flight in IN_FLIGHT:
        sqlite, postgresql = (found.get((kind, in_flight, 0)) for kind in LEDGERS["both"])
        if sqlite and postgresql:
            ratios[f"postgresql_to_sqlite.3p.{in_flight}"] = rate_ratio(postgresql, sqlite)
            ratios[f"cpu_postgresql_to_sqlite.3p.{in_flight}"] = cpu_ratio(postgresql, sqlite)
    if held and (with_held := found.get(("sqlite", 256, held))):
        ratios[f"with_{held}_held_to_without.3p"] = rate_ratio(with_held, found["sqlite", 256, 0])
    return ratios


if __name__ == "__main__":
    parser = report.options(__doc__, "fewer lives a case, one round of each, none held")
    parser.add_argument("--ledger", choices=LEDGERS, default="both", help="default: both")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve:
        serve(chosen.serve)
    else:
        result = uvloop.run(main(quick=chosen.quick, ledgers=LEDGERS[chosen.ledger]))
        report.show(result, as_json=chosen.json)
