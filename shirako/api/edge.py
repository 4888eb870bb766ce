"""Limits on requests, and what `/status` tells of the certificate: where people meet the edge."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

from aiohttp import web

from shirako.actors.actor import Actor
from shirako.api import models
from shirako.api.models import Instant
from shirako.api.problems import Problem
from shirako.api.routes import Call, Route
from shirako.api.status import StatusRoutes
from shirako.transport.limits import Limits
from shirako.transport.listening import Connection

Ends = Callable[[], datetime]


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


class Status(models.Status):
    """With the end of the certificate that the actor shows, where it shows one."""

    certificate_ends: Instant | None = None


class EdgeStatusRoutes(StatusRoutes):
    """`/status` with what concerns the edge."""

    def __init__(self, actor: Actor[Any], certificate_ends: Ends | None) -> None:
        super().__init__(actor)
        self._ends = certificate_ends

    def routes(self) -> tuple[Route, ...]:
        return tuple(
            replace(route, answer=Status) if route.answer is models.Status else route
            for route in super().routes()
        )

    async def status(self, call: Call) -> Status:
        told = await super().status(call)
        return Status(**dict(told), certificate_ends=self._ends() if self._ends else None)
