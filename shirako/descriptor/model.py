"""What `actors.xml` says, as plain frozen values; and what is wrong with it.

Times are UTC and aware, durations are seconds unless a field is a `timedelta`, paths are taken
from the folder of the descriptor. `line` is the line of the element's first character.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from shirako.ledger.mirror.place import MirrorPlace
from shirako.transport.limits import Limits

Role = Literal["authority", "broker", "service-manager"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plugin:
    """A driver or policy: the name of its entry point, and its options (keys without dashes).

    The options were already accepted by the plug-in's `Options` model; they are kept as text.
    """

    name: str
    options: Mapping[str, str]
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSpec:
    """One unit; `attributes` (`host`, `port`, `host_key`, ...) are what its drivers see of it."""

    name: str
    attributes: Mapping[str, str]
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSpec:
    """The units of one type at one authority. Drivers set up in this order."""

    type: str
    properties: Mapping[str, str]
    units: tuple[UnitSpec, ...]
    drivers: tuple[Plugin, ...]
    assignment: Plugin
    setup_timeout: float
    teardown_timeout: float
    attempts: int
    probe: float
    """Seconds between two looks at a unit; 0: it is not looked at."""
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegationSpec:
    """Units of a type that an authority grants to a broker; `None` is an open end of the term."""

    name: str
    to: str
    type: str
    units: int
    start: datetime | None
    end: datetime | None
    overbooking: float
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DemandSpec:
    """A lease that a service manager asks for when it starts for the first time."""

    name: str
    slice: str
    type: str
    units: int
    duration: timedelta
    start: datetime | None
    renew: bool
    ssh_keys: tuple[Path, ...]
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorSpec:
    """An actor that this descriptor runs; `key` is the file of its private JWK."""

    name: str
    role: Role
    url: str
    key: Path
    mirror: MirrorPlace | None = None
    """Where its ledger is mirrored; None: nowhere."""
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthoritySpec(ActorSpec):
    """A site: its pools, and what it delegates of them."""

    pools: tuple[PoolSpec, ...]
    delegations: tuple[DelegationSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSpec(ActorSpec):
    """A broker and the policy that says who gets how much, when."""

    allocation: Plugin


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceManagerSpec(ActorSpec):
    """A guest: how it decides what to ask for, and how it takes units in."""

    demand: Plugin
    guest_drivers: tuple[Plugin, ...]
    leases: tuple[DemandSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSpec:
    """An actor that runs elsewhere; `key` is the file of its public JWK."""

    name: str
    role: Role
    url: str
    key: Path
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """Two actors that pin each other's key. `source` is nearer the site, `target` the guest."""

    source: str
    target: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSpec:
    """Whose certificates are shown and taken at https addresses."""

    certificates: Path
    """Folder of `ca.pem` and, for each own actor, `NAME.pem` and `NAME.key`."""
    mutual: bool
    """Whether clients have to show one, too."""
    ca: Path | None
    """Further authorities: those of peers elsewhere."""
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Descriptor:
    """A whole `actors.xml` without a fault."""

    path: Path
    state: Path
    """Folder of ledgers and tokens."""
    skew: int
    """Seconds that two actors' clocks may differ."""
    ledger: str
    """URL of the database that holds the ledgers; empty: they are files in `state`."""
    actors: tuple[AuthoritySpec | BrokerSpec | ServiceManagerSpec, ...]
    peers: tuple[PeerSpec, ...]
    edges: tuple[Edge, ...]
    tls: TlsSpec | None
    """None: whatever is https elsewhere is held to the system's authorities."""
    limits: Limits = field(default_factory=Limits)
    """What clients may use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that is wrong, where it is, and how to mend it. `message` has no full stop."""

    path: Path
    line: int
    message: str
    mend: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}. Mend: {self.mend}."


class DescriptorInvalid(Exception):
    """The descriptor has faults: all that were found, in the order of the file."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults
