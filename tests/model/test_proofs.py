"""Accounts and proofs where they are at their edges: what small worlds never come to.

Mutants of what follows accounts and makes and judges proofs are held against these, too.
"""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shirako import trust
from shirako.actors import convicting
from shirako.actors.accounts import POSTING, VOLUME, Accounts
from shirako.core import account, conflict, messages
from shirako.core.account import Account, Citation, Entry, Page, Posting
from shirako.core.claims import Claim, Receipt, Unfit
from shirako.core.conflict import Conflict, heaviest, judge
from shirako.core.terms import Term
from shirako.trust import Verifier, digest
from tests.core import test_conflicts
from tests.core.cast import SKEW, TYPE, key_of, open_broker, open_site, party_of, share_of
from tests.core.test_accounts import steps
from tests.core.test_conflicts import GUEST, HELD, SITE, WHOLE, Intrigue, good, redeem, sold

P, Q = "parent", "another"
NEVER = 10_000
"""A term that does not end here."""


@pytest.fixture(autouse=True)
def small_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "VOLUME_ENTRIES_MIN", 3)


# Accounts ---------------------------------------------------------------------------------------


def test_volumes_that_are_opened_in_one_tick_have_names_of_their_own() -> None:
    site, broker = Account(P), Account(P)
    for number in range(12):
        posting = site.post(Entry(f"c{number}", NEVER), 100)
        assert broker.follows(posting)
        broker.take(posting)
        assert posting.before < posting.place
    assert site.volumes() == broker.volumes()


def test_opening_volumes_costs_a_constant_amount_for_each_entry() -> None:
    """As many carried over in all as there are entries, though none of them is ever over."""
    site = Account(P)
    opened: dict[int, int] = {}
    for number in range(100):
        site.post(Entry(f"c{number}", NEVER), number)
        opened |= {volume.number: len(volume.carried) for volume in site.volumes()}
        site.drop_old()
    assert len(opened) > 2
    assert sum(opened.values()) <= 200


def test_what_was_given_back_is_carried_over_to_the_latest_end_that_was_said() -> None:
    site = Account(P)
    for entry in (Entry("a", 500), Entry("a", 105), Entry("b", 101), Entry("c", 300)):
        posting = site.post(entry, 110)
    page = site.page(posting.place)
    assert page is not None
    assert page.volume == 110
    assert page.kept() == {"a": 0, "c": 0}


class Store(dict[tuple[str, tuple[str, str]], Any]):
    """A ledger's rows, each written once."""

    def note(self, kind: str, key: tuple[str, str], row: Any) -> None:
        assert (row is None) == ((kind, key) in self)
        if row is None:
            del self[kind, key]
        else:
            self[kind, key] = row


@given(steps)
def test_the_ledger_holds_what_the_accounts_are(plan: list[tuple[int, int, int, int]]) -> None:
    check_rows(plan)


def test_the_ledger_forgets_what_the_accounts_forget() -> None:
    check_rows([(n % 10, 3, 0, 1) for n in range(40)])


def check_rows(plan: list[tuple[int, int, int, int]]) -> None:
    now = 100
    stores = Store(), Store()
    site, broker = (Accounts(store.note) for store in stores)
    for claim, left, kept, passing in plan:
        now += passing
        posting = site.post((P, Q)[claim % 2], Entry(f"c{claim}", now + left, kept), now)
        assert broker.follow(posting)
        assert broker.follow(posting)
        for accounts, store in zip((site, broker), stores, strict=True):
            assert {(kind, key): row for kind, key, row in accounts.rows()} == store
            again = Accounts(lambda *_: None)
            for (kind, _), row in reversed(store.items()):
                assert kind in (POSTING, VOLUME)
                again.load(row)
            again.loaded()
            assert {(kind, key): row for kind, key, row in again.rows()} == store


parents = st.lists(st.sampled_from([P, Q]), min_size=1, max_size=6)


@given(parents, st.data())
def test_receipts_come_in_any_order_and_are_early_where_one_is_missing(
    parents: list[str], data: st.DataObject
) -> None:
    site, broker = Accounts(lambda *_: None), Accounts(lambda *_: None)
    postings = [site.post(parent, Entry(f"c{n}", NEVER), 100) for n, parent in enumerate(parents)]
    at = {p.place: n for n, p in enumerate([p for p in postings if p.parent == P])}
    at |= {p.place: n for n, p in enumerate([p for p in postings if p.parent == Q])}
    taken = {P: 0, Q: 0}
    receipts = st.lists(st.sampled_from(postings), min_size=1, max_size=3, unique_by=postings.index)
    for receipt in data.draw(st.lists(receipts, max_size=12)):
        receipt.sort(key=postings.index)
        reached, early = dict(taken), False
        for posting in receipt:
            number = at[posting.place]
            early |= number > reached[posting.parent]
            reached[posting.parent] += number == reached[posting.parent]
        assert broker.are_early(receipt) == early
        if not early:
            assert all(map(broker.follow, receipt))
            taken = reached


# Proofs -----------------------------------------------------------------------------------------


