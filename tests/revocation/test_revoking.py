"""What becomes of tickets, leases and extensions when a site takes back what it delegated."""

from __future__ import annotations

from typing import Any

import pytest

from shirako.actors import revoking
from shirako.actors.role import Refused
from shirako.core.messages import Failed, UpdateTicket
from shirako.core.terms import Term
from shirako.trust import Verifier
from shirako_policies.renew import Renew
from tests.core.cast import key_of, me_of
from tests.scenarios.stage import Stage

SHARE = Term(90, 400)


def opened(units: int = 4, sold: int = 4) -> Stage:
    stage = Stage(units=[f"n{n}" for n in range(1, units + 1)], guests=("guest", "guest2"))
    stage.delegate(sold, SHARE)
    stage.tick(100)
    return stage


def revoked(
    stage: Stage, units: int = 0, name: str = "d1", *, close: bool = False
) -> revoking.Effect | None:
    """The site leaves so many units of a delegation; nobody has heard of it yet."""
    effect: revoking.Effect | None = stage.turn(
        "site",
        lambda site: revoking.revoke(
            site, name, units, "sold the machines", stage.now, "admin", close_leases=close
        ),
    )
    return effect


def free(stage: Stage, term: Term, name: str = "d1") -> int:
    share = stage.broker.share(name)
    assert share is not None
    return share.calendar.free(term)


def told(stage: Stage, name: str) -> list[Any]:
    """All that was refused of a lease, as its guest has it."""
    record = stage.record("guest", name)
    return [record.state.value, record.reason]


def test_a_ticket_is_refused_with_the_sites_word_for_it() -> None:
    stage = opened()
    stage.request("L1", 2, Term(100, 300))
    stage.deliver("guest", "broker")
    stage.deliver("broker", "guest")  # it says Redeem, which is under way
    revoked(stage)
    stage.deliver("guest", "site")
    refusals = [m for _, m in stage.outbox("site", "guest") if isinstance(m, Failed)]
    assert [(m.code, m.reason) for m in refusals] == [
        ("revoked", "the site has revoked d1: sold the machines")
    ]
    said = Verifier().revocation(refusals[0].revocation, key_of("site").public)
    assert (said.claim, said.units, said.number) == ("d1", 0, 1)
    stage.settle()
    assert told(stage, "L1") == ["Failed", "the site has revoked d1: sold the machines"]
    assert stage.record("guest", "L1").revocation == refusals[0].revocation
    assert stage.state("broker", "L1") == "Closed"
    assert [
        (s, b)
        for s, b in stage.broker.shares[stage.site.delegations["d1"].type][0].calendar.steps()
        if b
    ] == []
    assert stage.state("site", "L1") == "Closed"


def test_a_ticket_for_later_is_given_up_as_soon_as_its_guest_is_told() -> None:
    stage = opened()
    stage.request("L1", 2, Term(200, 300))
    stage.settle()
    assert stage.state("guest", "L1") == "Ticketed"
    revoked(stage)
    stage.settle()
    assert told(stage, "L1") == [
        "Failed",
        "the site has revoked what the ticket rests on: sold the machines",
    ]
    assert stage.state("broker", "L1") == stage.state("site", "L1") == "Closed"
    assert stage.now == 100


def test_a_ticket_under_way_arrives_with_its_revocation() -> None:
    """The newer snapshot replaces the older one, and says all of it."""
    stage = opened()
    stage.request("L1", 2, Term(200, 300))
    stage.deliver("guest", "broker")
    revoked(stage)
    stage.deliver("site", "broker")
    said = [m for _, m in stage.outbox("broker", "guest") if isinstance(m, UpdateTicket)]
    assert len(said) == 1
    assert said[0].revocation
    assert said[0].ticket
    stage.settle()
    assert stage.state("guest", "L1") == "Failed"


def test_a_live_lease_runs_on_and_its_guest_is_told() -> None:
    stage = opened()
    stage.request("L1", 2, Term(100, 300))
    stage.settle()
    revoked(stage)
    stage.settle()
    assert stage.record("guest", "L1").revoked == "the site has revoked d1: sold the machines"
    assert stage.state("guest", "L1") == "Active"
    stage.tick(298)
    stage.settle()
    assert told(stage, "L1") == ["Closed", "the term ends"]


