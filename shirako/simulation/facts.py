"""What happened in a run: the trace, what is committed, and who is told of it.

Facts are seen from outside of the actors: bytes that were committed, envelopes that left and were
acknowledged, what is on the nodes. Checks judge by these alone.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import msgspec

from shirako.ledger import Entry, Write
from shirako.simulation import records
from shirako.simulation.loop import VirtualLoop
from shirako.simulation.records import Heading, Key, Record
from shirako.simulation.signatures import payload_of
from shirako.transport.envelope import Rejected


class Line(NamedTuple):
    """One line of the trace."""

    at: float
    who: str
    what: str
    lease: str = ""

    def __str__(self) -> str:
        return f"{self.at:12.6f} {self.who:<9} {self.what}"


NONSENSE = Heading("nonsense", "", "", 0)
_UNREADABLE = (msgspec.MsgspecError, RecursionError)


class Said(NamedTuple):
    """One message of an envelope."""

    head: Heading
    raw: bytes


@dataclass(slots=True)
class Posted:
    """An envelope on its way."""

    sender: str
    receiver: str
    envelope: bytes
    to: str
    """Thumbprint that it is addressed to; empty when it says nothing that can be read."""
    said: list[Said]
    raw: bool = False
    """Made by hand, not by an actor."""
    at: float = 0.0
    """When it left."""


class Change(NamedTuple):
    """One thing that a commit wrote: what it was, and what it is now."""

    kind: str
    key: Key
    old: Any
    new: Any


@dataclass(slots=True)
class Commit:
    """What one commit stored."""

    actor: str
    part: str
    tick: int
    """What the actor's clock said."""
    changes: list[Change]
    entries: Sequence[Entry]


class Restoration(NamedTuple):
    """That an actor's ledger is an older one from now on."""

    actor: str
    part: str
    before: dict[tuple[str, Key], Record]
    """What its ledger held."""
    after: dict[tuple[str, Key], Record]
    """What it holds now."""


class Violation(NamedTuple):
    """An invariant that did not hold."""

    invariant: str
    lease: str
    """`guest/reservation`; empty when it concerns no lease alone."""
    message: str
    at: float


class Observer:
    """Somebody who watches; subclasses fill in what they look at."""

    parts: ClassVar[tuple[str, ...]] = ("site", "broker", "guest")
    """Whose commits it looks at."""
    HOOKS: ClassVar[tuple[str, ...]] = (
        "posted",
        "acknowledged",
        "rejected",
        "restored",
        "node_changed",
        "told",
        "healed",
        "ended",
        "forgotten",
    )

    def committed(self, commit: Commit) -> None:
        """An actor's ledger has stored something."""

    def posted(self, posted: Posted) -> None:
        """An envelope leaves its sender."""

    def acknowledged(self, posted: Posted, refused: dict[int, records.RefusalRecord]) -> None:
        """The receiver has said what it took of an envelope, and what it refused."""

    def rejected(self, posted: Posted, kind: str) -> None:
        """The receiver has refused an envelope as a whole."""

    def restored(self, restoration: Restoration) -> None:
        """An actor that is down has got the ledger of a backup."""

    def node_changed(self, node: Any, what: str, lease: str, epoch: int) -> None:
        """Something on a node was made or removed in the name of a lease."""

    def told(self, actor: str, key: Key, what: str, answer: Any) -> None:
        """A person was told that something is done."""

    def healed(self) -> None:
        """Faults have been over for long enough: what is wrong now stays wrong."""

    def ended(self) -> None:
        """The last term is over, and long enough."""

    def forgotten(self) -> None:
        """All tombstones are over as well."""


