"""docs/SECURITY.md against the tree: every threat has a row, every test that it names is there."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent.parent
TEXT = (ROOT / "docs" / "SECURITY.md").read_text()
TEST = re.compile(r"`([^`]+)::([a-z0-9_]+)`")
SAME_FILE = "…"

_LISTED = (
    "envelope-forged envelope-replayed envelope-redirected unknown-key clock lost-acknowledgement",
    "algorithm ticket-forged ticket-stolen double-redemption overselling receipt-forged",
    "resale-without-receipt extension-reused collusion conviction delegation-revoked",
    "retired-key lineage-forged variants",
    "text-shell text-template text-ldap text-log text-terminal text-html text-ssh-options",
    "xml-entities path-traversal",
    "host-key late-handler leftovers guest-against-admin hostile-node",
    "other-guests-leases scope-confusion token-guessing token-timing token-revoked cross-site",
    "dns-rebinding smuggling",
    "oversized slow half-done connections requests queues streams records decompression",
    "log-filling",
    "tls-downgrade tls-authority tls-expired tls-client",
    "ledger-tampered ledger-older ledger-restored second-copy directory-down directory-lies",
    "secrets-told files-of-all dependency",
)
THREATS = frozenset(" ".join(_LISTED).split())
"""Rows that the document has to have, whatever else is in it."""


class Row(NamedTuple):
    id: str
    attempt: str
    defence: str
    tests: tuple[tuple[str, str], ...]


def named(cell: str) -> tuple[tuple[str, str], ...]:
    """File and function of each test; `…` is the file before it."""
    found: list[tuple[str, str]] = []
    for file, name in TEST.findall(cell):
        found.append((found[-1][0] if file == SAME_FILE else file, name))
    assert len(found) == cell.count("`") // 2, cell
    return tuple(found)


def rows() -> dict[str, Row]:
    """The rows of all tables of threats."""
    section = TEXT.split("\n## Threats\n")[1].split("\n## ")[0]
    found: dict[str, Row] = {}
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("|") and cells[0] not in ("id", "---"):
            row = Row(cells[0], cells[1], cells[2], named(cells[3]))
            assert len(cells) == 4, line
            assert row.id not in found, row.id
            found[row.id] = row
    return found


ROWS = rows()


@cache
def functions(file: str) -> frozenset[str]:
    """Functions of a file that pytest collects: those at its top, where it is a test file."""
    path = ROOT / file
    assert path.is_relative_to(ROOT / "tests")
    assert path.name.startswith("test_"), file
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in tree.body if isinstance(node, kinds))


def test_every_threat_has_a_row_and_each_row_is_known() -> None:
    assert set(ROWS) == THREATS


@pytest.mark.parametrize("threat", sorted(ROWS))
def test_a_row_says_what_is_tried_what_stops_it_and_which_tests_say_so(threat: str) -> None:
    row = ROWS[threat]
    assert row.attempt
    assert row.defence
    assert row.tests, "no test"
    missing = [f"{file}::{name}" for file, name in row.tests if name not in functions(file)]
    assert missing == []
    assert all(name.startswith("test_") for _, name in row.tests)


def test_no_test_that_it_names_is_left_out() -> None:
    """Such as by a mark: what is skipped stops nobody."""
    for file in {file for row in ROWS.values() for file, _ in row.tests}:
        text = (ROOT / file).read_text()
        assert not re.search(r"pytest\.(mark\.)?(skip|skipif|xfail|importorskip)\b", text), file


@pytest.mark.parametrize(
    "heading",
    [
        *("Parties", "What is worth stealing", "What is assumed", "Threats"),
        *("What is not protected against", "For operators"),
    ],
)
def test_nothing_is_left_out(heading: str) -> None:
    assert len(TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0].split()) > 40


def test_commands_and_settings_that_it_names_are_there() -> None:
    """What an operator is told to write is taken."""
    schema = (ROOT / "shirako" / "descriptor" / "actors.xsd").read_text()
    for element, attributes in re.findall(r"`<([a-z-]+) ([^`]*?)/?>`", TEXT):
        assert f'complexType name="{element}"' in schema
        for name in re.findall(r'([a-z-]+)="', attributes):
            assert f'attribute name="{name}"' in schema, (element, name)
    from shirako.cli.commands import COMMANDS

    for command in re.findall(r"`shirako ([a-z]+)", TEXT):
        assert command in COMMANDS
