"""What a copy of an actor that waits to take over says to who asks it how it is."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AsyncExitStack
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest

from shirako.assembly import Opening, running
from shirako.certificates import client_context
from shirako.ledger import opening as ledgers
from tests.security.conftest import Deployment, come_true


class Held:
    """A ledger that somebody else holds until it is released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.released, self.asked = threading.Event(), threading.Event()
        whole = ledgers.open_ledger

        def wait(where: Any, actor: str, **_: Any) -> Any:
            self.asked.set()
            self.released.wait(30)
            return whole(where, actor)

        monkeypatch.setattr("shirako.assembly.open_ledger", wait)


@pytest.mark.parametrize("kind", ["plain", "one_way"])
async def test_it_says_that_it_waits_until_it_acts(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment: Deployment = request.getfixturevalue(kind)
    held = Held(monkeypatch)
    tls = (
        client_context(deployment.certificates / "ca.pem", None, None) if kind != "plain" else True
    )
    url = deployment.url("guest")
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        stack.callback(held.released.set)
        copy = running(deployment.descriptor, ("guest",), opening=Opening(standby=True))
        starting = asyncio.create_task(stack.enter_async_context(copy))
        await come_true(held.asked.is_set)
        for method, path in (("GET", "api/v1/health"), ("POST", "messages"), ("GET", "")):
            async with session.request(method, f"{url}/{path}", ssl=tls) as answer:
                assert answer.status == 503
                assert int(answer.headers["Retry-After"]) > 0
                told = await answer.json(content_type="application/problem+json")
                assert told["type"] == "urn:shirako:problem:standby"
        held.released.set()
        await starting
        async with session.get(f"{url}/api/v1/health", ssl=tls) as answer:
            assert answer.status == 200


async def test_beside_the_copy_that_acts_it_waits_in_silence(
    plain: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have one address, and it is not the standby's yet."""
    held = Held(monkeypatch)
    at = urlsplit(plain.url("guest"))
    async with AsyncExitStack() as stack:
        stack.callback(held.released.set)
        acting = await asyncio.start_server(lambda *_: None, at.hostname, at.port)
        copy = running(plain.descriptor, ("guest",), opening=Opening(standby=True))
        starting = asyncio.create_task(stack.enter_async_context(copy))
        await come_true(held.asked.is_set)
        assert not starting.done()
        acting.close()
        await acting.wait_closed()
        held.released.set()
        (one,) = await starting
        assert one.spec.name == "guest"
