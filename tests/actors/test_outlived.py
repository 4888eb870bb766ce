"""BOUNDED: delegations that are long over are forgotten, with all that is kept for their sake."""

from __future__ import annotations

import pytest

from shirako.actors import revoking
from shirako.actors.accounts import POSTING
from shirako.actors.authority import Authority
from shirako.actors.role import TOMBSTONE_TICKS
from shirako.core import account, messages
from shirako.core.claims import Chain
from shirako.core.machine import HandlerEnded, Key
from shirako.core.terms import Term
from shirako.trust import digest
from tests.core.cast import SKEW, open_site, party_of, share_of
from tests.core.test_conflicts import GUEST, redeem, sold
from tests.scenarios.stage import Stage

END = 1_000
WITH_BROKER = END + SKEW + TOMBSTONE_TICKS
AT_SITE = END + 2 * (SKEW + TOMBSTONE_TICKS)
BROKER = party_of("broker").kid


def kept(stage: Stage) -> tuple[list[str], list[str]]:
    """Delegations that site and broker know."""
    return list(stage.site.delegations), list(stage.broker.delegations)


def rows(stage: Stage, name: str) -> set[str]:
    """Kinds of what an actor's ledger holds."""
    return {kind for kind, _, _ in stage.ledgers[name].load()}


def wake(stage: Stage, name: str, key: Key) -> None:
    stage.turn(name, lambda role: role.woken(key, stage.now))


def pass_until(stage: Stage, tick: int) -> None:
    """Time goes on for leases and delegations."""
    stage.tick(tick)
    stage.settle()
    for name in ("site", "broker"):
        for kind, key, one in list(stage.roles[name].kept()):
            if kind != "lease" and one.wake is not None and one.wake <= tick:
                wake(stage, name, key)


def lived() -> Stage:
    """A delegation until `END` of which a lease was had, with a receipt."""
    stage = Stage(units=["n1", "n2"])
    stage.delegate(2, Term(0, END))
    stage.request("a", 1, Term(90, 300))
    stage.settle()
    stage.close("a")
    stage.settle()
    return stage


def test_the_broker_forgets_first_then_the_site_and_nothing_is_left() -> None:
    stage = lived()
    assert {"delegation", POSTING} <= rows(stage, "site")
    pass_until(stage, WITH_BROKER - 1)
    assert kept(stage) == (["d1"], ["d1"])
    pass_until(stage, WITH_BROKER)
    assert kept(stage) == (["d1"], [])
    assert stage.broker.shares == {}
    assert rows(stage, "broker") == set()
    pass_until(stage, AT_SITE)
    assert kept(stage) == ([], [])
    assert rows(stage, "site") <= {"unit"}
    assert (stage.site._spending, stage.site._roots, stage.site._below) == ({}, {}, {})
    assert any("Forgotten by clock (over since" in line for line in stage.trace)
    for name in ("site", "broker"):
        stage.crash(name)
    assert kept(stage) == ([], [])


def test_who_starts_after_that_time_forgets_then() -> None:
    stage = lived()
    pass_until(stage, 300)
    stage.now = AT_SITE
    for name in ("site", "broker"):
        stage.crash(name)
    pass_until(stage, AT_SITE)
    assert kept(stage) == ([], [])


def test_what_a_lease_rests_on_is_kept_until_the_lease_is_forgotten() -> None:
    """Of units that can not be cleaned, say: what is given back later has its place."""
    stage = Stage(units=["n1"])
    stage.delegate(1, Term(0, END))
    stage.failing["teardown", "n1"] = "jammed"
    stage.request("a", 1, Term(90, 300))
    stage.settle()
    for tick in (300, 310, 320, 330):
        stage.tick(tick)
        stage.settle()
    assert stage.state("site", "a") == "CloseFailed"
    pass_until(stage, AT_SITE + 10)
    assert kept(stage) == (["d1"], [])
    stage.failing.clear()
    stage.retry("a")
    stage.settle()
    assert stage.state("site", "a") == "Closed"
    assert kept(stage) == (["d1"], [])
    pass_until(stage, AT_SITE + 10 + SKEW + TOMBSTONE_TICKS)
    assert stage.site.leases == {}
    assert kept(stage) == ([], [])
    assert rows(stage, "site") <= {"unit"}


def test_a_series_is_kept_as_long_as_its_last_part() -> None:
    """People call it by the name of the first one."""
    stage = lived()
    renewed = stage.turn("site", lambda role: revoking.renew(role, "d1", 9_000, None, stage.now))
    assert renewed[0].id == "d1.2"
    stage.settle()
    pass_until(stage, AT_SITE)
    assert kept(stage) == (["d1", "d1.2"], ["d1.2"])
    again = stage.turn("site", lambda role: revoking.renew(role, "d1", 9_500, None, stage.now))
    assert again[0].id == "d1.3"
    stage.settle()
    pass_until(stage, 9_500 + 2 * (SKEW + TOMBSTONE_TICKS))
    assert kept(stage) == ([], [])


