"""Runs a target over many changed inputs, and keeps what broke it."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from tests.fuzz.targets import Target

POOL_MAX = 400
DEFECTS_MAX = 20
_REACHED = re.compile(r"cov: ([0-9]+) ft: ([0-9]+) corp: ([0-9]+)")


@dataclass
class Defect:
    """An input that broke a target, and how."""

    target: str
    input: bytes
    how: str


@dataclass
class Hunt:
    """What became of the inputs of one target."""

    target: str
    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    defects: dict[str, Defect] = field(default_factory=dict)
    """By where it broke: the first of each."""
    coverage: dict[str, int] = field(default_factory=dict)
    """What libFuzzer says that it reached."""


def attempt(target: Target, data: bytes, hunt: Hunt) -> str | None:
    """One case; its outcome, or None when it is a defect."""
    hunt.cases += 1
    try:
        outcome = target.run(data)
    except Exception as error:  # whatever it is, it is what was looked for
        hunt.defects.setdefault(_place(error), Defect(target.name, data, traceback.format_exc()))
        return None
    hunt.outcomes[outcome] += 1
    return outcome


def _place(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/shirako" in frame.filename] or list(frames)
    return f"{type(error).__name__} at {ours[-1].filename}:{ours[-1].lineno}"


def hunt(target: Target, seed: int, more: Callable[[Hunt], bool]) -> Hunt:
    """Changed inputs one after the other, as long as `more` says so.

    What comes to an outcome that was not seen before is changed further.
    """
    chance = Random(f"{target.name} {seed}")
    seeds = list(target.seeds())
    pool = list(seeds)
    found = Hunt(target.name)
    for data in seeds:
        attempt(target, data, found)
    while more(found) and len(found.defects) < DEFECTS_MAX:
        data = change(target, pool, chance)
        known = len(found.outcomes)
        attempt(target, data, found)
        if len(found.outcomes) > known or chance.random() < 0.01:
            pool.append(data)
            if len(pool) > POOL_MAX:
                del pool[len(seeds)]
    return found


def change(target: Target, pool: Sequence[bytes], chance: Random) -> bytes:
    """An input that was not there before."""
    return target.change(chance.choice(pool), pool, chance)


def as_json(found: Hunt) -> dict[str, Any]:
    """A hunt for another process, or for a machine to read."""
    return {
        "target": found.target,
        "cases": found.cases,
        "outcomes": dict(found.outcomes.most_common()),
        "coverage": found.coverage,
        "defects": [
            {"where": where, "input": one.input.decode("latin-1"), "how": one.how}
            for where, one in found.defects.items()
        ],
    }


class NoAtheris(Exception):
    """It is not installed."""


def hunt_guided(target: Target, seed: int, cases: int, seconds: float) -> Hunt:
    """The same under libFuzzer, in another process. Raises `NoAtheris`."""
    if importlib.util.find_spec("atheris") is None:
        raise NoAtheris(
            "coverage-guided fuzzing needs atheris: .venv/bin/pip install atheris "
            "(it is no dependency; wheels are there for Linux)"
        )
    arguments = (target.name, str(cases), str(seconds), str(seed))
    done = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.guided", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
        errors="replace",
    )
    found = Hunt(target.name)
    reached = _REACHED.findall(done.stderr)
    if reached:
        found.coverage = dict(
            zip(("edges", "features", "kept"), map(int, reached[-1]), strict=True)
        )
    try:
        told = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        how = f"the process ended with {done.returncode}:\n{done.stderr[-4000:]}"
        found.defects["the process"] = Defect(target.name, b"", how)
        return found
    found.cases, found.outcomes = told["cases"], Counter(told["outcomes"])
    for one in told["defects"]:
        data = one["input"].encode("latin-1")
        found.defects[one["where"]] = Defect(target.name, data, one["how"])
    return found
