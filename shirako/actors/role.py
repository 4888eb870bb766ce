"""An actor's books: its records in memory, and the batch of changes that is not committed yet.

Everything here is synchronous and without I/O. The actor's loop feeds events in, takes the batch,
commits it, and performs what the changed records ask for. When a commit fails the whole object is
thrown away and a new one is loaded (rule 15).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec
from msgspec.structs import replace

from shirako.actors import lineages, restored
from shirako.actors.lineages import Lineages
from shirako.actors.restored import Restored
from shirako.actors.room import Full, Room
from shirako.clock import utc
from shirako.core import messages
from shirako.core.claims import Claim, Party
from shirako.core.conflict import Conflict
from shirako.core.delegation import Delegation
from shirako.core.exchange import Arrival, Line
from shirako.core.lineage import Disowned, Retired
from shirako.core.machine import (
    Event,
    HandlerEnded,
    IllegalTransition,
    Key,
    Me,
    Record,
    Table,
    Woken,
    Work,
    state_of,
    step,
)
from shirako.core.messages import NAME_CHARACTERS_MAX, Message
from shirako.core.properties import UNPRINTABLE
from shirako.ledger import Entry, Write
from shirako.transport.envelope import REASON_CHARACTERS_MAX, Refusal
from shirako.transport.limits import LEASES_A_GUEST
from shirako.trust import PublicKey, Untrusted, Verifier, lineage_of

HELD = "restored from a backup, this actor waits for its operator's confirmation: try again later"
TOMBSTONE_TICKS = 3600
"""How long a closed record still answers after its term and the skew are over; and a delegation."""


class Kept(Protocol):
    """What the actor's loop needs to know of anything it keeps: what to send, run and wake."""

    @property
    def lines(self) -> dict[str, Line]: ...
    @property
    def work(self) -> tuple[Work, ...]: ...
    @property
    def wake(self) -> int | None: ...


@dataclass(slots=True)
class Batch:
    """What one turn of the loop changed."""

    changed: dict[tuple[str, Key], Any] = field(default_factory=dict)
    """(kind, key) -> the new struct, or None when it is gone."""
    entries: list[Entry] = field(default_factory=list)

    def writes(self) -> list[Write]:
        return [
            Write(kind, "/".join(key), None if value is None else _encode(value))
            for (kind, key), value in self.changed.items()
        ]


_encode = msgspec.json.Encoder().encode

R = TypeVar("R", bound=Record)


