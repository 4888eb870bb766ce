"""Fuzzes every edge for as long as it is told to, and says what it tried and what broke.

Examples:
  python -m tests.fuzz                                  every target, 2000 cases each
  python -m tests.fuzz --cases 100000 --target message-to-site
  python -m tests.fuzz --minutes 30 --guided            guided by coverage; needs atheris
  python -m tests.fuzz --rest 200 --seed 4              REST of three real actors, by schemathesis
  python -m tests.fuzz --sockets 20000                  bytes to the sockets of three real actors
  python -m tests.fuzz --target verify --replay defects/verify-0

Exit status: 0 nothing broke, 1 something did, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

from tests.fuzz.conformance import conform  # after the path to what it imports
from tests.fuzz.deployment import NAMES, deployed
from tests.fuzz.hunting import NoAtheris, as_json, hunt, hunt_guided
from tests.fuzz.sockets import garbage, kept, requests, talk
from tests.fuzz.targets import BY_NAME, TARGETS, Target

CASES = 2000
ENDLESS = 10**12


def main() -> None:
    """The command."""
    asked = _parser().parse_args()
    targets = [BY_NAME[name] for name in asked.target] or list(TARGETS)
    if asked.replay:
        for target in targets:
            print(target.run(asked.replay.read_bytes()))
        return
    try:
        found = list(_run(asked, targets))
    except NoAtheris as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    if asked.keep:
        _keep(asked.keep, found)
    cases = sum(one["cases"] for one in found)
    defects = sum(len(one["defects"]) for one in found)
    if asked.json:
        said = {"seed": asked.seed, "cases": cases, "defects": defects, "found": found}
        print(json.dumps(said, indent=2))
    else:
        print(f"{cases} cases, {defects} defects")
    raise SystemExit(1 if defects else 0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = sorted(BY_NAME)
    parser.add_argument(
        "--target",
        action="append",
        default=[],
        choices=names,
        metavar="NAME",
        help=f"only this one; repeat. There are: {', '.join(names)}",
    )
    parser.add_argument("--cases", type=int, default=0, metavar="N", help="of each target")
    parser.add_argument("--minutes", type=float, default=0, help="for all targets together")
    parser.add_argument("--guided", action="store_true", help="by coverage, with atheris")
    parser.add_argument(
        "--rest",
        type=int,
        default=0,
        metavar="N",
        help="instead: N examples of each route of real actors",
    )
    parser.add_argument(
        "--sockets",
        type=int,
        default=0,
        metavar="N",
        help="instead: N inputs to the sockets of real actors",
    )
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same cases")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="write inputs that broke here")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input again")
    parser.add_argument("--json", action="store_true", help="for machines")
    return parser  # fmt: skip


def _run(asked: argparse.Namespace, targets: list[Target]) -> Iterator[dict[str, Any]]:
    if asked.rest or asked.sockets:
        with tempfile.TemporaryDirectory(prefix="shirako-fuzz-") as folder:
            yield from _actors(asked, Path(folder))
        return
    cases = asked.cases or (ENDLESS if asked.minutes else CASES)
    seconds = asked.minutes * 60 / len(targets) if asked.minutes else float(ENDLESS)
    for target in targets:
        if asked.guided:
            found = hunt_guided(target, asked.seed, cases, seconds)
        else:
            ends = time.monotonic() + seconds
            found = hunt(
                target,
                asked.seed,
                lambda so_far, ends=ends: so_far.cases < cases and time.monotonic() < ends,  # type: ignore[misc]
            )
        yield _told(asked, as_json(found))


def _actors(asked: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    with deployed(folder) as deployment:
        for name in NAMES:
            if asked.rest:
                run = conform(deployment, name, examples=asked.rest, seed=asked.seed)
                broken = [{"where": one, "how": run.text} for one in run.failures]
                yield _told(asked, {"target": f"rest of {name}", "cases": run.cases,
                                    "outcomes": {}, "defects": broken})  # fmt: skip
            if asked.sockets:
                before = kept(deployment, name)
                sent = garbage(requests(deployment, name), asked.sockets, asked.seed)
                outcomes, bad = asyncio.run(talk(deployment.processes.url(name), sent))
                broken = [{"where": "answer", "how": repr(one)} for one in bad]
                if kept(deployment, name) != before:
                    broken.append({"where": "books", "how": "what was refused changed them"})
                yield _told(asked, {"target": f"socket of {name}", "cases": len(sent),
                                    "outcomes": dict(outcomes), "defects": broken})  # fmt: skip
        faults = deployment.faults()
        if faults:
            broken = [{"where": "log", "how": "\n".join(faults)}]
            yield _told(asked, {"target": "logs", "cases": 0, "outcomes": {}, "defects": broken})


def _told(asked: argparse.Namespace, found: dict[str, Any]) -> dict[str, Any]:
    """Says it at once, to people."""
    if not asked.json:
        outcomes = ", ".join(f"{name} {n}" for name, n in list(found["outcomes"].items())[:6])
        reached = ", ".join(f"{name} {n}" for name, n in found.get("coverage", {}).items())
        print(f"{found['target']:20} {found['cases']:8} cases; {outcomes} {reached}", flush=True)
        for one in found["defects"]:
            print(f"  DEFECT {one['where']}\n{one['how']}")
            if one.get("input"):
                print(f"  input: {one['input'][:2000]!r}")
    return found


def _keep(folder: Path, found: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for hunted in found:
        for number, one in enumerate(hunted["defects"]):
            if one.get("input"):
                data = one["input"].encode("latin-1")
                (folder / f"{hunted['target']}-{number}").write_bytes(data)


if __name__ == "__main__":
    main()
