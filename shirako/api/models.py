"""The JSON of the REST API: what goes in (nothing unknown, nothing coerced) and what comes out.

Times are RFC 3339, in UTC where they come out; durations go in as seconds or as `2h`, `1h30m`.
Clients ignore fields that they do not know, so that an older client reads a newer server.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)
from pydantic_core import PydanticCustomError

from shirako.core.durations import parse_duration
from shirako.core.properties import (
    KEY,
    PROPERTIES_MAX,
    SSH_KEY,
    SSH_KEYS_MAX,
    UNPRINTABLE,
    VALUE_CHARACTERS_MAX,
    fault,
    ssh_key_fault,
)

UNITS_MAX = 10_000
TERM_SECONDS_MAX = 3650 * 86_400
PAGE_DEFAULT = 100
PAGE_MAX = 1000
NAME_PATTERN = r"^[a-z][a-z0-9.-]{0,39}$"

_INSTANT = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d(:\d\d(\.\d+)?)?([Zz]|[+-]\d\d:?\d\d)?\Z", re.A
)

_YEARS = r"^(197[1-9]|19[89][0-9]|[2-8][0-9]{3}|9[0-8][0-9]{2}|99[0-8][0-9]|999[0-8])-"
"""How a time begins, for the description: `_bounded_instant` is what decides."""


# Values --------------------------------------------------------------------------------------


def wrong(message: str) -> PydanticCustomError:
    """A fault of a value, said as it is."""
    return PydanticCustomError("value", "{message}", {"message": message})


def _read_instant(value: object) -> datetime:
    moment = value
    if isinstance(value, str):
        if not _INSTANT.match(value):
            raise wrong("a time is written as 2026-12-01T10:00:00Z")
        try:
            moment = datetime.fromisoformat(value.upper())
        except ValueError:
            raise wrong("there is no such date or time") from None
    if not isinstance(moment, datetime):
        raise wrong("a time is text such as 2026-12-01T10:00:00Z")
    if moment.tzinfo is None:
        raise wrong("a time without a time zone says nothing: add Z or an offset such as +01:00")
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise wrong("out of range: there is no such time in UTC") from None


def _write_instant(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


Instant = Annotated[
    datetime,
    BeforeValidator(_read_instant),
    PlainSerializer(_write_instant, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""An aware time, as UTC."""


def _bounded_instant(moment: datetime) -> datetime:
    if not 1971 <= moment.year <= 9998:
        raise wrong("out of range: years from 1971 to 9998 are taken")
    return moment


AskedInstant = Annotated[
    Instant,
    AfterValidator(_bounded_instant),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": _YEARS}),
]
"""One that a client asks for: far enough from the ends of time to be reckoned with."""


_PART = "[0-9]{1,9}"
_DURATION = (
    f"^ *{_PART}(d( *{_PART}h)?( *{_PART}m)?( *{_PART}s)?|h( *{_PART}m)?( *{_PART}s)?"
    f"|m( *{_PART}s)?|s) *$"
)
"""The form of a duration, for the description: `parse_duration` is what decides."""


def _read_duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_duration(value)
    except ValueError:
        # its own words repeat what was sent
        raise wrong("a duration is written as 90s, 5m, 2h, 3d or 1h30m") from None


def _bounded(seconds: int) -> int:
    if not 1 <= seconds <= TERM_SECONDS_MAX:
        raise wrong(f"from 1 second to {TERM_SECONDS_MAX // 86_400} days are taken")
    return seconds


Duration = Annotated[
    int,
    BeforeValidator(_read_duration),
    AfterValidator(_bounded),
    WithJsonSchema(
        {
            "description": "Seconds, or text such as 90s, 5m, 2h, 3d, 1h30m",
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": TERM_SECONDS_MAX},
                {"type": "string", "pattern": _DURATION},
            ],
        }
    ),
]
"""Whole seconds."""


def _name(value: str) -> str:
    if not re.match(NAME_PATTERN[:-1] + r"\Z", value):
        raise wrong("a lower-case letter, then at most 39 lower-case letters, digits, '.' or '-'")
    return value


