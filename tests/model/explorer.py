"""Explores every run of a small world, and holds the invariants against each state.

The network loses, repeats and reorders. An outbox is delivered again until it is acknowledged, so
a lost envelope is a delivery that comes later; a *copy* of a message may stay under way and arrive
at any time until it is stale; an acknowledgement may be lost. Copies and lost acknowledgements are
bounded by `faults`, handlers that fail by `failures`. Time is one clock, which moves from deadline
to deadline, whatever is under way; each actor hears of its own deadlines before the next one.

Crashes. Every step is made by a role that was loaded, so a crash between two turns is in every
run. A crash while a message is on its way costs the delivery: it comes later. A crash after the
commit and before the answer, and one that forgets which deliveries were acknowledged (they are
stored with the record's next change), are edges of their own, once an actor, in worlds with
`crashes`. That the real loop stores such acknowledgements within seconds is left out: it only
takes runs away.

ENDS is checked as follows. Call an edge *progress* if it happens by itself: a delivery, a handler
that works, a deadline, time going on. Faults, failures, crashes and what people wish are none.
1. Progress has no circle, anywhere in the whole graph of reachable states, which is finite.
2. A state without a progress edge has no lease that is not final, and no message that waits.
So from *every* reachable state, whatever faults, failures and wishes led there, each run in which
something that can happen does happen ends after finitely many steps with every lease final: no
fairness among the actors is needed beyond that. Time may go on before anything else does, so this
holds also where answers come too late for every deadline.
3. Where nobody answers any more, each actor's leases become final by its own deadlines and
handlers (`World.check_ends_alone`), from every reachable state.
4. All that has happened by the last end plus a bounded time (`Result.latest_end`): no state later
than that has a live lease.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from time import process_time
from typing import Any, NamedTuple

from msgspec.structs import replace

from shirako.core.authority import SiteLease, SiteState
from shirako.core.broker import BrokerLease, BrokerState
from shirako.core.exchange import Line
from shirako.core.guest import GuestLease, GuestState
from shirako.core.machine import Key, Record, Work, state_of
from shirako.core.messages import Message
from tests.core.cast import SKEW
from tests.model import dishonest, invariants
from tests.model.invariants import Violation
from tests.model.world import BEGIN, END, HANDLER_TICKS, LONGER, Bounds, Mutation, World, first_key

STATES_MAX = 400_000


class Left(NamedTuple):
    """What is left to happen."""

    requests: int
    """A bit for each guest."""
    crashes: int
    """A bit for each actor."""
    faults: int
    failures: int
    extensions: int
    retries: int
    site_closes: int
    revokes: int
    unsuitable: int
    deaths: int
    idle_deaths: int
    mends: int
    presents: int


class State(NamedTuple):
    """A state of the world: numbers of what each actor keeps, and what is left to happen."""

    now: int
    kept: tuple[int, ...]
    copies: tuple[tuple[int, int, int, int], ...]
    """(sender, receiver, message, tick at which it was sealed)."""
    left: Left


Label = tuple[Any, ...]
"""What happened: words, and for a message `(word, sender, receiver, messages)`."""


@dataclass(frozen=True)
class Result:
    """What was found of one world."""

    states: int
    edges: int
    depth: int
    """The longest of the shortest ways to a state, in edges."""
    steps: int
    """Different steps of single roles."""
    combinations: dict[tuple[str, ...], int]
    """Reachable combinations of the actors' states for the first lease: the earliest tick."""
    marks: frozenset[str]
    """What else was reached: see `_marks`."""
    latest_end: int
    """The latest tick at which an actor's lease became final."""
    seconds: float
    """Of this process' time."""


def possible() -> int:
    """All combinations of the states that the three tables declare."""
    return len(GuestState) * len(BrokerState) * len(SiteState)