def test_a_lease_that_went_on_into_another_delegation_ends_as_others_do() -> None:
    """Its receipt speaks of a claim whose account the broker keeps for its sake."""
    stage = Stage(units=["n1"])
    stage.delegate(1, Term(0, END))
    stage.request("a", 1, Term(90, END))
    stage.settle()
    stage.turn("site", lambda role: revoking.renew(role, "d1", 9_000, None, stage.now))
    stage.settle()
    stage.tick(END - 20)
    stage.extend("a", 8_000)
    stage.settle()
    pass_until(stage, WITH_BROKER + 10)
    assert stage.state("site", "a") == "Active"
    assert kept(stage)[1] == ["d1", "d1.2"]
    stage.crash("broker")
    stage.close("a")
    stage.settle()
    assert stage.state("broker", "a") == "Closed"
    (share,) = [s for ss in stage.broker.shares.values() for s in ss if s.delegation == "d1.2"]
    assert share.calendar.free(Term(stage.now, 9_000)) == 1
    pass_until(stage, 8_000 + SKEW + TOMBSTONE_TICKS)
    assert kept(stage)[1] == ["d1.2"]


def test_a_name_may_be_used_again_though_the_broker_did_not_hear_of_the_end() -> None:
    stage = lived()
    stage.now = AT_SITE
    for key in [*stage.site.leases, (BROKER, "d1")]:
        wake(stage, "site", key)
    assert kept(stage) == ([], ["d1"])
    stage.delegate(1, Term(AT_SITE, AT_SITE + 500))
    held = stage.broker.delegations["d1"]
    assert (held.units, held.term) == (1, Term(AT_SITE, AT_SITE + 500))
    stage.request("b", 1, Term(AT_SITE, AT_SITE + 100))
    stage.settle()
    assert stage.state("site", "b") == "Active"


def test_what_the_descriptor_names_is_not_forgotten_so_that_no_start_grants_it_anew() -> None:
    plain = open_site()
    site = Authority(plain.me, plain.brokers, {}, plain.policies, lasting=frozenset({"d1"}))
    site.free, site.units = plain.free, plain.units
    made = site.delegate(share_of(1, Term(0, END)))
    assert made.wake is None
    site.woken(made.key, 100 * END)
    site.settle(100 * END)
    assert list(site.delegations) == ["d1"]


@pytest.fixture
def small_volumes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(account, "VOLUME_ENTRIES_MIN", 3)


def closed(site: Authority, above: Chain, name: str, by: str) -> None:
    """A lease of one of our own claims, torn down."""
    chain = sold(above, name, by, units=1)
    assert redeem(site, chain, name) is None
    close = messages.Close(rid=name, holder=GUEST.kid, n=2, ticket=(chain,))
    assert site.receive(GUEST, close, 150) is None
    for lease in list(site.leases.values()):
        for work in lease.work:
            site.handler_ended(lease.key, HandlerEnded(now=150, work=work, ok=True))


@pytest.mark.usefixtures("small_volumes")
def test_accounts_of_brokers_below_go_with_what_they_are_below() -> None:
    """All volumes of them; those below another delegation that still runs stay."""
    site = open_site([f"n{n}" for n in range(4)], brokers=("broker", "rival"))
    wide = Term(100, END)
    first = site.delegate(share_of(2, wide)).chain
    later = site.delegate(share_of(2, Term(100, 2 * END), name="d2")).chain
    accounts = {}
    for above, name in ((first, "x"), (later, "y")):
        given = sold(above, name, holder=party_of("below"), units=2, reservation="", term=wide)
        for number in range(9):
            closed(site, given, f"{name}{number}", "below")
        accounts[name] = digest(given[-1])
    assert set(site.accounts.last_ends()) == set(accounts.values())

    def pass_by(now: int) -> None:
        for key in list(site.leases):
            site.woken(key, now)
        for one in list(site.delegations.values()):
            site.woken(one.key, now)
        site.settle(now)

    pass_by(AT_SITE)
    assert list(site.delegations) == ["d2"]
    # a term that both might cover is no proof of which of them it was
    assert set(site.accounts.last_ends()) == set(accounts.values())
    pass_by(AT_SITE + END)
    assert (site.delegations, site.accounts.last_ends(), site._spending) == ({}, {}, {})
    assert list(site.accounts.rows()) == []
