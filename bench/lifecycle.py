"""How many whole lease lives a second: request, ticket, redeem, set-up, active, close, receipt.

The null driver configures nothing, so this measures the brokering itself: signatures, ledgers
(SQLite, synchronous=FULL), messages. One process (envelopes by function call) and three processes
over HTTP on loopback; 1, 16 and 256 lives in flight; with and without 5,000 leases already held.

References in the same run: bare Ed25519 sign+verify pairs, bare aiohttp POST round trips.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import uvloop
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shirako.actors.actor import Actor
from shirako.assembly import running
from shirako.core.guest import GuestLease, GuestState
from shirako.core.terms import Term
from shirako.descriptor import read_descriptor
from shirako.testbed.ports import free_ports
from shirako.trust import PrivateKey

UNITS = 12_000
TERM_SECONDS = 3600
ACTORS = ("site", "broker", "guest")

DESCRIPTOR = """\
<actors xmlns="urn:shirako:actors:1" state="state">
  <authority name="site" url="http://127.0.0.1:{ports[0]}" key="keys/site.jwk">
    <pool type="node" assignment="first-fit">
      <driver name="null"/><units prefix="n" count="{units}"/>
    </pool>
    <delegation name="share" to="broker" type="node" units="{units}"/>
  </authority>
  <broker name="broker" url="http://127.0.0.1:{ports[1]}" key="keys/broker.jwk"
          allocation="first-come"/>
  <service-manager name="guest" url="http://127.0.0.1:{ports[2]}" key="keys/guest.jwk"
                   demand="static"/>
  <edge from="site" to="broker"/><edge from="broker" to="guest"/>
</actors>
"""


@dataclass
class Measured:
    """One run: its rate, its steps, and what it cost."""

    lives: int
    seconds: float
    steps: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    cpu_ms: dict[str, float] = field(default_factory=dict)
    """CPU milliseconds a life, by process."""

    @property
    def rate(self) -> float:
        return self.lives / self.seconds


class Lives:
    """Lives whole leases against the guest's actor, in this process."""

    def __init__(self, actor: Actor[Any]) -> None:
        self.actor = actor
        self._count = 0
        self._prefix = actor.entropy.fresh_id()

    async def until(self, key: tuple[str, str], *states: GuestState) -> GuestLease:
        async for record in self.actor.changes(key):
            if isinstance(record, GuestLease):
                if record.state in states:
                    return record
                if record.state.final:
                    raise RuntimeError(f"lease ended as {record.state}: {record.reason}")
        raise RuntimeError("the actor stopped")

    async def begin(self) -> tuple[str, str]:
        self._count += 1
        role = self.actor.role
        now = self.actor.clock.tick()
        lease = GuestLease(
            id=f"{self._prefix}{self._count}",
            guest=role.me.party,
            slice="bench",
            type="node",
            units=1,
            least_units=1,
            state=GuestState.NASCENT,
            broker=next(iter(role.brokers.values())),
            term=Term(now, now + TERM_SECONDS),
        )
        await self.actor.submit(lambda r, n: r.request(lease, n, "bench"))
        return lease.key

    async def live(self, steps: dict[str, list[float]]) -> None:
        clock = time.perf_counter
        begun = clock()
        key = await self.begin()
        requested = clock()
        await self.until(key, GuestState.REDEEMING, GuestState.ACTIVE)
        ticketed = clock()
        await self.until(key, GuestState.ACTIVE)
        active = clock()
        await self.actor.submit(lambda r, n: r.close(key, "done", n, "bench"))
        await self.until(key, GuestState.CLOSED)
        closed = clock()
        steps["request"].append(requested - begun)
        steps["ticket"].append(ticketed - requested)
        steps["redeem"].append(active - ticketed)
        steps["to_active"].append(active - requested)
        steps["close"].append(closed - active)

    async def hold(self, count: int) -> None:
        """Make `count` leases and keep them."""
        for start in range(0, count, 500):
            keys = await asyncio.gather(*(self.begin() for _ in range(min(500, count - start))))
            await asyncio.gather(*(self.until(key, GuestState.ACTIVE) for key in keys))

    async def measure(self, count: int, in_flight: int) -> Measured:
        steps: dict[str, list[float]] = defaultdict(list)
        left = iter(range(count))

        async def worker() -> None:
            for _ in left:
                await self.live(steps)

        begun = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(in_flight)))
        return Measured(count, time.perf_counter() - begun, steps)


