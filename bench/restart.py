"""How long an actor takes to come back with 100,000 live leases, and what a lease weighs on disk.

Three SQLite ledgers are filled by the three real roles, in this process and in bulk: every claim
and lease is signed and verified, and a turn for 64 leases is one commit. Only envelopes and HTTP
are left out. What they hold is copied into a private PostgreSQL server as well. Then each actor is
started in a fresh process as `shirako run` does it, until it has answered, from one kind of ledger
and from the other; another fresh process times the parts of a start from SQLite: opening with all
checks, reading, decoding, books. Filling takes the most time by far: with `--keep` it is done once.

References in the same run: a bare `SELECT` of the same records, without and with decoding them.

Leases that were lived to their end, and forgotten, show what a whole life leaves in the ledgers.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import uvloop
from psycopg import sql

from bench.rig import report
from bench.rig.bulk import TURN, Bulk, fill
from bench.rig.folder import ACTORS, Folder, new_database, server_settings
from shirako.assembly import running
from shirako.descriptor import read_descriptor
from shirako.ledger import Ledger, Write, decode_entries
from shirako.ledger.opening import open_ledger
from shirako.testbed.postgres import Postgres

LEDGERS = {
    "sqlite": ("sqlite",),
    "postgresql": ("postgresql",),
    "both": ("sqlite", "postgresql"),
}
COPIED_ROWS = 512


# Ledgers --------------------------------------------------------------------------------------


def filled(path: Path, leases: int) -> tuple[Folder, float]:
    """SQLite ledgers with so many live leases, made now or found there; the seconds it took."""
    done = path / "filled"
    if done.exists():
        if int(done.read_text()) != leases:
            raise ValueError(f"{path} holds {done.read_text()} leases, not {leases}")
        return Folder(path), 0.0
    folder = Folder.make(path, leases)
    seconds = fill(folder, leases)
    done.write_text(str(leases))
    return folder, seconds


def on_server(server: Postgres, folder: Folder, path: Path, leases: int) -> Folder:
    """The same actors with the same records and logs, on a server."""
    path.mkdir()
    (path / "keys").symlink_to(folder.path / "keys")
    copy = Folder(path)
    url = new_database(server, "restarts", path / "passwords")
    copy.write(copy.descriptor, leases, ledger=url)
    for name in ACTORS:
        with (
            closing(open_ledger(folder.file(name), name)) as source,
            closing(open_ledger(url, name)) as target,
        ):
            copy_ledger(source, target)
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("VACUUM (ANALYZE)")  # as the server does by itself in time
    return copy


def copy_ledger(source: Ledger, target: Ledger) -> None:
    for records in batches(source.load()):
        target.commit([Write(*record) for record in records], [])
    for links in batches(source.links(), COPIED_ROWS // TURN):
        target.commit([], [entry for link in links for entry in decode_entries(link.body)])


def batches(rows: Iterator[Any], size: int = COPIED_ROWS) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(rows, size)):
        yield batch


def lived(folder: Folder, lives: int) -> dict[str, dict[str, float]]:
    """By actor and table: bytes that a whole life leaves once its tombstone is forgotten."""
    bulk = Bulk(folder)
    before = {name: folder.table_bytes(name) for name in ACTORS}
    for _ in range(lives // TURN):
        bulk.end(bulk.begin(TURN))
    bulk.forget()
    bulk.close()
    left = {}
    for name in ACTORS:
        after = folder.table_bytes(name)
        left[name] = {
            table: (size - before[name].get(table, 0)) / (lives // TURN * TURN)
            for table, size in after.items()
        }
    return left


# What runs in a fresh process each ------------------------------------------------------------


async def started(folder: Folder, name: str) -> dict[str, float]:
    """The actor as `shirako run` starts it, until it has answered; how much memory it has then."""
    async with running(read_descriptor(folder.descriptor), (name,)) as (one,):
        await one.actor.submit(lambda role, _now: len(role.leases))
        return {"answered_at": time.time(), "rss_mb": rss_mb()}


def parts(folder: Folder, name: str) -> dict[str, float]:
    """Seconds that the parts of a start take."""
    gc.disable()  # as an actor does while it loads
    where = folder.where(name)
    times = [time.perf_counter()]
    ledger = open_ledger(where, name)
    times.append(time.perf_counter())
    for _ in ledger.load():
        pass
    times.append(time.perf_counter())
    role = folder.roles()[name]
    times.append(time.perf_counter())
    for stored in ledger.load():
        role.load(*stored)
    times.append(time.perf_counter())
    role.loaded()
    times.append(time.perf_counter())
    opening, reading, empty, loading, books = (b - a for a, b in itertools.pairwise(times))
    ledger.close()
    return {
        "open": opening,
        "read": reading,
        "empty_role": empty,
        "decode_and_keep": loading - reading,
        "books": books,
    }


def rows(where: str | Path, name: str) -> Iterator[tuple[str, bytes]]:
    """Kind and body of all records, as anybody could read them."""
    if isinstance(where, Path):
        with closing(sqlite3.connect(where)) as db:
            yield from db.execute("SELECT kind, body FROM record")
        return
    query = sql.SQL("SELECT kind, body FROM {}.record").format(sql.Identifier(f"shirako_{name}"))
    with psycopg.connect(where) as server:
        yield from server.execute(query, binary=True)


def bare(folder: Folder, name: str) -> dict[str, float]:
    """Seconds to read all records, and to decode them besides."""
    kinds = folder.roles()[name].kinds
    where = folder.where(name)
    times = [time.perf_counter()]
    for _ in rows(where, name):
        pass
    times.append(time.perf_counter())
    decoders = {kind: msgspec.json.Decoder(struct).decode for kind, struct in kinds.items()}
    kept = [decoders[kind](body) for kind, body in rows(where, name)]  # kept, as an actor would
    times.append(time.perf_counter())
    if not kept:
        raise RuntimeError("there is nothing to decode")
    return {"select": times[1] - times[0], "select_and_decode": times[2] - times[1]}


def rss_mb() -> float:
    """Megabytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def in_child(what: str, path: Path, name: str) -> dict[str, float]:
    """What `started`, `parts` or `bare` finds in a fresh process, and when it was begun."""
    begun = time.time()
    command = [sys.executable, __file__, "--child", what, str(path), name]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return {"begun_at": begun, **json.loads(done.stdout)}


