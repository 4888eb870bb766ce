"""Conflict proofs: who sold too much is shown to have, and nobody else can be (rule 4)."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shirako import trust
from shirako.actors import authority
from shirako.actors.accounts import Accounts
from shirako.actors.authority import Authority
from shirako.actors.role import Refused
from shirako.api.convictions import routes
from shirako.api.models import SiteConflicts
from shirako.core import account, messages
from shirako.core.account import Account, Entry, Page, Posting
from shirako.core.claims import Chain, Claim, Receipt, Unfit, check_chain
from shirako.core.conflict import Conflict, allowed, heaviest, judge
from shirako.core.delegation import Delegation
from shirako.core.terms import Term
from shirako.trust import Untrusted, Verifier, digest
from shirako.verifying.statements import ConflictHolds, parse, verify
from tests.core.cast import TYPE, key_of, open_broker, open_site, party_of, share_of
from tests.scenarios.stage import Stage

SITE, BROKER, GUEST = key_of("site").public, key_of("broker").public, key_of("guest").public
HELD = 4
WHOLE = Term(90, 1000)


@pytest.fixture(autouse=True)
def small_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "VOLUME_ENTRIES_MIN", 3)


class Intrigue:
    """An honest broker between a site and guests that conspire to have it convicted.

    The site signs any receipts in any order, keeps several accounts of the same claim, sends the
    broker what it likes of them, and shows what it likes of anything it knows.
    """

    def __init__(self, overbooking: float) -> None:
        self.now = 100
        self.site = open_site([f"n{n}" for n in range(2 * HELD)])
        self.broker = open_broker(("site",), ("guest", "below"))
        self.rows: dict[tuple[str, tuple[str, str]], bytes | None] = {}
        made = self.site.delegate(share_of(HELD, WHOLE, overbooking=overbooking))
        (push,) = made.lines[BROKER.kid].unacked
        assert self.broker.receive(SITE, push, self.now) is None
        self.above = made.chain
        self.parent = digest(made.chain[-1])
        self.accounts = [Account(self.parent), Account(self.parent)]
        self.tokens: dict[str, Claim] = {}
        self.pages: dict[account.Citation, Page] = {}
        self.count = 0

    def turn(self) -> None:
        self.broker.settle(self.now)
        for (kind, key), value in self.broker.take_batch().changed.items():
            self.rows[kind, key] = None if value is None else msgspec.json.encode(value)
        for lease in self.broker.leases.values():
            for grant in lease.grants:
                self._learn(grant.chain[-1])
        for share in self.broker.given.values():
            self._learn(share.chain[-1])

    def _learn(self, token: str) -> None:
        self.tokens.setdefault(token, Verifier().chain((*self.above, token))[-1])

    def crash(self) -> None:
        self.broker = open_broker(("site",), ("guest", "below"))
        for (kind, key), body in self.rows.items():
            if body is not None:
                self.broker.load(kind, "/".join(key), body)
        self.broker.loaded()

    def ask(self, units: int, start: int, ticks: int) -> None:
        self.count += 1
        begin = self.now + start
        request = messages.TicketRequest(
            rid=f"L{self.count}",
            holder=GUEST.kid,
            n=1,
            guest=party_of("guest"),
            slice="s",
            type=TYPE,
            units=units,
            least_units=1,
            term=Term(begin, begin + ticks),
        )
        self.broker.receive(GUEST, request, self.now)

    def extend(self, number: int, ticks: int) -> None:
        leases = [lease for lease in self.broker.leases.values() if lease.grants]
        if not leases:
            return
        lease = leases[number % len(leases)]
        end = lease.term.end + ticks
        n = lease.lines[GUEST.kid].seen + 1
        asking = messages.ExtendTicket(rid=lease.id, holder=GUEST.kid, n=n, end=end, least_end=end)
        self.broker.receive(GUEST, asking, self.now)

    def give(self, units: int, ticks: int) -> None:
        self.count += 1
        wanted = Delegation(
            id=f"g{self.count}",
            holder=party_of("below"),
            type=TYPE,
            units=units,
            term=Term(self.now, self.now + ticks),
            chain=(),
        )
        with contextlib.suppress(Refused):
            self.broker.delegate(wanted)

    def give_back(
        self, number: int, failed: int, which: int, *, told: bool, short: int = 0
    ) -> None:
        """The site settles a claim in one of its accounts, and may keep that to itself, or say of
        the claim that its term ends `short` ticks sooner."""
        if not self.tokens:
            return
        claim = list(self.tokens.values())[number % len(self.tokens)]
        ledger = self.accounts[which]
        end = max(claim.term.end - short, 0)
        posting = ledger.post(Entry(claim.jti, end, failed), self.now)
        self.pages[posting.place] = _page(ledger, posting)
        ledger.drop_old()
        if not told:
            return
        receipt = Receipt(
            jti="r",
            issuer=SITE.kid,
            holder=GUEST.kid,
            reservation=claim.reservation,
            claims=(claim.jti,),
            units_freed=0,
            tick=self.now,
            redeemed=True,
            final=True,
            failed_units=tuple(f"n{n}" for n in range(failed)),
            postings=(posting,),
        )
        token = trust.sign_receipt(key_of("site"), receipt)
        said = messages.Relinquish(rid=claim.reservation, holder=GUEST.kid, n=1, receipt=token)
        lease = self.broker.leases.get((GUEST.kid, claim.reservation))
        seen = lease.lines[SITE.kid].seen if lease and SITE.kid in lease.lines else 0
        self.broker.receive(SITE, replace(said, n=seen + 1), self.now)

    def indictments(self) -> Iterator[Conflict]:
        """The worst that can be shown: for each instant and each citation, the heaviest claims
        that cite no more."""
        pages = {page.cited_as(): page for page in (Page(), *self.pages.values())}
        instants = {tick for claim in self.tokens.values() for tick in (claim.term.start,)}
        instants |= {page.volume for page in pages.values() if page.volume}
        for instant in sorted(instants):
            covering = {t: c for t, c in self.tokens.items() if c.term.covers(instant)}
            for cited, page in pages.items():
                shown = [c for c in covering.values() if c.account <= cited]
                for least in (0, allowed(self.site.verifier.chain(self.above)[-1])):
                    worst = {c.digest for c in heaviest(shown, page, least)}
                    if worst:
                        children = tuple(t for t, c in covering.items() if c.digest in worst)
                        yield Conflict(
                            parent=self.above, children=children, instant=instant, page=page
                        )


def _page(ledger: Account, posting: Posting) -> Page:
    page = ledger.page(posting.place)
    assert page is not None
    return page


moves = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(1, 4), st.integers(0, 30), st.integers(1, 60)),
        st.tuples(st.just("ask"), st.integers(1, 4), st.just(0), st.integers(20, 60)),
        st.tuples(st.just("extend"), st.integers(0, 9), st.integers(1, 40)),
        st.tuples(st.just("give"), st.integers(1, 2), st.integers(1, 60)),
        st.tuples(st.just("back"), st.integers(0, 30), st.just(0), st.just(0), st.just(True)),
        st.tuples(
            st.just("back"),
            st.integers(0, 30),
            st.integers(0, 2),
            st.integers(0, 1),
            st.booleans(),
            st.integers(0, 30),
        ),
        st.tuples(st.just("wait"), st.integers(1, 40)),
        st.tuples(st.just("crash")),
    ),
    max_size=40,
)


@settings(max_examples=150)
@given(moves, st.sampled_from([1.0, 1.5]))
def test_an_honest_broker_is_never_convicted(
    plan: list[tuple[object, ...]], overbooking: float
) -> None:
    """ROOTED: whatever the site and all guests do and say, and whatever of it they show."""
    world = Intrigue(overbooking)
    for move in plan:
        match move:
            case ("ask", int(units), int(start), int(ticks)):
                world.ask(units, start, ticks)
            case ("extend", int(number), int(ticks)):
                world.extend(number, ticks)
            case ("give", int(units), int(ticks)):
                world.give(units, ticks)
            case ("back", int(number), int(failed), int(which), bool(told)):
                world.give_back(number, failed, which, told=told)
            case ("back", int(number), int(failed), int(which), bool(told), int(short)):
                world.give_back(number, failed, which, told=told, short=short)
            case ("wait", int(ticks)):
                world.now += ticks
            case ("crash",):
                world.crash()
        world.turn()
    for conflict in world.indictments():
        with pytest.raises(Unfit):
            judge(conflict, Verifier().chain)


def test_the_search_for_a_conviction_would_find_one() -> None:
    """The same search, with a broker whose calendar says that it holds twice as much."""
    world = Intrigue(1.0)
    (share,) = world.broker.shares[TYPE]
    share.calendar.capacity *= 2
    for _ in range(3):
        world.ask(2, 0, 50)
        world.turn()
    verdicts = []
    for conflict in world.indictments():
        try:
            verdicts.append(judge(conflict, Verifier().chain))
        except Unfit:
            continue
    assert {(v.broker.kid, v.sold, v.held) for v in verdicts} == {(BROKER.kid, 6, 4)}


def convictions(world: Intrigue) -> int:
    found = 0
    for conflict in world.indictments():
        with contextlib.suppress(Unfit):
            judge(conflict, Verifier().chain)
            found += 1
    return found


def resold(world: Intrigue, which: int) -> int:
    """Units sold once more after a receipt that stands in this one of the site's accounts."""
    world.ask(4, 0, 50)
    world.turn()
    world.give_back(0, 0, 0, told=False)
    world.give_back(0, 0, which, told=True)
    world.ask(4, 0, 50)
    world.turn()
    return len(world.tokens)


