"""Delegations: what an authority has granted to a broker, or a broker to one below it, as each of
the two keeps it."""

from __future__ import annotations

import math

from msgspec import Struct
from msgspec.structs import replace

from shirako.core.claims import Chain, Party
from shirako.core.exchange import Line
from shirako.core.machine import Key, Work
from shirako.core.messages import UpdateTicket
from shirako.core.terms import Term


class Delegation(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A share of a pool for a term: units of a type that `holder` may sell tickets on."""

    id: str
    holder: Party
    type: str
    units: int
    term: Term
    chain: Chain
    overbooking: float = 1.0
    name: str = ""
    source: str = ""
    """What a broker carved it out of: the id of a delegation of its own."""
    resource: dict[str, str] = {}
    lines: dict[str, Line] = {}
    work: tuple[Work, ...] = ()
    wake: int | None = None

    @property
    def key(self) -> Key:
        return (self.holder.kid, self.id)

    @property
    def weight(self) -> int:
        """Units that it can turn into tickets: what it takes of the claim above it."""
        return math.ceil(self.units * self.overbooking)


def pushed(delegation: Delegation) -> Delegation:
    """The delegation with the message put out that hands it over: an UpdateTicket (rule 8)."""
    update = UpdateTicket(
        rid=delegation.id,
        holder=delegation.holder.kid,
        ticket=(delegation.chain,),
        properties=delegation.resource,
    )
    line = delegation.lines.get(delegation.holder.kid, Line()).say(update)
    return replace(delegation, lines={**delegation.lines, delegation.holder.kid: line})
