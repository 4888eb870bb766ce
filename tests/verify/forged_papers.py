"""Leases, receipts, revocations, conflict proofs and envelopes that do not hold, beside a ticket
that does."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from msgspec.structs import replace

from shirako import trust
from shirako.core import messages
from shirako.core.account import Citation, Entry, Page
from shirako.core.claims import Lease, Receipt, Revocation
from shirako.core.terms import Term
from shirako.transport.envelope import Refusal, acknowledge, seal
from shirako.trust import LEASE_TYPE, RECEIPT_TYPE, REVOCATION_TYPE
from tests.core.cast import key_of
from tests.core.tokens import bytes_of, compact, content_of, header_of, text_of
from tests.recorded.examples import second_key
from tests.verify.kit import UNREADABLE, forged
from tests.verify.papers import (
    BROKER,
    GUEST,
    LEASE,
    MIDDLE,
    NOW,
    RECEIPT,
    RESELLER,
    SITE,
    SOLD,
    STRANGER,
    TERM,
    UNITS,
    Papers,
    middle,
    own_root,
    revocation,
    root_token,
    sold_out,
    ticket,
)


def with_lease(lease: Lease) -> dict[str, Any]:
    return Papers().told(lease=trust.sign_lease(SITE, lease))


def with_receipt(receipt: Receipt) -> dict[str, Any]:
    return Papers().told(receipt=trust.sign_receipt(SITE, receipt))


def spoiled_receipt(**changes: Any) -> dict[str, Any]:
    """With a receipt that no site of ours would make, rightly signed."""
    content = {**msgspec.to_builtins(RECEIPT), **changes}
    header = {"alg": "Ed25519", "typ": RECEIPT_TYPE, "kid": SITE.public.kid}
    return Papers().told(receipt=compact(SITE, header, content))


def tampered(token: str) -> str:
    """The same with one bit of its signature changed."""
    body, _, signature = token.rpartition(".")
    raw = bytearray(bytes_of(signature))
    raw[40] ^= 8
    return f"{body}.{text_of(bytes(raw))}"


# Leases -------------------------------------------------------------------------------------------


@forged("lease", "which is not the site")
def lease_signed_by_a_stranger() -> Any:
    return Papers().told(lease=trust.sign_lease(STRANGER, LEASE))


@forged("lease", "which is not the site")
def lease_signed_by_the_broker() -> Any:
    return Papers().told(lease=trust.sign_lease(BROKER, LEASE))


@forged("lease", "signature does not hold")
def lease_signed_by_a_stranger_in_the_sites_name() -> Any:
    token = trust.sign_lease(STRANGER, LEASE)
    header = {**header_of(token), "kid": SITE.public.kid}
    return Papers().told(lease=compact(STRANGER, header, content_of(token)))


@forged("lease", "names another issuer")
def lease_that_names_another_issuer() -> Any:
    return with_lease(replace(LEASE, issuer=STRANGER.public.kid))


@forged("lease", "is of another site than the ticket")
def lease_of_another_site() -> Any:
    """Both sites are trusted; the units are the other's."""
    elsewhere = key_of("elsewhere")
    lease = replace(LEASE, issuer=elsewhere.public.kid)
    return Papers().told(lease=trust.sign_lease(elsewhere, lease))


@forged("lease", "it is for the lease 'L1'", "the ticket for 'L1'")
def lease_of_another_holder() -> Any:
    return with_lease(replace(LEASE, holder=STRANGER.public.kid))


@forged("lease", "it is for the lease 'L2'", "the ticket for 'L1'")
def lease_of_another_reservation() -> Any:
    return with_lease(replace(LEASE, reservation="L2"))


@forged("lease", "it is on 5 units, the ticket on 4")
def lease_on_more_units_than_its_ticket() -> Any:
    return with_lease(replace(LEASE, units=UNITS[:5]))


@forged("lease", "the same unit twice")
def lease_on_one_unit_twice() -> Any:
    header = {"alg": "Ed25519", "typ": LEASE_TYPE, "kid": SITE.public.kid}
    content = {**msgspec.to_builtins(LEASE), "units": ["n1", "n1"]}
    return Papers().told(lease=compact(SITE, header, content))


