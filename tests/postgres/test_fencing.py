"""Of the copies of an actor one acts: the lock, the generation, the hold."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shirako.ledger import LedgerError, LedgerLost, Write, verify_links
from shirako.ledger.postgresql import PostgresLedger
from shirako.ledger.postgresql.process import Process
from shirako.ledger.postgresql.tenure import (
    CLOCKS_APART,
    Fence,
    Tenure,
    steady,
    succession,
)

if TYPE_CHECKING:
    from tests.postgres.conftest import Network, Open, Start

pytestmark = pytest.mark.real

Query = Callable[[str], str]
KILLS = 6
SHORT = 0.6
"""Seconds of a hold that a test waits for."""


def keys(ledger: PostgresLedger) -> set[str]:
    return {key for _, key, _ in ledger.load()}


# The lock ------------------------------------------------------------------------------------


def test_a_second_copy_is_refused_and_harms_nothing(
    ledger: PostgresLedger, open_ledger: Open
) -> None:
    with pytest.raises(LedgerError, match=f"in use by process {os.getpid()} on .*a standby"):
        open_ledger()
    ledger.commit([Write("lease", "k", b"1")], [])
    assert ledger.held()
    ledger.close()
    again = open_ledger()
    assert keys(again) == {"k"}


def test_a_copy_that_ended_in_order_need_not_be_waited_for(
    ledger: PostgresLedger, open_ledger: Open
) -> None:
    ledger.close()
    with pytest.raises(LedgerLost, match="is closed"):
        ledger.held()
    again = open_ledger()
    assert not again._tenure.waiting
    assert again._tenure.generation == ledger._tenure.generation + 1


def test_a_killed_copy_of_this_machine_need_not_be_waited_for(
    start: Start, open_ledger: Open
) -> None:
    copy = start()
    assert copy.do("commit k") == "stored"
    copy.popen.kill()
    ledger = open_ledger()  # right away: no standby, and the server may not have noticed yet
    assert not ledger._tenure.waiting
    assert keys(ledger) == {"k"}


def elsewhere(query: Query) -> None:
    """Make the holder a process of another machine, of which nothing is known."""
    query('UPDATE fence SET holder = replace(holder, \'"boot":"\', \'"boot":"not-\')')


def test_a_copy_elsewhere_is_waited_for_until_it_can_not_act(
    start: Start, open_ledger: Open, query: Query
) -> None:
    copy = start(hold_seconds=SHORT)
    elsewhere(query)
    copy.popen.kill()
    ledger = open_ledger()
    assert query("SELECT waiting FROM fence") == "t"
    assert not ledger.held()
    over = ledger._tenure.acts_from
    assert keys(ledger) == set()
    assert steady() >= over
    assert ledger.held()
    assert query("SELECT waiting FROM fence") == "f"


def test_a_commit_waits_for_its_turn(start: Start, open_ledger: Open, query: Query) -> None:
    copy = start(hold_seconds=SHORT)
    elsewhere(query)
    copy.popen.kill()
    ledger = open_ledger()
    ledger.commit([Write("lease", "k", b"1")], [])
    assert steady() >= ledger._tenure.acts_from
    assert ledger.held()


def test_who_ends_while_it_waits_leaves_the_waiting_to_its_successor(
    start: Start, open_ledger: Open, query: Query
) -> None:
    """The process that was killed second is known to be dead; the first may still act."""
    copy = start(hold_seconds=SHORT)
    elsewhere(query)
    copy.popen.kill()
    second = open_ledger()
    assert second._tenure.waiting
    second.close()
    third = open_ledger()
    assert third._tenure.waiting
    assert third._tenure.acts_from > second._tenure.acts_from


# The generation ------------------------------------------------------------------------------


def test_nothing_of_an_earlier_generation_is_committed_or_loaded(
    ledger: PostgresLedger, query: Query
) -> None:
    ledger.commit([Write("lease", "k", b"1")], [])
    query("UPDATE fence SET generation = generation + 1")
    with pytest.raises(LedgerLost, match="another process has taken over"):
        ledger.commit([Write("lease", "k", b"2")], [])
    for again in (
        lambda: ledger.commit([], []),
        lambda: keys(ledger),
        ledger.held,
        lambda: ledger.story("k"),
        lambda: list(ledger.links()),
    ):
        with pytest.raises(LedgerLost, match="another process has taken over"):
            again()
    assert query("SELECT convert_from(body, 'utf8') FROM record") == "1"


def test_a_reload_finds_out_that_another_copy_took_over(
    ledger: PostgresLedger, query: Query
) -> None:
    ledger.commit([Write("lease", "k", b"1")], [])
    query("UPDATE fence SET generation = generation + 1")
    with pytest.raises(LedgerLost):
        keys(ledger)


def test_an_idle_copy_finds_out_that_another_one_took_over(open_ledger: Open, query: Query) -> None:
    ledger = open_ledger(hold_seconds=SHORT)
    query("UPDATE fence SET generation = generation + 1")
    with pytest.raises(LedgerLost, match="another process has taken over"):
        while ledger.held() is not None:
            time.sleep(0.01)


def test_a_commit_that_comes_during_a_takeover_waits_and_is_refused(
    ledger: PostgresLedger, url: str, schema: str
) -> None:
    """The successor's transaction is open when the commit arrives at the server."""
    with psycopg.connect(url) as successor:
        successor.execute(f"UPDATE {schema}.fence SET generation = generation + 1")
        said: list[BaseException] = []

        def commit() -> None:
            try:
                ledger.commit([Write("lease", "k", b"1")], [])
            except LedgerLost as lost:
                said.append(lost)

        thread = threading.Thread(target=commit)
        thread.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        with psycopg.connect(url, autocommit=True) as watcher:
            while watcher.execute(waiting).fetchone() == (0,):
                time.sleep(0.005)
        successor.commit()
        thread.join(30)
    assert len(said) == 1
    with psycopg.connect(url) as db:
        assert db.execute(f"SELECT count(*) FROM {schema}.record").fetchone() == (0,)


