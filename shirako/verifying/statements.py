"""Tickets, leases, receipts, revocations, conflict proofs and envelopes, as JSON or bare tokens.

What is read is one token, one chain (a list of tokens), one ticket (a list of chains), or an object
with any of the members in `MEMBERS`; other members are ignored, so that the answer of an API or a
`Failed` message can be verified as it came. A list of objects is read one by one: none of them
vouches for another.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from shirako.core.claims import (
    CHAINS_MAX,
    Claim,
    Lease,
    Receipt,
    Revocation,
    Ticket,
    Unfit,
    check_chain,
)
from shirako.core.conflict import Conflict, Verdict, judge
from shirako.core.lineage import Disowned, Lineage, Succession, check_statement
from shirako.lineage import SUCCESSION_TYPE
from shirako.transport.envelope import (
    Acknowledgement,
    Opened,
    Rejected,
    open_envelope,
    read_acknowledgement,
)
from shirako.trust import (
    ACKNOWLEDGEMENT_TYPE,
    CLAIM_TYPE,
    ENVELOPE_TYPE,
    LEASE_TYPE,
    RECEIPT_TYPE,
    REVOCATION_TYPE,
    PublicKey,
    Untrusted,
    Verifier,
    header,
    lineage_in,
    lineage_of,
    unverified,
)
from shirako.verifying import Refuted, Unreadable

MEMBERS = ("ticket", "conflict", "lease", "receipt", "revocation", "envelope", "acknowledgement")
"""In the order in which they are verified: what vouches for a site's key comes first."""

T = TypeVar("T")


class TicketHolds(Struct, frozen=True):
    """Chains from one site's root claim down to claims of one holder, all links of which hold."""

    chains: tuple[tuple[Claim, ...], ...]
    trusted: bool
    """The root's key is one that was given; otherwise it is the one that the ticket states."""


class ConflictHolds(Struct, frozen=True):
    """Somebody sold more than it held."""

    verdict: Verdict
    instant: int
    site: str
    """Thumbprint of the site whose units these are."""
    trusted: bool
    """As of a ticket."""


class ReceiptHolds(Struct, frozen=True):
    """A site's receipt."""

    receipt: Receipt
    unseen: tuple[str, ...] = ()
    """`jti` of claims that it names, and the ticket beside it does not show."""


class EnvelopeHolds(Struct, frozen=True):
    """Who said what to whom."""

    opened: Opened
    audience: str
    trusted: bool
    """The sender's key is one that was given; otherwise it is the one that the envelope shows."""


class SuccessionHolds(Struct, frozen=True):
    """Which key follows the one that signed it."""

    identity: str
    """Thumbprint of the actor's first key: who it is."""
    succession: Succession
    kid: str
    """Thumbprint of the key that follows."""
    trusted: bool
    """The actor's first key is one that was given; otherwise it is the one that the token shows."""


class KeyReplaced(Struct, frozen=True):
    """What was just told is signed with a key that was replaced since, says a lineage given."""

    what: str
    signer: str
    """Thumbprint of the signer's first key."""
    number: int
    """Of the key that signed: 0 is the first."""
    successor: Succession
    """The one that names the next."""


Fact = (
    TicketHolds
    | ConflictHolds
    | Lease
    | ReceiptHolds
    | Revocation
    | EnvelopeHolds
    | Acknowledgement
    | SuccessionHolds
    | KeyReplaced
)

_NONE: Mapping[str, Lineage] = {}


def parse(text: str) -> Any:
    """JSON, or one bare token as a string; raises `Unreadable`."""
    text = text.strip()
    if text[:1] not in ("{", "[", '"'):
        return text
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"it is no JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"a member twice in one object: {twice!r}")
    return members


def verify(
    told: Any, trusted: Mapping[str, PublicKey], lineages: Mapping[str, Lineage] = _NONE
) -> Iterator[Fact]:
    """What was told, each fact once it is verified; raises `Refuted` or `Unreadable`.

    `trusted`: the sites' keys that are believed, by thumbprint; empty: whatever key a ticket or
    proof states for its site is told, and for the reader to compare. `lineages`: which keys have
    followed some of them, as far as their reader knows.
    """
    verifier = Verifier()
    match told:
        case [dict(), *_]:
            for number, one in enumerate(told, 1):
                place = f"statement {number}"
                try:
                    yield from _Reader(verifier, trusted, lineages).read(one)
                except Refuted as error:
                    raise Refuted(_joined(place, error.where), error.why) from None
                except Unreadable as error:
                    raise Unreadable(f"{place}: {error}") from None
        case _:
            yield from _Reader(verifier, trusted, lineages).read(told)


