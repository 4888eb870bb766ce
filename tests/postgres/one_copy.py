"""A copy of an actor that has nothing but a ledger: does what its standard input says.

`one_copy.py URL ACTOR OPTIONS`; every answer is a line of JSON.
"""

from __future__ import annotations

import itertools
import json
import sys
from typing import Any

from shirako.ledger import CommitFailed, Entry, LedgerError, LedgerLost, Write
from shirako.ledger.postgresql import PostgresLedger


def answer(said: Any) -> None:
    print(json.dumps(said), flush=True)


def commit(ledger: PostgresLedger, key: str) -> str:
    try:
        ledger.commit([Write("lease", key, b"x")], [Entry(lease=key, tick=1, what="made")])
    except LedgerLost:
        return "lost"
    except CommitFailed:
        return "failed"
    return "stored"


def held(ledger: PostgresLedger) -> bool | str:
    try:
        return ledger.held()
    except LedgerLost:
        return "lost"


def load(ledger: PostgresLedger) -> list[str] | str:
    try:
        return sorted(key for _, key, _ in ledger.load())
    except LedgerLost:
        return "lost"


def work(ledger: PostgresLedger, prefix: str) -> None:
    """Commit without end, and tell what is stored."""
    for number in itertools.count(1):
        key = f"{prefix}.{number}"
        if commit(ledger, key) == "stored":
            answer(key)


def main(url: str, actor: str, options: dict[str, Any]) -> None:
    answer("started")
    try:
        ledger = PostgresLedger(url, actor, **options)
    except LedgerError as error:
        answer({"open": False, "why": str(error)})
        return
    answer({"open": True})
    for line in sys.stdin:
        command, *words = line.split()
        if command == "commit":
            answer(commit(ledger, *words))
        elif command == "held":
            answer(held(ledger))
        elif command == "load":
            answer(load(ledger))
        elif command == "work":
            work(ledger, *words)
        elif command == "close":
            ledger.close()
            answer("closed")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]))
