"""DURABLE: a backup is all of a ledger as of one moment, and so is what is restored from it."""

from __future__ import annotations

import gzip
import json
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from pathlib import Path

import pytest

from shirako.ledger import (
    Entry,
    Ledger,
    LedgerError,
    Link,
    Total,
    Write,
    encode_entries,
    link_hash,
    verify_links,
)
from shirako.ledger.copies import Source
from shirako.ledger.copying import check_room, reading, restore
from shirako.ledger.mark import mark_path
from shirako.ledger.opening import open_ledger
from shirako.ledger.sqlite import SqliteLedger
from shirako.ledger.sqlite_copying import reading_file, write_file
from shirako.ledger.sums import record_sum
from shirako.testbed.postgres import Postgres

ACTOR = "site"
OLDER = Path(__file__).parent.parent / "ledger"

Records = dict[tuple[str, str], bytes]


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str | Path]:
    """Where the ledger of an actor is; each test's own."""
    if request.param == "sqlite":
        return lambda actor: tmp_path / f"{actor}.sqlite"
    url = request.getfixturevalue("postgres").socket_url
    return lambda actor: str(url)


_numbers = count()


@pytest.fixture
def actor() -> str:
    """A name that no other test has, and so a schema that is new."""
    return f"actor-{next(_numbers)}"


def quiet(_done: int, _of: int) -> None:
    """Nobody looks."""


def back_up(where: str | Path, actor: str, file: Path, *writes: Write) -> None:
    with reading(where, actor) as source:
        write_file(file, source, writes, quiet, replace=True)


def contents(ledger: Ledger) -> tuple[Records, list[Link]]:
    records = {(kind, key): body for kind, key, body in ledger.load()}
    return records, list(ledger.links())


def commit(ledger: Ledger, number: int) -> None:
    """Bodies come, grow, shrink and go; the record `count` says how many commits there were."""
    keys = [f"g/L{number * 7 % 50 + each}" for each in range(number % 9 + 1)]
    body = b"%d " % number + b"x" * (number * 997 % 5_000)
    writes = [Write("lease", key, body if number % 5 else None) for key in keys]
    writes.append(Write("count", "/", b"%d" % number))
    ledger.commit(writes, [Entry(lease=key, tick=number, what="made") for key in keys])


def test_a_backup_is_one_moment_of_a_ledger_in_use(
    where: Callable[[str], str | Path], actor: str, tmp_path: Path
) -> None:
    ledger = open_ledger(where(actor), actor)
    commit(ledger, 1)
    states: dict[int, Records] = {}
    ended, written = threading.Event(), 1

    def work() -> None:
        nonlocal written
        while not ended.is_set():
            commit(ledger, written + 1)
            written += 1

    writer = threading.Thread(target=work)
    writer.start()
    try:
        for number in range(4):
            before = written
            file = tmp_path / f"{number}.backup"
            back_up(where(actor), actor, file)
            copy = SqliteLedger(file)
            records, links = contents(copy)
            moment = int(records["count", "/"])
            assert before <= moment <= written
            assert verify_links(iter(links)) == moment
            for lease in ("g/L8", "g/L21"):
                told = [e.tick for e in copy.story(lease)]
                assert told == [
                    number
                    for number in range(1, moment + 1)
                    if any(
                        f"g/L{number * 7 % 50 + each}" == lease for each in range(number % 9 + 1)
                    )
                ]
            copy.close()
            states[moment] = records
    finally:
        ended.set()
        writer.join()
    ledger.close()
    # what each of them holds is what those commits make
    twin = SqliteLedger(tmp_path / "twin.sqlite")
    for number in range(1, max(states) + 1):
        commit(twin, number)
        if number in states:
            assert contents(twin)[0] == states[number]
    twin.close()