def child(what: str, path: Path, name: str) -> dict[str, float]:
    folder = Folder(path)
    match what:
        case "started":
            return uvloop.run(started(folder, name))
        case "parts":
            return parts(folder, name)
        case _:
            return bare(folder, name)


# All of it ------------------------------------------------------------------------------------


class Report:
    """Figures and references of one run."""

    def __init__(self, leases: int) -> None:
        self.figures: dict[str, float] = {}
        self.references: dict[str, float] = {}
        self.ratios: dict[str, float] = {}
        self._leases = leases

    def measure(self, folders: dict[str, Folder]) -> None:
        """Each actor, from one kind of ledger and from the other by turns."""
        for name, (kind, folder) in itertools.product(ACTORS, folders.items()):
            start = in_child("started", folder.path, name)
            seconds = start["answered_at"] - start["begun_at"]
            self.figures[f"restart_s.{kind}.{self._leases}.{name}"] = seconds
            self.figures[f"rss_mb.{kind}.{self._leases}.{name}"] = start["rss_mb"]
            size = folder.ledger_bytes(name)
            self.figures[f"bytes_per_live_lease.{kind}.{name}"] = size / self._leases
            found = in_child("bare", folder.path, name)
            for part in ("select", "select_and_decode"):
                self.references[f"{part}_s.{kind}.{name}"] = found[part]
            ratio = seconds / found["select_and_decode"]
            self.ratios[f"restart_to_select_and_decode.{kind}.{name}"] = ratio
            print(f"{name} from {kind}: {seconds:.2f} s", file=sys.stderr)
        for kind in folders:
            prefix = f"restart_s.{kind}.{self._leases}"
            self.figures[prefix] = max(self.figures[f"{prefix}.{name}"] for name in ACTORS)
        if len(folders) == 2:
            sqlite, postgresql = (
                self.figures[f"restart_s.{kind}.{self._leases}"] for kind in LEDGERS["both"]
            )
            self.ratios["restart_postgresql_to_sqlite"] = postgresql / sqlite

    def measure_parts(self, folder: Folder) -> None:
        """Of a start from SQLite."""
        for name in ACTORS:
            for part, seconds in in_child("parts", folder.path, name).items():
                if part != "begun_at":
                    self.figures[f"part_s.{part}.{name}"] = seconds

    def measure_lives(self, folder: Folder, lives: int) -> None:
        for name, tables in lived(folder, lives).items():
            self.figures[f"bytes_per_life.{name}"] = sum(tables.values())
            for table, each in tables.items():
                self.figures[f"bytes_per_life.{name}.{table}"] = each


def measured(
    leases: int, lives: int, ledgers: tuple[str, ...], keep: Path | None, *, quick: bool
) -> dict[str, Any]:
    settings: dict[str, str] = {}
    told = Report(leases)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="shirako-restart-")))
        folder, told.figures["fill_s"] = filled(keep or scratch / "sqlite", leases)
        folders = {"sqlite": folder} if "sqlite" in ledgers else {}
        if "postgresql" in ledgers:
            server = stack.enter_context(Postgres())
            settings = server_settings(server)
            folders["postgresql"] = on_server(server, folder, scratch / "postgresql", leases)
        told.measure(folders)
        if not quick:
            told.measure_parts(folder)
        told.measure_lives(Folder.make(scratch / "lived", TURN), lives)
    return {
        "figures": told.figures,
        "references": told.references,
        "ratios": told.ratios,
        "machine": report.machine(**settings),
    }


if __name__ == "__main__":
    parser = report.options(__doc__, "fewer leases, and no parts of a start")
    parser.add_argument("--leases", type=int, help="live leases; 100000, or 1000 with --quick")
    parser.add_argument("--ledger", choices=LEDGERS, default="both", help="default: both")
    parser.add_argument("--keep", type=Path, help="a folder for the filled ledgers: filled once")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        print(json.dumps(child(chosen.child[0], Path(chosen.child[1]), chosen.child[2])))
    else:
        result = measured(
            chosen.leases or (1_000 if chosen.quick else 100_000),
            256 if chosen.quick else 5_000,
            LEDGERS[chosen.ledger],
            chosen.keep and chosen.keep.resolve(),
            quick=chosen.quick,
        )
        report.show(result, as_json=chosen.json)