Name = Annotated[
    str, AfterValidator(_name), WithJsonSchema({"type": "string", "pattern": NAME_PATTERN})
]


def _described(form: re.Pattern[str]) -> str:
    """A pattern of ours in the dialect of JSON Schema: the whole text is meant."""
    return f"^{form.pattern.removesuffix(chr(92) + 'Z')}$"


def _properties(value: Mapping[str, str]) -> Mapping[str, str]:
    found = fault(value)
    if found:
        raise wrong(found)
    return value


Properties = Annotated[
    dict[str, str],
    AfterValidator(_properties),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": PROPERTIES_MAX,
            "propertyNames": {"pattern": _described(KEY)},
            "additionalProperties": {
                "type": "string",
                "maxLength": VALUE_CHARACTERS_MAX,
                "pattern": f"^[^{UNPRINTABLE.pattern[1:-1]}]*$",
            },
        }
    ),
]


SshKey = Annotated[str, WithJsonSchema({"type": "string", "pattern": _described(SSH_KEY)})]


class Inward(BaseModel):
    """What clients send."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _either(*names: str) -> dict[str, Any]:
    """For the description: one of these fields says something, the others are null or not there."""
    null = {"type": "null"}
    return {
        "oneOf": [
            {
                "required": [one],
                "properties": {name: {"not": null} if name == one else null for name in names},
            }
            for one in names
        ]
    }


class Outward(BaseModel):
    """What actors answer."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Page(Inward):
    """Query of a listing."""

    limit: int = Field(default=PAGE_DEFAULT, ge=1, le=PAGE_MAX)
    after: str = Field(default="", max_length=300)
    """The `next` of the page before."""


# Leases, as the guest sees them -----------------------------------------------------------------