# Copies that stop ----------------------------------------------------------------------------


def test_a_stopped_copy_does_nothing_when_it_wakes_after_a_takeover(start: Start) -> None:
    """It is stopped beyond its hold with its session open, and gets work to do meanwhile."""
    first = start(hold_seconds=SHORT)
    assert first.do("commit before") == "stored"
    first.signal(signal.SIGSTOP)
    second = start(standby=True)
    assert second.do("load") == ["before"]
    assert second.do("commit after") == "stored"
    for command in ("held", "commit late", "load", "held"):
        first.say(command)
    first.signal(signal.SIGCONT)
    assert first.hear() in (False, "lost")
    assert first.hear() == "lost"
    assert first.hear() == "lost"
    assert first.hear() == "lost"
    assert second.do("load") == ["after", "before"]
    assert second.do("held") is True


def test_a_stopped_copy_goes_on_when_nobody_took_over(
    start: Start, actor: str, query: Query
) -> None:
    copy = start(hold_seconds=SHORT)
    before = query("SELECT generation FROM fence")
    copy.signal(signal.SIGSTOP)
    sessions = f"SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shirako {actor}'"
    while query(sessions) != "0":
        time.sleep(0.05)  # until the server has ended the session that fell silent
    copy.signal(signal.SIGCONT)
    while copy.do("held") is not True:
        time.sleep(0.02)
    assert copy.do("commit k") == "stored"
    assert query("SELECT generation FROM fence") == before


def test_a_standby_takes_over_from_each_that_is_killed(start: Start, open_ledger: Open) -> None:
    """DURABLE: whatever a copy said it had stored is there, and each key was stored once."""
    said: list[str] = []
    holder, number = start(), 0
    for number in range(KILLS):
        standby = start(standby=True, wait=False)
        holder.say(f"work {number}")
        said += [holder.hear() for _ in range(5 * number)]
        holder.popen.kill()
        said += holder.rest()
        assert standby.hear() == {"open": True}
        holder = standby
    assert holder.do("close") == "closed"
    ledger = open_ledger()
    found = keys(ledger)
    assert len(said) > 5
    assert set(said) <= found
    assert len(found - set(said)) <= number + 1  # stored, and not told before the kill
    assert verify_links(ledger.links()) == len(found)


# Waits end -----------------------------------------------------------------------------------


def test_a_standby_stops_waiting_when_it_is_told_to(
    ledger: PostgresLedger, open_ledger: Open
) -> None:
    stopping = threading.Event()
    threading.Timer(0.3, stopping.set).start()
    with pytest.raises(LedgerError, match="stopped while it waited"):
        open_ledger(standby=True, stopping=stopping)
    assert ledger.held()


def test_a_standby_survives_the_loss_of_its_own_connection(
    ledger: PostgresLedger,
    open_ledger: Open,
    network: Network,
    far_url: str,
    actor: str,
    query: Query,
) -> None:
    opened: list[PostgresLedger] = []
    thread = threading.Thread(target=lambda: opened.append(open_ledger(far_url, standby=True)))
    thread.start()
    standing_by = f"""
        SELECT count(*) FROM pg_stat_activity WHERE application_name = 'shirako {actor}'
        AND query LIKE '%pg_try_advisory_lock%'
    """
    while query(standing_by) == "0":  # the holder's own question was followed by others
        time.sleep(0.01)
    network.cut()
    ledger.close()
    thread.join(30)
    assert opened[0].held()


