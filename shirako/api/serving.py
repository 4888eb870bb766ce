"""The application of one actor: its routes, who may use them, and one form for every refusal."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

from aiohttp import web

from shirako.actors.actor import Actor
from shirako.actors.authority import Authority
from shirako.actors.broker import Broker
from shirako.actors.role import Refused
from shirako.actors.service_manager import ServiceManager
from shirako.api.broker import BrokerRoutes
from shirako.api.edge import from_here, within_time
from shirako.api.guest import GuestRoutes
from shirako.api.openapi import document
from shirako.api.problems import CONTENT_TYPE, RETRY_SECONDS, Problem
from shirako.api.routes import PREFIX, Call, Reply, Route, read_body, read_query, refusal
from shirako.api.site import Described, SiteRoutes, Upkeep
from shirako.api.status import StatusRoutes
from shirako.api.stream import Streams
from shirako.api.tokens import Token, Tokens, TokensUnreadable
from shirako.core.machine import IllegalTransition
from shirako.ledger import Lag
from shirako.transport.envelope import ENVELOPE_BYTES_MAX
from shirako.transport.limits import Buckets, Limits

__all__ = ["Upkeep", "application"]

log = logging.getLogger(__name__)

_PLAIN = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

_Endpoint = Callable[[web.Request], Awaitable[web.StreamResponse]]


def application(
    actor: Actor[Any],
    tokens: Tokens,
    descriptor: Described | None = None,
    upkeep: Upkeep | None = None,
    *,
    limits: Limits | None = None,
    certificate_ends: Callable[[], datetime] | None = None,
    lag: Callable[[], Lag] | None = None,
) -> web.Application:
    """The REST API of `actor`; `descriptor` adds what it says of a site's units.

    `upkeep` is for an authority, which needs it. `certificate_ends` tells the end of the one that
    is shown, where one is; `lag` how far the ledger's mirror is behind, where it has one.

    Other routes may be added: refusals in them are answered in the same form.
    """
    limits = limits or Limits()
    app = web.Application(
        middlewares=[_in_one_form(actor), within_time(actor, limits), from_here(actor)],
        client_max_size=ENVELOPE_BYTES_MAX,
    )
    gate = _Gate(actor, tokens, limits)
    streams = Streams(actor, tokens, limits)
    app.on_shutdown.append(streams.end)
    own = _own_routes(actor, streams, descriptor, upkeep)
    routes = (*own, *StatusRoutes(actor, certificate_ends, lag).routes())
    for route in routes:
        app.router.add_route(route.method, PREFIX + route.path, _endpoint(route, actor, gate))
    described = web.json_response(document(actor.party.name, routes)).body

    async def openapi(_request: web.Request) -> web.Response:
        return web.Response(body=described, content_type="application/json")

    app.router.add_route("GET", f"{PREFIX}/openapi.json", openapi)
    return app


def _own_routes(
    actor: Actor[Any], streams: Streams, descriptor: Described | None, upkeep: Upkeep | None
) -> tuple[Route, ...]:
    match actor.role:
        case ServiceManager():
            return GuestRoutes(actor, streams).routes()
        case Authority() if upkeep is not None:
            return SiteRoutes(actor, descriptor, upkeep).routes()
        case Broker():
            return BrokerRoutes(actor).routes()
    raise AssertionError(f"no routes for a {actor.role.title}")


def _endpoint(route: Route, actor: Actor[Any], gate: _Gate) -> _Endpoint:
    async def endpoint(request: web.Request) -> web.StreamResponse:
        caller = gate.caller(request, route)
        query = read_query(request, route.query, route.choices) if route.query else None
        body = await read_body(request, route.body) if route.body else None
        try:
            await actor.settled()
            if route.method != "GET" and not route.while_held:
                actor.role.check_not_held()
            answer = await route.handler(Call(request, caller, body, query))
        except (Refused, IllegalTransition) as error:
            raise refusal(error) from error
        if isinstance(answer, web.StreamResponse):
            return answer
        reply = answer if isinstance(answer, Reply) else Reply(answer, 200)
        return web.Response(
            text=reply.answer.model_dump_json(),
            status=reply.status,
            headers=reply.headers,
            content_type="application/json",
        )

    return endpoint


class _Gate:
    """Who may call, and how often."""

    def __init__(self, actor: Actor[Any], tokens: Tokens, limits: Limits) -> None:
        self._actor = actor
        self._tokens = tokens
        self._limits = limits
        self._buckets = Buckets(limits, lambda: asyncio.get_running_loop().time())

    def caller(self, request: web.Request, route: Route) -> Token | None:
        """Who calls. Raises `Problem` unless the route is theirs to call, now."""
        if not route.roles:
            return None
        token = self._token(request)
        if not self._buckets.take(token.name):
            self._actor.counters["refused.rate"] += 1
            rate = f"{self._limits.requests_a_second:g} requests a second"
            raise Problem(429, "rate", f"your token is good for {rate} here", retry=True)
        if token.role not in route.roles:
            allowed = ", ".join(sorted(route.roles))
            raise Problem(403, "role", f"this is for {allowed}; your token is for a {token.role}")
        return token

    def _token(self, request: web.Request) -> Token:
        actor = self._actor
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        try:
            token = self._tokens.find(secret.strip()) if scheme.lower() == "bearer" else None
        except TokensUnreadable as error:
            log.warning("%s: nobody is let in: %s", actor.party.name, error)
            raise Problem(503, "unavailable", "tokens can not be read now", retry=True) from error
        if token is None or token.actor not in (None, actor.party.name):
            actor.counters["refused.token"] += 1
            raise Problem(401, "token", "send a valid token, as Authorization: Bearer TOKEN")
        return token


def _in_one_form(actor: Actor[Any]) -> Any:
    """Middleware: what is refused, and what breaks, is told as problem details."""

    @web.middleware
    async def middleware(request: web.Request, handler: _Endpoint) -> web.StreamResponse:
        try:
            response = await handler(request)
        except Problem as problem:
            response = _told(problem)
        except web.HTTPException as error:
            if error.status < 400:
                raise
            response = _told(_of_http(error, request))
            if "Allow" in error.headers:
                response.headers["Allow"] = error.headers["Allow"]
        except ConnectionError:
            raise  # nobody is there to be answered
        except Exception:
            reference = actor.entropy.fresh_id()
            name = actor.party.name
            log.exception("%s: %s %s broke (%s)", name, request.method, request.path, reference)
            detail = f"this is a fault of ours; its reference is {reference}"
            response = _told(Problem(500, "internal", detail, members={"reference": reference}))
        if not response.prepared:
            response.headers.update(_PLAIN)
        return response

    return middleware


_KINDS = {404: "not_found", 405: "method", 413: "oversize"}


def _of_http(error: web.HTTPException, request: web.Request) -> Problem:
    details = {
        404: "there is nothing here by this name",
        405: f"{request.method} is not for this path",
    }
    kind = _KINDS.get(error.status, "http")
    return Problem(error.status, kind, details.get(error.status, error.reason))


def _told(problem: Problem) -> web.Response:
    headers = {}
    if problem.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="shirako"'
    if problem.retry:
        headers["Retry-After"] = str(RETRY_SECONDS)
    return web.json_response(
        problem.document(), status=problem.status, headers=headers, content_type=CONTENT_TYPE
    )
