"""What fuzzing has found, one test each, so that it does not come back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace
from pydantic import ValidationError

from shirako.api import models, views
from shirako.api.tokens import Tokens, TokensUnreadable
from shirako.core import messages
from shirako.core.broker import BrokerLease, BrokerState
from shirako.core.guest import GuestState
from shirako.core.terms import FOREVER, Term
from shirako.descriptor import DescriptorInvalid, read_descriptor
from shirako.transport.envelope import (
    REASON_CHARACTERS_MAX,
    Refusal,
    Rejected,
    acknowledge,
    open_envelope,
    read_acknowledgement,
    seal,
)
from tests.core.cast import key_of, party_of, wish

BROKER, GUEST = key_of("broker"), key_of("guest")
TOKEN = {"name": "ann", "role": "guest", "sha256": "a" * 64, "created": 1}


@pytest.mark.parametrize(
    "text",
    [
        b'[{"name": "\xff"}]',
        b"[" * 100_000 + b"]" * 100_000,
        json.dumps([{**TOKEN, "sha256": "\u00e9" * 64}]).encode(),
        json.dumps([{**TOKEN, "sha256": "short"}]).encode(),
    ],
    ids=["no UTF-8", "deep", "a digest that is no ASCII", "a digest that is none"],
)
def test_a_damaged_file_of_tokens_lets_nobody_in(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "tokens.json").write_bytes(text)
    with pytest.raises(TokensUnreadable):
        Tokens(tmp_path).find("shk_secret")


def test_a_token_that_is_no_text_is_none(tmp_path: Path) -> None:
    """As headers come whose bytes are no UTF-8."""
    tokens = Tokens(tmp_path)
    tokens.create("ann", "guest")
    assert tokens.find("\udcff\udcfe") is None


WITHOUT_NAMESPACE = """<actors state="state">
  <authority name="site" url="http://127.0.0.1:8101" key="keys/site.jwk">
    <pool type="node" assignment="first-fit" {extra}="1"><driver name="null"/>
      <units prefix="n" count="{count}"/>
      <{element}/>
    </pool>
  </authority>
  <broker name="broker" url="http://127.0.0.1:8102" key="keys/broker.jwk"/>
</actors>
"""


@pytest.mark.parametrize("element", ["poool", "unti", "x" * 300])
def test_faults_of_a_descriptor_without_a_namespace_are_told(tmp_path: Path, element: str) -> None:
    """The validator names elements in another way there, and cuts long names off."""
    path = tmp_path / "actors.xml"
    path.write_text(WITHOUT_NAMESPACE.format(extra="Colour", count="many", element=element))
    with pytest.raises(DescriptorInvalid) as caught:
        read_descriptor(path, keys=False)
    told = {(fault.line, fault.message.split(":")[0]) for fault in caught.value.faults}
    assert (1, "the namespace is missing") in told
    assert (3, "pool 'node' has no attribute 'Colour'") in told
    assert any(line == 4 for line, _ in told)
    assert (5, f"<{element}> is not allowed in pool 'node'") in told
    assert any(line == 8 for line, _ in told)


@pytest.mark.parametrize(
    "text",
    ['<actors><a:b:c/></actors>', '<actors a:b:c="1"/>', '<actors xmlns="{}"/>',
     '<actors xmlns:x="}{"><x:pool/></actors>'],
)  # fmt: skip
def test_names_that_only_one_parser_takes_are_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "actors.xml"
    path.write_text(f"\n{text}")
    with pytest.raises(DescriptorInvalid, match=r"colon|braces") as caught:
        read_descriptor(path, keys=False)
    assert [fault.line for fault in caught.value.faults] == [2]


@pytest.mark.parametrize("term", [Term(0, 1), Term(1, FOREVER)])
def test_a_term_at_an_end_of_time_can_be_shown(term: Term) -> None:
    """A guest that asked a broker for one broke everybody's listing there."""
    lease = BrokerLease(
        id="r1",
        guest=party_of("guest"),
        slice="s",
        type="node",
        units=1,
        least_units=1,
        term=term,
        state=BrokerState.CLOSED,
    )
    shown = views.broker_lease(lease).model_dump_json()
    assert models.BrokerLease.model_validate_json(shown).start.timestamp() == term.start


@pytest.mark.parametrize("tick", [-1, FOREVER + 1, 10**30])
def test_an_offer_of_a_time_that_is_none_can_be_shown(tick: int) -> None:
    """A broker that made one broke its guest's listing."""
    offer = messages.Offer(latest_end=tick, start=tick)
    refused = replace(wish("r1", Term(100, 200)), state=GuestState.FAILED, offer=offer)
    views.lease(refused, own=True).model_dump_json()


def test_a_time_that_utc_does_not_have_is_refused() -> None:
    with pytest.raises(ValidationError, match="no such time"):
        models.CalendarWindow.model_validate({"start": "9999-12-31T23:59:59-01:00"})


def test_times_at_the_ends_are_not_to_be_asked_for() -> None:
    for text in ("1970-12-31T23:59:59Z", "9999-01-01T00:00:00Z"):
        with pytest.raises(ValidationError, match="1971 to 9998"):
            models.CalendarWindow.model_validate({"start": text})


def test_a_refusal_does_not_repeat_all_that_was_sent() -> None:
    long = "x" * 60_000
    said = json.dumps({"is": long, "rid": "r", "holder": "h", "n": 1}).encode()
    data = seal(GUEST, BROKER.public.kid, 1, 1000, [said])
    (refusal,) = open_envelope(data, BROKER.public.kid, 1000, 1, {}).messages
    assert isinstance(refusal, Refusal)
    assert len(refusal.reason) <= REASON_CHARACTERS_MAX
    with pytest.raises(Rejected) as caught:
        open_envelope(seal(GUEST, long, 1, 1000, []), BROKER.public.kid, 1000, 1, {})
    assert len(str(caught.value)) <= REASON_CHARACTERS_MAX
    told = acknowledge(BROKER, GUEST.public.kid, 1, 1, (Refusal(0, "untrusted", long),))
    (again,) = read_acknowledgement(told, BROKER.public, GUEST.public.kid, 1).refused
    assert again.reason == "x" * REASON_CHARACTERS_MAX