@forged("lease", "its term is not within the ticket's")
def lease_longer_than_its_ticket() -> Any:
    return with_lease(replace(LEASE, term=Term(TERM.start, TERM.end + 1)))


@forged("lease", "it is on node.large, the ticket on node.small")
def lease_of_another_type() -> Any:
    return with_lease(replace(LEASE, type="node.large"))


@forged("lease", "signature does not hold")
def lease_with_one_bit_changed() -> Any:
    return Papers().told(lease=tampered(Papers().lease))


@forged("lease", "a 'shirako-receipt+jwt' where a 'shirako-lease+jwt' is due")
def receipt_in_place_of_a_lease() -> Any:
    return Papers().told(lease=Papers().receipt)


@forged("lease", "a 'shirako-claim+jwt' where a 'shirako-lease+jwt' is due")
def claim_in_place_of_a_lease() -> Any:
    return Papers().told(lease=ticket()[-1])


# Receipts -----------------------------------------------------------------------------------------


@forged("receipt", "which is not the site")
def receipt_signed_by_the_guest() -> Any:
    return Papers().told(receipt=trust.sign_receipt(GUEST, RECEIPT))


@forged("receipt", "names another issuer")
def receipt_that_names_another_issuer() -> Any:
    return with_receipt(replace(RECEIPT, issuer=STRANGER.public.kid))


@forged("receipt", "does not name the claim 't1' of the ticket")
def receipt_naming_another_leases_claim() -> Any:
    return with_receipt(replace(RECEIPT, claims=("t9",)))


@forged("receipt", "does not name the claim 't1' of the ticket")
def receipt_naming_no_claim() -> Any:
    return with_receipt(replace(RECEIPT, claims=()))


@forged("receipt", "it is for the lease 'L2'", "the ticket for 'L1'")
def receipt_of_another_reservation() -> Any:
    return with_receipt(replace(RECEIPT, reservation="L2"))


@forged("receipt", "it is for the lease 'L1'", "the ticket for 'L1'")
def receipt_of_another_holder() -> Any:
    return with_receipt(replace(RECEIPT, holder=STRANGER.public.kid))


@forged("receipt", "it frees 5 units, the ticket is on 4")
def receipt_that_frees_more_than_the_ticket() -> Any:
    return with_receipt(replace(RECEIPT, units_freed=5))


@forged("receipt", "frees 0 units or more")
def receipt_that_frees_less_than_nothing() -> Any:
    return spoiled_receipt(units_freed=-4)


@forged("receipt", "of a time that is none")
def receipt_of_no_time() -> Any:
    return spoiled_receipt(tick=10**20)


@forged("receipt", "not a receipt", "Expected `bool`")
def receipt_that_is_somewhat_final() -> Any:
    return spoiled_receipt(final=1)


@forged("receipt", "the same member twice")
def receipt_with_duplicate_members() -> Any:
    token = Papers().receipt
    text = json.dumps(content_of(token)).replace("{", '{"redeemed": false, ', 1)
    return Papers().told(receipt=compact(SITE, header_of(token), text.encode()))


@forged("receipt", "signature does not hold")
def receipt_with_one_bit_changed() -> Any:
    return Papers().told(receipt=tampered(Papers().receipt))


@forged("which is not the site")
def receipt_alone_of_a_site_that_is_not_trusted() -> Any:
    return trust.sign_receipt(STRANGER, replace(RECEIPT, issuer=STRANGER.public.kid))


# Revocations --------------------------------------------------------------------------------------


def with_revocation(revoked: Revocation, key: trust.PrivateKey = SITE) -> dict[str, Any]:
    return Papers().told(revocation=trust.sign_revocation(key, revoked))


@forged("revocation", "no root claim of the ticket")
def revocation_of_another_claim() -> Any:
    return with_revocation(replace(revocation(), claim="d2", digest="0" * 64))


@forged("revocation", "which is not the site")
def revocation_by_the_broker() -> Any:
    return with_revocation(replace(revocation(), issuer=BROKER.public.kid), BROKER)


@forged("revocation", "names another issuer")
def revocation_that_names_another_issuer() -> Any:
    return with_revocation(replace(revocation(), issuer=BROKER.public.kid))


