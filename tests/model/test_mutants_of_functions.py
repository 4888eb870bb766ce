"""What checks claims and keeps the books, with one check or call left out: ROOTED and DURABLE."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.model import mutants, report
from tests.model.mutants import FUNCTIONS
from tests.model.operators import Cut, Function, cut_again, cuts

ALL = [
    pytest.param(group, function, id=f"{group}-{function.title}")
    for group, functions in FUNCTIONS.items()
    for function in functions
]


@pytest.mark.parametrize(("group", "function"), ALL)
def test_a_check_that_is_left_out_is_missed(
    group: str, function: Function, record_property: Callable[[str, object], None]
) -> None:
    tally = report.of_function(function, group)
    record_property("mutants", tally.made)
    record_property("caught", tally.caught.total())
    record_property("harmless", len(tally.harmless))
    print(tally.summary)
    assert tally.made
    assert not tally.escaped, "\n".join(["neither caught nor listed:", *tally.escaped])
    assert not tally.exposed, "\n".join(["listed, and caught:", *tally.exposed])


def test_of_three_checks_that_say_the_same_one_is_needed() -> None:
    """A root is the site's own: by the key that signed it, by the site that it names, and because
    the site knows it."""
    check_chain = next(f for f in FUNCTIONS["claims"] if f.name == "check_chain")
    neither = [
        both
        for one in cuts(check_chain)
        if "if root.parent" in one.what
        for both in cut_again(one)
        if "if root.site.kid" in both.what
    ]
    (both,) = neither
    known = next(f for f in FUNCTIONS["claims"] if f.title == "Authority._check_chain")
    (third,) = (cut for cut in cuts(known) if "if digest(" in cut.what)
    with both.made():
        assert mutants.judge_cut(third, "claims").invariant == "ROOTED"


def test_a_mutant_is_gone_when_it_was_judged() -> None:
    """Whatever becomes of it: the next test gets the function as it is."""
    for group in FUNCTIONS.values():
        before = [(function, function.original()) for function in group]
        cut: Cut = next(cuts(group[0]))
        with pytest.raises(KeyError), cut.made():
            assert group[0].original() is not before[0][1]
            raise KeyError
        assert all(function.original() is original for function, original in before)
