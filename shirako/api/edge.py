"""Limits on single requests: how long a body may take to come."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from shirako.actors.actor import Actor
from shirako.api.problems import Problem
from shirako.transport.limits import Limits
from shirako.transport.listening import Connection


def within_time(actor: Actor[Any], limits: Limits) -> Any:
    """Middleware: a body comes in time or is refused, and the connection knows what it does."""

    @web.middleware
    async def middleware(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        def give_up() -> None:
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
            if known is not None:
                known.request_ends()

    return middleware
