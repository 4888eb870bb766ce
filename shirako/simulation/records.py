"""What actors have committed, read from the bytes in their ledgers: the fields that checks use.

These structs are the simulation's own, so that no check believes a property or default of the
classes that it judges. Unknown fields are skipped. What others are to judge by themselves, conflict
proofs and accounts of receipts, is read as anybody would read it.
"""

from __future__ import annotations

from msgspec import Raw, Struct, json

from shirako.core.account import Posting, Volume
from shirako.core.conflict import Conflict

Key = tuple[str, str]


class TermRecord(Struct, frozen=True, gc=False):
    """`[start, end)` in ticks."""

    start: int
    end: int


class PartyRecord(Struct, frozen=True):
    kid: str


class LineRecord(Struct, frozen=True, gc=False):
    """One exchange: numbers, and what is still to be delivered."""

    sent: int = 0
    seen: int = 0
    last: Raw = Raw()
    unacked: tuple[Raw, ...] = ()


class AncestorRecord(Struct, frozen=True, gc=False):
    digest: str
    capacity: int


class SpentRecord(Struct, frozen=True):
    jti: str
    issuer: str
    units: int
    term: TermRecord
    ancestors: tuple[AncestorRecord, ...]
    tokens: tuple[str, ...] = ()


class AssignmentRecord(Struct, frozen=True, gc=False):
    unit: str
    epoch: int
    phase: str = "priming"
    swapped: bool = False

    @property
    def open(self) -> bool:
        """The unit is this lease's: between its assignment and the end of its teardown."""
        return self.phase not in ("closed", "failed")


class LeaseRecord(Struct, frozen=True, kw_only=True):
    """What the records of all roles share."""

    id: str
    guest: PartyRecord
    state: str
    units: int
    least_units: int
    term: TermRecord
    lines: dict[str, LineRecord] = {}

    @property
    def key(self) -> Key:
        return (self.guest.kid, self.id)

    @property
    def final(self) -> bool:
        return self.state in ("Closed", "Failed", "CloseFailed")


class SiteRecord(LeaseRecord, frozen=True, kw_only=True):
    broker: PartyRecord
    spent: tuple[SpentRecord, ...] = ()
    assignments: tuple[AssignmentRecord, ...] = ()
    keys: tuple[str, ...] = ()
    degraded: str = ""
    receipt: str = ""
    redeemed: bool = False


class GrantRecord(Struct, frozen=True):
    delegation: str
    units: int
    term: TermRecord
    jti: str
    chain: tuple[str, ...]


class BrokerRecord(LeaseRecord, frozen=True, kw_only=True):
    grants: tuple[GrantRecord, ...] = ()


class UnitStateRecord(Struct, frozen=True):
    unit: str
    epoch: int


class AnswerRecord(Struct, frozen=True):
    asked_end: int
    granted_end: int
    refused: str = ""


class GuestRecord(LeaseRecord, frozen=True, kw_only=True):
    broker: PartyRecord
    ticket: tuple[tuple[str, ...], ...] = ()
    held: tuple[UnitStateRecord, ...] = ()
    joined: tuple[str, ...] = ()
    answer: AnswerRecord | None = None
    asked_units: int = 0
    degraded: str = ""
    receipt: str = ""
    reason: str = ""


class UnitRecord(Struct, frozen=True):
    name: str
    type: str
    epoch: int = 0
    owner: Key | None = None
    quarantined: str = ""
    drained: str = ""


class DelegationRecord(Struct, frozen=True):
    id: str
    holder: PartyRecord
    type: str
    units: int
    term: TermRecord
    chain: tuple[str, ...]
    overbooking: float = 1.0
    source: str = ""
    revocation: str = ""
    lines: dict[str, LineRecord] = {}


class LineageRecord(Struct, frozen=True):
    """What an actor keeps of the keys of another one."""

    tokens: tuple[str, ...]


Record = (
    SiteRecord
    | BrokerRecord
    | GuestRecord
    | UnitRecord
    | DelegationRecord
    | Posting
    | Volume
    | Conflict
    | LineageRecord
)


