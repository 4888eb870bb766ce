"""What an actor knows that comes back from a backup: its ledger is a past that went on without it.

Every backup carries a record that says that it is one. An actor that finds it starts *held* until
an operator confirms (rule 13). While it is held:

- no timer is due: nothing is torn down, left or closed because of a term that the backup names;
- no handler runs, neither what was pending then nor what messages ask for meanwhile; nothing is
  probed, cleaned or mended, and no policy decides;
- a broker sells nothing, since what it sold after the backup is not in its calendars;
- a site takes up no reservation that it does not know: the ticket may be spent, and the units that
  its books call free may be in use. It extends leases that it knows, also when their term is over
  by its books: for those time stands still;
- everything that only teaches it is taken: answers, snapshots, receipts, delegations, and a close
  of a lease that it knows, since its guest wants that now. What it said before the backup and was
  not acknowledged is said again under the old numbers: a late copy, which peers know how to take.

Numbers. Peers drop messages whose numbers they have seen (rule 7), and the numbers after the
backup were used. So what is said from now on, for every reservation, also for those that the
backup does not know, is numbered from the time of the first start on, in milliseconds. This goes
on after the confirmation, for ever. Peers take any larger number.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from shirako.core.exchange import Line
from shirako.core.machine import Key
from shirako.core.messages import Close, ExtendLease, ExtendTicket, Message, Redeem, TicketRequest
from shirako.ledger import Write

KIND = "restored"
KEY: Key = ("", "ledger")
NUMBERS_STEP = 1_000_000
"""So far do numbers jump when the clock of the restored machine is behind."""


class Restored(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """That a ledger is, or is from, a backup."""

    actor: str
    role: str
    kid: str = ""
    """Thumbprint of the actor's key when the backup was taken."""
    taken: int = 0
    """The last tick that the backup knows of."""
    begun: int = 0
    """The tick of the first start from it; 0: there was none yet."""
    numbers_after: int = 0
    """Messages said since then have larger numbers."""
    confirmed: int = 0
    """The tick at which an operator ended the hold; 0: the actor is held."""
    by: str = ""
    unsold: dict[str, int] = {}
    """Of a broker: until when it sells nothing of a delegation, by the delegation's id."""


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Restored).decode


def write(restored: Restored) -> Write:
    """What stores it in a ledger."""
    return Write(KIND, "/".join(KEY), encode(restored))


def marked(earlier: Restored | None, *, actor: str, role: str, kid: str, taken: int) -> Restored:
    """What a backup says of itself, of a ledger which may be from an earlier one."""
    fresh = Restored(actor=actor, role=role, kid=kid, taken=taken)
    if earlier is None:
        return fresh
    return replace(fresh, numbers_after=earlier.numbers_after, unsold=earlier.unsold)


def begun(restored: Restored, now_ms: int, held_delegations: Mapping[str, int]) -> Restored:
    """The same after the first start; `held_delegations`: the end of each, by id."""
    if restored.begun:
        return restored
    # never ahead of the clock but when it is behind: an older backup may be restored after this one
    numbers_after = restored.numbers_after
    return replace(
        restored,
        begun=now_ms // 1000,
        numbers_after=now_ms if now_ms > numbers_after else numbers_after + NUMBERS_STEP,
        unsold={**restored.unsold, **held_delegations},
    )


def renumbered(
    before: Mapping[str, Line], after: Mapping[str, Line], numbers_after: int
) -> dict[str, Line]:
    """Lines on which all that was said since `before` has numbers larger than `numbers_after`."""
    return {
        kid: _beyond(line, before.get(kid, Line()).sent, numbers_after)
        for kid, line in after.items()
    }


def _beyond(line: Line, sent: int, numbers_after: int) -> Line:
    """What was said up to number `sent` keeps its number: it is a late copy of the past."""
    if line.sent <= sent or sent >= numbers_after:
        return line
    if next((m.n for m in line.unacked if m.n > sent), line.sent) > numbers_after:
        return line  # it is beyond already: twice as far, a second restore would come in between
    lift = numbers_after - sent

    def lifted(message: Message) -> Message:
        return replace(message, n=message.n + lift) if message.n > sent else message

    return replace(
        line,
        sent=line.sent + lift,
        last=None if line.last is None else lifted(line.last),
        unacked=tuple(map(lifted, line.unacked)),
    )


def has_to_wait(message: Message, *, known: bool) -> bool:
    """Whether a held actor puts a message off; `known`: it is about a reservation in its books."""
    if isinstance(message, TicketRequest | ExtendTicket):
        return True
    return not known and isinstance(message, Redeem | ExtendLease | Close)