@forged("revocation", "0 units or more")
def revocation_that_leaves_less_than_nothing() -> Any:
    header = {"alg": "Ed25519", "typ": REVOCATION_TYPE, "kid": SITE.public.kid}
    content = {**msgspec.to_builtins(revocation()), "units": -1}
    return Papers().told(revocation=compact(SITE, header, content))


@forged("revocation", "signature does not hold")
def revocation_with_one_bit_changed() -> Any:
    token = trust.sign_revocation(SITE, revocation())
    return Papers().told(revocation=tampered(token))


# Conflict proofs ----------------------------------------------------------------------------------


def proof(conflict: Any) -> dict[str, Any]:
    return {"conflict": msgspec.to_builtins(conflict)}


@forged("conflict", "no conflict: 10 units were sold of the 10")
def conflict_between_claims_that_fit() -> Any:
    one, other = SOLD
    return proof(sold_out(one, replace(other, units=4)))


@forged("conflict", "a claim is shown twice")
def conflict_that_shows_a_claim_twice() -> Any:
    one, _ = SOLD
    return proof(sold_out(one, one))


@forged("conflict", "the claim s2 does not cover the instant")
def conflict_between_claims_that_follow_each_other() -> Any:
    one, other = SOLD
    return proof(sold_out(one, replace(other, term=Term(TERM.end, TERM.end + 600))))


@forged("conflict", "not those that the newest of the claims cites")
def conflict_that_leaves_out_the_receipts() -> Any:
    """The second claim was sold after the first was given back, and says so."""
    one, other = SOLD
    page = Page(entries=(Entry("s1", TERM.end),))
    return proof(sold_out(one, replace(other, account=page.cited_as())))


@forged("conflict", "no conflict: 5 units were sold of the 10")
def conflict_with_a_claim_that_was_given_back() -> Any:
    one, other = SOLD
    page = Page(entries=(Entry("s1", TERM.end),))
    conflict = sold_out(one, replace(other, account=page.cited_as()))
    return proof(replace(conflict, page=page))


@forged("conflict", "not those that the newest of the claims cites")
def conflict_with_receipts_that_nobody_cited() -> Any:
    conflict = sold_out(*(replace(claim, account=Citation(0, 1, "0" * 64)) for claim in SOLD))
    return proof(replace(conflict, page=Page(entries=(Entry("s9", TERM.end),))))


@forged("conflict", "claim 2, which calls itself 's2'", "signature does not hold")
def conflict_with_a_claim_that_the_broker_did_not_sign() -> Any:
    conflict = sold_out(*SOLD)
    claim = replace(SOLD[1], parent=trust.digest(root_token()))
    token = trust.sign_claim(STRANGER, claim)
    return proof(replace(conflict, children=(conflict.children[0], token)))


@forged("conflict", "the claim s2 was not carved out of d1")
def conflict_with_a_claim_on_another_delegation() -> Any:
    conflict = sold_out(*SOLD)
    other = trust.digest(own_root(SITE, "site", jti="d2"))
    token = trust.sign_claim(BROKER, replace(SOLD[1], parent=other))
    return proof(replace(conflict, children=(conflict.children[0], token)))


@forged("conflict", "none that you trust")
def conflict_at_a_site_that_is_not_trusted() -> Any:
    root = own_root(STRANGER, "stranger")
    tokens = tuple(
        trust.sign_claim(BROKER, replace(claim, parent=trust.digest(root))) for claim in SOLD
    )
    return proof(replace(sold_out(*SOLD), parent=(root,), children=tokens))


@forged("conflict", "a proof shows 1 to", "claims, not 0")
def conflict_without_claims() -> Any:
    return proof(sold_out())


@forged("conflict", "claim 2, which calls itself 'm1'", "signature does not hold")
def conflict_below_a_claim_that_was_tampered_with() -> Any:
    return proof(
        replace(
            sold_out(*SOLD),
            parent=(root_token(), tampered(middle()[-1])),
            children=(trust.sign_claim(RESELLER, replace(MIDDLE, units=9)),),
        )
    )


@forged("conflict", "Expected `str`", status=UNREADABLE)
def conflict_that_names_numbers_for_claims() -> Any:
    return {"conflict": {"parent": [1], "children": [2], "instant": 3}}


