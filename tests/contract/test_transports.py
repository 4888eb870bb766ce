"""What every transport promises: the bytes and nothing but the bytes, or `Unreachable`."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from io import BytesIO

import aiohttp
import pytest
from aiohttp import web

from shirako.core import messages
from shirako.core.messages import Close
from shirako.transport import Transport, Unreachable
from shirako.transport.envelope import (
    ENVELOPE_BYTES_MAX,
    Rejected,
    acknowledge,
    open_envelope,
    read_acknowledgement,
    seal,
)
from shirako.transport.http import HttpTransport, message_routes
from shirako.transport.local import LocalTransport
from tests.core.cast import key_of

Receive = Callable[[bytes], Awaitable[bytes]]


@dataclass
class Wire:
    """One transport, and how to put an actor's door behind an address of it."""

    transport: Transport
    listen: Callable[[Receive], Awaitable[str]]
    """Returns the address."""
    nowhere: str
    stop: Callable[[str], Awaitable[None]]


@pytest.fixture(params=["local", "http"])
async def wire(request: pytest.FixtureRequest) -> AsyncIterator[Wire]:
    if request.param == "local":
        async for made in _local():
            yield made
    else:
        async for made in _http():
            yield made


async def _local() -> AsyncIterator[Wire]:
    transport = LocalTransport()

    async def listen(receive: Receive) -> str:
        transport.listen("local://site", receive)
        return "local://site"

    async def stop(url: str) -> None:
        transport.stop_listening(url)

    yield Wire(transport, listen, "local://nowhere", stop)
    await transport.close()


async def _http() -> AsyncIterator[Wire]:
    transport = HttpTransport()
    runners: dict[str, web.AppRunner] = {}

    async def listen(receive: Receive) -> str:
        application = web.Application()
        application.add_routes(message_routes(receive, {"name": "site"}))
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        url = f"http://{host}:{port}"
        runners[url] = runner
        return url

    async def stop(url: str) -> None:
        await runners.pop(url).cleanup()

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        yield Wire(transport, listen, f"http://127.0.0.1:{unused.getsockname()[1]}", stop)
    await transport.close()
    for runner in runners.values():
        await runner.cleanup()


async def test_bytes_arrive_and_the_answer_comes_back(wire: Wire) -> None:
    heard: list[bytes] = []

    async def door(data: bytes) -> bytes:
        heard.append(data)
        return b"taken " + data

    url = await wire.listen(door)
    assert await wire.transport.post(url, b"one") == b"taken one"
    assert await wire.transport.post(url, b"two") == b"taken two"
    assert heard == [b"one", b"two"]


