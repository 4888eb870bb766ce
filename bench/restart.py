"""How long an actor takes to come back with 100,000 live leases, and what a lease weighs on disk.

Three SQLite ledgers are filled by the three real roles, in this process and in bulk: every claim
and lease is signed and verified, and a turn for 64 leases is one commit. Only envelopes and HTTP
are left out. Then each actor is started in a fresh process as `shirako run` does it, until it has
answered; another fresh process times the parts: opening with all checks, reading, decoding, books.

References in the same run: a bare `SELECT` of the same records, without and with decoding them.

Leases that were lived to their end, and forgotten, show what a whole life leaves in the ledgers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from shirako.actors.authority import Authority
from shirako.actors.broker import Broker
from shirako.actors.role import Role
from shirako.actors.service_manager import ServiceManager
from shirako.assembly import running
from shirako.clock import RealClock, RealEntropy
from shirako.core.claims import Party
from shirako.core.delegation import Delegation
from shirako.core.guest import GuestLease, GuestState
from shirako.core.machine import HandlerEnded, Key
from shirako.core.terms import Term
from shirako.descriptor import AuthoritySpec, read_descriptor
from shirako.ledger.sqlite import SqliteLedger
from shirako.testbed.ports import free_ports
from shirako.trust import PrivateKey, PublicKey, me_of, party_of
from shirako_policies.first_come import FirstCome
from shirako_policies.first_fit import FirstFit
from shirako_policies.static import Static

ACTORS = ("site", "broker", "guest")
TURN = 64
"""Leases a commit, as many as messages in an envelope."""
TERM_TICKS = 7 * 24 * 3600
SKEW = 30
SHARE = "share"

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


class Folder:
    """A descriptor with its keys and its three ledgers."""

    def __init__(self, path: Path, units: int = 0) -> None:
        """`units` of the site, where the descriptor is to be written."""
        self.path = path
        self.descriptor = path / "actors.xml"
        if units:
            ports = free_ports(("127.0.0.1",), seed=str(path))
            text = DESCRIPTOR.format(ports=[next(ports) for _ in ACTORS], units=units)
            self.descriptor.write_text(text)
            for name in ACTORS:
                PrivateKey.generate().write(self.key(name))

    def key(self, name: str) -> Path:
        return self.path / "keys" / f"{name}.jwk"

    def ledger(self, name: str) -> Path:
        return self.path / "state" / f"{name}.sqlite"

    def roles(self) -> dict[str, Role[Any]]:
        """The three roles, empty, as the descriptor has them."""
        specs = {spec.name: spec for spec in read_descriptor(self.descriptor).actors}
        keys = {name: PrivateKey.read(self.key(name)) for name in ACTORS}
        parties = {name: party_of(keys[name].public, specs[name].url, name) for name in ACTORS}
        me = {name: me_of(keys[name], parties[name], SKEW) for name in ACTORS}
        near = {name: {party.kid: party} for name, party in parties.items()}
        site = specs["site"]
        assert isinstance(site, AuthoritySpec)
        pools = {"node": tuple(unit.name for unit in site.pools[0].units)}
        return {
            "site": Authority(me["site"], near["broker"], pools, {"node": FirstFit()}),
            "broker": Broker(me["broker"], near["site"], near["guest"], FirstCome()),
            "guest": ServiceManager(me["guest"], near["broker"], Static(), joins=False),
        }


class Bulk:
    """Drives the three roles through the lives of many leases at a time, each turn a commit."""

    def __init__(self, folder: Folder) -> None:
        self.roles = folder.roles()
        self.now = RealClock().tick()
        self._ledgers = {name: SqliteLedger(folder.ledger(name)) for name in ACTORS}
        self._names = {role.me.party.kid: name for name, role in self.roles.items()}
        self._keys = {name: PublicKey(role.me.party.x) for name, role in self.roles.items()}
        self._entropy = RealEntropy()
        self._delegate()

    def close(self) -> None:
        for name in ACTORS:
            self._turn(name, lambda _: None)  # deliveries that no later turn has stored
        for ledger in self._ledgers.values():
            ledger.close()

    def _delegate(self) -> None:
        site = self.roles["site"]
        assert isinstance(site, Authority)
        wanted = Delegation(
            id=SHARE,
            holder=self._party("broker"),
            type="node",
            units=len(site.units),
            term=Term(self.now, self.now + 365 * 24 * 3600),
            chain=(),
            name=SHARE,
        )
        made = self._turn("site", lambda _: site.delegate(wanted))
        self._settle([made.key])

    def begin(self, count: int) -> list[Key]:
        """So many leases of one unit, up to Active."""
        guest = self.roles["guest"]
        assert isinstance(guest, ServiceManager)
        leases = []
        for _ in range(count):
            lease = GuestLease(
                id=self._entropy.fresh_id(),
                guest=self._party("guest"),
                slice="bench",
                type="node",
                units=1,
                least_units=1,
                state=GuestState.NASCENT,
                broker=self._party("broker"),
                term=Term(self.now, self.now + TERM_TICKS),
            )
            leases.append(lease)
        self._turn("guest", lambda _: [guest.request(one, self.now, "bench") for one in leases])
        keys = [lease.key for lease in leases]
        self._settle(keys)
        self._expect(keys, GuestState.ACTIVE)
        return keys

    def end(self, keys: Sequence[Key]) -> None:
        """Close leases, receipts and all."""
        guest = self.roles["guest"]
        assert isinstance(guest, ServiceManager)
        self._turn("guest", lambda _: [guest.close(key, "done", self.now, "bench") for key in keys])
        self._settle(keys)
        self._expect(keys, GuestState.CLOSED)

    def forget(self) -> None:
        """Let so much time pass that no tombstone is left."""
        for name, role in self.roles.items():
            while role.leases:
                self._turn(name, _wake_next)

    def _expect(self, keys: Sequence[Key], state: GuestState) -> None:
        for key in keys:
            lease = self.roles["guest"].leases[key]
            if lease.state is not state:
                raise RuntimeError(f"lease {key[1]} is {lease.state}, {lease.reason}")

    def _party(self, name: str) -> Party:
        return self.roles[name].me.party

    def _settle(self, keys: Sequence[Key]) -> None:
        """Deliver messages and end handlers until these leases have nothing more to say or do."""
        while any([self._deliver(name, keys) for name in ACTORS] + [self._handle(keys)]):
            pass

    def _deliver(self, sender: str, keys: Sequence[Key]) -> bool:
        said: dict[str, list[tuple[str, Key, Any]]] = {}
        for kind, key, kept in self._kept(sender, keys):
            for kid, line in kept.lines.items():
                for message in line.unacked:
                    said.setdefault(self._names[kid], []).append((kind, key, message))
        for receiver, messages in said.items():
            self._turn(receiver, self._receiving(sender, [m for _, _, m in messages]))
            kid = self._party(receiver).kid
            for kind, key, message in messages:
                self.roles[sender].delivered(kind, key, kid, message.n)
        return bool(said)

    def _receiving(self, sender: str, messages: Sequence[Any]) -> Callable[[Role[Any]], None]:
        def receive(role: Role[Any]) -> None:
            for message in messages:
                refusal = role.receive(self._keys[sender], message, self.now)
                if refusal is not None:
                    raise RuntimeError(f"{role.title} refused {message}: {refusal}")

        return receive

    def _kept(self, name: str, keys: Sequence[Key]) -> Iterator[tuple[str, Key, Any]]:
        role = self.roles[name]
        for key in keys:
            for kind in ("lease", "delegation"):
                kept = role.find(kind, key)
                if kept is not None:
                    yield kind, key, kept

    def _handle(self, keys: Sequence[Key]) -> bool:
        site = self.roles["site"]
        ended = [
            (key, HandlerEnded(now=self.now, work=work, ok=True))
            for key in keys
            if key in site.leases
            for work in site.leases[key].work
        ]
        if ended:
            self._turn("site", lambda role: _end_handlers(role, ended))
        return bool(ended)

    def _turn(self, name: str, act: Callable[[Role[Any]], Any]) -> Any:
        role = self.roles[name]
        result = act(role)
        role.settle(self.now)
        role.flush()
        batch = role.take_batch()
        self._ledgers[name].commit(batch.writes(), batch.entries)
        return result


def _wake_next(role: Role[Any]) -> None:
    """Time goes on to the next deadline of a lease."""
    at = min(lease.wake for lease in role.leases.values())
    for key in list(role.leases):
        role.woken(key, at)


def _end_handlers(role: Role[Any], ended: Sequence[tuple[Key, HandlerEnded]]) -> None:
    for key, event in ended:
        role.handler_ended(key, event)


def filled(path: Path, leases: int) -> float:
    """Fill the ledgers in `path` with so many live leases; returns the seconds it took."""
    begun = time.perf_counter()
    bulk = Bulk(Folder(path, units=leases))
    for start in range(0, leases, TURN):
        bulk.begin(min(TURN, leases - start))
        if start % (TURN * 200) == 0:
            print(f"{start} of {leases} leases are there", file=sys.stderr)
    bulk.close()
    return time.perf_counter() - begun


def lived(path: Path, lives: int) -> dict[str, dict[str, float]]:
    """By actor and table: bytes that a whole life leaves once its tombstone is forgotten."""
    folder = Folder(path, units=TURN)
    bulk = Bulk(folder)
    before = {name: table_bytes(folder.ledger(name)) for name in ACTORS}
    for _ in range(lives // TURN):
        bulk.end(bulk.begin(TURN))
    bulk.forget()
    bulk.close()
    left = {}
    for name in ACTORS:
        after = table_bytes(folder.ledger(name))
        left[name] = {
            table: (size - before[name].get(table, 0)) / (lives // TURN * TURN)
            for table, size in after.items()
        }
    return left


def table_bytes(ledger: Path) -> dict[str, int]:
    """Bytes of the pages of each table, with its index. Empty where SQLite can not tell."""
    db = sqlite3.connect(ledger)
    try:
        rows = db.execute(
            "SELECT tbl_name, sum(pgsize) FROM dbstat JOIN sqlite_schema USING (name) GROUP BY 1"
        )
        return dict(rows.fetchall())
    except sqlite3.OperationalError:  # compiled without dbstat
        return {}
    finally:
        db.close()


# What runs in a fresh process each ----------------------------------------------------------------


async def started(folder: Folder, name: str) -> dict[str, float]:
    """The actor as `shirako run` starts it, until it has answered; how much memory it has then."""
    async with running(read_descriptor(folder.descriptor), (name,)) as (one,):
        await one.actor.submit(lambda role, _now: len(role.leases))
        return {"answered_at": time.time(), "rss_mb": rss_mb()}


def parts(folder: Folder, name: str) -> dict[str, float]:
    """Seconds that the parts of a start take."""
    times = [time.perf_counter()]
    ledger = SqliteLedger(folder.ledger(name))
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


def bare(folder: Folder, name: str) -> dict[str, float]:
    """Seconds to read all records as anybody could, and to decode them besides."""
    kinds = folder.roles()[name].kinds
    times = [time.perf_counter()]
    db = sqlite3.connect(folder.ledger(name))
    for _ in db.execute("SELECT kind, key, body FROM record"):
        pass
    times.append(time.perf_counter())
    decoders = {kind: msgspec.json.Decoder(struct).decode for kind, struct in kinds.items()}
    # kept, as an actor would
    kept = [decoders[k](body) for k, _, body in db.execute("SELECT kind, key, body FROM record")]
    times.append(time.perf_counter())
    db.close()
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


# All of it ----------------------------------------------------------------------------------------


def measured(leases: int, lives: int) -> dict[str, Any]:
    figures: dict[str, float] = {}
    references: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="shirako-restart-") as folder:
        path = Path(folder)
        figures["fill_s"] = filled(path, leases)
        for name in ACTORS:
            size = Folder(path).ledger(name).stat().st_size
            figures[f"bytes_per_live_lease.{name}"] = size / leases
            start = in_child("started", path, name)
            figures[f"restart_s.sqlite.{leases}.{name}"] = start["answered_at"] - start["begun_at"]
            figures[f"rss_mb.{leases}.{name}"] = start["rss_mb"]
            for part, seconds in in_child("parts", path, name).items():
                if part != "begun_at":
                    figures[f"part_s.{part}.{name}"] = seconds
            for part, seconds in in_child("bare", path, name).items():
                if part != "begun_at":
                    references[f"{part}_s.{name}"] = seconds
            print(f"{name}: {start['answered_at'] - start['begun_at']:.2f} s", file=sys.stderr)
    restarts = {name: figures[f"restart_s.sqlite.{leases}.{name}"] for name in ACTORS}
    worst = max(restarts, key=lambda name: restarts[name])
    figures[f"restart_s.sqlite.{leases}"] = restarts[worst]
    with tempfile.TemporaryDirectory(prefix="shirako-restart-") as folder:
        for name, tables in lived(Path(folder), lives).items():
            figures[f"bytes_per_life.{name}"] = sum(tables.values())
            for table, each in tables.items():
                figures[f"bytes_per_life.{name}.{table}"] = each
    return {
        "figures": figures,
        "references": references,
        "ratios": {
            f"restart_per_select_and_decode.{name}": restarts[name]
            / references[f"select_and_decode_s.{name}"]
            for name in ACTORS
        },
        "machine": {"cores": os.cpu_count(), "python": platform.python_version()},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leases", type=int, help="live leases; 100000, or 2000 with --quick")
    parser.add_argument("--quick", action="store_true", help="fewer leases")
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(child(options.child[0], Path(options.child[1]), options.child[2])))
    else:
        result = measured(
            options.leases or (2_000 if options.quick else 100_000), 256 if options.quick else 5_000
        )
        if options.json:
            print(json.dumps(result, indent=1))
        else:
            for group in ("references", "figures", "ratios"):
                for label, value in result[group].items():
                    print(f"{label:44} {value:12.3f}")
