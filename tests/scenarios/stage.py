"""A stage for stories: three real roles, a clock that is set by hand, and a trace of all they do.

Nothing moves unless it is told to. Every turn is committed to a ledger, so that an actor may crash
between any two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from shirako.actors.authority import Authority
from shirako.actors.broker import Broker
from shirako.actors.role import Refused, Role
from shirako.actors.service_manager import ServiceManager
from shirako.core import messages
from shirako.core.machine import HandlerEnded, Key, Work, state_of
from shirako.core.messages import Message, Offer
from shirako.core.terms import Term
from shirako.ledger.memory import MemoryLedger
from shirako.transport.limits import LEASES_A_GUEST
from tests.core.cast import (
    key_of,
    open_broker,
    open_guest,
    open_site,
    share_of,
    wish,
)

TURNS_MAX = 200
"""Rounds of `settle`; beyond it somebody keeps somebody busy."""


class Stage:
    """The actors `guest`, `broker` and `site` (and further guests), and what they said so far."""

    def __init__(
        self,
        units: Sequence[str] = ("n1",),
        guests: Sequence[str] = ("guest",),
        *,
        leases_a_guest: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        """`leases_a_guest`: how many may live at `site` and at `broker`, if not as usual."""
        most = {"site": LEASES_A_GUEST, "broker": LEASES_A_GUEST, **leases_a_guest}
        self.now = 90
        self.trace: list[str] = []
        self.failing: dict[tuple[str, str], str] = {}
        """(handler, unit) -> what it says when it fails."""
        self.down: set[str] = set()
        self.copies: list[tuple[str, str, Message]] = []
        self._open: dict[str, Callable[[], Role[Any]]] = {
            **{name: lambda name=name: open_guest(name) for name in guests},  # type: ignore[misc]
            "broker": lambda: open_broker(guests=guests, leases_a_guest=most["broker"]),
            "site": lambda: open_site(units, leases_a_guest=most["site"]),
        }
        self.roles = {name: opened() for name, opened in self._open.items()}
        self.ledgers = {name: MemoryLedger() for name in self.roles}
        self._name = {key_of(name).public.kid: name for name in self.roles}

    # Who is who -------------------------------------------------------------------------------

    @property
    def site(self) -> Authority:
        role = self.roles["site"]
        assert isinstance(role, Authority)
        return role

    @property
    def broker(self) -> Broker:
        role = self.roles["broker"]
        assert isinstance(role, Broker)
        return role

    def guest(self, name: str = "guest") -> ServiceManager:
        role = self.roles[name]
        assert isinstance(role, ServiceManager)
        return role

    def record(self, actor: str, name: str) -> Any:
        """One actor's record of a lease, or None."""
        return next((r for key, r in self.roles[actor].leases.items() if key[1] == name), None)

    def state(self, actor: str, name: str) -> str:
        record = self.record(actor, name)
        return "-" if record is None else str(state_of(record).value)

    def key(self, name: str) -> Key:
        for role in self.roles.values():
            for key in role.leases:
                if key[1] == name:
                    return key
        raise KeyError(name)

    # What can be told to happen ------------------------------------------------------------------

    def delegate(self, units: int, term: Term, name: str = "d1") -> None:
        self.turn("site", lambda site: site.delegate(share_of(units, term, name=name)))
        self.settle()

    def request(
        self,
        name: str,
        units: int,
        term: Term,
        *,
        least: int | None = None,
        guest: str = "guest",
        configuration: Mapping[str, str] | None = None,
    ) -> None:
        wanted = wish(
            name, term, units=units, least=least, guest=guest, configuration=configuration
        )
        self.turn(guest, lambda role: role.request(wanted, self.now, "me"))

    def extend(self, name: str, end: int, least_end: int | None = None) -> None:
        key = self.key(name)
        least = end if least_end is None else least_end
        guest = self._name[key[0]]
        self.turn(guest, lambda role: role.extend(key, end, least, self.now, "me"))

    def close(self, name: str) -> None:
        key = self.key(name)
        self.turn(
            self._name[key[0]], lambda role: role.close(key, "no longer needed", self.now, "me")
        )

    def lost(self, unit: str, why: str) -> None:
        self.turn("site", lambda role: role.unit_lost(unit, why, self.now, "probe"))

    def release(self, unit: str) -> None:
        """An admin has cleaned and checked it."""

        def act(role: Authority) -> None:
            role.fresh_epoch(unit, self.now)
            role.lift_quarantine(unit, self.now)

        self.turn("site", act)

    def retry(self, name: str) -> None:
        key = self.key(name)
        self.turn("site", lambda role: role.retry(key, self.now, "admin"))

    def deliver(self, sender: str, receiver: str, *, answered: bool = True) -> bool:
        """The sender's outbox for the receiver arrives; whether there was anything to deliver."""
        said = list(self.outbox(sender, receiver))
        if not said or sender in self.down or receiver in self.down:
            return False
        refusals = [self._receive(sender, receiver, message) for _, message in said]
        if not answered:
            self.trace.append(f"{receiver}: the answer to {sender} is lost")
            return True
        for (kind, message), refusal in zip(said, refusals, strict=True):
            self._account(sender, receiver, kind, message, refusal)
        return any(refusal is None or not refusal.retry for refusal in refusals)

    def copy(self, sender: str, receiver: str) -> None:
        """A copy of what is being said now stays under way."""
        for _, message in self.outbox(sender, receiver):
            self.copies.append((sender, receiver, message))
            self.trace.append(f"{sender} -> {receiver}: a copy of {_described(message)} is late")

    def late(self) -> None:
        """The copies that were under way arrive."""
        copies, self.copies = self.copies, []
        for sender, receiver, message in copies:
            self._receive(sender, receiver, message)

    def handle(self, actor: str, key: Key, work: Work) -> None:
        """One handler ends, as the story wants it."""
        wrong = self.failing.get((work.handler, work.unit), "")
        event = HandlerEnded(
            now=self.now,
            work=work,
            ok=not wrong,
            outputs={"host": work.unit} if work.handler == "setup" and not wrong else {},
            checks=("account_gone",) if work.handler == "teardown" and not wrong else (),
            message=wrong,
        )
        outcome = f"failed: {wrong}" if wrong else "worked"
        self.trace.append(f"{actor}: {work.handler} {work.unit} {outcome}")
        self.turn(actor, lambda role: role.handler_ended(key, event))

    def settle(self) -> None:
        """Deliver, and let handlers end, until nothing more happens at this tick."""
        for _ in range(TURNS_MAX):
            moved = [
                self.deliver(sender, receiver)
                for sender in self.roles
                for receiver in self.roles
                if sender != receiver
            ]
            if not any(moved) and not self._handle_all():
                return
        raise AssertionError("the actors keep each other busy")

    def tick(self, to: int) -> None:
        """Time goes on, deadline by deadline, up to and with tick `to`."""
        while True:
            due = sorted(
                (record.wake, name, key)
                for name, role in self.roles.items()
                if name not in self.down
                for key, record in role.leases.items()
                if record.wake is not None and record.wake <= to
            )
            if not due:
                break
            at, name, key = due[0]
            self.now = max(self.now, at)
            self.trace.append(f"{self.now}: {name} is woken")
            self.turn(name, lambda role, key=key: role.woken(key, self.now))  # type: ignore[misc]
        self.now = to

    def crash(self, name: str) -> None:
        """Memory is lost; the ledger is not."""
        role = self._open[name]()
        for kind, key, body in self.ledgers[name].load():
            role.load(kind, key, body)
        role.loaded()
        self.roles[name] = role

    # How it happens ---------------------------------------------------------------------------

    def outbox(self, sender: str, receiver: str) -> Iterator[tuple[str, Message]]:
        kid = key_of(receiver).public.kid
        for kind, _, kept in list(self.roles[sender].kept()):
            line = kept.lines.get(kid)
            for message in line.unacked if line else ():
                yield kind, message

    def turn(self, name: str, act: Callable[[Any], Any]) -> Any:
        """One turn of an actor: step, decide, commit; what it put out and wrote is traced."""
        role = self.roles[name]
        before = {id(m) for peer in self.roles for _, m in self.outbox(name, peer)}
        calendars = _calendars(role)
        result = None
        try:
            result = act(role)
        except Refused as refused:
            self.trace.append(f"{name}: refused ({refused.code}): {refused.reason}")
        role.settle(self.now)
        role.flush()
        batch = role.take_batch()
        self.ledgers[name].commit(batch.writes(), batch.entries)
        for e in batch.entries:
            note = f" ({e.note})" if e.note else ""
            by = self._name.get(e.by, e.by)
            self.trace.append(
                f"{name}: {e.lease.split('/')[1]} {e.state} <- {e.what} by {by}{note}"
            )
        for peer in self.roles:
            for _, message in self.outbox(name, peer):
                if id(message) not in before:
                    self.trace.append(f"{name} says to {peer}: {_described(message)}")
        if _calendars(role) != calendars:
            self.trace += [f"{name}: {line}" for line in _calendars(role)]
        return result

    def _receive(self, sender: str, receiver: str, message: Message) -> Any:
        self.trace.append(f"{sender} -> {receiver}: {type(message).__name__} {message.n}")
        key = key_of(sender).public
        refusal = self.turn(receiver, lambda role: role.receive(key, message, self.now))
        if refusal is not None:
            self.trace.append(f"{receiver}: refused ({refusal.code}): {refusal.reason}")
        return refusal

    def _account(
        self, sender: str, receiver: str, kind: str, message: Message, refusal: Any
    ) -> None:
        kid, key = key_of(receiver).public.kid, (message.holder, message.rid)
        if refusal is None:
            self.turn(sender, lambda role: role.delivered(kind, key, kid, message.n))
        elif not refusal.retry:
            self.turn(
                sender,
                lambda role: role.undeliverable(kind, key, kid, message, refusal, self.now),
            )

    def _handle_all(self) -> bool:
        ended = False
        for name in self.roles:
            for key, record in list(self.roles[name].leases.items()):
                for work in record.work:
                    if name not in self.down and work.after <= self.now:
                        self.handle(name, key, work)
                        ended = True
        return ended


