"""`shirako site conflicts`: of a broker that sells with its own key what it does not hold."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any
from urllib.request import Request, urlopen

import msgspec
import pytest

from shirako import trust
from shirako.core import messages
from shirako.core.claims import Chain, Claim
from shirako.core.delegation import Delegation
from shirako.core.messages import Message
from shirako.core.terms import Term
from shirako.ledger.copying import reading
from shirako.transport.envelope import read_acknowledgement, seal
from shirako.trust import PrivateKey, party_of
from tests.cli.conftest import Cli

WORDS = ("--to", "broker", "--type", "node", "--units", "4", "--start", "+600d", "--for", "30d")
"""After all that other tests delegate: nobody's units are in the way."""
NOWHERE = "http://127.0.0.1:9"


class Buyer:
    """A guest of its own, to whom the broker sells a ticket behind its own back."""

    def __init__(self, cli: Cli, above: Chain, units: int, term: Term) -> None:
        self._site = cli.urls["site"]
        self._site_key = trust.read_public(cli.folder / "keys/site.pub.jwk")
        self._key = PrivateKey.generate()
        self._broker = PrivateKey.read(cli.folder / "keys/broker.jwk")
        self._n = 0
        claim = Claim(
            jti=secrets.token_hex(8),
            issuer=self._broker.public.kid,
            holder=party_of(self._key.public, NOWHERE, "buyer"),
            type="node",
            units=units,
            term=term,
            digest="",
            parent=trust.digest(above[-1]),
            reservation="L1",
        )
        self._ticket = ((*above, trust.sign_claim(self._broker, claim)),)

    def _head(self) -> dict[str, Any]:
        self._n += 1
        return {"rid": "L1", "holder": self._key.public.kid, "n": self._n, "ticket": self._ticket}

    def redeem(self) -> str:
        """The code of the refusal; empty when there is none."""
        return self._say(messages.Redeem(**self._head(), slice="s", least_units=1))

    def close(self) -> str:
        return self._say(messages.Close(**self._head()))

    def _say(self, message: Message) -> str:
        now_ms = int(time.time() * 1000)
        kid = self._site_key.kid
        sealed = seal(self._key, kid, self._n, now_ms, [messages.encode(message)])
        with urlopen(Request(f"{self._site}/messages", data=sealed), timeout=20) as answer:
            said = read_acknowledgement(
                answer.read(), self._site_key, self._key.public.kid, self._n
            )
        return "".join(refusal.code for refusal in said.refused)


@pytest.fixture(scope="module")
def above(cli: Any) -> tuple[Chain, Term]:
    """The chain of a share of the broker's, and its term."""
    ops = cli.at("site", "ops")
    cli("site", "delegate", "oversold", *WORDS, **ops)
    with reading(cli.folder / "state/site.sqlite", "site") as source:
        bodies = [body for kind, _, body in source.records if kind == "delegation"]
    known = [msgspec.json.decode(body, type=Delegation) for body in bodies]
    (found,) = [one for one in known if one.name == "oversold"]
    return found.chain, found.term


def test_who_sold_too_much_is_listed_and_proved(cli: Any, above: tuple[Chain, Term]) -> None:
    """CONSERVE: one buyer is served, the other one refused, and the site can show why."""
    ops = cli.at("site", "ops")
    assert cli("site", "conflicts", **ops).strip() == "none"
    nothing = cli("site", "conflicts", "--json", **ops)
    assert json.loads(nothing) == []
    assert "nothing to verify" in cli("verify", "-", status=2, piped=nothing)
    chain, term = above
    served, refused = Buyer(cli, chain, 3, term), Buyer(cli, chain, 2, term)
    assert served.redeem() == ""
    assert refused.redeem() == "conflict"
    served.close()

    head, row, *others = cli("site", "conflicts", **ops).splitlines()
    assert head.split() == ["BROKER", "DELEGATION", "TYPE", "SOLD", "AT"]
    claim = trust.Verifier().chain(chain)[-1].jti
    assert row.split()[:6] == ["broker", claim, "node", "5", "of", "4"]
    assert others == []

    told = cli("site", "conflicts", "--json", **ops)
    (conflict,) = json.loads(told)
    kid = trust.read_public(cli.folder / "keys/broker.pub.jwk").kid
    assert (conflict["broker"], conflict["kid"], conflict["claim"]) == ("broker", kid, claim)
    assert (conflict["sold"], conflict["held"]) == (5, 4)
    (cli.folder / "conflicts.json").write_text(told)
    for words in (("-",), ("conflicts.json", "--key", "keys/site.pub.jwk")):
        said = cli("verify", *words, piped=told)
        assert f"conflict: broker sold 5 x node of the 4 that the claim {claim} allows" in said
        assert ("which you trust" in said) == (len(words) > 1)
        assert said.endswith("good\n")
    conflict["conflict"]["children"] = conflict["conflict"]["children"][:1]
    said = cli("verify", "-", "--json", status=1, piped=json.dumps([json.loads(told)[0], conflict]))
    assert json.loads(said)["where"] == "statement 2, conflict"
    assert "no conflict: 3 units were sold of the 4" in json.loads(said)["problem"]
