"""One small world of real roles: what each actor keeps, and each step that a role makes from it.

A role is a function: what it keeps, an input and a tick give what it keeps afterwards. So what an
actor keeps is a number here, and each step is computed once for each pair of number and input.
Every step is made by a role that was *loaded* from what was kept, so all runs are runs with a
crash between any two turns. What such a crash loses besides is what a role knows and has not
stored: that a message was delivered (`Role.acknowledged`). Where a world has crashes of that kind
(`Bounds.crashes`), a number stands for both: what is in memory, and what a crash goes back to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import msgspec

from shirako.actors import revoking
from shirako.actors.authority import Authority, Unit
from shirako.actors.broker import Broker
from shirako.actors.role import Refused, Role
from shirako.actors.service_manager import ServiceManager
from shirako.core import messages
from shirako.core.authority import CloseAsked, Quarantine, Release
from shirako.core.guest import GuestLease, GuestState
from shirako.core.machine import (
    Arrow,
    Event,
    HandlerEnded,
    Key,
    Me,
    Record,
    State,
    Step,
    Work,
    state_of,
)
from shirako.core.messages import Message
from shirako.core.policy import Assignment, End, GoOn, Wait
from shirako.core.terms import Term
from shirako.transport.envelope import Refusal
from shirako.trust import PublicKey, Verifier
from shirako_policies.first_fit import FirstFit
from shirako_policies.static import Static
from tests.core.cast import (
    TYPE,
    key_of,
    known,
    me_of,
    open_broker,
    open_site,
    party_of,
    share_of,
    wish,
)
from tests.model import dishonest, invariants
from tests.model.invariants import Violation

BEGIN, END, LONGER = 100, 140, 180
"""A lease's term, and the end that an extension asks for: room for three tries of a teardown."""
DELEGATED_FROM = 90
PATIENCE = 3
"""Ticks after which a patient guest joins; twice as many, and it redeems its extension."""
HANDLER_TICKS = 30
"""Handlers have time-outs: none is still under way so long after the last term ended."""


class Patient(Static):
    """Holds a lease like `Static`, but takes its time, and leaves at the last moment."""

    def decide(self, lease: GuestLease, now: int, lead: int) -> GoOn | Wait | End:
        decision = super().decide(lease, now, lead=0)
        steps = {GuestState.LEASED: 1, GuestState.ACTIVE_TICKETED: 2}.get(lease.state, 0)
        ready = lease.term.start + PATIENCE * steps
        return Wait(ready) if isinstance(decision, GoOn) and now < ready else decision


PREEMPTING = (messages.Close, messages.Relinquish)
"""What is taken in every state (rule 7)."""
ALONE_STEPS_MAX = 100
"""Far more than an actor ever does by itself."""

Pair = tuple[State, type[Event]]
"""What a table is asked for: a state and an event's type."""
Mutation = Mapping[type[Role[Any]], Mapping[Pair, Arrow[Any] | None]]
"""Arrows of the tables in other words; None: the arrow is dropped."""


