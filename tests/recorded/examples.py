"""One example of everything that peers, people and files see of this version, all fields in use.

Keys and ticks are fixed: made again, it is the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec
from joserfc import jws
from msgspec.structs import replace

from shirako import trust
from shirako.api.problems import Problem
from shirako.core import messages
from shirako.core.account import Citation, Entry, Page, Posting
from shirako.core.claims import Ticket
from shirako.core.conflict import Conflict
from shirako.core.messages import Message
from shirako.lineage import SUCCESSION_TYPE, succession
from shirako.transport.envelope import Refusal, acknowledge, seal
from shirako.trust import (
    ACKNOWLEDGEMENT_TYPE,
    CLAIM_TYPE,
    ENVELOPE_TYPE,
    LEASE_TYPE,
    RECEIPT_TYPE,
    REVOCATION_TYPE,
    PrivateKey,
)
from tests.core.cast import key_of, party_of
from tests.verify.papers import (
    BROKER,
    GUEST,
    LEAF,
    LEASE,
    MIDDLE,
    NOW,
    RECEIPT,
    RESELLER,
    SITE,
    SOLD,
    TERM,
    below,
    own_root,
    revocation,
    sold_out,
)

PAGE = Page(volume=NOW - 60, carried=(Entry("t8", TERM.end, 1),), entries=(Entry("t9", TERM.end),))
ROOT = own_root(SITE, "site", overbooking=1.5, jti="d1")
TICKET: Ticket = (
    below(
        below([ROOT], BROKER, replace(MIDDLE, account=PAGE.cited_as())),
        RESELLER,
        replace(LEAF, extends="t0"),
    ),
)
RECEIPT_IN_FULL = replace(
    RECEIPT,
    failed_units=("n3",),
    units_freed=3,
    postings=(
        Posting(
            parent=trust.digest(ROOT),
            entry=Entry("t1", TERM.end, 1),
            place=Citation(0, 2, "2" * 64),
            before=Citation(0, 1, "1" * 64),
        ),
    ),
)


def examples() -> Iterator[tuple[str, bytes]]:
    """By file name, in folders by kind."""
    for name, message in MESSAGES.items():
        yield f"messages/{name}.json", messages.encode(message)
    for typ, token in tokens().items():
        yield f"tokens/{typ.replace('+', '.')}", token.encode()
    yield "tokens/ticket.json", msgspec.json.encode(TICKET)
    yield "tokens/conflict.json", msgspec.json.encode({"conflict": conflict()})
    yield "tokens/lease_by_a_second_key", trust.sign_lease(second_key(), LEASE).encode()
    yield "envelopes/all_messages", envelope(list(MESSAGES.values()))
    yield "envelopes/answer", answer()
    for problem in PROBLEMS:
        text = json.dumps(problem.document(), indent=1) + "\n"
        yield f"problems/{problem.status}_{problem.kind}.json", text.encode()


# Tokens -------------------------------------------------------------------------------------------


def tokens() -> dict[str, str]:
    """By `typ`."""
    return {
        CLAIM_TYPE: ROOT,
        LEASE_TYPE: trust.sign_lease(SITE, LEASE),
        RECEIPT_TYPE: trust.sign_receipt(SITE, RECEIPT_IN_FULL),
        REVOCATION_TYPE: trust.sign_revocation(SITE, revocation()),
        SUCCESSION_TYPE: second_key().lineage[0],
        ENVELOPE_TYPE: envelope([MESSAGES["Close"]]).decode(),
        ACKNOWLEDGEMENT_TYPE: answer().decode(),
    }


def conflict() -> Conflict:
    return replace(
        sold_out(*(replace(claim, account=PAGE.cited_as()) for claim in SOLD)), page=PAGE
    )


def second_key(name: str = "site") -> PrivateKey:
    """An actor's after it replaced its first key."""
    first, fresh = key_of(name), key_of(f"the {name}'s second key")._jwk
    header: dict[str, Any] = {
        "alg": "Ed25519",
        "typ": SUCCESSION_TYPE,
        "kid": first.public.kid,
        "jwk": {"kty": "OKP", "crv": "Ed25519", "x": first.public.x},
    }
    x = str(fresh.as_dict(private=False)["x"])
    payload = succession(first.public.kid, 1, x, NOW - 300, NOW + 300)
    return PrivateKey(
        fresh, (jws.serialize_compact(header, payload, first._jwk, registry=trust.REGISTRY),)
    )


