"""The broker's books where delegations change under what was sold."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from shirako import trust
from shirako.core.messages import UpdateTicket
from shirako.core.terms import Term
from tests.core.cast import key_of, party_of
from tests.scenarios.stage import Stage


def renewed(stage: Stage, term: Term, units: int) -> None:
    """The site hands its delegation over again, as another claim under the same name."""
    chain = stage.site.delegations["d1"].chain
    claim = replace(stage.broker.verifier.chain(chain)[0], term=term, units=units)
    push = UpdateTicket(
        rid="d1",
        holder=party_of("broker").kid,
        n=9,
        ticket=((trust.sign_claim(key_of("site"), claim),),),
    )
    site = key_of("site").public
    assert stage.turn("broker", lambda broker: broker.receive(site, push, stage.now)) is None


@pytest.mark.parametrize(
    ("term", "units"), [(Term(90, 200), 2), (Term(90, 400), 1), (Term(150, 400), 2)]
)
def test_what_was_sold_is_given_back_though_the_delegation_has_shrunk(
    term: Term, units: int
) -> None:
    stage = Stage(units=("n1", "n2"))
    stage.delegate(2, Term(90, 400))
    stage.tick(100)
    stage.request("L1", 2, Term(100, 300))
    stage.settle()
    renewed(stage, term, units)
    stage.close("L1")
    stage.settle()
    assert stage.state("broker", "L1") == "Closed"
    share = stage.broker.share("d1")
    assert share is not None
    assert share.calendar.free(term) == units