@dataclass(frozen=True)
class Bounds:
    """What a world may do."""

    faults: int = 0
    """Copies under way and lost acknowledgements, together."""
    crashes: bool = False
    """Once each, an actor may crash and forget which deliveries it had heard of, or crash when it
    has taken messages and has not answered yet."""
    failures: int = 0
    """Handlers that fail."""
    extensions: int = 0
    retries: int = 0
    """Teardowns that failed and that an admin has tried again."""
    closes: bool = True
    """Guests may close at any time; otherwise leases end with their terms."""
    site_closes: int = 0
    """Leases that the site's admin closes."""
    revokes: int = 0
    """Times that the site's admin revokes what it has delegated, or gives it back again."""
    unsuitable: int = 0
    """Set-ups that fail for what the guest asks for, not for the unit."""
    deaths: int = 0
    """Units of leases that are found dead."""
    idle_deaths: int = 0
    """Units that are found dead while no lease has them."""
    mends: int = 0
    """Units that an admin cleans and checks under an epoch of its own, and lets back in: none that
    a lease has, or a handler of one still works on."""
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
    stranger: bool = False
    """The broker does not deal with this guest."""
    patient: bool = False
    """The guest's policy lets time go by before each of its steps."""
    delegated_until: int = 400
    forgotten_share: bool = False
    """The broker holds another share, from `delegated_until` on, that the site has forgotten."""
    starts_in: int = 0
    """Ticks from the request to the start of the term."""
    follows: bool = False
    """The second guest asks for the time after the first one's: its set-up waits for a teardown."""
    prompt: bool = False
    """Time goes on only where nothing else happens by itself; otherwise whenever it likes."""
    tombstones: bool = False
    """Time goes on until closed leases are forgotten."""
    stale: bool = False
    """What is of an older epoch arrives, at any time, and has to change nothing (rule 11)."""
    dishonest: bool = False
    """Dishonest guests and brokers present, at any time, what nobody may gain by
    (`tests.model.dishonest`)."""
    presents: int = 0
    """Instead, nobody honest asks for anything, and they present what may be taken, but only in
    part: so many messages of it."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What one actor keeps: the content of its memory, and of its ledger if that is behind."""

    things: tuple[tuple[str, Key, Any], ...]
    records: tuple[Record, ...]
    outbox: tuple[tuple[str, tuple[Message, ...]], ...]
    """What is to be said, by the peer's thumbprint."""
    work: tuple[tuple[Key, Work], ...]
    wakes: tuple[tuple[int, Key], ...]
    units: tuple[Unit, ...]
    """Of a site: its units."""
    memory: int
    """Number of the same with nothing left to store."""
    stored: int
    """Number of what a crash goes back to: most often the same."""

    @classmethod
    def of(cls, things: tuple[tuple[str, Key, Any], ...], number: int) -> Kept:
        records = tuple(value for kind, _, value in things if kind == "lease")
        outbox: dict[str, tuple[Message, ...]] = {}
        for kind, _, value in things:
            if kind not in ("unit", "volume", "posting", "conflict"):
                for kid, line in value.lines.items():
                    outbox[kid] = (*outbox.get(kid, ()), *line.unacked)
        return cls(
            things,
            records,
            tuple((kid, said) for kid, said in sorted(outbox.items()) if said),
            tuple((r.key, work) for r in records for work in r.work),
            tuple((r.wake, r.key) for r in records if r.wake is not None),
            tuple(value for kind, _, value in things if kind == "unit"),
            number,
            number,
        )

    def find(self, key: Key) -> Record | None:
        """The record of a lease."""
        return next((record for record in self.records if record.key == key), None)


class Taken(NamedTuple):
    """What became of one input."""

    kept: int
    refusal: Refusal | None
    pairs: frozenset[tuple[type[Role[Any]], Pair]]
    """What the role's table was asked for."""


Sample = tuple[Record, Event, Step[Any]]
"""An arrow's record, event and result."""


class Asked(Mapping[Pair, Arrow[Any]]):
    """A table that notes what it is asked for, and samples of what its arrows do."""

    def __init__(
        self, table: Mapping[Pair, Arrow[Any]], samples: dict[Pair, dict[Any, Sample]]
    ) -> None:
        self._table = table
        self._samples = samples
        self.pairs: set[Pair] = set()

    def __getitem__(self, pair: Pair) -> Arrow[Any]:
        self.pairs.add(pair)
        arrow = self._table[pair]
        samples = self._samples.setdefault(pair, {})

        def action(r: Any, e: Any, me: Me) -> Step[Any]:
            result = arrow.action(r, e, me)
            after = result.record
            shape = (after.state, after.wake is None, len(after.work), result.effects == ())
            samples.setdefault((*shape, after.lines == r.lines, after == r), (r, e, result))
            return result

        return Arrow(action, arrow.targets)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._table)

    def __len__(self) -> int:
        return len(self._table)