# Messages and envelopes ---------------------------------------------------------------------------

HEAD: dict[str, Any] = {"rid": "L1", "holder": GUEST.public.kid}
OFFER = messages.Offer(latest_end=NOW + 7200, cap="booked", units=2, start=NOW + 600)
MESSAGES: dict[str, Message] = {
    "Ticket": messages.TicketRequest(
        **HEAD,
        n=1,
        guest=party_of("guest"),
        slice="blue",
        type="node.small",
        units=4,
        least_units=2,
        term=TERM,
        properties={"machine.memory": "2GB"},
    ),
    "ExtendTicket": messages.ExtendTicket(**HEAD, n=2, end=TERM.end + 600, least_end=TERM.end + 60),
    "Relinquish": messages.Relinquish(
        **HEAD, n=3, receipt=trust.sign_receipt(SITE, RECEIPT_IN_FULL)
    ),
    "UpdateTicket": messages.UpdateTicket(
        **HEAD,
        n=4,
        answers=1,
        ticket=TICKET,
        closed=True,
        offer=OFFER,
        properties={"site.name": "north"},
        revocation=trust.sign_revocation(SITE, revocation()),
    ),
    "Redeem": messages.Redeem(
        **HEAD,
        n=5,
        ticket=TICKET,
        slice="blue",
        least_units=2,
        keys=("ssh-ed25519 " + "A" * 68,),
        properties={"host.prefix": "web"},
    ),
    "ExtendLease": messages.ExtendLease(**HEAD, n=6, ticket=TICKET),
    "Close": messages.Close(**HEAD, n=7, ticket=TICKET),
    "UpdateLease": messages.UpdateLease(
        **HEAD,
        n=8,
        answers=5,
        lease=trust.sign_lease(SITE, LEASE),
        units=(messages.UnitState(unit="n1", epoch=NOW, properties={"host": "10.0.0.1"}),),
        closed=True,
        close_failed=True,
        receipt=trust.sign_receipt(SITE, RECEIPT_IN_FULL),
        reason="teardown failed on n3",
        degraded="n2 died",
        revoked="the machines are sold",
    ),
    "Failed": messages.Failed(
        **HEAD,
        n=9,
        answers=5,
        code="conflict",
        reason="the broker sold too much",
        offer=OFFER,
        receipt=trust.sign_receipt(SITE, RECEIPT_IN_FULL),
        conflict=conflict(),
        revocation=trust.sign_revocation(SITE, revocation()),
    ),
}
"""By the name that each has on the wire."""


def envelope(said: list[Message]) -> bytes:
    return seal(GUEST, SITE.public.kid, 7, NOW * 1000, [messages.encode(one) for one in said])


def answer() -> bytes:
    refused = (
        Refusal(1, "malformed", "no such message"),
        Refusal(4, "conflict", "the broker sold too much", conflict=conflict()),
        Refusal(6, "busy", "the lease is Priming", retry=True),
    )
    return acknowledge(SITE, GUEST.public.kid, 7, NOW * 1000 + 40, refused)


# Problems -----------------------------------------------------------------------------------------

PROBLEMS = (
    Problem(404, "not_found", "there is no such lease"),
    Problem(
        422,
        "invalid",
        "units: at least 1",
        field="units",
        errors=({"field": "units", "message": "at least 1"}, {"field": "type", "message": "none"}),
    ),
    Problem(
        409,
        "refused",
        "not so long",
        members={"granted_end": "2027-01-15T10:00:00Z", "cap": "delegation"},
    ),
    Problem(503, "overloaded", "too much is waiting here; try again later", retry=True),
    Problem(401, "signature", "the signature does not hold"),
)
