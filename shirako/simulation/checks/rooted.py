"""ROOTED: a site honours only what is rightly carved out of its own root claims.

Every claim that anybody here has signed is known, with the key that has really signed it. What a
site commits as redeemed is held against that: each claim within the one above it, up to a
delegation of this site; for this reservation of this holder; once; and all of them together never
more than the claim above them, at any instant that is still to come.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

from shirako.simulation import signatures
from shirako.simulation.checks.check import CLOCK_SECONDS, Check
from shirako.simulation.checks.spans import Span, most
from shirako.simulation.facts import Commit, Restoration
from shirako.simulation.records import (
    ClaimBody,
    DelegationRecord,
    Key,
    SiteRecord,
    SpentRecord,
    read_claim,
    spent_in,
)
from shirako.trust import digest


class Signed(NamedTuple):
    """A claim as it was signed."""

    signer: str
    """Thumbprint of the key that has really signed it."""
    body: ClaimBody


class Rooted(Check):
    invariant: ClassVar[str] = "ROOTED"
    parts: ClassVar[tuple[str, ...]] = ("site",)

    def __init__(self, world: Any) -> None:
        super().__init__(world)
        self._read = 0
        self._claims: dict[str, list[Signed]] = {}
        """By `jti`."""
        self._by_digest: dict[str, Signed] = {}
        self._used: dict[tuple[str, str, str], Key] = {}
        """(site, issuer, `jti`) -> the lease that it was redeemed or voided for."""
        self._roots: dict[str, set[str]] = {}
        """Site -> digests of the root claims that it has delegated."""
        self._spent: dict[str, dict[tuple[Key, str, str], Span]] = {}
        """Digest of a claim -> what is redeemed of it."""

    def committed(self, commit: Commit) -> None:
        for _, key, old, new in commit.changes:
            if isinstance(new, DelegationRecord):
                self._roots.setdefault(commit.actor, set()).add(digest(new.chain[0]))
            elif isinstance(new, SiteRecord):
                before = () if old is None else old.spent
                for spent in new.spent[len(before) :]:
                    self._take(commit, key, new, spent)
                if new.final and (old is None or not old.final):
                    self._give_back(key, new)

    def restored(self, restoration: Restoration) -> None:
        """What a site has forgotten to be spent it can not count."""
        if restoration.part == "site":
            known = spent_in(restoration.after)
            for key, spent in spent_in(restoration.before) - known:
                self._take_out(key, spent)

    # One claim --------------------------------------------------------------------------------

    def _take(self, commit: Commit, key: Key, lease: SiteRecord, spent: SpentRecord) -> None:
        self._read_new_claims()
        whose = self._used.setdefault((commit.actor, spent.issuer, spent.jti), key)
        if whose != key:
            self.violated(key, f"{spent.jti} was redeemed for {self.facts.name_of(whose)} before")
        if lease.final and not lease.redeemed:
            return  # voided, or refused at once: nothing is honoured
        fault = self._fault(commit.actor, key, spent)
        if fault:
            self.violated(key, f"the site honours {spent.jti}: {fault}")
        ticks = [entry.tick for entry in commit.entries if entry.lease == "/".join(key)]
        if ticks and min(ticks) >= spent.term.end:
            self.violated(key, f"the site honours {spent.jti}, whose term is over")
        if lease.final:
            return
        for ancestor in spent.ancestors:
            spans = self._spent.setdefault(ancestor.digest, {})
            span = Span(spent.term.start, spent.term.end, spent.units)
            spans[key, spent.issuer, spent.jti] = span
            start = max(spent.term.start, commit.tick + CLOCK_SECONDS)
            redeemed = most(spans.values(), start, spent.term.end)
            if redeemed > ancestor.capacity:
                self.violated(
                    key, f"{redeemed} units of a claim on {ancestor.capacity} are redeemed"
                )

    def _fault(self, site: str, key: Key, spent: SpentRecord) -> str:
        """What is wrong with a chain that the site has honoured; empty: nothing."""
        holder, rid = key
        leaves = [
            signed.body
            for signed in self._claims.get(spent.jti, ())
            if signed.signer == signed.body.iss == spent.issuer
            and (signed.body.sub, signed.body.rid) == (holder, rid)
            and signed.body.units == spent.units
            and (signed.body.nbf, signed.body.exp) == (spent.term.start, spent.term.end)
        ]
        if not leaves:
            return "its issuer has signed no such claim for this holder and reservation"
        # one that was signed again after a failed commit may be carved out of another delegation
        faults = [self._chain_fault(site, leaf, spent) for leaf in leaves]
        return "" if "" in faults else faults[-1]

    def _chain_fault(self, site: str, leaf: ClaimBody, spent: SpentRecord) -> str:
        child = leaf
        for number, ancestor in enumerate(reversed(spent.ancestors)):
            parent = self._by_digest.get(ancestor.digest)
            if parent is None or parent.signer != parent.body.iss:
                return "a claim above it was never signed by its issuer"
            fault = _misfit(parent.body, child, ancestor.digest)
            if fault:
                return f"{fault} ({number + 1} above)"
            if ancestor.capacity != int(parent.body.units * parent.body.overbooking):
                return "a claim above it counts for more than was signed"
            child = parent.body
        if not spent.ancestors or spent.ancestors[0].digest not in self._roots.get(site, ()):
            return "it is not rooted in a delegation of this site"
        return ""

    def _give_back(self, key: Key, lease: SiteRecord) -> None:
        """A lease that is over uses nothing any more."""
        for spent in lease.spent:
            self._take_out(key, spent)

    def _take_out(self, key: Key, spent: SpentRecord) -> None:
        for ancestor in spent.ancestors:
            self._spent.get(ancestor.digest, {}).pop((key, spent.issuer, spent.jti), None)

    def _read_new_claims(self) -> None:
        tokens = signatures.signed_claims()
        for token, signer in tokens[self._read :]:
            payload = signatures.payload_of(token)
            if payload is not None:
                signed = Signed(signer, read_claim(payload))
                self._claims.setdefault(signed.body.jti, []).append(signed)
                self._by_digest[digest(token)] = signed
        self._read = len(tokens)


def _misfit(parent: ClaimBody, child: ClaimBody, parent_digest: str) -> str:
    if child.parent != parent_digest:
        return "it names another claim above it"
    if child.iss != parent.sub:
        return "it is not issued by the holder of the claim above it"
    if child.type != parent.type:
        return "it is on another type than the claim above it"
    if child.units > parent.units * parent.overbooking:
        return "it is on more units than the claim above it"
    if child.nbf < parent.nbf or child.exp > parent.exp:
        return "its term lies outside of the claim above it"
    if child.overbooking > parent.overbooking:
        return "it allows more overbooking than the claim above it"
    return ""
