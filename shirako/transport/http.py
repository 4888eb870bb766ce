"""Envelopes over HTTP: `POST /messages`, 202 when durable; `GET /.well-known/shirako` says who.

An envelope that is refused as a whole is answered with RFC 9457 problem details. Redirects are not
followed: the address was pinned or endorsed, and what answers there has to sign.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping

import aiohttp
from aiohttp import web

from shirako.transport import Unreachable
from shirako.transport.envelope import ENVELOPE_BYTES_MAX, Rejected
from shirako.transport.limits import Limits
from shirako.transport.tls_errors import explain

PROTOCOL_VERSION = 1
ENVELOPE_CONTENT_TYPE = "application/jose"
TIMEOUT = aiohttp.ClientTimeout(total=60, sock_connect=5, sock_read=30)
RETRY_AFTER_SECONDS = 2

Receive = Callable[[bytes], Awaitable[bytes]]


class HttpTransport:
    """Keeps connections to peers open; one envelope a peer is under way at a time."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        """`tls`: what to trust and to show for https addresses; None: the system's defaults."""
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    async def post(self, url: str, envelope: bytes) -> bytes:
        session = self._open()
        try:
            async with session.post(
                f"{url}/messages",
                data=envelope,
                headers={"Content-Type": ENVELOPE_CONTENT_TYPE},
                allow_redirects=False,
            ) as response:
                body = await _read(response.content)
                if response.status != 202:
                    text = body[:300].decode(errors="replace")
                    raise Unreachable(f"{url} answered {response.status}: {text}")
                return body
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            told = explain(error, url) or str(error) or type(error).__name__
            raise Unreachable(f"{url}: {told}") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            # below the server's keep-alive, so that no request meets a connection just closed
            connector = aiohttp.TCPConnector(keepalive_timeout=20, ssl=self._tls or True)
            self._session = aiohttp.ClientSession(connector=connector, timeout=TIMEOUT)
        return self._session


def message_routes(
    receive: Receive, about: Mapping[str, object], limits: Limits | None = None
) -> list[web.RouteDef]:
    """The two routes through which other actors reach this one; `about` is served as it is."""
    desk = _Desk((limits or Limits()).reading_bytes)

    async def post_messages(request: web.Request) -> web.Response:
        try:
            # One that is too long is handed on cut short: `receive` refuses and counts it.
            answer = await receive(await desk.read(request.content))
        except Rejected as rejected:
            return problem(rejected.status, rejected.kind, str(rejected))
        except (web.RequestPayloadError, ConnectionError):
            return problem(400, "malformed", "the body ended early")
        return web.Response(status=202, body=answer, content_type=ENVELOPE_CONTENT_TYPE)

    async def get_about(_request: web.Request) -> web.Response:
        return web.json_response(dict(about))

    return [
        web.post("/messages", post_messages),
        web.get("/.well-known/shirako", get_about),
    ]


class _Desk:
    """Where envelopes lie until they are whole: only so much of them has room."""

    def __init__(self, room: int) -> None:
        self._room = room

    async def read(self, content: aiohttp.StreamReader) -> bytes:
        """As `_read`; raises `Rejected` when there is no room."""
        mine = 0

        def lay(size: int) -> None:
            nonlocal mine
            if size > self._room:
                raise Rejected(503, "overloaded", "too many envelopes are coming in; try again")
            self._room -= size
            mine += size

        try:
            return await _read(content, lay)
        finally:
            self._room += mine


async def _read(content: aiohttp.StreamReader, lay: Callable[[int], None] | None = None) -> bytes:
    """The whole body, or one byte more than may be there; `lay` is told of what is kept."""
    data = bytearray()
    while len(data) <= ENVELOPE_BYTES_MAX:
        chunk = await content.read(ENVELOPE_BYTES_MAX + 1 - len(data))
        if not chunk:
            break
        if lay is not None:
            lay(len(chunk))
        data += chunk
    return bytes(data)


def problem(status: int, kind: str, detail: str) -> web.Response:
    """An RFC 9457 answer; 429 and 503 say when to try again."""
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status in (429, 503) else None
    return web.json_response(
        {"type": f"urn:shirako:problem:{kind}", "title": kind, "status": status, "detail": detail},
        status=status,
        headers=headers,
        content_type="application/problem+json",
    )
