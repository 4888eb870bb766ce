"""`shirako verify` of audit records, in a file and on a real server, while their actor runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from homes import Home, MakeHome, entry
from shirako.cli import main
from shirako.ledger import Ledger, Write
from shirako.testbed.ports import free_ports
from shirako.testbed.postgres import Postgres
from shirako.verifying.audit import read_audit_on_server

COMMITS = 6


def filled(ledger: Ledger, commits: int = COMMITS) -> str:
    """Commits to the ledger; returns the head that one would note."""
    for number in range(1, commits + 1):
        ledger.commit([Write("lease", "g/L1", b"%d" % number)], [entry("g/L1", f"Event{number}")])
    last = ledger.last_link()
    assert last is not None
    return last.hash


def run(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["verify", *words])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def verify(home: Home, *words: str) -> tuple[int, Any]:
    whose = () if isinstance(home.where, Path) else ("--actor", home.actor)
    status, told = run(str(home.where), *whose, "--json", *words)
    return status, json.loads(told)


# Either kind --------------------------------------------------------------------------------------


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.real)])
def home(request: pytest.FixtureRequest, make_home: MakeHome) -> Home:
    return make_home(request.param)


def test_a_ledger_in_use_is_verified(home: Home) -> None:
    """Again and again beside the actor, which goes on to commit; what was noted stays there."""
    ledger = home.open()
    heads = []
    for commits in (1, 2, 3):
        heads.append(filled(ledger, 1))
        for number, head in enumerate(heads, 1):
            status, told = verify(home, "--head", head)
            assert (status, told["problem"]) == (0, "")
            (audit,) = told["statements"]
            assert (audit["commits"], audit["entries"]) == (commits, commits)
            assert (audit["head"], audit["noted"]) == (heads[-1], number)
    assert "audit record: 3 commits with 3 entries" in audit["says"]


def test_a_head_that_is_not_there_is_told(home: Home) -> None:
    filled(home.open())
    status, told = verify(home, "--head", "0" * 64)
    assert (status, told["where"]) == (1, "audit record")
    assert "no commit has the hash 000" in told["problem"]


def test_a_ledger_without_a_commit_holds(home: Home) -> None:
    home.open()
    status, told = verify(home)
    assert (status, told["statements"][0]["head"]) == (0, "")


# On a server --------------------------------------------------------------------------------------


@pytest.fixture
def there(make_home: MakeHome) -> Home:
    """A home on the server."""
    return make_home("postgresql")


def schema_of(home: Home) -> str:
    return "shirako_" + home.actor.replace("-", "_")


def change(postgres: Postgres, home: Home, statement: str) -> None:
    """By somebody who owns the server."""
    postgres.run(f"SET search_path = {schema_of(home)}; {statement}", "shirako")


def problem(home: Home) -> str:
    """What is wrong with it; it can be read."""
    status, told = verify(home)
    assert (status, told["where"], told["statements"]) == (1, "audit record", [])
    return str(told["problem"])


@pytest.mark.real
@pytest.mark.parametrize(
    ("statement", "told"),
    [
        ("UPDATE log SET body = '[]' WHERE number = 3", "entry 3 does not follow from 2"),
        ("UPDATE log SET hash = 'x' WHERE number = 3", "entry 3 does not follow from 2"),
        ("DELETE FROM log WHERE number = 3", "entry 4 does not follow from 2"),
        ("DELETE FROM log WHERE number > 4", "ends with commit 4"),
        ("DELETE FROM log", "ends with commit 0"),
        ("INSERT INTO log SELECT 7, body, hash FROM log WHERE number = 6", "entry 7"),
        ("UPDATE fence SET links = 5", "the last commit left 5"),
        ("UPDATE fence SET head = 'x'", "the last commit left 6 of them, hash x"),
        ("UPDATE log SET body = '{}' WHERE number = 6", "its last commit has no entries"),
        ("UPDATE log SET body = '[]' WHERE number = 6", "its last commit has no entries"),
        ("ALTER TABLE log ALTER body TYPE text USING 'x'", "of another type|has no entries"),
        (
            "ALTER TABLE log ALTER body DROP NOT NULL; UPDATE log SET body = NULL WHERE number = 2",
            "entry 2 is of another type",
        ),
    ],
)
def test_a_log_that_was_changed_is_told(
    there: Home, postgres: Postgres, statement: str, told: str
) -> None:
    filled(there.open())
    change(postgres, there, statement)
    assert any(part in problem(there) for part in told.split("|"))


@pytest.mark.real
def test_it_is_only_read_and_no_lock_is_asked_for(there: Home, postgres: Postgres) -> None:
    """Its actor has that of the ledger, and keeps it; who reads need not be able to write."""
    filled(there.open())
    schema = schema_of(there)
    change(
        postgres,
        there,
        f"CREATE ROLE auditor LOGIN; GRANT USAGE ON SCHEMA {schema} TO auditor; "
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO auditor",
    )
    before = state(postgres, schema)
    url = str(there.where).replace("//shirako@", "//auditor@")
    assert read_audit_on_server(url, there.actor).commits == COMMITS
    assert state(postgres, schema) == before


def state(postgres: Postgres, schema: str) -> str:
    """Who holds the ledger, and how far it has come."""
    return postgres.run(f"SELECT * FROM {schema}.fence", "shirako")


@pytest.mark.real
def test_without_a_server_or_ledger_it_can_not_be_read(there: Home, postgres: Postgres) -> None:
    status, told = run(str(there.where), "--actor", "nobody")
    assert status == 2
    assert "schema shirako_nobody is not there" in told
    port = next(free_ports(("127.0.0.1",), seed=str(postgres.folder)))
    url = postgres.url.replace(f":{postgres.port}/", f":{port}/")
    status, told = run(url, "--actor", there.actor)
    assert status == 2
    assert "can not be reached" in told
    assert postgres.password not in told


@pytest.mark.real
def test_no_password_is_told(there: Home, postgres: Postgres, tmp_path: Path) -> None:
    """Right or wrong, in the URL or in a file that it names."""
    filled(there.open())
    for secret, due in (("wr0ng-secret", 2), (postgres.password, 0)):
        passfile = tmp_path / f"pass{due}"
        passfile.write_text(f"*:*:*:*:{secret}\n")
        passfile.chmod(0o600)
        plain = f"postgresql://shirako@127.0.0.1:{postgres.port}/shirako?passfile={passfile}"
        for url in (postgres.url.replace(postgres.password, secret), plain):
            for form in ((), ("--json",)):
                status, told = run(url, "--actor", there.actor, *form)
                assert status == due, told
                assert secret not in told
                assert "password authentication failed" in told or due == 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("postgresql://u:s3cret@h/d",), "say with --actor whose"),
        (("postgresql://u:s3cret@h/%zz", "--actor", "site"), "can not be read: write it as"),
        (("postgressql://u:s3cret@h/d", "--actor", "site"), "a URL is that of a ledger"),
        ((__file__, "--actor", "site"), "--actor is for the URL of a server"),
    ],
)
def test_what_names_no_server_is_wrong_usage(words: tuple[str, ...], why: str) -> None:
    status, told = run(*words)
    assert status == 2
    assert why in told
    assert "s3cret" not in told
