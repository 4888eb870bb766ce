"""The fault bench: a short run in which everything breaks once, what it leaves behind, and whether
its own checks would notice. Parts of it that break things are tested on their own as well."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bench.faulting.breaking import rounds
from bench.faulting.checking import Books, Findings, check
from bench.faulting.disk import SmallDisk
from bench.faulting.people import Life
from bench.faulting.proxy import Proxy, Trouble
from bench.faulting.stand import ACTORS
from bench.faulting.watching import changes
from shirako.api.models import Asked, Lease
from shirako.core.broker import Grant
from shirako.core.terms import Term
from shirako.testbed.ports import free_ports

pytestmark = [pytest.mark.real, pytest.mark.root]

ROOT = Path(__file__).parent.parent.parent
KINDS = {
    *(
        "kill",
        "restart",
        "pause",
        "cut",
        "hung",
        "mute",
        "slow",
        "disk",
        "node-kill",
        "node-hang",
        "unplug",
    ),
    *("directory-stop", "directory-hang"),
}
NOW = datetime(2030, 1, 1, tzinfo=UTC)


# The whole bench ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Run:
    """One run of the bench: what it printed, and the ledgers that it kept."""

    status: int
    told: str
    result: dict[str, Any]
    kept: Path
    folder: Path


def bench(folder: Path, *options: str) -> subprocess.Popen[str]:
    """Started in a folder for temporary files of its own; a group of its own, as a shell's job."""
    folder.mkdir()
    return subprocess.Popen(
        [
            sys.executable,
            ROOT / "bench" / "faults.py",
            "--quick",
            "--restart-leases",
            "0",
            *options,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("faults")
    temporary, kept = folder / "tmp", folder / "kept"
    started = bench(temporary, "--lives", "6", "--json", "--keep", str(kept))
    printed, told = started.communicate(timeout=150)
    assert printed, told
    return Run(started.returncode, told, json.loads(printed), kept, temporary)


def left_of(folder: Path) -> list[str]:
    """Files, mounts and processes that still have to do with the folder."""
    found = [str(path) for path in folder.iterdir()]
    found += [line for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line]
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdecimal() and str(folder) in (process / "cmdline").read_text():
                found.append(f"{process.name} {(process / 'cmdline').read_text()}")
    return found


def test_nothing_is_lost_while_everything_breaks(run: Run) -> None:
    figures = run.result["figures"]
    assert run.status == 0, run.told
    assert (figures["lost"], figures["done_twice"], figures["differences"]) == (0, 0, 0), run.told
    assert figures["kills"] >= 6
    assert figures["lives"] >= 6
    made = {name.removeprefix("faults.") for name in figures if name.startswith("faults.")}
    assert made == KINDS
    assert set(run.result["ratios"]) <= {
        "active_after_with_faults_to_without",
        "closed_after_with_faults_to_without",
    }


def test_nothing_is_left_of_the_bench(run: Run) -> None:
    assert left_of(run.folder) == []


def test_interrupted_it_clears_everything_away(tmp_path: Path) -> None:
    started = bench(tmp_path / "tmp")
    assert started.stderr is not None
    for line in started.stderr:
        if "lives without faults" in line:
            break
    os.killpg(started.pid, signal.SIGINT)  # Ctrl-C reaches all of the group
    _, told = started.communicate(timeout=60)
    assert started.returncode == 1, told
    assert "all that was made is cleared away" in told
    assert left_of(tmp_path / "tmp") == []


# Would the checks notice? -----------------------------------------------------------------------


@pytest.fixture
def books(run: Run, tmp_path: Path) -> Iterator[Books]:
    """Ledgers of a run in which nothing was wrong; each test makes something wrong in them."""
    shutil.copytree(run.kept, tmp_path / "books")
    opened = Books(tmp_path / "books")
    assert check(opened, []) == Findings()
    yield opened
    opened.close()


def ended(books: Books) -> tuple[str, str]:
    """A lease that all three know, with a ticket and a receipt."""
    return next(
        key
        for key, lease in books.guest.items()
        if lease.ticket and lease.receipt and key in books.site and books.site[key].assignments
    )


def spend_twice(books: Books) -> None:
    key = ended(books)
    books.site[key[0], "another"] = replace(books.site[key], id="another", assignments=())


def assign_twice(books: Books) -> None:
    key = ended(books)
    books.site[key[0], "another"] = replace(books.site[key], id="another", spent=())


def sell_twice(books: Books) -> None:
    key = ended(books)
    for number in range(20):
        name = f"copy-{number}"
        books.guest[key[0], name] = replace(books.guest[key], id=name, receipt="")


@pytest.mark.parametrize(
    ("doing", "said"),
    [
        (spend_twice, "is spent for"),
        (assign_twice, "epoch"),
        (sell_twice, "are out at"),
    ],
)
def test_what_is_done_twice_is_noticed(
    books: Books, doing: Callable[[Books], None], said: str
) -> None:
    doing(books)
    assert any(said in line for line in check(books, []).done_twice)


def test_a_unit_given_on_before_it_was_left_is_noticed(
    books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = list(books.entries("site"))
    first = next(e for e in entries if e.by.startswith("setup "))
    early = replace(first, lease="somebody/else")
    at = entries.index(first) + 1
    monkeypatch.setattr(books, "entries", lambda _: iter([*entries[:at], early, *entries[at:]]))
    assert any("before" in line for line in check(books, []).done_twice)


def keep_unit(books: Books) -> None:
    key, unit = next(iter(books.units.items()))
    books.units[key] = replace(unit, owner=ended(books))


def quarantine(books: Books) -> None:
    key, unit = next(iter(books.units.items()))
    books.units[key] = replace(unit, quarantined="set-up: no SSH")


def keep_sold(books: Books) -> None:
    key = ended(books)
    ahead = Term(1, books.guest[key].term.end + 10_000)
    jti = books.site[key].spent[0].jti
    grant = Grant(delegation="share", units=1, term=ahead, jti=jti, chain=())
    books.broker[key] = replace(books.broker[key], grants=(grant,))


def forget_at_site(books: Books) -> None:
    key = ended(books)
    del books.site[key]
    # closed by hand, long before its term was over
    guest = books.guest[key]
    books.guest[key] = replace(guest, term=Term(guest.term.start, guest.term.end + 10_000))


def swap_receipts(books: Books) -> None:
    key = ended(books)
    other = next(k for k, lease in books.site.items() if k != key and lease.receipt)
    books.guest[key] = replace(books.guest[key], receipt=books.site[other].receipt)


def forge_receipt(books: Books) -> None:
    key = ended(books)
    books.guest[key] = replace(books.guest[key], receipt=books.guest[key].receipt[:-6] + "AAAAAA")


def make_up_lease(books: Books) -> None:
    key = ended(books)
    books.site[key[0], "made-up"] = replace(books.site[key], id="made-up", spent=(), assignments=())


@pytest.mark.parametrize(
    ("doing", "said"),
    [
        (keep_unit, "is still owned by"),
        (quarantine, "is still in quarantine"),
        (keep_sold, "capacity stays sold"),
        (forget_at_site, "the site has not heard of"),
        (swap_receipts, "another receipt than the site"),
        (forge_receipt, "no good receipt"),
        (make_up_lease, "no lease of the guest's"),
    ],
)
def test_what_differs_is_noticed(books: Books, doing: Callable[[Books], None], said: str) -> None:
    doing(books)
    assert any(said in line for line in check(books, []).differences)


@pytest.mark.parametrize("actor", ACTORS)
def test_a_changed_audit_record_is_noticed(books: Books, tmp_path: Path, actor: str) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "books" / f"{actor}.sqlite")) as database:
        database.execute("UPDATE log SET body = X'5B5D' WHERE number = 3")
        database.commit()
    assert any(f"the audit record of {actor}" in one for one in check(books, []).differences)


def promised(books: Books) -> Life:
    """A life as its guest would have been told it."""
    key = ended(books)
    record = books.guest[key]
    life = Life(number=1, plan="hold", units=record.units, slice="one-1", seconds=3600)
    life.id, life.state, life.final = key[1], record.state.value, True
    life.end = datetime.fromtimestamp(record.term.end, UTC)
    return life


def test_a_promise_that_was_kept_is_not_lost(books: Books) -> None:
    assert check(books, [promised(books)]).lost == []


def test_a_promise_that_was_not_kept_is_noticed(books: Books) -> None:
    forgotten, shorter, otherwise = promised(books), promised(books), promised(books)
    forgotten.id = "unheard-of"
    assert shorter.end is not None
    shorter.end += timedelta(minutes=5)
    otherwise.state = "Failed" if otherwise.state == "Closed" else "Closed"
    said = check(books, [forgotten, shorter, otherwise]).lost
    assert ["not in" in said[0], "promised" in said[1], "told" in said[2]] == [True] * 3, said


def lease(state: str, **changes: Any) -> Lease:
    asked = Asked(units=1, least_units=1, start=NOW, end=NOW)
    values: dict[str, Any] = {
        "id": "l",
        "slice": "s",
        "type": "t",
        "state": state,
        "final": state in ("Closed", "Failed"),
        "units": 1,
        "start": NOW,
        "end": NOW + timedelta(hours=1),
        "asked": asked,
        "broker": "b",
    }
    if state == "Active":
        values["held"] = ({"name": "node-1"},)
    return Lease.model_validate(values | changes)


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ([lease("Joining"), lease("Ticketing")], "again"),
        ([lease("Closed", reason="the term ends"), lease("Failed")], "was over"),
        ([lease("Joining"), lease("Joining", end=NOW)], "was promised"),
        ([lease("Active", held=())], "0 are held"),
        ([lease("Failed", reason="spent")], "for no good reason"),
        ([lease("Closed", reason="the site closed the lease")], "for no good reason"),
    ],
)
def test_a_guest_notices_what_is_not_kept(told: list[Lease], said: str) -> None:
    life = Life(number=1, plan="expire", units=1, slice="s", seconds=20)
    for one in told:
        life.hear(one)
    assert any(said in line for line in life.lost), life.told


