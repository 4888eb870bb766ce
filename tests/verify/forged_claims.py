"""Tickets whose claims are rightly signed, and do not fit together."""

from __future__ import annotations

from msgspec.structs import replace

from shirako import trust
from shirako.core.claims import Chain, Ticket
from shirako.core.terms import Term
from tests.core.cast import key_of, party_of
from tests.core.tokens import compact, content_of, header_of
from tests.verify.kit import forged_ticket
from tests.verify.papers import (
    BROKER,
    GUEST,
    LEAF,
    MIDDLE,
    RESELLER,
    SITE,
    STRANGER,
    TERM,
    WHOLE,
    below,
    middle,
    own_root,
    root_token,
    ticket,
)

# More than the parent gives -----------------------------------------------------------------------


@forged_ticket("unfit", "claim 3, 't1'", "7 units is carved out of one on 6")
def child_on_more_units_than_its_parent() -> Chain:
    return ticket(units=7)


@forged_ticket("unfit", "claim 2, 'm1'", "11 units is carved out of one on 10")
def middle_claim_on_more_units_than_the_root() -> Chain:
    return below(middle(units=11), RESELLER, LEAF)


@forged_ticket("unfit", "claim 3, 't1'", "carved out of a claim on")
def child_of_another_type() -> Chain:
    return ticket(type="node.large")


@forged_ticket("unfit", "claim 3, 't1'", "carved out of a claim on")
def child_of_a_type_that_looks_the_same() -> Chain:
    return ticket(type="n\N{CYRILLIC SMALL LETTER O}de.small")


@forged_ticket("unfit", "claim 3, 't1'", "outside its parent's term")
def term_starts_before_the_parents() -> Chain:
    return ticket(term=Term(WHOLE.start - 1, TERM.end))


@forged_ticket("unfit", "claim 3, 't1'", "outside its parent's term")
def term_ends_after_the_parents() -> Chain:
    return ticket(term=Term(TERM.start, WHOLE.end + 1))


@forged_ticket("unfit", "claim 2, 'm1'", "outside its parent's term")
def middle_claim_outlives_the_root() -> Chain:
    return below(middle(term=Term(WHOLE.start, WHOLE.end + 1)), RESELLER, LEAF)


@forged_ticket("unfit", "claim 2, 'm1'", "more overbooking than its parent")
def overbooking_raised_by_a_child() -> Chain:
    return below(middle(overbooking=2.0), RESELLER, LEAF)


# Another parent -----------------------------------------------------------------------------------


@forged_ticket("unfit", "claim 3, 't1'", "does not name the one before it")
def parent_digest_of_another_claim() -> Chain:
    return ticket(parent=trust.digest(middle(jti="m2")[-1]))


@forged_ticket("unfit", "claim 3, 't1'", "does not name the one before it")
def parent_digest_in_capitals() -> Chain:
    return ticket(parent=trust.digest(middle()[-1]).upper())


@forged_ticket("unfit", "claim 3, 't1'", "does not name the one before it")
def child_without_a_parent() -> Chain:
    claim = replace(LEAF, parent="")
    return (*middle(), trust.sign_claim(RESELLER, claim))


@forged_ticket("unfit", "claim 3, 't1'", "good for its own lease alone")
def carved_out_of_a_ticket() -> Chain:
    """A guest makes two leases of one ticket."""
    claim = replace(LEAF, issuer=GUEST.public.kid, holder=party_of("guest"), reservation="L1")
    return below(middle(holder=party_of("guest"), reservation="L0"), GUEST, claim)


@forged_ticket("unfit", "claim 3, 't1'", "passes itself off as a root claim")
def child_that_names_a_site() -> Chain:
    token = ticket()[-1]
    content = {**content_of(token), "site": {"url": "http://elsewhere"}}
    return (*middle(), compact(RESELLER, header_of(token), content))


# Not from the site's own root ---------------------------------------------------------------------


@forged_ticket("unfit", "starts at the site", "none that you trust")
def root_of_another_site() -> Chain:
    """All of it holds, but for who stands behind it."""
    return below(below([own_root(STRANGER, "stranger")], BROKER, MIDDLE), RESELLER, LEAF)


@forged_ticket("untrusted", "claim 1, which calls itself 'd1'", "not the key that it shows")
def root_names_another_site() -> Chain:
    token = own_root(STRANGER, "stranger")
    content = {**content_of(token), "iss": SITE.public.kid}
    return below(
        below([compact(STRANGER, header_of(token), content)], BROKER, MIDDLE), RESELLER, LEAF
    )


