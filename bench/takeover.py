"""How soon a standby goes on when the holder of a PostgreSQL ledger ends; and what commits cost.

A private server on this machine, with its durability as by default. A holder commits all the
time; a standby waits. The holder is ended in four ways, and the time counts from then until the
standby has loaded the ledger and stored its first commit:

    killed     kill -9; the standby is on the same machine and sees that the process is dead
    elsewhere  kill -9; as on another machine: nobody can know, so its hold is waited for
    hung       SIGSTOP; its session stays open until the server has not heard of it for its hold
    closed     it ends in order and says so

Commits of 1 and of 100 records are made on PostgreSQL, over loopback and over a Unix socket, and
on SQLite, by turns. References in the same run: one statement that waits for the lock of a
session whose process is killed; bare statements that store one row; 4 KB appended and synced.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from shirako.ledger import Entry, Ledger, Write
from shirako.ledger.postgresql import HOLD_SECONDS, PostgresLedger
from shirako.ledger.sqlite import SqliteLedger
from shirako.testbed.postgres import Postgres

ACTOR = "site"
SCHEMA = f"shirako_{ACTOR}"
BODY = os.urandom(1250).hex().encode()
"""As long as the record of a lease with its claims."""
HOLDER = "\x67" * 43
ROUNDS = 5

Kind = str


class Copy:
    """A process that opens the ledger, loads it, and commits without end."""

    def __init__(self, url: str, *, standby: bool) -> None:
        words = [sys.executable, __file__, "--copy", url, *(["--standby"] if standby else [])]
        self.popen = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        self.hear("started")

    def hear(self, wanted: str) -> None:
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            if line.strip() == wanted:
                return
        raise RuntimeError("a copy ended")

    def bury(self) -> None:
        self.popen.kill()
        self.popen.communicate()


def be_a_copy(url: str, *, standby: bool) -> None:
    print("started", flush=True)
    ledger = PostgresLedger(url, ACTOR, standby=standby)
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: ended.append(number))
    for _ in ledger.load():
        pass
    for number in range(1_000_000_000):
        ledger.commit([Write("lease", "g/working", b"%d" % number)], [])
        if number == 0:
            print("holds", flush=True)
        if ended:
            ledger.close()
            return
        time.sleep(0.005)


# Takeovers -----------------------------------------------------------------------------------


def takeover_seconds(server: Postgres, kind: Kind, count: int) -> list[float]:
    """One time for each of `count` holders that end."""
    holder = Copy(server.url, standby=False)
    holder.hear("holds")
    times = []
    for _ in range(count):
        standby = Copy(server.url, standby=True)
        time.sleep(0.25)  # until it waits
        if kind == "elsewhere":
            disguise = """UPDATE fence SET holder = replace(holder, '"boot":"', '"boot":"not-')"""
            server.run(f"SET search_path = {SCHEMA}; {disguise}", "shirako")
        number = {"hung": signal.SIGSTOP, "closed": signal.SIGTERM}.get(kind, signal.SIGKILL)
        begun = time.perf_counter()
        holder.popen.send_signal(number)
        standby.hear("holds")
        times.append(time.perf_counter() - begun)
        holder.bury()
        holder = standby
    holder.popen.terminate()
    holder.popen.communicate()
    return times


LOCK = """
import sys, time, psycopg
with psycopg.connect(sys.argv[1], autocommit=True) as db:
    db.execute("SELECT pg_advisory_lock(1)")
    print("holds", flush=True)
    time.sleep(1000)
"""


def lock_seconds(server: Postgres, count: int) -> list[float]:
    """How long a bare session waits for the lock of a process that is killed."""
    times = []
    with psycopg.connect(server.url, autocommit=True) as db:
        for _ in range(count):
            command = [sys.executable, "-c", LOCK, server.url]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
                assert holder.stdout is not None
                holder.stdout.readline()
                begun = time.perf_counter()
                holder.kill()
                db.execute("SELECT pg_advisory_lock(1)")
                times.append(time.perf_counter() - begun)
            db.execute("SELECT pg_advisory_unlock(1)")
    return times


# Commits -------------------------------------------------------------------------------------


def commits_per_s(ledger: Ledger, rows: int, seconds: float) -> float:
    """Each commit changes `rows` of 2000 records, with an entry for each."""
    begun, done = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - begun) < seconds:
        keys = [f"{HOLDER}/L{(done * rows + row) % 2000}" for row in range(rows)]
        ledger.commit(
            [Write("lease", key, BODY) for key in keys],
            [Entry(lease=key, tick=done, what="step", state="Active", by="guest") for key in keys],
        )
        done += 1
    return done / elapsed


def statements_per_s(url: str, seconds: float) -> float:
    """Bare statements that store one row of the same size, one transaction each."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute("CREATE TEMPORARY TABLE warm (x integer)")
        db.execute("CREATE TABLE IF NOT EXISTS bare (key text PRIMARY KEY, body bytea)")
        store = "INSERT INTO bare VALUES (%b, %b) ON CONFLICT (key) DO UPDATE SET body = %b"
        begun, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - begun) < seconds:
            db.execute(store, (f"{HOLDER}/L{done % 2000}", BODY, BODY), prepare=True)
            done += 1
        return done / elapsed


