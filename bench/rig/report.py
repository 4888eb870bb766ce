"""How every benchmark is called, and what it tells."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Iterable
from typing import Any

GROUPS = ("references", "figures", "ratios")

_LOAD_BEFORE = os.getloadavg()[0]


def options(doc: str | None, quick: str) -> argparse.ArgumentParser:
    """A parser with what all have; `quick`: what is less with `--quick`."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.add_argument("--json", action="store_true", help="print JSON on standard output")
    return parser


def machine(**more: Any) -> dict[str, Any]:
    """What was measured on. Load averages are over a minute; ours is part of the one after."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_average_before": round(_LOAD_BEFORE, 2),
        "load_average_after": round(os.getloadavg()[0], 2),
        **more,
    }


def show(result: dict[str, Any], *, as_json: bool, groups: Iterable[str] = GROUPS) -> None:
    if as_json:
        print(json.dumps(result, indent=1))
        return
    for group in groups:
        for label, value in result[group].items():
            print(f"{label:44} {value:14.3f}")
    print(", ".join(f"{name} {value}" for name, value in result["machine"].items()))