def test_a_guest_is_content_with_what_is_kept() -> None:
    life = Life(number=1, plan="expire", units=1, slice="s", seconds=20)
    for state in ("Ticketing", "Redeeming", "Joining", "Active", "Leaving", "CloseWait"):
        life.hear(lease(state))
    life.hear(lease("Closed", reason="the term ends"))
    assert life.lost == []


def test_what_is_left_or_missing_is_told() -> None:
    before = {"node-1": frozenset({"a", "b"}), "directory": frozenset({"dc=test"})}
    after = {"node-1": frozenset({"b", "c"}), "directory": frozenset({"dc=test"})}
    assert changes(before, before) == []
    assert changes(before, after) == ["node-1: left over: c", "node-1: missing: a"]


# What breaks things -----------------------------------------------------------------------------


def test_every_round_has_every_kind_and_a_seed_gives_one_schedule() -> None:
    first = list(islice(rounds(5, ["node-1", "node-2"], 1.0), 3))
    assert first == list(islice(rounds(5, ["node-1", "node-2"], 1.0), 3))
    assert first != list(islice(rounds(6, ["node-1", "node-2"], 1.0), 3))
    for deck in first:
        assert {fault.kind for _, fault in deck} == KINDS
        assert {fault.target for _, fault in deck if fault.kind == "kill"} == set(ACTORS)