@dataclass
class Explorer:
    """Breadth-first over all states of a world."""

    world: World
    states_max: int = STATES_MAX
    parents: dict[State, tuple[State | None, Label]] = field(default_factory=dict)
    progress: dict[State, list[State]] = field(default_factory=dict)
    """Edges of what happens by itself."""
    edges: int = 0
    depth: int = 0
    combinations: dict[tuple[str, ...], int] = field(default_factory=dict)
    _checked: set[tuple[int, ...]] = field(default_factory=set)
    _names: dict[tuple[int, ...], tuple[str, ...]] = field(default_factory=dict)

    def run(self) -> None:
        """Explore all; raises `Violation`, also where there are more than `states_max` states."""
        first = self.start()
        self.parents[first] = (None, ("start",))
        level: deque[State] = deque([first])
        while level:
            following: deque[State] = deque()
            for state in level:
                try:
                    self._visit(state, following)
                except Violation as violation:
                    violation.trace = self.trace(state)
                    raise
            if len(self.parents) > self.states_max:
                raise Violation(f"BOUNDED: there are more than {self.states_max} states")
            self.depth += bool(following)
            level = following
        self._check_no_circles()

    def start(self) -> State:
        """The state in which every run begins."""
        bounds = self.world.bounds
        return State(
            now=BEGIN - bounds.starts_in,
            kept=tuple(self.world.first),
            copies=(),
            left=Left(
                requests=0 if bounds.presents else (1 << len(self.world.guests)) - 1,
                crashes=(1 << len(self.world.names)) - 1 if bounds.crashes else 0,
                faults=bounds.faults,
                failures=bounds.failures,
                extensions=bounds.extensions,
                retries=bounds.retries,
                site_closes=bounds.site_closes,
                revokes=bounds.revokes,
                unsuitable=bounds.unsuitable,
                deaths=bounds.deaths,
                idle_deaths=bounds.idle_deaths,
                mends=bounds.mends,
                presents=bounds.presents,
            ),
        )

    def _visit(self, state: State, following: deque[State]) -> None:
        self._check(state)
        names = self.names(state)
        if names not in self.combinations or self.combinations[names] > state.now:
            self.combinations[names] = state.now
        progress: list[State] = []
        resting = True
        for label, after, by_itself in self._actions(state):
            if by_itself:
                if after.now == state.now:
                    resting = False
                elif self.world.bounds.prompt and not resting:
                    continue  # time goes on last
                progress.append(after)
            self.edges += 1
            if after not in self.parents:
                self.parents[after] = (state, label)
                following.append(after)
        if progress:
            self.progress[state] = progress
        else:
            self._check_end(state)
        if resting and not state.copies:
            self._check_told(state)

    def result(self, seconds: float) -> Result:
        """What was found, after `run`."""
        world = self.world
        marks = {
            mark
            for actor in range(len(world.names))
            for number in {state.kept[actor] for state in self.parents}
            for record in world.kept[actor][number].records
            for mark in _marks(record)
        }
        forgotten = any(
            not state.left.requests
            and not any(world.kept[a][kept].records for a, kept in enumerate(state.kept))
            for state in self.parents
        )
        return Result(
            states=len(self.parents),
            edges=self.edges,
            depth=self.depth,
            steps=len(world.steps),
            combinations=self.combinations,
            marks=frozenset(marks | ({"all is forgotten"} if forgotten else set())),
            latest_end=self._latest_end(),
            seconds=seconds,
        )

    # For people ---------------------------------------------------------------------------------

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
        known = self._names.get(state.kept)
        if known is None:
            records = self._records(state, first_key(self.world), 0)
            known = tuple("-" if r is None else str(state_of(r).value) for r in records)
            self._names[state.kept] = known
        return known

    def _records(
        self, state: State, key: Key, guest: int
    ) -> tuple[Record | None, Record | None, Record | None]:
        """What guest, broker and site keep of a lease."""
        kept, world = self.world.kept, self.world
        return (
            kept[guest][state.kept[guest]].find(key),
            kept[world.broker][state.kept[world.broker]].find(key),
            kept[world.site][state.kept[world.site]].find(key),
        )

    def _of_lease(
        self, state: State, key: Key, actor: int
    ) -> tuple[GuestLease | None, BrokerLease | None, SiteLease | None]:
        """The same, as what they are."""
        guest, broker, site = self._records(state, key, actor)
        assert guest is None or isinstance(guest, GuestLease)
        assert broker is None or isinstance(broker, BrokerLease)
        assert site is None or isinstance(site, SiteLease)
        return guest, broker, site

    # What may happen next -----------------------------------------------------------------------

    def _actions(self, state: State) -> Iterator[tuple[Label, State, bool]]:
        """(what happens, the state after it, whether it happens by itself)."""
        yield from self._wishes(state)
        yield from self._admins(state)
        for actor, name in enumerate(self.world.names):
            kept = self.world.kept[actor][state.kept[actor]]
            for kid, said in kept.outbox:
                if kid in self.world.number:  # a thief is told nothing
                    yield from self._deliveries(state, actor, self.world.number[kid], said)
            for key, work in kept.work:
                if work.after <= state.now:
                    yield from self._handlers(state, actor, name, key, work)
            for tick, key in kept.wakes:
                if tick <= state.now:
                    yield (name, "is woken"), self._after(state, actor, "woken", key), True
            if kept.stored != kept.memory:
                back = self._put(state, actor, kept.stored)
                forgetting = "crashes and forgets what was acknowledged"
                yield (name, forgetting), self._crashed(back, actor), False
        for copy in state.copies:
            yield from self._late_copy(state, copy)
        if self.world.bounds.stale:
            self._check_stale(state)
        if self.world.bounds.dishonest:
            yield from self._dishonest(state)
        yield from self._time(state)

    def _after(self, state: State, actor: int, what: str, *details: Any) -> State:
        taken = self.world.step(actor, state.kept[actor], state.now, what, *details)
        return self._put(state, actor, taken.kept)

    def _put(self, state: State, actor: int, after: int) -> State:
        if not state.left.crashes >> actor & 1:
            after = self.world.kept[actor][after].memory
        kept = (*state.kept[:actor], after, *state.kept[actor + 1 :])
        return State(state.now, kept, state.copies, state.left)  # `_replace` takes twice as long

    def _crashed(self, state: State, actor: int) -> State:
        """The same when the actor has had its crash."""
        left = state.left._replace(crashes=state.left.crashes & ~(1 << actor))
        return self._put(state._replace(left=left), actor, state.kept[actor])

    @staticmethod
    def _spend(state: State, what: str) -> State:
        left = state.left._replace(**{what: getattr(state.left, what) - 1})
        return state._replace(left=left)

    def _wishes(self, state: State) -> Iterator[tuple[Label, State, bool]]:
        for actor, guest in enumerate(self.world.guests):
            if state.left.requests & 1 << actor:
                if state.now >= END or (actor and not self._is_second(state)):
                    continue
                after = self._after(state, actor, "request", guest)
                left = state.left._replace(requests=state.left.requests - (1 << actor))
                yield (guest, "requests"), after._replace(left=left), False
                continue
            for record in self.world.kept[actor][state.kept[actor]].records:
                if state.left.extensions and state_of(record) is GuestState.ACTIVE:
                    after = self._after(state, actor, "extend", record.key)
                    yield (guest, "extends"), self._spend(after, "extensions"), False
                if self.world.bounds.closes:
                    after = self._after(state, actor, "close", record.key)
                    if after != state:
                        yield (guest, "closes"), after, False

    def _admins(self, state: State) -> Iterator[tuple[Label, State, bool]]:
        left, site = state.left, self.world.site
        if left.revokes:
            after = self._after(state, site, "revoke")
            yield ("admin", "revokes or gives back"), self._spend(after, "revokes"), False
        if not any((left.retries, left.site_closes, left.deaths, left.idle_deaths, left.mends)):
            return
        kept = self.world.kept[site][state.kept[site]]
        for unit in kept.units:
            dies = "deaths" if unit.owner else "idle_deaths"
            if getattr(left, dies) and not unit.quarantined:
                after = self._after(state, site, "dead", unit.name)
                yield (unit.name, "dies"), self._spend(after, dies), False
            at_work = {work.unit for _, work in kept.work}
            if left.mends and unit.quarantined and not unit.owner and unit.name not in at_work:
                after = self._after(state, site, "mended", unit.name)
                yield ("admin", "mends", unit.name), self._spend(after, "mends"), False
        for record in kept.records:
            where = state_of(record)
            if where is SiteState.CLOSE_FAILED and left.retries:
                after = self._after(state, site, "retry", record.key)
                yield ("admin", "retries"), self._spend(after, "retries"), False
            closable = (SiteState.REDEEMING, SiteState.PRIMING, SiteState.ACTIVE)
            if where in closable and left.site_closes:
                after = self._after(state, site, "close at site", record.key)
                yield ("admin", "closes"), self._spend(after, "site_closes"), False

    def _is_second(self, state: State) -> bool:
        """Who follows asks when the first has got its lease; otherwise guests ask as they like."""
        if not self.world.bounds.follows:
            return True
        records = self.world.kept[0][state.kept[0]].records
        return any(state_of(record) is GuestState.ACTIVE for record in records)

    def _deliveries(
        self, state: State, sender: int, receiver: int, said: tuple[Message, ...]
    ) -> Iterator[tuple[Label, State, bool]]:
        numbers, heard, done = self.world.delivery(
            state.now, sender, state.kept[sender], receiver, state.kept[receiver], said
        )
        unanswered = self._put(state, receiver, heard)
        if state.left.faults:
            for number in self._first_of_each(numbers):
                copy = (sender, receiver, number, state.now)
                copies = tuple(sorted((*state.copies, copy)))
                copied = self._spend(state._replace(copies=copies), "faults")
                yield ("a copy stays under way", sender, receiver, (number,)), copied, False
            if unanswered != state:
                lost = self._spend(unanswered, "faults")
                yield ("answer lost", sender, receiver, numbers), lost, False
        if state.left.crashes >> receiver & 1 and unanswered != state:
            stored = self.world.kept[receiver][heard].stored
            crashed = self._crashed(self._put(unanswered, receiver, stored), receiver)
            yield ("crashes before it answers", sender, receiver, numbers), crashed, False
        taken = self._put(unanswered, sender, done)
        if taken != state:
            yield ("delivered", sender, receiver, numbers), taken, True

    def _first_of_each(self, numbers: tuple[int, ...]) -> list[int]:
        """The first message of each lease in an envelope: an envelope holds all that is to be said
        of a lease, in order, so no copy has a later one without it."""
        of = [(m.holder, m.rid) for m in (self.world.messages[number] for number in numbers)]
        return [number for place, number in enumerate(numbers) if of[place] not in of[:place]]

    def _late_copy(
        self, state: State, copy: tuple[int, int, int, int]
    ) -> Iterator[tuple[Label, State, bool]]:
        sender, receiver, number, _ = copy
        rest = list(state.copies)
        rest.remove(copy)
        after = self._after(state, receiver, "receive", sender, number)
        label = ("late copy", sender, receiver, (number,))
        yield label, after._replace(copies=tuple(rest)), True

    def _check_stale(self, state: State) -> None:
        """EXCLUSIVE: what arrives from an older epoch, or is another lease's, changes nothing."""
        site, now = self.world.site, state.now
        number = state.kept[site]
        kept = self.world.kept[site][number]
        late: list[tuple[Any, ...]] = []
        for unit in kept.units:
            if unit.owner is not None:
                older = (unit.name, unit.epoch - 1, unit.owner)
                late += [("released", *older), ("quarantined", *older)]
                late.append(("released", unit.name, unit.epoch, ("somebody", "else")))
        for actor, name in enumerate(self.world.names):
            before = state.kept[actor]
            early: list[tuple[Any, ...]] = []
            for key, work in self.world.kept[actor][before].work:
                past = (replace(work, epoch=work.epoch - 1), replace(work, attempt=99))
                early += [("handled", key, other, True) for other in past]
                early.append(("handled", ("nobody", "none"), work, True))
            for record in self.world.kept[actor][before].records:
                if record.wake is None or record.wake > now:
                    early.append(("woken", record.key))
            early.append(("woken", ("nobody", "none")))
            for what, *details in early:
                if self.world.step(actor, before, now, what, *details).kept != before:
                    raise Violation(f"EXCLUSIVE: the {name} is {what} out of its time")
        for what, *details in late:
            if self.world.step(site, number, now, what, *details).kept != number:
                raise Violation(f"EXCLUSIVE: {details[0]} is {what} by an older assignment")

    def _dishonest(self, state: State) -> Iterator[tuple[Label, State, bool]]:
        if self.world.bounds.presents:
            items = dishonest.taken_together()
        else:
            items = dishonest.presented(*self._of_lease(state, first_key(self.world), 0))
        for item in items:
            actor = self.world.names.index(item.to)
            number = self.world.message(item.message)
            taken = self.world.step(
                actor, state.kept[actor], state.now, "present", item.sender, number
            )
            before = self.world.kept[actor][state.kept[actor]].things
            after = self.world.kept[actor][taken.kept].things
            if dishonest.held(before) == dishonest.held(after):
                continue
            if item.never:
                raise Violation(f"{item.never}: the {item.to} takes {item.name}")
            if state.left.presents:
                spent = self._spend(self._put(state, actor, taken.kept), "presents")
                yield (item.sender, "presents", item.name), spent, False

    def _handlers(
        self, state: State, actor: int, name: str, key: Key, work: Work
    ) -> Iterator[tuple[Label, State, bool]]:
        label = (name, work.handler, work.unit)
        yield (*label, "worked"), self._after(state, actor, "handled", key, work, True), True
        if state.left.failures:
            after = self._after(state, actor, "handled", key, work, False)
            yield (*label, "failed"), self._spend(after, "failures"), False
        if state.left.unsuitable and work.handler == "setup":
            after = self._after(state, actor, "unsuitable", key, work)
            yield (*label, "is not to be had"), self._spend(after, "unsuitable"), False

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
        name = (state.now, *state.kept)
        if name in self._checked:
            return
        self._checked.add(name)
        world = self.world
        for actor, kept in enumerate(state.kept):
            world.check_ends_alone(actor, kept, state.now)
        brokers = world.kept[world.broker][state.kept[world.broker]].records
        sites = world.kept[world.site][state.kept[world.site]].records
        if world.bounds.dishonest:  # what a dishonest broker sells is no concern of the honest one
            sites = tuple(r for r in sites if r.guest.kid in world.number)
        tickets = []
        for actor in range(len(world.guests)):
            records = world.kept[actor][state.kept[actor]].records
            invariants.check_whole(records)
            tickets += [(r, world.claims(r)) for r in records if isinstance(r, GuestLease)]
        invariants.check_whole(brokers)
        ticks = (state.now, END - 1, END, LONGER - 1)
        at = [tick for tick in ticks if tick >= state.now]
        invariants.check_conserved(brokers, sites, tickets, world.bounds.sold, state.now, at)

    def _check_told(self, state: State) -> None:
        """Nothing is under way: no message that is taken, no handler, no deadline that is due."""
        world = self.world
        if any(world.kept[a][kept].work for a, kept in enumerate(state.kept)):
            return
        site_keeps = world.kept[world.site][state.kept[world.site]]
        invariants.check_served(site_keeps.records, site_keeps.units, state.now)
        broker_keeps = world.kept[world.broker][state.kept[world.broker]]
        gone = invariants.check_heard(site_keeps.things, broker_keeps.things)
        for actor in range(len(world.guests)):
            for record in world.kept[actor][state.kept[actor]].records:
                guest, broker, site = self._of_lease(state, record.key, actor)
                assert guest is not None
                invariants.check_told(
                    guest,
                    broker,
                    site,
                    state.now,
                    patient=world.bounds.patient,
                    gone=gone,
                    all_join=world.bounds.joins and not world.bounds.failures,
                )

    def _check_end(self, state: State) -> None:
        """ENDS: where nothing happens by itself, every lease is final and nothing is unsaid."""
        for actor, name in enumerate(self.world.names):
            kept = self.world.kept[actor][state.kept[actor]]
            for record in kept.records:
                if not state_of(record).final:
                    raise Violation(
                        f"ENDS: nothing will happen, and {record.id} is "
                        f"{state_of(record).value} at the {name}"
                    )
            unsaid = [said for kid, said in kept.outbox if kid in self.world.number]
            if unsaid:
                said = type(unsaid[0][0]).__name__
                raise Violation(f"ENDS: the {name} says its {said} for ever, and nobody takes it")

    def _check_no_circles(self) -> None:
        """ENDS: no two actors keep each other busy for ever."""
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
            if state.now > latest and any(
                self._lives(actor, kept) for actor, kept in enumerate(state.kept)
            ):
                latest = state.now
        return latest

    def _lives(self, actor: int, kept: int) -> bool:
        return any(not state_of(r).final for r in self.world.kept[actor][kept].records)


