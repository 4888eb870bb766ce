"""What verified statements say, in words and for programs.

Each function takes one fact of `shirako.verifying` and gives lines: `says` is for people, the other
members for programs. Names in statements are what one party calls the next; keys are what counts,
so both are told.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shirako.cli import output
from shirako.clock import utc
from shirako.core.claims import Claim, Lease, Party, Revocation
from shirako.core.conflict import allowed
from shirako.core.lineage import Succession
from shirako.core.messages import Message
from shirako.transport.envelope import Acknowledgement, Refusal
from shirako.verifying.audit import Audit
from shirako.verifying.statements import (
    ConflictHolds,
    EnvelopeHolds,
    Fact,
    KeyReplaced,
    ReceiptHolds,
    SuccessionHolds,
    TicketHolds,
)

Line = dict[str, Any]


def lines(fact: Fact) -> Iterator[Line]:
    """What the fact says, the most important line first; `depth` is how far it is indented."""
    match fact:
        case TicketHolds():
            yield from _ticket(fact)
        case ConflictHolds():
            yield from _conflict(fact)
        case Lease():
            yield _lease(fact)
        case ReceiptHolds():
            yield _receipt(fact)
        case Revocation():
            yield _revocation(fact)
        case EnvelopeHolds():
            yield from _envelope(fact)
        case Acknowledgement():
            yield from _acknowledgement(fact)
        case SuccessionHolds():
            yield from _succession(fact)
        case KeyReplaced():
            yield _key_replaced(fact)


def audit(record: Audit) -> Line:
    """What an audit record holds."""
    says = f"audit record: {record.commits} commits with {record.entries} entries"
    if record.entries:
        says += f", {_span(record.first_tick, record.last_tick)}"
    says += f", head {record.head or 'none'}"
    if record.noted:
        says += f"; what was noted is commit {record.noted}"
    return {
        "kind": "audit",
        "commits": record.commits,
        "entries": record.entries,
        "head": record.head,
        "noted": record.noted,
        "says": says,
    }


# Tickets ----------------------------------------------------------------------------------------


def _ticket(fact: TicketHolds) -> Iterator[Line]:
    leaf = fact.chains[0][-1]
    parts = "" if len(fact.chains) == 1 else f", in {len(fact.chains)} chains"
    about = f"lease {leaf.reservation}" if leaf.reservation else "a share to delegate or sell"
    says = f"ticket of {_holder(leaf)} for {about}: {leaf.type}{parts}"
    yield {
        "kind": "ticket",
        "holder": leaf.holder.kid,
        "reservation": leaf.reservation,
        "type": leaf.type,
        "chains": len(fact.chains),
        "says": says,
    }
    shown: set[str] = set()
    for chain in fact.chains:
        above = ""
        for depth, claim in enumerate(chain, 1):
            if claim.digest not in shown:  # chains may share their beginning: they are a tree
                yield _claim(claim, chain[depth - 2] if depth > 1 else None, depth, above)
            shown.add(claim.digest)
            above = claim.jti
    for party in _parties(fact):
        yield _key(party)
    yield _root(fact.chains[0][0].issuer, "ticket", trusted=fact.trusted)


def _claim(claim: Claim, parent: Claim | None, depth: int, above: str) -> Line:
    issuer = parent.holder if parent else claim.site
    says = (
        f"claim {claim.jti}: {_name(issuer, claim.issuer)} gives {_holder(claim)} "
        f"{claim.units} x {claim.type}, {_span(claim.term.start, claim.term.end)}"
    )
    if claim.overbooking > 1:
        says += f", to sell up to {allowed(claim)} of"
    if claim.reservation:
        says += f", for lease {claim.reservation}"
    if claim.extends:
        says += f", to go on from {claim.extends}"
    return {
        "kind": "claim",
        "jti": claim.jti,
        "parent": above,
        "issuer": claim.issuer,
        "holder": claim.holder.kid,
        "type": claim.type,
        "units": claim.units,
        "start": claim.term.start,
        "end": claim.term.end,
        "reservation": claim.reservation,
        "extends": claim.extends,
        "overbooking": claim.overbooking,
        "depth": depth,
        "says": says,
    }


def _parties(fact: TicketHolds) -> list[Party]:
    sites = [chain[0].site for chain in fact.chains]
    holders = [claim.holder for chain in fact.chains for claim in chain]
    return list({party.kid: party for party in (*sites, *holders) if party}.values())


def _key(party: Party) -> Line:
    return {
        "kind": "key",
        "kid": party.kid,
        "name": party.name,
        "depth": 1,
        "says": f"{party.name or 'unnamed'} is {party.kid}",
    }


def _root(kid: str, of: str, *, trusted: bool) -> Line:
    return {
        "kind": "root",
        "kid": kid,
        "trusted": trusted,
        "depth": 1,
        "says": f"rooted at {kid}, {_trust(f'the {of} itself states', trusted=trusted)}",
    }


def _trust(stated: str, *, trusted: bool) -> str:
    """Why a key is believed: it was given, or else as `stated`."""
    return "which you trust" if trusted else f"as {stated}: compare it"


def _holder(claim: Claim) -> str:
    return _name(claim.holder, claim.holder.kid)


def _name(party: Party | None, kid: str) -> str:
    return party.name if party and party.name else kid


# What sites state -------------------------------------------------------------------------------


def _lease(lease: Lease) -> Line:
    units = ", ".join(lease.units) or "no unit at this time"
    says = (
        f"lease {lease.reservation}: {units} ({lease.type}), "
        f"{_span(lease.term.start, lease.term.end)}, for {lease.holder}"
    )
    return {
        "kind": "lease",
        "jti": lease.jti,
        "issuer": lease.issuer,
        "holder": lease.holder,
        "reservation": lease.reservation,
        "units": list(lease.units),
        "start": lease.term.start,
        "end": lease.term.end,
        "says": says,
    }


def _receipt(fact: ReceiptHolds) -> Line:
    receipt = fact.receipt
    used = "torn down" if receipt.redeemed else "never redeemed and void"
    says = (
        f"receipt for lease {receipt.reservation} of {receipt.holder}: {used}, "
        f"{receipt.units_freed} units freed at {_moment(receipt.tick)}"
    )
    if receipt.checks:
        says += f"; verified: {', '.join(receipt.checks)}"
    if receipt.failed_units:
        says += f"; NOT freed: {', '.join(receipt.failed_units)}"
    if fact.unseen:
        says += f"; it names claims that are not shown here: {', '.join(fact.unseen)}"
    return {
        "kind": "receipt",
        "jti": receipt.jti,
        "issuer": receipt.issuer,
        "holder": receipt.holder,
        "reservation": receipt.reservation,
        "claims": list(receipt.claims),
        "units_freed": receipt.units_freed,
        "tick": receipt.tick,
        "redeemed": receipt.redeemed,
        "failed_units": list(receipt.failed_units),
        "unseen": list(fact.unseen),
        "says": says,
    }


def _revocation(revocation: Revocation) -> Line:
    left = f"worth {revocation.units} units at most" if revocation.units else "worth nothing more"
    says = (
        f"revocation {revocation.number} of claim {revocation.claim}, which {revocation.issuer} "
        f"gave {revocation.holder}: {left} from {_moment(revocation.tick)} on"
    )
    if revocation.reason:
        says += f" ({revocation.reason})"
    return {
        "kind": "revocation",
        "issuer": revocation.issuer,
        "holder": revocation.holder,
        "claim": revocation.claim,
        "units": revocation.units,
        "tick": revocation.tick,
        "number": revocation.number,
        "reason": revocation.reason,
        "says": says,
    }


def _conflict(fact: ConflictHolds) -> Iterator[Line]:
    verdict = fact.verdict
    parent = verdict.parent
    says = (
        f"conflict: {_name(verdict.broker, verdict.broker.kid)} sold {verdict.sold} x "
        f"{parent.type} of the {verdict.held} that the claim {parent.jti} allows, all for "
        f"{_moment(fact.instant)}"
    )
    yield {
        "kind": "conflict",
        "broker": verdict.broker.kid,
        "claim": parent.jti,
        "sold": verdict.sold,
        "held": verdict.held,
        "instant": fact.instant,
        "says": says,
    }
    for child in verdict.children:
        yield _claim(child, parent, 1, parent.jti)
    yield _key(verdict.broker)
    yield _root(fact.site, "proof", trusted=fact.trusted)


# Envelopes --------------------------------------------------------------------------------------


def _envelope(fact: EnvelopeHolds) -> Iterator[Line]:
    opened = fact.opened
    known = _trust("the envelope itself shows", trusted=fact.trusted)
    says = (
        f"envelope {opened.n} from {opened.sender.kid}, {known}, to {fact.audience}, sealed at "
        f"{_milliseconds(opened.sent_ms)}: {len(opened.messages)} messages"
    )
    yield {
        "kind": "envelope",
        "sender": opened.sender.kid,
        "audience": fact.audience,
        "number": opened.n,
        "sent_ms": opened.sent_ms,
        "trusted": fact.trusted,
        "says": says,
    }
    for index, message in enumerate(opened.messages):
        yield _message(index, message)


def _message(index: int, message: Message | Refusal) -> Line:
    if isinstance(message, Refusal):
        what, says = message.code, f"message {index + 1} can not be read: {message.reason}"
        return {"kind": "message", "is": what, "depth": 1, "says": says}
    name = str(type(message).__struct_config__.tag)
    says = f"message {index + 1}: {name} {message.n} for lease {message.rid} of {message.holder}"
    return {
        "kind": "message",
        "is": name,
        "rid": message.rid,
        "holder": message.holder,
        "n": message.n,
        "depth": 1,
        "says": says,
    }


def _acknowledgement(answer: Acknowledgement) -> Iterator[Line]:
    says = (
        f"acknowledgement of envelope {answer.n} by {answer.iss}, to {answer.aud}, at "
        f"{_milliseconds(answer.t)}: {len(answer.refused)} messages refused, the others are kept"
    )
    yield {
        "kind": "acknowledgement",
        "issuer": answer.iss,
        "audience": answer.aud,
        "number": answer.n,
        "says": says,
    }
    for refusal in answer.refused:
        yield {
            "kind": "refusal",
            "index": refusal.index,
            "code": refusal.code,
            "depth": 1,
            "says": f"message {refusal.index + 1} refused, {refusal.code}: {refusal.reason}",
        }


# Keys -------------------------------------------------------------------------------------------


def _succession(fact: SuccessionHolds) -> Iterator[Line]:
    step = fact.succession
    yield {
        "kind": "succession",
        "actor": fact.identity,
        "number": step.number,
        "kid": fact.kid,
        "since": step.since,
        "until": step.until,
        "trusted": fact.trusted,
        "says": (
            f"succession {step.number}: from {_moment(step.since)} on {fact.identity} signs with "
            f"the key {fact.kid}; {_believed(step)}"
        ),
    }
    yield _root(fact.identity, "succession", trusted=fact.trusted)


def _key_replaced(fact: KeyReplaced) -> Line:
    step = fact.successor
    key = f"key {fact.number}" if fact.number else "the first key"
    return {
        "kind": "replaced",
        "what": fact.what,
        "actor": fact.signer,
        "number": fact.number,
        "since": step.since,
        "until": step.until,
        "depth": 1,
        "says": (
            f"{fact.what} is signed with {key} of {fact.signer}, which was replaced at "
            f"{_moment(step.since)}; {_believed(step)}"
        ),
    }


def _believed(step: Succession) -> str:
    """Up to when keys that were replaced may be shown to have signed something."""
    return f"what earlier keys signed counts if somebody was shown it by {_moment(step.until)}"


# Times ------------------------------------------------------------------------------------------


def _span(start: int, end: int) -> str:
    return f"{_moment(start)} to {_moment(end)}"


def _moment(tick: int) -> str:
    """The time of a tick, or the tick where people have no such time."""
    try:
        return output.short(utc(tick))
    except (ValueError, OverflowError, OSError):
        return f"tick {tick}"


def _milliseconds(moment: int) -> str:
    return _moment(moment // 1000)
