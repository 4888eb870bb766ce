"""Explores every run of small worlds of real roles, and holds the invariants against each state.

Theory. A role is a function: what it keeps, an input and a tick give what it keeps afterwards.
So the product of guests, broker and site is explored over numbers that stand for what each keeps;
each role's step is computed once for each pair of number and input. Every step is made by a role
that was *loaded* from what was kept: all runs are runs with a crash between any two turns.

The network loses, repeats and reorders. An outbox is delivered again until it is acknowledged, so
a lost envelope is a delivery that comes later; a *copy* of a message may stay under way and arrive
at any time until it is stale; an acknowledgement may be lost. Copies and lost acknowledgements are
bounded by `faults`, handlers that fail by `failures`. Time is one clock, which moves from deadline
to deadline, whatever is under way; each actor hears of its own deadlines before the next one.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from shirako.actors.authority import Authority, Unit
from shirako.actors.broker import Broker
from shirako.actors.role import Refused, Role
from shirako.actors.service_manager import ServiceManager
from shirako.core import messages
from shirako.core.authority import RetryAsked, SiteLease, SiteState, UnitPhase
from shirako.core.broker import BrokerLease, BrokerState
from shirako.core.guest import GuestLease, GuestState
from shirako.core.machine import HandlerEnded, Key, Record, Work, state_of
from shirako.core.messages import Message
from shirako.core.terms import Term
from shirako.transport.envelope import Refusal
from shirako.trust import Verifier
from shirako_policies.static import Static
from tests.core.cast import (
    SKEW,
    key_of,
    known,
    me_of,
    open_broker,
    open_site,
    party_of,
    share_of,
    wish,
)

BEGIN, END, LONGER = 100, 140, 180
"""A lease's term, and the end that an extension asks for: room for three tries of a teardown."""
DELEGATED = Term(90, 400)
HANDLER_TICKS = 30
"""Handlers have time-outs: none is still under way so long after the last term ended."""


class Violation(Exception):
    """A state that must not be; the message names the invariant, `trace` tells how it came."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.trace: list[str] = []

    def __str__(self) -> str:
        return "\n  ".join([self.args[0], *self.trace])


@dataclass(frozen=True)
class Bounds:
    """What a world may do."""

    faults: int = 0
    """Copies under way and lost acknowledgements, together."""
    failures: int = 0
    """Handlers that fail."""
    extensions: int = 0
    retries: int = 0
    """Teardowns that failed and that an admin has tried again."""
    closes: bool = True
    """Guests may close at any time; otherwise leases end with their terms."""
    units: int = 1
    sold: int = 1
    """Units delegated to the broker."""
    wanted: int = 1
    least: int = 1
    """Units that each guest asks for, and how few will do."""
    guests: int = 1
    joins: bool = False
    refused: bool = False
    """The site refuses to redeem, for what the guest wants configured."""
    starts_in: int = 0
    """Ticks from the request to the start of the term."""
    in_turn: bool = False
    """Each guest requests only when the one before it is closing or at an end."""
    tombstones: bool = False
    """Time goes on until closed leases are forgotten."""


@dataclass(frozen=True)
class Kept:
    """What one actor keeps: the content of its ledger."""

    things: tuple[tuple[str, Key, Any], ...]
    records: tuple[Record, ...]
    outbox: tuple[tuple[str, tuple[Message, ...]], ...]
    """What is to be said, by the peer's thumbprint."""
    work: tuple[tuple[Key, Work], ...]
    wakes: tuple[tuple[int, Key], ...]

    @classmethod
    def of(cls, things: tuple[tuple[str, Key, Any], ...]) -> Kept:
        records = tuple(value for kind, _, value in things if kind == "lease")
        outbox: dict[str, tuple[Message, ...]] = {}
        for kind, _, value in things:
            if kind != "unit":
                for kid, line in value.lines.items():
                    outbox[kid] = (*outbox.get(kid, ()), *line.unacked)
        return cls(
            things,
            records,
            tuple((kid, said) for kid, said in sorted(outbox.items()) if said),
            tuple((r.key, work) for r in records for work in r.work),
            tuple((r.wake, r.key) for r in records if r.wake is not None),
        )


