"""Claims of the paper that this project stands on, one test for each.

Irwin, Chase, Grit, Yumerefendi, Becker, Yocum: "Sharing Networked Resources with Brokered Leases",
USENIX ATC 2006. Sections are named as in its HTML edition (`nodeN`).
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from shirako import trust
from shirako.actors.role import Refused
from shirako.core import messages
from shirako.core.claims import Claim, check_chain
from shirako.core.conflict import judge
from shirako.core.delegation import Delegation
from shirako.core.messages import Redeem
from shirako.core.terms import Term
from shirako.trust import Verifier
from tests.core.cast import TYPE, key_of, party_of, share_of
from tests.scenarios.stage import Stage

LIFE = Term(100, 140)


@pytest.fixture
def stage() -> Stage:
    """One site with three units, all delegated to one broker; two guests; tick 100."""
    made = Stage(units=("n1", "n2", "n3"), guests=("guest", "other"))
    made.delegate(3, Term(90, 400))
    made.tick(100)
    return made


def ticketed(stage: Stage, name: str = "L1", units: int = 1) -> messages.Redeem:
    """A guest's Redeem for a fresh ticket, not delivered yet."""
    stage.request(name, units, LIFE)
    stage.deliver("guest", "broker")
    stage.deliver("broker", "guest")
    said = [m for _, m in stage.outbox("guest", "site") if isinstance(m, Redeem)]
    return said[-1]


def held(stage: Stage, name: str) -> list[str]:
    return [unit.unit for unit in stage.record("guest", name).held]


def test_no_actor_is_trusted_by_all(stage: Stage) -> None:
    """node2, node6: there is no globally trusted core; the site never heard of this guest."""
    assert key_of("guest").public.kid not in stage.site.pinned
    assert key_of("site").public.kid not in stage.guest().pinned
    stage.request("L1", 1, LIFE)
    stage.settle()
    assert stage.state("guest", "L1") == "Active"


def test_a_lease_binds_units_of_one_type_of_one_site_for_a_term(stage: Stage) -> None:
    """node4: a resource set, in units of one type, from one site, for a term."""
    stage.request("L1", 2, LIFE)
    stage.settle()
    record = stage.record("guest", "L1")
    lease = Verifier().lease(record.lease, key_of("site").public)
    assert (lease.type, lease.term, sorted(lease.units)) == (TYPE, LIFE, sorted(held(stage, "L1")))
    assert (lease.issuer, lease.holder) == (key_of("site").public.kid, key_of("guest").public.kid)
    assert len(lease.units) == 2


def test_brokers_provision_and_authorities_assign(stage: Stage) -> None:
    """node5: the broker says how much, of which type and when; the site alone says which units."""
    redeem = ticketed(stage, units=2)
    claim = Verifier().chain(redeem.ticket[0])[-1]
    assert (claim.type, claim.units, claim.term) == (TYPE, 2, LIFE)
    assert all(unit.owner is None for unit in stage.site.units.values())
    stage.deliver("guest", "site")
    assert sum(unit.owner is not None for unit in stage.site.units.values()) == 2


def test_a_broker_subdivides_what_it_holds(stage: Stage) -> None:
    """node5: a policy may subdivide any valid ticket it holds; the parts lie within the whole."""
    chains = [ticketed(stage, f"L{n}").ticket[0] for n in (1, 2, 3)]
    claims = [Verifier().chain(chain) for chain in chains]
    assert len({chain[0].jti for chain in claims}) == 1
    leaves = [check_chain(chain, key_of("site").public.kid) for chain in claims]
    assert sum(leaf.units for leaf in leaves) == claims[0][0].units
    stage.request("L4", 1, LIFE)
    stage.settle()
    assert stage.state("guest", "L4") == "Failed"


def test_the_broker_endorses_the_two_ends_to_each_other(stage: Stage) -> None:
    """node5: the ticket shows the guest the site's key, and the site the guest's."""
    root, leaf = Verifier().chain(ticketed(stage).ticket[0])
    assert root.site == party_of("site")
    assert leaf.holder == party_of("guest")


def test_a_ticket_is_redeemed_by_its_holder_only(stage: Stage) -> None:
    """node5: redeemable "subject to certain checks": another guest's copy is worth nothing."""
    redeem = ticketed(stage)
    thief = key_of("other").public
    stolen = replace(redeem, holder=thief.kid)
    refusal = stage.turn("site", lambda site: site.receive(thief, stolen, stage.now))
    assert refusal.code == "stolen"
    stage.settle()
    assert stage.state("guest", "L1") == "Active"


def test_a_unit_is_held_by_at_most_one_lease(stage: Stage) -> None:
    """node22: each offered logical unit is held by at most one lease at a time."""
    for n, units in ((1, 1), (2, 2)):
        stage.request(f"L{n}", units, LIFE)
    stage.settle()
    one, two = held(stage, "L1"), held(stage, "L2")
    assert (len(one), len(two)) == (1, 2)
    assert not set(one) & set(two)


def test_a_broker_that_sells_too_much_is_found_out_at_the_site(stage: Stage) -> None:
    """node5 and SHARP: oversubscription is accountable; the site serves no more than it granted."""
    stage.request("L1", 2, LIFE)
    stage.settle()
    chain = stage.broker.delegations["d1"].chain
    oversold = Claim(
        jti="sold-twice",
        issuer=key_of("broker").public.kid,
        holder=party_of("other"),
        type=TYPE,
        units=2,
        term=LIFE,
        digest="",
        parent=trust.digest(chain[-1]),
        reservation="L9",
    )
    token = trust.sign_claim(key_of("broker"), oversold)
    redeem = Redeem(
        rid="L9",
        holder=key_of("other").public.kid,
        n=1,
        ticket=((*chain, token),),
        slice="s",
        least_units=1,
    )
    refusal = stage.turn(
        "site", lambda site: site.receive(key_of("other").public, redeem, stage.now)
    )
    assert refusal.code == "conflict"
    assert judge(refusal.conflict, Verifier().chain).sold == 4
    assert stage.state("site", "L9") == "-"


def test_properties_are_opaque_and_reach_whom_they_are_for(stage: Stage) -> None:
    """node8: configuration properties go to the authority, unit properties come back."""
    configuration = {"image.id": "Debian Linux", "host.prefix": "cats; rm -rf /"}
    stage.request("L1", 1, LIFE, configuration=configuration)
    stage.settle()
    assert stage.record("site", "L1").configuration == configuration
    (unit,) = stage.record("guest", "L1").held
    assert unit.properties == {"host": unit.unit}


def test_an_elastic_request_takes_fewer_units_and_any_other_does_not(stage: Stage) -> None:
    """node9: the request sets a range of acceptable outcomes."""
    stage.request("L1", 2, LIFE)
    stage.settle()
    stage.request("L2", 2, LIFE)
    stage.request("L3", 2, LIFE, least=1)
    stage.settle()
    assert stage.state("guest", "L2") == "Failed"
    assert stage.state("guest", "L3") == "Active"
    assert len(held(stage, "L3")) == 1


def test_an_extension_keeps_the_units_and_sets_nothing_up_again(stage: Stage) -> None:
    """node11: unit continuity; tear-down and set-up are skipped."""
    stage.request("L1", 2, LIFE)
    stage.settle()
    before = stage.record("site", "L1").assignments
    stage.trace.clear()
    stage.extend("L1", 180)
    stage.settle()
    assert stage.record("guest", "L1").term == Term(100, 180)
    assert stage.record("site", "L1").assignments == before
    assert not any("setup" in line or "teardown" in line for line in stage.trace)


def test_ticket_and_lease_have_states_of_their_own(stage: Stage) -> None:
    """node14: ActiveTicketed is active and holds a ticket to renew that is not redeemed yet."""
    stage.request("L1", 1, LIFE)
    stage.settle()
    stage.extend("L1", 180)
    stage.deliver("guest", "broker")
    stage.trace.clear()
    stage.deliver("broker", "guest")
    assert any("L1 ActiveTicketed" in line for line in stage.trace)
    assert stage.record("broker", "L1").term.end == 180
    assert stage.record("site", "L1").term.end == 140


def test_the_state_is_all_there_is_to_know(stage: Stage) -> None:
    """node14: the lease's state represents what is pending, not any thread's stack: all actors
    lose their memory after every single delivery, and the lease lives its whole life."""
    stage.request("L1", 1, LIFE)
    for _ in range(30):
        for name in stage.roles:
            stage.crash(name)
        for sender in stage.roles:
            for receiver in stage.roles:
                if sender != receiver:
                    stage.deliver(sender, receiver)
                    stage.crash(sender)
                    stage.crash(receiver)
        stage._handle_all()
        if stage.state("guest", "L1") == "Active":
            stage.close("L1")
    assert [stage.state(actor, "L1") for actor in ("guest", "broker", "site")] == ["Closed"] * 3
    assert all(unit.owner is None for unit in stage.site.units.values())


def test_termination_is_a_handshake(stage: Stage) -> None:
    """node14, figure 3: the guest's Close is answered by a final update before either forgets."""
    stage.request("L1", 1, LIFE)
    stage.settle()
    stage.close("L1")
    assert stage.state("guest", "L1") == "CloseWait"
    stage.deliver("guest", "site")
    assert stage.state("guest", "L1") == "CloseWait"
    stage.settle()
    receipt = Verifier().receipt(stage.record("guest", "L1").receipt, key_of("site").public)
    assert receipt.units_freed == 1
    assert stage.state("guest", "L1") == "Closed"


def test_teardown_is_charged_to_the_successor(stage: Stage) -> None:
    """node15: terms are contiguous: the successor's ticket begins the tick the old one ends."""
    stage.request("L1", 3, LIFE)
    stage.settle()
    stage.request("L2", 3, Term(140, 180), guest="other")
    stage.settle()
    assert stage.state("other", "L2") == "Ticketed"
    stage.tick(140)
    stage.deliver("other", "site")
    assert stage.state("site", "L2") == "Redeeming"
    stage.settle()
    assert stage.state("other", "L2") == "Active"


def test_the_site_ends_a_lease_by_itself(stage: Stage) -> None:
    """node15: the authority may tear down unilaterally when the term is over."""
    stage.request("L1", 1, LIFE)
    stage.settle()
    stage.down |= {"guest", "broker"}
    stage.tick(139)
    assert stage.state("site", "L1") == "Active"
    stage.tick(140)
    stage.settle()
    assert stage.state("site", "L1") == "Closed"


def test_actors_are_clocked_from_outside(stage: Stage) -> None:
    """node15: nothing expires but by a tick that the actor is given."""
    stage.request("L1", 1, LIFE)
    stage.settle()
    stage.now = 10_000  # the world goes on; no actor was told
    stage.settle()
    assert stage.state("guest", "L1") == "Active"
    stage.tick(10_000)
    stage.settle()
    assert stage.state("guest", "L1") in ("Closed", "-")


def test_sites_decide_which_brokers_get_a_share(stage: Stage) -> None:
    """node5: the site decides what share of its units goes to which broker, and never more."""
    with pytest.raises(Refused, match="can not be delegated"):
        stage.site.delegate(_share("d2", 1, "broker"))
    with pytest.raises(Refused, match="no such broker"):
        stage.site.delegate(_share("d3", 1, "other"))


def _share(name: str, units: int, to: str) -> Delegation:
    return share_of(units, Term(90, 400), name=name, to=to)
