"""The genuine article: one lease's papers, by a site, a broker, a reseller below it and a guest.

Keys and ticks are fixed, and Ed25519 signs the same bytes in the same way, so that every paper is
the same in each run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from msgspec.structs import replace

from shirako import trust
from shirako.actors.authority import Authority
from shirako.core.claims import Chain, Claim, Lease, Receipt, Revocation
from shirako.core.conflict import Conflict
from shirako.core.terms import Term
from shirako.trust import PrivateKey
from tests.core.cast import TYPE, key_of, open_site, party_of, share_of

NOW = 1_800_000_000
WHOLE = Term(NOW - 600, NOW + 7200)
"""What the site delegates for."""
TERM = Term(NOW, NOW + 3600)
"""What the guest's ticket is for."""
SITE, BROKER, RESELLER, GUEST, STRANGER = (
    key_of(name) for name in ("site", "broker", "reseller", "guest", "stranger")
)
UNITS = tuple(f"n{number}" for number in range(10))


def genuine_site() -> Authority:
    """A site that has delegated 10 units to the broker, which is all that it knows of."""
    site = open_site(UNITS)
    site.delegate(share_of(10, WHOLE))
    site.take_batch()
    return site


@cache
def root_token() -> str:
    """The claim that `genuine_site` gives the broker."""
    return genuine_site().delegations["d1"].chain[0]


MIDDLE = Claim(
    jti="m1",
    issuer=BROKER.public.kid,
    holder=party_of("reseller"),
    type=TYPE,
    units=6,
    term=WHOLE,
    digest="",
)
LEAF = Claim(
    jti="t1",
    issuer=RESELLER.public.kid,
    holder=party_of("guest"),
    type=TYPE,
    units=4,
    term=TERM,
    digest="",
    reservation="L1",
)
LEASE = Lease(
    jti="L1/1",
    issuer=SITE.public.kid,
    holder=GUEST.public.kid,
    reservation="L1",
    type=TYPE,
    units=UNITS[:4],
    term=TERM,
)
RECEIPT = Receipt(
    jti="L1/2",
    issuer=SITE.public.kid,
    holder=GUEST.public.kid,
    reservation="L1",
    claims=("t1",),
    units_freed=4,
    tick=NOW + 1800,
    redeemed=True,
    final=True,
    checks=("account_gone", "no_processes"),
)


def below(above: Iterable[str], key: PrivateKey, claim: Claim) -> Chain:
    """A chain with one more claim, which names the one before it unless it names another."""
    chain = tuple(above)
    parent = claim.parent or trust.digest(chain[-1])
    return (*chain, trust.sign_claim(key, replace(claim, parent=parent)))


def middle(**changes: Any) -> Chain:
    """The reseller's chain, its last claim changed."""
    return below([root_token()], BROKER, replace(MIDDLE, **changes))


def ticket(**changes: Any) -> Chain:
    """The guest's chain, its last claim changed."""
    return below(middle(), RESELLER, replace(LEAF, **changes))


def own_root(key: PrivateKey, name: str, **changes: Any) -> str:
    """A root claim that `key` signs for itself, to the broker."""
    claim = Claim(
        jti="d1",
        issuer=key.public.kid,
        holder=party_of("broker"),
        type=TYPE,
        units=10,
        term=WHOLE,
        digest="",
        site=party_of(name),
    )
    return trust.sign_claim(key, replace(claim, **changes))


def revocation() -> Revocation:
    return Revocation(
        issuer=SITE.public.kid,
        holder=party_of("broker").kid,
        claim="d1",
        digest=trust.digest(root_token()),
        units=0,
        tick=NOW + 60,
        number=1,
        reason="the machines are sold",
    )


def sold_out(*children: Claim, instant: int = NOW) -> Conflict:
    """A proof that shows these claims of the broker's below the root claim."""
    tokens = tuple(below([root_token()], BROKER, child)[-1] for child in children)
    return Conflict(parent=(root_token(),), children=tokens, instant=instant)


SOLD = (
    replace(MIDDLE, jti="s1", units=6, holder=party_of("guest"), reservation="L1", term=TERM),
    replace(MIDDLE, jti="s2", units=5, holder=party_of("other"), reservation="L2", term=TERM),
)
"""Two tickets of the broker's, on 11 units of its 10."""


@dataclass(frozen=True)
class Papers:
    """What `shirako lease proofs` prints of a lease that is over."""

    ticket: tuple[Chain, ...] = field(default_factory=lambda: (ticket(),))
    lease: str = field(default_factory=lambda: trust.sign_lease(SITE, LEASE))
    receipt: str = field(default_factory=lambda: trust.sign_receipt(SITE, RECEIPT))

    def told(self, **more: Any) -> dict[str, Any]:
        return {"ticket": self.ticket, "lease": self.lease, "receipt": self.receipt, **more}
