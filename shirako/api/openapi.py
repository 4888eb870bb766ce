"""The OpenAPI 3.1 document, made from the routes and the models themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from shirako import __version__
from shirako.api.models import LeaseEvent, ProblemDetails, StoryEvent
from shirako.api.problems import CONTENT_TYPE
from shirako.api.routes import PREFIX, Route

_REF = "#/components/schemas/{model}"


def document(name: str, routes: Iterable[Route]) -> dict[str, Any]:
    """What `GET /api/v1/openapi.json` serves, for the actor called `name`."""
    routes = tuple(routes)
    refs, definitions = _schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        operation = _operation(route, refs)
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


def _operation(route: Route, refs: _Refs) -> dict[str, Any]:
    told: dict[str, Any] = {
        "operationId": _operation_id(route),
        "summary": route.summary,
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_headers(route)],
        "responses": {
            **{str(code): _response(route, text, refs) for code, text in route.statuses.items()},
            "default": {
                "description": "Why not (RFC 9457)",
                "content": {CONTENT_TYPE: {"schema": refs[ProblemDetails]}},
            },
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


def _response(route: Route, text: str, refs: _Refs) -> dict[str, Any]:
    schema = refs[route.answer] if route.answer else {"type": "string"}
    return {"description": text, "content": {route.content: {"schema": schema}}}


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", route.path)
    ]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    if route.query is None:
        return []
    schema = route.query.model_json_schema(mode="validation")
    return [
        {"name": name, "in": "query", "required": False, "schema": described}
        for name, described in schema["properties"].items()
    ]


def _headers(route: Route) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "header",
            "required": False,
            "description": text,
            "schema": {"type": "string"},
        }
        for name, text in route.headers.items()
    ]
