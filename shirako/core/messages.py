"""What actors say to each other, named as in the literature, and how it is numbered.

Every message names its reservation: `(holder, rid)`, the holder being the guest's key. `n` counts
messages per reservation, peer and direction. The transport puts many into one signed envelope;
the order inside it is the order in which they were said.

Unknown fields are ignored, so that an older peer understands a newer one; an unknown *type* is
refused by itself and does not harm its neighbours in the envelope.
"""

from __future__ import annotations

from msgspec import Struct, json

from shirako.core.claims import Party, Ticket
from shirako.core.conflict import Conflict
from shirako.core.terms import Term

NAME_CHARACTERS_MAX = 64
RESTORED = "restored"
"""The code of a site's `Failed` that answers nothing: the site came back from a backup, and asks
the guest to redeem once more what it has. Whoever does not know the code drops it."""
MESSAGE_BYTES_MAX = 64 * 1024


class Numbered(Struct, frozen=True, gc=False, kw_only=True, tag_field="is", omit_defaults=True):
    """What all messages share."""

    rid: str
    holder: str
    n: int = 0
    """Given by the sender's side of the exchange when the message is put out."""


class TicketRequest(Numbered, frozen=True, kw_only=True, tag="Ticket"):
    """Guest to broker: so many units of a type, for a term."""

    guest: Party
    slice: str
    type: str
    units: int
    least_units: int
    """Fewer than asked for are taken down to this; equal to `units` unless the guest says so."""
    term: Term
    properties: dict[str, str] = {}


class ExtendTicket(Numbered, frozen=True, kw_only=True, tag="ExtendTicket"):
    """Guest to broker: the same units until `end`; an earlier end down to `least_end` will do."""

    end: int
    least_end: int


class Relinquish(Numbered, frozen=True, kw_only=True, tag="Relinquish"):
    """Guest or authority to broker: this capacity is given back; the receipt proves it."""

    receipt: str = ""


class Offer(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """What would work, in a refusal or beside an answer; every field is optional."""

    latest_end: int | None = None
    """The latest end that the units asked for could have."""
    cap: str | None = None
    """What sets that end: `delegation`, `booked`."""
    units: int | None = None
    """How many units are free during the whole term asked for."""
    start: int | None = None
    """The earliest start from which the whole request fits."""


class UpdateTicket(Numbered, frozen=True, kw_only=True, tag="UpdateTicket"):
    """Broker to guest, or authority to broker: a snapshot of what is promised."""

    answers: int = 0
    """Number of the request that this answers; 0: it answers none (rule 8)."""
    ticket: Ticket = ()
    """In answer to a Ticket or a Relinquish: the whole; to an ExtendTicket: the extension."""
    closed: bool = False
    offer: Offer = Offer()
    properties: dict[str, str] = {}
    revocation: str = ""
    """The site has taken back, wholly or in part, the root claim that this rests on."""


class Redeem(Numbered, frozen=True, kw_only=True, tag="Redeem"):
    """Guest to authority: a ticket for a lease, and how the units shall be configured."""

    ticket: Ticket
    slice: str
    least_units: int
    keys: tuple[str, ...] = ()
    properties: dict[str, str] = {}


class ExtendLease(Numbered, frozen=True, kw_only=True, tag="ExtendLease"):
    """Guest to authority: claims on exactly `[old end, new end)` for the units of a live lease."""

    ticket: Ticket


class Close(Numbered, frozen=True, kw_only=True, tag="Close"):
    """Guest to authority: the end. Carries every ticket held, so that none can be spent later."""

    ticket: Ticket


class UnitState(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
    """One unit as the guest sees it, with its unit properties."""

    unit: str
    epoch: int
    properties: dict[str, str] = {}


class UpdateLease(Numbered, frozen=True, kw_only=True, tag="UpdateLease"):
    """Authority to guest: a snapshot of the lease; `closed` with a receipt is the last one."""

    answers: int = 0
    lease: str = ""
    units: tuple[UnitState, ...] = ()
    closed: bool = False
    close_failed: bool = False
    receipt: str = ""
    reason: str = ""
    degraded: str = ""
    """Why fewer units work than the lease promises; empty: all of them do."""
    revoked: str = ""
    """Why nothing more is to be had of what the lease rests on: it runs on to its end, and no
    further. Empty: nothing was revoked."""


class Failed(Numbered, frozen=True, kw_only=True, tag="Failed"):
    """The refusal of one message, for a machine (`code`) and a person (`reason`)."""

    answers: int
    code: str
    reason: str
    offer: Offer = Offer()
    receipt: str = ""
    """Of a refused redeem: proof that its claims are void, for the broker."""
    conflict: Conflict | None = None
    """What shows that the broker sold more than it holds."""
    revocation: str = ""
    """Of what the site has revoked: its statement that it did."""


Message = (
    TicketRequest
    | ExtendTicket
    | Relinquish
    | UpdateTicket
    | Redeem
    | ExtendLease
    | Close
    | UpdateLease
    | Failed
)

encode = json.Encoder().encode
decode = json.Decoder(Message).decode
"""Raises msgspec.ValidationError, whose text names the field that is wrong."""
