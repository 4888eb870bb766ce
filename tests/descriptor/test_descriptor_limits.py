"""`<limits/>`: what is not said is as usual, and what is said holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from shirako.descriptor import Descriptor
from shirako.descriptor.grammar import load_grammar
from shirako.transport.limits import Limits
from tests.descriptor.conftest import VALID

Read = Callable[[str], Descriptor]


def text(limits: str) -> str:
    return VALID.replace("</actors>", f"{limits}\n</actors>")


def test_without_the_element_and_with_an_empty_one_all_is_as_usual(read: Read) -> None:
    assert read(VALID).limits == read(text("<limits/>")).limits == Limits()


def test_each_limit_can_be_set(read: Read) -> None:
    found = read(
        text(
            '<limits connections="10" connections-an-address="3" header="2s" body="3s" send="4s" '
            'idle="30s" requests-a-second="0.5" burst="7" reading="2GiB" streams="8" '
            'streams-a-token="9" leases-a-guest="200000"/>'
        )
    ).limits
    assert found == Limits(
        connections=10,
        connections_an_address=3,
        header_seconds=2.0,
        body_seconds=3.0,
        send_seconds=4.0,
        idle_seconds=30.0,
        requests_a_second=0.5,
        burst=7,
        reading_bytes=2 * 1024**3,
        streams=8,
        streams_a_token=9,
        leases_a_guest=200_000,
    )
    usual = Limits()
    assert all(getattr(found, one.name) != getattr(usual, one.name) for one in fields(Limits))
    assert len(load_grammar().forms["limits"].attributes) == len(fields(Limits))
