"""How soon a standby goes on when the active copy of an actor ends; and what commits cost.

A private PostgreSQL server on this machine, with its durability as by default, keeps the ledgers of
a site, a broker and a guest that have live leases together. All three run, as `shirako run` runs
them; of one of them a standby waits besides. Its active copy is ended in one of four ways, and the
time counts from then until the standby has answered a signed envelope at the actor's address: until
then it has seen that it may, taken over, loaded the ledger and opened its doors.

    killed     kill -9; the standby is on the same machine and sees that the process is dead
    elsewhere  kill -9; as on another machine: nobody can know, so its hold is waited for
    hung       SIGSTOP; its session stays open until the server has not heard of it for its hold
    closed     it ends in order and says so

Kills meet the three actors by turns, the rest the site. A standby of one that hangs has an address
of its own.

Commits of 1 and of 100 records are made on PostgreSQL, over loopback and over a Unix socket, and
on SQLite, by turns. References in the same run: one statement that waits for the lock of a
session whose process is killed; bare statements that store one row; 4 KB appended and synced.
"""

from __future__ import annotations

import http.client
import itertools
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg

from bench.rig import report
from bench.rig.bulk import fill
from bench.rig.folder import ACTORS, Folder, new_database, server_settings
from shirako.descriptor import read_descriptor
from shirako.ledger import Entry, Ledger, Write
from shirako.ledger.postgresql import HOLD_SECONDS, PostgresLedger
from shirako.ledger.sqlite import SqliteLedger
from shirako.testbed.postgres import Postgres
from shirako.transport.envelope import read_acknowledgement, seal
from shirako.trust import PrivateKey, PublicKey, Untrusted, public_path, read_public

DATABASE = "takeovers"
BODY = os.urandom(1250).hex().encode()
"""As long as the record of a lease with its claims."""
HOLDER = "\x67" * 43
ANSWER_SECONDS = 60.0
ASK_SECONDS = 0.01
WAITS = b"waits for its ledger"

Kind = str


# Takeovers ------------------------------------------------------------------------------------


