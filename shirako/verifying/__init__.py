"""What signed statements and audit records prove to somebody who was not there, offline.

`statements.verify` takes JSON that was parsed, and the keys of the sites that are trusted; `audit`
reads a ledger. Both say what holds, one fact after the other, and raise at the first thing that
does not. Nothing here asks a network, a clock or an actor, so anybody can repeat it anywhere.

A ticket names its own root of trust, the site's key: without trusted keys it is consistent, and it
is for its reader to compare that key. Leases, receipts and revocations are held to the key of the
ticket beside them, or to one that is trusted.
"""

from __future__ import annotations


class Refuted(Exception):
    """It does not hold: `where` is the part of the file that is wrong, `why` says what is."""

    def __init__(self, where: str, why: str) -> None:
        super().__init__(f"{where}: {why}" if where else why)
        self.where = where
        self.why = why


class Unreadable(Exception):
    """There is nothing in it that could be verified, or not by what was given."""
