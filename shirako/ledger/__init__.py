"""Durable state of one actor: records, and an append-only log of who did what when.

A commit is atomic and durable when `commit` returns: new bodies of records and the log entries
that tell of them. Nothing else is ever written, so recovery is `load`. The log is a hash chain,
one link a commit: entry texts can not be changed later without breaking every later link.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

SCHEMA_VERSION = 2


class Write(NamedTuple):
    """The new body of one record; None deletes it."""

    kind: str
    key: str
    body: bytes | None


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a lease's story."""

    lease: str
    """`holder/reservation`, or the name of what else it is about."""
    tick: int
    what: str
    """The event, or `log` for a line that a handler wrote."""
    state: str = ""
    """The state reached."""
    by: str = ""
    """Who caused it: a peer, a token's name, a handler."""
    note: str = ""


class Link(NamedTuple):
    """One commit in the log."""

    number: int
    body: bytes
    hash: str


class Total(NamedTuple):
    """What a ledger adds up to after a commit. No two states of one ledger have the same."""

    commits: int
    records: int
    record_sums: int
    """The sum of `shirako.ledger.sums.record_sum` over the records."""
    links: int
    head: str
    """The hash of the last link."""


class Snapshot(Protocol):
    """A ledger as one commit left it."""

    @property
    def total(self) -> Total: ...

    @property
    def tick(self) -> int:
        """The last one that the log names; 0 when it is empty."""
        ...

    @property
    def records(self) -> Iterable[tuple[str, str, bytes]]: ...


class LedgerError(Exception):
    """The ledger can not be used: locked by another process, damaged, or of a newer version."""


class LogChanged(LedgerError):
    """The log is not what was written to it."""


class LedgerLost(LedgerError):
    """Another copy of the actor has taken the ledger over: this one has to end."""


class CommitFailed(Exception):
    """Nothing of this commit is stored; the actor has to reload (rule 15)."""


class Ledger(Protocol):
    """Where one actor keeps its state. Used by one thread at a time."""

    def load(self) -> Iterator[tuple[str, str, bytes]]:
        """Every record as `(kind, key, body)`."""
        ...

    def commit(self, writes: Sequence[Write], entries: Sequence[Entry]) -> None:
        """Store all of it or nothing; raises `CommitFailed`."""
        ...

    def story(self, lease: str) -> list[Entry]:
        """The entries about one lease, oldest first."""
        ...

    def links(self) -> Iterator[Link]:
        """The whole log, oldest first, for `verify_links`."""
        ...

    def last_link(self) -> Link | None:
        """The newest link of the log."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class SharedLedger(Protocol):
    """What a ledger has besides that other copies of the actor may take over."""

    def held(self) -> bool:
        """Whether this copy may act and answer now. Never waits; from any thread.

        Raises `LedgerLost` when it never may again.
        """
        ...


class CountedLedger(Ledger, Protocol):
    """What a ledger has besides that can be mirrored."""

    def total(self) -> Total:
        """What it adds up to after the last commit. Called by the thread that commits."""
        ...


class Lag(NamedTuple):
    """How far a mirror is behind its ledger."""

    commits: int | None
    """That are in the ledger, and not in the mirror; None when that is not known."""
    seconds: float
    """For how long it has been behind; 0 when it is not."""
    trouble: str
    """Why it gets no further; empty when it does."""


@runtime_checkable
class FollowedLedger(Protocol):
    """What a ledger has besides that is mirrored."""

    def lag(self) -> Lag:
        """How far the mirror is behind. Never waits; from any thread."""
        ...


encode_entries = msgspec.json.Encoder().encode
decode_entries = msgspec.json.Decoder(list[Entry]).decode


def last_tick(link: Link | None) -> int:
    """The latest tick of a link's entries; 0 where there is no link. Raises `LogChanged`."""
    if link is None:
        return 0
    try:
        return max(entry.tick for entry in decode_entries(link.body))
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise LogChanged("the log was changed: its last commit has no entries") from error


def link_hash(previous: str, body: bytes) -> str:
    """The hash of a link: SHA-256 over the hash before it and its own body."""
    return hashlib.sha256(previous.encode() + body).hexdigest()


def verify_links(links: Iterable[Link]) -> int:
    """How many links there are; raises `LedgerError` naming the first that does not fit."""
    previous, count = "", 0
    for link in links:
        if link.number != count + 1 or link.hash != link_hash(previous, link.body):
            raise LedgerError(
                f"the log was changed: entry {link.number} does not follow from {count}"
            )
        previous, count = link.hash, link.number
    return count
