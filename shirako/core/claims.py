"""Claims: signed statements "issuer gives holder N units of type T for a term, out of a parent".

This module knows what claims *say* and whether they fit together; `shirako.trust` knows how they
are signed and read. A *chain* is a tuple of tokens, root first; a *ticket* is a set of chains
(rule 4), because an extension may draw on another delegation than the lease it extends.

The scheme is SHARP's (Fu, Chase, Chun, Schwab, Vahdat: "SHARP: an architecture for secure resource
peering", SOSP 2003): claims are subdivided and delegated, and whoever over-issues can be shown to.
"""

from __future__ import annotations

import itertools

from msgspec import Struct

from shirako.core.account import START, Citation, Posting
from shirako.core.terms import FOREVER, Term

CHAIN_LENGTH_MAX = 8
CHAINS_MAX = 64
OVERBOOKING_MAX = 100.0
UNITS_MAX = 1_000_000_000
"""So that a number of units times an overbooking factor is exact in floating point."""

Chain = tuple[str, ...]
"""Tokens of one chain, the site's root claim first, the holder's own claim last."""
Ticket = tuple[Chain, ...]


class Party(Struct, frozen=True):
    """An actor as others know it: its key's thumbprint (RFC 7638), public key and address."""

    kid: str
    x: str
    """The Ed25519 public key, base64url as in a JWK (RFC 8037)."""
    url: str
    name: str = ""


class Claim(Struct, frozen=True, gc=False, kw_only=True):
    """What one token of a chain says, once its signature is verified."""

    jti: str
    issuer: str
    """Thumbprint of the key that signed the token."""
    holder: Party
    type: str
    units: int
    term: Term
    digest: str
    """SHA-256 of the token's bytes: how children name it, and how it is cached."""
    parent: str = ""
    """Digest of the parent token; empty in a root claim."""
    reservation: str = ""
    """The only reservation that this claim may be redeemed for (rule 1)."""
    extends: str = ""
    """`jti` of the claim that this one continues: good for extending a live lease only, so that
    nothing of a lease that is over can be spent."""
    overbooking: float = 1.0
    """How many times its units the holder may sell; signed by the issuer."""
    site: Party | None = None
    """In a root claim: the authority itself, key and address."""
    account: Citation = START
    """The receipts that the issuer had taken when it signed this: what it may rest on (rule 3)."""
    lineage: tuple[str, ...] = ()
    """The successions that lead to the key that signed it; empty: the issuer's first key."""


class Lease(Struct, frozen=True, kw_only=True):
    """The authority's statement that these units are the holder's for this term."""

    jti: str
    issuer: str
    holder: str
    reservation: str
    type: str
    units: tuple[str, ...]
    term: Term

    def __post_init__(self) -> None:
        if len(set(self.units)) != len(self.units):
            raise ValueError("a lease on the same unit twice")


class Receipt(Struct, frozen=True, kw_only=True):
    """The authority's statement that units are free again from `tick` on (rule 3)."""

    jti: str
    issuer: str
    holder: str
    reservation: str
    claims: tuple[str, ...]
    """`jti` of the claims whose capacity is given back: all that the lease rested on."""
    units_freed: int
    tick: int
    redeemed: bool
    """False: these claims were never redeemed and are void now."""
    final: bool
    """The reservation is over: its claims and all that extend them are worth nothing any more."""
    checks: tuple[str, ...] = ()
    """What was verified on the units, such as `account_gone`."""
    failed_units: tuple[str, ...] = ()
    """Units whose teardown failed: not freed (rule 12)."""
    postings: tuple[Posting, ...] = ()
    """Where this stands in the accounts of the claims that these were carved out of, in order."""

    def __post_init__(self) -> None:
        if not 0 <= self.units_freed <= UNITS_MAX:
            raise ValueError("a receipt frees 0 units or more, within reason")
        if not 0 <= self.tick <= FOREVER:
            raise ValueError("a receipt of a time that is none")


class Revocation(Struct, frozen=True, kw_only=True):
    """The authority's statement that a root claim is worth no more than `units` from now on
    (rule 14). What was redeemed before stays redeemed."""

    issuer: str
    holder: str
    """Thumbprint of the broker that the claim was given to."""
    claim: str
    """`jti` of the root claim."""
    digest: str
    """SHA-256 of the root claim's token."""
    units: int
    """So many of the claim's units may still be redeemed below it at any instant, together with
    those that are redeemed already; 0: nothing is redeemed or extended any more."""
    tick: int
    number: int
    """Grows with every statement about this claim, from 1: the latest one counts."""
    reason: str = ""


class Unfit(Exception):
    """The chain does not prove what its presenter asks for; the message says why."""


def check_link(parent: Claim, child: Claim) -> None:
    """Raise `Unfit` unless `child` was rightly carved out of `parent` (ROOTED)."""
    if child.parent != parent.digest:
        raise Unfit("the chain is broken: a claim does not name the one before it as its parent")
    if child.issuer != parent.holder.kid:
        raise Unfit("a claim is signed by somebody else than the holder of its parent")
    if child.type != parent.type:
        raise Unfit(f"a claim on {child.type} is carved out of a claim on {parent.type}")
    if child.units > parent.units * parent.overbooking:
        raise Unfit(f"a claim on {child.units} units is carved out of one on {parent.units}")
    if not parent.term.holds(child.term):
        raise Unfit("a claim's term lies outside its parent's term")
    if parent.reservation:
        raise Unfit("a claim is carved out of a ticket, which is good for its own lease alone")
    if child.site is not None:
        raise Unfit("a claim below another one passes itself off as a root claim")
    if child.overbooking > parent.overbooking:
        raise Unfit("a claim allows more overbooking than its parent does")


def check_chain(chain: tuple[Claim, ...], root_issuer: str) -> Claim:
    """The last claim of a chain that is rooted at `root_issuer`; raises `Unfit`.

    Signatures were verified when the tokens were read; here the claims are held to each other.
    """
    if not 1 <= len(chain) <= CHAIN_LENGTH_MAX:
        raise Unfit(f"a chain has 1 to {CHAIN_LENGTH_MAX} claims, this one has {len(chain)}")
    root = chain[0]
    if root.parent or root.issuer != root_issuer or root.site is None:
        raise Unfit("the chain does not start at this site's own root claim")
    if root.site.kid != root_issuer:
        raise Unfit("the root claim names another site than the one that signed it")
    for number, (parent, child) in enumerate(itertools.pairwise(chain), 2):
        try:
            check_link(parent, child)
        except Unfit as error:
            raise Unfit(f"claim {number}, {child.jti[:64]!r}: {error}") from error
    return chain[-1]
