"""What a browser sends because a page from elsewhere told it to, and requests with two meanings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from shirako.actors.actor import Actor
from tests.security.conftest import Deployment, shirako
from tests.security.lines import Line


class Site:
    """One actor that listens on the loopback, and its plain connections."""

    def __init__(self, deployment: Deployment, actor: Actor[Any]) -> None:
        at = urlsplit(deployment.url("guest"))
        self.host, self.port = str(at.hostname), int(at.port or 0)
        self.token = deployment.tokens["guest"]
        self.actor = actor

    async def ask(self, *headers: str, path: str = "/api/v1/leases", method: str = "GET") -> int:
        """The status of one answer."""
        lines = (f"{method} {path} HTTP/1.1", f"Authorization: Bearer {self.token}", *headers)
        heard = await self.send("\r\n".join((*lines, "Connection: close", "", "")).encode())
        return int(heard.split()[1])

    async def send(self, data: bytes) -> bytes:
        """All that is answered until the other end hangs up."""
        line = Line(*await asyncio.open_connection(self.host, self.port))
        await line.say(data)
        heard = await line.rest()
        line.close()
        return heard


@pytest.fixture
async def site(plain: Deployment) -> AsyncIterator[Site]:
    async with plain.apart("guest") as actors:
        yield Site(plain, actors["guest"].actor)


async def test_a_name_that_somebody_else_gave_this_machine_is_refused(site: Site) -> None:
    for host in ("evil.example", f"evil.example:{site.port}", "127.0.0.1.evil.example", "[::1", ""):
        assert await site.ask(f"Host: {host}") == 421, host
        assert await site.ask(f"Host: {host}", path="/.well-known/shirako") == 421
        assert await site.ask(f"Host: {host}", path="/api/v1/health") == 421
    assert site.actor.counters["refused.host"] == 15
    for host in ("127.0.0.1", f"127.0.0.1:{site.port}", "localhost:1", "[::1]:1", "LOCALHOST"):
        assert await site.ask(f"Host: {host}") == 200, host


async def test_behind_tls_the_certificate_names_the_host(one_way: Deployment) -> None:
    """Peers and people may know an actor by any name that its certificate has."""
    names = ("--host", "127.0.0.1", "--host", "localhost")
    for file in ("guest.pem", "guest.key"):
        (one_way.certificates / file).unlink()
    shirako("ca", "issue", str(one_way.certificates), "guest", *names)
    async with one_way.apart("guest"):
        here = one_way.url("guest").replace("127.0.0.1", "localhost")
        async with one_way.client("guest", "guest") as client:
            client.url = here
            assert await client.leases() == ()


async def test_pages_of_other_sites_ask_in_vain(site: Site) -> None:
    own = f"127.0.0.1:{site.port}"
    for origin in ("https://evil.example", "null", "http://127.0.0.1:1", "", "http://[", "x"):
        for method in ("GET", "POST", "DELETE", "OPTIONS"):
            answer = await site.ask(f"Host: {own}", f"Origin: {origin}", method=method)
            assert answer == 403, (origin, method)
        told = await site.ask(f"Host: {own}", f"Origin: {origin}", path="/messages", method="POST")
        assert told == 403
    assert await site.ask(f"Host: {own}", f"Origin: http://{own}") == 200
    assert await site.ask(f"Host: {own}") == 200


SMUGGLED = b"GET /api/v1/smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
TWO_LENGTHS = {
    "two lengths": (b"Content-Length: 0", b"Content-Length: 60"),
    "a list of lengths": (b"Content-Length: 0, 60",),
    "a signed length": (b"Content-Length: +60",),
    "a length with a blank before its colon": (b"Content-Length : 60",),
    "a length and chunks": (b"Content-Length: 60", b"Transfer-Encoding: chunked"),
    "chunks said twice": (b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"),
    "chunks that are none": (b"Transfer-Encoding: xchunked",),
    "chunks, and then something": (b"Transfer-Encoding: chunked, identity",),
    "a folded header": (b"X: y", b" Content-Length: 60"),
    "a zero byte": (b"X: \x00", b"Content-Length: 60"),
    "a bare line feed": (b"X: y\nTransfer-Encoding: chunked",),
    "a bare carriage return": (b"X: y\rTransfer-Encoding: chunked",),
}


@pytest.mark.parametrize("name", TWO_LENGTHS)
async def test_a_request_that_a_proxy_may_read_otherwise_is_refused(site: Site, name: str) -> None:
    """One answer, a refusal, and what follows on the connection is never taken for a request."""
    head = (b"POST /messages HTTP/1.1", b"Host: 127.0.0.1", *TWO_LENGTHS[name], b"", b"")
    heard = await site.send(b"\r\n".join(head) + b"0\r\n\r\n" + SMUGGLED)
    assert heard.split(b" ")[1] == b"400", heard[:200]
    assert heard.count(b"HTTP/1.") == 1, heard


async def test_two_hosts_are_refused(site: Site) -> None:
    own = f"127.0.0.1:{site.port}"
    assert await site.ask(f"Host: {own}", "Host: evil.example") in (400, 421)


async def test_what_is_pipelined_is_answered_in_turn(site: Site) -> None:
    """The measure for the refusals above: two requests that are sound are two."""
    body = b"x" * 5
    head = b"POST /messages HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\n\r\n"
    last = SMUGGLED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    heard = await site.send(head + body + last)
    statuses = [part.split(b" ")[0] for part in heard.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"401", b"404"]