class State(NamedTuple):
    """A state of the world: numbers of what each actor keeps, and what is left to happen."""

    now: int
    kept: tuple[int, ...]
    copies: tuple[tuple[int, int, int, int], ...]
    """(sender, receiver, message, tick at which it was sealed)."""
    faults: int
    failures: int
    extensions: int
    retries: int
    requests: int


@dataclass
class Result:
    states: int
    edges: int
    combinations: set[tuple[str, ...]]
    """Reachable combinations of the actors' states for the first lease."""
    possible: int
    """All combinations of the states that the three tables declare."""
    latest_end: int
    """The latest tick at which an actor's lease became final."""
    steps: int
    """Different steps of single roles."""


Label = tuple[Any, ...]
"""What happened: words, and for a message `(word, sender, receiver, messages)`."""

_PLAIN = msgspec.json.Encoder()


def _without_words(value: Any) -> Any:
    """The same with texts for people replaced by whether there is one: they decide nothing."""
    if isinstance(value, dict):
        return {
            k: bool(v) if k in ("reason", "closing", "refused") else _without_words(v)
            for k, v in value.items()
        }
    if isinstance(value, list):
        return [_without_words(v) for v in value]
    return value


class World:
    """The actors of one small world and every step that any of them was seen to make."""

    def __init__(self, bounds: Bounds, tables: Mapping[type[Role[Any]], Any] | None = None) -> None:
        self.bounds = bounds
        self.tables = dict(tables or {})
        self.guests = [f"guest{n}" for n in range(1, bounds.guests + 1)]
        self.names = [*self.guests, "broker", "site"]
        self.broker, self.site = len(self.names) - 2, len(self.names) - 1
        self.number = {key_of(name).public.kid: n for n, name in enumerate(self.names)}
        self._verifiers = [Verifier() for _ in self.names]
        self._numbers: list[dict[bytes, int]] = [{} for _ in self.names]
        self.kept: list[list[Kept]] = [[] for _ in self.names]
        self._messages: dict[bytes, int] = {}
        self.messages: list[Message] = []
        self._steps: dict[tuple[Any, ...], tuple[int, Refusal | None]] = {}
        self._ending: set[tuple[int, int, int]] = set()
        self._envelopes: dict[tuple[int, ...], tuple[tuple[int, ...], int, int]] = {}
        self._start = [self._first(n) for n in range(len(self.names))]

    # One actor --------------------------------------------------------------------------------

    def _open(self, actor: int, things: tuple[tuple[str, Key, Any], ...]) -> Role[Any]:
        role: Role[Any]
        if actor == self.site:
            role = open_site([f"n{n}" for n in range(1, self.bounds.units + 1)])
        elif actor == self.broker:
            role = open_broker(guests=self.guests)
        else:
            role = ServiceManager(
                me_of(self.names[actor]),
                known("broker"),
                Static(),
                joins=self.bounds.joins,
            )
        role.table = self.tables.get(type(role), role.table)
        role.verifier = self._verifiers[actor]
        for kind, key, value in things:
            role.keep(kind, key, value)
        role.loaded()
        return role

    def _first(self, actor: int) -> int:
        role = self._open(actor, ())
        delegated = share_of(self.bounds.sold, DELEGATED)
        site = open_site([f"n{n}" for n in range(1, self.bounds.units + 1)])
        made = site.delegate(delegated)
        push = made.lines[delegated.holder.kid].unacked[0]
        if isinstance(role, Authority):
            role.delegate(delegated)
            role.delivered("delegation", made.key, delegated.holder.kid, push.n)
        elif isinstance(role, Broker):
            refused = role.receive(key_of("site").public, push, DELEGATED.start)
            assert refused is None
        return self._note(actor, role)

    def _note(self, actor: int, role: Role[Any]) -> int:
        """The number of what the role keeps now."""
        things: list[tuple[str, Key, Any]] = [
            ("lease", key, value) for key, value in sorted(role.leases.items())
        ]
        if isinstance(role, Authority | Broker):
            things += [("delegation", d.key, d) for d in role.delegations.values()]
        if isinstance(role, Authority):
            things += [("unit", ("", u.name), u) for u in role.units.values()]
        plain = _without_words(msgspec.to_builtins([value for _, _, value in things]))
        body = _PLAIN.encode(plain)
        numbers = self._numbers[actor]
        if body not in numbers:
            numbers[body] = len(numbers)
            self.kept[actor].append(Kept.of(tuple(things)))
        return numbers[body]

    def message(self, message: Message) -> int:
        body = messages.encode(message)
        if body not in self._messages:
            self._messages[body] = len(self.messages)
            self.messages.append(message)
        return self._messages[body]

    def step(
        self, actor: int, kept: int, now: int, what: str, *details: Any
    ) -> tuple[int, Refusal | None]:
        """What the actor keeps after an input, and how it refused it if it did."""
        name = (actor, kept, now, what, *details)
        known = self._steps.get(name)
        if known is None:
            known = self._steps[name] = self._make_step(actor, kept, now, what, *details)
        return known

    def delivery(
        self,
        now: int,
        sender: int,
        saying: int,
        receiver: int,
        hearing: int,
        said: tuple[Message, ...],
    ) -> tuple[tuple[int, ...], int, int]:
        """Numbers of the messages of an envelope, and what both keep after it and its answer."""
        name = (now, sender, saying, receiver, hearing)
        known = self._envelopes.get(name)
        if known is None:
            known = self._envelopes[name] = self._deliver(*name, said)
        return known

    def _deliver(
        self,
        now: int,
        sender: int,
        saying: int,
        receiver: int,
        hearing: int,
        said: tuple[Message, ...],
    ) -> tuple[tuple[int, ...], int, int]:
        numbers = tuple(self.message(message) for message in said)
        refusals = []
        for number in numbers:
            hearing, refusal = self.step(receiver, hearing, now, "receive", sender, number)
            refusals.append(refusal)
        for number, refusal in zip(numbers, refusals, strict=True):
            if refusal is None:
                saying, _ = self.step(sender, saying, now, "acknowledged", receiver, number)
            elif not refusal.retry:
                why = (refusal.code, refusal.reason)
                saying, _ = self.step(sender, saying, now, "refused", receiver, number, *why)
        return numbers, hearing, saying

    @property
    def steps(self) -> int:
        return len(self._steps)

    def _make_step(
        self, actor: int, kept: int, now: int, what: str, *details: Any
    ) -> tuple[int, Refusal | None]:
        before = self.kept[actor][kept]
        role = self._open(actor, before.things)
        refusal: Refusal | None = None
        try:
            refusal = INPUTS[what](self, role, now, *details)
        except Refused as refused:
            refusal = Refusal(0, refused.code, refused.reason, refused.retry)
        role.settle(now)
        after = self._note(actor, role)
        _check_lines(before, self.kept[actor][after])
        _check_books(role, self._open(actor, self.kept[actor][after].things), now)
        if isinstance(role, Authority):
            _check_units(role)
        return after, refusal

    def check_ends_alone(self, actor: int, kept: int, now: int) -> None:
        """ENDS, whatever the others fail to do: nobody answers any more, handlers still work."""
        names: list[tuple[int, int, int]] = []
        while (actor, kept, now) not in self._ending:
            names.append((actor, kept, now))
            here = self.kept[actor][kept]
            living = [r for r in here.records if not state_of(r).final]
            due = [(key, work) for key, work in here.work if work.after <= now]
            ahead = [tick for tick, key in here.wakes if key in {r.key for r in living}]
            ahead += [work.after for _, work in here.work if work.after > now]
            if not living:
                break
            if due:
                kept, _ = self.step(actor, kept, now, "handled", *due[0], True)
            elif not ahead or max(now, min(ahead)) > LONGER + HANDLER_TICKS:
                raise Violation(
                    f"ENDS: {living[0].id} stays {state_of(living[0]).value} at the "
                    f"{self.names[actor]} when nobody answers"
                )
            else:
                now = max(now, min(ahead))
                keys = [key for tick, key in here.wakes if tick <= now]
                for key in keys:
                    kept, _ = self.step(actor, kept, now, "woken", key)
        self._ending.update(names)

    def start(self) -> State:
        return State(
            now=BEGIN - self.bounds.starts_in,
            kept=tuple(self._start),
            copies=(),
            faults=self.bounds.faults,
            failures=self.bounds.failures,
            extensions=self.bounds.extensions,
            retries=self.bounds.retries,
            requests=(1 << len(self.guests)) - 1,
        )


# Inputs: what may happen to one role -----------------------------------------------------------


def _receive(world: World, role: Role[Any], now: int, sender: int, said: int) -> Refusal | None:
    key = key_of(world.names[sender]).public
    return role.receive(key, world.messages[said], now)


def _acknowledged(world: World, role: Role[Any], _now: int, peer: int, said: int) -> None:
    message = world.messages[said]
    kid = key_of(world.names[peer]).public.kid
    role.delivered("lease", (message.holder, message.rid), kid, message.n)


def _refused(
    world: World, role: Role[Any], now: int, peer: int, said: int, code: str, reason: str
) -> None:
    message = world.messages[said]
    kid = key_of(world.names[peer]).public.kid
    key = (message.holder, message.rid)
    role.undeliverable("lease", key, kid, message, Refusal(0, code, reason), now)


def _handled(_world: World, role: Role[Any], now: int, key: Key, work: Work, ok: bool) -> None:
    event = HandlerEnded(
        now=now,
        work=work,
        ok=ok,
        outputs={"host": work.unit} if ok and work.handler == "setup" else {},
        checks=("clean",) if ok and work.handler == "teardown" else (),
        message="" if ok else "broken",
    )
    role.handler_ended(key, event)


def _woken(_world: World, role: Role[Any], now: int, key: Key) -> None:
    role.woken(key, now)