def test_a_broker_that_cites_nothing_could_be_convicted(monkeypatch: pytest.MonkeyPatch) -> None:
    """So it is the citation that protects it, and the search would show when it does not."""
    honest = Intrigue(1.0)
    assert (resold(honest, 1), convictions(honest)) == (2, 0)
    monkeypatch.setattr(Accounts, "place", lambda *_: account.START)
    careless = Intrigue(1.0)
    assert resold(careless, 1) == 2
    assert convictions(careless) > 0


def test_a_broker_that_believes_any_receipt_could_be_convicted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A receipt that stands elsewhere in the account than it should, and can not be cited."""
    honest = Intrigue(1.0)
    honest.accounts[0].post(Entry("hidden", 500), 90)
    assert (resold(honest, 0), convictions(honest)) == (1, 0)
    monkeypatch.setattr(Accounts, "are_early", lambda *_: False)
    monkeypatch.setattr(Accounts, "follow", lambda *_: True)
    credulous = Intrigue(1.0)
    credulous.accounts[0].post(Entry("hidden", 500), 90)
    assert resold(credulous, 0) == 2
    assert convictions(credulous) > 0


def test_a_broker_that_rests_on_a_receipt_is_not_convicted_by_hiding_it() -> None:
    world = Intrigue(1.0)
    world.ask(4, 0, 50)
    world.turn()
    world.give_back(0, 0, 0, told=True)
    world.ask(4, 0, 50)
    world.turn()
    first, second = world.tokens
    conflict = Conflict(parent=world.above, children=(first, second), instant=110)
    with pytest.raises(Unfit, match="not those that the newest of the claims cites"):
        judge(conflict, Verifier().chain)
    (page,) = world.pages.values()
    with pytest.raises(Unfit, match="no conflict: 4 units were sold of the 4"):
        judge(replace(conflict, page=page), Verifier().chain)


def test_a_broker_that_has_no_receipt_to_cite_is_convicted() -> None:
    """The receipt that the site wrote came after the second claim was sold."""
    world = Intrigue(1.0)
    world.ask(4, 0, 50)
    world.turn()
    (share,) = world.broker.shares[TYPE]
    share.calendar.capacity *= 2
    world.ask(4, 0, 50)
    world.turn()
    world.give_back(0, 0, 0, told=True)
    conflict = Conflict(parent=world.above, children=tuple(world.tokens), instant=110)
    verdict = judge(conflict, Verifier().chain)
    assert (verdict.sold, verdict.held) == (8, 4)
    (page,) = world.pages.values()
    with pytest.raises(Unfit, match="not those that the newest"):
        judge(replace(conflict, page=page), Verifier().chain)


def test_what_was_given_back_is_not_taken_back() -> None:
    """A site that says so later convicts nobody who has sold it again since."""
    world = Intrigue(1.0)
    world.ask(4, 0, 50)
    world.turn()
    world.give_back(0, 0, 0, told=True)
    world.give_back(0, 4, 0, told=True)
    world.ask(4, 0, 50)
    world.turn()
    assert (len(world.tokens), convictions(world)) == (2, 0)


def test_what_is_given_back_for_a_part_of_its_term_only_is_not_sold_again() -> None:
    """The account would forget it before the claim's own term is over."""
    world = Intrigue(1.0)
    world.ask(4, 0, 50)
    world.turn()
    world.give_back(0, 0, 0, told=True, short=1)
    world.ask(4, 0, 50)
    world.turn()
    assert len(world.tokens) == 1


