"""Routes of an authority that take back what it delegated, or go on with it."""

from __future__ import annotations

from functools import partial

from shirako.actors import revoking
from shirako.actors.actor import Actor
from shirako.actors.audit import note
from shirako.actors.authority import Authority
from shirako.api import models, views
from shirako.api.problems import Problem
from shirako.api.routes import Call, Reply, Route
from shirako.api.tokens import TokenRole
from shirako.clock import tick_of
from shirako.core.delegation import Delegation


def routes(actor: Actor[Authority], roles: frozenset[TokenRole]) -> tuple[Route, ...]:
    """For those who may change what a site delegates."""
    change = partial(Route, method="POST", roles=roles)
    return (
        change(
            path="/site/delegations/{name}/revoke",
            handler=partial(_revoke, actor),
            summary="Take back a delegation and what renews it, wholly or in part",
            body=models.RevokeRequest,
            answer=models.Revocation,
        ),
        change(
            path="/site/delegations/{name}/renew",
            handler=partial(_renew, actor),
            summary="Go on with a delegation where it ends",
            body=models.RenewRequest,
            answer=models.Delegation,
            statuses={201: "Renewed", 200: "Was renewed until then before"},
        ),
    )


def _named(actor: Actor[Authority], call: Call) -> str:
    """The delegation that a path names. Raises `Problem`."""
    name = call.part("name")
    if name not in actor.role.delegations:
        raise Problem(404, "not_found", "there is no such delegation")
    return name


async def _revoke(actor: Actor[Authority], call: Call) -> models.Revocation:
    name, wanted = _named(actor, call), call.body

    def act(role: Authority, now: int) -> revoking.Effect:
        if wanted.dry_run:
            return revoking.preview(role, name, wanted.units, wanted.reason, now)
        effect = revoking.revoke(
            role,
            name,
            wanted.units,
            wanted.reason,
            now,
            call.by,
            close_leases=wanted.close_leases,
        )
        for one in effect.changed:
            said = f"{wanted.units} units left: {wanted.reason}".removesuffix(": ")
            note(role, f"delegation/{one.id}", now, "Revoked", call.by, said)
        return effect

    effect = await actor.submit(act)
    return views.revocation(effect, dry_run=wanted.dry_run, closed=wanted.close_leases)


async def _renew(actor: Actor[Authority], call: Call) -> Reply:
    name, wanted = _named(actor, call), call.body

    def act(role: Authority, now: int) -> tuple[Delegation, bool]:
        made, new = revoking.renew(role, name, tick_of(wanted.end), wanted.units, now)
        if new:
            note(role, f"delegation/{made.id}", now, "Delegated", call.by, f"renews {made.renews}")
        return made, new

    made, new = await actor.submit(act)
    return Reply(views.delegation(made, actor.party), 201 if new else 200)
