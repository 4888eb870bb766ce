"""What honest actors end up with verifies, whatever happened on the way."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from shirako.actors.service_manager import ServiceManager
from shirako.core import messages
from shirako.core.guest import GuestLease
from shirako.simulation.run import run
from shirako.verifying.statements import ConflictHolds, ReceiptHolds, TicketHolds, verify
from tests.core.cast import key_of
from tests.verify.papers import BROKER, NOW, SITE, SOLD, below, genuine_site, root_token

WORLDS = range(1, 7)


def test_the_papers_of_every_lease_hold_at_any_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Worlds in which everything goes wrong that may; papers as they were after each step."""
    papers: dict[tuple[Any, ...], GuestLease] = {}
    keep = ServiceManager.keep

    def noted(role: ServiceManager, kind: str, key: Any, value: Any) -> None:
        if kind == "lease" and value.ticket:
            papers[key, value.ticket, value.lease, value.receipt] = value
        keep(role, kind, key, value)

    monkeypatch.setattr(ServiceManager, "keep", noted)
    extended = ended = 0
    for seed in WORLDS:
        papers.clear()
        run(seed)
        for lease in papers.values():
            told = {"ticket": lease.ticket, "lease": lease.lease, "receipt": lease.receipt}
            facts = list(verify(told, {}))
            assert len(facts) == sum(1 for part in told.values() if part)
            assert isinstance(facts[0], TicketHolds)
            extended += len(lease.ticket) > 1
            ended += isinstance(facts[-1], ReceiptHolds)
    assert extended > 5
    assert ended > 5


def test_a_conflict_that_a_site_shows_convinces_others() -> None:
    """CONSERVE: its broker has sold 11 units of 10, and the second guest can prove it."""
    site = genuine_site()
    refusals = []
    for claim, name in zip(SOLD, ("guest", "other"), strict=True):
        sender = key_of(name).public
        message = messages.Redeem(
            rid=claim.reservation,
            holder=sender.kid,
            n=1,
            ticket=(below([root_token()], BROKER, claim),),
            slice="s",
            least_units=1,
        )
        refusals.append(site.receive(sender, message, NOW))
    accepted, refused = refusals
    assert accepted is None
    assert refused is not None
    assert refused.code == "conflict"
    told = msgspec.to_builtins({"conflict": refused.conflict})
    (fact,) = verify(told, {SITE.public.kid: SITE.public})
    assert isinstance(fact, ConflictHolds)
    assert (fact.verdict.broker.kid, fact.verdict.sold, fact.verdict.held, fact.trusted) == (
        BROKER.public.kid,
        11,
        10,
        True,
    )
