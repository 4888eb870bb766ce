"""Delegations: what an authority has granted to a broker, or a broker to one below it, as each of
the two keeps it."""

from __future__ import annotations

import math

from msgspec import Struct
from msgspec.structs import replace

from shirako.core.claims import Chain, Claim, Party, Revocation
from shirako.core.exchange import Line
from shirako.core.machine import Key, Work
from shirako.core.messages import UpdateTicket
from shirako.core.terms import Term


class Delegation(Struct, frozen=True, gc=False, kw_only=True, omit_defaults=True):
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
    renews: str = ""
    """Of a site's: the id of the delegation that it goes on from."""
    revocation: str = ""
    """The site's latest signed statement about the root claim, if there is one: pushed with it."""
    revoked: Revocation | None = None
    """What that says."""
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

    @property
    def why_revoked(self) -> str:
        """What to tell who asks for more than is left of it; empty when nothing was revoked."""
        if self.revoked is None:
            return ""
        units = self.revoked.units
        what = f"shrunk {self.id} to {units} units" if units else f"revoked {self.id}"
        return f"the site has {what}" + (f": {self.revoked.reason}" if self.revoked.reason else "")

    def after(self, token: str, said: Revocation) -> Delegation:
        """The delegation with a revocation of its root claim, unless it knows a later one."""
        known = self.revoked
        if known is not None and known.digest == said.digest and known.number >= said.number:
            return self
        return replace(self, revocation=token, revoked=said)


def capacity(claims: tuple[Claim, ...], revoked: Revocation | None) -> int:
    """Units that the last claim of a chain may be turned into, root first.

    Of a root that has shrunk no more is left below than of the root itself.
    """
    root, leaf = claims[0], claims[-1]
    whole = int(leaf.units * leaf.overbooking)
    if revoked is None or revoked.digest != root.digest:
        return whole
    return min(whole, int(revoked.units * root.overbooking))


def pushed(delegation: Delegation) -> Delegation:
    """The delegation with the message put out that hands it over: an UpdateTicket (rule 8)."""
    update = UpdateTicket(
        rid=delegation.id,
        holder=delegation.holder.kid,
        ticket=(delegation.chain,),
        properties=delegation.resource,
        revocation=delegation.revocation,
    )
    line = delegation.lines.get(delegation.holder.kid, Line()).say(update)
    return replace(delegation, lines={**delegation.lines, delegation.holder.kid: line})