def _request(world: World, role: Role[Any], now: int, guest: str) -> None:
    assert isinstance(role, ServiceManager)
    wanted = wish(
        f"L-{guest}",
        Term(BEGIN, END),
        units=world.bounds.wanted,
        least=world.bounds.least,
        guest=guest,
        configuration={"NO KEY": ""} if world.bounds.refused else {},
    )
    role.request(wanted, now, "me")


def _extend(_world: World, role: Role[Any], now: int, key: Key) -> None:
    assert isinstance(role, ServiceManager)
    role.extend(key, LONGER, LONGER, now, "me")


def _close(_world: World, role: Role[Any], now: int, key: Key) -> None:
    assert isinstance(role, ServiceManager)
    role.close(key, "done", now, "me")


def _retry(_world: World, role: Role[Any], now: int, key: Key) -> None:
    role.apply(role.leases[key], RetryAsked(now=now), "admin")


INPUTS: dict[str, Callable[..., Refusal | None]] = {
    "receive": _receive,
    "acknowledged": _acknowledged,
    "refused": _refused,
    "handled": _handled,
    "woken": _woken,
    "request": _request,
    "extend": _extend,
    "retry": _retry,
    "close": _close,
}


# Invariants of one actor ----------------------------------------------------------------------


def _check_lines(before: Kept, after: Kept) -> None:
    """Numbers only grow: nothing is taken or said under a number of the past (rule 7)."""
    old = {record.key: record.lines for record in before.records}
    for record in after.records:
        for kid, line in record.lines.items():
            was = old.get(record.key, {}).get(kid)
            if was is not None and (line.seen < was.seen or line.sent < was.sent):
                raise Violation(f"EXACTLY ONCE: lease {record.id} took a number of the past")


