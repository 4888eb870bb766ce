"""BOUNDED: who sells too much, and its guests, can not keep a site at looking for proofs."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shirako.actors import authority, convicting
from shirako.actors.authority import Authority
from shirako.core import messages
from shirako.core.account import Citation
from shirako.core.authority import Ancestor, Spent
from shirako.core.calendar import Calendar
from shirako.core.claims import Chain
from shirako.core.conflict import judge
from shirako.core.terms import Term
from shirako.trust import Verifier
from tests.core.cast import open_site, share_of
from tests.core.test_conflicts import GUEST, WHOLE, redeem, sold
from tests.scenarios.stage import Stage


class Searches:
    """Counts how often a site looks for a proof, and finds one."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.looked = 0
        search = convicting.conflict_of

        def counted(*args: Any) -> Any:
            self.looked += 1
            return search(*args)

        patch.setattr(authority, "conflict_of", counted)


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> Searches:
    return Searches(monkeypatch)


def delegated(units: int) -> tuple[Authority, Chain]:
    site = open_site([f"n{n}" for n in range(8)])
    return site, site.delegate(share_of(units, WHOLE)).chain


def redeem_at(site: Authority, chain: Chain, name: str, now: int) -> Any:
    asking = messages.Redeem(
        rid=name, holder=GUEST.kid, n=1, ticket=(chain,), slice="s", least_units=1
    )
    return site.receive(GUEST, asking, now)


def test_what_is_proved_is_not_proved_again(searches: Searches) -> None:
    site, above = delegated(4)
    for name in ("a", "b"):
        assert redeem(site, sold(above, name), name) is None
    first = redeem(site, sold(above, "c"), "c")
    again = [redeem(site, sold(above, name), name) for name in ("c", "c", "d")]
    assert searches.looked == 1
    assert [(one.code, one.conflict) for one in again] == [("conflict", first.conflict)] * 3


def test_a_proof_of_another_time_is_not_the_reason_for_a_refusal(searches: Searches) -> None:
    site, above = delegated(4)
    later = Term(300, 400)
    for name, term in (("a", WHOLE), ("b", Term(100, 200)), ("c", later)):
        assert redeem(site, sold(above, name, term=term), name) is None
    early = redeem(site, sold(above, "d"), "d").conflict
    late = redeem(site, sold(above, "e", term=later), "e").conflict
    assert (Term(100, 200).covers(early.instant), later.covers(late.instant)) == (True, True)
    assert searches.looked == 2
    assert judge(late, Verifier().chain).sold > 4


def test_so_many_searches_a_tick_and_no_more(
    searches: Searches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of the same ticket: what can not be proved is no tombstone."""
    monkeypatch.setattr(authority, "SEARCHES_MAX", 3)
    site, above = delegated(2)
    assert redeem(site, sold(above, "a"), "a") is None
    made_up = sold(above, "b", account=Citation(0, 7, "0" * 64))
    refusals = [redeem(site, made_up, "b") for _ in range(9)]
    assert {(one.code, one.conflict) for one in refusals} == {("oversold", None)}
    assert searches.looked == 3
    assert redeem_at(site, made_up, "b", 151).code == "oversold"
    assert searches.looked == 4
    assert (GUEST.kid, "b") not in site.leases


def test_a_search_reads_the_fullest_claims_and_opens_few_pages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two large claims among many small ones, and among citations of what was never written."""
    monkeypatch.setattr(convicting, "READ_MAX", 3)
    site, above = delegated(8)
    for number in range(3):
        name, cited = f"s{number}", Citation(0, number + 1, f"{number:064x}")
        small = sold(above, name, units=1, account=cited)
        assert redeem(site, small, name) is None
    assert redeem(site, sold(above, "large", units=5), "large") is None
    refusal = redeem(site, sold(above, "other", units=4), "other")
    verdict = judge(refusal.conflict, Verifier().chain)
    assert {child.jti for child in verdict.children} == {"large", "other"}
    monkeypatch.setattr(convicting, "PAGES_MAX", 1)
    site.conflicts.clear()
    assert redeem(site, sold(above, "other", units=4), "other").code == "oversold"


def check_index(site: Authority) -> None:
    """What is said to be below each claim is what live leases rest on."""
    below: dict[str, dict[tuple[str, str], Spent]] = defaultdict(dict)
    for lease in site.leases.values():
        for one in lease.spent if not lease.receipt else ():
            for ancestor in one.ancestors:
                below[ancestor.digest][one.name] = one
    assert site._below == below


def test_the_index_is_what_live_leases_rest_on() -> None:
    stage = Stage(units=["n1", "n2"])
    stage.delegate(2, Term(0, 1_000))
    for name in ("a", "b"):
        stage.request(name, 1, Term(90, 200))
    stage.settle()
    stage.extend("a", 300)
    stage.settle()
    (below,) = stage.site._below.values()
    assert len(below) == 3
    check_index(stage.site)
    stage.crash("site")
    check_index(stage.site)
    stage.failing["teardown", "n2"] = "jammed"
    stage.close("b")
    stage.settle()
    check_index(stage.site)
    for tick in range(300, 330, 5):  # a teardown that failed is tried again
        stage.tick(tick)
        stage.settle()
    assert stage.state("site", "b") == "CloseFailed"
    assert stage.site._below == {}


terms = st.tuples(st.integers(0, 12), st.integers(1, 8)).map(lambda t: Term(t[0], t[0] + t[1]))
pieces = st.lists(st.tuples(st.integers(1, 3), terms), max_size=6)


@given(pieces, pieces, st.integers(1, 4), terms, st.integers(1, 9))
def test_there_is_room_where_there_would_be_if_all_were_booked(
    booked: list[tuple[int, Term]],
    beside: list[tuple[int, Term]],
    units: int,
    term: Term,
    capacity: int,
) -> None:
    whole = Term(0, 20)
    above = Ancestor(digest="d", capacity=capacity, term=whole)
    ticket = [
        Spent(jti="", issuer="", units=count, term=when, ancestors=(above,))
        for count, when in beside
    ]
    calendar, full = Calendar(capacity, whole), [0] * 20
    for count, when in booked:
        calendar.restore(count, when)
    for count, when in booked + beside:
        for tick in range(when.start, when.end):
            full[tick] += count
    fits = all(full[tick] + units <= capacity for tick in range(term.start, term.end))
    assert authority._has_room(calendar, units, ticket, term) == fits


@given(pieces, terms, st.integers(1, 4))
def test_the_fullest_instants_come_first(
    booked: list[tuple[int, Term]], term: Term, most: int
) -> None:
    calendar, full = Calendar(5, Term(0, 20)), [0] * 20
    for count, when in booked:
        calendar.restore(count, when)
        for tick in range(when.start, when.end):
            full[tick] += count
    found = calendar.fullest(term, most)
    heights = [full[tick] for tick in found]
    assert len(set(found)) == len(found) <= most
    assert all(term.covers(tick) for tick in found)
    assert heights == sorted(heights, reverse=True)
    assert heights[0] == max(full[term.start : term.end])