def syncs_per_s(folder: Path, seconds: float) -> float:
    with (folder / "synced").open("wb", buffering=0) as file:
        begun, done = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - begun) < seconds:
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
            done += 1
        return done / elapsed


def records_loaded_per_s(ledger: Ledger) -> float:
    begun = time.perf_counter()
    return sum(1 for _ in ledger.load()) / (time.perf_counter() - begun)


def rates(server: Postgres, folder: Path, seconds: float) -> dict[str, float]:
    """Medians over rounds in which all take turns: what else the machine does meets all alike."""
    ledgers: dict[str, Ledger] = {
        "sqlite": SqliteLedger(folder / "site.sqlite"),
        "postgres_tcp": PostgresLedger(server.url, "tcp"),
        "postgres_socket": PostgresLedger(server.socket_url, "socket"),
    }
    turns: dict[str, Callable[[], float]] = {}
    for name, ledger in ledgers.items():
        for rows in (1, 100):
            turns[f"commits_per_s.{name}.{rows}"] = _turn(ledger, rows, seconds)
    turns["bare_statements_per_s.tcp"] = lambda: statements_per_s(server.url, seconds)
    turns["bare_statements_per_s.socket"] = lambda: statements_per_s(server.socket_url, seconds)
    turns["syncs_per_s"] = lambda: syncs_per_s(folder, seconds)
    for name, ledger in ledgers.items():
        turns[f"records_loaded_per_s.{name}"] = lambda ledger=ledger: records_loaded_per_s(ledger)  # type: ignore[misc]
    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for name, turn in turns.items():
            taken[name].append(turn())
    for ledger in ledgers.values():
        ledger.close()
    return {name: statistics.median(values) for name, values in taken.items()}


def _turn(ledger: Ledger, rows: int, seconds: float) -> Callable[[], float]:
    return lambda: commits_per_s(ledger, rows, seconds)


# The report ----------------------------------------------------------------------------------


def main(kills: int, records: int, *, quick: bool) -> dict[str, Any]:
    counts: dict[Kind, int] = {"killed": kills, "elsewhere": 3, "hung": 2, "closed": 5}
    if quick:
        counts = {"killed": min(kills, 5), "elsewhere": 1, "hung": 1, "closed": 2}
    with tempfile.TemporaryDirectory(prefix="shirako-bench-") as name, Postgres() as server:
        figures: dict[str, float] = {}
        fill(server, records)
        lock = lock_seconds(server, counts["killed"])
        for kind, count in counts.items():
            times = takeover_seconds(server, kind, count)
            figures[f"takeover_s_p50.{kind}"] = statistics.median(times)
            figures[f"takeover_s_max.{kind}"] = max(times)
            print(f"{kind}: {sorted(times)[len(times) // 2]:.3f} s, {count} times", file=sys.stderr)
        measured = rates(server, Path(name), 0.2 if quick else 1.0)
    bare = ("bare_statements", "syncs")
    figures |= {name: rate for name, rate in measured.items() if not name.startswith(bare)}
    references = {name: rate for name, rate in measured.items() if name.startswith(bare)}
    references |= {"lock_s_p50": statistics.median(lock), "lock_s_max": max(lock)}
    ratios = {
        "takeover_killed_to_bare_lock": figures["takeover_s_p50.killed"] / statistics.median(lock)
    }
    for way in ("tcp", "socket"):
        for rows in (1, 100):
            rate = figures[f"commits_per_s.postgres_{way}.{rows}"]
            ratios[f"postgres_{way}_to_sqlite.{rows}"] = (
                rate / figures[f"commits_per_s.sqlite.{rows}"]
            )
        ratios[f"postgres_{way}_to_bare_statement.1"] = (
            figures[f"commits_per_s.postgres_{way}.1"] / references[f"bare_statements_per_s.{way}"]
        )
    return {
        "figures": figures,
        "references": references,
        "ratios": ratios,
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "psycopg": psycopg.__version__,
            "kills": counts["killed"],
            "records": records,
            "hold_s": HOLD_SECONDS,
        },
    }


def fill(server: Postgres, records: int) -> None:
    """So many records for each copy to load."""
    ledger = PostgresLedger(server.url, ACTOR)
    for start in range(0, records, 500):
        keys = range(start, min(start + 500, records))
        ledger.commit([Write("lease", f"{HOLDER}/{key}", BODY) for key in keys], [])
    ledger.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="holders to kill (default 20)")
    parser.add_argument("--records", type=int, default=5000, help="records to load (default 5000)")
    parser.add_argument("--quick", action="store_true", help="fewer of everything")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    parser.add_argument("--copy", help=argparse.SUPPRESS)
    parser.add_argument("--standby", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.copy:
        be_a_copy(options.copy, standby=options.standby)
    else:
        result = main(options.kills, options.records, quick=options.quick)
        if options.json:
            print(json.dumps(result, indent=1))
        else:
            for group in ("references", "figures", "ratios"):
                for label, value in result[group].items():
                    print(f"{label:44} {value:12.3f}")
