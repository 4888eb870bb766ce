"""Listens for one actor: takes connections within limits, and hangs up on who dawdles.

aiohttp serves what comes over a connection, but bounds neither their number nor the time that a
client takes for a header, for fetching its answer, or for a TLS handshake (asyncio's 60 seconds,
in which the connection is not aiohttp's yet). So connections are accepted here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import ssl
from collections.abc import Callable
from typing import cast

from aiohttp import web

from shirako.transport.limits import Full, Limits, Places

BACKLOG = 1024
OUT_OF_DESCRIPTORS_SECONDS = 0.5
FAREWELL_SECONDS = 1.0
FAREWELLS_MAX = 64
"""Refused connections that are still listened to; the others are closed at once."""

log = logging.getLogger(__name__)

Count = Callable[[str], None]
"""Counts a refusal, by its kind."""


class Listener:
    """Accepts connections for `server` at one address, with TLS where `tls` is given."""

    def __init__(
        self,
        server: web.Server,
        limits: Limits,
        places: Places,
        count: Count,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._server = server
        self._limits = limits
        self._places = places
        self._count = count
        self._tls = tls
        self._sockets: list[socket.socket] = []
        self._accepting: list[asyncio.Task[None]] = []
        self._greeting: set[asyncio.Task[None]] = set()
        self._leaving: set[asyncio.Task[None]] = set()

    async def open(self, host: str, port: int) -> None:
        """Listen at all addresses that `host` stands for. Raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        places = dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found)
        for family, address in places:
            try:
                listening = socket.create_server((address, port), family=family, backlog=BACKLOG)
            except OSError as error:
                await self.close()
                text = f"{address}:{port} can not be listened at: {error.strerror}"
                raise OSError(error.errno, text) from None
            listening.setblocking(False)
            self._sockets.append(listening)
        self._accepting = [loop.create_task(self._accept(one)) for one in self._sockets]

    async def close(self) -> None:
        """Take no more; connections that are open are aiohttp's to close."""
        tasks = [*self._accepting, *self._greeting, *self._leaving]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listening in self._sockets:
            listening.close()
        self._sockets.clear()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listening)
            except ConnectionError:
                continue  # gone again before we looked
            except OSError as error:
                log.warning("no connection can be accepted now: %s", error.strerror)
                await asyncio.sleep(OUT_OF_DESCRIPTORS_SECONDS)
                continue
            try:
                leave = self._places.take(address[0])
            except Full as full:
                self._count("connections")
                self._refuse(accepted, full.status)
            else:
                task = loop.create_task(self._greet(accepted, address[0], leave))
                self._greeting.add(task)
                task.add_done_callback(self._greeting.discard)
            await asyncio.sleep(0)  # a flood of connections leaves the others their turn

    def _refuse(self, accepted: socket.socket, status: int) -> None:
        """Says why, where that can be said without a handshake."""
        accepted.setblocking(False)
        if self._tls is None:
            with contextlib.suppress(OSError):
                accepted.send(_refusal(status))
                accepted.shutdown(socket.SHUT_WR)
                if len(self._leaving) < FAREWELLS_MAX:
                    task = asyncio.get_running_loop().create_task(_hear_out(accepted))
                    self._leaving.add(task)
                    task.add_done_callback(self._leaving.discard)
                    return
        accepted.close()

    async def _greet(
        self, accepted: socket.socket, address: str, leave: Callable[[], None]
    ) -> None:
        """Hand a connection over to aiohttp, after the handshake where there is one."""
        limits, loop = self._limits, asyncio.get_running_loop()
        connection = Connection(self._server, loop, limits, self._count, leave)
        handed_over = False
        try:
            accepted.setblocking(False)
            # also where the kernel holds what is left of an answer, and nobody fetches it
            patience = int(limits.send_seconds * 1000)
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience)
            await loop.connect_accepted_socket(
                lambda: connection,
                accepted,
                ssl=self._tls,
                ssl_handshake_timeout=limits.header_seconds if self._tls else None,
                ssl_shutdown_timeout=limits.header_seconds if self._tls else None,
            )
            handed_over = True
        except OSError as error:  # errors of TLS are among them
            self._count("handshake")
            log.info("a connection from %s came to nothing: %s", address, error)
        finally:
            if not handed_over:
                accepted.close()
                leave()


async def _hear_out(refused: socket.socket) -> None:
    """Drops what a refused client says: closed with that unread, it would not get to hear why."""
    loop = asyncio.get_running_loop()
    with refused, contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(FAREWELL_SECONDS):
            while await loop.sock_recv(refused, 65_536):
                pass


class Connection(web.RequestHandler):
    """One connection, with a time for each thing that its client is waited for.

    Whoever handles its requests says where each begins and ends: see `request_begins`.
    """

    def __init__(
        self,
        server: web.Server,
        loop: asyncio.AbstractEventLoop,
        limits: Limits,
        count: Count,
        leave: Callable[[], None],
    ) -> None:
        """`leave` is called when the connection is over."""
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type] # aiohttp's own way to have none
            keepalive_timeout=limits.idle_seconds,
            lingering_time=limits.header_seconds,
            auto_decompress=False,
        )
        self._limits = limits
        self._count = count
        self._leave = leave
        self._handling = False
        self._header_due: asyncio.TimerHandle | None = None
        self._fetch_due: asyncio.TimerHandle | None = None

    def request_begins(self) -> None:
        """The header of a request is complete."""
        self._handling = True
        _cancel(self._header_due)
        self._header_due = None

    def request_ends(self) -> None:
        """It is answered, but for sending that, and here; the next byte begins another header."""
        self._handling = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._header_due = self._hang_up_after(self._limits.header_seconds, transport)
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._header_due is None and not self._handling and self.transport is not None:
            self._header_due = self._hang_up_after(self._limits.header_seconds, self.transport)
        super().data_received(data)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.transport is not None:
            self._fetch_due = self._hang_up_after(self._limits.send_seconds, self.transport)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._fetch_due)
        self._fetch_due = None

    def connection_lost(self, exc: BaseException | None) -> None:
        _cancel(self._header_due)
        self._header_due = None
        _cancel(self._fetch_due)
        self._fetch_due = None
        super().connection_lost(exc)
        self._leave()

    def _hang_up_after(
        self, seconds: float, transport: asyncio.BaseTransport
    ) -> asyncio.TimerHandle:
        def hang_up() -> None:
            self._count("slow")
            # not asked for its class: uvloop's transports are of none of asyncio's
            cast(asyncio.Transport, transport).abort()

        return self._loop.call_later(seconds, hang_up)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def _refusal(status: int) -> bytes:
    reason = {429: "Too Many Requests", 503: "Service Unavailable"}[status]
    who = "from your address " if status == 429 else ""
    body = json.dumps(
        {
            "type": "urn:shirako:problem:connections",
            "title": reason,
            "status": status,
            "detail": f"too many connections {who}are open here; use those, or try again later",
        }
    )
    head = (
        f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/problem+json\r\n"
        f"Content-Length: {len(body)}\r\nRetry-After: 2\r\nConnection: close\r\n\r\n"
    )
    return (head + body).encode()
