"""What only a ledger on a server can suffer; what every ledger promises: `tests/contract`."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg
import pytest

from shirako.ledger import (
    CommitFailed,
    Entry,
    Ledger,
    LedgerError,
    LedgerLost,
    Write,
    verify_links,
)
from shirako.ledger.postgresql import PostgresLedger, schema
from shirako.testbed.postgres import Postgres

if TYPE_CHECKING:
    from tests.postgres.conftest import Open

pytestmark = pytest.mark.real

Query = Callable[[str], str]


def entry(lease: str, what: str, tick: int = 1) -> Entry:
    return Entry(lease=lease, tick=tick, what=what, state="Active", by="guest", note="ünïcode\t")


def records(ledger: Ledger) -> dict[tuple[str, str], bytes]:
    return {(kind, key): body for kind, key, body in ledger.load()}


def test_more_than_a_page_is_read_in_pages(
    ledger: PostgresLedger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shirako.ledger.postgresql.ledger.PAGE_ROWS", 3)
    keys = {("lease" if n % 2 else "unit", f"k{n}") for n in range(10)}
    for kind, key in sorted(keys):
        ledger.commit([Write(kind, key, key.encode())], [entry(key, "made")])
    assert records(ledger) == {(kind, key): key.encode() for kind, key in keys}
    assert verify_links(ledger.links()) == 10


def test_actors_of_one_database_do_not_see_each_other(
    url: str, actor: str, open_ledger: Open
) -> None:
    """ISOLATED."""
    one, other = open_ledger(), PostgresLedger(url, actor + "-b")
    one.commit([Write("lease", "g/L1", b"1")], [entry("g/L1", "made")])
    assert records(other) == {}
    assert other.story("g/L1") == []
    other.close()


def test_a_commit_that_the_server_refuses_leaves_nothing_of_itself(
    ledger: PostgresLedger, query: Query
) -> None:
    """ATOMIC and rule 15: records and log stay as they were, and the next commit works."""
    ledger.commit([Write("lease", "g/L1", b"1")], [entry("g/L1", "a")])
    query("ALTER TABLE record ADD CONSTRAINT small CHECK (length(body) < 9)")
    with pytest.raises(CommitFailed, match="small"):
        ledger.commit(
            [Write("lease", "g/L1", None), Write("lease", "g/L2", b"x" * 9)], [entry("g/L2", "b")]
        )
    assert records(ledger) == {("lease", "g/L1"): b"1"}
    assert ledger.story("g/L2") == []
    ledger.commit([Write("lease", "g/L3", b"3")], [entry("g/L3", "d")])
    assert verify_links(ledger.links()) == 2
    assert schema.damage(ledger._connected().db) == ""


def test_what_the_fence_says_adds_up(ledger: PostgresLedger) -> None:
    for n in range(20):
        writes = [Write("lease", f"k{key}", b"x" * (n + key)) for key in range(n % 5)]
        ledger.commit([*writes, Write("lease", f"k{n % 3}", None)], [])
        assert schema.damage(ledger._connected().db) == ""


# Where it refuses to open --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("UPDATE version SET number = 99", r"has schema 99.*run the newer program"),
        ("DELETE FROM version", "its table `version` is empty"),
        ("DELETE FROM fence", "fence. is empty"),
        ("DELETE FROM record WHERE key = 'k1'", "records: 3 were stored, 2 are there"),
        ("INSERT INTO record VALUES ('lease', 'k9', 0, 'x')", "3 were stored, 4 are there"),
        ("UPDATE record SET sum = sum + 1 WHERE key = 'k1'", "sum of the records' checksums"),
        ("DELETE FROM log WHERE number = 3", "links of the log: 3 were stored, 2 are there"),
        ("UPDATE log SET hash = 'x' WHERE number = 3", "last link"),
    ],
)
def test_what_does_not_add_up_is_refused(
    ledger: PostgresLedger, open_ledger: Open, query: Query, change: str, told: str
) -> None:
    for n in range(3):
        ledger.commit([Write("lease", f"k{n}", b"x")], [entry("k", "made")])
    ledger.close()
    query(change)
    for _ in range(2):  # and is not left locked
        assert re.search(told, refusal(open_ledger))


def refusal(open_ledger: Open) -> str:
    """Why it is not opened. The server lets go of a lock a moment after its holder has left."""
    deadline = time.monotonic() + 20
    while True:
        with pytest.raises(LedgerError) as caught:
            open_ledger()
        if "is in use" not in str(caught.value):
            return str(caught.value)
        assert time.monotonic() < deadline, caught.value
        time.sleep(0.02)


def test_a_changed_record_is_found_when_it_is_loaded(
    ledger: PostgresLedger, open_ledger: Open, query: Query
) -> None:
    ledger.commit([Write("lease", f"k{n}", b"x") for n in range(3)], [])
    ledger.close()
    query("UPDATE record SET body = 'y' WHERE key = 'k1'")
    again = open_ledger()
    with pytest.raises(LedgerError, match="the record lease k1 does not fit its checksum"):
        records(again)


def test_a_log_changed_in_the_database_is_found(ledger: PostgresLedger, query: Query) -> None:
    for n in range(5):
        ledger.commit([], [entry(f"L{n}", "made")])
    forged = "replace(encode(body, 'escape'), 'made', 'sold')::bytea"
    query(f"UPDATE log SET body = {forged} WHERE number = 3")
    with pytest.raises(LedgerError, match="entry 3"):
        verify_links(ledger.links())


@pytest.mark.parametrize("what", ["password", "database", "port", "host", "escape"])
def test_a_server_that_is_not_there_is_named_without_the_password(
    postgres: Postgres, actor: str, what: str
) -> None:
    url = {
        "password": postgres.url.replace(postgres.password, "geheim"),
        "database": postgres.url + "-not",
        "port": postgres.url.replace(f":{postgres.port}/", ":1/"),
        "host": postgres.url.replace("127.0.0.1", "127.0.0.1:x"),
        "escape": postgres.url.replace(postgres.password, "geheim%zz"),
    }[what]
    told = {
        "password": "can not be reached: .*password authentication failed",
        "database": 'can not be reached: .*database "shirako-not" does not exist',
        "port": "can not be reached: .*refused",
        "host": "can not be reached: .*invalid integer value",
        "escape": "URL of the ledger can not be read: write it as",
    }[what]
    with pytest.raises(LedgerError, match=told) as caught:
        PostgresLedger(url, actor)
    seen: BaseException | None = caught.value
    while seen is not None:
        assert not re.search(f"geheim|{postgres.password}", str(seen))
        seen = None if seen.__suppress_context__ else seen.__cause__ or seen.__context__


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("fsync = off", "forgets commits when its machine fails: set fsync = on"),
        ("default_transaction_read_only = on", "takes no writes"),
    ],
)
def test_a_server_that_can_not_keep_a_ledger_is_refused(
    postgres: Postgres, url: str, actor: str, setting: str, told: str
) -> None:
    """DURABLE."""
    postgres.run(f"ALTER SYSTEM SET {setting}")
    postgres.run("SELECT pg_reload_conf()")
    try:
        refused = ""
        while told not in refused:  # the server takes up its new settings in its own time
            with suppress(LedgerError):
                PostgresLedger(url, actor).close()
                continue
            with pytest.raises(LedgerError) as caught:
                PostgresLedger(url, actor)
            refused = str(caught.value)
    finally:
        postgres.run("ALTER SYSTEM RESET ALL")
        postgres.run("SELECT pg_reload_conf()")


def test_a_database_of_another_encoding_is_refused(postgres: Postgres, actor: str) -> None:
    postgres.run(
        "CREATE DATABASE latin OWNER shirako ENCODING 'LATIN1' TEMPLATE template0 "
        "LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    with pytest.raises(LedgerError, match="its encoding is LATIN1: make the database with"):
        PostgresLedger(postgres.socket_url.replace("/shirako?", "/latin?"), actor)


def test_who_may_not_make_a_schema_is_told_and_may_use_one(
    postgres: Postgres, actor: str, schema: str
) -> None:
    postgres.run("CREATE ROLE poor LOGIN")
    url = postgres.socket_url.replace("shirako@", "poor@")
    with pytest.raises(LedgerError, match="permission denied for database shirako"):
        PostgresLedger(url, actor)
    postgres.run(f"CREATE SCHEMA {schema} AUTHORIZATION poor", "shirako")
    ledger = PostgresLedger(url, actor)
    ledger.commit([Write("lease", "k", b"x")], [])
    ledger.close()


def test_commits_wait_for_the_disk_whatever_the_database_says(
    postgres: Postgres, open_ledger: Open
) -> None:
    """DURABLE."""
    postgres.run("ALTER DATABASE shirako SET synchronous_commit = off")
    try:
        ledger = open_ledger()
    finally:
        postgres.run("ALTER DATABASE shirako RESET synchronous_commit")
    assert ledger._connected().db.execute("SHOW synchronous_commit").fetchone() == ("on",)


def test_a_server_that_went_back_in_time_ends_the_actor(
    ledger: PostgresLedger, postgres: Postgres, query: Query
) -> None:
    """DURABLE: what was acknowledged is gone, so this copy's memory is of another world."""
    for n in range(3):
        ledger.commit([Write("lease", f"k{n}", b"x")], [])
    query("UPDATE fence SET commits = 2")
    postgres.run(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = "
        f"'shirako {ledger._target.actor}'"
    )
    with pytest.raises(LedgerLost, match="ends with commit 2, but 3 was acknowledged"):
        ledger.commit([Write("lease", "k9", b"x")], [])


def test_a_server_that_is_older_is_refused(
    url: str, actor: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shirako.ledger.postgresql.session.OLDEST_SERVER", 990000)
    with pytest.raises(LedgerError, match="its server has version"):
        PostgresLedger(url, actor)


def test_the_url_may_say_what_we_say_by_default(url: str, actor: str) -> None:
    ledger = PostgresLedger(f"{url}&application_name=mine&connect_timeout=3", actor)
    with psycopg.connect(url) as db:
        seen = db.execute("SELECT 1 FROM pg_stat_activity WHERE application_name = 'mine'")
        assert seen.fetchone() == (1,)
    ledger.close()
