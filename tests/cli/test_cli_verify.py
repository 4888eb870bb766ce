"""`shirako verify`: what people and programs are told, which keys it takes, and exit statuses.

What is refused, and why, is in `tests/verify`.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from shirako import trust
from shirako.cli import main
from shirako.core import messages
from shirako.core.claims import Claim
from shirako.core.messages import Close
from shirako.core.terms import Term
from shirako.ledger import Entry
from shirako.ledger.sqlite import SqliteLedger
from shirako.transport.envelope import Refusal, acknowledge, seal
from shirako.trust import PrivateKey
from tests.verify.papers import (
    BROKER,
    GUEST,
    LEAF,
    LEASE,
    MIDDLE,
    NOW,
    RECEIPT,
    RESELLER,
    SITE,
    SOLD,
    TERM,
    Papers,
    below,
    middle,
    revocation,
    root_token,
    sold_out,
    ticket,
)
from tests.verify.spoiled_audits import end_cut_off, write_ledger

LATER = replace(LEAF, jti="t2", term=Term(TERM.end, TERM.end + 600), extends="t1")


def written(tmp_path: Path, told: Any) -> Path:
    file = tmp_path / "statement"
    file.write_text(told if isinstance(told, str) else json.dumps(told))
    return file


def verify(tmp_path: Path, told: Any, *words: str) -> tuple[int, Any]:
    file = written(tmp_path, told)
    result = CliRunner().invoke(main, ["verify", str(file), "--json", *words])
    return result.exit_code, json.loads(result.output)


def shown(tmp_path: Path, told: Any, *words: str) -> str:
    """What a person sees; it holds."""
    result = CliRunner().invoke(main, ["verify", str(written(tmp_path, told)), *words])
    assert result.exit_code == 0, result.output
    return result.output


def public_key(tmp_path: Path, key: PrivateKey = SITE) -> str:
    file = tmp_path / f"{key.public.kid}.jwk"
    if not file.exists():
        key.write(file)
    return str(trust.public_path(file))


def proof() -> Any:
    return {"conflict": msgspec.to_builtins(sold_out(*SOLD))}


# What holds ---------------------------------------------------------------------------------------


def test_who_promised_what_to_whom_and_for_when(tmp_path: Path) -> None:
    told = shown(tmp_path, Papers().told(), "--key", public_key(tmp_path))
    whole = "2027-01-15 07:50Z to 2027-01-15 10:00Z"
    term = "2027-01-15 08:00Z to 2027-01-15 09:00Z"
    freed = "4 units freed at 2027-01-15 08:30Z; verified: account_gone, no_processes"
    assert told.splitlines() == [
        "ticket of guest for lease L1: node.small",
        f"  claim d1: site gives broker 10 x node.small, {whole}",
        f"    claim m1: broker gives reseller 6 x node.small, {whole}",
        f"      claim t1: reseller gives guest 4 x node.small, {term}, for lease L1",
        f"  site is {SITE.public.kid}",
        f"  broker is {BROKER.public.kid}",
        f"  reseller is {RESELLER.public.kid}",
        f"  guest is {GUEST.public.kid}",
        f"  rooted at {SITE.public.kid}, which you trust",
        f"lease L1: n0, n1, n2, n3 (node.small), {term}, for {GUEST.public.kid}",
        f"receipt for lease L1 of {GUEST.public.kid}: torn down, {freed}",
        "good",
    ]


def test_chains_that_begin_alike_are_a_tree(tmp_path: Path) -> None:
    """An extension goes on from the same share: what they have in common is told once."""
    told = shown(tmp_path, [ticket(), below(middle(), RESELLER, LATER)])
    assert "in 2 chains" in told
    assert [told.count(f"claim {jti}:") for jti in ("d1", "m1", "t1", "t2")] == [1, 1, 1, 1]
    assert "for lease L1, to go on from t1" in told


def test_programs_are_told_the_same(tmp_path: Path) -> None:
    status, told = verify(tmp_path, Papers().told())
    assert (status, told["good"], told["problem"], told["where"]) == (0, True, "", "")
    claims = [one for one in told["statements"] if one["kind"] == "claim"]
    assert [one["jti"] for one in claims] == ["d1", "m1", "t1"]
    assert [one["parent"] for one in claims] == ["", "d1", "m1"]
    assert [one["units"] for one in claims] == [10, 6, 4]
    assert (claims[2]["start"], claims[2]["end"]) == (TERM.start, TERM.end)
    kinds = [one["kind"] for one in told["statements"]]
    assert kinds == ["ticket", *["claim"] * 3, *["key"] * 4, "root", "lease", "receipt"]


def test_a_share_is_no_ticket_for_a_lease(tmp_path: Path) -> None:
    chain = below([root_token()], BROKER, replace(MIDDLE, units=3))
    assert "of reseller for a share to delegate or sell" in shown(tmp_path, chain)


def test_overbooking_is_told(tmp_path: Path) -> None:
    root = trust.sign_claim(SITE, replace(root_claim(), overbooking=1.5))
    assert "10 x node.small" in (told := shown(tmp_path, [root]))
    assert "to sell up to 15 of" in told


def root_claim() -> Claim:
    return trust.Verifier().chain((root_token(),))[0]


def test_what_a_receipt_does_not_free_is_told(tmp_path: Path) -> None:
    receipt = replace(RECEIPT, units_freed=3, failed_units=("n3",), claims=("t1", "t2"))
    told = shown(tmp_path, Papers().told(receipt=trust.sign_receipt(SITE, receipt)))
    assert "3 units freed" in told
    assert "NOT freed: n3" in told
    assert "names claims that are not shown here: t2" in told


def test_a_conflict_says_who_sold_too_much(tmp_path: Path) -> None:
    told = shown(tmp_path, proof())
    assert told.startswith(
        "conflict: broker sold 11 x node.small of the 10 that the claim d1 allows"
    )
    assert f"broker is {BROKER.public.kid}" in told
    assert "as the proof itself states: compare it" in told
    assert "which you trust" in shown(tmp_path, proof(), "--key", public_key(tmp_path))


def test_a_revocation_says_what_is_left(tmp_path: Path) -> None:
    key = public_key(tmp_path)
    none = shown(tmp_path, trust.sign_revocation(SITE, revocation()), "--key", key)
    assert "of claim d1" in none
    assert "worth nothing more from 2027-01-15 08:01Z on (the machines are sold)" in none
    some = trust.sign_revocation(SITE, replace(revocation(), units=3, reason=""))
    assert "worth 3 units at most" in shown(tmp_path, some, "--key", key)


def test_an_envelope_says_who_said_what_to_whom(tmp_path: Path) -> None:
    said = messages.encode(Close(rid="L1", holder=GUEST.public.kid, n=3, ticket=()))
    token = seal(GUEST, SITE.public.kid, 7, NOW * 1000, [said, b'{"is":"Sing"}']).decode()
    told = shown(tmp_path, token)
    assert told.startswith(f"envelope 7 from {GUEST.public.kid}, as the envelope itself shows")
    assert f"to {SITE.public.kid}, sealed at 2027-01-15 08:00Z: 2 messages" in told
    assert f"message 1: Close 3 for lease L1 of {GUEST.public.kid}" in told
    assert "message 2 can not be read" in told
    assert "which you trust" in shown(tmp_path, token, "--key", public_key(tmp_path, GUEST))
    answer = acknowledge(
        SITE, GUEST.public.kid, 7, NOW * 1000, (Refusal(1, "malformed", "no such message"),)
    ).decode()
    told = shown(tmp_path, answer, "--key", public_key(tmp_path))
    assert "acknowledgement of envelope 7" in told
    assert "message 2 refused, malformed: no such message" in told
    assert verify(tmp_path, answer)[0] == 2


def test_what_others_wrote_does_not_steer_the_terminal(tmp_path: Path) -> None:
    claim = replace(LEAF, jti="t\x1b[31m", holder=replace(LEAF.holder, name="\x07guest\x9b"))
    told = shown(tmp_path, below(middle(), RESELLER, claim))
    assert not any(ord(char) < 32 and char != "\n" for char in told)


# Keys ---------------------------------------------------------------------------------------------


def test_single_tokens_need_the_sites_key(tmp_path: Path) -> None:
    status, told = verify(tmp_path, Papers().receipt)
    assert status == 2
    assert "--key" in told["problem"]
    key = public_key(tmp_path)
    assert verify(tmp_path, Papers().receipt, "--key", key)[0] == 0
    assert verify(tmp_path, json.dumps(Papers().lease), "--key", key)[0] == 0
    assert verify(tmp_path, Papers().receipt, "--key", public_key(tmp_path, BROKER))[0] == 1


def test_a_ticket_vouches_for_what_comes_with_it_unless_other_keys_are_named(
    tmp_path: Path,
) -> None:
    assert "as the ticket itself states: compare it" in shown(tmp_path, Papers().told())
    status, told = verify(tmp_path, Papers().told(), "--key", public_key(tmp_path, BROKER))
    assert (status, told["where"]) == (1, "ticket")
    assert told["statements"] == []


def test_in_a_list_nothing_vouches_for_another(tmp_path: Path) -> None:
    papers = Papers().told()
    apart = [{"ticket": papers["ticket"]}, {"lease": papers["lease"]}]
    status, told = verify(tmp_path, apart)
    assert (status, told["statements"][0]["kind"]) == (2, "ticket")
    assert told["problem"].startswith("statement 2: give the public key of the site")
    assert verify(tmp_path, apart, "--key", public_key(tmp_path))[0] == 0
    assert verify(tmp_path, [papers, papers])[0] == 0


def test_what_was_verified_before_the_fault_is_told(tmp_path: Path) -> None:
    lease = trust.sign_lease(SITE, replace(LEASE, reservation="L2"))
    status, told = verify(tmp_path, Papers().told(lease=lease))
    assert (status, told["where"]) == (1, "lease")
    assert told["statements"][0]["kind"] == "ticket"


@pytest.mark.parametrize("text", ["", "{}", '{"crv":"Ed25519","x":"AAAA"}', "\x00"])
def test_a_key_that_is_none_is_unreadable(tmp_path: Path, text: str) -> None:
    key = tmp_path / "no.jwk"
    key.write_text(text)
    assert verify(tmp_path, Papers().told(), "--key", str(key))[0] == 2


# What can not be read -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "1",
        '{"a": 1}',
        "a.b.c",
        "[1]",
        "[" * 100_000,
        "\u00e9",
        '"x"',
        '{"ticket": []}',
        '{"ticket": 1}',
        '{"lease": 1}',
        '{"lease": "x"}',
        '{"ticket": [["a", 1]]}',
        '"\\ud800"',
        '{"conflict": []}',
        "NaN",
    ],
)
def test_what_can_not_be_read_says_so(tmp_path: Path, text: str) -> None:
    status, told = verify(tmp_path, text)
    assert (status, told["good"]) == (2, False)
    assert told["problem"]


@pytest.mark.parametrize("token", ["\ud800", "\u00e9", "a", "a.b.c", "x" * 10_000])
def test_a_ticket_of_nonsense_is_refused(tmp_path: Path, token: str) -> None:
    status, told = verify(tmp_path, [[token]])
    assert (status, told["good"]) == (1, False)
    assert told["problem"].startswith("claim 1: ")


def test_what_is_no_text_or_too_much_of_it_is_unreadable(tmp_path: Path) -> None:
    file = tmp_path / "statement"
    for data in (b"\xff\xfe", b" " * (16 * 1024 * 1024 + 1)):
        file.write_bytes(data)
        assert CliRunner().invoke(main, ["verify", str(file)]).exit_code == 2


# Audit records ------------------------------------------------------------------------------------


def test_the_audit_record_of_a_ledger_in_use(tmp_path: Path) -> None:
    path = tmp_path / "site.sqlite"
    ledger = SqliteLedger(path)
    heads = []
    for number in range(3):
        ledger.commit((), (Entry(lease="a/b", tick=NOW + number * 60, what="Requested"),))
        result = CliRunner().invoke(main, ["verify", str(path), "--json"])
        assert result.exit_code == 0
        (told,) = json.loads(result.output)["statements"]
        heads.append(told["head"])
    assert (told["commits"], told["entries"], len(told["head"])) == (3, 3, 64)
    for number, head in enumerate(heads, 1):
        result = CliRunner().invoke(main, ["verify", str(path), "--head", head])
        assert result.exit_code == 0
        assert f"what was noted is commit {number}" in result.output
        assert "2027-01-15 08:00Z to 2027-01-15 08:02Z" in result.output
    result = CliRunner().invoke(main, ["verify", str(path), "--head", "0" * 64])
    assert result.exit_code == 1
    assert "BAD: audit record: no commit has the hash" in result.output
    ledger.close()


def test_an_audit_record_of_an_older_ledger(tmp_path: Path) -> None:
    """Before ledgers kept a balance: the chain alone is what can be held to anything."""
    path = tmp_path / "site.sqlite"
    write_ledger(path)
    end_cut_off(path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("PRAGMA user_version = 1")
    assert CliRunner().invoke(main, ["verify", str(path)]).exit_code == 0


def test_ledgers_that_can_not_be_read(tmp_path: Path) -> None:
    other, cut = tmp_path / "other.sqlite", tmp_path / "cut"
    with closing(sqlite3.connect(other)) as db, db:
        db.execute("CREATE TABLE x (y)")
    assert CliRunner().invoke(main, ["verify", str(other)]).exit_code == 2
    write_ledger(tmp_path / "site.sqlite")
    cut.write_bytes((tmp_path / "site.sqlite").read_bytes()[:3000])
    assert CliRunner().invoke(main, ["verify", str(cut)]).exit_code == 2


def test_a_noted_head_is_of_audit_records_alone(tmp_path: Path) -> None:
    status, told = verify(tmp_path, Papers().told(), "--head", "0" * 64)
    assert status == 2
    assert "no ledger" in told["problem"]
