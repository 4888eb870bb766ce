"""`actors.xml`: read, checked, and handed over as plain frozen values. Starts nothing."""

from __future__ import annotations

from shirako.descriptor.model import (
    ActorSpec,
    AuthoritySpec,
    BrokerSpec,
    DelegationSpec,
    DemandSpec,
    Descriptor,
    DescriptorInvalid,
    Edge,
    Fault,
    PeerSpec,
    Plugin,
    PoolSpec,
    Role,
    ServiceManagerSpec,
    TlsSpec,
    UnitSpec,
)
from shirako.descriptor.read import read_descriptor

__all__ = [
    "ActorSpec",
    "AuthoritySpec",
    "BrokerSpec",
    "DelegationSpec",
    "DemandSpec",
    "Descriptor",
    "DescriptorInvalid",
    "Edge",
    "Fault",
    "PeerSpec",
    "Plugin",
    "PoolSpec",
    "Role",
    "ServiceManagerSpec",
    "TlsSpec",
    "UnitSpec",
    "read_descriptor",
]
