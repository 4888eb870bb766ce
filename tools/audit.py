"""Asks whether anything that Shirako or its development needs has a known vulnerability.

    .venv/bin/python tools/audit.py [--service NAME] [--osv-url URL]

Exits 0 when none has, 1 when one has, 3 when nobody could be asked: that is not the same as none.
pip-audit alone does not keep these apart. It skips a package that its service does not know and
exits 0, so that behind a mirror without PyPI's JSON API everything passes. Hence a release that is
known to be vulnerable is asked about first, and a service that does not say so is not believed.

What is asked about is what `pyproject.toml` asks for, with all that this needs in turn, in the
versions that are installed. What else lies in the environment (setuptools, which `python -m venv`
brings) is not used by anything here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
SERVICES = ("pypi", "osv")
CANARY = "jinja2==2.4.1"
"""Has had known vulnerabilities for ten years."""
SERVICE_SECONDS = 15
AUDIT_SECONDS = 600
VULNERABLE, NOT_MADE = 1, 3


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")


class NoAnswer(Exception):
    """The service could not be asked; the message says why."""


def wanted() -> list[str]:
    """The requirements of `pyproject.toml`, those of development too."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        told = tomllib.load(file)
    return [*told["project"]["dependencies"], *told["dependency-groups"]["dev"]]


def installed(requirements: Iterable[str]) -> dict[str, str]:
    """Name and version of what fulfils these, and of all that this needs in turn."""
    found: dict[str, str] = {}
    waiting = [Requirement(text) for text in requirements]
    seen: set[str] = set()
    while waiting:
        one = waiting.pop()
        if str(one) in seen:
            continue
        seen.add(str(one))
        try:
            there = distribution(one.name)
        except PackageNotFoundError:
            raise NoAnswer(f"{one.name} is not installed: make setup") from None
        found[canonicalize_name(one.name)] = there.version
        extras = one.extras or {""}
        for text in there.requires or ():
            below = Requirement(text)
            if below.marker is None or any(below.marker.evaluate({"extra": e}) for e in extras):
                waiting.append(below)
    return found


def ask(service: str, packages: Iterable[str], osv_url: str | None) -> list[dict[str, Any]]:
    """What the service says of each `name==version`. Raises `NoAnswer`."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as list_:
        list_.write("".join(f"{package}\n" for package in packages))
        list_.flush()
        command = [sys.executable, "-m", "pip_audit", "--requirement", list_.name, "--no-deps"]
        command += ["--disable-pip", "--progress-spinner", "off", "--format", "json"]
        command += ["--vulnerability-service", service, "--timeout", str(SERVICE_SECONDS)]
        if service == "osv" and osv_url:
            command += ["--osv-url", osv_url]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=AUDIT_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise NoAnswer(f"{service} did not answer within {AUDIT_SECONDS} s") from None
    try:
        told: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise NoAnswer(f"{service} could not be asked: {said[-1][:300]}") from None
    return told


def believed(service: str, osv_url: str | None) -> None:
    """Raises `NoAnswer` unless the service knows what everybody knows."""
    (told,) = ask(service, [CANARY], osv_url)
    if "skip_reason" in told:
        raise NoAnswer(f"{service} is not reached, or has no data of {CANARY} (a mirror?)")
    if not told["vulns"]:
        raise NoAnswer(f"{service} says that {CANARY} has no vulnerability, and it has several")


def audit(services: Iterable[str], osv_url: str | None) -> int:
    """Tells the outcome on standard output, and returns the status to exit with."""
    reasons = []
    for service in services:
        try:
            packages = installed(wanted())
            believed(service, osv_url)
            told = ask(service, [f"{n}=={v}" for n, v in sorted(packages.items())], osv_url)
        except NoAnswer as reason:
            reasons.append(str(reason))
            continue
        return judge(service, told, len(packages))
    say("NO AUDIT WAS MADE: whether a dependency has a known vulnerability is not known.")
    for one in reasons:
        say(f"  {one}")
    say("  Try again where pypi.org or api.osv.dev can be reached. To go on without an audit:")
    say("  make lint AUDIT=off")
    return NOT_MADE


def judge(service: str, told: list[dict[str, Any]], count: int) -> int:
    """What the answers come to; each package has to be in one."""
    known = [one for one in told if "vulns" in one]
    for one in known:
        for fault in one["vulns"]:
            mended = ", ".join(fault["fix_versions"]) or "nowhere yet"
            say(f"{one['name']} {one['version']}: {fault['id']}; mended in {mended}")
    if any(one["vulns"] for one in known):
        return VULNERABLE
    if len(known) != count:
        skipped = ", ".join(one["name"] for one in told if "vulns" not in one)
        say(f"NO WHOLE AUDIT WAS MADE: {service} has no data of {skipped or 'some packages'}")
        return NOT_MADE
    say(f"{count} packages have no known vulnerability, says {service}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Look for known vulnerabilities of dependencies.")
    parser.add_argument("--osv-url", help="a copy of api.osv.dev/v1/query to ask")
    parser.add_argument("--service", choices=SERVICES, help="the only one to ask")
    chosen = parser.parse_args()
    return audit([chosen.service] if chosen.service else SERVICES, chosen.osv_url)


if __name__ == "__main__":
    sys.exit(main())
