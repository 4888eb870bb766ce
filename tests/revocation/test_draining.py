"""A drained unit keeps its lease and gets no other one."""

from __future__ import annotations

from shirako.core.terms import Term
from tests.scenarios.stage import Stage

SHARE = Term(90, 400)


def opened(units: int = 2) -> Stage:
    stage = Stage(units=[f"n{n}" for n in range(1, units + 1)], guests=("guest", "guest2"))
    stage.delegate(units, SHARE)
    stage.tick(100)
    return stage


def drain(stage: Stage, unit: str) -> None:
    stage.turn("site", lambda site: site.drain(unit, "a new disk"))


def undrain(stage: Stage, unit: str) -> None:
    stage.turn("site", lambda site: site.undrain(unit, stage.now))


def units_of(stage: Stage, name: str) -> list[str]:
    return [a.unit for a in stage.record("site", name).assignments if not a.swapped]


def test_no_redeem_gets_it() -> None:
    stage = opened()
    drain(stage, "n1")
    stage.request("L1", 1, Term(100, 300))
    stage.settle()
    assert units_of(stage, "L1") == ["n2"]


def test_its_lease_runs_on_and_when_it_is_free_it_stays_out() -> None:
    stage = opened()
    stage.request("L1", 1, Term(100, 200))
    stage.settle()
    drain(stage, "n1")
    stage.settle()
    assert stage.state("guest", "L1") == "Active"
    stage.crash("site")
    stage.close("L1")
    stage.settle()
    assert stage.site.units["n1"].owner is None
    assert stage.site.units["n1"].drained == "a new disk"
    stage.request("L2", 2, Term(100, 300))
    stage.settle()
    assert stage.state("site", "L2") == "Redeeming"


def test_it_replaces_no_unit_that_was_lost() -> None:
    stage = opened()
    stage.request("L1", 1, Term(100, 200))
    stage.settle()
    drain(stage, "n2")
    stage.lost("n1", "it does not answer")
    stage.settle()
    assert stage.record("guest", "L1").degraded
    undrain(stage, "n2")
    stage.settle()
    assert units_of(stage, "L1") == ["n2"]
    assert not stage.record("guest", "L1").degraded


def test_who_waits_is_served_when_it_is_back() -> None:
    stage = opened(1)
    drain(stage, "n1")
    stage.request("L1", 1, Term(100, 300))
    stage.settle()
    assert stage.state("guest", "L1") == "Redeeming"
    stage.crash("site")
    undrain(stage, "n1")
    stage.settle()
    assert stage.state("guest", "L1") == "Active"


def test_it_may_be_quarantined_as_well_and_is_then_kept_for_both() -> None:
    stage = opened(1)
    drain(stage, "n1")
    stage.lost("n1", "it does not answer")
    stage.release("n1")
    assert not stage.site.units["n1"].idle
    stage.lost("n1", "it does not answer")
    undrain(stage, "n1")
    assert not stage.site.units["n1"].idle
    stage.release("n1")
    assert stage.site.units["n1"].idle
