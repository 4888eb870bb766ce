"""A process that holds a testbed, for tests that kill it or that need it to be another user's.

Arguments: folder, number of nodes, mode. Prints the site as one line of JSON, then obeys lines of
standard input: `METHOD [ARGUMENT]` of the testbed, each answered by `done`.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import msgspec

from shirako.testbed import Testbed

_PR_CAP_AMBIENT, _CLEAR_ALL = 47, 4


def main() -> None:
    # A test's unprivileged user needs help to read the interpreter; its daemons need none.
    ctypes.CDLL(None).prctl(_PR_CAP_AMBIENT, _CLEAR_ALL, 0, 0, 0)
    folder, nodes, mode = sys.argv[1:]
    told: list[str] = []
    with Testbed(Path(folder), nodes=int(nodes), mode=mode) as testbed:  # type: ignore[arg-type]
        site = testbed.start(told.append)
        line = {"site": site, "told": told}
        print(msgspec.json.encode(line, enc_hook=str).decode(), flush=True)
        for command in sys.stdin:
            method, *arguments = command.split()
            getattr(testbed, method)(*arguments)
            print("done", flush=True)


main()
