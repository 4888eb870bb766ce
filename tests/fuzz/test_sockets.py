"""BOUNDED: whatever bytes come to an actor's socket, it answers with a clean refusal or hangs up,
keeps nothing of it, and grows no larger."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from random import Random

import pytest

from shirako.clock import RealClock
from shirako.transport.envelope import seal
from shirako.trust import PrivateKey, read_public
from tests.fuzz.deployment import NAMES, Deployment, deployed
from tests.fuzz.mutation import change_json
from tests.fuzz.sockets import garbage, kept, memory, requests, talk
from tests.fuzz.targets import BY_NAME

WHOLE = 20.0
"""Seconds for an answer to a request that is whole."""
GARBAGE = 250
STRANGERS = 1000
GROWTH_KB_MAX = 40_000
"""A leak of one input's size, 10 KB and more, would be beyond it."""


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    with deployed(tmp_path_factory.mktemp("sockets")) as made:
        yield made


@pytest.mark.parametrize("name", NAMES)
def test_bytes_that_are_no_request(deployment: Deployment, name: str) -> None:
    before = kept(deployment, name)
    sent = garbage(requests(deployment, name), GARBAGE, seed=7)
    found, bad = asyncio.run(talk(deployment.processes.url(name), sent))
    assert not bad, bad[0]
    assert {"400", "401", "404"} <= found.keys(), found
    assert kept(deployment, name) == before
    assert not deployment.faults()


@pytest.mark.parametrize(
    "header",
    [
        b"Authorization: Bearer \xff\xfe",
        b"Authorization: Bearer \xed\xa0\x80",
        b"Authorization: \xff",
        b"Idempotency-Key: \xff",
        b"Last-Event-ID: \xff",
        b"Cookie: \xff=\xfe;;",
        b"Content-Type: \xff/;;;=",
        b"Expect: 200-banana",
    ],
)
def test_headers_that_are_no_text(deployment: Deployment, header: bytes) -> None:
    """Not even without a token can anybody make an actor tell of a fault of its own."""
    said = (
        b"GET /api/v1/leases HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        + header
        + b"\r\n\r\n"
    )
    found, bad = asyncio.run(talk(deployment.processes.url("guest"), [said], WHOLE))
    assert not bad
    assert found.keys() <= {"400", "401", "417"}
    assert not deployment.faults()


def test_nothing_is_kept_of_thousands_of_strangers(deployment: Deployment) -> None:
    """Each with a key of its own, its signature in order, and messages that are not."""
    name = "site"
    before = kept(deployment, name)
    audience = read_public(deployment.folder / "keys" / "site.pub.jwk").kid
    seeds = BY_NAME["message-to-site"].seeds()
    chance = Random(3)

    def envelope() -> bytes:
        now_ms = RealClock().milliseconds()
        said = [change_json(chance.choice(seeds), seeds, chance) for _ in range(3)]
        body = seal(PrivateKey.generate(), audience, 1, now_ms, said)
        head = f"POST /messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        return head.encode() + b"Connection: close\r\n\r\n" + body

    def send(number: int) -> int:
        url = deployment.processes.url(name)
        found, bad = asyncio.run(talk(url, [envelope() for _ in range(number)], WHOLE))
        assert not bad
        assert found["202"] > number // 2, found
        return memory(deployment, name)

    settled = send(STRANGERS // 3)
    assert send(STRANGERS) - settled < GROWTH_KB_MAX
    assert kept(deployment, name) == before
    assert not deployment.faults()
