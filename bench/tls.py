"""What mutual TLS costs: whole lease lives a second with it, beside the same without.

Three processes with the null driver, as in `bench/lifecycle.py`, 16 and 256 lives in flight; with
and without TLS take turns, so that whatever else the machine does meets both. The reference is the
run without TLS; bare handshakes a second, with certificates at both ends, say what a new connection
costs, of which actors make few.
"""

from __future__ import annotations

import asyncio
import ssl
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

from bench.rig import report
from bench.rig.deployment import UNITS, Deployment, Turns, cpu_ratio, rate_ratio
from bench.rig.folder import Folder, make_certificates
from bench.rig.lives import joined
from shirako.certificates import client_context, server_context

KINDS = ("plain", "tls")


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


async def main(*, quick: bool) -> dict[str, Any]:
    counts = {16: 60, 256: 300} if quick else {16: 400, 256: 1500}
    rounds = 2 if quick else 5
    figures: dict[str, float] = {}
    references: dict[str, float] = {}
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="shirako-bench-") as name:
        folders = {kind: Folder.make(Path(name) / kind, UNITS, tls=kind == "tls") for kind in KINDS}
        async with Turns({kind: Deployment(folders[kind]) for kind in KINDS}) as turns:
            for in_flight, count in counts.items():
                runs = await turns.measure(KINDS, count, in_flight, rounds)
                references |= joined(runs["plain"]).told(f"plain.{in_flight}")
                figures |= joined(runs["tls"]).told(f"tls.{in_flight}")
                plain, tls = runs["plain"], runs["tls"]
                ratios[f"lives_tls_to_plain.{in_flight}"] = rate_ratio(tls, plain)
                ratios[f"cpu_tls_to_plain.{in_flight}"] = cpu_ratio(tls, plain)
        bare = Path(name) / "bare"
        references["handshakes_per_s"] = await handshakes_per_s(bare, 0.5 if quick else 2.0)
    return {
        "figures": figures,
        "references": references,
        "ratios": ratios,
        "machine": report.machine(openssl=ssl.OPENSSL_VERSION),
    }


if __name__ == "__main__":
    chosen = report.options(__doc__, "fewer lives and rounds").parse_args()
    report.show(uvloop.run(main(quick=chosen.quick)), as_json=chosen.json)
