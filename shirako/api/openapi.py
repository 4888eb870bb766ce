"""The OpenAPI 3.1 document, made from the routes and the models themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from shirako import __version__
from shirako.api.models import LeaseEvent, ProblemDetails, StoryEvent
from shirako.api.problems import CONTENT_TYPE
from shirako.api.routes import PREFIX, Route

_REF = "#/components/schemas/{model}"
_PART = re.compile(r"{(\w+)}")
_REFUSALS = {
    400: "What was sent can not be read",
    401: "The token is none that is known here",
    403: "The token is of a role that may not, or a page of another site asks",
    404: "There is nothing by this name",
    408: "The body did not come in time",
    409: "Not as things are now",
    413: "The body is too long",
    421: "This actor goes by another name",
    422: "What was sent does not fit",
    429: "Too often with this token",
    500: "A fault of the actor",
    503: "Not now: the same may be taken later",
}
_REFUSAL_HEADERS = {
    401: {"WWW-Authenticate": "The scheme that is asked for"},
    429: {"Retry-After": "Seconds"},
    503: {"Retry-After": "Seconds"},
}


def document(name: str, routes: Iterable[Route]) -> dict[str, Any]:
    """What `GET /api/v1/openapi.json` serves, for the actor called `name`."""
    routes = tuple(routes)
    refs, definitions = _schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation = _operation(route, routes, refs)
        paths.setdefault(PREFIX + route.path, {})[route.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Shirako: {name}",
            "version": __version__,
            "description": "Times are RFC 3339 in UTC; durations are seconds or such as 2h.",
        },
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


_Refs = dict[type[BaseModel], dict[str, Any]]


def _schemas(routes: tuple[Route, ...]) -> tuple[_Refs, dict[str, Any]]:
    wanted: list[tuple[type[BaseModel], JsonSchemaMode]] = [(ProblemDetails, "serialization")]
    for route in routes:
        if route.body:
            wanted.append((route.body, "validation"))
        if route.answer:
            wanted.append((route.answer, "serialization"))
    if any(route.content == "text/event-stream" for route in routes):
        wanted += [(LeaseEvent, "serialization"), (StoryEvent, "serialization")]
    found, top = models_json_schema(list(dict.fromkeys(wanted)), ref_template=_REF)
    refs: _Refs = {model: schema for (model, _), schema in found.items()}  # type: ignore[misc]
    return refs, dict(top.get("$defs", {}))


def _operation(route: Route, routes: tuple[Route, ...], refs: _Refs) -> dict[str, Any]:
    links = dict(_links(route, routes))
    told: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_headers(route)],
        "responses": {
            **{
                str(code): _response(route, code, refs) | ({"links": links} if links else {})
                for code in route.statuses
            },
            **{str(code): _refusal(code, refs) for code in _refusals(route)},
        },
        "security": [{"token": []}] if route.roles else [],
    }
    if route.roles:
        told["description"] = f"For tokens of role: {', '.join(sorted(route.roles))}"
    if route.body:
        told["requestBody"] = {
            "required": any(field.is_required() for field in route.body.model_fields.values()),
            "content": {"application/json": {"schema": refs[route.body]}},
        }
    return told


def _operation_id(route: Route) -> str:
    words = re.findall(r"[A-Za-z]+", route.path.replace("{", "by-"))
    return "-".join([route.method.lower(), *words])


# Answers --------------------------------------------------------------------------------------


def _response(route: Route, code: int, refs: _Refs) -> dict[str, Any]:
    schema = refs[route.answer] if route.answer else _event(refs)
    told: dict[str, Any] = {
        "description": route.statuses[code],
        "content": {route.content: {"schema": schema}},
    }
    if code in route.answer_headers:
        told["headers"] = _told_headers(route.answer_headers[code])
    return told


def _event(refs: _Refs) -> dict[str, Any]:
    """One server-sent event: what kind it is of, and what its data says."""

    def kind(name: str, data: dict[str, Any]) -> dict[str, Any]:
        inside = {"type": "string", "contentMediaType": "application/json", "contentSchema": data}
        return {
            "properties": {"event": {"const": name}, "id": {"type": "string"}, "data": inside},
            "required": ["event", "data"],
        }

    kinds = {"lease": refs[LeaseEvent], "story": refs[StoryEvent], "end": {"type": "object"}}
    return {"type": "object", "oneOf": [kind(name, data) for name, data in kinds.items()]}


def _refusals(route: Route) -> Iterator[int]:
    """The statuses of what this route may refuse, and of what may go wrong."""
    yield 400
    if route.roles:
        yield 401
    yield 403
    if _PART.search(route.path):
        yield 404
    if route.body:
        yield 408
    if route.method != "GET":
        yield 409
    if route.body:
        yield 413
    yield 421
    if route.body or route.query or route.headers:
        yield 422
    if route.roles:
        yield 429
    yield from (500, 503)


def _refusal(code: int, refs: _Refs) -> dict[str, Any]:
    told: dict[str, Any] = {
        "description": f"{_REFUSALS[code]} (RFC 9457)",
        "content": {CONTENT_TYPE: {"schema": refs[ProblemDetails]}},
    }
    if code in _REFUSAL_HEADERS:
        told["headers"] = _told_headers(_REFUSAL_HEADERS[code])
    return told


def _told_headers(texts: Mapping[str, str]) -> dict[str, Any]:
    return {
        name: {"description": text, "required": True, "schema": {"type": "string"}}
        for name, text in texts.items()
    }


def _links(route: Route, routes: tuple[Route, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where an answer leads: to the routes below this one, which its own fields name."""
    fields = route.answer.model_fields if route.answer else {}
    for other in routes:
        names = _PART.findall(other.path)
        if other.path.startswith(f"{route.path}/{{") and set(names) <= set(fields):
            parameters = {name: f"$response.body#/{name}" for name in names}
            identity = _operation_id(other)
            yield identity, {"operationId": identity, "parameters": parameters}


# Questions ------------------------------------------------------------------------------------


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PART.findall(route.path)
    ]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = route.query.model_json_schema(mode="validation")
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "schema": _in_a_query(described, route.choices.get(name)),
        }
        for name, described in schema["properties"].items()
    ]


def _in_a_query(described: dict[str, Any], choices: tuple[str, ...] | None) -> dict[str, Any]:
    """The schema of a parameter: no query can say `null`, it leaves the parameter out."""
    if choices:
        return {"type": "array", "items": {"type": "string", "enum": list(choices)}}
    some = [one for one in described.get("anyOf", ()) if one != {"type": "null"}]
    if not some:
        return described
    rest = {name: value for name, value in described.items() if name not in ("anyOf", "default")}
    return {**rest, **(some[0] if len(some) == 1 else {"anyOf": some})}


def _headers(route: Route) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": header.text,
            "schema": {"type": "string"} | ({"pattern": header.form} if header.form else {}),
        }
        for name, header in route.headers.items()
    ]