async def test_envelopes_and_answers_up_to_the_limit_are_whole(wire: Wire) -> None:
    async def door(data: bytes) -> bytes:
        return data

    url = await wire.listen(door)
    for size in (0, 1, 70_000, 500_000, ENVELOPE_BYTES_MAX):
        data = (b"0123456789abcdef" * (size // 16 + 1))[:size]
        assert await wire.transport.post(url, data) == data, size


async def test_nobody_there_is_unreachable(wire: Wire) -> None:
    with pytest.raises(Unreachable):
        await wire.transport.post(wire.nowhere, b"x")


async def test_a_peer_that_went_away_is_unreachable_and_one_that_came_back_is_not(
    wire: Wire,
) -> None:
    async def door(data: bytes) -> bytes:
        return data

    url = await wire.listen(door)
    assert await wire.transport.post(url, b"x") == b"x"
    await wire.stop(url)
    with pytest.raises(Unreachable):
        await wire.transport.post(url, b"x")
    again = await wire.listen(door)
    assert await wire.transport.post(again, b"x") == b"x"


@pytest.mark.parametrize("status", [400, 401, 403, 413, 503])
async def test_a_refused_envelope_is_unreachable_with_the_reason(wire: Wire, status: int) -> None:
    async def door(_data: bytes) -> bytes:
        raise Rejected(status, "stale", "set the clocks")

    url = await wire.listen(door)
    with pytest.raises(Unreachable, match="set the clocks"):
        await wire.transport.post(url, b"x")


async def test_a_peer_that_breaks_is_unreachable(wire: Wire) -> None:
    """A fault in a peer's program must not end the task that delivers to it."""

    async def door(_data: bytes) -> bytes:
        raise KeyError("a fault in our own code")

    url = await wire.listen(door)
    with pytest.raises(Unreachable):
        await wire.transport.post(url, b"x")


async def test_many_at_once(wire: Wire) -> None:
    async def door(data: bytes) -> bytes:
        await asyncio.sleep(0)
        return data

    url = await wire.listen(door)
    said = [f"message {n}".encode() for n in range(50)]
    assert await asyncio.gather(*(wire.transport.post(url, one) for one in said)) == said


async def test_a_real_envelope_and_its_acknowledgement(wire: Wire) -> None:
    guest, site = key_of("guest"), key_of("site")
    close = Close(rid="L1", holder=guest.public.kid, n=1, ticket=())

    async def door(data: bytes) -> bytes:
        opened = open_envelope(data, site.public.kid, 1000, 30_000, {})
        assert opened.messages == [close]
        return acknowledge(site, opened.sender.kid, opened.n, 1000, ())

    url = await wire.listen(door)
    answer = await wire.transport.post(
        url, seal(guest, site.public.kid, 4, 1000, [messages.encode(close)])
    )
    assert read_acknowledgement(answer, site.public, guest.public.kid, 4).refused == ()
    with pytest.raises(Unreachable):
        await wire.transport.post(url, b"nonsense")


async def test_cancelling_a_post_leaves_the_transport_usable(wire: Wire) -> None:
    hold = asyncio.Event()

    async def door(data: bytes) -> bytes:
        if data == b"slow":
            await hold.wait()
        return data

    url = await wire.listen(door)
    slow = asyncio.create_task(wire.transport.post(url, b"slow"))
    await asyncio.sleep(0.05)
    slow.cancel()
    await asyncio.gather(slow, return_exceptions=True)
    assert slow.cancelled()
    hold.set()
    assert await wire.transport.post(url, b"fast") == b"fast"


# HTTP alone ----------------------------------------------------------------------------------


@pytest.fixture
async def http() -> AsyncIterator[Wire]:
    async for made in _http():
        yield made


async def echo(data: bytes) -> bytes:
    return data


async def test_more_than_the_limit_is_refused_whether_announced_or_not(http: Wire) -> None:
    heard: list[int] = []

    async def door(data: bytes) -> bytes:
        heard.append(len(data))
        open_envelope(data, "me", 1000, 30_000, {})
        raise AssertionError("an envelope that is none was opened")

    url = await http.listen(door)

    async def in_pieces() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 65_536

    async with aiohttp.ClientSession() as session:
        for body in (BytesIO(b"x" * (ENVELOPE_BYTES_MAX + 1)), in_pieces()):
            try:
                async with session.post(f"{url}/messages", data=body) as response:
                    assert response.status == 413
            except aiohttp.ClientConnectionError:
                pass  # the server may hang up on the rest of what it will not take
    assert max(heard, default=0) <= ENVELOPE_BYTES_MAX + 1


async def test_a_refusal_is_problem_details_and_says_when_to_come_again(http: Wire) -> None:
    async def door(_data: bytes) -> bytes:
        raise Rejected(503, "overloaded", "too much is waiting here")

    url = await http.listen(door)
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/messages", data=b"x") as response,
    ):
        assert response.status == 503
        assert response.content_type == "application/problem+json"
        assert int(response.headers["Retry-After"]) > 0
        problem = await response.json()
    assert problem == {
        "type": "urn:shirako:problem:overloaded",
        "title": "overloaded",
        "status": 503,
        "detail": "too much is waiting here",
    }


async def test_an_actor_says_who_it_is(http: Wire) -> None:
    url = await http.listen(echo)
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{url}/.well-known/shirako") as response,
    ):
        assert await response.json() == {"name": "site"}


async def test_redirects_are_not_followed(http: Wire) -> None:
    """The address was pinned or endorsed; what answers there has to sign for itself."""
    heard: list[bytes] = []

    async def door(data: bytes) -> bytes:
        heard.append(data)
        return data

    url = await http.listen(door)
    application = web.Application()

    async def elsewhere(_request: web.Request) -> web.Response:
        raise web.HTTPTemporaryRedirect(f"{url}/messages")

    application.add_routes([web.post("/messages", elsewhere)])
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port = runner.addresses[0][1]
    with pytest.raises(Unreachable, match="307"):
        await http.transport.post(f"http://127.0.0.1:{port}", b"x")
    await runner.cleanup()
    assert heard == []