# A site that refuses ----------------------------------------------------------------------------


def sold(above: Chain, name: str, by: str = "broker", **changes: object) -> Chain:
    claim = Claim(
        jti=name,
        issuer=key_of(by).public.kid,
        holder=party_of("guest"),
        type=TYPE,
        units=2,
        term=Term(100, 200),
        digest="",
        parent=digest(above[-1]),
        reservation=name,
    )
    return (*above, trust.sign_claim(key_of(by), replace(claim, **changes)))


def redeem(site: Authority, chain: Chain, name: str) -> Any:
    asking = messages.Redeem(
        rid=name, holder=GUEST.kid, n=1, ticket=(chain,), slice="s", least_units=1
    )
    return site.receive(GUEST, asking, 150)


def test_a_site_shows_who_sold_too_much() -> None:
    site = open_site([f"n{n}" for n in range(8)])
    above = site.delegate(share_of(4, WHOLE)).chain
    for name in ("a", "b"):
        assert redeem(site, sold(above, name), name) is None
    refusal = redeem(site, sold(above, "c"), "c")
    assert refusal.code == "conflict"
    verdict = judge(refusal.conflict, Verifier().chain)
    assert (verdict.broker.kid, verdict.sold, verdict.held) == (BROKER.kid, 6, 4)
    assert site.conflicts == {(BROKER.kid, "d1"): refusal.conflict}
    assert (GUEST.kid, "c") not in site.leases