@dataclass
class Facts:
    """The one place where all that happens passes by."""

    loop: VirtualLoop
    names: dict[str, str]
    """Thumbprint -> name of who has that key."""
    trace: list[Line] = field(default_factory=list)
    violations: list[Violation] = field(default_factory=list)
    kept: dict[str, dict[tuple[str, Key], Record]] = field(default_factory=dict)
    """By actor: what its ledger holds now."""
    seen: Counter[str] = field(default_factory=Counter)
    """How often something came to pass that no single fault brings about."""
    _hooks: dict[str, list[Callable[..., None]]] = field(default_factory=dict)

    def watch(self, observers: Sequence[Observer]) -> None:
        """Tell these, and only of what they have a method for."""
        for hook in Observer.HOOKS:
            self._hooks[hook] = [
                getattr(observer, hook)
                for observer in observers
                if getattr(type(observer), hook) is not getattr(Observer, hook)
            ]
        for part in Observer.parts:
            self._hooks[f"committed {part}"] = [
                observer.committed
                for observer in observers
                if part in observer.parts and type(observer).committed is not Observer.committed
            ]

    # The trace --------------------------------------------------------------------------------

    def note(self, who: str, what: str, lease: str = "") -> None:
        self.trace.append(Line(self.loop.now, who, what, lease))

    def violated(self, invariant: str, lease: str, message: str) -> None:
        """Record a violation; the run goes on to its end, so that the first is told with care."""
        self.violations.append(Violation(invariant, lease, message, self.loop.now))
        self.note("CHECK", f"{invariant} is violated: {message}", lease)

    def digest(self) -> str:
        """SHA-256 of the whole trace."""
        return hashlib.sha256("\n".join(map(str, self.trace)).encode()).hexdigest()

    def name_of(self, key: Key) -> str:
        """A lease's name for people: `guest/reservation`."""
        holder, rid = key
        return f"{self.names.get(holder, holder[:8])}/{rid}"

    # What happened ----------------------------------------------------------------------------

    def committed(
        self, actor: str, part: str, tick: int, writes: Sequence[Write], entries: Sequence[Entry]
    ) -> None:
        kept = self.kept.setdefault(actor, {})
        changes = []
        for kind, name, body in writes:
            holder, _, rid = name.partition("/")
            where = (kind, (holder, rid))
            old = kept.get(where)
            new = None if body is None else records.read(part, kind, body)
            if new is None:
                kept.pop(where, None)
            else:
                kept[where] = new
            changes.append(Change(kind, where[1], old, new))
        for entry in entries:
            holder, _, rid = entry.lease.partition("/")
            note = f": {entry.note}" if entry.note else ""
            name = self.name_of((holder, rid))
            what = f"{name} {entry.what} by {entry.by} -> {entry.state}{note}"
            self.trace.append(Line(self.loop.now, actor, what, name))
        commit = Commit(actor, part, tick, changes, entries)
        for hook in self._hooks[f"committed {part}"]:
            hook(commit)

    def restored(
        self, actor: str, part: str, held: Iterable[tuple[str, str, bytes]]
    ) -> Restoration:
        """Take note of what the ledger of an actor holds that comes from a backup."""
        before = self.kept.get(actor, {})
        after: dict[tuple[str, Key], Record] = {}
        for kind, name, body in held:
            holder, _, rid = name.partition("/")
            record = records.read(part, kind, body)
            if record is not None:
                after[kind, (holder, rid)] = record
        self.kept[actor] = after
        restoration = Restoration(actor, part, before, after)
        for hook in self._hooks["restored"]:
            hook(restoration)
        return restoration

    def posted(self, sender: str, receiver: str, envelope: bytes, *, raw: bool = False) -> Posted:
        posted = Posted(sender, receiver, envelope, *_read(envelope), raw, self.loop.now)
        self.note(sender, f"says to {receiver}: {_summary(posted)}")
        for hook in self._hooks["posted"]:
            hook(posted)
        return posted

    def arrived(self, posted: Posted) -> None:
        self.note(posted.receiver, f"hears from {posted.sender}: {_summary(posted)}")

    def acknowledged(self, posted: Posted, answer: bytes) -> None:
        payload = payload_of(answer.decode("ascii"))
        if payload is None:
            raise AssertionError(f"{posted.receiver} answered with what it has not signed")
        body = records.read_acknowledgement(payload)
        refused = {refusal.index: refusal for refusal in body.refused}
        for refusal in body.refused:
            said = _summary(posted, refusal.index)
            self.note(posted.receiver, f"refuses {said} of {posted.sender}: {refusal.code}")
        for hook in self._hooks["acknowledged"]:
            hook(posted, refused)

    def rejected(self, posted: Posted, error: Rejected) -> None:
        self.note(posted.receiver, f"refuses the envelope of {posted.sender}: {error.kind}")
        for hook in self._hooks["rejected"]:
            hook(posted, error.kind)

    def broke(self, actor: str, what: str) -> None:
        """Code of ours ended with an exception that nobody meant."""
        self.violated("SOUND", "", f"{actor}: {what}")

    def node_changed(self, node: Any, what: str, lease: str, epoch: int) -> None:
        self.note(node.name, f"{what} for {lease or 'nobody'} (epoch {epoch})", lease)
        for hook in self._hooks["node_changed"]:
            hook(node, what, lease, epoch)

    def told(self, actor: str, key: Key, what: str, answer: Any) -> None:
        for hook in self._hooks["told"]:
            hook(actor, key, what, answer)

    def healed(self) -> None:
        for hook in self._hooks["healed"]:
            hook()

    def ended(self) -> None:
        for hook in self._hooks["ended"]:
            hook()

    def forgotten(self) -> None:
        for hook in self._hooks["forgotten"]:
            hook()


def _read(envelope: bytes) -> tuple[str, list[Said]]:
    """Whom an envelope is for and what it says; nothing of one that nobody here has signed."""
    try:
        payload = payload_of(envelope.decode("ascii"))
    except UnicodeDecodeError:
        payload = None
    if payload is None:
        return "", []
    try:
        body = records.read_envelope(payload)
    except _UNREADABLE:
        return "", []
    return body.aud, [_read_message(bytes(raw)) for raw in body.messages]


def _read_message(raw: bytes) -> Said:
    try:
        return Said(records.read_heading(raw), raw)
    except _UNREADABLE:
        return Said(NONSENSE, raw)


def _summary(posted: Posted, index: int | None = None) -> str:
    said = posted.said if index is None else posted.said[index : index + 1]
    if not said:
        return "something that says nothing"
    return ", ".join(f"{head.what} {head.rid} #{head.n}" for head, _ in said)
