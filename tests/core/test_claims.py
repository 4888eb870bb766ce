"""ROOTED: every child lies within its parent, and each way of leaving it is refused."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shirako.core.claims import (
    CHAIN_LENGTH_MAX,
    Claim,
    Party,
    Unfit,
    check_chain,
    check_link,
)
from shirako.core.terms import Term
from tests.core.cast import TYPE, party_of

SITE, BROKER, GUEST = party_of("site"), party_of("broker"), party_of("guest")


def root(**changes: Any) -> Claim:
    claim = Claim(
        jti="d1",
        issuer=SITE.kid,
        holder=BROKER,
        type=TYPE,
        units=10,
        term=Term(0, 100),
        digest="of-root",
        site=SITE,
    )
    return replace(claim, **changes)


def leaf(**changes: Any) -> Claim:
    claim = Claim(
        jti="t1",
        issuer=BROKER.kid,
        holder=GUEST,
        type=TYPE,
        units=4,
        term=Term(10, 50),
        digest="of-leaf",
        parent="of-root",
        reservation="L1",
    )
    return replace(claim, **changes)


def test_a_sound_chain_gives_its_last_claim() -> None:
    assert check_chain((root(), leaf()), SITE.kid) == leaf()
    assert check_chain((root(),), SITE.kid) == root()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"type": "node.big"}, "carved out of a claim on"),
        ({"units": 11}, "11 units"),
        ({"term": Term(10, 101)}, "outside its parent's term"),
        ({"issuer": GUEST.kid}, "signed by somebody else"),
        ({"issuer": SITE.kid}, "signed by somebody else"),
        ({"parent": "of-another"}, "does not name the one before it"),
        ({"parent": ""}, "does not name the one before it"),
        ({"overbooking": 1.5}, "more overbooking"),
    ],
)
def test_a_child_outside_its_parent_is_unfit(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unfit, match=reason):
        check_chain((root(), leaf(**changes)), SITE.kid)


def test_a_child_that_begins_before_its_parent_is_unfit() -> None:
    with pytest.raises(Unfit, match="outside its parent's term"):
        check_link(root(term=Term(20, 100)), leaf())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"issuer": BROKER.kid}, "does not start at this site's own root"),
        ({"parent": "of-something"}, "does not start at this site's own root"),
        ({"site": None}, "does not start at this site's own root"),
        ({"site": party_of("other")}, "names another site"),
    ],
)
def test_a_chain_has_to_start_at_the_sites_own_root(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(Unfit, match=reason):
        check_chain((root(**changes), leaf()), SITE.kid)


def test_another_sites_sound_chain_is_unfit_here() -> None:
    with pytest.raises(Unfit, match="own root claim"):
        check_chain((root(), leaf()), party_of("other").kid)


def test_overbooking_is_what_the_parent_signed_and_no_more() -> None:
    parent = root(overbooking=1.5)
    check_link(parent, leaf(units=15))
    with pytest.raises(Unfit, match="16 units"):
        check_link(parent, leaf(units=16))


def test_chains_have_a_length() -> None:
    chain = [root(holder=GUEST)]
    for number in range(CHAIN_LENGTH_MAX):
        chain.append(
            leaf(
                issuer=GUEST.kid,
                parent=chain[-1].digest,
                digest=f"d{number}",
                jti=f"t{number}",
                reservation="",
            )
        )
    assert check_chain(tuple(chain[:CHAIN_LENGTH_MAX]), SITE.kid) is chain[CHAIN_LENGTH_MAX - 1]
    with pytest.raises(Unfit, match="has 9"):
        check_chain(tuple(chain), SITE.kid)
    with pytest.raises(Unfit, match="has 0"):
        check_chain((), SITE.kid)


@st.composite
def chains(draw: st.DrawFn) -> tuple[Claim, ...]:
    """Chains of any depth, each link of which may or may not be within the one before it."""
    chain = [root(term=Term(draw(st.integers(0, 5)), draw(st.integers(20, 30))))]
    for number in range(draw(st.integers(1, 4))):
        parent = chain[-1]
        holder: Party = draw(st.sampled_from([SITE, BROKER, GUEST]))
        start = draw(st.integers(0, 25))
        chain.append(
            Claim(
                jti=f"c{number}",
                issuer=draw(st.sampled_from([parent.holder.kid] * 3 + [SITE.kid])),
                holder=holder,
                type=draw(st.sampled_from([TYPE] * 4 + ["node.big"])),
                units=draw(st.integers(1, 12)),
                term=Term(start, draw(st.integers(start + 1, 32))),
                digest=f"of-{number}",
                parent=draw(st.sampled_from([parent.digest] * 4 + ["of-root"])),
                overbooking=draw(st.sampled_from([1.0, 1.0, 2.0])),
            )
        )
    return tuple(chain)


@given(chains())
def test_a_chain_that_is_taken_is_within_its_root_wherever_one_looks(
    chain: tuple[Claim, ...],
) -> None:
    try:
        last = check_chain(chain, SITE.kid)
    except Unfit:
        return
    assert last is chain[-1]
    for parent, child in pairwise(chain):
        assert parent.term.start <= child.term.start < child.term.end <= parent.term.end
        assert child.type == TYPE
        assert child.issuer == parent.holder.kid
        assert child.parent == parent.digest
        assert child.units <= parent.units * parent.overbooking
        assert child.overbooking <= 1.0
