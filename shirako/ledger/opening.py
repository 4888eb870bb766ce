"""Opens a ledger by where it is: a file, or a database server."""

from __future__ import annotations

import threading
from pathlib import Path

from shirako.ledger import CountedLedger, LedgerError
from shirako.ledger.sqlite import SqliteLedger

SERVERS = ("postgresql://", "postgres://")
"""What the URL of a ledger on a server begins with."""


def open_ledger(
    where: str | Path,
    actor: str,
    *,
    standby: bool = False,
    stopping: threading.Event | None = None,
) -> CountedLedger:
    """The ledger of `actor`: a SQLite file at a path, or in the PostgreSQL database of a URL.

    Blocks; with `standby` for as long as another process holds the ledger, until `stopping` is
    set. Raises `LedgerError` when it can not be used.
    """
    if isinstance(where, str) and where.startswith(SERVERS):
        # only who uses a server needs its client library, which takes a while to import
        from shirako.ledger.postgresql import PostgresLedger

        return PostgresLedger(where, actor, standby=standby, stopping=stopping)
    if standby:
        raise LedgerError(
            f"{where} is a file of this machine: only a ledger on a server can have a standby"
        )
    return SqliteLedger(Path(where))
