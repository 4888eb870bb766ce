"""What was said to each actor in the course of some leases, and what became of it.

A conversation is written down from one actor's side: what it was told to do, what others said to
it, and whether that was refused. Played again, its peers are those of the version that was
recorded, whatever the actor itself has learnt since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from shirako.actors.role import Role
from shirako.core import messages
from shirako.core.claims import Party
from shirako.core.delegation import Delegation
from shirako.core.guest import GuestLease
from shirako.core.machine import HandlerEnded, Key, Work, state_of
from shirako.core.messages import Message
from shirako.core.terms import Term
from tests.core.cast import (
    key_of,
    open_broker,
    open_guest,
    open_site,
    party_of,
    share_of,
    wish,
)
from tests.scenarios.stage import Stage

UNITS = ("n1", "n2", "n3", "n4")
GUESTS = ("guest", "other")
OPEN: dict[str, Callable[[], Role[Any]]] = {
    "site": lambda: open_site(UNITS),
    "broker": lambda: open_broker(guests=GUESTS),
    "guest": lambda: open_guest("guest"),
    "other": lambda: open_guest("other"),
}


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that happened to an actor."""

    at: int
    """The tick."""
    said_by: str = ""
    message: msgspec.Raw = msgspec.Raw()
    """What that peer said; all else is empty then."""
    refused: str = ""
    """The code that the message was refused with; empty: it was accepted."""
    do: str = ""
    """`delegate`, `request`, `extend`, `close`: what a person had it do. `handlers`: those that
    were due ended well. `wake`: a deadline. `taken`: what it had said to `by` was acknowledged."""
    lease: str = ""
    units: int = 0
    start: int = 0
    end: int = 0
    by: str = ""


class Ended(msgspec.Struct, frozen=True):
    """The last line: the state of each lease, as `holder's name/id`."""

    states: dict[str, str]


def states(role: Role[Any]) -> dict[str, str]:
    names = {party_of(name).kid: name for name in GUESTS}
    found = {f"{names[key[0]]}/{key[1]}": state_of(r).value for key, r in role.leases.items()}
    return {name: str(value) for name, value in sorted(found.items())}


# Writing ------------------------------------------------------------------------------------------


class Recording(Stage):
    """A stage that writes down what happens to each actor."""

    def __init__(self) -> None:
        super().__init__(UNITS, GUESTS)
        self.steps: dict[str, list[Step]] = {name: [] for name in self.roles}

    def _note(self, actor: str, **what: Any) -> None:
        self.steps[actor].append(Step(at=self.now, **what))

    def delegate(self, units: int, term: Term, name: str = "d1") -> None:
        self._note("site", do="delegate", units=units, start=term.start, end=term.end, lease=name)
        super().delegate(units, term, name)

    def ask(self, name: str, units: int, term: Term, guest: str) -> None:
        self._note(guest, do="request", lease=name, units=units, start=term.start, end=term.end)
        self.request(name, units, term, guest=guest)

    def extend(self, name: str, end: int, least_end: int | None = None) -> None:
        self._note(self._guest_of(name), do="extend", lease=name, end=end)
        super().extend(name, end, least_end)

    def close(self, name: str) -> None:
        self._note(self._guest_of(name), do="close", lease=name)
        super().close(name)

    def handle(self, actor: str, key: Key, work: Work) -> None:
        self._note(actor, do="handlers")
        super().handle(actor, key, work)

    def turn(self, name: str, act: Callable[[Any], Any]) -> Any:
        if any(r.wake is not None and r.wake <= self.now for r in self.roles[name].leases.values()):
            self._note(name, do="wake")
        return super().turn(name, act)

    def _account(
        self, sender: str, receiver: str, kind: str, message: Message, refusal: Any
    ) -> None:
        if refusal is None:
            self._note(sender, do="taken", by=receiver)
        super()._account(sender, receiver, kind, message, refusal)

    def _receive(self, sender: str, receiver: str, message: Message) -> Any:
        at = len(self.steps[receiver])
        refusal = super()._receive(sender, receiver, message)
        told = Step(
            at=self.now,
            said_by=sender,
            message=msgspec.Raw(messages.encode(message)),
            refused=refusal.code if refusal else "",
        )
        self.steps[receiver].insert(at, told)
        return refusal

    def inject(self, sender: str, receiver: str, message: Message) -> None:
        """Somebody says what no honest peer of it would."""
        self._receive(sender, receiver, message)

    def _guest_of(self, name: str) -> str:
        return self._name[self.key(name)[0]]


def conversations() -> Iterator[tuple[str, bytes]]:
    """By file name: one line a step, and the last one says how it ended."""
    stage = _played()
    for name, steps in stage.steps.items():
        lines = [msgspec.json.encode(step) for step in steps]
        lines.append(msgspec.json.encode(Ended(states(stage.roles[name]))))
        yield f"conversations/{name}.jsonl", b"\n".join(lines) + b"\n"


def _played() -> Recording:
    """The story: a lease that is extended and closed, one that is refused, one that runs out."""
    stage = Recording()
    stage.delegate(4, Term(100, 1000))
    stage.ask("L1", 2, Term(100, 200), "guest")
    stage.settle()
    stage.tick(120)
    stage.settle()
    _inject_refusals(stage)
    stage.extend("L1", 300)
    stage.settle()
    stage.ask("L2", 4, Term(130, 180), "other")
    stage.settle()
    stage.ask("L3", 2, Term(130, 180), "other")
    stage.settle()
    stage.tick(140)
    stage.settle()
    stage.close("L1")
    stage.settle()
    stage.tick(200)
    stage.settle()
    return stage