def _marks(record: Record) -> Iterator[str]:
    """What a record shows of what was done, beside its state."""
    facts: dict[str, bool] = {}
    if isinstance(record, GuestLease):
        facts = {
            "with an extension": record.term.end == LONGER,
            "with fewer units": len(record.held) < record.asked_units and not record.degraded,
            "with another unit": any(unit.unit != "n1" for unit in record.held),
            "with a unit joined": bool(record.joined),
            "and degraded": bool(record.degraded),
            "with a refused extension": bool(record.answer and record.answer.refused),
            "and told of a revocation": bool(record.revoked),
            "with a proof of a revocation": bool(record.revocation),
            "as the second": record.id == "L-guest2",
        }
    elif isinstance(record, SiteLease):
        facts = {
            "with an extension": record.term.end == LONGER,
            "with a unit replaced": any(a.swapped for a in record.assignments)
            and len(record.working) == record.units,
            "with a unit swapped": any(a.swapped for a in record.assignments),
            "until units come free": bool(record.reason),
            "with two receipts": record.lines.get(record.broker.kid, Line()).sent > 1,
        }
    who = {GuestLease: "guest", BrokerLease: "broker", SiteLease: "site"}[type(record)]
    where = f"{who} is {state_of(record).value}"
    yield where
    yield from (f"{where} {what}" for what, so in facts.items() if so)


def explore(bounds: Bounds, mutation: Mutation | None = None) -> Result:
    """All runs within the bounds; raises `Violation`."""
    world = World(bounds)
    return explore_world(world.mutated(mutation) if mutation else world)


def explore_world(world: World, states_max: int = STATES_MAX) -> Result:
    """All runs of this world; raises `Violation`."""
    began = process_time()
    explorer = Explorer(world, states_max)
    gc.disable()  # millions of small tuples, none of them in a circle
    try:
        explorer.run()
    finally:
        gc.enable()
    return explorer.result(process_time() - began)
