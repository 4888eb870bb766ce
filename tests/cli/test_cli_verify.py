"""`shirako verify`: what holds, what was tampered with, and what can not be read."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from shirako import trust
from shirako.cli import main
from shirako.core.claims import Claim, Lease, Party, Receipt
from shirako.core.terms import Term
from shirako.ledger import Entry
from shirako.ledger.sqlite import SqliteLedger
from shirako.trust import PrivateKey

TERM = Term(1_800_000_000, 1_800_003_600)


def party(key: PrivateKey, name: str) -> Party:
    return Party(key.public.kid, key.public.x, f"http://{name}", name)


class Papers:
    """A site's, broker's and guest's keys, and what they signed."""

    def __init__(self, *, units: int = 2) -> None:
        self.site, self.broker, self.guest = (PrivateKey.generate() for _ in range(3))
        site, broker, guest = (
            party(key, name)
            for key, name in (
                (self.site, "site"),
                (self.broker, "broker"),
                (self.guest, "guest"),
            )
        )
        root = self.claim(self.site, broker, 4, site=site)
        leaf = self.claim(self.broker, guest, units, parent=trust.digest(root), reservation="L1")
        self.chain = [root, leaf]
        self.lease = trust.sign_lease(
            self.site,
            Lease(
                jti="L1/1",
                issuer=site.kid,
                holder=guest.kid,
                reservation="L1",
                type="node",
                units=("n0",),
                term=TERM,
            ),
        )
        self.receipt = trust.sign_receipt(
            self.site,
            Receipt(
                jti="L1/2",
                issuer=site.kid,
                holder=guest.kid,
                reservation="L1",
                claims=("c",),
                units_freed=1,
                tick=TERM.end,
                redeemed=True,
                final=True,
                checks=("account_gone",),
                failed_units=("n1",),
            ),
        )

    def claim(self, key: PrivateKey, holder: Party, units: int, **more: Any) -> str:
        claim = Claim(
            jti=f"c{units}",
            issuer=key.public.kid,
            holder=holder,
            type="node",
            units=units,
            term=TERM,
            digest="",
            **more,
        )
        return trust.sign_claim(key, claim)

    def all(self) -> dict[str, Any]:
        return {"ticket": [self.chain], "lease": self.lease, "receipt": self.receipt}


def tampered(token: str) -> str:
    """The same token with another signature."""
    body, _, signature = token.rpartition(".")
    return f"{body}.{'B' if signature[0] == 'A' else 'A'}{signature[1:]}"


def verify(tmp_path: Path, told: Any, *words: str) -> tuple[int, Any]:
    file = tmp_path / "statement"
    file.write_text(told if isinstance(told, str) else json.dumps(told))
    result = CliRunner().invoke(main, ["verify", str(file), "--json", *words])
    return result.exit_code, json.loads(result.output)


def test_what_holds_is_told(tmp_path: Path) -> None:
    papers = Papers()
    status, told = verify(tmp_path, papers.all())
    assert status == 0
    says = "\n".join(one["says"] for one in told["statements"])
    assert "site gives broker 4 x node" in says
    assert "broker gives guest 2 x node" in says
    assert "for lease L1" in says
    assert "verified: account_gone" in says
    assert "NOT freed: n1" in says
    assert verify(tmp_path, papers.chain)[0] == 0
    assert verify(tmp_path, [papers.chain, papers.chain])[0] == 0
    assert verify(tmp_path, {"ticket": [papers.chain], "lease": "", "receipt": ""})[0] == 0


def test_single_tokens_need_the_sites_key(tmp_path: Path) -> None:
    papers = Papers()
    status, told = verify(tmp_path, papers.receipt)
    assert status == 2
    assert "--key" in told["problem"]
    papers.site.write(tmp_path / "site.jwk")
    key = str(tmp_path / "site.pub.jwk")
    assert verify(tmp_path, papers.receipt, "--key", key)[0] == 0
    assert verify(tmp_path, json.dumps(papers.lease), "--key", key)[0] == 0
    assert verify(tmp_path, tampered(papers.receipt), "--key", key)[0] == 1
    papers.broker.write(tmp_path / "broker.jwk")
    assert verify(tmp_path, papers.receipt, "--key", str(tmp_path / "broker.pub.jwk"))[0] == 1


@pytest.mark.parametrize("part", ["root", "leaf", "lease", "receipt", "swapped", "other"])
def test_what_was_tampered_with_is_bad(tmp_path: Path, part: str) -> None:
    papers, told = Papers(), Papers().all()
    told = papers.all()
    match part:
        case "root":
            told["ticket"] = [[tampered(papers.chain[0]), papers.chain[1]]]
        case "leaf":
            told["ticket"] = [[papers.chain[0], tampered(papers.chain[1])]]
        case "lease" | "receipt":
            told[part] = tampered(told[part])
        case "swapped":
            told["ticket"] = [[Papers().chain[0], papers.chain[1]]]
        case "other":
            told["lease"] = Papers().lease
    status, answer = verify(tmp_path, told)
    assert status == 1
    assert not answer["good"]
    assert answer["problem"]


def test_a_claim_on_more_than_its_parent_is_bad(tmp_path: Path) -> None:
    status, told = verify(tmp_path, Papers(units=5).chain)
    assert status == 1
    assert "5 units" in told["problem"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", "1", '{"a": 1}', "a.b.c", "[1]", "[" * 100_000, "\u00e9", '"x"']
)
def test_what_can_not_be_read_says_so(tmp_path: Path, text: str) -> None:
    status, told = verify(tmp_path, text)
    assert (status, told["good"]) == (2, False)


def test_an_envelope_is_no_statement(tmp_path: Path) -> None:
    token = PrivateKey.generate().sign(trust.ENVELOPE_TYPE, b"{}")
    assert verify(tmp_path, token)[0] == 2


def test_the_audit_record_of_a_ledger_in_use(tmp_path: Path) -> None:
    path = tmp_path / "site.sqlite"
    ledger = SqliteLedger(path)
    for number in range(3):
        ledger.commit((), (Entry(lease="a/b", tick=number, what="Requested"),))
    result = CliRunner().invoke(main, ["verify", str(path), "--json"])
    assert result.exit_code == 0
    (told,) = json.loads(result.output)["statements"]
    assert (told["commits"], told["entries"], len(told["head"])) == (3, 3, 64)
    ledger.close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE log SET body = replace(body, 'Requested', 'Forgotten')")
    database.close()
    result = CliRunner().invoke(main, ["verify", str(path)])
    assert result.exit_code == 1
    assert "the log was changed" in result.output
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE x (y)")
    database.close()
    assert CliRunner().invoke(main, ["verify", str(other)]).exit_code == 2
    (tmp_path / "cut").write_bytes(path.read_bytes()[:3000])
    assert CliRunner().invoke(main, ["verify", str(tmp_path / "cut")]).exit_code == 2
