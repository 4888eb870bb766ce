"""What is wrong after all: three ledgers, read when their actors have stopped, and the nodes.

Nothing here asks an actor. Each list holds one line for each thing that is wrong, for a person.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bench.faulting.people import Life
from bench.faulting.stand import ACTORS, Stand
from shirako import trust
from shirako.actors.authority import Unit
from shirako.core.authority import SiteLease, SiteState
from shirako.core.broker import BrokerLease, BrokerState
from shirako.core.claims import Receipt
from shirako.core.guest import GuestLease
from shirako.core.machine import Key
from shirako.ledger import Entry, LedgerError, decode_entries, verify_links
from shirako.ledger.sqlite import SqliteLedger

SITE_KEY = "site.pub.jwk"

T = TypeVar("T", bound=msgspec.Struct)


@dataclass(slots=True)
class Findings:
    """What is wrong, by what it means."""

    lost: list[str] = field(default_factory=list)
    done_twice: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.done_twice or self.differences)


def copy_books(stand: Stand, folder: Path) -> None:
    """Copy the ledgers of actors that have stopped, and what they are verified with."""
    shutil.copytree(stand.disk.path, folder, ignore=shutil.ignore_patterns("tokens.*"))
    shutil.copy(stand.folder / "keys" / SITE_KEY, folder)


class Books:
    """What the ledgers of the three actors say, and their logs in order."""

    def __init__(self, folder: Path) -> None:
        """What `copy_books` has copied. Raises `LedgerError`."""
        self._ledgers = {name: SqliteLedger(folder / f"{name}.sqlite") for name in ACTORS}
        self.site = dict(self._records("site", "lease", SiteLease))
        self.broker = dict(self._records("broker", "lease", BrokerLease))
        self.guest = dict(self._records("guest", "lease", GuestLease))
        self.units = dict(self._records("site", "unit", Unit))
        self.site_key = trust.read_public(folder / SITE_KEY)
        self.verifier = trust.Verifier()

    def close(self) -> None:
        for ledger in self._ledgers.values():
            ledger.close()

    def broken_chains(self) -> Iterator[str]:
        for name, ledger in self._ledgers.items():
            try:
                verify_links(ledger.links())
            except LedgerError as error:
                yield f"the audit record of {name}: {error}"

    def entries(self, actor: str) -> Iterator[Entry]:
        """The whole log, oldest first."""
        for link in self._ledgers[actor].links():
            yield from decode_entries(link.body)

    def stories(self, lease: str) -> str:
        """All that the three wrote about one lease."""
        lines = []
        for actor in ACTORS:
            lines += [
                f"  {actor:6} {e.tick} {e.what} {e.state} by {e.by}: {e.note}"
                for e in self.entries(actor)
                if e.lease.endswith(f"/{lease}")
            ]
        return "\n".join(lines)

    def receipt(self, token: str) -> Receipt:
        """Raises `Untrusted`."""
        return self.verifier.receipt(token, self.site_key)

    def _records(self, actor: str, kind: str, model: type[T]) -> Iterator[tuple[Key, T]]:
        for found, key, body in self._ledgers[actor].load():
            if found == kind:
                holder, _, name = key.partition("/")
                yield (holder, name), msgspec.json.decode(body, type=model)


def check(books: Books, lives: Sequence[Life]) -> Findings:
    """All that the ledgers show."""
    return Findings(
        lost=list(_lost(books, lives)),
        done_twice=[*_spent_twice(books), *_held_twice(books), *_sold_twice(books)],
        differences=[
            *books.broken_chains(),
            *_not_over(books),
            *_disagreeing(books),
            *_receipts(books),
            *_units(books),
        ],
    )


def _lost(books: Books, lives: Sequence[Life]) -> Iterator[str]:
    known = {rid: record for (_, rid), record in books.guest.items()}
    for life in lives:
        for miss in life.lost:
            yield f"{life.key} ({life.id}): {miss}"
        if not life.id:
            continue
        record = known.get(life.id)
        if record is None:
            yield f"{life.key} ({life.id}): accepted, and not in the guest's ledger"
        elif life.final and record.state.value != life.state:
            yield f"{life.key} ({life.id}): told {life.state}, and stored {record.state.value}"
        elif life.end is not None and record.term.end < int(life.end.timestamp()):
            yield f"{life.key} ({life.id}): promised until {life.end}, stored {record.term.end}"


# Done twice -----------------------------------------------------------------------------------


def _spent_twice(books: Books) -> Iterator[str]:
    """Rule 1: a claim is redeemed at most once, ever."""
    first: dict[str, Key] = {}
    for key, lease in books.site.items():
        for spent in lease.spent:
            if spent.jti in first:
                yield f"claim {spent.jti} is spent for {first[spent.jti]} and for {key}"
            first[spent.jti] = key


def _held_twice(books: Books) -> Iterator[str]:
    """EXCLUSIVE: an epoch is one assignment, and units change hands after teardown only."""
    first: dict[tuple[str, int], Key] = {}
    for key, lease in books.site.items():
        for a in lease.assignments:
            if (a.unit, a.epoch) in first:
                yield f"{a.unit} epoch {a.epoch} is of {first[a.unit, a.epoch]} and of {key}"
            first[a.unit, a.epoch] = key
    spans = _spans(books)
    for unit, held in spans.items():
        ordered = sorted(held.items(), key=lambda item: item[1])
        for (earlier, (_, end)), (later, (begin, _)) in itertools.pairwise(ordered):
            if begin <= end:
                yield f"{unit} was set up for {later} before {earlier} had left it"


def _spans(books: Books) -> dict[str, dict[str, tuple[int, int]]]:
    """By unit and lease: the first and the last line that a handler of the site left in the log."""
    spans: defaultdict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
    for number, entry in enumerate(books.entries("site")):
        handler, _, unit = entry.by.partition(" ")
        if handler in ("setup", "teardown"):
            begin, _ = spans[unit].get(entry.lease, (number, number))
            spans[unit][entry.lease] = (begin, number)
    return spans


def _sold_twice(books: Books) -> Iterator[str]:
    """CONSERVE, out of the tickets that the guest holds: never more out than was delegated."""
    changes: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
    capacity: dict[str, int] = {}
    for key, lease in books.guest.items():
        freed = _freed_at(books, key, lease)
        for chain in (*lease.ticket, *lease.extension):
            claims = books.verifier.chain(chain)
            root, leaf = claims[0], claims[-1]
            capacity[root.jti] = int(root.units * root.overbooking)
            left = leaf.units
            changes[root.jti].append((leaf.term.start, leaf.units))
            for tick, units in freed:
                given = min(units, left)
                if given and tick < leaf.term.end:
                    changes[root.jti].append((max(tick, leaf.term.start), -given))
                    left -= given
            changes[root.jti].append((leaf.term.end, -left))
    for delegation, steps in changes.items():
        out = 0
        for tick, units in sorted(steps):  # what ends at a tick counts before what begins
            out += units
            if out > capacity[delegation]:
                yield f"{out} of {capacity[delegation]} units of {delegation} are out at {tick}"


def _freed_at(books: Books, key: Key, lease: GuestLease) -> list[tuple[int, int]]:
    """(tick, units) of the receipts that there are: the guest's first one, the site's last one."""
    tokens = [lease.receipt]
    if key in books.site:
        tokens.append(books.site[key].receipt)
    freed = []
    for token in filter(None, dict.fromkeys(tokens)):
        with contextlib.suppress(trust.Untrusted):  # it frees nothing, and is told of as it is
            receipt = books.receipt(token)
            freed.append((receipt.tick, receipt.units_freed))
    return sorted(freed)


# Differences ----------------------------------------------------------------------------------


def _not_over(books: Books) -> Iterator[str]:
    """ENDS: everything was closed and is over, at all three."""
    all_books: dict[str, dict[Key, Any]] = {
        "site": {**books.site},
        "broker": {**books.broker},
        "guest": {**books.guest},
    }
    for name, records in all_books.items():
        for key, record in records.items():
            if not record.state.final:
                yield f"{name}: {key[1]} is still {record.state.value} ({record.reason})"


def _disagreeing(books: Books) -> Iterator[str]:
    for name, others in (("site", set(books.site)), ("broker", set(books.broker))):
        for _, rid in others - set(books.guest):
            yield f"{name}: {rid} is no lease of the guest's"
    for key, site in books.site.items():
        if site.state is SiteState.CLOSE_FAILED:
            yield f"site: {key[1]} is CloseFailed although nothing is broken ({site.reason})"
    for key, broker in books.broker.items():
        if broker.state is not BrokerState.CLOSED:
            continue
        closed = _last_change(books, "broker", key)
        # no receipt can name an extension that the site never saw: sold until its term is over
        seen = {claim.jti for claim in books.site[key].claims} if key in books.site else None
        ahead = [
            grant
            for grant in broker.grants
            if grant.term.end > closed and (seen is None or grant.jti in seen)
        ]
        if ahead:
            kept = ", ".join(f"{g.units} until {g.term.end}" for g in ahead)
            yield f"broker: {key[1]} is closed, and capacity stays sold: {kept}"
    for key, guest in books.guest.items():
        if guest.ticket and key not in books.site and not _ran_out(books, key, guest):
            yield f"guest: {key[1]} had a ticket, which the site has not heard of"


def _receipts(books: Books) -> Iterator[str]:
    """Rule 3: both sides hold the site's signed word on how it ended."""
    for key, lease in books.site.items():
        try:
            receipt = books.receipt(lease.receipt)
        except trust.Untrusted as error:
            yield f"site: {key[1]} has no good receipt: {error}"
            continue
        if set(receipt.claims) != {claim.jti for claim in lease.claims}:
            yield f"site: the receipt of {key[1]} is not about the claims that it rests on"
    for key, guest in books.guest.items():
        if not guest.ticket:
            continue
        if not guest.receipt:
            if not _ran_out(books, key, guest):
                yield f"guest: {key[1]} was closed before its term was over, without a receipt"
            continue
        try:
            receipt = books.receipt(guest.receipt)
        except trust.Untrusted as error:
            yield f"guest: {key[1]} has no good receipt: {error}"
            continue
        site = books.site.get(key)
        # a teardown that failed and was tried again has a second one
        if site is not None and guest.receipt != site.receipt and not receipt.failed_units:
            yield f"guest: {key[1]} has another receipt than the site"


def _ran_out(books: Books, key: Key, lease: GuestLease) -> bool:
    """Whether it ended only when its term was over: then the site need not have spoken."""
    return _last_change(books, "guest", key) >= lease.term.end


def _last_change(books: Books, actor: str, key: Key) -> int:
    """The tick of the last line of an actor's log about a lease; 0 when there is none."""
    about = "/".join(key)
    return max((e.tick for e in books.entries(actor) if e.lease == about), default=0)


def _units(books: Books) -> Iterator[str]:
    for unit in books.units.values():
        if unit.owner is not None:
            yield f"{unit.name} is still owned by {unit.owner[1]}"
        if unit.quarantined:
            yield f"{unit.name} is still in quarantine ({unit.quarantined})"