def test_a_lease_that_is_being_set_up_is_told_with_it() -> None:
    stage = opened()
    stage.request("L1", 2, Term(100, 300))
    for _ in range(2):
        stage.deliver("guest", "broker")
        stage.deliver("broker", "guest")
    stage.deliver("guest", "site")
    assert stage.state("site", "L1") == "Priming"
    revoked(stage)
    stage.settle()
    assert stage.state("guest", "L1") == "Active"
    assert stage.record("guest", "L1").revoked


def test_the_site_may_close_what_is_under_it() -> None:
    stage = opened()
    stage.request("L1", 2, Term(100, 300))
    stage.settle()
    effect = revoked(stage, close=True)
    assert effect is not None
    assert [lease.id for lease in effect.leases] == ["L1"]
    stage.settle()
    assert told(stage, "L1") == ["Closed", "the site has revoked d1: sold the machines"]
    assert len(stage.site.free[stage.site.units["n1"].type]) == 4


def test_an_extension_is_refused_and_the_lease_goes_on() -> None:
    stage = opened()
    stage.request("L1", 2, Term(100, 200))
    stage.settle()
    stage.extend("L1", 300)
    stage.deliver("guest", "broker")
    stage.deliver("broker", "guest")
    revoked(stage)
    stage.deliver("guest", "site")
    stage.settle()
    lease = stage.record("guest", "L1")
    assert (lease.state.value, lease.term.end) == ("Active", 200)
    assert lease.answer.refused == "the site has revoked d1: sold the machines"
    assert lease.revocation
    stage.tick(198)
    stage.settle()
    assert stage.state("guest", "L1") == "Closed"
    assert free(stage, Term(300, 400)) == 0
    revoked(stage, 4)
    stage.settle()
    assert free(stage, Term(300, 400)) == 4


def test_nothing_more_is_sold_and_it_is_said_why() -> None:
    stage = opened()
    stage.request("L1", 2, Term(100, 200))
    stage.settle()
    revoked(stage)
    stage.settle()
    stage.request("L2", 1, Term(100, 200))
    stage.extend("L1", 300)
    stage.settle()
    assert stage.state("guest", "L2") == "Failed"
    answer = stage.record("guest", "L1").answer
    assert answer.refused == (
        "the units can not be held that long: the site has not delegated them for longer"
    )
    assert answer.cap == "delegation"


def renewing(stage: Stage) -> None:
    """The guest extends its lease again and again."""
    guest = stage.guest()
    guest.policy = Renew()
    stage.turn("guest", lambda role: role.set_renew(stage.key("L1"), renew=True))


def test_who_renews_asks_once_in_vain_and_lets_the_term_run_out() -> None:
    stage = opened()
    stage.request("L1", 2, Term(100, 200))
    renewing(stage)
    stage.settle()
    revoked(stage)
    stage.settle()
    stage.trace.clear()
    for tick in range(105, 205, 5):
        stage.tick(tick)
        stage.settle()
    assert sum(line.startswith("guest -> broker: ExtendTicket") for line in stage.trace) == 1
    assert told(stage, "L1") == ["Closed", "the term ends"]


def test_who_renews_goes_on_in_another_delegation() -> None:
    stage = opened(units=6)
    stage.delegate(2, SHARE, name="d2")
    stage.request("L1", 2, Term(100, 200))
    renewing(stage)
    stage.settle()
    revoked(stage)
    stage.settle()
    stage.tick(150)
    stage.settle()
    lease = stage.record("guest", "L1")
    assert (lease.state.value, lease.term.end) == ("Active", 300)
    assert free(stage, Term(200, 300), "d2") == 0


# Shrinking --------------------------------------------------------------------------------------


def test_what_is_left_may_be_redeemed_and_no_more() -> None:
    stage = opened()
    for name, guest in (("L1", "guest"), ("L2", "guest2")):
        stage.request(name, 2, Term(100, 300), guest=guest)
        stage.deliver(guest, "broker")
        stage.deliver("broker", guest)
    revoked(stage, 3)
    stage.settle()
    assert stage.state("guest", "L1") == "Active"
    assert stage.state("guest2", "L2") == "Failed"
    assert stage.record("guest2", "L2").reason == (
        "the site has shrunk d1 to 3 units: sold the machines"
    )
    assert free(stage, Term(100, 300)) == 1
    assert not stage.record("guest", "L1").revoked