def _calendars(role: Role[Any]) -> list[str]:
    if not isinstance(role, Broker):
        return []
    lines = []
    for shares in role.shares.values():
        for share in shares:
            steps = share.calendar.steps()
            parts = [
                f"[{a},{b}) {units} of {share.calendar.capacity}"
                for (a, units), (b, _) in pairwise(steps)
            ]
            lines.append(f"sold of {share.delegation}: " + " ".join(parts))
    return lines


def _described(message: Message) -> str:
    """A message in a few words: its name, number, and what matters of its content."""
    words = [f"{type(message).__name__} {message.n}"]
    match message:
        case messages.TicketRequest():
            least = message.least_units
            some = f" (or {least})" if least < message.units else ""
            words.append(f"{message.units}{some} units for {_term(message.term)}")
        case messages.ExtendTicket():
            words.append(f"until {message.end}, {message.least_end} would do")
        case messages.UpdateTicket():
            words.append("closed" if message.closed else f"{len(message.ticket)} chain(s)")
            words.append(_offer(message.offer))
        case messages.Redeem() | messages.Close() | messages.ExtendLease():
            words.append(f"with {len(message.ticket)} chain(s)")
        case messages.UpdateLease():
            words.append(" ".join(u.unit for u in message.units))
            words.append("closed" if message.closed else "")
            words.append("close failed" if message.close_failed else "")
            words.append("with a receipt" if message.receipt else "")
        case messages.Relinquish():
            words.append("with a receipt" if message.receipt else "without a receipt")
        case messages.Failed():
            words.append(f"{message.code}: {message.reason}")
            words.append(_offer(message.offer))
            words.append("with a receipt" if message.receipt else "")
    return ", ".join(word for word in words if word)


def _term(term: Term) -> str:
    return f"[{term.start},{term.end})"


def _offer(offer: Offer) -> str:
    parts = [
        f"{name}={value}"
        for name in ("latest_end", "cap", "units", "start")
        if (value := getattr(offer, name)) is not None
    ]
    return f"offer {' '.join(parts)}" if parts else ""
