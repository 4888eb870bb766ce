"""An old peer and a new peer can talk: unknown fields are ignored, unknown types refused alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shirako.core import messages
from shirako.core.messages import Message
from shirako.core.terms import Term
from tests.core.cast import party_of

EXAMPLES: list[Message] = [
    messages.TicketRequest(
        rid="L1",
        holder="g",
        n=1,
        guest=party_of("guest"),
        slice="s",
        type="t",
        units=2,
        least_units=1,
        term=Term(1, 9),
        properties={"a": "b"},
    ),
    messages.ExtendTicket(rid="L1", holder="g", n=2, end=20, least_end=15),
    messages.Relinquish(rid="L1", holder="g", n=3, receipt="r"),
    messages.UpdateTicket(
        rid="L1",
        holder="g",
        n=4,
        answers=1,
        ticket=(("a", "b"), ("c",)),
        offer=messages.Offer(latest_end=7, cap="booked", units=2, start=3),
    ),
    messages.Redeem(
        rid="L1", holder="g", n=5, ticket=(("a",),), slice="s", least_units=1, keys=("k",)
    ),
    messages.ExtendLease(rid="L1", holder="g", n=6, ticket=(("a",),)),
    messages.Close(rid="L1", holder="g", n=7, ticket=()),
    messages.UpdateLease(
        rid="L1",
        holder="g",
        n=8,
        answers=5,
        lease="l",
        units=(messages.UnitState(unit="n1", epoch=4, properties={"host": "h"}),),
    ),
    messages.Failed(rid="L1", holder="g", n=9, answers=5, code="unavailable", reason="no"),
]


def test_there_is_an_example_of_every_message() -> None:
    assert {type(m) for m in EXAMPLES} == set(Message.__args__)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_round_trip(message: Message) -> None:
    assert messages.decode(messages.encode(message)) == message


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_fields_of_a_newer_peer_are_ignored(message: Message) -> None:
    plain = msgspec.json.decode(messages.encode(message))
    newer = {"hint": [1, {"x": None}], **plain, "urgency": "high"}
    assert messages.decode(msgspec.json.encode(newer)) == message


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda m: type(m).__name__)
def test_every_missing_or_mistyped_field_is_named(message: Message) -> None:
    plain: dict[str, Any] = msgspec.json.decode(messages.encode(message))
    for field in plain:
        changed = {**plain, field: {"not": ["this"]}}
        if field not in ("properties", "offer"):  # in which an object is due, of any fields
            with pytest.raises(msgspec.ValidationError, match=rf"\$(\.{field}|`)"):
                messages.decode(msgspec.json.encode(changed))


@pytest.mark.parametrize(
    "text", ['{"is":"ModifyLease","rid":"L1","holder":"g"}', '{"rid":"L1","holder":"g"}', "[]", "1"]
)
def test_an_unknown_type_is_a_validation_error(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        messages.decode(text)


@pytest.mark.parametrize("term", [[5, 5], [9, 1], [-1, 4], [0, 10**13], [1], {"start": 1}, "x"])
def test_a_term_that_is_none_is_a_validation_error(term: object) -> None:
    plain = msgspec.json.decode(messages.encode(EXAMPLES[0]))
    with pytest.raises(msgspec.ValidationError):
        messages.decode(msgspec.json.encode({**plain, "term": term}))


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner),
    max_leaves=8,
)


@settings(max_examples=150)
@given(
    st.sampled_from(EXAMPLES),
    st.dictionaries(
        st.sampled_from(
            [
                "n",
                "rid",
                "is",
                "ticket",
                "units",
                "term",
                "guest",
                "offer",
                "properties",
                "answers",
                "keys",
            ]
        ),
        json,
        max_size=4,
    ),
)
def test_any_json_is_a_message_or_a_validation_error(
    message: Message, changes: dict[str, Any]
) -> None:
    plain = {**msgspec.json.decode(messages.encode(message)), **changes}
    try:
        read = messages.decode(msgspec.json.encode(plain))
    except msgspec.ValidationError:
        return
    assert messages.decode(messages.encode(read)) == read