_VERIFIER = Verifier()
"""Of all roles: what a token says does not depend on who reads it, or when."""
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

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.guests = [f"guest{n}" for n in range(1, bounds.guests + 1)]
        self.names = [*self.guests, "broker", "site"]
        self.broker, self.site = len(self.names) - 2, len(self.names) - 1
        self.number = {key_of(name).public.kid: n for n, name in enumerate(self.names)}
        self.roles: list[type[Role[Any]]] = [ServiceManager] * len(self.guests)
        self.roles += [Broker, Authority]
        self._mutation: Mutation = {}
        self._honest: World | None = None
        self._numbers: list[dict[Any, int]] = [{} for _ in self.names]
        self._bodies: dict[int, bytes] = {}
        self.kept: list[list[Kept]] = [[] for _ in self.names]
        self._messages: dict[bytes, int] = {}
        self.messages: list[Message] = []
        self.steps: dict[tuple[Any, ...], Taken] = {}
        self.samples: dict[type[Role[Any]], dict[Pair, dict[Any, Sample]]] = {}
        """What arrows were seen to do: one sample for each kind of result."""
        self._ending: set[tuple[int, int, int]] = set()
        self._envelopes: dict[tuple[int, ...], tuple[tuple[int, ...], int, int]] = {}
        self.first = [self._first(n) for n in range(len(self.names))]

    def mutated(self, mutation: Mutation) -> World:
        """The same world with other arrows in its tables.

        Steps that ask for none of these arrows are those of this world, and are not made again.
        """
        other: World = object.__new__(World)
        other.__dict__.update(self.__dict__)
        other._mutation = mutation
        other._honest = self
        other.steps, other._ending, other._envelopes = {}, set(), {}
        other.samples = {}
        return other

    def pairs(self) -> set[tuple[type[Role[Any]], Pair]]:
        """All that the tables were asked for in steps made so far."""
        return set().union(*(taken.pairs for taken in self.steps.values()))

    # One actor --------------------------------------------------------------------------------

    def open(self, actor: int, things: tuple[tuple[str, Key, Any], ...]) -> Role[Any]:
        """A role that has loaded these things."""
        role: Role[Any]
        if actor == self.site:
            pools = {TYPE: tuple(f"n{n}" for n in range(1, self.bounds.units + 1))}
            if self.bounds.dishonest:
                pools[dishonest.LARGE] = ("large",)
            policies: dict[str, Assignment] = {kind: FirstFit() for kind in pools}
            role = Authority(me_of("site"), known("broker"), pools, policies)
        elif actor == self.broker:
            guests = () if self.bounds.stranger else self.guests
            if self.bounds.dishonest:
                role = open_broker(sites=("site", "rival"), guests=(*guests, "thief"))
            else:
                role = open_broker(guests=guests)
        else:
            role = ServiceManager(
                me_of(self.names[actor]),
                known("broker"),
                Patient() if self.bounds.patient else Static(),
                joins=self.bounds.joins,
            )
        changes = self._mutation.get(type(role))
        if changes:
            changed: dict[Pair, Any] = {**role.table, **changes}
            role.table = {pair: arrow for pair, arrow in changed.items() if arrow is not None}
        role.verifier = _VERIFIER
        for kind, key, value in things:
            role.keep(kind, key, value)
        role.loaded()
        return role

    def _first(self, actor: int) -> int:
        role = self.open(actor, ())
        term = Term(DELEGATED_FROM, self.bounds.delegated_until)
        delegated = share_of(self.bounds.sold, term)
        made = open_site([f"n{n}" for n in range(1, self.bounds.units + 1)]).delegate(delegated)
        push = made.lines[delegated.holder.kid].unacked[0]
        if isinstance(role, Authority):
            role.delegate(delegated)
            role.delivered("delegation", made.key, delegated.holder.kid, push.n)
            for other in dishonest.delegations() if self.bounds.dishonest else ():
                role.keep("delegation", other.key, other)
        elif isinstance(role, Broker):
            refused = role.receive(key_of("site").public, push, DELEGATED_FROM)
            assert refused is None
            if self.bounds.forgotten_share:
                self._take_forgotten(role)
        return self._note(actor, _things(role))

    def _take_forgotten(self, broker: Broker) -> None:
        """A share that the site signed, and knows no more: it was restored from older books."""
        lost = share_of(self.bounds.sold, Term(self.bounds.delegated_until, 400), name="lost")
        made = open_site([f"n{n}" for n in range(1, self.bounds.units + 1)]).delegate(lost)
        push = made.lines[lost.holder.kid].unacked[0]
        refused = broker.receive(key_of("site").public, push, DELEGATED_FROM)
        assert refused is None

    def _note(self, actor: int, things: tuple[tuple[str, Key, Any], ...]) -> int:
        """The number of what is kept now."""
        bodies = tuple(self._body(value) for _, _, value in things)
        numbers = self._numbers[actor]
        if bodies not in numbers:
            number = numbers[bodies] = len(self.kept[actor])
            self.kept[actor].append(Kept.of(things, number))
            for (_, _, value), body in zip(things, bodies, strict=True):
                self._bodies[id(value)] = body  # it lives as long as we do: the id is its own
        return numbers[bodies]

    def _body(self, value: Any) -> bytes:
        known = self._bodies.get(id(value))
        if known is None:
            known = _PLAIN.encode(_without_words(msgspec.to_builtins(value)))
        return known

    def _note_behind(self, actor: int, memory: int, stored: int) -> int:
        """The number of a memory that knows more than the ledger."""
        if memory == stored:
            return memory
        numbers = self._numbers[actor]
        if (memory, stored) not in numbers:
            numbers[memory, stored] = len(self.kept[actor])
            self.kept[actor].append(replace(self.kept[actor][memory], stored=stored))
        return numbers[memory, stored]

    def claims(self, held: GuestLease) -> tuple[tuple[str, Term], ...]:
        """`jti` and term of each claim of a guest's ticket."""
        leaves = (_VERIFIER.chain(chain)[-1] for chain in held.ticket)
        return tuple((leaf.jti, leaf.term) for leaf in leaves)

    def message(self, message: Message) -> int:
        """The number of a message."""
        body = messages.encode(message)
        if body not in self._messages:
            self._messages[body] = len(self.messages)
            self.messages.append(message)
        return self._messages[body]

    def step(self, actor: int, kept: int, now: int, what: str, *details: Any) -> Taken:
        """What the actor keeps after an input, and how it refused it if it did."""
        name = (actor, kept, now, what, *details)
        known = self.steps.get(name)
        if known is None:
            known = self._honest_step(name)
            if known is None:
                known = self._make_step(actor, kept, now, what, *details)
            self.steps[name] = known
        return known

    def _honest_step(self, name: tuple[Any, ...]) -> Taken | None:
        """The step of the world that this is a mutant of, if the mutation does not touch it."""
        known = self._honest.steps.get(name) if self._honest else None
        if known is None:
            return None
        touched = any(pair in self._mutation.get(role, ()) for role, pair in known.pairs)
        return None if touched else known

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
            hearing, refusal, _ = self.step(receiver, hearing, now, "receive", sender, number)
            refusals.append(refusal)
            preempts = isinstance(self.messages[number], PREEMPTING)
            # receipts are taken in the order in which they stand in their accounts
            if refusal and refusal.retry and refusal.code != "early" and preempts:
                what = type(self.messages[number]).__name__
                raise Violation(f"PREEMPTS: the {self.names[receiver]} does not take a {what}")
        for number, refusal in zip(numbers, refusals, strict=True):
            if refusal is None:
                saying = self.step(sender, saying, now, "acknowledged", receiver, number).kept
            elif not refusal.retry:
                why = (refusal.code, refusal.reason)
                saying = self.step(sender, saying, now, "refused", receiver, number, *why).kept
        return numbers, hearing, saying

    def _make_step(self, actor: int, kept: int, now: int, what: str, *details: Any) -> Taken:
        before = self.kept[actor][kept]
        role = self.open(actor, before.things)
        role.table = asked = Asked(role.table, self.samples.setdefault(type(role), {}))
        stored = {(kind, key): value for kind, key, value in self.kept[actor][before.stored].things}
        behind = [(k, key) for k, key, value in before.things if stored.get((k, key)) != value]
        role.acknowledged = dict.fromkeys(behind)
        refusal: Refusal | None = None
        try:
            refusal = INPUTS[what](self, role, now, *details)
            role.settle(now)
        except Refused as refused:
            refusal = Refusal(0, refused.code, refused.reason, refused.retry)
        except Exception as error:
            raise Violation(f"WHOLE: a step breaks: {what} at the {role.title}: {error}") from error
        after = self._note(actor, _things(role))
        self._check(actor, before, after, role, now)
        if self.bounds.crashes:
            after = self._note_behind(actor, after, self._stored(actor, stored, role))
        return Taken(after, refusal, frozenset((type(role), pair) for pair in asked.pairs))

    def _stored(self, actor: int, before: dict[tuple[str, Key], Any], role: Role[Any]) -> int:
        """The number of what is in the ledger once the turn is committed."""
        after = {**before, **role.take_batch().changed}
        things = tuple((kind, key, v) for (kind, key), v in after.items() if v is not None)
        return self._note(actor, tuple(sorted(things, key=_in_order)))

    def _check(self, actor: int, before: Kept, after: int, role: Role[Any], now: int) -> None:
        kept = self.kept[actor][after]
        loaded = self.open(actor, kept.things)
        at = [tick for tick in (now, END - 1, END, LONGER - 1, LONGER) if tick >= now]
        invariants.check_lines(before.records, kept.records)
        invariants.check_books(role, loaded, at)
        if isinstance(role, Authority):
            invariants.check_site(role, before.things)

    def check_ends_alone(self, actor: int, kept: int, now: int) -> None:
        """ENDS, whatever the others fail to do: nobody answers any more, handlers still work."""
        names: list[tuple[int, int, int]] = []
        while (actor, kept, now) not in self._ending:
            names.append((actor, kept, now))
            here = self.kept[actor][kept]
            invariants.check_ends_honestly(here.records, now)
            living = [r for r in here.records if not state_of(r).final]
            due = [(key, work) for key, work in here.work if work.after <= now]
            ahead = [tick for tick, key in here.wakes if key in {r.key for r in living}]
            ahead += [work.after for _, work in here.work if work.after > now]
            if not living:
                break
            if due:
                kept = self.step(actor, kept, now, "handled", *due[0], True).kept
            elif not ahead or max(now, min(ahead)) > LONGER + HANDLER_TICKS:
                raise Violation(
                    f"ENDS: {living[0].id} stays {state_of(living[0]).value} at the "
                    f"{self.names[actor]} when nobody answers"
                )
            else:
                now = max(now, min(ahead))
                keys = [key for tick, key in here.wakes if tick <= now]
                for key in keys:
                    kept = self.step(actor, kept, now, "woken", key).kept
            if len(names) > ALONE_STEPS_MAX:
                raise Violation(f"ENDS: the {self.names[actor]} is busy for ever by itself")
        self._ending.update(names)


