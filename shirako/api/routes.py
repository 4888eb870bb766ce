"""What a route is: who may call it, what goes in, what comes out.

One literal table a role, from which the server takes its routes and the OpenAPI document its text,
so that the two can not differ.
"""

from __future__ import annotations

import heapq
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_origin

from aiohttp import web
from pydantic import BaseModel, ValidationError

from shirako.actors.role import Refused
from shirako.api.models import Inward, Outward, Page
from shirako.api.problems import Problem
from shirako.api.tokens import Token, TokenRole
from shirako.core.machine import IllegalTransition, State

BODY_BYTES_MAX = 256 * 1024
PREFIX = "/api/v1"

ANYBODY: frozenset[TokenRole] = frozenset(("guest", "site-admin", "broker-admin", "viewer"))
READERS: frozenset[TokenRole] = frozenset(("site-admin", "broker-admin", "viewer"))
"""May look at everything but guests' secrets."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, with all that was checked about it."""

    request: web.Request
    caller: Token | None
    """None on routes that need no token."""
    body: Any
    query: Any

    @property
    def by(self) -> str:
        """Who it is, for stories."""
        return self.caller.name if self.caller else ""

    def part(self, name: str) -> str:
        """A part of the path."""
        return self.request.match_info[name]


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that is not simply a 200."""

    answer: Outward
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Call], Awaitable[Outward | Reply | web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Header:
    """What a request header does, and the pattern of those that are taken."""

    text: str
    form: str = ""
    """Empty: one that says nothing is as good as none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method of one path below `/api/v1`."""

    method: str
    path: str
    handler: Handler
    summary: str
    roles: frozenset[TokenRole]
    """Who may; empty: no token is needed."""
    body: type[Inward] | None = None
    query: type[Inward] | None = None
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Parameters of the query that take a few words only, and these."""
    answer: type[Outward] | None = None
    """None: see `content`."""
    while_held: bool = False
    """Whether it may change something while the actor is held after a restore."""
    content: str = "application/json"
    statuses: Mapping[int, str] = field(default_factory=lambda: {200: "Done"})
    """What a call that worked may be answered with."""
    headers: Mapping[str, Header] = field(default_factory=dict)
    """Request headers that matter."""
    answer_headers: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    """By status: headers that such an answer always has, and what they say."""


async def read_body(request: web.Request, model: type[Inward]) -> Inward:
    """The body, bounded and valid; an empty one counts as `{}`. Raises `Problem`."""
    too_large = Problem(413, "oversize", f"a request holds at most {BODY_BYTES_MAX} bytes")
    if (request.content_length or 0) > BODY_BYTES_MAX:
        raise too_large
    data = bytearray()
    try:
        async for chunk in request.content.iter_any():
            data += chunk
            if len(data) > BODY_BYTES_MAX:
                raise too_large
    except web.RequestPayloadError as error:
        raise Problem(400, "malformed", "the body is not what its headers say") from error
    try:
        return model.model_validate_json(bytes(data) or b"{}", strict=True)
    except ValidationError as error:
        raise invalid(error) from None


def read_query(
    request: web.Request, model: type[Inward], choices: Mapping[str, tuple[str, ...]]
) -> Inward:
    """The query, valid. Raises `Problem`."""
    given: dict[str, object] = {}
    for name in request.query:
        values = request.query.getall(name)
        several = (
            name in model.model_fields and get_origin(model.model_fields[name].annotation) is tuple
        )
        if not several and len(values) > 1:
            raise Problem(422, "invalid", f"{name}: given more than once", field=name)
        if name in choices and not set(values) <= set(choices[name]):
            raise bad(name, f"one of {', '.join(choices[name])}")
        given[name] = tuple(values) if several else values[0]
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise invalid(error) from None


def invalid(error: ValidationError) -> Problem:
    """All faults of a request. What was sent is not repeated: it may hold secrets."""
    faults = error.errors(include_url=False, include_input=False, include_context=False)
    if faults[0]["type"] == "json_invalid":
        return Problem(400, "malformed", f"the body is no JSON: {faults[0]['msg']}")
    errors = [
        {"field": ".".join(map(str, f["loc"])) or "body", "message": f["msg"]} for f in faults
    ]
    first = errors[0]
    detail = f"{first['field']}: {first['message']}"
    return Problem(422, "invalid", detail, field=first["field"], errors=errors)


def bad(name: str, message: str) -> Problem:
    """One field is wrong, for a reason that its model can not know."""
    errors = [{"field": name, "message": message}]
    return Problem(422, "invalid", f"{name}: {message}", field=name, errors=errors)


def refusal(error: Refused | IllegalTransition) -> Problem:
    """What the actor would not do, as a problem."""
    if isinstance(error, IllegalTransition):
        return Problem(409, "state", str(error))
    if error.retry:
        status = 409 if error.code == "busy" else 503
        return Problem(status, error.code, error.reason, field=error.field, retry=True)
    status = 422 if error.field or error.code == "invalid" else 409
    return Problem(status, error.code, error.reason, field=error.field)


R = TypeVar("R")
M = TypeVar("M", bound=BaseModel)


def page(
    found: Iterable[tuple[str, R]], query: Page, view: Callable[[R], M]
) -> tuple[tuple[M, ...], str | None]:
    """The records after `query.after`, by name, and where the next page begins."""
    ahead = (item for item in found if item[0] > query.after)
    chosen = heapq.nsmallest(query.limit + 1, ahead, key=lambda item: item[0])
    more = chosen[query.limit - 1][0] if len(chosen) > query.limit else None
    return tuple(view(record) for _, record in chosen[: query.limit]), more


def among_states(states: Iterable[State]) -> Mapping[str, tuple[str, ...]]:
    """The `choices` of a listing by state."""
    return {"state": tuple(str(state.value) for state in states)}
