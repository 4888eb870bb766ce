"""The route that every actor has for the day it comes back from a backup."""

from __future__ import annotations

from typing import Any

from shirako.actors.actor import Actor
from shirako.actors.recovering import Plan, recover
from shirako.api import models
from shirako.api import recovery_models as told
from shirako.api.routes import Call, Route
from shirako.api.tokens import TokenRole
from shirako.clock import utc

LISTED_MAX = 1000
"""Of each list: more would fill an answer that is for a person."""


class RecoveryRoutes:
    """`/recovery`"""

    def __init__(self, actor: Actor[Any], admins: frozenset[TokenRole]) -> None:
        self._actor = actor
        self._admins = admins

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="POST",
                path="/recovery",
                handler=self.recover,
                summary="End the hold of an actor that was restored from a backup",
                roles=self._admins,
                body=told.RecoveryRequest,
                answer=told.Recovery,
                while_held=True,
            ),
        )

    async def recover(self, call: Call) -> told.Recovery:
        wanted: told.RecoveryRequest = call.body
        plan = await recover(
            self._actor,
            dry_run=wanted.dry_run,
            backup_was_current=wanted.backup_was_current,
            by=call.by,
        )
        return _shown(plan, self._actor, dry_run=wanted.dry_run)


def _shown(plan: Plan, actor: Actor[Any], *, dry_run: bool) -> told.Recovery:
    lists = (plan.due, plan.pending, plan.suspects, plan.unsold)
    return told.Recovery(
        dry_run=dry_run,
        held=plan.held,
        restored=shown_restored(actor),
        due=tuple(
            told.HeldLease(
                holder=one.key[0],
                id=one.key[1],
                slice=one.slice,
                end=utc(one.end),
                does=one.does,
                units=one.units,
            )
            for one in plan.due[:LISTED_MAX]
        ),
        pending=tuple(
            told.PendingHandler(
                holder=one.key[0],
                id=one.key[1],
                handler=one.handler,
                unit=one.unit,
                epoch=one.epoch,
            )
            for one in plan.pending[:LISTED_MAX]
        ),
        suspects=tuple(
            told.SuspectUnit(
                unit=one.unit,
                why=one.why,
                holder=one.lease[0] if one.lease else None,
                id=one.lease[1] if one.lease else None,
            )
            for one in plan.suspects[:LISTED_MAX]
        ),
        unsold=tuple(
            told.UnsoldDelegation(id=one.id, type=one.type, units=one.units, until=utc(one.until))
            for one in plan.unsold[:LISTED_MAX]
        ),
        unheard=plan.unheard,
        more=sum(max(len(one) - LISTED_MAX, 0) for one in lists),
    )


def shown_restored(actor: Actor[Any]) -> models.Restored | None:
    """What is told of the backup that an actor's ledger is from, where it is from one."""
    known = actor.role.restored
    if known is None:
        return None
    return models.Restored(
        held=actor.role.held,
        taken=utc(known.taken),
        begun=utc(known.begun) if known.begun else None,
        confirmed=utc(known.confirmed) if known.confirmed else None,
        by=known.by,
    )
