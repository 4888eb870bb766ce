"""DURABLE: what an actor has said, acknowledged or told a person is in its ledger; numbers are
used once; and the log of every ledger is an unbroken chain."""

from __future__ import annotations

from typing import Any, ClassVar

from shirako.ledger import LedgerError, verify_links
from shirako.simulation.checks.check import Check
from shirako.simulation.facts import Commit, Posted
from shirako.simulation.records import (
    DelegationRecord,
    GuestRecord,
    Key,
    LeaseRecord,
    LineRecord,
    RefusalRecord,
    read_heading,
)
from shirako.simulation.seats import Seat

DELIVERY_SECONDS = 120.0
"""Within this everything that was to be said is delivered, once all actors are up."""
_CLOSING = ("Cancelling", "Leaving", "CloseWait", "Closed", "Failed")


class Durable(Check):
    invariant: ClassVar[str] = "DURABLE"

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._said: dict[tuple[str, str, Key, int], bytes] = {}
        """(actor, peer, lease, number) -> the message that was committed under it."""
        self._known: dict[tuple[str, str, bytes], float] = {}
        """(actor, peer, message) -> when it was committed first."""
        self._put_off: dict[tuple[str, str, bytes], float] = {}
        """(actor, peer, message) -> when the peer last asked for it later."""
        self._forgotten: set[tuple[str, Key]] = set()

    # Commits ----------------------------------------------------------------------------------

    def committed(self, commit: Commit) -> None:
        for _, key, old, new in commit.changes:
            if isinstance(new, LeaseRecord | DelegationRecord):
                if isinstance(new, LeaseRecord) and new.key != key:
                    self.violated(key, f"{commit.actor} keeps {new.key} under its name")
                for peer, line in new.lines.items():
                    self._take_line(commit.actor, key, peer, line)
                if old is not None:
                    self._check_numbers(commit.actor, key, old.lines, new.lines)
            elif new is None and isinstance(old, LeaseRecord):
                self._forgotten.add((commit.actor, key))
                if not old.final:
                    self.violated(key, f"{commit.actor} forgets it while it is {old.state}")

    def _take_line(self, actor: str, key: Key, peer: str, line: LineRecord) -> None:
        for message in (*line.unacked, line.last):
            raw = bytes(message)
            if not raw or (actor, peer, raw) in self._known:
                continue
            self._known[actor, peer, raw] = self.world.loop.now
            where = (actor, peer, key, read_heading(raw).n)
            if self._said.setdefault(where, raw) != raw:
                self.violated(key, f"{actor} uses the number {where[3]} for two messages")

    def _check_numbers(
        self, actor: str, key: Key, old: dict[str, LineRecord], new: dict[str, LineRecord]
    ) -> None:
        """Nothing is taken or said under a number of the past (rule 7)."""
        for peer, line in old.items():
            now = new.get(peer)
            if now is None or now.seen < line.seen or now.sent < line.sent:
                self.violated(key, f"{actor} takes or says something with a number of the past")

    # Messages ---------------------------------------------------------------------------------

    def posted(self, posted: Posted) -> None:
        """What is said is committed first."""
        if posted.raw:
            return
        for head, raw in posted.said:
            key = (head.holder, head.rid)
            if self._said.get((posted.sender, posted.to, key, head.n)) != raw:
                self.violated(key, f"{posted.sender} says {head.what} before it is committed")

    def acknowledged(self, posted: Posted, refused: dict[int, RefusalRecord]) -> None:
        """What is acknowledged is committed."""
        seat = self.world.seats.get(posted.receiver)
        if posted.raw or seat is None:
            return
        sender = self.world.seats[posted.sender].party.kid
        for index, (head, raw) in enumerate(posted.said):
            if index in refused:
                self._put_off[posted.sender, posted.to, raw] = self.world.loop.now
                continue
            key = (head.holder, head.rid)
            record = seat.kept.get(("lease", key)) or seat.kept.get(("delegation", key))
            if record is None:
                # a site's receipt has its place in a broker's accounts, whatever lease it is of
                if head.what == "Relinquish" and self.world.seats[posted.sender].part == "site":
                    continue
                if seat.part != "guest" and (seat.name, key) not in self._forgotten:
                    self.violated(key, f"{seat.name} acknowledges {head.what} and has nothing")
            elif isinstance(record, LeaseRecord | DelegationRecord):
                line = record.lines.get(sender)
                if line is None and (seat.name, key) in self.world.restorer.lost:
                    continue  # it had nothing to say to then, and was begun anew in the same turn
                if line is None or line.seen < head.n:
                    self.violated(key, f"{seat.name} acknowledges {head.what} without taking it")

    # People -----------------------------------------------------------------------------------

    def told(self, actor: str, key: Key, what: str, answer: Any) -> None:
        """What a person was told is done is done."""
        seat = self.world.seats[actor]
        record = seat.lease(key)
        if (actor, key) in self.world.restorer.lost:
            return
        if not isinstance(record, GuestRecord):
            if (actor, key) not in self._forgotten:
                self.violated(key, f"{actor} has told of a {what}, and has nothing")
        elif what == "close" and record.state not in _CLOSING:
            self.violated(key, f"{actor} has told of a close, and it is {record.state}")
        elif what == "extend" and (
            record.answer is None or record.answer.asked_end < answer.answer.asked_end
        ):
            self.violated(key, f"{actor} has told of an extension that it does not know of")

    def healed(self) -> None:
        """What was to be said is said: nothing is forgotten over crashes and partitions."""
        for seat in self.world.seats.values():
            for record in seat.kept.values():
                if isinstance(record, LeaseRecord | DelegationRecord) and not seat.gone:
                    self._check_delivered(seat, record)

    def _check_delivered(self, seat: Seat, record: LeaseRecord | DelegationRecord) -> None:
        for peer, line in record.lines.items():
            hearer = self.world.seats.get(self.facts.names.get(peer, ""))
            for message in line.unacked if hearer is not None and not hearer.gone else ():
                head = read_heading(message)
                where = (seat.name, peer, bytes(message))
                since = max(self._known[where], self._put_off.get(where, 0.0))
                if self.world.loop.now - since > DELIVERY_SECONDS:
                    key = (head.holder, head.rid)
                    self.violated(key, f"{seat.name} still has to say its {head.what} #{head.n}")

    def ended(self) -> None:
        for seat in self.world.seats.values():
            try:
                verify_links(seat.disk.ledger.links())
            except LedgerError as error:
                self.violated(None, f"{seat.name}: {error}")