class Asker:
    """Sends an actor signed envelopes without a message in them until it acknowledges one."""

    def __init__(self) -> None:
        self._key = PrivateKey.generate()
        self._numbers = itertools.count(1)

    def wait(self, url: str, peer: PublicKey) -> None:
        """Return when the actor at `url` has answered as the one that acts."""
        deadline = time.perf_counter() + ANSWER_SECONDS
        while time.perf_counter() < deadline:
            if self._answers(url, peer):
                return
            time.sleep(ASK_SECONDS)
        raise RuntimeError(f"{url} does not answer")

    def _answers(self, url: str, peer: PublicKey) -> bool:
        number = next(self._numbers)
        envelope = seal(self._key, peer.kid, number, time.time_ns() // 1_000_000, [])
        at = urlsplit(url)
        with closing(http.client.HTTPConnection(at.hostname or "", at.port, timeout=5)) as http_:
            try:
                http_.request("POST", "/messages", envelope)
                response = http_.getresponse()
                body = response.read()
            except (OSError, http.client.HTTPException):
                return False
        if response.status != 202:
            return False
        try:
            read_acknowledgement(body, peer, self._key.public.kid, number)
        except Untrusted as error:
            raise RuntimeError(f"{url} answers, but not as who it should be") from error
        return True


class Copy:
    """One process that runs one actor."""

    _numbers = itertools.count()

    def __init__(self, descriptor: Path, name: str, *, standby: bool) -> None:
        specs = {spec.name: spec for spec in read_descriptor(descriptor).actors}
        self.descriptor = descriptor
        self.url = specs[name].url
        self.peer = read_public(public_path(specs[name].key))
        self.log = descriptor.parent / f"{name}{next(self._numbers)}.log"
        words = ["run", str(descriptor), "--actor", name, *(["--standby"] if standby else [])]
        with self.log.open("wb") as log:
            self.popen = subprocess.Popen([sys.executable, "-m", "shirako", *words], stderr=log)

    def wait_for_its_turn(self) -> None:
        """Return when it waits for its ledger."""
        deadline = time.perf_counter() + ANSWER_SECONDS
        while WAITS not in self.log.read_bytes():
            if self.popen.poll() is not None or time.perf_counter() > deadline:
                raise RuntimeError(f"a standby does not wait: {self.log.read_text()}")
            time.sleep(0.02)
        time.sleep(0.3)  # its connection to the server comes after the line

    def bury(self) -> None:
        self.popen.kill()
        self.popen.wait()


class Stand:
    """All three actors, and a standby of one of them when it is needed."""

    def __init__(self, server: Postgres, folder: Folder, other: Path) -> None:
        """`other`: a descriptor of the same actors at other addresses."""
        self._server = server
        self._descriptors = (folder.descriptor, other)
        self._asker = Asker()
        self.active = {name: Copy(folder.descriptor, name, standby=False) for name in ACTORS}

    def wait(self) -> None:
        for copy in self.active.values():
            self._asker.wait(copy.url, copy.peer)

    def takeover_seconds(self, name: str, kind: Kind) -> float:
        """End the active copy of an actor; seconds until its standby answers."""
        ended = self.active[name]
        descriptor = ended.descriptor
        if kind == "hung":  # it keeps its address
            descriptor = next(one for one in self._descriptors if one != descriptor)
        standby = Copy(descriptor, name, standby=True)
        try:
            standby.wait_for_its_turn()
            if kind == "elsewhere":
                disguise = (
                    """UPDATE fence SET holder = replace(holder, '"boot":"', '"boot":"not-')"""
                )
                self._server.run(f"SET search_path = shirako_{name}; {disguise}", DATABASE)
            begun = time.perf_counter()
            ended.popen.send_signal(
                {"hung": signal.SIGSTOP, "closed": signal.SIGTERM}.get(kind, signal.SIGKILL)
            )
            if kind != "hung":
                ended.popen.wait()  # the next answer at its address is not its own
            self._asker.wait(standby.url, standby.peer)
            return time.perf_counter() - begun
        finally:
            ended.bury()
            self.active[name] = standby

    def bury(self) -> None:
        for copy in self.active.values():
            copy.bury()


@contextmanager
def stand(server: Postgres, path: Path, leases: int) -> Iterator[Stand]:
    url = new_database(server, DATABASE, path / "passwords")
    folder = Folder.make(path / "stand", leases, ledger=url)
    other = folder.path / "elsewhere.xml"
    folder.write(other, leases, ledger=url)
    fill(folder, leases)
    made = Stand(server, folder, other)
    try:
        made.wait()
        yield made
    finally:
        made.bury()


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


def rates(server: Postgres, folder: Path, seconds: float, rounds: int) -> dict[str, float]:
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
    for _ in range(rounds):
        for name, turn in turns.items():
            taken[name].append(turn())
    for ledger in ledgers.values():
        ledger.close()
    return {name: statistics.median(values) for name, values in taken.items()}


def _turn(ledger: Ledger, rows: int, seconds: float) -> Callable[[], float]:
    return lambda: commits_per_s(ledger, rows, seconds)


# The report -----------------------------------------------------------------------------------


def takeovers(made: Stand, counts: dict[Kind, int]) -> dict[str, float]:
    figures: dict[str, float] = {}
    for kind, count in counts.items():
        taken: dict[str, list[float]] = defaultdict(list)
        for _, name in zip(range(count), itertools.cycle(ACTORS), strict=False):
            ended = name if kind == "killed" else "site"
            taken[ended].append(made.takeover_seconds(ended, kind))
        times = [seconds for each in taken.values() for seconds in each]
        figures[f"takeover_s_p50.{kind}"] = statistics.median(times)
        figures[f"takeover_s_max.{kind}"] = max(times)
        for name, each in taken.items() if kind == "killed" else ():
            figures[f"takeover_s_p50.{kind}.{name}"] = statistics.median(each)
            figures[f"takeover_s_max.{kind}.{name}"] = max(each)
        middle = statistics.median(times)
        print(f"{kind}: {middle:.2f} s, at most {max(times):.2f}, {count} times", file=sys.stderr)
    return figures


def main(kills: int, leases: int, *, quick: bool) -> dict[str, Any]:
    counts: dict[Kind, int] = {"killed": kills, "elsewhere": 3, "closed": 3, "hung": 2}
    if quick:
        counts = {"killed": min(kills, 3), "elsewhere": 1}
    with tempfile.TemporaryDirectory(prefix="shirako-bench-") as name, Postgres() as server:
        settings = server_settings(server)
        lock = lock_seconds(server, min(kills, 5) if quick else kills)
        with stand(server, Path(name), leases) as made:
            figures = takeovers(made, counts)
        measured = rates(server, Path(name), 0.1 if quick else 0.5, 3 if quick else 5)
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
        "machine": report.machine(
            psycopg=psycopg.__version__,
            takeovers=sum(counts.values()),
            kills=counts["killed"],
            live_leases=leases,
            hold_s=HOLD_SECONDS,
            **settings,
        ),
    }


if __name__ == "__main__":
    parser = report.options(__doc__, "fewer of everything")
    parser.add_argument("--kills", type=int, default=20, help="copies to kill (default 20)")
    parser.add_argument("--leases", type=int, help="live leases; 2000, or 200 with --quick")
    chosen = parser.parse_args()
    found = main(chosen.kills, chosen.leases or (200 if chosen.quick else 2000), quick=chosen.quick)
    report.show(found, as_json=chosen.json)
