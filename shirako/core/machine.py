"""How the three state tables run: `step(table, record, event, me) -> (record, effects)`.

Theory. An actor's record of a lease is a frozen value. Its state alone says what is under way;
what has still to be done for it (messages to say, handlers to run) is in the record too. A table
maps `(state, event type)` to an arrow: the states it may lead to and the action that computes the
next record. A pair that is not in the table is refused (`IllegalTransition`) and nothing changes.
An action is a pure function: `now` and everything read from tokens arrive in the event, and
signing is a function of the key and the bytes (Ed25519 has no randomness).

What follows from a step is of two kinds. What takes time is *in the record* (`lines[..].unacked`,
`work`): it is performed after the commit, and again after a crash until it is marked done. What
concerns the actor's other books (its policy, calendar, units) is an *effect*: the role applies it
in the same batch, before the commit, and answers questions with further events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Generic, Literal, NamedTuple, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from shirako.core.claims import Claim, Lease, Party, Receipt, Revocation
from shirako.core.exchange import Line
from shirako.core.messages import Message

Key = tuple[str, str]
"""`(holder's thumbprint, reservation id)`: a guest can only ever name its own."""

Handler = Literal["setup", "teardown", "join", "leave"]


class Work(Struct, frozen=True, gc=False, kw_only=True, order=True, omit_defaults=True):
    """A handler that has to run for one unit, until it has answered."""

    handler: Handler
    unit: str
    epoch: int
    attempt: int = 1
    after: int = 0
    """Not before this tick."""


class Record(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What the records of all three roles share. Each role adds its `state` and its own fields.

    Frozen, and made from the inside out: there is no cycle in it for the garbage collector to find,
    which would take a second to look through some hundred thousand (`gc=False`, also in what it
    holds).
    """

    id: str
    guest: Party
    slice: str
    type: str
    units: int
    least_units: int
    lines: dict[str, Line] = {}
    """Exchanges by the peer's thumbprint."""
    work: tuple[Work, ...] = ()
    wake: int | None = None
    """The tick at which the machine wants to be woken; one deadline a record."""
    reason: str = ""
    """Why the lease is where it is, for a person."""

    @property
    def key(self) -> Key:
        return (self.guest.kid, self.id)


class Event(Struct, frozen=True, kw_only=True):
    """Something that happened, at tick `now` of the actor it happened to."""

    quiet: ClassVar[bool] = False
    """Not worth a line in the lease's story unless it changes the state."""

    now: int


class HandlerEnded(Event, frozen=True, kw_only=True):
    """A handler answered: it worked, or it failed and `message` says why."""

    work: Work
    ok: bool
    outputs: dict[str, str] = {}
    checks: tuple[str, ...] = ()
    message: str = ""
    unsuitable: bool = False
    """What the lease asks for failed, not the unit."""


class Woken(Event, frozen=True, kw_only=True):
    """The record's `wake` tick has come."""

    quiet: ClassVar[bool] = True


class State(Enum):
    """Base of the roles' flat state enums; values are the names that people see."""

    @property
    def final(self) -> bool:
        """Whether nothing more will happen by itself."""
        return self.value in ("Closed", "Failed", "CloseFailed")


@dataclass(frozen=True, slots=True)
class Me:
    """The acting actor: who it is, what it signs with, how it is set up. No I/O behind it."""

    party: Party
    sign_claim: Callable[[Claim], str]
    sign_lease: Callable[[Lease], str]
    sign_receipt: Callable[[Receipt], str]
    sign_revocation: Callable[[Revocation], str]
    skew: int = 30
    """Ticks that clocks may differ by."""


R = TypeVar("R", bound=Record)


class Step(NamedTuple, Generic[R]):
    record: R
    effects: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Arrow(Generic[R]):
    """Where an event may lead, and the action that says which."""

    action: Callable[[R, Any, Me], Step[R]]
    targets: tuple[State, ...]


Table = Mapping[tuple[State, type[Event]], Arrow[R]]


class IllegalTransition(Exception):
    """This event means nothing in this state; nothing has changed."""

    def __init__(self, record: Record, state: State, event: Event) -> None:
        super().__init__(
            f"lease {record.id}: {type(event).__name__} means nothing in {state.value}"
        )
        self.state = state


def state_of(record: Record) -> State:
    """The state of any role's record."""
    state: State = record.state  # type: ignore[attr-defined] # each role has its own enum
    return state


def step(table: Table[R], record: R, event: Event, me: Me) -> Step[R]:
    """The next record and the effects; raises `IllegalTransition` and changes nothing."""
    state = state_of(record)
    arrow = table.get((state, type(event)))
    if arrow is None:
        raise IllegalTransition(record, state, event)
    result = arrow.action(record, event, me)
    reached = state_of(result.record)
    if reached not in arrow.targets:
        raise AssertionError(f"{type(event).__name__} led from {state} to {reached}, undeclared")
    return result


def say(record: R, to: str, message: Message) -> R:
    """The record with `message` put out to the peer with thumbprint `to`."""
    line = record.lines.get(to, Line()).say(message)
    return replace(record, lines={**record.lines, to: line})
