"""What breaks between actor and server: connections, the server itself, its disk.

A commit whose answer was lost is found out about: never lost, never done twice, never half done.
"""

from __future__ import annotations

import logging
import random
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import psycopg
import pytest

from shirako.ledger import (
    CommitFailed,
    Entry,
    LedgerError,
    LedgerLost,
    Write,
    decode_entries,
    verify_links,
)
from shirako.ledger.memory import MemoryLedger
from shirako.ledger.postgresql import PostgresLedger
from shirako.ledger.postgresql.schema import Stored, damage
from shirako.testbed.postgres import Postgres

if TYPE_CHECKING:
    from tests.postgres.conftest import Network, Open

pytestmark = pytest.mark.real

Query = Callable[[str], str]
CUTS = 240


def told(ledger: PostgresLedger) -> list[int]:
    """The ticks of all entries, in the order in which they were committed."""
    return [entry.tick for link in ledger.links() for entry in decode_entries(link.body)]


class Model:
    """Commits numbers, and remembers what was acknowledged."""

    def __init__(self, chance: random.Random) -> None:
        self.stored: list[int] = []
        self._records: dict[str, bytes] = {}
        self._chance = chance

    def commit(self, ledger: PostgresLedger, number: int) -> None:
        key, old = f"k{number % 7}", f"k{self._chance.randrange(7)}"
        body = b"%d " % number * self._chance.randrange(1, 200)
        writes = [Write("lease", old, None), Write("lease", key, body), Write("unit", "u", body)]
        try:
            ledger.commit(writes, [Entry(lease=key, tick=number, what="made")])
        except CommitFailed:
            return
        self.stored.append(number)
        self._records.pop(old, None)
        self._records |= {key: body, "u": body}

    def check(self, ledger: PostgresLedger) -> None:
        assert told(ledger) == self.stored
        assert {key: body for _, key, body in ledger.load()} == self._records
        assert verify_links(ledger.links()) == len(self.stored)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_connection_cut_at_any_byte_of_a_commit_loses_and_doubles_nothing(
    open_ledger: Open,
    network: Network,
    far_url: str,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """ATOMIC, DURABLE."""
    caplog.set_level(logging.CRITICAL, "shirako.ledger.postgresql")
    found_out, is_stored = [], PostgresLedger._is_stored

    def noting(self: PostgresLedger, after: Stored) -> bool:
        found_out.append(is_stored(self, after))
        return found_out[-1]

    monkeypatch.setattr(PostgresLedger, "_is_stored", noting)
    chance = random.Random(seed)
    ledger, model, number = open_ledger(far_url), Model(chance), 0
    while network.cuts < CUTS / 3:
        number += 1
        direction, most = chance.choice([("up", 2500), ("down", 130)])
        network.cut_after(direction, chance.randrange(most))
        model.commit(ledger, number)
        if chance.random() < 0.1:
            model.check(ledger)
    network.heal()
    ledger.close()
    again = open_ledger()
    model.check(again)
    assert damage(again._connected().db) == ""
    assert min(found_out.count(True), found_out.count(False)) > CUTS / 30, "both have happened"
    assert model.stored == list(range(1, number + 1)), "each was tried until it was stored"


def test_a_commit_that_the_server_still_works_on_is_waited_for(
    open_ledger: Open, network: Network, far_url: str, url: str, schema: str
) -> None:
    """The connection is gone, the commit is not: it waits for a lock, and is stored later."""
    ledger = open_ledger(far_url)
    thread = threading.Thread(target=ledger.commit, args=([Write("lease", "k", b"1")], []))
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
    with psycopg.connect(url) as other, psycopg.connect(url, autocommit=True) as watcher:
        other.execute(f"SELECT FROM {schema}.fence FOR UPDATE")
        thread.start()
        while watcher.execute(waiting).fetchone() != (1,):
            time.sleep(0.005)
        network.cut()
        time.sleep(0.2)
        assert thread.is_alive()
        other.rollback()
        thread.join(30)
    ledger.commit([Write("lease", "k", b"2")], [])
    assert list(ledger.load()) == [("lease", "k", b"2")]
    with psycopg.connect(url) as db:
        assert db.execute(f"SELECT commits FROM {schema}.fence").fetchone() == (2,)


def test_a_commit_that_no_session_survives_failed(
    open_ledger: Open, network: Network, far_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not tried for ever; and it is not stored."""
    ledger = open_ledger(far_url)
    once = PostgresLedger._commit_once

    def cut_before(self: PostgresLedger, parameters: dict[str, object]) -> tuple[int, int] | None:
        self._connected()
        network.cut_after("up", 0)
        return once(self, parameters)

    with monkeypatch.context() as patched:
        patched.setattr(PostgresLedger, "_commit_once", cut_before)
        with pytest.raises(CommitFailed, match="ends each session that commits this"):
            ledger.commit([Write("lease", "k", b"1")], [])
    assert list(ledger.load()) == []
    ledger.commit([Write("lease", "k", b"2")], [])
    assert list(ledger.load()) == [("lease", "k", b"2")]


def test_what_it_adds_up_to_is_known_when_the_answer_was_lost(
    open_ledger: Open, network: Network, far_url: str
) -> None:
    ledger, twin = open_ledger(far_url), MemoryLedger()
    for number in range(6):
        if number % 2:
            network.cut_after("down", 0)
        for one in (ledger, twin):
            writes = [Write("lease", "k", None if number % 3 else b"x"), Write("lease", "j", b"y")]
            one.commit(writes, [Entry(lease="k", tick=number, what="made")])
        network.heal()
        assert ledger.total() == twin.total()


def test_reading_goes_on_after_a_cut(
    open_ledger: Open, network: Network, far_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shirako.ledger.postgresql.ledger.PAGE_ROWS", 2)
    ledger = open_ledger(far_url)
    for tick in range(1, 10):
        key = f"k{tick}"
        ledger.commit([Write("lease", key, b"x")], [Entry(lease=key, tick=tick, what="made")])
    loading, linking = ledger.load(), ledger.links()
    seen = []
    for (_, key, _), link in zip(loading, linking, strict=True):
        network.cut()
        seen.append((key, link.number))
    assert seen == [(f"k{tick}", tick) for tick in range(1, 10)]
    network.cut()
    assert [entry.tick for entry in ledger.story("k4")] == [4]


def test_a_copy_that_is_cut_off_does_not_act_until_it_is_heard_again(
    open_ledger: Open, network: Network, far_url: str
) -> None:
    """`held` never waits: it is asked while nothing can be reached."""
    ledger = open_ledger(far_url, hold_seconds=0.6)
    network.cut_after("up", 0)
    while ledger.held():
        network.cut_after("up", 0)
        time.sleep(0.005)
    network.heal()
    while not ledger.held():
        time.sleep(0.01)
    ledger.commit([Write("lease", "k", b"1")], [])


# The server ----------------------------------------------------------------------------------


def test_commits_go_on_after_the_server_was_restarted(
    postgres: Postgres, open_ledger: Open
) -> None:
    """Stopped in order, and crashed: in the middle of commits, with nothing told to the actor."""
    ledger, model = open_ledger(postgres.url), Model(random.Random(0))
    halt = threading.Event()

    def commit() -> None:
        number = 0
        while not halt.is_set():
            number += 1
            model.commit(ledger, number)

    thread = threading.Thread(target=commit)
    thread.start()
    try:
        for end in (postgres.stop, postgres.crash):
            reached = len(model.stored)
            while len(model.stored) < reached + 20:
                time.sleep(0.005)
            end()
            postgres.start()
    finally:
        halt.set()
        thread.join(60)
    model.check(ledger)


def test_a_wait_for_the_server_ends_when_the_actor_is_to_stop(
    postgres: Postgres, open_ledger: Open
) -> None:
    stopping = threading.Event()
    ledger = open_ledger(stopping=stopping)
    postgres.stop()
    try:
        with pytest.raises(LedgerError, match=r"can not be reached: .*No such file or directory"):
            open_ledger()
        threading.Timer(0.2, stopping.set).start()
        with pytest.raises(LedgerLost, match="stopped while it waited for its server"):
            ledger.commit([], [])
        ledger.close()
    finally:
        postgres.start()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of its own that is full when it is told to be."""
    with TemporaryDirectory(prefix="shirako-small-") as folder, ExitStack() as stack:
        size = ["-t", "tmpfs", "-o", "size=120m", "tmpfs", folder]
        subprocess.run(["mount", *size], check=True)
        stack.callback(subprocess.run, ["umount", "--lazy", folder], check=True)
        yield Path(folder)


@pytest.mark.root
def test_a_full_disk_is_a_commit_that_failed(small_disk: Path) -> None:
    """ATOMIC: nothing of it is stored; with room again the next one is."""
    small = {"min_wal_size": "32MB", "max_wal_size": "32MB", "shared_buffers": "4MB"}
    with Postgres(small, folder=small_disk) as server, ExitStack() as stack:
        ledger = PostgresLedger(server.socket_url, "site")
        stack.callback(ledger.close)
        ledger.commit([Write("lease", "k1", b"1")], [])
        ballast = small_disk / "ballast"
        with ballast.open("wb") as file, pytest.raises(OSError, match="No space"):
            while True:
                file.write(b"x" * 65536)
                file.flush()
        body = random.Random(1).randbytes(300_000)
        with pytest.raises(CommitFailed, match="No space left on device"):
            ledger.commit([Write("lease", "k1", None), Write("lease", "k2", body)], [])
        assert list(ledger.load()) == [("lease", "k1", b"1")]
        ballast.unlink()
        ledger.commit([Write("lease", "k2", body)], [])
        assert list(ledger.load()) == [("lease", "k1", b"1"), ("lease", "k2", body)]