def _check_books(live: Role[Any], loaded: Role[Any], now: int) -> None:
    """DURABLE: what memory says is what would be loaded after a crash."""
    at = [tick for tick in (now, END - 1, END, LONGER - 1, LONGER) if tick >= now]
    if isinstance(live, Broker) and isinstance(loaded, Broker):
        for tick in at:
            here, there = free_at(live, tick), free_at(loaded, tick)
            if here != there:
                raise Violation(
                    f"DURABLE: the broker has {here} units free at {tick}, after a crash {there}"
                )
    if isinstance(live, Authority) and isinstance(loaded, Authority):
        for tick in at:
            here, there = redeemed_at(live, tick), redeemed_at(loaded, tick)
            if here != there:
                raise Violation(
                    f"DURABLE: {here} units are redeemed at {tick}, after a crash {there}"
                )
        if {k: dict(v) for k, v in live.free.items()} != {
            k: dict(v) for k, v in loaded.free.items()
        }:
            raise Violation("DURABLE: other units are free after a crash")


def free_at(broker: Broker, tick: int) -> int:
    moment = Term(tick, tick + 1)
    return sum(s.calendar.free(moment) for shares in broker.shares.values() for s in shares)


def redeemed_at(site: Authority, tick: int) -> int:
    moment = Term(tick, tick + 1)
    return sum(
        calendar.capacity - calendar.free(moment)
        for calendar in site._spending.values()
        if calendar.term.holds(moment)
    )


def _check_units(site: Authority) -> None:
    """EXCLUSIVE: a unit is one lease's from assignment to verified teardown."""
    users: dict[str, list[tuple[SiteLease, int, UnitPhase]]] = {}
    for lease in site.leases.values():
        for a in lease.assignments:
            if a.phase is not UnitPhase.CLOSED:
                users.setdefault(a.unit, []).append((lease, a.epoch, a.phase))
    for unit in site.units.values():
        using = users.get(unit.name, [])
        in_use = [u for u in using if u[2] is not UnitPhase.FAILED]
        if len({lease.key for lease, _, _ in in_use}) > 1:
            raise Violation(f"EXCLUSIVE: {unit.name} is in two live leases")
        if using and unit.owner is None and not unit.quarantined:
            raise Violation(f"EXCLUSIVE: {unit.name} is free before its teardown was verified")
        _check_owner(site, unit)


def _check_owner(site: Authority, unit: Unit) -> None:
    if unit.owner is None:
        return
    lease = site.leases.get(unit.owner)
    mine = [] if lease is None else [(a.unit, a.epoch) for a in lease.assignments]
    if (unit.name, unit.epoch) not in mine:
        raise Violation(f"EXCLUSIVE: {unit.name} belongs to a lease that does not have it")


# The product ----------------------------------------------------------------------------------


