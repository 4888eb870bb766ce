"""ROOTED: every forged variant of the kit is refused, with the reason that is right, by whoever
verifies it offline and by the site that it is presented to; the genuine article passes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from shirako.actors.role import Refused
from shirako.cli import main
from shirako.core import messages
from shirako.core.claims import Ticket
from shirako.trust import Untrusted
from tests.verify.kit import AUDITS, PAPERS, TICKETS, Variant, chains_of
from tests.verify.papers import GUEST, NOW, genuine_site, ticket
from tests.verify.writing import Case, genuine, written


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    """Everything, written as a person would have it, by folder and name."""
    folder = tmp_path_factory.mktemp("kit")
    return {f"{case.file.parent.name}/{case.name}": case for case in written(folder)}


NAMES = [
    *(f"genuine/{name}" for name in (*genuine(), "audit")),
    *(f"tickets/{name}" for name in TICKETS),
    *(f"papers/{name}" for name in PAPERS),
    *(f"audits/{name}" for name in AUDITS),
]


def test_nothing_of_the_kit_is_left_out(cases: dict[str, Case]) -> None:
    assert sorted(cases) == sorted(NAMES)
    assert len(NAMES) > 150


@pytest.mark.parametrize("name", NAMES)
def test_verify_says_what_is_wrong_and_where(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    result = CliRunner().invoke(main, ["verify", str(case.file), "--json", *case.words])
    told = json.loads(result.output)
    said = f"{told['where']}: {told['problem']}"
    assert (result.exit_code, told["good"]) == (case.status, case.status == 0), said
    for reason in case.reasons:
        assert reason in said
    if case.status == 0:
        assert told["problem"] == ""
        assert told["statements"]


@pytest.mark.parametrize("name", ["tickets/nbf_after_exp", "genuine/papers"])
def test_a_person_is_told_the_same(cases: dict[str, Case], name: str) -> None:
    case = cases[name]
    result = CliRunner().invoke(main, ["verify", str(case.file), *case.words])
    assert result.exit_code == case.status
    *_, last = result.output.splitlines()
    assert last.startswith("BAD: ticket: claim 3" if case.status else "good")


def refusal(shown: Ticket) -> tuple[str, bool]:
    """The code that a site refuses to redeem it with, and whether that left anything behind."""
    site = genuine_site()
    message = messages.Redeem(
        rid="L1", holder=GUEST.public.kid, n=1, ticket=shown, slice="s", least_units=1
    )
    try:
        refused = site.receive(GUEST.public, message, NOW)
    except (Refused, Untrusted) as error:  # pragma: no cover - a role answers, it does not raise
        raise AssertionError("the role raised instead of refusing") from error
    left = bool(site.leases) or bool(site.take_batch().changed)
    return refused.code if refused else "", left


def test_a_site_redeems_the_genuine_ticket() -> None:
    assert refusal((ticket(),)) == ("", True)


@pytest.mark.parametrize("variant", TICKETS.values(), ids=TICKETS)
def test_a_site_refuses_it_too_and_nothing_changes(variant: Variant) -> None:
    assert refusal(chains_of(variant.make())) == (variant.code, False)


def test_the_kit_is_the_same_each_time(tmp_path: Path) -> None:
    """A person who reports a finding can name the file."""
    one, other = ({c.name: c for c in written(tmp_path / name)} for name in ("one", "other"))
    for name, case in one.items():
        if case.file.suffix == ".json":
            assert case.file.read_bytes() == other[name].file.read_bytes()


def test_names_say_what_is_wrong() -> None:
    assert all(re.fullmatch(r"[A-Za-z0-9_]{6,}", name) for name in (*TICKETS, *PAPERS, *AUDITS))
