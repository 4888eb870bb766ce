"""Tests of pure functions that judge mutants of them, before any world does: the quickest first.

They are those of `tests.core`, run as they are; properties with fewer examples, and without looking
for the smallest one that fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import isfunction, signature
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from shirako.core import account
from tests.core import test_accounts, test_conflicts
from tests.model import test_proofs

VOLUME_ENTRIES = 3
EXAMPLES = 60
Property = Callable[[], None]

_few = settings(
    max_examples=EXAMPLES,
    phases=(Phase.generate,),
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


_plans = {"plan": test_accounts.steps}
DRAWN: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "test_who_takes_the_postings_in_order_has_the_same_account": _plans,
    "test_no_other_posting_follows": {**_plans, "data": st.data()},
    "test_a_restart_forgets_nothing": _plans,
    "test_what_the_last_two_volumes_stand_for_can_be_shown": _plans,
    "test_an_account_does_not_grow_with_what_is_over": _plans,
    "test_pages_with_the_same_citation_say_the_same": _plans,
    "test_an_honest_broker_is_never_convicted": {
        "plan": test_conflicts.moves,
        "overbooking": st.sampled_from([1.0, 1.5]),
    },
    "test_the_ledger_holds_what_the_accounts_are": _plans,
    "test_receipts_come_in_any_order_and_are_early_where_one_is_missing": {
        "parents": test_proofs.parents,
        "data": st.data(),
    },
    "test_no_delay_and_no_restart_convicts_an_honest_broker": {"plan": test_proofs.delays},
}
"""What each property is about: hypothesis does not tell."""


def _examples(module: ModuleType) -> Iterator[tuple[str, Property]]:
    """Tests of a module that need nothing but themselves, or a patch."""
    for name, test in vars(module).items():
        if isfunction(test) and name.startswith("test_") and not hasattr(test, "hypothesis"):
            patched = "monkeypatch" in signature(test).parameters
            yield name, _patched(test) if patched else test


def _patched(test: Callable[..., None]) -> Property:
    def run() -> None:
        with pytest.MonkeyPatch.context() as patch:
            test(patch)

    return run


def _properties(module: ModuleType) -> Iterator[tuple[str, Property]]:
    """Its properties, each of what it is about."""
    for name, test in vars(module).items():
        if hasattr(test, "hypothesis"):
            inner = test.hypothesis.inner_test
            yield name, _few(given(**DRAWN[name])(inner))


PROPERTIES: dict[str, Property] = dict(
    example
    for of in (_examples, _properties)
    for module in (test_accounts, test_conflicts, test_proofs)
    for example in of(module)
)


def failing() -> str:
    """The first of them that fails now; empty: all of them hold."""
    with _small_volumes():
        for name, holds in PROPERTIES.items():
            try:
                holds()
            except (Exception, pytest.fail.Exception):
                return name
    return ""


@contextmanager
def _small_volumes() -> Iterator[None]:
    usual = account.VOLUME_ENTRIES_MIN
    account.VOLUME_ENTRIES_MIN = VOLUME_ENTRIES
    try:
        yield
    finally:
        account.VOLUME_ENTRIES_MIN = usual
