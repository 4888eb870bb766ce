"""What strangers write, where people read it: logs, terminals, streams of events, answers."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shirako.cli import output
from shirako.logs import OneLine
from shirako.transport.envelope import Rejected, seal
from shirako.trust import PrivateKey
from tests.security.conftest import Deployment, shirako

ESCAPES = (
    "\x1b[2J\x1b]0;owned\x07\x9b31m\r\n2026-01-01 00:00:00,000 WARNING shirako: all is well\x85"
)


def written(message: str, *, broken: bool = False) -> str:
    """What a record comes to in the log."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLine())
    log = logging.Logger("shirako.test")
    log.addHandler(handler)
    try:
        if broken:
            raise RuntimeError(message)
        log.warning("refused: %s", message)
    except RuntimeError:
        log.exception("it broke")
    return stream.getvalue()


@given(st.text() | st.sampled_from([ESCAPES, "\u2028", "\n", "\r"]))
def test_a_record_is_one_line_that_steers_nothing(text: str) -> None:
    told = written(text)
    assert told.endswith("\n")
    assert len(told.splitlines()) == 1
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in told[:-1])


def test_a_traceback_looks_like_no_record() -> None:
    told = written(ESCAPES, broken=True)
    first, *rest = told.rstrip("\n").split("\n")
    assert first.endswith("it broke")
    assert rest
    assert all(line.startswith("  ") for line in rest)
    assert "\x1b" not in told
    assert "\r" not in told


async def test_a_strangers_envelope_can_not_forge_a_line_of_the_log(plain: Deployment) -> None:
    """Whoever has any key at all may say anything in an envelope; some of it is logged."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(OneLine())
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        async with plain.apart("guest") as actors:
            actor = actors["guest"].actor
            now = actor.clock.milliseconds()
            with pytest.raises(Rejected, match="the envelope is for"):
                await actor.receive(seal(PrivateKey.generate(), ESCAPES, 1, now, []))
    finally:
        root.removeHandler(handler)
    (line,) = [one for one in stream.getvalue().split("\n") if "audience" in one]
    assert "all is well" in line
    assert "\x1b" not in stream.getvalue()
    assert "\n2026-01-01" not in stream.getvalue()


@contextmanager
def hostile(status: int, body: object) -> Iterator[str]:
    """What answers everything so; yields its URL."""

    class Desk(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told = json.dumps(body).encode()
            self.send_response(status)
            kind = "json" if status == 200 else "problem+json"
            self.send_header("Content-Type", f"application/{kind}")
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Desk) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


PROBLEM = {
    "type": "urn:shirako:problem:state",
    "title": "x",
    "detail": ESCAPES,
    "errors": [{"field": "x", "message": "y"}, {"field": ESCAPES, "message": ESCAPES}],
}
UNIT = {
    "name": "n1",
    "type": "node",
    "state": ESCAPES,
    "attributes": {ESCAPES: ESCAPES},
    "reason": ESCAPES,
    "quarantined": ESCAPES,
}


@pytest.mark.parametrize("status", [400, 401, 409, 422])
def test_what_an_actor_refuses_with_does_not_steer_the_terminal(status: int) -> None:
    with hostile(status, {**PROBLEM, "status": status}) as url:
        told = shirako("lease", "list", "--url", url, "--token", "x", status=1)
    assert "all is well" in told
    assert not set(told) & set("\x1b\x9b\x07\r\x85")
    assert len(told.splitlines()) <= 3


def test_what_is_no_answer_of_an_actor_does_not_steer_the_terminal() -> None:
    with hostile(200, {"leases": ESCAPES}) as url:
        told = shirako("lease", "list", "--url", url, "--token", "x", status=1)
    assert not set(told) & set("\x1b\x9b\x07\x85")


def test_json_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """And says the same all the same."""
    every = "".join(map(chr, range(256)))
    output.as_json({every: [ESCAPES, every]})
    told = capsys.readouterr().out
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in told if c != "\n")
    assert json.loads(told) == {every: [ESCAPES, every]}


def test_tables_and_facts_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(("name", "state"), [(ESCAPES, ESCAPES)])
    output.facts([("state", ESCAPES)])
    told = capsys.readouterr().out
    assert told.count("\n") == 3
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in told if c != "\n")


async def test_answers_are_never_taken_for_pages(plain: Deployment) -> None:
    """A browser that is led to an address of ours shows no page that somebody else wrote."""
    script = "<script>alert(1)</script>"
    async with plain.apart("guest"), aiohttp.ClientSession() as session:
        url = plain.url("guest")
        headers = {"Authorization": f"Bearer {plain.tokens['guest']}"}
        asked = [
            session.get(f"{url}/{script}"),
            session.get(f"{url}/api/v1/leases/{script}", headers=headers),
            session.get(f"{url}/api/v1/leases?after={script}&state={script}", headers=headers),
            session.get(f"{url}/.well-known/shirako"),
            session.get(f"{url}/api/v1/openapi.json"),
            session.post(f"{url}/messages", data=script),
            session.post(f"{url}/api/v1/leases", data=script, headers=headers),
        ]
        for answer in await asyncio.gather(*asked):
            async with answer:
                kinds = ("application/json", "application/problem+json")
                assert answer.content_type in kinds, answer.url
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Cache-Control"] == "no-store"
                assert b"<script>" not in await answer.read()