def test_what_is_proved_stays_proved_when_the_leases_are_over() -> None:
    site = open_site([f"n{n}" for n in range(8)])
    above = site.delegate(share_of(2, WHOLE)).chain
    assert redeem(site, sold(above, "a"), "a") is None
    conflict = redeem(site, sold(above, "b"), "b").conflict
    close = messages.Close(rid="a", holder=GUEST.kid, n=2, ticket=(sold(above, "a"),))
    assert site.receive(GUEST, close, 160) is None
    stored = msgspec.json.decode(msgspec.json.encode(conflict), type=Conflict)
    assert judge(stored, Verifier().chain).sold == 4


def test_a_broker_below_is_convicted_of_its_own_sales_alone() -> None:
    """Of two brokers in one chain the one that sold too much is named, at its own claim."""
    site = open_site([f"n{n}" for n in range(8)])
    above = site.delegate(share_of(6, WHOLE)).chain
    given = sold(above, "g", holder=party_of("below"), units=2, reservation="", term=WHOLE)
    below = key_of("below")
    chains = [sold(given, name, "below") for name in ("a", "b")]
    assert redeem(site, chains[0], "a") is None
    conflict = redeem(site, chains[1], "b").conflict
    verdict = judge(conflict, Verifier().chain)
    assert (verdict.broker.kid, verdict.parent.jti) == (below.public.kid, "g")


def test_a_broker_below_is_convicted_also_where_all_above_it_is_used_up() -> None:
    """The honest broker above sold what it holds; the one below sold more than it was given."""
    site = open_site([f"n{n}" for n in range(8)])
    above = site.delegate(share_of(3, WHOLE)).chain
    given = sold(above, "g", holder=party_of("below"), units=2, reservation="", term=WHOLE)
    assert redeem(site, sold(above, "own", units=1), "own") is None
    below = key_of("below")
    refusals = [redeem(site, sold(given, name, "below", units=1), name) for name in ("a", "b", "c")]
    assert refusals[:2] == [None, None]
    verdict = judge(refusals[2].conflict, Verifier().chain)
    assert verdict.broker.kid == below.public.kid