@forged_ticket("untrusted", "claim 1, which calls itself 'd1'", "signature does not hold")
def root_shows_the_sites_key_and_is_signed_by_another() -> Chain:
    token = own_root(STRANGER, "stranger")
    content = {
        **content_of(token),
        "iss": SITE.public.kid,
        "jwk": {"kty": "OKP", "crv": "Ed25519", "x": SITE.public.x},
    }
    forged = compact(STRANGER, {**header_of(token), "kid": SITE.public.kid}, content)
    return below(below([forged], BROKER, MIDDLE), RESELLER, LEAF)


@forged_ticket("unfit", "does not start at this site's own root claim")
def root_with_a_parent() -> Chain:
    root = own_root(SITE, "site", parent=trust.digest(root_token()))
    return below(below([root], BROKER, MIDDLE), RESELLER, LEAF)


@forged_ticket("unfit", "does not start at this site's own root claim")
def root_that_names_no_site() -> Chain:
    token = own_root(SITE, "site")
    content = content_of(token)
    del content["site"]
    root = compact(SITE, header_of(token), content)
    return below(below([root], BROKER, MIDDLE), RESELLER, LEAF)


@forged_ticket("untrusted", "claim 1, which calls itself 'd1'", "it states no key")
def root_that_states_no_key() -> Chain:
    token = own_root(SITE, "site")
    content = content_of(token)
    del content["jwk"]
    root = compact(SITE, header_of(token), content)
    return below(below([root], BROKER, MIDDLE), RESELLER, LEAF)


# Chains -------------------------------------------------------------------------------------------


@forged_ticket("untrusted", "claim 2, which calls itself 't1'", "signature does not hold")
def a_claim_left_out() -> Chain:
    root, _, leaf = ticket()
    return (root, leaf)


@forged_ticket("untrusted", "claim 1, which calls itself 'm1'", "no root claim")
def without_its_root() -> Chain:
    return ticket()[1:]


@forged_ticket("untrusted", "claim 1, which calls itself 't1'", "no root claim")
def claims_in_the_wrong_order() -> Chain:
    return ticket()[::-1]


@forged_ticket("untrusted", "claim 3, which calls itself 'm1'", "signature does not hold")
def the_same_claim_twice() -> Chain:
    root, between, leaf = ticket()
    return (root, between, between, leaf)


@forged_ticket("untrusted", "1 to 8 claims, this one has 9")
def chain_of_nine() -> Chain:
    chain: Chain = (root_token(),)
    for number in range(7):
        holder = party_of("broker")
        chain = below(chain, BROKER, replace(MIDDLE, jti=f"m{number}", units=4, holder=holder))
    return below(chain, BROKER, replace(LEAF, issuer=BROKER.public.kid))


@forged_ticket("untrusted", "1 to 8 claims, this one has 0")
def chain_of_none() -> list[list[str]]:
    return [[]]


# Chains that are no parts of one ticket -----------------------------------------------------------

LATER = replace(LEAF, jti="t2", term=Term(TERM.end, TERM.end + 600), extends="t1")


@forged_ticket("stolen", "chain 2", "for the holder")
def chains_of_two_holders() -> Ticket:
    return (ticket(), below(middle(), RESELLER, replace(LATER, holder=party_of("other"))))


@forged_ticket("unfit", "chain 2", "for the lease 'L2'")
def chains_of_two_leases() -> Ticket:
    return (ticket(), below(middle(), RESELLER, replace(LATER, reservation="L2")))


@forged_ticket("unfit", "chain 2", "rooted at the site")
def chains_of_two_sites() -> Ticket:
    """Two sites that are trusted, both of them."""
    root = own_root(key_of("elsewhere"), "elsewhere")
    return (ticket(), below(below([root], BROKER, MIDDLE), RESELLER, LATER))


@forged_ticket("unfit", "chain 2", "on the type")
def chains_of_two_types() -> Ticket:
    root = own_root(SITE, "site", jti="d2", type="node.large")
    above = below([root], BROKER, replace(MIDDLE, type="node.large"))
    return (ticket(), below(above, RESELLER, replace(LATER, type="node.large")))


@forged_ticket("unfit", "chains 1 and 2 end in the same claim 't1'")
def the_same_chain_twice() -> Ticket:
    return (ticket(), ticket())
