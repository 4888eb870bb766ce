"""Speaks to actors' REST APIs with the standard library alone, so that tests do not test our own
client with itself."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from shirako.api import Tokens
from shirako.api.tokens import TokenRole

WAIT_SECONDS = 60.0


class Rest:
    """One actor's API, with one token."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url
        self._token = token

    def call(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and parsed JSON; problems are answers, not exceptions."""
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}/api/v1{path}", data=data, method=method)
        request.add_header("Authorization", f"Bearer {self._token}")
        request.add_header("Content-Type", "application/json")
        try:
            with urlopen(request, timeout=35) as response:
                return response.status, json.loads(response.read() or b"null")
        except HTTPError as error:
            with error:
                return error.code, json.loads(error.read() or b"null")

    def get(self, path: str) -> Any:
        status, answer = self.call("GET", path)
        assert status == 200, (status, answer)
        return answer

    def post(self, path: str, body: object) -> Any:
        status, answer = self.call("POST", path, body)
        assert status < 300, (status, answer)
        return answer

    def try_post(self, path: str, body: object) -> None:
        """Ask, and do without an answer if the actor dies meanwhile."""
        with contextlib.suppress(URLError, OSError, HTTPException):
            self.call("POST", path, body)

    def until(self, path: str, holds: Callable[[Any], bool], seconds: float = WAIT_SECONDS) -> Any:
        """The answer of `path` once `holds` says yes; the actor may be down meanwhile."""
        deadline = time.monotonic() + seconds
        answer: Any = None
        while time.monotonic() < deadline:
            try:
                status, answer = self.call("GET", path)
                if status == 200 and holds(answer):
                    return answer
            except (URLError, OSError, HTTPException):
                pass
            time.sleep(0.05)
        raise AssertionError(f"{path} did not come to what was waited for; last: {answer}")

    def until_state(self, lease: str, *states: str) -> Any:
        def reached(answer: Any) -> bool:
            assert not answer["final"] or answer["state"] in states, answer
            return answer["state"] in states

        return self.until(f"/leases/{lease}", reached)


def make_tokens(state: Path) -> dict[str, str]:
    """A token of each role that tests need, by role."""
    tokens = Tokens(state)
    roles: tuple[TokenRole, ...] = ("guest", "site-admin", "broker-admin")
    return {role: tokens.create(f"test-{role}", role) for role in roles}