def test_a_full_disk_is_full_until_it_is_freed(tmp_path: Path) -> None:
    disk = SmallDisk(tmp_path / "disk", 2)
    disk.mount()
    try:
        there = disk.path / "there"
        there.write_bytes(b"a" * 5000)
        with disk.full():
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                there.write_bytes(b"b" * 50_000)
            with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
                (disk.path / "new").write_bytes(b"b" * 50_000)
        there.write_bytes(b"c" * 50_000)
    finally:
        disk.unmount()
    assert list(disk.path.iterdir()) == []


Echo = tuple[Proxy, list[bytes]]


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    """A proxy before a server that says everything again, and all that this server has heard."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await reader.read(1000):
                heard.append(chunk)
                if chunk == b"die":
                    writer.transport.abort()
                    return
                writer.write(chunk)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    target = server.sockets[0].getsockname()
    port = next(free_ports(("127.0.0.1",), seed="echo"))
    proxy = Proxy("to-echo", port, (target[0], target[1]), slow=0.05)
    await proxy.start()
    yield proxy, heard
    await proxy.stop()
    server.close()
    await server.wait_closed()


class Caller:
    """One connection to the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def of(cls, proxy: Proxy) -> Caller:
        return cls(*await asyncio.open_connection("127.0.0.1", proxy.port))

    async def say(self, text: bytes) -> bytes:
        """The answer; empty when the connection is closed or broken."""
        try:
            self.writer.write(text)
            return await self.reader.read(1000)
        except ConnectionError:
            return b""

    def close(self) -> None:
        self.writer.close()


