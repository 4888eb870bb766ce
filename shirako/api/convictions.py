"""`/site/conflicts`: brokers that were shown to have sold more than they hold."""

from __future__ import annotations

from shirako.actors.actor import Actor
from shirako.actors.authority import Authority
from shirako.api import models
from shirako.api.routes import READERS, Call, Route
from shirako.clock import utc
from shirako.core.conflict import Conflict, judge


def routes(actor: Actor[Authority]) -> tuple[Route, ...]:
    async def conflicts(_call: Call) -> models.SiteConflicts:
        role = actor.role
        return models.SiteConflicts(
            conflicts=tuple(_conflict(role, one) for one in role.conflicts.values())
        )

    return (
        Route(
            method="GET",
            path="/site/conflicts",
            handler=conflicts,
            roles=READERS,
            summary="Proofs that brokers sold more than they hold; the latest for each claim",
            answer=models.SiteConflicts,
        ),
    )


def _conflict(role: Authority, conflict: Conflict) -> models.SiteConflict:
    verdict = judge(conflict, role.verifier.chain)
    return models.SiteConflict(
        broker=verdict.broker.name or verdict.broker.kid,
        kid=verdict.broker.kid,
        claim=verdict.parent.jti,
        type=verdict.parent.type,
        sold=verdict.sold,
        held=verdict.held,
        instant=utc(conflict.instant),
        conflict=proof(conflict),
    )


def proof(conflict: Conflict) -> models.ConflictProof:
    """The proof as JSON that `shirako verify` reads."""
    page = conflict.page
    return models.ConflictProof(
        parent=conflict.parent,
        children=conflict.children,
        instant=conflict.instant,
        page=models.AccountPage(
            volume=page.volume,
            carried=tuple((e.jti, e.end, e.kept) for e in page.carried),
            entries=tuple((e.jti, e.end, e.kept) for e in page.entries),
        ),
    )
