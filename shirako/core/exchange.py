"""The numbered exchange of one reservation with one peer (rules 7 and 8).

At least once plus idempotent is exactly once in effect: the sender keeps a message until the
peer's side has it durably, and sends it again with the *same* number after a crash; the receiver
takes each number once. A newer request or update makes an older one pointless and replaces it. A
refusal (`Failed`) replaces nothing, since it says nothing of what the last update said, and is
replaced by nothing, since somebody waits for it.
"""

from __future__ import annotations

from enum import Enum, auto

from msgspec import Struct
from msgspec.structs import replace

from shirako.core.messages import Failed, Message, UpdateLease, UpdateTicket

REFUSALS_MAX = 4
"""Refusals kept for a peer that takes none of them: of older ones it no longer waits for any."""


_ANSWERS = (UpdateTicket, UpdateLease, Failed)


class Arrival(Enum):
    """How an incoming number relates to those that came before."""

    NEW = auto()
    DUPLICATE = auto()
    OLD = auto()


class Line(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What one side remembers of the exchange with one peer."""

    sent: int = 0
    seen: int = 0
    last: Message | None = None
    """Said last, acknowledged or not: the answer to a duplicate. A request that was delivered is
    said no more, and forgotten."""
    unacked: tuple[Message, ...] = ()
    """Said and not yet known to be durable at the peer, oldest first: the outbox."""

    def arrival(self, n: int) -> Arrival:
        if n > self.seen:
            return Arrival.NEW
        return Arrival.DUPLICATE if n == self.seen else Arrival.OLD

    def took(self, n: int) -> Line:
        return replace(self, seen=n)

    def say(self, message: Message) -> Line:
        """The line with `message` numbered and put out."""
        numbered = replace(message, n=self.sent + 1)
        refusals: tuple[Message, ...] = tuple(m for m in self.unacked if isinstance(m, Failed))
        if not isinstance(message, Failed):
            kept = refusals
        elif len(refusals) < REFUSALS_MAX:
            kept = self.unacked
        else:
            kept = tuple(m for m in self.unacked if m is not refusals[0])
        return replace(self, sent=numbered.n, last=numbered, unacked=(*kept, numbered))

    def say_again(self, n: int) -> Line:
        """The line with the answer to request `n` put out again, if it has been given."""
        last = self.last
        if not isinstance(last, _ANSWERS) or last.answers != n:
            return self
        if last in self.unacked:
            return self
        return replace(self, unacked=(*self.unacked, last))

    def delivered(self, n: int) -> Line:
        """The line without the messages up to number `n`: the peer has them durably."""
        last = self.last
        if last is not None and last.n <= n and not isinstance(last, _ANSWERS):
            last = None
        return replace(self, last=last, unacked=tuple(m for m in self.unacked if m.n > n))
