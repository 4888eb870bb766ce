"""The audit of dependencies: against a service that answers like api.osv.dev, and against none."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
FAULT = {
    "id": "PYSEC-2014-8",
    "summary": "one",
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "jinja2"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9.9"}]}],
            "versions": [],
        }
    ],
    "modified": "2024-01-01T00:00:00Z",
    "published": "2024-01-01T00:00:00Z",
}


@contextmanager
def service(answer: Callable[[str, str], Any]) -> Iterator[str]:
    """Answers what `answer(name, version)` says; yields its URL."""

    class Desk(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            told = json.dumps(answer(asked["package"]["name"], asked["version"])).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Desk) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    made = ModuleType("audit_tool")
    source = ROOT / "tools" / "audit.py"
    made.__file__ = str(source)
    exec(compile(source.read_text(), source, "exec"), made.__dict__)
    monkeypatch.setitem(made.__dict__, "wanted", lambda: ["jinja2"])
    return made


def faulty(name: str, number: str) -> bool:
    return (name, number) == ("jinja2", "2.4.1")


def test_packages_without_a_known_fault(
    tool: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def answer(name: str, number: str) -> Any:
        return {"vulns": [FAULT]} if faulty(name, number) else {}

    with service(answer) as url:
        assert tool.audit(["osv"], url) == 0
    assert capsys.readouterr().out == "2 packages have no known vulnerability, says osv\n"


def test_a_package_with_a_known_fault(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    def answer(name: str, _number: str) -> Any:
        return {"vulns": [FAULT]} if name == "jinja2" else {}

    with service(answer) as url:
        assert tool.audit(["osv"], url) == tool.VULNERABLE
    told = capsys.readouterr().out
    assert told == f"jinja2 {version('jinja2')}: PYSEC-2014-8; mended in 9.9\n"


def test_a_service_that_knows_nothing_is_not_believed(
    tool: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with service(lambda _name, _number: {}) as url:
        assert tool.audit(["osv"], url) == tool.NOT_MADE
    assert "NO AUDIT WAS MADE" in capsys.readouterr().out


def test_a_service_that_is_not_there(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with service(lambda _name, _number: {}) as url:
        gone = url
    assert tool.audit(["osv"], gone) == tool.NOT_MADE
    told = capsys.readouterr().out
    assert "NO AUDIT WAS MADE" in told
    assert "osv could not be asked" in told


def test_an_answer_about_some_packages_alone_is_not_enough(
    tool: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [{"name": "one", "version": "1", "vulns": []}, {"name": "two", "skip_reason": "?"}]
    assert tool.judge("pypi", told, 2) == tool.NOT_MADE
    assert "no data of two" in capsys.readouterr().out
    assert tool.judge("pypi", told[:1], 1) == 0


def test_what_is_asked_about_is_all_that_is_needed_and_no_more(tool: ModuleType) -> None:
    found = tool.installed(["aiohttp", "psycopg[binary]"])
    assert found["aiohttp"] == version("aiohttp")
    assert {"yarl", "multidict", "idna", "psycopg-binary"} <= set(found)
    assert "pytest" not in found
    assert "psycopg-binary" not in tool.installed(["psycopg"])


def test_make_lint_ends_with_the_audit() -> None:
    """Its status is that of the audit, unless somebody turns that off by name."""
    done = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "lint"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.rstrip().endswith("else .venv/bin/python tools/audit.py; fi")