def test_what_was_sold_beyond_it_drains_before_anything_is_free() -> None:
    stage = opened()
    stage.request("L1", 3, Term(100, 200))
    stage.settle()
    revoked(stage, 2)
    stage.settle()
    assert (free(stage, Term(100, 150)), free(stage, Term(200, 300))) == (0, 2)
    stage.close("L1")
    stage.settle()
    assert free(stage, Term(100, 150)) == 2


def test_it_grows_again_up_to_what_the_claim_is_worth() -> None:
    stage = opened()
    for units in (0, 3, 4):
        effect = revoked(stage, units)
        assert effect is not None
        (delegation,) = effect.changed
        assert delegation.revoked is not None
        assert delegation.revoked.units == units
    assert stage.site.delegations["d1"].revoked.number == 3  # type: ignore[union-attr]
    stage.settle()
    assert free(stage, SHARE) == 4
    stage.request("L1", 4, Term(100, 300))
    stage.settle()
    assert stage.state("guest", "L1") == "Active"


def test_a_lease_is_told_when_all_is_given_back() -> None:
    stage = opened()
    stage.request("L1", 1, Term(100, 300))
    stage.settle()
    revoked(stage)
    stage.settle()
    revoked(stage, 4)
    stage.settle()
    assert not stage.record("guest", "L1").revoked


def test_it_does_not_grow_into_what_others_were_given() -> None:
    stage = opened(units=4, sold=4)
    revoked(stage, 1)
    stage.delegate(3, SHARE, name="d2")
    assert revoked(stage, 2) is None
    assert stage.trace[-1].endswith(
        "refused (too_many): 4 units of node.small can not be delegated: the pool has 4, and 1 of "
        "them are not delegated during the whole term"
    )
    assert stage.site.delegations["d1"].revoked.units == 1  # type: ignore[union-attr]


def test_what_is_redeemed_beyond_it_is_not_delegated_to_others() -> None:
    stage = opened(units=4, sold=4)
    stage.request("L1", 3, Term(100, 200))
    stage.settle()
    revoked(stage, 0)
    stage.delegate(2, Term(150, 400), name="d2")
    assert "d2" not in stage.site.delegations
    stage.delegate(2, Term(200, 400), name="d2")
    assert "d2" in stage.site.delegations


# The same again, later, or in another order ----------------------------------------------------


def test_the_same_again_changes_nothing() -> None:
    stage = opened()
    first = revoked(stage)
    again = revoked(stage)
    assert first is not None
    assert again is not None
    assert first.changed
    assert not again.changed
    assert stage.site.delegations["d1"].revoked.number == 1  # type: ignore[union-attr]


def test_a_crash_right_after_the_commit_changes_nothing_of_it() -> None:
    stage = opened()
    for name, guest in (("L1", "guest"), ("L2", "guest2")):
        stage.request(name, 1, Term(100, 300), guest=guest)
        stage.deliver(guest, "broker")
        stage.deliver("broker", guest)
    stage.deliver("guest", "site")
    revoked(stage)
    stage.crash("site")
    stage.settle()
    assert stage.state("guest", "L1") == "Active"
    assert stage.record("guest", "L1").revoked
    assert stage.state("guest2", "L2") == "Failed"
    stage.crash("broker")
    assert free(stage, SHARE) == 0


def test_an_older_word_of_the_site_does_not_count() -> None:
    stage = opened()
    revoked(stage, 3)
    stage.copy("site", "broker")
    stage.settle()
    revoked(stage, 1)
    stage.settle()
    stage.late()
    stage.settle()
    assert free(stage, SHARE) == 1
    # not even under a newer number, as a supplier that lost its books would send it
    held = stage.broker.delegations["d1"]
    push = UpdateTicket(rid="d1", holder=held.holder.kid, n=99, ticket=(held.chain,))
    stage.turn("broker", lambda b: b.receive(key_of("site").public, push, stage.now))
    assert free(stage, SHARE) == 1