_KINDS = {"lease": 0, "delegation": 1, "unit": 2, "volume": 3, "posting": 4, "conflict": 5}


def _in_order(thing: tuple[str, Key, Any]) -> tuple[int, Key]:
    return (_KINDS[thing[0]], thing[1])


def _things(role: Role[Any]) -> tuple[tuple[str, Key, Any], ...]:
    """All that a role keeps, in order."""
    things: list[tuple[str, Key, Any]] = [("lease", key, r) for key, r in role.leases.items()]
    if isinstance(role, Authority | Broker):
        things += [("delegation", d.key, d) for d in role.delegations.values()]
        things += role.accounts.rows()
    if isinstance(role, Authority):
        things += [("unit", ("", u.name), u) for u in role.units.values()]
        things += [("conflict", key, conflict) for key, conflict in role.conflicts.items()]
    return tuple(sorted(things, key=_in_order))


# Inputs: what may happen to one role -----------------------------------------------------------


def _receive(world: World, role: Role[Any], now: int, sender: int, said: int) -> Refusal | None:
    return _present(world, role, now, world.names[sender], said)


def _present(world: World, role: Role[Any], now: int, sender: str, said: int) -> Refusal | None:
    key: PublicKey = key_of(sender).public
    return role.receive(key, world.messages[said], now)


