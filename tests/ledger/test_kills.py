"""DURABLE: a ledger whose process was killed again and again is never taken for a damaged one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from shirako.ledger import verify_links
from shirako.ledger.sqlite import SqliteLedger

pytestmark = pytest.mark.real

WRITER = """
import sys
from itertools import count
from pathlib import Path
from shirako.ledger import Entry, Write
from shirako.ledger.sqlite import SqliteLedger

ledger = SqliteLedger(Path(sys.argv[1]))
known = {key: int(body.split()[0]) for _, key, body in ledger.load()}
for number in count(max(known.values(), default=0) + 1):
    # bodies grow, shrink and go; the log is checkpointed every thirty commits or so
    keys = [f"g/L{number * 7 % 50 + each}" for each in range(number % 9 + 1)]
    body = b"%d " % number + b"x" * (number * 997 % 30_000)
    writes = [Write("lease", key, body if number % 5 else None) for key in keys]
    writes.append(Write("count", "/", b"%d " % number))
    ledger.commit(writes, [Entry(lease=key, tick=number, what="made") for key in keys])
    print(number, flush=True)
"""


def test_killed_while_it_writes(tmp_path: Path) -> None:
    """Each writer goes on where the kill of the one before it has left the ledger."""
    path = tmp_path / "site.sqlite"
    for commits in (1, 40, 150, 7, 90):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            said = [int(writer.stdout.readline()) for _ in range(commits)]
            writer.kill()
            said += [int(number) for number in writer.stdout.read().split()]
        ledger = SqliteLedger(path)
        stored = {key: body for _, key, body in ledger.load()}
        assert said[-1] <= int(stored["/"]) <= said[-1] + 1
        assert verify_links(ledger.links()) == int(stored["/"])
        ledger.close()