def opened(kept: dict[tuple[str, Key], Record]) -> dict[tuple[str, Key, int], int]:
    """Unit, lease and epoch of each assignment that is not over -> when its lease ends."""
    return {
        (a.unit, record.key, a.epoch): record.term.end
        for record in kept.values()
        if isinstance(record, SiteRecord) and not record.final
        for a in record.assignments
        if a.open
    }


def spent_in(kept: dict[tuple[str, Key], Record]) -> set[tuple[Key, SpentRecord]]:
    """What a site has redeemed, and for which lease."""
    return {
        (record.key, spent)
        for record in kept.values()
        if isinstance(record, SiteRecord)
        for spent in record.spent
    }


LEASES: dict[str, type[SiteRecord] | type[BrokerRecord] | type[GuestRecord]] = {
    "site": SiteRecord,
    "broker": BrokerRecord,
    "guest": GuestRecord,
}
"""By the part that an actor plays."""

_DECODERS = {
    **{(part, "lease"): json.Decoder(record).decode for part, record in LEASES.items()},
    **{(part, "unit"): json.Decoder(UnitRecord).decode for part in LEASES},
    **{(part, "delegation"): json.Decoder(DelegationRecord).decode for part in LEASES},
    ("broker", "given"): json.Decoder(DelegationRecord).decode,
    **{(part, "lineage"): json.Decoder(LineageRecord).decode for part in LEASES},
    **{(part, "posting"): json.Decoder(Posting).decode for part in ("site", "broker")},
    ("site", "volume"): json.Decoder(Volume).decode,
    ("site", "conflict"): json.Decoder(Conflict).decode,
}


def read(part: str, kind: str, body: bytes) -> Record | None:
    """What was committed; None for kinds of things that no check looks at."""
    decoder = _DECODERS.get((part, kind))
    record: Record | None = decoder(body) if decoder is not None else None
    return record


class Heading(Struct, frozen=True, rename={"what": "is"}):
    """What all messages share."""

    what: str
    rid: str
    holder: str
    n: int = 0


read_heading = json.Decoder(Heading).decode


class EnvelopeBody(Struct, frozen=True):
    iss: str
    aud: str
    messages: list[Raw]


read_envelope = json.Decoder(EnvelopeBody).decode


class RefusalRecord(Struct, frozen=True):
    index: int
    code: str
    retry: bool = False
    reason: str = ""
    conflict: Conflict | None = None


class AcknowledgementBody(Struct, frozen=True):
    refused: tuple[RefusalRecord, ...] = ()


read_acknowledgement = json.Decoder(AcknowledgementBody).decode


class FailedRecord(Struct, frozen=True):
    """The refusal of a request that was answered by a message."""

    answers: int
    code: str
    reason: str = ""
    conflict: Conflict | None = None


read_failed = json.Decoder(FailedRecord).decode


class PresentedRecord(Struct, frozen=True):
    """A ticket that a guest presents to its site."""

    ticket: tuple[tuple[str, ...], ...]


read_presented = json.Decoder(PresentedRecord).decode


class ClaimBody(Struct, frozen=True):
    """A claim as it was signed."""

    iss: str
    sub: str
    nbf: int
    exp: int
    jti: str
    type: str
    units: int
    parent: str = ""
    rid: str = ""
    extends: str = ""
    overbooking: float = 1.0


read_claim = json.Decoder(ClaimBody).decode


class ReceiptBody(Struct, frozen=True):
    """A receipt as it was signed."""

    holder: str
    reservation: str
    claims: tuple[str, ...]
    units_freed: int
    tick: int
    redeemed: bool
    final: bool
    failed_units: tuple[str, ...] = ()
    postings: tuple[Posting, ...] = ()


read_receipt = json.Decoder(ReceiptBody).decode


class RevocationBody(Struct, frozen=True):
    """A revocation as it was signed."""

    digest: str
    units: int
    number: int


read_revocation = json.Decoder(RevocationBody).decode
