"""What is asked of a request before anything else: when its body comes, and where it is from."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from shirako.actors.actor import Actor
from shirako.api.problems import Problem
from shirako.transport.limits import Limits
from shirako.transport.listening import Connection

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def within_time(actor: Actor[Any], limits: Limits) -> Any:
    """Middleware: a body comes in time or is refused, and the connection knows what it does."""

    @web.middleware
    async def middleware(request: web.Request, handler: _Handler) -> web.StreamResponse:
        late = False

        def give_up() -> None:
            nonlocal late
            late = True
            actor.counters["refused.slow"] += 1
            detail = f"the body did not come within {limits.body_seconds:g} s"
            request.content.set_exception(Problem(408, "slow", detail))

        connection = request.protocol
        known = connection if isinstance(connection, Connection) else None
        due: asyncio.TimerHandle | None = None
        if not request.content.is_eof():
            due = asyncio.get_running_loop().call_later(limits.body_seconds, give_up)
            request.content.on_eof(due.cancel)
        if known is not None:
            known.request_begins()
        try:
            return await handler(request)
        finally:
            if due is not None:
                due.cancel()
            if late:
                # What still comes is read and dropped for a while, as after every early answer:
                # a connection that is closed with bytes unread takes the answer with it.
                request.content.set_exception(None)  # type: ignore[arg-type] # takes it back
            if known is not None:
                # what still comes of a body is no header of the next request
                request.content.on_eof(known.request_ends)

    return middleware


def from_here(actor: Actor[Any]) -> Any:
    """Middleware: refuses what a browser sends because a page from elsewhere told it to.

    A page may make its own name stand for 127.0.0.1 and so reach an actor of the machine that it is
    shown on. The browser then still says the page's name in `Host`. Over TLS it would not get that
    far, since no certificate here has that name; a name is asked for only where there is no TLS,
    which is on the loopback alone. Envelopes are let through: they are signed, and name their
    receiver.

    `Origin` says which site a page is from. Nothing of ours is meant for pages of others.
    """
    own = urlsplit(actor.party.url)

    @web.middleware
    async def middleware(request: web.Request, handler: _Handler) -> web.StreamResponse:
        hosts = request.headers.getall("Host", [])
        if own.scheme != "https" and request.path != "/messages":
            for host in hosts:
                if not _is_local(_name(host), own.hostname):
                    actor.counters["refused.host"] += 1
                    raise Problem(421, "host", f"ask for this actor as {actor.party.url}")
        origin = request.headers.get("Origin")
        if origin is not None and _place(origin) not in hosts:
            actor.counters["refused.origin"] += 1
            raise Problem(403, "origin", "pages of other sites may ask for nothing here")
        return await handler(request)

    return middleware


def _is_local(name: str, own: str | None) -> bool:
    """Whether a name can not have been made to stand for this machine by somebody else."""
    if name in ("localhost", own):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _name(host: str) -> str:
    """The name in `Host`, without port and brackets, in lower case; empty for what is none."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _place(origin: str) -> str | None:
    """Host and port of an origin, as `Host` would say them; None for `null` and what is none."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None