def _acknowledged(world: World, role: Role[Any], _now: int, peer: int, said: int) -> None:
    message = world.messages[said]
    kid = key_of(world.names[peer]).public.kid
    role.delivered(_kind(role, message), (message.holder, message.rid), kid, message.n)


def _kind(role: Role[Any], message: Message) -> str:
    """What a message is said of."""
    of_site = isinstance(role, Authority) and isinstance(message, messages.UpdateTicket)
    return "delegation" if of_site else "lease"


def _refused(
    world: World, role: Role[Any], now: int, peer: int, said: int, code: str, reason: str
) -> None:
    message = world.messages[said]
    kid = key_of(world.names[peer]).public.kid
    key = (message.holder, message.rid)
    role.undeliverable(_kind(role, message), key, kid, message, Refusal(0, code, reason), now)


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


def _unsuitable(_world: World, role: Role[Any], now: int, key: Key, work: Work) -> None:
    told = "no such image"
    role.handler_ended(
        key, HandlerEnded(now=now, work=work, ok=False, message=told, unsuitable=True)
    )


def _dead(_world: World, role: Role[Any], now: int, unit: str) -> None:
    assert isinstance(role, Authority)
    role.unit_lost(unit, "it does not answer", now, "admin")


def _mended(_world: World, role: Role[Any], now: int, unit: str) -> None:
    assert isinstance(role, Authority)
    role.fresh_epoch(unit, now)
    role.lift_quarantine(unit, now)