class LeaseRequest(Inward):
    """Units of a type for a term: until `end`, or for `duration`."""

    model_config = ConfigDict(json_schema_extra=_either("end", "duration"))

    slice: Name
    type: Name
    units: int = Field(default=1, ge=1, le=UNITS_MAX)
    least_units: int | None = Field(default=None, ge=1, le=UNITS_MAX)
    """Fewer units that will do; None: all or none."""
    start: AskedInstant | None = None
    """None: now."""
    end: AskedInstant | None = None
    duration: Duration | None = Field(default=None, validate_default=True)
    ssh_keys: tuple[SshKey, ...] = Field(default=(), json_schema_extra={"maxItems": SSH_KEYS_MAX})
    """Public keys to log in with, as in `id_ed25519.pub`."""
    request: Properties = {}
    """Properties for the broker."""
    configuration: Properties = {}
    """Properties for the site."""
    renew: bool = False
    """Extend by the same length again and again."""
    broker: Name | None = None
    """Needed where the service manager knows more than one."""

    @field_validator("least_units")
    @classmethod
    def _no_more_than_units(cls, value: int | None, info: ValidationInfo) -> int | None:
        if value is not None and value > info.data.get("units", value):
            raise wrong("no more than units")
        return value

    @field_validator("end")
    @classmethod
    def _after_start(cls, value: datetime | None, info: ValidationInfo) -> datetime | None:
        start = info.data.get("start")
        if value is not None and start is not None:
            _check_term(start, value)
        return value

    @field_validator("duration")
    @classmethod
    def _one_of_two(cls, value: int | None, info: ValidationInfo) -> int | None:
        if "end" in info.data and (value is None) == (info.data["end"] is None):
            raise wrong("either this or end says how long, and not both")
        return value

    @field_validator("ssh_keys")
    @classmethod
    def _known_form(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        found = ssh_key_fault(value)
        if found:
            raise wrong(found)
        return value


def _check_term(start: datetime, end: datetime) -> None:
    if end <= start:
        raise wrong("the end is not after the start")
    if (end - start).total_seconds() > TERM_SECONDS_MAX:
        raise wrong(f"a term lasts at most {TERM_SECONDS_MAX // 86_400} days")


class ExtendRequest(Inward):
    """A later end: `end` itself, or `by` so much later than the lease ends now."""

    model_config = ConfigDict(json_schema_extra=_either("end", "by"))

    end: AskedInstant | None = None
    by: Duration | None = Field(default=None, validate_default=True)
    at_least: AskedInstant | None = None
    """An earlier end that will do as well; None: the end asked for, or no change."""

    @field_validator("by")
    @classmethod
    def _one_of_two(cls, value: int | None, info: ValidationInfo) -> int | None:
        if "end" in info.data and (value is None) == (info.data["end"] is None):
            raise wrong("either this or end says how long, and not both")
        return value

    @field_validator("at_least")
    @classmethod
    def _no_later(cls, value: datetime | None, info: ValidationInfo) -> datetime | None:
        end = info.data.get("end")
        if value is not None and end is not None and value > end:
            raise wrong("no later than end")
        return value


class CloseRequest(Inward):
    """Why, for the lease's story."""

    reason: str = Field(default="", max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")


class LeaseChange(Inward):
    """What can be changed at any time."""

    renew: bool


class LeasePage(Page):
    """Which leases; `state` may be given more than once."""

    state: tuple[str, ...] = ()
    slice: str | None = None


class Unit(Outward):
    """One unit that is held, and how to reach it; the rest is in its properties."""

    name: str
    host: str | None = None
    port: int | None = None
    user: str | None = None
    host_key: str | None = None
    properties: dict[str, str] = {}


class Asked(Outward):
    """What was asked for, beside what was given."""

    units: int
    least_units: int
    start: Instant
    end: Instant


class Offer(Outward):
    """What would work, or what caps what was given."""

    units: int | None = None
    start: Instant | None = None
    latest_end: Instant | None = None
    cap: str | None = None


class Extension(Outward):
    """What came of an extension: where the end was, was asked for, and is."""

    old_end: Instant
    asked_end: Instant
    new_end: Instant
    """As granted; equal to `old_end` when refused."""
    latest_end: Instant | None = None
    """The latest end that could be had."""
    cap: str = ""
    """What caps it: `booked`, `delegation`."""
    refused: str = ""
    """Why not; empty when granted."""
    pending: bool = False
    """There is no answer yet."""


class Lease(Outward):
    """One lease, as its guest sees it. Properties and keys are told to its owner alone."""

    id: str
    slice: str
    type: str
    state: str
    final: bool
    units: int
    start: Instant
    end: Instant
    asked: Asked
    latest_end: Instant | None = None
    cap: str = ""
    reason: str = ""
    degraded: str = ""
    """Why fewer units work than were leased; empty: all of them do."""
    revoked: str = ""
    """Why the site gives no more of what it rests on: it runs on to its end. Empty: it does."""
    renew: bool = False
    held: tuple[Unit, ...] = ()
    answer: Extension | None = None
    """To the last extension asked for."""
    offer: Offer | None = None
    """Of a refused lease: what would have worked."""
    owner: str | None = None
    site: str | None = None
    broker: str
    ssh_keys: tuple[str, ...] = ()
    request: dict[str, str] = {}
    configuration: dict[str, str] = {}
    resource: dict[str, str] = {}


class Leases(Outward):
    """A page of leases, by id."""

    leases: tuple[Lease, ...]
    next: str | None = None
    """`after` of the next page; None: this is the last."""


class StoryLine(Outward):
    """Something that happened to a lease; `what` is `log` for a line that a handler wrote."""

    time: Instant
    what: str
    state: str = ""
    by: str = ""
    note: str = ""


class Story(Outward):
    """All that happened, oldest first."""

    story: tuple[StoryLine, ...]


class AccountPage(Outward):
    """The receipts that the newest claim of a conflict cites: `[jti, end, units kept]` each."""

    volume: int = 0
    carried: tuple[tuple[str, int, int], ...] = ()
    entries: tuple[tuple[str, int, int], ...] = ()


class ConflictProof(Outward):
    """Claims that can not all be honoured, for `shirako verify`."""

    parent: tuple[str, ...]
    """Tokens from the site's root claim down to the one that too much was sold of."""
    children: tuple[str, ...]
    """Tokens of claims below it."""
    instant: int
    """The tick at which they exceed it."""
    page: AccountPage = AccountPage()


class SiteConflict(Outward):
    """A broker that was shown to have sold more than it holds."""

    broker: str
    """Its name."""
    kid: str
    claim: str
    """`jti` of the claim that it sold too much of."""
    type: str
    sold: int
    held: int
    instant: Instant
    conflict: ConflictProof


class SiteConflicts(Outward):
    conflicts: tuple[SiteConflict, ...]


class Proofs(Outward):
    """The signed statements behind a lease, for `shirako verify`."""

    ticket: tuple[tuple[str, ...], ...] = ()
    lease: str = ""
    receipt: str = ""
    revocation: str = ""
    conflict: ConflictProof | None = None
    """What shows that the broker sold more than it holds; there when the site has refused."""


# The site ------------------------------------------------------------------------------------


class LeaseName(Outward):
    """Names a lease at a site or broker: the thumbprint of its guest's key, and its id."""

    holder: str
    id: str


class SiteProbe(Outward):
    """What the site's last look at a unit found; it is forgotten when the actor is started."""

    time: Instant
    verdict: Literal["fit", "unfit", "unknown"]
    """`unknown`: something else that the look needs did not answer."""
    note: str = ""


class SiteNode(Outward):
    """One unit of the site."""

    name: str
    type: str
    state: Literal["free", "leased", "quarantined", "drained"]
    """`leased` also where it is drained: until its lease ends."""
    lease: LeaseName | None = None
    guest: str | None = None
    slice: str | None = None
    lease_end: Instant | None = None
    quarantined: str = ""
    """Why it is not handed out."""
    drained: str = ""
    """Why no lease gets it any more."""
    probe: SiteProbe | None = None
    epoch: int
    host: str | None = None
    port: str | None = None


class SiteNodes(Outward):
    nodes: tuple[SiteNode, ...]


class QuarantineRequest(Inward):
    """Why a unit is to be handed out no more."""

    reason: str = Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
    replace: bool = False
    """Also one that works for a lease: the lease gets another one as soon as there is one."""


class DrainRequest(Inward):
    """Why a unit is to be given to no lease any more."""

    reason: str = Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")


class ReconcileRequest(Inward):
    """Compare ledger, directory and nodes."""

    dry_run: bool = False
    """Show what differs, and change nothing."""


class SiteDifference(Outward):
    """Something that is not as the ledger says, and what became of it."""

    unit: str = ""
    """Empty: it is about no unit."""
    where: str
    """`node`, `directory`, `ledger`, or what else a driver keeps."""
    fault: str
    """`left over`, `missing`, `changed`."""
    what: str
    lease: LeaseName | None = None
    """Who holds the unit."""
    done: Literal["shown", "mended", "left"]
    note: str = ""
    """Why it is left, or what to do about it."""


class SiteUnavailable(Outward):
    """A driver that could not look."""

    type: str
    driver: str
    reason: str


class Reconciliation(Outward):
    """What differed between ledger, directory and nodes, and what is left of it."""

    dry_run: bool
    units: int
    """How many were looked at."""
    differences: tuple[SiteDifference, ...] = ()
    more: int = 0
    """Further differences, which are not listed."""
    busy: tuple[str, ...] = ()
    """Units that something was being done to: they were left out."""
    unavailable: tuple[SiteUnavailable, ...] = ()
    counts: dict[str, int]
    """All differences, by what became of them."""


class SiteUnit(Outward):
    """One assignment of a unit to a lease."""

    unit: str
    epoch: int
    phase: str
    swapped: bool = False
    """It failed, and another one took its place."""
    checks: tuple[str, ...] = ()
    """What was verified when it was torn down."""
    message: str = ""


class SiteLease(Outward):
    """One lease, as the site sees it."""

    holder: str
    id: str
    guest: str
    slice: str
    type: str
    units: int
    state: str
    final: bool
    start: Instant
    end: Instant
    reason: str = ""
    degraded: str = ""
    """Why fewer units work than were leased; empty: all of them do."""
    revoked: str = ""
    """Why nothing more is given of what it rests on; it runs on to its end."""
    broker: str
    assignments: tuple[SiteUnit, ...] = ()


class SiteLeases(Outward):
    leases: tuple[SiteLease, ...]
    next: str | None = None


class PeerLeasePage(Page):
    """Which leases of a site or broker; `id` finds one without its holder."""

    state: tuple[str, ...] = ()
    slice: str | None = None
    id: str | None = None


class DelegationRequest(Inward):
    """A share of a pool for a broker. The same name again is the same delegation."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,39}$")]
    to: str = Field(max_length=64)
    """The broker's name."""
    type: Annotated[str, Field(pattern=r"^[a-z][a-z0-9.-]{0,63}$")]
    units: int = Field(ge=1, le=100_000)
    start: AskedInstant | None = None
    """None: now."""
    end: AskedInstant
    overbooking: float = Field(default=1.0, ge=1.0, le=100.0, allow_inf_nan=False)
    """How many times its units the broker may sell."""

    @field_validator("end")
    @classmethod
    def _after_start(cls, value: datetime, info: ValidationInfo) -> datetime:
        start = info.data.get("start")
        if start is not None:
            _check_term(start, value)
        return value


class Delegation(Outward):
    """A share of a pool that a broker may sell."""

    name: str
    type: str
    units: int
    overbooking: float
    start: Instant
    end: Instant
    site: str
    broker: str
    left: int | None = None
    """Units that the site has left of it, where it has taken some back."""
    revoked: str = ""
    """Why; empty where it has not."""
    renews: str = ""
    """At its site: the delegation that it goes on from."""
    properties: dict[str, str] = {}
    """Of the units, for guests to see."""


class Delegations(Outward):
    delegations: tuple[Delegation, ...]


class RevokeRequest(Inward):
    """Take back what was delegated, and what renews it; all of it, or all but some units."""

    units: int = Field(default=0, ge=0, le=100_000)
    """Units to leave. As many as were delegated: all is given back."""
    reason: str = Field(default="", max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")
    """Told to brokers and guests."""
    close_leases: bool = False
    """Also end the leases that rest on it; otherwise they run on."""
    dry_run: bool = False
    """Tell what it would mean, and change nothing."""


class RenewRequest(Inward):
    """Go on with a delegation until `end`."""

    end: AskedInstant
    units: int | None = Field(default=None, ge=1, le=100_000)
    """None: as many as are left of it now."""


class DelegationCut(Outward):
    """What taking units back means for one delegation."""

    name: str
    broker: str
    """Who is told."""
    start: Instant
    end: Instant
    units: int
    """As delegated."""
    left_before: int
    left: int
    redeemed: int
    """Units in leases at this moment."""
    unredeemed_at_most: int
    """Units that its broker may have sold and that are in no lease: those tickets are lost."""


class PoolUse(Outward):
    """The units of a type, against what of them is delegated."""

    type: str
    units: int
    fit: int
    """Neither quarantined nor drained."""
    delegated: int
    """The most at any instant from now on."""
    delegated_after: int


class Revocation(Outward):
    """What taking units back means, or meant."""

    dry_run: bool
    delegations: tuple[DelegationCut, ...]
    leases: tuple[SiteLease, ...] = ()
    """Live leases that rest on it, the first to end first."""
    more: int = 0
    """Further ones, which are not listed."""
    under_way: int
    """How many of all these are being set up, or wait for units."""
    closed: bool
    """These leases are ended, too."""
    pool: PoolUse


# The broker ----------------------------------------------------------------------------------


class CalendarWindow(Inward):
    """The part of the calendar to show; by default all that is not over."""

    start: AskedInstant | None = None
    end: AskedInstant | None = None


class Step(Outward):
    """So many units are sold from here to the next step."""

    start: Instant
    booked: int


class DelegationCalendar(Outward):
    """What is sold of one delegation, and when."""

    delegation: str
    site: str
    type: str
    capacity: int
    start: Instant
    end: Instant
    steps: tuple[Step, ...]
    truncated: bool = False
    """There are more steps: ask for a smaller window."""


class Calendar(Outward):
    calendar: tuple[DelegationCalendar, ...]


class Grant(Outward):
    """Part of a ticket, out of one delegation."""

    delegation: str
    units: int
    start: Instant
    end: Instant


class BrokerLease(Outward):
    """One ticket, as the broker sees it."""

    holder: str
    id: str
    guest: str
    slice: str
    type: str
    units: int
    state: str
    final: bool
    start: Instant
    end: Instant
    reason: str = ""
    grants: tuple[Grant, ...] = ()


class BrokerLeases(Outward):
    leases: tuple[BrokerLease, ...]
    next: str | None = None


# Every actor ---------------------------------------------------------------------------------


class Peer(Outward):
    """Another actor, and what is known of it."""

    name: str
    kid: str
    url: str
    skew_ms: int | None = None
    """How far its clock is ahead of ours; None: it has not spoken yet."""
    waiting: int = 0
    """Messages that it has not taken yet."""
    failures: int = 0
    """Attempts to reach it that failed, one after the other; 0: it is up, or not needed."""
    unreachable_since: Instant | None = None


class Clock(Outward):
    """The time that an actor goes by."""

    tick: int
    """Seconds since the Unix epoch."""
    time: Instant
    jump_seconds: int = 0
    """By how much the machine's clock jumped ahead (or back, below 0) and is not followed."""


class ClockRequest(Inward):
    """Follow the machine's clock after a jump."""

    dry_run: bool = False
    """Tell what would become due, and change nothing."""


class DueLease(Outward):
    """A lease whose term is over by the new time."""

    holder: str
    id: str
    slice: str
    units: int
    end: Instant


class ClockConfirmation(Outward):
    """What following the machine's clock means, or meant."""

    dry_run: bool
    clock: Clock
    """As it is now."""
    jump_seconds: int
    """The jump that is followed; 0: there was none."""
    due: tuple[DueLease, ...] = ()
    """Leases whose term ends by it, the first to end first."""
    more: int = 0
    """Further ones, which are not listed."""


class Mirror(Outward):
    """How far the mirror of an actor's ledger is behind."""

    commits_behind: int | None
    """None: not known yet."""
    seconds_behind: float
    trouble: str = ""
    """Why it gets no further."""


class Restored(Outward):
    """That an actor's ledger is from a backup."""

    held: bool
    """Nothing ends, is sold or cleaned until an operator confirms it."""
    taken: Instant
    """The last moment that the backup knows of."""
    begun: Instant | None = None
    """When the actor was first started from it."""
    confirmed: Instant | None = None
    by: str = ""


class Status(Outward):
    """How an actor is; a guest is told of its own leases alone."""

    name: str
    role: str
    kid: str
    version: str
    time: Instant
    clock: Clock
    leases: dict[str, int]
    """Number of leases by state."""
    counters: dict[str, int] = {}
    peers: tuple[Peer, ...] = ()
    restored: Restored | None = None
    """Where the ledger is from a backup: what is known of that."""
    certificate_ends: Instant | None = None
    """Of the certificate that the actor shows, where it shows one."""
    mirror: Mirror | None = None
    """Where the ledger has a mirror."""


class Health(Outward):
    status: Literal["ok"] = "ok"


class ProblemDetails(Outward):
    """RFC 9457: why something was not done. Some have further members."""

    type: str
    title: str
    status: int
    detail: str
    field: str | None = None
    errors: tuple[dict[str, str], ...] = ()


class LeaseEvent(Outward):
    """Server-sent event `lease`: the lease as it is now."""

    lease: Lease


class StoryEvent(Outward):
    """Server-sent event `story`: something more that happened."""

    line: StoryLine
    number: int
