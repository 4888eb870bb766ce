"""One target under libFuzzer, which keeps what reaches code that nothing reached before.

`python -m tests.fuzz.guided TARGET CASES SECONDS SEED`, started by `tests.fuzz.hunting` in a
process of its own, since libFuzzer ends the one that it runs in. It needs atheris, which is no
dependency of the project: `.venv/bin/pip install atheris`. What is ours is imported under its
eyes, and so only inside of `main`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from random import Random
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))

INPUT_BYTES_MAX = 128 * 1024
SLOW_SECONDS = 20
"""One input that takes longer is a defect."""


def main() -> None:
    """Never returns: prints a line of JSON and ends the process."""
    atheris: Any = import_module("atheris")  # no stubs, and not always there
    name, cases, seconds, seed = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
    with atheris.instrument_imports(include=["shirako", "shirako_drivers"]):
        from tests.fuzz.hunting import Hunt, as_json, attempt
        from tests.fuzz.targets import BY_NAME
    target = BY_NAME[name]
    seeds = list(target.seeds())
    found = Hunt(name)
    ends = time.monotonic() + seconds

    def one(data: bytes) -> None:
        attempt(target, data, found)
        if found.cases >= cases or time.monotonic() > ends:
            sys.stdout.write(json.dumps(as_json(found)) + "\n")
            sys.stdout.flush()
            os._exit(0)

    def changed(data: bytes, size: int, chosen: int) -> bytes:
        return target.change(data, seeds, Random(chosen))[:size]

    with tempfile.TemporaryDirectory(prefix="shirako-corpus-") as corpus:
        for number, start in enumerate(seeds):
            (Path(corpus) / f"{number}").write_bytes(start)
        options = [
            f"-max_len={INPUT_BYTES_MAX}",
            f"-seed={int(seed) % 2**31 or 1}",
            f"-timeout={SLOW_SECONDS}",
            f"-artifact_prefix={corpus}/",
            "-rss_limit_mb=4096",
            "-len_control=0",
        ]
        atheris.Setup([sys.argv[0], *options, corpus], one, custom_mutator=changed)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