def _released(_world: World, role: Role[Any], now: int, unit: str, epoch: int, owner: Key) -> None:
    role.carry_out(owner, Release(unit=unit, epoch=epoch), now)


def _quarantined(
    _world: World, role: Role[Any], now: int, unit: str, epoch: int, owner: Key
) -> None:
    role.carry_out(owner, Quarantine(unit=unit, epoch=epoch, reason="broken"), now)


def _woken(_world: World, role: Role[Any], now: int, key: Key) -> None:
    role.woken(key, now)


def _request(world: World, role: Role[Any], now: int, guest: str) -> None:
    assert isinstance(role, ServiceManager)
    follows = world.bounds.follows and guest != world.guests[0]
    wanted = wish(
        f"L-{guest}",
        Term(END, LONGER) if follows else Term(BEGIN, END),
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
    assert isinstance(role, Authority)
    role.retry(key, now, "admin")


def _close_at_site(_world: World, role: Role[Any], now: int, key: Key) -> None:
    role.apply(role.leases[key], CloseAsked(now=now, reason="the site needs it"), "admin")


def _revoke(world: World, role: Role[Any], now: int) -> None:
    assert isinstance(role, Authority)
    units = world.bounds.sold if revoking.is_gone(role.delegations["d1"]) else 0
    revoking.revoke(role, "d1", units, "sold", now, "admin")


INPUTS: dict[str, Callable[..., Refusal | None]] = {
    "receive": _receive,
    "present": _present,
    "acknowledged": _acknowledged,
    "refused": _refused,
    "handled": _handled,
    "unsuitable": _unsuitable,
    "dead": _dead,
    "mended": _mended,
    "released": _released,
    "quarantined": _quarantined,
    "woken": _woken,
    "request": _request,
    "extend": _extend,
    "retry": _retry,
    "close": _close,
    "close at site": _close_at_site,
    "revoke": _revoke,
}


def first_key(world: World) -> Key:
    """The lease of the first guest."""
    guest = world.guests[0]
    return (party_of(guest).kid, f"L-{guest}")