# Processes -----------------------------------------------------------------------------------


def test_a_process_is_known_to_run_or_to_be_dead() -> None:
    assert Process.this().runs() is True
    assert Process.read(str(Process.this())) == Process.this()
    with subprocess.Popen(["sleep", "100"]) as child:
        stat = Path(f"/proc/{child.pid}/stat").read_text()
        started = int(stat.rpartition(")")[2].split()[19])
        there = msgspec.structs.replace(Process.this(), pid=child.pid, started=started)
        assert there.runs() is True
        assert msgspec.structs.replace(there, started=started - 1).runs() is False
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert there.runs() is False  # a zombie does nothing any more
    assert there.runs() is False


@pytest.mark.parametrize("field", ["boot", "namespace"])
def test_nothing_is_known_about_processes_elsewhere(field: str) -> None:
    assert msgspec.structs.replace(Process.this(), **{field: "other", "pid": 1}).runs() is None


def test_what_is_no_process_is_nobody() -> None:
    assert Process.read("") is None
    assert Process.read("{}") is None


# The rules, without a server -----------------------------------------------------------------


class Imagined:
    """A copy whose clock runs at its own rate."""

    def __init__(self, rate: float, hold_ms: int, tenure: Tenure) -> None:
        self.rate, self.hold_ms, self.tenure = rate, hold_ms, tenure
        self.alive = True

    def clock(self, now: float) -> float:
        return now * self.rate

    def acts(self, now: float) -> bool:
        return self.alive and self.tenure.held(self.clock(now))


class History:
    """Any takeovers, whether the end of the old holder was seen or not; each acts when it may."""

    def __init__(self) -> None:
        self.fence = Fence(0, "", 0, waiting=False, released=True)
        self.copies: dict[str, Imagined] = {}
        self.now = 0.0

    @property
    def holder(self) -> Imagined:
        return self.copies[self.fence.holder]

    def take_over(self, rate: float, hold_ms: int, *, seen: bool) -> None:
        old = self.copies.get(self.fence.holder)
        runs = old.alive if old is not None and seen else None
        fence, wait_seconds = succession(self.fence, f"c{len(self.copies)}", hold_ms, runs)
        acts_from = self.now * rate + wait_seconds
        copy = Imagined(rate, hold_ms, Tenure(fence.generation, hold_ms / 1000, acts_from))
        self.fence = fence
        self.copies[fence.holder] = copy
        copy.tenure.confirm(copy.clock(self.now))
        if not fence.waiting:
            copy.tenure.begin()
        self.check()

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        copy = self.holder
        begins = copy.tenure.acts_from / copy.rate
        if copy.alive and copy.tenure.waiting and begins <= until:
            self.now = max(begins, self.now)
            self.fence = self.fence._replace(waiting=False, hold_ms=copy.hold_ms)
            copy.tenure.begin()
            self.confirm()
        self.now = until
        self.check()

    def confirm(self) -> None:
        """Asked now; when the answer comes changes nothing."""
        self.holder.tenure.confirm(self.holder.clock(self.now))
        self.check()

    def end(self) -> None:
        self.fence = self.fence._replace(released=not self.fence.waiting)
        self.holder.alive = False

    def check(self) -> None:
        now = self.now + 1e-6  # what is due at this instant is done
        acting = [name for name, copy in self.copies.items() if copy.acts(now)]
        assert len(acting) <= 1, f"{acting} act at {now}"


RATES = st.sampled_from([CLOCKS_APART**-0.499, 1.0, CLOCKS_APART**0.499])


@settings(max_examples=150)
@given(data=st.data())
def test_at_no_moment_do_two_copies_act(data: st.DataObject) -> None:
    history = History()
    for _ in range(data.draw(st.integers(1, 25))):
        kind = data.draw(st.sampled_from(["take over", "advance", "confirm", "die", "end"]))
        if kind == "take over" or not history.copies:
            hold_ms = data.draw(st.integers(100, 5000))
            history.take_over(data.draw(RATES), hold_ms, seen=data.draw(st.booleans()))
        elif kind == "advance":
            history.advance(data.draw(st.floats(0, 8)))
        elif history.holder.alive:
            if kind == "confirm":
                history.confirm()
            elif kind == "die":
                history.holder.alive = False
            else:
                history.end()