def _inject_refusals(stage: Recording) -> None:
    guest, other = party_of("guest"), party_of("other")
    ticket = stage.record("guest", "L1").ticket
    mine = messages.Redeem(rid="L1", holder=guest.kid, n=1, ticket=ticket, slice="s", least_units=1)
    theirs = msgspec.structs.replace(mine, holder=other.kid)
    short = tuple(chain[:1] for chain in ticket)
    wanted = messages.TicketRequest(
        rid="L9",
        holder=other.kid,
        n=1,
        guest=other,
        slice="s",
        type="node.small",
        units=1,
        least_units=1,
        term=Term(100, 200),
    )
    close = messages.Close(rid="L9", holder=other.kid, n=1, ticket=())
    cases: Sequence[tuple[str, str, Message]] = (
        ("guest", "site", mine),  # heard before: taken once more, and nothing comes of it
        ("other", "site", mine),
        ("other", "site", theirs),
        ("guest", "site", msgspec.structs.replace(mine, rid="L8", ticket=short)),
        ("guest", "site", msgspec.structs.replace(mine, rid="L8", ticket=(("a.b.c",),))),
        ("guest", "site", msgspec.structs.replace(mine, rid="L8", ticket=())),
        ("guest", "site", msgspec.structs.replace(mine, n=0)),
        ("other", "site", wanted),
        ("other", "site", close),
        ("stranger", "broker", wanted),
        ("guest", "broker", wanted),
        ("other", "broker", msgspec.structs.replace(wanted, units=0)),
        ("other", "broker", msgspec.structs.replace(wanted, slice="../x")),
        ("other", "broker", close),
        ("stranger", "guest", messages.UpdateLease(rid="L1", holder=guest.kid, n=9, answers=1)),
        ("broker", "guest", messages.UpdateLease(rid="L1", holder=guest.kid, n=9, answers=1)),
        ("broker", "guest", wanted),
    )
    for sender, receiver, message in cases:
        stage.inject(sender, receiver, message)


# Playing ------------------------------------------------------------------------------------------


def read(file: Path) -> tuple[list[Step], Ended]:
    *lines, last = file.read_bytes().splitlines()
    steps = [msgspec.json.decode(line, type=Step) for line in lines]
    return steps, msgspec.json.decode(last, type=Ended)


class Player:
    """One actor of today among peers of the version that was recorded."""

    def __init__(self, name: str) -> None:
        self.role = OPEN[name]()
        self._me = party_of(name)
        self._acts: dict[str, Callable[[Step], Any]] = {
            "delegate": self._delegate,
            "request": self._request,
            "extend": self._extend,
            "close": self._close,
            "handlers": self._handlers,
            "wake": self._wake,
            "taken": self._taken,
        }

    def play(self, step: Step) -> str:
        """The code that a message is refused with; empty for all that is no message as well."""
        if not step.said_by:
            self._acts[step.do](step)
            self._end_turn(step.at)
            return ""
        message = messages.decode(step.message)
        refusal = self.role.receive(key_of(step.said_by).public, message, step.at)
        self._end_turn(step.at)
        return refusal.code if refusal else ""

    def _end_turn(self, now: int) -> None:
        self.role.settle(now)
        self.role.flush()
        self.role.take_batch()

    def _delegate(self, step: Step) -> Delegation:
        wanted = share_of(step.units, Term(step.start, step.end), name=step.lease)
        made: Delegation = self.role.delegate(wanted)  # type: ignore[attr-defined]
        return made

    def _request(self, step: Step) -> None:
        wanted: GuestLease = wish(
            step.lease, Term(step.start, step.end), units=step.units, guest=self._me.name
        )
        self.role.request(wanted, step.at, "me")  # type: ignore[attr-defined]

    def _extend(self, step: Step) -> None:
        key = (self._me.kid, step.lease)
        self.role.extend(key, step.end, step.end, step.at, "me")  # type: ignore[attr-defined]

    def _close(self, step: Step) -> None:
        key = (self._me.kid, step.lease)
        self.role.close(key, "no longer needed", step.at, "me")  # type: ignore[attr-defined]

    def _handlers(self, step: Step) -> None:
        due = next(
            (key, work)
            for key, record in self.role.leases.items()
            for work in record.work
            if work.after <= step.at
        )
        key, work = due
        ended = HandlerEnded(
            now=step.at,
            work=work,
            ok=True,
            outputs={"host": work.unit} if work.handler == "setup" else {},
            checks=("account_gone",) if work.handler == "teardown" else (),
        )
        self.role.handler_ended(key, ended)

    def _wake(self, step: Step) -> None:
        for key, record in list(self.role.leases.items()):
            if record.wake is not None and record.wake <= step.at:
                self.role.woken(key, step.at)

    def _taken(self, step: Step) -> None:
        peer: Party = party_of(step.by)
        for kind, key, kept in list(self.role.kept()):
            line = kept.lines.get(peer.kid)
            for message in line.unacked if line else ():
                self.role.delivered(kind, key, peer.kid, message.n)