class _Reader:
    """Verifies one thing after the other; a ticket vouches for the key of its site."""

    def __init__(
        self,
        verifier: Verifier,
        trusted: Mapping[str, PublicKey],
        lineages: Mapping[str, Lineage],
    ) -> None:
        self._verifier = verifier
        self._trusted = trusted
        self._lineages = lineages
        self._sites = dict(trusted)
        self._leaves: tuple[Claim, ...] = ()
        """The last claims of the ticket that was read, if one was."""
        self._roots: tuple[Claim, ...] = ()

    def read(self, told: Any) -> Iterator[Fact]:
        match told:
            case str():
                yield from self._token(told, "")
            case [str(), *_]:
                yield from self._ticket([told], "")
            case [list(), *_]:
                yield from self._ticket(told, "")
            case dict():
                yield from self._members(told)
            case []:
                raise Unreadable("the list is empty: there is nothing to verify")
            case _:
                raise Unreadable(f"it is none of a token, a chain, a ticket, or {_either(MEMBERS)}")

    def _members(self, told: dict[str, Any]) -> Iterator[Fact]:
        found = [name for name in MEMBERS if told.get(name)]
        if not found:
            raise Unreadable(f"it has nothing to verify: no {_either(MEMBERS)}")
        for name in found:
            match name, told[name]:
                case "ticket", [str(), *_] as chain:
                    yield from self._ticket([chain], name)
                case "ticket", value:
                    yield from self._ticket(value, name)
                case "conflict", value:
                    yield from self._conflict(value)
                case _, str() as token:
                    yield from self._token(token, name)
                case _:
                    raise Unreadable(f"{name}: a token is due")

    # Tickets ----------------------------------------------------------------------------------

    def _ticket(self, told: Any, where: str) -> Iterator[Fact]:
        ticket = _converted(told, Ticket, where)
        if len(ticket) > CHAINS_MAX:
            raise Refuted(where, f"a ticket has at most {CHAINS_MAX} chains, not {len(ticket)}")
        places = [_place(where, number, len(ticket)) for number in range(1, len(ticket) + 1)]
        chains = []
        for tokens, place in zip(ticket, places, strict=True):
            with _Proving(place):
                claims = self._verifier.chain(tokens)
                check_chain(claims, claims[0].issuer)
                trusted = self._vouch(claims[0])
            chains.append(claims)
        for claims, place in zip(chains, places, strict=True):
            if wrong := _disagreement(chains[0], claims):
                raise Refuted(place, wrong)
        self._leaves = tuple(claims[-1] for claims in chains)
        self._roots = tuple(claims[0] for claims in chains)
        _check_different(self._leaves, where)
        replaced = self._replaced_below(chains, where)
        yield TicketHolds(tuple(chains), trusted)
        yield from replaced

    def _vouch(self, root: Claim) -> bool:
        """Take the site's key from its root claim; whether it is one that was given."""
        site = root.site
        if site is None:
            raise AssertionError("a chain that holds starts with a root claim")
        if self._trusted and site.kid not in self._trusted:
            raise Untrusted(f"it starts at the site {site.kid}, which is none that you trust")
        self._sites.setdefault(site.kid, self._verifier.key(site.x))
        return site.kid in self._trusted

    def _conflict(self, told: Any) -> Iterator[Fact]:
        conflict = _converted(told, Conflict, "conflict")
        with _Proving("conflict"):
            verdict = judge(conflict, self._verifier.chain)
            parents = self._verifier.chain(conflict.parent)
            trusted = self._vouch(parents[0])
        replaced = self._replaced_below([parents, verdict.children], "conflict")
        yield ConflictHolds(verdict, conflict.instant, parents[0].issuer, trusted)
        yield from replaced

    # Keys -------------------------------------------------------------------------------------

    def _replaced_below(
        self, chains: Iterable[tuple[Claim, ...]], where: str
    ) -> tuple[KeyReplaced, ...]:
        """Of claims, each told once."""
        claims = {claim.digest: claim for chain in chains for claim in chain}.values()
        found = (
            self._replaced(f"claim {claim.jti}", claim.issuer, claim.lineage, where)
            for claim in claims
        )
        return tuple(one for some in found for one in some)

    def _replaced(
        self, what: str, signer: str, shown: tuple[str, ...], where: str, tick: int = 0
    ) -> tuple[KeyReplaced, ...]:
        """Whether the lineage given of the signer knows a later key than the one that signed.

        `shown`: the lineage that leads to that one. `tick`: when it says that it was signed, if it
        does. Raises `Refuted` when the key was not, or no more, the signer's.
        """
        known = self._lineages.get(signer)
        if known is None:
            return ()
        try:
            check_statement(known, shown, tick)
        except Disowned as error:
            raise Refuted(where, f"{what}: {error}") from None
        if len(shown) >= len(known.tokens):
            return ()
        return (KeyReplaced(what, signer, len(shown), known.successions[len(shown)]),)

    def _succession(self, token: str, where: str) -> Iterator[Fact]:
        stated = _peeked(token, where, _NumberedStep)
        if self._trusted and stated.iss not in self._trusted:
            raise Refuted(where, f"it is of {stated.iss!r}, which is none that you trust")
        known = self._lineages.get(stated.iss)
        before = known.tokens[: max(stated.number - 1, 0)] if known else ()
        if len(before) < stated.number - 1:
            raise Unreadable(
                f"succession {stated.number} is signed by the key before it: give the public key "
                f"of {stated.iss!r} with --key, as it is since then"
            )
        with _Proving(where):
            lineage = lineage_in((*before, token))
            kid = self._verifier.key(lineage.key).kid
        # only for its fork: that the key which signed it was replaced is what it says
        self._replaced("succession", lineage.identity, lineage.tokens, where)
        trusted = lineage.identity in self._trusted
        yield SuccessionHolds(lineage.identity, lineage.successions[-1], kid, trusted)

    # Tokens -----------------------------------------------------------------------------------

    def _token(self, token: str, where: str) -> Iterator[Fact]:
        try:
            stated = header(token)
        except Untrusted as error:
            raise Unreadable(f"{where}: {error}" if where else str(error)) from None
        typ = stated.get("typ")
        due = _TYPES.get(where, typ)
        if typ != due:
            raise Refuted(where, f"a {typ!r} where a {due!r} is due")
        readers: dict[str, Callable[[str, str], Iterator[Fact]]] = {
            CLAIM_TYPE: lambda token, where: self._ticket([[token]], where),
            LEASE_TYPE: self._lease,
            RECEIPT_TYPE: self._receipt,
            REVOCATION_TYPE: self._revocation,
            ENVELOPE_TYPE: self._envelope,
            ACKNOWLEDGEMENT_TYPE: self._acknowledgement,
            SUCCESSION_TYPE: self._succession,
        }
        if not isinstance(typ, str) or typ not in readers:
            raise Unreadable(f"a {typ!r} is nothing that can be verified here")
        return readers[typ](token, where)

    def _issuer(self, token: str, where: str) -> PublicKey:
        """The site that a lease, receipt or revocation has to be signed by."""
        kid = header(token).get("kid")
        issuer = self._sites.get(kid) if isinstance(kid, str) else None
        if issuer is not None:
            return issuer
        if self._sites:
            raise Refuted(where, f"it is signed by {kid!r}, which is not the site")
        raise Unreadable("give the public key of the site with --key, or the ticket beside it")

    def _lease(self, token: str, where: str) -> Iterator[Fact]:
        issuer = self._issuer(token, where)
        with _Proving(where):
            lease = self._verifier.lease(token, issuer)
        self._check_ours(lease, where)
        if self._leaves:
            begin = min(leaf.term.start for leaf in self._leaves)
            end = max(leaf.term.end for leaf in self._leaves)
            if lease.type != self._leaves[0].type:
                raise Refuted(where, f"it is on {lease.type}, the ticket on {self._leaves[0].type}")
            if not begin <= lease.term.start < lease.term.end <= end:
                raise Refuted(where, "its term is not within the ticket's")
            if len(lease.units) > (most := _most_at_once(self._leaves)):
                raise Refuted(where, f"it is on {len(lease.units)} units, the ticket on {most}")
        replaced = self._replaced("lease", lease.issuer, lineage_of(token), where)
        yield lease
        yield from replaced

    def _receipt(self, token: str, where: str) -> Iterator[Fact]:
        issuer = self._issuer(token, where)
        with _Proving(where):
            receipt = self._verifier.receipt(token, issuer)
        self._check_ours(receipt, where)
        unseen = self._unseen(receipt, where)
        shown = lineage_of(token)
        replaced = self._replaced("receipt", receipt.issuer, shown, where, receipt.tick)
        yield ReceiptHolds(receipt, unseen)
        yield from replaced

    def _unseen(self, receipt: Receipt, where: str) -> tuple[str, ...]:
        """The claims that a receipt names and the ticket beside it does not show."""
        if not self._leaves:
            return ()
        shown = {leaf.jti for leaf in self._leaves}
        forgotten = sorted(shown.difference(receipt.claims))
        if forgotten and (receipt.final or len(forgotten) == len(shown)):
            raise Refuted(where, f"it does not name the claim {forgotten[0]!r} of the ticket")
        unseen = tuple(jti for jti in receipt.claims if jti not in shown)
        if not unseen and receipt.units_freed > (most := _most_at_once(self._leaves)):
            raise Refuted(where, f"it frees {receipt.units_freed} units, the ticket is on {most}")
        return unseen

    def _revocation(self, token: str, where: str) -> Iterator[Fact]:
        issuer = self._issuer(token, where)
        with _Proving(where):
            revocation = self._verifier.revocation(token, issuer)
        if self._roots and revocation.digest not in {root.digest for root in self._roots}:
            raise Refuted(where, f"it revokes {revocation.claim!r}, no root claim of the ticket")
        shown = lineage_of(token)
        replaced = self._replaced("revocation", revocation.issuer, shown, where, revocation.tick)
        yield revocation
        yield from replaced

    def _check_ours(self, statement: Lease | Receipt, where: str) -> None:
        """That a lease or receipt is the one of the ticket beside it."""
        if not self._leaves:
            return
        leaf = self._leaves[0]
        if self._roots[0].issuer != statement.issuer:
            raise Refuted(where, "it is of another site than the ticket")
        if (leaf.holder.kid, leaf.reservation) != (statement.holder, statement.reservation):
            raise Refuted(
                where,
                f"it is for the lease {statement.reservation!r} of {statement.holder}, the ticket "
                f"for {leaf.reservation!r} of {leaf.holder.kid}",
            )

    # Envelopes --------------------------------------------------------------------------------

    def _envelope(self, token: str, where: str) -> Iterator[Fact]:
        stated = _peeked(token, where, _Addressed)
        try:
            opened = open_envelope(token.encode(), stated.aud, stated.t, 0, self._sites)
        except Rejected as error:
            raise Refuted(where, str(error)) from None
        sender, sent = opened.sender.kid, opened.sent_ms // 1000
        replaced = self._replaced("envelope", sender, lineage_of(token), where, sent)
        yield EnvelopeHolds(opened, stated.aud, sender in self._trusted)
        yield from replaced

    def _acknowledgement(self, token: str, where: str) -> Iterator[Fact]:
        stated = _peeked(token, where, _Addressed)
        peer = self._sites.get(stated.iss)
        if peer is None:
            raise Unreadable(f"give the public key of {stated.iss!r} with --key")
        with _Proving(where):
            answer = read_acknowledgement(token.encode(), peer, stated.aud, stated.n)
        shown, sent = lineage_of(token), answer.t // 1000
        replaced = self._replaced("acknowledgement", answer.iss, shown, where, sent)
        yield answer
        yield from replaced