class Deployment:
    """Three actors in `folder`: all in this process, or site and broker each in its own."""

    def __init__(self, folder: Path, *, processes: int) -> None:
        self.folder = folder
        self.processes = processes
        self.children: dict[str, subprocess.Popen[bytes]] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Lives:
        ports = free_ports(("127.0.0.1",), seed=str(self.folder))
        text = DESCRIPTOR.format(ports=[next(ports) for _ in ACTORS], units=UNITS)
        path = self.folder / "actors.xml"
        path.write_text(text)
        for name in ACTORS:
            PrivateKey.generate().write(self.folder / "keys" / f"{name}.jwk")
        descriptor = read_descriptor(path)
        names: tuple[str, ...] = ()
        if self.processes == 3:
            names = ("guest",)
            for name in ("site", "broker"):
                command = [sys.executable, "-m", "shirako", "run", str(path), "--actor", name]
                self.children[name] = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        actors = await self._stack.enter_async_context(running(descriptor, names))
        guest = next(one.actor for one in actors if one.spec.name == "guest")
        lives = Lives(guest)
        await self._until_delegated(lives)
        return lives

    async def _until_delegated(self, lives: Lives) -> None:
        """The broker refuses until the site's delegation has reached it."""
        for _ in range(200):
            try:
                await lives.live(defaultdict(list))
            except RuntimeError:
                await asyncio.sleep(0.1)
            else:
                return
        raise RuntimeError("the broker got no delegation")

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()
        for child in self.children.values():
            child.terminate()
            child.wait()

    def cpu_seconds(self) -> dict[str, float]:
        own = resource.getrusage(resource.RUSAGE_SELF)
        used = {"guest" if self.processes == 3 else "all": own.ru_utime + own.ru_stime}
        for name, child in self.children.items():
            fields = Path(f"/proc/{child.pid}/stat").read_text().rsplit(")", 1)[1].split()
            used[name] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        return used


async def one(processes: int, in_flight: int, held: int, count: int) -> Measured:
    with tempfile.TemporaryDirectory(prefix="shirako-bench-") as folder:
        deployment = Deployment(Path(folder), processes=processes)
        async with deployment as lives:
            await lives.measure(min(100, count), in_flight)
            await lives.hold(held)
            before = deployment.cpu_seconds()
            measured = await lives.measure(count, in_flight)
            after = deployment.cpu_seconds()
        measured.cpu_ms = {name: (after[name] - before[name]) * 1000 / count for name in after}
        return measured


def ed25519_pairs_per_s(seconds: float) -> float:
    key = Ed25519PrivateKey.generate()
    public, message = key.public_key(), b"x" * 1024
    begun, done = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begun) < seconds:
        public.verify(key.sign(message), message)
        done += 1
    return done / elapsed


async def aiohttp_posts_per_s(seconds: float) -> float:
    """Round trips to another process, one at a time, 1 KB each way."""
    port = next(free_ports(("127.0.0.1",), seed="posts"))
    child = subprocess.Popen([sys.executable, __file__, "--serve", str(port)])
    try:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{port}/"
            for _ in range(200):
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


def quantile(values: list[float], part: float) -> float:
    return sorted(values)[min(int(len(values) * part), len(values) - 1)] * 1000


async def main(*, quick: bool) -> dict[str, Any]:
    seconds = 0.5 if quick else 2.0
    references = {
        "ed25519_pairs_per_s": ed25519_pairs_per_s(seconds),
        "aiohttp_posts_per_s": await aiohttp_posts_per_s(seconds),
    }
    figures: dict[str, float] = {}
    counts = {1: 60, 16: 400, 256: 1500} if quick else {1: 300, 16: 2000, 256: 6000}
    cases = [(p, f, 0) for p in (1, 3) for f in (1, 16, 256)]
    for processes, in_flight, held in [*cases, (1, 256, 5000), (3, 256, 5000)]:
        measured = await one(processes, in_flight, held, counts[in_flight])
        name = f"{processes}p.{in_flight}" + (f".{held}" if held else "")
        figures[f"lives_per_s.{name}"] = measured.rate
        for step, values in measured.steps.items():
            figures[f"{step}_ms_p50.{name}"] = statistics.median(values) * 1000
            figures[f"{step}_ms_p99.{name}"] = quantile(values, 0.99)
        if in_flight == 256:
            figures[f"cpu_ms_per_life.{name}"] = sum(measured.cpu_ms.values())
            for process, spent in measured.cpu_ms.items():
                figures[f"cpu_ms_per_life.{name}.{process}"] = spent
        print(f"{name}: {measured.rate:.0f} lives/s", file=sys.stderr)
    figures["cpu_ms_per_life.3p"] = figures["cpu_ms_per_life.3p.256"]
    pairs = references["ed25519_pairs_per_s"]
    ratios = {
        "lives_3p_256_per_ed25519_pair": figures["lives_per_s.3p.256"] / pairs,
        "lives_1p_256_per_ed25519_pair": figures["lives_per_s.1p.256"] / pairs,
        "lives_3p_256_per_post": figures["lives_per_s.3p.256"] / references["aiohttp_posts_per_s"],
        "with_5000_held_to_without.3p": figures["lives_per_s.3p.256.5000"]
        / figures["lives_per_s.3p.256"],
    }
    return {
        "figures": figures,
        "references": references,
        "ratios": ratios,
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer lives a case")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    else:
        result = uvloop.run(main(quick=options.quick))
        if options.json:
            print(json.dumps(result, indent=1))
        else:
            for group in ("references", "figures", "ratios"):
                for label, value in result[group].items():
                    print(f"{label:44} {value:12.3f}")