# Envelopes ----------------------------------------------------------------------------------------


def envelope(key: trust.PrivateKey = GUEST) -> str:
    said = messages.Close(rid="L1", holder=GUEST.public.kid, n=3, ticket=(ticket(),))
    return seal(key, SITE.public.kid, 7, NOW * 1000, [messages.encode(said)]).decode()


@forged("envelope", "signature does not hold")
def envelope_with_one_bit_changed() -> Any:
    return {"envelope": tampered(envelope())}


@forged("envelope", "not the one it names")
def envelope_that_shows_another_key_than_it_names() -> Any:
    header = {**header_of(envelope()), "kid": BROKER.public.kid}
    return {"envelope": compact(GUEST, header, content_of(envelope()))}


@forged("envelope", "names another sender than it is signed by")
def envelope_in_the_name_of_another() -> Any:
    content = {**content_of(envelope()), "iss": BROKER.public.kid}
    return {"envelope": compact(GUEST, header_of(envelope()), content)}


@forged("envelope", "does not show it")
def envelope_that_shows_no_key() -> Any:
    header = header_of(envelope())
    del header["jwk"]
    return {"envelope": compact(GUEST, header, content_of(envelope()))}


@forged("envelope", "an envelope", "at most 512 messages")
def envelope_with_too_many_messages() -> Any:
    said = messages.encode(messages.Close(rid="L1", holder="g", n=1, ticket=()))
    return {"envelope": seal(GUEST, SITE.public.kid, 7, NOW * 1000, [said] * 513).decode()}


@forged("acknowledgement", "signature does not hold")
def acknowledgement_with_one_bit_changed() -> Any:
    refused = (Refusal(0, "malformed", "no"),)
    token = acknowledge(SITE, GUEST.public.kid, 7, NOW * 1000, refused).decode()
    return {"acknowledgement": tampered(token)}


@forged("acknowledgement", "signature does not hold")
def acknowledgement_by_somebody_else() -> Any:
    token = acknowledge(STRANGER, GUEST.public.kid, 7, NOW * 1000, ()).decode()
    content = {**content_of(token), "iss": SITE.public.kid}
    header = {**header_of(token), "kid": SITE.public.kid}
    return {"acknowledgement": compact(STRANGER, header, content)}


# Successions of keys ------------------------------------------------------------------------------


@forged("none that you trust")
def succession_of_a_stranger() -> str:
    return second_key("stranger").lineage[0]


@forged("not signed by the key before it")
def succession_with_one_bit_changed() -> str:
    return tampered(second_key().lineage[0])


@forged("not signed by the key before it")
def succession_that_names_the_site_and_shows_its_key() -> str:
    token = second_key().lineage[0]
    return compact(STRANGER, header_of(token), content_of(token))


@forged("succession 2 is signed by the key before it", status=UNREADABLE)
def succession_without_the_one_before_it() -> str:
    token = second_key().lineage[0]
    return compact(SITE, header_of(token), {**content_of(token), "number": 2})


# Lists --------------------------------------------------------------------------------------------


@forged("statement 2, conflict", "no conflict: 10 units were sold of the 10")
def list_with_a_conflict_that_is_none() -> Any:
    return [proof(sold_out(*SOLD)), conflict_between_claims_that_fit()]


@forged("statement 2: it has nothing to verify", status=UNREADABLE)
def list_with_an_empty_object() -> Any:
    return [proof(sold_out(*SOLD)), {}]


# Files --------------------------------------------------------------------------------------------


@forged("a member twice in one object: 'receipt'", status=UNREADABLE)
def file_with_two_receipts() -> str:
    text = json.dumps(Papers().told())
    return text.replace("{", f'{{"receipt": "{Papers().receipt}", ', 1)


@forged("it has nothing to verify", status=UNREADABLE)
def file_with_empty_members() -> Any:
    return {"ticket": [], "lease": "", "receipt": ""}


@forged("nothing that can be verified here", status=UNREADABLE)
def token_of_an_unknown_kind() -> Any:
    return compact(SITE, {"alg": "Ed25519", "typ": "shirako-promise+jwt"}, {"iss": "me"})
