"""Holds a running actor to the OpenAPI document that it serves, with the schemathesis command.

Requests are made from the document: some as it says, some not. Each is one case. What is looked
for: an answer that the document does not tell of (status, content type, headers, body, events),
what it forbids and is taken all the same, what it allows and is refused, a 5xx, a route that is
open without a token.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.fuzz.deployment import ADMINS, Deployment

CONDITIONS = (
    "POST /api/v1/leases",
    "POST /api/v1/leases/{id}/extend",
    *(
        f"POST /api/v1/{role}/delegations{what}"
        for role in ("site", "broker")
        for what in ("", "/{name}/renew", "/{name}/revoke")
    ),
)
"""What these take depends on the hour, on names in the descriptor, and on one field's fitting
another: a schema can not say that, so what is in order by it may be a 422 here, and here alone."""


@dataclass(frozen=True)
class Conformance:
    """What one run came to."""

    cases: int
    failures: tuple[str, ...]
    """Kinds of failures with their operations; empty: the actor is as its document says."""
    text: str
    """All that the command printed, with a way to repeat each failure."""


def conform(deployment: Deployment, name: str, *, examples: int, seed: int) -> Conformance:
    """Run the command against one actor; `examples` a route, in each of its phases."""
    folder = deployment.folder / f"conformance-{name}-{seed}"
    folder.mkdir()
    (folder / "schemathesis.toml").write_text(_configuration(deployment, name))
    report = folder / "report.json"
    token = deployment.tokens[ADMINS[name]]
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            *("--config-file", "schemathesis.toml", "run"),
            f"{deployment.processes.url(name)}/api/v1/openapi.json",
            *("--header", f"Authorization: Bearer {token}"),
            *("--max-examples", str(examples), "--seed", str(seed)),
            *("--request-timeout", "40", "--continue-on-failure", "--no-color"),
            *("--generation-database", "none"),
            *("--report", "json", "--report-json-path", str(report)),
        ],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    text = done.stdout + done.stderr
    if not report.exists():
        return Conformance(0, (f"the command broke ({done.returncode})",), text)
    return _read(json.loads(report.read_bytes()), done.returncode, text)


def _read(report: dict[str, Any], status: int, text: str) -> Conformance:
    failures = [f"{one['title']}: {', '.join(one['operations'])}" for one in report["failures"]]
    failures += [f"error: {one}" for one in report["errors"]]
    if status and not failures:
        failures = [f"the command ended with {status}"]
    return Conformance(int(report["test_cases"]["generated"]), tuple(failures), text)


def _configuration(deployment: Deployment, name: str) -> str:
    """Words that lead somewhere, for most requests; and who else may do what."""
    now = datetime.now(UTC).replace(microsecond=0)
    words = {
        "path.id": list(deployment.leases),
        "path.holder": [deployment.kid],
        "path.name": [f"n{number}" for number in range(6)],
        "body.type": ["node"],
        "body.to": ["broker", "below"],
        "body.broker": ["broker"],
        "body.end": [(now + timedelta(hours=hours)).isoformat() for hours in (3, 4, 5)],
    }
    lines = []
    for number, values in enumerate(words.values()):
        lines += [f"[dictionaries.words{number}]", f"values = {json.dumps(values)}"]
    lines.append("[parameters]")
    lines += [
        f'"{place}" = {{ dictionary = "words{number}", probability = 0.7 }}'
        for number, place in enumerate(words)
    ]
    lines += [
        "[[operations]]",
        f"include-name = {json.dumps(CONDITIONS)}",
        'checks.positive_data_acceptance.expected-statuses = ["2xx", "404", "409", "422"]',
    ]
    if name == "guest":
        admin = deployment.tokens["site-admin"]
        lines += [
            "[[operations]]",
            'include-name = "POST /api/v1/clock/confirm"',
            f'headers = {{ Authorization = "Bearer {admin}" }}',
        ]
    return "\n".join([*lines, ""])
