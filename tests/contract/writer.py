"""An actor that has nothing but a ledger: commits without end, and says the number of each commit.

`writer.py WORDS`, where `WORDS` are those of a `Home`. It goes on where its ledger ends.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from itertools import count

from homes import home_of
from shirako.ledger import Entry, Write

Commit = tuple[list[Write], list[Entry]]


def commit_of(number: int) -> Commit:
    """What is committed as number so and so: bodies grow and shrink, records come and go."""
    # a SQLite log is checkpointed every thirty commits or so
    keys = [f"g/L{number * 7 % 50 + each}" for each in range(number % 9 + 1)]
    body = b"%d " % number + b"x" * (number * 997 % 30_000)
    writes = [Write("lease", key, body if number % 5 else None) for key in keys]
    writes.append(Write("count", "/", b"%d" % number))
    return writes, [Entry(lease=key, tick=number, what="made") for key in keys]


def main(words: str) -> None:
    with ExitStack() as stack:
        ledger = home_of(words, stack).open()
        last = {kind: int(body) for kind, _, body in ledger.load() if kind == "count"}
        for number in count(last.get("count", 0) + 1):
            ledger.commit(*commit_of(number))
            print(number, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