@dataclass
class Explorer:
    """Breadth-first over all states of a world."""

    world: World
    parents: dict[State, tuple[State | None, Label]] = field(default_factory=dict)
    progress: dict[State, list[State]] = field(default_factory=dict)
    """Edges of what happens by itself: deliveries, handlers, deadlines. No faults, no wishes."""
    edges: int = 0
    _checked: set[tuple[int, ...]] = field(default_factory=set)

    def run(self, states_max: int) -> Result:
        """Explore all; raises `Violation`, or AssertionError beyond `states_max`."""
        first = self.world.start()
        self.parents[first] = (None, ("start",))
        frontier = deque([first])
        combinations: set[tuple[str, ...]] = set()
        while frontier:
            state = frontier.popleft()
            try:
                self._check(state)
                combinations.add(self.names(state))
                for label, following, by_itself in self._actions(state):
                    self.edges += 1
                    if by_itself:
                        self.progress.setdefault(state, []).append(following)
                    if following not in self.parents:
                        self.parents[following] = (state, label)
                        frontier.append(following)
            except Violation as violation:
                violation.trace = self.trace(state)
                raise
            assert len(self.parents) <= states_max, "the bounds are too wide to explore them all"
        self._check_ends()
        return Result(
            states=len(self.parents),
            edges=self.edges,
            combinations=combinations,
            possible=len(GuestState) * len(BrokerState) * len(SiteState),
            latest_end=self._latest_end(),
            steps=self.world.steps,
        )

    def trace(self, state: State) -> list[str]:
        """How a state came about, step by step."""
        lines: list[str] = []
        at: State | None = state
        while at is not None:
            before, label = self.parents[at]
            lines.append(f"{at.now}: {self._words(label)} => {'/'.join(self.names(at))}")
            at = before
        return lines[::-1]

    def _words(self, label: Label) -> str:
        if len(label) != 4 or not isinstance(label[3], tuple):
            return " ".join(label)
        what, sender, receiver, numbers = label
        said = (self.world.messages[number] for number in numbers)
        content = ", ".join(f"{type(message).__name__} {message.n}" for message in said)
        names = self.world.names
        return f"{names[sender]} -> {names[receiver]}: {content} ({what})"

    def names(self, state: State) -> tuple[str, ...]:
        """The states of the first guest's lease at guest, broker and site."""
        guest = self.world.guests[0]
        key = (party_of(guest).kid, f"L-{guest}")
        found = []
        for actor in (0, self.world.broker, self.world.site):
            records = self.world.kept[actor][state.kept[actor]].records
            mine = [str(state_of(r).value) for r in records if r.key == key]
            found.append(mine[0] if mine else "-")
        return tuple(found)

    # What may happen next -----------------------------------------------------------------------

    def _actions(self, state: State) -> Iterator[tuple[Label, State, bool]]:
        """(what happens, the state after it, whether it happens by itself)."""
        yield from self._wishes(state)
        yield from self._retries(state)
        for actor, name in enumerate(self.world.names):
            kept = self.world.kept[actor][state.kept[actor]]
            for kid, said in kept.outbox:
                yield from self._deliveries(state, actor, self.world.number[kid], said)
            for key, work in kept.work:
                if work.after <= state.now:
                    yield from self._handlers(state, actor, name, key, work)
            for tick, key in kept.wakes:
                if tick <= state.now:
                    after = self._after(state, actor, "woken", key)
                    yield (name, "is woken"), after, True
        for copy in state.copies:
            yield from self._late_copy(state, copy)
        yield from self._time(state)

    def _after(self, state: State, actor: int, what: str, *details: Any) -> State:
        after, _ = self.world.step(actor, state.kept[actor], state.now, what, *details)
        return self._put(state, actor, after)

    @staticmethod
    def _put(state: State, actor: int, after: int) -> State:
        return state._replace(kept=(*state.kept[:actor], after, *state.kept[actor + 1 :]))

    def _wishes(self, state: State) -> Iterator[tuple[Label, State, bool]]:
        for actor, guest in enumerate(self.world.guests):
            if state.requests & 1 << actor:
                if state.now >= END:
                    continue
                if self.world.bounds.in_turn and actor and not self._is_leaving(state, actor - 1):
                    continue
                after = self._after(state, actor, "request", guest)
                rest = state.requests - (1 << actor)
                yield (guest, "requests"), after._replace(requests=rest), False
                continue
            for record in self.world.kept[actor][state.kept[actor]].records:
                if state.extensions and str(state_of(record).value) == "Active":
                    after = self._after(state, actor, "extend", record.key)
                    left = state.extensions - 1
                    yield (guest, "extends"), after._replace(extensions=left), False
                if self.world.bounds.closes:
                    after = self._after(state, actor, "close", record.key)
                    if after != state:
                        yield (guest, "closes"), after, False

    def _retries(self, state: State) -> Iterator[tuple[Label, State, bool]]:
        site = self.world.site
        for record in self.world.kept[site][state.kept[site]].records:
            if state_of(record).value == "CloseFailed" and state.retries:
                after = self._after(state, site, "retry", record.key)
                yield ("admin", "retries"), after._replace(retries=state.retries - 1), False

    def _is_leaving(self, state: State, actor: int) -> bool:
        records = self.world.kept[actor][state.kept[actor]].records
        leaving = ("CloseWait", "Cancelling", "Closed", "Failed")
        return any(str(state_of(record).value) in leaving for record in records)

    def _deliveries(
        self, state: State, sender: int, receiver: int, said: tuple[Message, ...]
    ) -> Iterator[tuple[Label, State, bool]]:
        numbers, heard, done = self.world.delivery(
            state.now, sender, state.kept[sender], receiver, state.kept[receiver], said
        )
        if state.faults:
            for number in numbers:
                copy = (sender, receiver, number, state.now)
                copies = tuple(sorted((*state.copies, copy)))
                copied = state._replace(copies=copies, faults=state.faults - 1)
                yield ("a copy stays under way", sender, receiver, (number,)), copied, False
            if heard != state.kept[receiver]:
                lost = self._put(state, receiver, heard)._replace(faults=state.faults - 1)
                yield ("answer lost", sender, receiver, numbers), lost, False
        taken = self._put(self._put(state, receiver, heard), sender, done)
        if taken != state:
            yield ("delivered", sender, receiver, numbers), taken, True

    def _late_copy(
        self, state: State, copy: tuple[int, int, int, int]
    ) -> Iterator[tuple[Label, State, bool]]:
        sender, receiver, number, _ = copy
        rest = list(state.copies)
        rest.remove(copy)
        after = self._after(state, receiver, "receive", sender, number)
        label = ("late copy", sender, receiver, (number,))
        yield label, after._replace(copies=tuple(rest)), True

    def _handlers(
        self, state: State, actor: int, name: str, key: Key, work: Work
    ) -> Iterator[tuple[Label, State, bool]]:
        label = (name, work.handler, work.unit)
        yield (*label, "worked"), self._after(state, actor, "handled", key, work, True), True
        if state.failures:
            after = self._after(state, actor, "handled", key, work, False)
            yield (*label, "failed"), after._replace(failures=state.failures - 1), False

    def _time(self, state: State) -> Iterator[tuple[Label, State, bool]]:
        ahead = []
        for actor in range(len(self.world.names)):
            kept = self.world.kept[actor][state.kept[actor]]
            ahead += [tick for tick, _ in kept.wakes]
            ahead += [work.after for _, work in kept.work if work.after > state.now]
        if not ahead or min(ahead) <= state.now:
            return
        now = min(ahead)
        if now > LONGER + HANDLER_TICKS:
            if not self.world.bounds.tombstones:
                return
            if any(self.world.kept[a][kept].work for a, kept in enumerate(state.kept)):
                return
        fresh = tuple(copy for copy in state.copies if now - copy[3] <= SKEW)
        yield ("time goes on",), state._replace(now=now, copies=fresh), True

    # Invariants of the whole --------------------------------------------------------------------

    def _check(self, state: State) -> None:
        """CONSERVE: what the broker may sell, and what is redeemed, fit into what was delegated."""
        name = (state.now, *state.kept)
        if name in self._checked:
            return
        self._checked.add(name)
        world = self.world
        for actor, kept in enumerate(state.kept):
            world.check_ends_alone(actor, kept, state.now)
        broker = world.kept[world.broker][state.kept[world.broker]]
        site = world.kept[world.site][state.kept[world.site]]
        for tick in (state.now, END - 1, END, LONGER - 1):
            if tick < state.now:
                continue
            sold = sum(
                grant.units
                for lease in broker.records
                if isinstance(lease, BrokerLease)
                for grant in lease.grants
                if grant.term.start <= tick < grant.term.end
            )
            if sold > world.bounds.sold:
                raise Violation(f"CONSERVE: {sold} units are sold at {tick}")
        for lease in site.records:
            if isinstance(lease, SiteLease) and not lease.state.final:
                self._check_not_resold(state, broker, lease.key)
        for actor in range(len(world.guests)):
            for record in world.kept[actor][state.kept[actor]].records:
                if isinstance(record, GuestLease) and record.ticket:
                    self._check_ticket_is_void_or_booked(state, broker, site, record)

    def _check_not_resold(self, state: State, broker: Kept, key: Key) -> None:
        """A redeemed ticket stays booked at its broker until the site's receipt or its end."""
        site = self.world.kept[self.world.site][state.kept[self.world.site]]
        lease = next(r for r in site.records if r.key == key)
        assert isinstance(lease, SiteLease)
        booked = _booked(broker, key)
        for spent in lease.spent:
            if spent.jti not in booked and state.now < spent.term.end:
                raise Violation(f"CONSERVE: lease {lease.id} is live, and its ticket is sold again")

    def _check_ticket_is_void_or_booked(
        self, state: State, broker: Kept, site: Kept, record: GuestLease
    ) -> None:
        """A ticket that a guest holds is booked, or void at the site, or its term is over."""
        if any(r.key == record.key and state_of(r).final for r in site.records):
            return
        claims = [self.world._verifiers[0].chain(chain)[-1] for chain in record.ticket]
        booked = _booked(broker, record.key)
        for claim in claims:
            if claim.jti not in booked and state.now < claim.term.end:
                raise Violation(f"CONSERVE: the ticket of {record.id} is out and was sold again")

    def _check_ends(self) -> None:
        """ENDS: what happens by itself comes to an end, and then every lease is final."""
        self._check_no_circles()
        for state in self.parents:
            if self.progress.get(state):
                continue
            for actor, name in enumerate(self.world.names):
                for record in self.world.kept[actor][state.kept[actor]].records:
                    if not state_of(record).final:
                        violation = Violation(
                            f"ENDS: nothing will happen, and {record.id} is "
                            f"{state_of(record).value} at the {name}"
                        )
                        violation.trace = self.trace(state)
                        raise violation

    def _check_no_circles(self) -> None:
        """No two actors keep each other busy for ever: what happens by itself has no circle."""
        entering = dict.fromkeys(self.parents, 0)
        for targets in self.progress.values():
            for target in targets:
                entering[target] += 1
        ready = [state for state, count in entering.items() if count == 0]
        done = 0
        while ready:
            state = ready.pop()
            done += 1
            for target in self.progress.get(state, ()):
                entering[target] -= 1
                if entering[target] == 0:
                    ready.append(target)
        if done < len(self.parents):
            violation = Violation("ENDS: the actors may keep each other busy for ever")
            violation.trace = self.trace(next(s for s, count in entering.items() if count))
            raise violation

    def _latest_end(self) -> int:
        """The latest tick of a state with a lease that is not final in it."""
        latest = 0
        for state in self.parents:
            for actor in range(len(self.world.names)):
                records = self.world.kept[actor][state.kept[actor]].records
                if any(not state_of(r).final for r in records):
                    latest = max(latest, state.now)
        return latest


def _booked(broker: Kept, key: Key) -> set[str]:
    return {
        grant.jti
        for record in broker.records
        if isinstance(record, BrokerLease) and record.key == key
        for grant in record.grants
    }


def explore(
    bounds: Bounds,
    tables: Mapping[type[Role[Any]], Any] | None = None,
    states_max: int = 300_000,
) -> Result:
    """All runs within the bounds; raises `Violation`, or AssertionError if there are too many."""
    gc.disable()  # millions of small tuples, none of them in a circle
    try:
        return Explorer(World(bounds, tables)).run(states_max)
    finally:
        gc.enable()
