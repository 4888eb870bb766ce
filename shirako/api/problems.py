"""Refusals as RFC 9457 problem details: the same class on both sides of the wire."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

CONTENT_TYPE = "application/problem+json"
RETRY_SECONDS = 2
_TYPE = "urn:shirako:problem:"
_OWN = ("type", "title", "status", "detail", "field", "errors")


class Problem(Exception):
    """Why something was not done: `kind` for a program, `detail` for a person.

    `field` names what of the request is wrong; `errors` names all of it, each a mapping of
    `field` and `message`. `members` are what else is to be known, such as a counter-offer.
    """

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str,
        *,
        field: str = "",
        errors: Iterable[Mapping[str, str]] = (),
        retry: bool = False,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.kind = kind
        self.detail = detail
        self.field = field
        self.errors = [dict(error) for error in errors]
        self.retry = retry
        """The same request may be taken later."""
        self.members = dict(members or {})

    @property
    def title(self) -> str:
        """What the status means, in general."""
        try:
            return HTTPStatus(self.status).phrase
        except ValueError:
            return "Refused"

    def document(self) -> dict[str, Any]:
        """The JSON object that tells it."""
        told: dict[str, Any] = {
            **self.members,
            "type": f"{_TYPE}{self.kind}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
        }
        if self.field:
            told["field"] = self.field
        if self.errors:
            told["errors"] = self.errors
        return told

    @classmethod
    def read(cls, status: int, document: object) -> Problem:
        """The problem that a server told; whatever came is taken, and made the best of."""
        told = document if isinstance(document, dict) else {}
        errors = told.get("errors")
        return cls(
            status,
            str(told.get("type", "")).removeprefix(_TYPE) or "unknown",
            str(told.get("detail") or f"the answer is a {status} without an explanation"),
            field=str(told.get("field", "")),
            errors=[e for e in errors if isinstance(e, dict)] if isinstance(errors, list) else (),
            members={name: value for name, value in told.items() if name not in _OWN},
        )