async def test_the_proxy_passes_on_what_is_said_and_that_it_ends(echo: Echo) -> None:
    proxy, heard = echo
    caller = await Caller.of(proxy)
    assert await caller.say(b"hello") == b"hello"
    caller.writer.write_eof()
    assert await caller.reader.read() == b""
    assert heard == [b"hello"]
    caller.close()


async def test_a_caller_notices_that_the_other_end_is_gone(echo: Echo) -> None:
    proxy, _ = echo
    caller = await Caller.of(proxy)
    assert await caller.say(b"hello") == b"hello"
    assert await caller.say(b"die") == b""
    caller.close()


async def test_nobody_behind_the_proxy_is_like_nobody_there() -> None:
    ports = free_ports(("127.0.0.1",), seed="nobody")
    proxy = Proxy("to-nobody", next(ports), ("127.0.0.1", next(ports)))
    await proxy.start()
    caller = await Caller.of(proxy)
    assert await caller.say(b"hello") == b""
    caller.close()
    await proxy.stop()


async def test_cut_breaks_connections_and_takes_no_new_ones(echo: Echo) -> None:
    proxy, heard = echo
    caller = await Caller.of(proxy)
    assert await caller.say(b"before") == b"before"
    async with proxy.in_trouble(Trouble.CUT):
        assert await caller.say(b"during") == b""
        another = await Caller.of(proxy)
        assert await another.say(b"during") == b""
    after = await Caller.of(proxy)
    assert await after.say(b"after") == b"after"
    assert heard == [b"before", b"after"]
    for one in (caller, another, after):
        one.close()


async def test_hung_holds_everything_and_then_goes_on(echo: Echo) -> None:
    proxy, heard = echo
    caller = await Caller.of(proxy)
    assert await caller.say(b"before") == b"before"
    async with proxy.in_trouble(Trouble.HUNG):
        waiting = asyncio.create_task(caller.say(b"during"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        assert heard == [b"before"]
    assert await waiting == b"during"
    caller.close()


async def test_mute_lets_requests_through_and_loses_answers(echo: Echo) -> None:
    proxy, heard = echo
    caller = await Caller.of(proxy)
    async with proxy.in_trouble(Trouble.MUTE):
        waiting = asyncio.create_task(caller.say(b"done?"))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        assert heard == [b"done?"]
    assert await waiting == b""
    caller.close()


async def test_slow_passes_everything_in_order(echo: Echo) -> None:
    proxy, heard = echo
    caller = await Caller.of(proxy)
    async with proxy.in_trouble(Trouble.SLOW):
        for text in (b"one", b"two"):
            waiting = asyncio.create_task(caller.say(text))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            assert await waiting == text
    assert heard == [b"one", b"two"]
    caller.close()


async def test_one_trouble_at_a_time(echo: Echo) -> None:
    proxy, _ = echo
    async with proxy.in_trouble(Trouble.SLOW):
        with pytest.raises(RuntimeError, match="slow already"):
            async with proxy.in_trouble(Trouble.CUT):
                pass