def children_at_most(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(conflict, "CHILDREN_MAX", most)
    monkeypatch.setattr(convicting, "CHILDREN_MAX", most)


def test_a_proof_shows_as_many_claims_as_it_may_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    children_at_most(monkeypatch, 2)
    _, _, proof = good()
    assert judge(proof, Verifier().chain).sold == 4
    children_at_most(monkeypatch, 1)
    assert good()[2] is None
    with pytest.raises(Unfit, match="1 to 1 claims, not 2"):
        judge(proof, Verifier().chain)


def test_a_single_claim_may_be_a_proof() -> None:
    """Of one that the site would never take: it is on more units than the one above it."""
    site = open_site(("n1", "n2"))
    above = site.delegate(share_of(2, WHOLE)).chain
    wide = sold(above, "a", units=3)
    verdict = judge(Conflict(parent=above, children=wide[-1:], instant=150), Verifier().chain)
    assert (verdict.sold, verdict.held) == (3, 2)


def test_what_does_not_exceed_the_claim_above_is_not_shown() -> None:
    site = open_site(("n1", "n2"))
    above = site.delegate(share_of(2, WHOLE)).chain
    claims = [Verifier().chain(sold(above, name, units=1))[-1] for name in ("a", "b")]
    assert heaviest(claims, Page(), 2) == ()
    assert len(heaviest(claims, Page(), 1)) == 2


def cited(parent: str, *, entries: int, now: int) -> tuple[Account, Citation]:
    ledger = Account(parent)
    for number in range(entries):
        place = ledger.post(Entry(f"z{number}", 110), now).place
    return ledger, place


def test_a_proof_is_of_an_instant_that_its_receipts_still_tell_of() -> None:
    site = open_site([f"n{n}" for n in range(4)])
    above = site.delegate(share_of(2, WHOLE)).chain
    ledger, place = cited(digest(above[-1]), entries=4, now=120)
    page = ledger.page(place)
    assert page is not None
    assert page.volume == 120
    children = tuple(sold(above, name, account=place)[-1] for name in ("a", "b"))
    proof = Conflict(parent=above, children=children, instant=120, page=page)
    assert judge(proof, Verifier().chain).sold == 4
    with pytest.raises(Unfit, match="before the volume of receipts"):
        judge(replace(proof, instant=119), Verifier().chain)


def test_a_site_shows_nothing_that_proves_nothing() -> None:
    """Of a volume that was opened ahead of the clock, for there were so many in one tick."""
    site = open_site([f"n{n}" for n in range(4)])
    above = site.delegate(share_of(2, WHOLE)).chain
    for number in range(9):
        site.accounts.post(digest(above[-1]), Entry(f"z{number}", 110), 150)
    place = site.accounts.place(digest(above[-1]))
    assert place.volume > 150
    assert redeem(site, sold(above, "a", account=place), "a") is None
    refusal = redeem(site, sold(above, "b", account=place), "b")
    assert (refusal.code, refusal.conflict) == ("oversold", None)


def test_a_proof_shows_a_claim_that_cites_what_it_shows() -> None:
    """Also where others are enough, and cite less, of which the site knows no more."""
    site = open_site([f"n{n}" for n in range(8)])
    above = site.delegate(share_of(4, WHOLE)).chain
    site.accounts.post(digest(above[-1]), Entry("z", 300), 100)
    place = site.accounts.place(digest(above[-1]))
    assert redeem(site, sold(above, "a", units=3), "a") is None
    assert redeem(site, sold(above, "c", units=1, account=place), "c") is None
    proof = redeem(site, sold(above, "b", units=3), "b").conflict
    verdict = judge(proof, Verifier().chain)
    assert {child.jti for child in verdict.children} == {"a", "b", "c"}


# What a broker takes ------------------------------------------------------------------------------


def sell(world: Intrigue, units: int) -> Claim:
    known = set(world.tokens)
    world.ask(units, 0, 200)
    world.turn()
    (token,) = set(world.tokens) - known
    return world.tokens[token]


def post(world: Intrigue, claim: Claim, kept: int = 0) -> Posting:
    return world.accounts[0].post(Entry(claim.jti, claim.term.end, kept), world.now)


def tell(world: Intrigue, claim: Claim, *postings: Posting) -> str:
    """Have the broker take a receipt of this claim; returns the code of its refusal."""
    receipt = Receipt(
        jti="r",
        issuer=SITE.kid,
        holder=GUEST.kid,
        reservation=claim.reservation,
        claims=(claim.jti,),
        units_freed=0,
        tick=world.now,
        redeemed=True,
        final=True,
        postings=postings,
    )
    token = trust.sign_receipt(key_of("site"), receipt)
    lease = world.broker.leases.get((GUEST.kid, claim.reservation))
    n = lease.lines[SITE.kid].seen + 1 if lease and SITE.kid in lease.lines else 1
    said = messages.Relinquish(rid=claim.reservation, holder=GUEST.kid, n=n, receipt=token)
    refusal = world.broker.receive(SITE, said, world.now)
    world.turn()
    return refusal.code if refusal else ""


def free(world: Intrigue) -> int:
    (share,) = world.broker.shares[TYPE]
    return share.calendar.free(Term(world.now, world.now + 100))


def test_receipts_are_taken_in_the_order_of_the_account() -> None:
    world = Intrigue(1.0)
    a, b = sell(world, 2), sell(world, 2)
    first, second = post(world, a), post(world, b)
    assert tell(world, b, second) == "early"
    assert free(world) == 0
    assert (tell(world, a, first), free(world)) == ("", 2)
    assert (tell(world, b, second), free(world)) == ("", 4)


def test_two_receipts_that_wait_for_each_other_are_taken() -> None:
    """The second one of a lease has the place of its first one, too, which it has replaced."""
    world = Intrigue(1.0)
    a, b = sell(world, 2), sell(world, 2)
    first, second, third = post(world, a, kept=1), post(world, b), post(world, a)
    assert tell(world, b, second) == "early"
    assert tell(world, a, first, third) == "early"
    assert tell(world, b, second) == ""
    assert tell(world, a, first, third) == ""
    assert free(world) == HELD


def test_what_any_entry_frees_is_free() -> None:
    for kept in ((1, 0), (0, 1)):
        world = Intrigue(1.0)
        claim = sell(world, 2)
        postings = [post(world, claim, units) for units in kept]
        assert (tell(world, claim, *postings), free(world)) == ("", HELD)


def test_receipts_of_leases_that_are_forgotten_have_their_places() -> None:
    world = Intrigue(1.0)
    a, b = sell(world, 2), sell(world, 1)
    first, second = post(world, a), post(world, b)
    world.broker.forget((GUEST.kid, a.reservation))
    assert (tell(world, a, first), free(world)) == ("", 1)
    assert (tell(world, b, second), free(world)) == ("", 2)


def test_what_was_sold_of_a_delegation_that_came_anew_is_given_back_after_a_restart() -> None:
    """It has another root claim, whose account is another one, too."""
    world = Intrigue(1.0)
    claim = sell(world, 2)
    anew = open_site([f"n{n}" for n in range(HELD)]).delegate(share_of(HELD, Term(90, 2000))).chain
    push = messages.UpdateTicket(rid="d1", holder=party_of("broker").kid, n=2, ticket=(anew,))
    assert world.broker.receive(SITE, push, world.now) is None
    assert world.broker.delegations["d1"].chain == anew != world.above
    world.turn()
    world.crash()
    assert free(world) == HELD - 2
    assert (tell(world, claim, post(world, claim)), free(world)) == ("", HELD)


class Delayed(Intrigue):
    """The same where requests arrive late, and terms end."""

    def turn(self) -> None:
        self.broker.settle(self.now)
        for (kind, key), value in self.broker.take_batch().changed.items():
            self.rows[kind, key] = None if value is None else msgspec.json.encode(value)
        for lease in self.broker.leases.values():
            for grant in lease.grants if not lease.state.final else ():
                self._learn(grant.chain[-1])

    def ask_late(self, units: int, back: int, ticks: int) -> None:
        self.ask(units, -back, back + ticks)

    def wake(self) -> None:
        due = [r for r in self.broker.leases.values() if r.wake is not None and r.wake <= self.now]
        for record in due:
            self.broker.woken(record.key, self.now)


delays = st.lists(
    st.one_of(
        st.tuples(st.just("late"), st.integers(1, 4), st.integers(0, 2 * SKEW), st.integers(2, 30)),
        st.tuples(st.just("back"), st.integers(0, 9), st.integers(0, 1)),
        st.tuples(st.just("wait"), st.integers(1, 40)),
        st.tuples(st.just("crash")),
    ),
    min_size=6,
    max_size=30,
)


@settings(max_examples=150)
@given(delays)
def test_no_delay_and_no_restart_convicts_an_honest_broker(plan: list[Any]) -> None:
    """ROOTED: terms may begin in the past, and what is over is forgotten: not too early."""
    assert not convictions(plan)


def convictions(plan: list[Any]) -> int:
    world = Delayed(1.0)
    for move in plan:
        match move:
            case ("late", units, back, ticks):
                world.ask_late(units, back, ticks)
            case ("back", number, failed):
                world.give_back(number, failed, 0, told=True)
            case ("wait", ticks):
                world.now += ticks
                world.wake()
            case ("crash",):
                world.crash()
        world.turn()
    found = 0
    for proof in world.indictments():
        with contextlib.suppress(Unfit):
            judge(proof, Verifier().chain)
            found += 1
    return found


def test_a_delay_would_convict_if_a_restart_forgot_what_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = [("late", 3, 0, 20), ("wait", 22), ("crash",), ("late", 3, 4, 20)]
    assert not convictions(plan)
    monkeypatch.setattr(test_conflicts, "open_broker", forgetful(open_broker))
    assert convictions(plan)


def forgetful(opening: Any) -> Any:
    """A broker that has nothing in its books of what is over."""

    def opened(*args: Any) -> Any:
        broker = opening(*args)
        broker._grants = lambda: (
            g for lease in broker.leases.values() if not lease.state.final for g in lease.grants
        )
        return broker

    return opened