def test_who_cites_nothing_is_convicted_after_years_too() -> None:
    """The very beginning of an account is never forgotten."""
    site = open_site([f"n{n}" for n in range(8)])
    above = site.delegate(share_of(2, WHOLE)).chain
    for number in range(12):
        name = f"s{number}"
        chain = sold(above, name, units=1)
        close = messages.Close(rid=name, holder=GUEST.kid, n=1, ticket=(chain,))
        assert site.receive(GUEST, close, 150 + number) is None
    assert site.accounts.place(digest(above[-1])).volume > 0
    assert redeem(site, sold(above, "a"), "a") is None
    assert judge(redeem(site, sold(above, "b"), "b").conflict, Verifier().chain).sold == 4


def test_a_broker_above_is_convicted_of_what_it_gave_to_brokers_below() -> None:
    site = open_site([f"n{n}" for n in range(8)])
    above = site.delegate(share_of(2, WHOLE)).chain
    chains = []
    for name in ("x", "y"):
        given = sold(above, name, holder=party_of(name), units=2, reservation="", term=WHOLE)
        chains.append(sold(given, f"of {name}", name, reservation=name))
    assert redeem(site, chains[0], "x") is None
    verdict = judge(redeem(site, chains[1], "y").conflict, Verifier().chain)
    assert verdict.broker.kid == BROKER.kid
    assert {child.jti for child in verdict.children} == {"x", "y"}


def test_overbooking_that_the_delegation_allows_is_no_conflict() -> None:
    site = open_site([f"n{n}" for n in range(8)])
    above = site.delegate(share_of(4, WHOLE, overbooking=1.5)).chain
    for name in ("a", "b", "c"):
        assert redeem(site, sold(above, name), name) is None
    refusal = redeem(site, sold(above, "d"), "d")
    assert judge(refusal.conflict, Verifier().chain).held == 6


def test_a_citation_of_receipts_that_were_never_written_ends_in_a_refusal_without_a_proof() -> None:
    """It can not be told from outside who lies. The claim buys nothing, all the same."""
    site = open_site([f"n{n}" for n in range(8)])
    above = site.delegate(share_of(2, WHOLE)).chain
    assert redeem(site, sold(above, "a"), "a") is None
    made_up = account.Citation(0, 7, "0" * 64)
    refusal = redeem(site, sold(above, "b", account=made_up), "b")
    assert (refusal.code, refusal.conflict) == ("oversold", None)


def test_a_site_keeps_so_many_proofs_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """BOUNDED: the oldest go, from the ledger, too."""
    monkeypatch.setattr(authority, "CONFLICTS_MAX", 3)
    site = open_site([f"n{n}" for n in range(8)])
    above = site.delegate(share_of(8, WHOLE)).chain
    for number in range(5):
        made_up = f"g{number}"
        given = sold(above, made_up, holder=party_of("below"), units=1, reservation="", term=WHOLE)
        first, second = (f"{made_up}{half}" for half in "ab")
        assert redeem(site, sold(given, first, "below", units=1), first) is None
        refusal = redeem(site, sold(given, second, "below", units=1), second)
        assert refusal.code == "conflict"
    assert [jti for _, jti in site.conflicts] == ["g2", "g3", "g4"]
    changed = {
        key[1]: value
        for (kind, key), value in site.take_batch().changed.items()
        if kind == "conflict"
    }
    assert [jti for jti, value in changed.items() if value is None] == ["g0", "g1"]


def test_the_wronged_guest_is_shown_the_proof() -> None:
    """Over the exchange, into its own record; and it is rid of the ticket."""
    stage = Stage(units=("n1", "n2"))
    stage.delegate(1, Term(90, 400))
    stage.tick(100)
    (share,) = stage.broker.shares[TYPE]
    share.calendar.capacity *= 2
    for name in ("L1", "L2"):
        stage.request(name, 1, Term(100, 200))
        stage.settle()
    wronged = stage.record("guest", "L2")
    assert stage.state("guest", "L1") == "Active"
    assert stage.state("guest", "L2") == "Failed"
    assert "sold too much" in wronged.reason
    assert judge(wronged.conflict, Verifier().chain).broker.kid == BROKER.kid


