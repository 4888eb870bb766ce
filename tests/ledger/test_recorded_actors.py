"""DURABLE: actors that load what an older program left, in rows of every kind, go on with it.

The ledgers are those of `tests.ledger.record`; a version that keeps more, or keeps it otherwise,
records others beside them.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shirako.actors import lineages, restored
from shirako.core import conflict
from shirako.core.terms import Term
from shirako.trust import digest
from tests.core.cast import key_of
from tests.ledger.record import ACTORS, HELD, LIVE, NOW, Shelf, write_ledgers

FOLDERS = sorted(path for path in Path(__file__).parent.glob("version_*") if path.is_dir())


@pytest.fixture(params=FOLDERS, ids=lambda path: path.name)
def shelf(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shelf]:
    """The actors, as they load their recorded ledgers."""
    for name in ACTORS:
        packed = request.param / f"{name}.sqlite.gz"
        (tmp_path / f"{name}.sqlite").write_bytes(gzip.decompress(packed.read_bytes()))
    found = Shelf(tmp_path, NOW)
    yield found
    found.close_files()


def kinds(shelf: Shelf, name: str) -> set[str]:
    return {kind for kind, *_ in shelf.files[name].load()}


@pytest.mark.parametrize("name", ACTORS)
def test_every_kind_of_row_is_recorded(shelf: Shelf, name: str) -> None:
    assert kinds(shelf, name) == {*shelf.roles[name].kinds, restored.KIND, lineages.KIND}


def test_what_was_known_is_known(shelf: Shelf) -> None:
    site, broker = shelf.site, shelf.broker
    (proof,) = site.conflicts.values()
    verdict = conflict.judge(proof, site.verifier.chain)
    assert (verdict.parent.jti, verdict.sold, verdict.held) == ("d2", 4, 2)
    left = {one.id: one.revoked.units for one in site.delegations.values() if one.revoked}
    assert left == {"d2": 1, "d3": 0}
    assert [one.renews for one in site.delegations.values() if one.renews] == ["d1"]
    assert list(broker.given) == ["g1"]
    assert site.units["n12"].drained == "a new disk"
    assert [unit.quarantined for unit in site.units.values() if unit.quarantined] != []
    assert site.lineages.number(key_of("broker").public.kid) == 1
    for name in ACTORS:
        mark = shelf.roles[name].restored
        assert mark is not None
        assert not shelf.roles[name].held
    states = {str(record.state.value) for record in site.leases.values()}
    assert {"Redeeming", "Priming", "Active", "Closed", "CloseFailed"} <= states


def place(shelf: Shelf, name: str) -> Any:
    """How far the account of what the broker sells out of has come, as an actor keeps it."""
    above = shelf.broker.delegations["d1"].chain
    return shelf.roles[name].accounts.place(digest(above[-1]))  # type: ignore[attr-defined]


def go_on(shelf: Shelf) -> None:
    """A set-up ends, a lease is extended and closed, and its units are sold again."""
    assert place(shelf, "site") == place(shelf, "broker")
    before = place(shelf, "site")
    assert before.volume > 0
    shelf.settle()
    for name in (HELD, "L-asked"):
        assert shelf.state("guest", name) == "Active"
    shelf.tick(NOW + 60)
    shelf.extend(LIVE, 9000)
    shelf.settle()
    assert shelf.record("site", LIVE).term.end == 9000
    for name in (LIVE, HELD):
        shelf.close(name)
        shelf.settle()
        assert [shelf.state(actor, name) for actor in ACTORS] == ["Closed"] * 3
        assert shelf.record("guest", name).receipt
    assert place(shelf, "site") == place(shelf, "broker") > before
    shelf.request("L-new", 3, Term(shelf.now, 9000))
    shelf.settle()
    assert shelf.state("guest", "L-new") == "Active"


def test_they_go_on_and_are_restarted(shelf: Shelf) -> None:
    """CONSERVE: what this program adds is read again together with what was there."""
    go_on(shelf)
    reached = place(shelf, "site")
    for name in ACTORS:
        shelf.crash(name)
    assert place(shelf, "site") == place(shelf, "broker") == reached
    shelf.close("L-new")
    shelf.settle()
    assert shelf.state("broker", "L-new") == "Closed"
    assert place(shelf, "site") == place(shelf, "broker") > reached


def test_recorded_again_it_holds_the_same(tmp_path: Path) -> None:
    contents = []
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        write_ledgers(tmp_path / name)
        again = Shelf(tmp_path / name, NOW)
        contents.append([(*ledger.load(), *ledger.links()) for ledger in again.files.values()])
        again.close_files()
    assert contents[0] == contents[1]