class Refused(Exception):
    """A message or command is not taken. `retry`: the same may be taken later.

    `field` names what of a command is wrong, for people. `conflict` proves that a broker sold more
    than it holds.
    """

    def __init__(
        self,
        code: str,
        reason: str,
        *,
        retry: bool = False,
        field: str = "",
        conflict: Conflict | None = None,
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.retry = retry
        self.field = field
        self.conflict = conflict


class Role(Generic[R]):
    """What the three roles share. Each fills in the tables and the meaning of messages."""

    title: ClassVar[str]
    kinds: ClassVar[dict[str, type[msgspec.Struct]]]
    """Kinds of things kept in the ledger, `lease` among them, and their types."""

    def __init__(
        self,
        me: Me,
        table: Table[R],
        pinned: dict[str, Party],
        *,
        room: Room | None = None,
    ) -> None:
        self.me = me
        self.table = table
        self.verifier = Verifier()
        self.pinned = pinned
        """Parties of the descriptor by thumbprint; only they are trusted beforehand."""
        self.parties: dict[str, Party] = dict(pinned)
        """Pinned parties, and those that tickets endorsed: whom we can send to."""
        self.leases: dict[Key, R] = {}
        self.room = room or Room(LEASES_A_GUEST, peers=1)
        self.lineages = Lineages()
        self.batch = Batch()
        self.skews_ms: dict[str, int] = {}
        """Milliseconds that each peer's clock is ahead of ours, as its envelopes show."""
        self.acknowledged: dict[tuple[str, Key], None] = {}
        """Things of which only deliveries are not stored yet, in order; see `flush`."""
        self.restored: Restored | None = None
        """Where the ledger is from a backup: what is known of that."""
        self._numbers_after = 0
        """Messages have larger numbers than this; see `shirako.actors.restored`."""

    # Loading ----------------------------------------------------------------------------------

    def load(self, kind: str, key: str, body: bytes) -> None:
        """Take one stored thing into memory; `loaded` is called after the last one."""
        if kind == restored.KIND:
            self.restored = restored.decode(body)
            return
        if kind == lineages.KIND:
            self.lineages.load(_split(key)[0], msgspec.json.decode(body, type=lineages.Seen))
            return
        value = msgspec.json.decode(body, type=self.kinds[kind])
        self.keep(kind, _split(key), value)

    def loaded(self) -> None:
        """All is in memory: the batch of changes that loading made up is no change."""
        self.room.count_anew((record, self.sponsor(record)) for record in self.leases.values())
        self.batch = Batch()
        self._numbers_after = self.restored.numbers_after if self.restored else 0

    def kept(self) -> Iterator[tuple[str, Key, Kept]]:
        """Everything that may have something to send, run or wake, for recovery."""
        for key, record in self.leases.items():
            yield "lease", key, record

    def keep(self, kind: str, key: Key, value: Any) -> None:
        """Note a new or changed thing, in memory and in the batch."""
        value = self.numbered(kind, key, value)
        if kind == "lease":
            known = self.leases.get(key)
            self.leases[key] = value
            if known is None:
                self.room.take(value, self.sponsor(value))
            else:
                self.room.move(state_of(known), state_of(value), value.guest.kid)
            self.learn(value)
        self.batch.changed[kind, key] = value
        self.acknowledged.pop((kind, key), None)

    def numbered(self, kind: str, key: Key, value: Any) -> Any:
        """The thing with numbers on its messages that were never used, also after a restore."""
        if not self._numbers_after or not getattr(value, "lines", None):
            return value
        known = self.find(kind, key)
        before = {} if known is None else known.lines
        return replace(value, lines=restored.renumbered(before, value.lines, self._numbers_after))

    def learn(self, record: R) -> None:
        """Remember the parties that a record names, as addresses to send to."""
        self.parties.setdefault(record.guest.kid, record.guest)

    def forget(self, key: Key) -> None:
        """Drop a tombstone whose time is over."""
        record = self.leases.pop(key)
        self.room.leave(record, self.sponsor(record))
        self.batch.changed["lease", key] = None

    def take_batch(self) -> Batch:
        batch, self.batch = self.batch, Batch()
        return batch

    # After a restore --------------------------------------------------------------------------

    @property
    def held(self) -> bool:
        """Whether nothing may end or be sold until an operator confirms what was restored."""
        return self.restored is not None and not self.restored.confirmed

    def keep_restored(self, known: Restored) -> None:
        self.restored, self._numbers_after = known, known.numbers_after
        self.batch.changed[restored.KIND, restored.KEY] = known

    def begin_restored(self, now_ms: int, now: int) -> None:
        """The first turn on a ledger from a backup; again, it changes nothing."""
        if self.restored is None or self.restored.begun:
            return
        self.keep_restored(restored.begun(self.restored, now_ms, self.sold_until()))
        note = f"from a backup of {utc(self.restored.taken):%Y-%m-%d %H:%M:%S}Z"
        self.batch.entries.append(
            Entry(lease="ledger", tick=now, what="Restored", by="restore", note=note)
        )
        self.ask_around(now)

    def sold_until(self) -> Mapping[str, int]:
        """Until when more may be sold of each delegation than the backup knows, by its id."""
        return {}

    def ask_around(self, now: int) -> None:
        """Ask peers for what the backup does not know; what they answer is taken while held."""

    def said_again(self, sender: PublicKey, record: R, message: Message, now: int) -> bool:
        """Whether a new number asks for what there is already, or tells to: one of the two ends
        was restored. It is dealt with then, outside the table."""
        return False

    def check_not_held(self) -> None:
        """Raise `Refused` while an operator has not confirmed what was restored."""
        if self.held:
            raise Refused("held", HELD, retry=True)

    def _check_held(self, message: Message, *, known: bool) -> None:
        if self.held and restored.has_to_wait(message, known=known):
            self.check_not_held()

    # Stepping ---------------------------------------------------------------------------------

    def apply(self, record: R, event: Event, by: str) -> R:
        """Step a record, keep the result, carry out its effects; returns the record after all.

        Raises `IllegalTransition`, and then nothing has changed.
        """
        before = state_of(record)
        result = step(self.table, record, event, self.me)
        after = state_of(result.record)
        if after.final and after.value != "CloseFailed":
            last = max(self.last_end(result.record), event.now)
            until = last + self.me.skew + TOMBSTONE_TICKS
            result = result._replace(record=replace(result.record, wake=until))
        self.keep("lease", record.key, result.record)
        new_reason = result.record.reason != record.reason
        # what comes in at an end has no line of its own: whoever sends it could fill the log
        if after is not before or new_reason or not (event.quiet or after.final):
            self.tell(result.record, event.now, type(event).__name__, by, result.record.reason)
        for effect in result.effects:
            try:
                self.carry_out(record.key, effect, event.now)
            except IllegalTransition as error:
                # half of this step is done: the loop has to drop it, not merely refuse it
                raise RuntimeError(f"a decision does not fit: {error}") from error
        return self.leases[record.key]

    def tell(self, record: R, tick: int, what: str, by: str, note: str = "") -> None:
        """Add a line to the lease's story."""
        entry = Entry(
            lease="/".join(record.key),
            tick=tick,
            what=what,
            state=str(state_of(record).value),
            by=by,
            note=note,
        )
        self.batch.entries.append(entry)

    def carry_out(self, key: Key, effect: Any, now: int) -> None:
        """Do to the other books what a step asks for."""
        raise NotImplementedError(f"{self.title}: {effect}")  # pragma: no cover

    def settle(self, now: int) -> None:
        """End of a turn: decide what was gathered for a policy."""

    def last_end(self, record: R) -> int:
        """The tick after which nothing that was promised for this closed lease can be spent."""
        raise NotImplementedError  # pragma: no cover

    # Events from the loop -------------------------------------------------------------------

    def receive(self, sender: PublicKey, message: Message, now: int) -> Refusal | None:
        """Take one message of a sender whose signature held; a refusal is for this one alone."""
        try:
            self._receive(sender, message, now)
        except Refused as refused:
            return Refusal(0, refused.code, refused.reason, refused.retry, refused.conflict)
        except Untrusted as error:
            return Refusal(0, "untrusted", str(error)[:REASON_CHARACTERS_MAX])
        return None

    def _receive(self, sender: PublicKey, message: Message, now: int) -> None:
        if message.n < 1:
            raise Refused("invalid", "n: messages are numbered from 1")
        if not 1 <= len(message.rid) <= NAME_CHARACTERS_MAX >= len(message.holder):
            raise Refused("invalid", f"rid, holder: 1 to {NAME_CHARACTERS_MAX} characters")
        if UNPRINTABLE.search(message.rid) or UNPRINTABLE.search(message.holder):
            raise Refused("invalid", "rid, holder: no control characters")  # no database takes NUL
        key = (message.holder, message.rid)
        record = self.leases.get(key)
        if record is None:
            self._check_held(message, known=False)
            record = self.newcomer(sender, message, now)
            if record is None:
                return
        self.admit(sender, record, message)
        line = record.lines.get(sender.kid, Line())
        arrival = line.arrival(message.n)
        if arrival is Arrival.OLD:
            return
        if arrival is Arrival.DUPLICATE:
            self._keep_line(record, sender.kid, line.say_again(message.n))
            return
        self._check_held(message, known=key in self.leases)
        heard = replace(record, lines={**record.lines, sender.kid: line.took(message.n)})
        if self.said_again(sender, heard, message, now):
            return
        event = self.event_of(sender, heard, message, now)
        try:
            self.apply(heard, event, self.name_of(sender.kid))
        except IllegalTransition as error:
            if isinstance(message, messages.UpdateTicket | messages.UpdateLease | messages.Failed):
                self._keep_line(record, sender.kid, line.took(message.n))
            else:
                raise Refused("busy", f"the lease is {error.state.value}", retry=True) from error

    def _keep_line(self, record: R, peer: str, line: Line) -> None:
        if record.lines.get(peer) != line:
            changed = replace(record, lines={**record.lines, peer: line})
            self.keep("lease", record.key, changed)

    def newcomer(self, sender: PublicKey, message: Message, now: int) -> R | None:
        """A fresh record for a message that may begin one. None: taken, and no lease of ours.

        Raises `Refused`.
        """
        raise NotImplementedError  # pragma: no cover

    def admit(self, sender: PublicKey, record: R, message: Message) -> None:
        """Raise `Refused` unless `sender` may say `message` about `record`."""
        raise NotImplementedError  # pragma: no cover

    def event_of(self, sender: PublicKey, record: R, message: Message, now: int) -> Event:
        """What a message means; raises `Refused` or `Untrusted`."""
        raise NotImplementedError  # pragma: no cover

    def delivered(self, kind: str, key: Key, peer: str, n: int) -> Kept | None:
        """A peer has our messages up to `n` durably. Not urgent: kept with the next change."""
        record = self.leases.get(key)
        if record is None or peer not in record.lines:
            return None
        line = record.lines[peer].delivered(n)
        self.leases[key] = replace(record, lines={**record.lines, peer: line})
        self.acknowledged["lease", key] = None
        return self.leases[key]

    def flush(self) -> None:
        """Put what was only acknowledged into the batch.

        A delivery that is not stored costs a resend after a crash, no more; so it waits for the
        lease's next change, or for this.
        """
        for kind, key in self.acknowledged:
            self.batch.changed.setdefault((kind, key), self.find(kind, key))
        self.acknowledged.clear()

    def find(self, kind: str, key: Key) -> Any:
        """What is kept under this kind and key, or None."""
        return self.leases.get(key) if kind == "lease" else None

    def undeliverable(
        self, kind: str, key: Key, peer: str, message: Message, why: Refusal, now: int
    ) -> None:
        """A peer refused one of our messages for good: the lease hears it as a `Failed`."""
        self.delivered(kind, key, peer, message.n)

    def handler_ended(self, key: Key, event: HandlerEnded) -> None:
        """A handler answered; one that nobody waits for any more changes nothing (fencing)."""
        record = self.leases.get(key)
        if record is None or event.work not in record.work:
            return
        self.apply(record, event, f"{event.work.handler} {event.work.unit}")

    def woken(self, key: Key, now: int) -> None:
        """A record's wake tick has come; tombstones are dropped when theirs has."""
        record = self.leases.get(key)
        if record is None or record.wake is None or record.wake > now:
            return
        if state_of(record).final:
            self.forget(key)  # a tombstone whose time is over; CloseFailed is never woken
            return
        try:
            self.apply(replace(record, wake=None), Woken(now=now), "clock")
        except IllegalTransition:
            self.keep("lease", key, replace(record, wake=None))

    def meet(self, identity: str, lineage: tuple[str, ...], now: int) -> None:
        """Remember with which key an actor speaks, if we have to do with it: it is for good."""
        if not self.deals_with(identity):
            return
        for one, seen in self.lineages.meet(identity, lineage).items():
            self.batch.changed[lineages.KIND, (one, "")] = seen
            if seen is not None:
                text = f"speaks with key {len(seen.tokens)}; those before are retired"
                entry = Entry(
                    lease=f"peer/{one}",
                    tick=now,
                    what="KeyReplaced",
                    by=self.name_of(one),
                    note=text,
                )
                self.batch.entries.append(entry)

    def deals_with(self, identity: str) -> bool:
        """Whether it matters to us with which key this actor speaks."""
        return identity in self.parties

    def check_signer(self, issuer: str, token: str) -> None:
        """Raise `Refused` unless a verified token is signed by its issuer's key of now.

        For what its issuer does not send itself, but will: then the envelope's key vouches for it.
        """
        try:
            self.lineages.check_speaker(issuer, lineage_of(token))
        except Disowned as error:
            raise Refused(error.kind, str(error), retry=isinstance(error, Retired)) from error

    def check_signers(self, claims: tuple[Claim, ...], now: int, seen: Container[str] = ()) -> None:
        """Raise `Refused` when a claim comes too late for the key that signed it.

        `seen`: digests of claims that came before the key was replaced, for all we know.
        """
        for claim in claims:
            try:
                self.lineages.check_statement(claim.issuer, claim.lineage, now)
            except Disowned as error:
                if claim.digest not in seen:
                    raise Refused(error.kind, f"the claim {claim.jti}: {error}") from error
            else:
                self.meet(claim.issuer, claim.lineage, now)

    def sponsor(self, record: R) -> str:
        """Who of the descriptor answers for a record, by thumbprint: takes part of its room."""
        return record.guest.kid

    def check_room(self, guest: str = "", sponsor: str = "") -> None:
        """Raise `Refused` when there is no room in these books: for a live lease of `guest`, and
        for a record that `sponsor` answers for."""
        try:
            self.room.check()
            if guest:
                self.room.check_live(guest, self.name_of(guest))
            if sponsor:
                self.room.check_share(sponsor, self.name_of(sponsor))
        except Full as full:
            raise Refused("overloaded", str(full), retry=True) from full

    def name_of(self, kid: str) -> str:
        """A peer's name for people."""
        party = self.parties.get(kid)
        return party.name if party and party.name else kid[:12]


def forgotten(delegation: Delegation, now: int) -> Entry:
    """The line in the story that tells of it."""
    return Entry(
        lease=f"delegation/{delegation.id}",
        tick=now,
        what="Forgotten",
        by="clock",
        note=f"over since {utc(delegation.term.end):%Y-%m-%d %H:%M:%S}Z, and no lease rests on it",
    )


def _split(key: str) -> Key:
    holder, _, rid = key.partition("/")
    return (holder, rid)