@pytest.mark.real
def test_a_backup_goes_from_any_kind_of_ledger_into_any_other(
    postgres: Postgres, actor: str, tmp_path: Path
) -> None:
    places: list[str | Path] = [
        tmp_path / "first.sqlite",
        postgres.socket_url,
        tmp_path / "second.sqlite",
    ]
    ledger = open_ledger(places[0], actor)
    for number in range(1, 60):
        commit(ledger, number)
    ledger.commit([Write("odd", "g\u00fcnter/\0\x01", b"\0\xff")], [])
    wanted = contents(ledger)
    stories = [ledger.story(f"g/L{number}") for number in range(58)]
    ledger.close()
    for number, (source, target) in enumerate(pairwise(places)):
        file, mark = tmp_path / f"{number}.backup", Write("mark", "/", b"%d" % number)
        back_up(source, actor, file, mark)
        check_room(target, actor)
        with reading_file(file) as backup:
            restore(target, actor, backup, [], quiet)
        ledger = open_ledger(target, actor)
        records, links = contents(ledger)
        assert records.pop(("mark", "/")) == mark.body
        assert (records, links) == wanted
        assert [ledger.story(f"g/L{number}") for number in range(58)] == stories
        commit(ledger, 60 + number)  # and it goes on
        ledger.close()
        ledger = open_ledger(target, actor)
        assert verify_links(ledger.links()) == len(links) + 1
        wanted = contents(ledger)
        stories = [ledger.story(f"g/L{number}") for number in range(58)]
        wanted[0].pop(("mark", "/"))
        ledger.close()


def test_what_is_there_is_never_replaced(
    where: Callable[[str], str | Path], actor: str, tmp_path: Path
) -> None:
    ledger = open_ledger(where(actor), actor)
    file = tmp_path / "x.backup"
    back_up(where(actor), actor, file)
    with reading_file(file) as source, pytest.raises(LedgerError, match="in use by"):
        restore(where(actor), actor, source, [], quiet)
    ledger.close()
    with reading_file(file) as source:  # nothing was ever stored in it
        restore(where(actor), actor, source, [Write("a", "/", b"1")], quiet)
    before = file.read_bytes()
    with reading_file(file) as source:
        with pytest.raises(LedgerError, match="is not empty: a backup takes no ledger's place"):
            restore(where(actor), actor, source, [], quiet)
        with pytest.raises(LedgerError, match="there already"):
            write_file(file, source, [], quiet)
    with pytest.raises(LedgerError, match="is not empty"):
        check_room(where(actor), actor)
    ledger = open_ledger(where(actor), actor)
    assert contents(ledger)[0] == {("a", "/"): b"1"}
    ledger.close()
    assert file.read_bytes() == before
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_rest_of_a_lost_ledger_stops_a_restore(tmp_path: Path) -> None:
    path, file = tmp_path / "site.sqlite", tmp_path / "x.backup"
    ledger = SqliteLedger(path)
    commit(ledger, 1)
    back_up(path, ACTOR, file)
    ledger.close()
    path.unlink()
    with reading_file(file) as source:
        with pytest.raises(LedgerError, match=r"mv .*site\.mark"):
            restore(path, ACTOR, source, [], quiet)
        mark_path(path).unlink()
        restore(path, ACTOR, source, [], quiet)


def test_what_is_damaged_makes_no_backup(tmp_path: Path) -> None:
    path, file = tmp_path / "site.sqlite", tmp_path / "x.backup"
    ledger = SqliteLedger(path)
    for number in range(1, 30):
        commit(ledger, number)
    ledger.close()
    sound = path.read_bytes()
    for change, told in (
        ("UPDATE record SET body = X'00' WHERE key = '/'", "does not fit its checksum"),
        ("DELETE FROM record WHERE key = '/'", "records: "),
        (
            "UPDATE log SET body = CAST(body || ' ' AS BLOB) WHERE number = 7",
            "entry 7 does not follow",
        ),
        ("DELETE FROM log WHERE number = 29", "links: "),
        ("UPDATE log SET body = X'7b7d' WHERE number = 29", "last commit has no entries"),
        ("UPDATE log SET body = X'5b5d' WHERE number = 29", "last commit has no entries"),
    ):
        path.write_bytes(sound)
        db = sqlite3.connect(path)
        with db:
            db.execute(change)
        db.close()
        with pytest.raises(LedgerError, match=told):
            back_up(path, ACTOR, file)
        assert sorted(tmp_path.glob("*.backup*")) == sorted(tmp_path.glob(".x*")) == []
    path.write_bytes(sound)
    older = path.with_name("older.sqlite")
    older.write_bytes(sound)
    mark_path(older).write_bytes(mark_path(path).read_bytes())
    ledger = SqliteLedger(path)
    commit(ledger, 30)
    ledger.close()
    mark_path(older).write_bytes(mark_path(path).read_bytes())
    with pytest.raises(LedgerError, match="commit 30 is missing"):
        back_up(older, ACTOR, file)