def test_what_people_are_given_can_be_verified_offline() -> None:
    """The site's listing, and with it what a guest's proofs hold."""
    site = open_site([f"n{n}" for n in range(8)])
    above = site.delegate(share_of(2, WHOLE)).chain
    assert redeem(site, sold(above, "a"), "a") is None
    assert redeem(site, sold(above, "b"), "b").code == "conflict"
    (route,) = routes(SimpleNamespace(role=site))  # type: ignore[arg-type]
    listed: Any = asyncio.run(route.handler(None))  # type: ignore[arg-type]
    assert isinstance(listed, SiteConflicts)
    (told,) = json.loads(listed.model_dump_json())["conflicts"]
    assert (told["kid"], told["claim"], told["sold"], told["held"]) == (BROKER.kid, "d1", 4, 2)
    (fact,) = verify(parse(json.dumps(told)), {SITE.kid: SITE})
    assert isinstance(fact, ConflictHolds)
    assert fact.verdict.broker.kid == BROKER.kid


def test_one_made_up_citation_does_not_hide_a_conflict_among_others() -> None:
    site = open_site([f"n{n}" for n in range(20)])
    above = site.delegate(share_of(5, WHOLE)).chain
    made_up = account.Citation(0, 7, "0" * 64)
    assert redeem(site, sold(above, "a", units=3), "a") is None
    assert redeem(site, sold(above, "b", units=1, account=made_up), "b") is None
    verdict = judge(redeem(site, sold(above, "c", units=5), "c").conflict, Verifier().chain)
    assert (verdict.sold, {child.jti for child in verdict.children}) == (8, {"a", "c"})


def test_a_larger_part_of_a_crowd_is_shown_than_is_needed_never() -> None:
    """As few claims as will do: the proof has to fit into an answer."""
    site = open_site([f"n{n}" for n in range(40)])
    above = site.delegate(share_of(20, WHOLE)).chain
    for number in range(10):
        assert redeem(site, sold(above, f"s{number}", units=1), f"s{number}") is None
    assert redeem(site, sold(above, "big", units=10), "big") is None
    conflict = redeem(site, sold(above, "late", units=15), "late").conflict
    assert len(conflict.children) == 2


# Proofs that prove nothing ------------------------------------------------------------------------


def good() -> tuple[Authority, Chain, Conflict]:
    site = open_site([f"n{n}" for n in range(8)])
    above = site.delegate(share_of(2, WHOLE)).chain
    assert redeem(site, sold(above, "a"), "a") is None
    return site, above, redeem(site, sold(above, "b"), "b").conflict


def test_proofs_that_prove_nothing_are_refused() -> None:
    site, above, conflict = good()
    assert judge(conflict, Verifier().chain).sold == 4
    other = open_site(("n1", "n2")).delegate(share_of(2, WHOLE, name="d2")).chain
    elsewhere = sold(other, "z")[-1]
    later = sold(above, "later", term=Term(200, 300))[-1]
    a, b = conflict.children
    for wrong, why in (
        (replace(conflict, children=(a,)), "no conflict: 2 units were sold of the 2"),
        (replace(conflict, children=(a, a)), "a claim is shown twice"),
        (replace(conflict, children=()), "1 to 256 claims"),
        (replace(conflict, children=(a, later)), "does not cover the instant"),
        (replace(conflict, children=(a, elsewhere)), "was not carved out of"),
        (replace(conflict, instant=250), "does not cover the instant"),
        (replace(conflict, page=Page(entries=(Entry("q", 9),))), "not those that the newest"),
        (replace(conflict, page=Page(volume=120)), "not those that the newest"),
    ):
        with pytest.raises(Unfit, match=why):
            judge(wrong, Verifier().chain)
    for wrong in (replace(conflict, parent=()), replace(conflict, children=(a, b[:-3] + "AAA"))):
        with pytest.raises((Unfit, Untrusted)):
            judge(wrong, Verifier().chain)
    assert check_chain(site.verifier.chain(above), SITE.kid).jti == "d1"
