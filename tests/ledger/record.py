"""`python -m tests.ledger.record NAME` writes down ledgers as this version keeps them.

One of each actor, `tests/ledger/NAME/ACTOR.sqlite.gz`, with every kind of row in it: leases in
several states, accounts of several volumes, a proof, keys that were replaced, delegations that
were revoked, renewed and handed on, units that are drained or quarantined, and that the actor once
came back from a backup. Keys and ticks are fixed: made again, they hold the same.

Ledgers of a version that was given to anybody are never written again; `--again` is for those of
a version that is still being made.
"""

from __future__ import annotations

import argparse
import gzip
import sys
import tempfile
from functools import partial
from operator import methodcaller
from pathlib import Path
from unittest import mock

from msgspec.structs import replace

from shirako.actors import restored, revoking
from shirako.core import account, messages
from shirako.core.claims import Claim
from shirako.core.terms import Term
from shirako.ledger.sqlite import SqliteLedger
from shirako.trust import digest, sign_claim
from tests.core.cast import TYPE, key_of, open_broker, party_of, share_of
from tests.recorded.examples import second_key
from tests.scenarios.stage import Stage

ACTORS = ("site", "broker", "guest")
"""Those whose ledgers are kept."""
NOW = 1000
"""The tick at which the story ends."""
ENTRIES_MIN = 3
"""Of a volume, so that a few leases fill some."""
LIVE, HELD = "L-live", "L-held"
"""A lease that runs, and one whose units are being set up when the story ends."""
_WHOLE = Term(100, 10_000)
_UNITS = tuple(f"n{number}" for number in range(1, 13))


class Shelf(Stage):
    """The stage with its actors' ledgers in files, as they are there or new."""

    def __init__(self, folder: Path, now: int) -> None:
        super().__init__(_UNITS, ("guest",))
        self.now = now
        self._open["broker"] = lambda: open_broker(guests=("guest", "reseller"))
        self.files = {name: SqliteLedger(folder / f"{name}.sqlite") for name in ACTORS}
        self.ledgers |= self.files  # type: ignore[arg-type]  # no twins on this stage
        for name in self.roles:
            self.crash(name)

    def close_files(self) -> None:
        for ledger in self.files.values():
            ledger.close()


def write_ledgers(folder: Path) -> None:
    """Play the story; leaves `ACTOR.sqlite` of each in the folder."""
    stage = Shelf(folder, now=90)
    with mock.patch.object(account, "VOLUME_ENTRIES_MIN", ENTRIES_MIN):
        _come_back(stage)
        _meet(stage)
        _delegate(stage)
        _lease(stage)
        _sell_too_much(stage)
        _take_back(stage)
        _leave_open(stage)
    stage.close_files()


def _come_back(stage: Shelf) -> None:
    """Each starts from a backup, and an operator confirms that."""
    for name, role in stage.roles.items():
        mark = restored.marked(
            None, actor=name, role=role.title, kid=key_of(name).public.kid, taken=80
        )
        stage.ledgers[name].commit([restored.write(mark)], [])
        stage.crash(name)
        come_back = stage.roles[name]
        come_back.begin_restored(stage.now * 1000, stage.now)
        known = come_back.restored
        assert known is not None
        come_back.keep_restored(replace(known, confirmed=stage.now, by="ops", unsold={"d0": 500}))
        batch = come_back.take_batch()
        stage.ledgers[name].commit(batch.writes(), batch.entries)


def _meet(stage: Shelf) -> None:
    """The site and the broker speak with their second keys."""
    for listener, speaker in (("site", "broker"), ("broker", "site"), ("guest", "broker")):
        heir = second_key(speaker)
        stage.turn(listener, methodcaller("meet", heir.public.kid, heir.lineage, stage.now))


def _delegate(stage: Shelf) -> None:
    for name, units in (("d1", 6), ("d2", 2), ("d3", 1)):
        stage.delegate(units, _WHOLE, name)
    given = replace(share_of(1, _WHOLE, name="g1", to="reseller"), name="g1")
    stage.turn("broker", lambda broker: broker.delegate(given))


def _lease(stage: Shelf) -> None:
    """Some leases come and go, one stays, one can not be torn down."""
    stage.tick(100)
    stage.request(LIVE, 2, Term(100, 5000))
    stage.settle()
    stage.extend(LIVE, 6000)
    stage.settle()
    for number in range(9):
        _open(stage, f"L{number}")
        stage.tick(stage.now + 10)
        stage.close(f"L{number}")
        stage.settle()
    unit = _open(stage, "L-stuck")
    stage.failing["teardown", unit] = "the node does not answer"
    stage.close("L-stuck")
    while stage.state("site", "L-stuck") != "CloseFailed":
        stage.settle()
        stage.tick(stage.now + 30)
    stage.settle()
    stage.turn("site", lambda site: site.drain("n12", "a new disk"))


def _open(stage: Shelf, name: str) -> str:
    """Run a lease; returns the name of its unit."""
    stage.request(name, 1, Term(stage.now, 4000))
    stage.settle()
    return str(stage.record("site", name).assignments[0].unit)


def _sell_too_much(stage: Shelf) -> None:
    """Somebody with the broker's key sells the two units of `d2` twice, for later."""
    buyer = key_of("stranger").public
    above = stage.broker.delegations["d2"].chain
    for name in ("S1", "S2"):
        claim = Claim(
            jti=name,
            issuer=key_of("broker").public.kid,
            holder=party_of("stranger"),
            type=TYPE,
            units=2,
            term=Term(7000, 8000),
            digest="",
            parent=digest(above[-1]),
            reservation=name,
            account=stage.broker.accounts.place(digest(above[-1])),
        )
        ticket = ((*above, sign_claim(key_of("broker"), claim)),)
        redeem = messages.Redeem(
            rid=name, holder=buyer.kid, n=1, ticket=ticket, slice="s", least_units=1
        )
        stage.turn("site", methodcaller("receive", buyer, redeem, stage.now))


def _take_back(stage: Shelf) -> None:
    for name, units, why in (("d2", 1, "a rack is moved"), ("d3", 0, "the machines are sold")):
        cut = partial(revoking.revoke, name=name, units=units, reason=why, now=stage.now, by="ops")
        stage.turn("site", cut)
    stage.turn("site", lambda site: revoking.renew(site, "d1", 20_000, None, stage.now))
    stage.settle()


def _leave_open(stage: Shelf) -> None:
    """Much is under way when all of them end: said and not heard, to be run and not run."""
    stage.tick(NOW)
    stage.settle()
    stage.request(HELD, 1, Term(NOW, 4000))
    for sender, receiver in (("guest", "broker"), ("broker", "guest"), ("guest", "site")):
        stage.deliver(sender, receiver)
    stage.request("L-asked", 1, Term(NOW, 4000))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.ledger.record", description=__doc__)
    parser.add_argument("name", help="of the folder, such as version_2_accounts")
    parser.add_argument("--again", action="store_true", help="write over what is there")
    arguments = parser.parse_args()
    folder = Path(__file__).parent / arguments.name
    if folder.exists() and not arguments.again:
        sys.exit(f"{folder} is there, and is not written again: choose another name, or --again")
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as made:
        write_ledgers(Path(made))
        for name in ACTORS:
            data = (Path(made) / f"{name}.sqlite").read_bytes()
            (folder / f"{name}.sqlite.gz").write_bytes(gzip.compress(data, mtime=0))
    print(f"{len(ACTORS)} ledgers in {folder}")


if __name__ == "__main__":
    main()