@pytest.mark.parametrize("version", [1, 2])
def test_a_ledger_of_an_older_program_can_be_copied(tmp_path: Path, version: int) -> None:
    path = tmp_path / "old.backup"
    path.write_bytes(gzip.decompress((OLDER / f"version_{version}.sqlite.gz").read_bytes()))
    target = tmp_path / "site.sqlite"
    with reading_file(path) as source:
        restore(target, ACTOR, source, [], quiet)
    again = SqliteLedger(target)
    there = contents(again)
    again.close()
    db = sqlite3.connect(path)
    records = {
        (kind, key): body for kind, key, body in db.execute("SELECT kind, key, body FROM record")
    }
    db.close()
    assert there[0] == records
    assert len(there[1]) > 1


def much(commits: int) -> Source:
    """A ledger that it would take long to commit to."""
    records = [("lease", f"g/L{number}", b"x" * 300) for number in range(commits)]
    links, head = [], ""
    for number, (_, key, _) in enumerate(records, 1):
        body = encode_entries([Entry(lease=key, tick=1, what="made")])
        head = link_hash(head, body)
        links.append(Link(number, body, head))
    sums = sum(record_sum(*record) for record in records)
    return Source(Total(commits, commits, sums, commits, head), 1, records, links)


COPIER = """
import json, sys
from pathlib import Path
from shirako.ledger.copying import reading, restore
from shirako.ledger.sqlite_copying import reading_file, write_file

what, source, target, actor = sys.argv[1:]
told = lambda done, of: print(json.dumps([done, of]), flush=True)
if what == "backup":
    with reading(source if "://" in source else Path(source), actor) as found:
        write_file(Path(target), found, [], told)
else:
    with reading_file(Path(source)) as found:
        restore(target if "://" in target else Path(target), actor, found, [], told)
print(json.dumps("done"), flush=True)
"""


def copy_until(lines: int, *arguments: str) -> bool:
    """Copy in another process, killed after so many lines of its progress; whether it had ended."""
    with subprocess.Popen(
        [sys.executable, "-c", COPIER, *arguments], stdout=subprocess.PIPE, text=True
    ) as copier:
        assert copier.stdout is not None
        said = [copier.stdout.readline() for _ in range(lines)]
        time.sleep(0.003)
        copier.kill()
        said += copier.stdout.readlines()
    return any(line and json.loads(line) == "done" for line in said if line.endswith("\n"))


@pytest.mark.real
def test_killed_while_it_copies(
    where: Callable[[str], str | Path], actor: str, tmp_path: Path
) -> None:
    """A copy is whole or not there, and what is left of one is in nobody's way."""
    first = tmp_path / "first.sqlite"
    write_file(first, much(3000), [], quiet)
    ledger = SqliteLedger(first)
    wanted = contents(ledger)
    ledger.close()
    file = tmp_path / "x.backup"
    place = str(where(actor))
    for what, source, target in (("backup", str(first), str(file)), ("restore", str(file), place)):
        for lines in (1, 3, 4, 5, 6):
            ended = copy_until(lines, what, source, target, actor)
            if what == "backup" and file.exists():
                copy = SqliteLedger(file)
                assert contents(copy) == wanted
                copy.close()
                break
            if what == "restore" and _is_there(place, actor):
                break
            assert not ended
        else:
            assert copy_until(10_000, what, source, target, actor)
    restored = open_ledger(where(actor), actor)
    assert contents(restored) == wanted
    restored.close()


def _is_there(place: str, actor: str) -> bool:
    for _ in range(200):
        try:
            check_room(place, actor)
        except LedgerError as error:
            if "in use" not in str(error):
                return True
            time.sleep(0.05)  # the server has not noticed yet that the process is dead
        else:
            return False
    raise AssertionError("the killed process still has the ledger")