_TYPES = {
    "lease": LEASE_TYPE,
    "receipt": RECEIPT_TYPE,
    "revocation": REVOCATION_TYPE,
    "envelope": ENVELOPE_TYPE,
    "acknowledgement": ACKNOWLEDGEMENT_TYPE,
}
"""By member: the `typ` that its token has to have."""


class _Addressed(Struct, frozen=True):
    """What envelopes and acknowledgements state of themselves."""

    iss: str
    aud: str
    n: int
    t: int


class _NumberedStep(Struct, frozen=True):
    """What a succession states of itself."""

    iss: str
    number: int


def _peeked(token: str, where: str, form: type[T]) -> T:
    """Not verified yet: what it says of itself is what it is then held to."""
    try:
        return msgspec.json.decode(unverified(token), type=form)
    except (Untrusted, msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Refuted(where, f"not what its type says: {error}") from None


class _Proving:
    """Says in which part of the file it was that something did not hold."""

    def __init__(self, where: str) -> None:
        self._where = where

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, Untrusted | Unfit):
            raise Refuted(self._where, str(error)) from None


def _place(where: str, number: int, count: int) -> str:
    return _joined(where, f"chain {number}" if count > 1 else "")


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _disagreement(first: tuple[Claim, ...], chain: tuple[Claim, ...]) -> str:
    """Why two chains are no parts of one ticket."""
    one, other = first[-1], chain[-1]
    for what, found, due in (
        ("rooted at the site", chain[0].issuer, first[0].issuer),
        ("for the holder", other.holder.kid, one.holder.kid),
        ("for the lease", other.reservation, one.reservation),
        ("on the type", other.type, one.type),
    ):
        if found != due:
            return f"it is {what} {found!r}, the first chain of the ticket {due!r}"
    return ""


def _check_different(leaves: tuple[Claim, ...], where: str) -> None:
    seen: dict[str, int] = {}
    for number, leaf in enumerate(leaves, 1):
        if leaf.jti in seen:
            raise Refuted(
                where, f"chains {seen[leaf.jti]} and {number} end in the same claim {leaf.jti!r}"
            )
        seen[leaf.jti] = number


def _most_at_once(leaves: tuple[Claim, ...]) -> int:
    """Units that claims are on together, at the instant when they are most."""
    return max(
        sum(other.units for other in leaves if other.term.covers(leaf.term.start))
        for leaf in leaves
    )


def _converted(told: Any, form: Any, where: str) -> Any:
    try:
        return msgspec.convert(told, form)
    except (msgspec.ValidationError, RecursionError) as error:
        raise Unreadable(f"{where}: {error}" if where else str(error)) from None


def _either(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
