"""CONSERVE, ATOMIC: what a broken allocation policy gives is refused to who asked, and to nobody
else, and leaves nothing booked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from shirako.core.policy import Declined, Demanded, Given, Piece, Share
from shirako.core.terms import Term
from shirako_policies.first_come import FirstCome
from tests.scenarios.stage import Stage

TERM = Term(90, 200)
WHOLE = Term(0, 1_000)


class Broken:
    """First come, first served; but who wants three units is given what is to be tried."""

    def __init__(self, wrong: Any) -> None:
        self._wrong = wrong

    def decide(
        self, shares: Mapping[str, Sequence[Share]], requests: Sequence[Demanded], now: int
    ) -> Iterator[Given | Declined]:
        for request in requests:
            sound = FirstCome().decide(shares, [request], now)
            yield self._wrong if request.units == 3 else next(sound)


def given(*pieces: Any, units: int = 3) -> Given:
    return Given(units=units, pieces=pieces)


def piece(units: int = 3, term: Term = TERM, name: str = "d1") -> Piece:
    return Piece(name, term, units)


WRONG = {
    "nothing": (None, "a NoneType, which is no decision"),
    "no pieces": (given(), "pieces that are no ticket: a ticket has at least one chain"),
    "no piece": (given("d1"), "what can not be read: 'str' object has no attribute"),
    "a share that there is not": (given(piece(name="d9")), "units of 'd9', which is no share"),
    "of another type": (given(piece(name="big")), "units of 'big', which is no share of node"),
    "no units": (given(piece(0), piece(3)), "0 units of d1"),
    "fewer than were asked for": (given(piece(2), units=2), "where 3 to 3 were asked for"),
    "fewer than it says": (given(piece(3), units=4), "pieces of 3 units and called them 4"),
    "with a gap": (given(piece(3, Term(90, 100)), piece(3, Term(110, 200))), "leave a gap"),
    "too early": (given(piece(term=Term(80, 200))), "units for [80, 200), which is not what was"),
    "too short": (given(piece(term=Term(90, 150))), "units for [90, 150), which is not what was"),
    "too long": (given(piece(term=Term(90, 201))), "units for [90, 201), which is not what was"),
    "more than is free": (given(piece(1), piece(2, name="d2")), "more than there is of d2"),
    "of two sites": (given(piece(1), piece(2, name="of-far")), "units of several sites"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_can_not_be_done_is_refused_and_the_others_are_served(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    wrong, why = WRONG[name]
    stage = Stage(units=[f"n{n}" for n in range(6)])
    stage.delegate(4, WHOLE)
    stage.delegate(1, WHOLE, name="d2")
    held = stage.broker.delegations["d1"]
    (first, second) = stage.broker.shares[held.type]
    stage.broker.delegations["big"] = replace(held, id="big", type="node.big")
    stage.broker.delegations["of-far"] = replace(held, id="of-far")
    far = replace(second, delegation="of-far", site="far")
    stage.broker.shares[held.type] = [first, second, far]
    stage.broker.policy = Broken(wrong)
    for lease, units in (("before", 1), ("wronged", 3), ("after", 2)):
        stage.request(lease, units, TERM)
    stage.settle()
    states = [stage.state("guest", lease) for lease in ("before", "wronged", "after")]
    assert states == ["Active", "Failed", "Active"]
    reason = stage.record("guest", "wronged").reason
    assert "the policy Broken gave" in reason
    assert why in reason
    assert reason in caplog.text
    booked = [max(units for _, units in share.calendar.steps()) for share in (first, second)]
    assert booked == [3, 0]


def test_an_extension_that_can_not_be_done_leaves_the_lease_as_it_is() -> None:
    stage = Stage(units=["n1", "n2", "n3"])
    stage.delegate(3, WHOLE)
    stage.request("a", 3, TERM)
    stage.settle()
    stage.broker.policy = Broken(given(piece(3, Term(200, 300))))
    stage.extend("a", 300)
    stage.settle()
    assert stage.record("guest", "a").term == Term(90, 300)
    stage.broker.policy = Broken(given(piece(2, Term(300, 400)), units=2))
    stage.extend("a", 400)
    stage.settle()
    assert (stage.state("guest", "a"), stage.record("guest", "a").term) == ("Active", Term(90, 300))
    assert stage.state("broker", "a") == "Ticketed"
