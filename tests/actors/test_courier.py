"""The courier: a peer that is back is tried at once."""

from __future__ import annotations

import asyncio

import pytest

from shirako.actors import courier as module
from shirako.actors.courier import Courier, Delivery
from shirako.clock import RealClock, RealEntropy
from shirako.core import messages
from shirako.transport import Unreachable
from shirako.transport.envelope import acknowledge, open_envelope
from tests.core.cast import key_of, party_of


class Flaky:
    """A transport to a broker that is away until it is not."""

    def __init__(self) -> None:
        self.away = True
        self.tries = 0
        self.tried = asyncio.Event()

    async def post(self, url: str, envelope: bytes) -> bytes:
        self.tries += 1
        self.tried.set()
        if self.away:
            raise Unreachable(f"{url} is away")
        key, now = key_of("broker"), RealClock().milliseconds()
        opened = open_envelope(envelope, key.public.kid, now, 30_000, {})
        return acknowledge(key, opened.sender.kid, opened.n, now, ())

    async def close(self) -> None:
        """Nothing to give back."""


async def test_a_peer_that_speaks_to_us_is_tried_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_SECONDS_MIN", 600.0)
    monkeypatch.setattr(module, "PAUSE_SECONDS_MAX", 600.0)
    transport, delivered = Flaky(), asyncio.Event()

    def told(deliveries: list[Delivery]) -> None:
        assert [d.message.n for d in deliveries] == [1]
        delivered.set()

    courier = Courier(
        key_of("guest"),
        party_of("broker"),
        transport,
        RealClock(),
        RealEntropy(),
        told,
        lambda: True,
    )
    message = messages.Relinquish(rid="L1", holder=key_of("guest").public.kid, n=1)
    courier.put("lease", (message.holder, message.rid), (message,))
    await asyncio.wait_for(transport.tried.wait(), 10)
    await asyncio.sleep(0)
    assert courier.failures == 1
    transport.away = False
    courier.peer_is_up()
    await asyncio.wait_for(delivered.wait(), 10)
    assert (transport.tries, courier.failures) == (2, 0)
    await courier.stop()