def test_a_word_of_somebody_else_is_refused() -> None:
    stage = opened()
    effect = revoked(stage)
    assert effect is not None
    assert effect.changed[0].revoked is not None
    held, site = stage.broker.delegations["d1"], key_of("site").public
    said = effect.changed[0].revoked
    for forged in (
        me_of("guest").sign_revocation(said),
        me_of("site").sign_receipt(None),  # type: ignore[arg-type]
        me_of("site").sign_revocation(
            type(said)(
                issuer=said.issuer,
                holder=said.holder,
                claim=said.claim,
                digest="another claim",
                units=0,
                tick=said.tick,
                number=9,
            )
        ),
    ):
        push = UpdateTicket(
            rid="d1", holder=held.holder.kid, n=99, ticket=(held.chain,), revocation=forged
        )
        refusal = stage.broker.receive(site, push, stage.now)
        assert refusal is not None
        assert refusal.code == "untrusted"
    assert free(stage, SHARE) == 4


# Renewing --------------------------------------------------------------------------------------


def renewed(stage: Stage, end: int, units: int | None = None, name: str = "d1") -> Any:
    return stage.turn("site", lambda site: revoking.renew(site, name, end, units, stage.now))


def test_a_renewed_delegation_begins_where_the_old_one_ends() -> None:
    stage = opened()
    made, new = renewed(stage, 600)
    assert new
    assert (made.id, made.term, made.units) == ("d1.2", Term(400, 600), 4)
    assert renewed(stage, 600) == (made, False)
    third, _ = renewed(stage, 700, name="d1.2")
    assert (third.id, third.term) == ("d1.3", Term(600, 700))
    assert renewed(stage, 650) is None
    stage.settle()
    assert sorted(stage.broker.delegations) == ["d1", "d1.2", "d1.3"]


def test_a_lease_is_extended_into_the_renewed_delegation() -> None:
    stage = opened()
    stage.request("L1", 2, Term(100, 350))
    renewed(stage, 600)
    stage.settle()
    stage.extend("L1", 500)
    stage.settle()
    lease = stage.record("guest", "L1")
    assert (lease.state.value, lease.term.end) == ("Active", 500)
    assert free(stage, Term(400, 500), "d1.2") == 2


def test_it_is_renewed_with_what_is_left_of_it() -> None:
    stage = opened()
    revoked(stage, 1)
    made, _ = renewed(stage, 600)
    assert made.units == 1
    revoked(stage, 0)
    assert renewed(stage, 700) is None
    assert renewed(stage, 700, 2)[0].units == 2


def test_who_takes_back_a_delegation_takes_back_what_renews_it() -> None:
    stage = opened()
    renewed(stage, 600)
    effect = revoked(stage)
    assert effect is not None
    assert [one.id for one in effect.changed] == ["d1", "d1.2"]
    with pytest.raises(Refused, match="no delegation"):
        revoking.preview(stage.site, "d9", 0, "", stage.now)
    stage.now = 601
    with pytest.raises(Refused, match="is over"):
        revoking.preview(stage.site, "d1", 0, "", stage.now)


def test_a_renewed_delegation_can_be_taken_back_alone() -> None:
    stage = opened()
    renewed(stage, 600)
    stage.request("L1", 2, Term(100, 350))
    stage.settle()
    revoked(stage, name="d1.2")
    stage.settle()
    assert not stage.record("guest", "L1").revoked
    assert (free(stage, Term(350, 400)), free(stage, Term(400, 600), "d1.2")) == (4, 0)


# What it would mean ----------------------------------------------------------------------------


def test_the_preview_says_who_is_concerned_and_changes_nothing() -> None:
    stage = opened(units=6, sold=4)
    stage.request("L1", 2, Term(100, 300))
    stage.request("L2", 1, Term(150, 200), guest="guest2")
    stage.settle()
    before = dict(stage.site.delegations)
    effect = revoking.preview(stage.site, "d1", 1, "", stage.now)
    assert stage.site.delegations == before
    assert [lease.id for lease in effect.leases] == ["L1"]
    (cut,) = effect.cuts
    assert (cut.redeemed, cut.unredeemed) == (2, 4)
    assert (effect.pool.units, effect.pool.delegated, effect.pool.delegated_after) == (6, 4, 2)
    with pytest.raises(Refused, match="leave 0 to 4"):
        revoking.preview(stage.site, "d1", 5, "", stage.now)
