"""Routes that every actor has: how it is."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from shirako import __version__
from shirako.actors.actor import Actor
from shirako.api import models
from shirako.api.problems import Problem
from shirako.api.routes import ANYBODY, Call, Route
from shirako.clock import utc
from shirako.core.guest import GuestLease
from shirako.core.machine import state_of

TURN_SECONDS = 5.0
"""Within this a healthy actor takes a turn."""


class StatusRoutes:
    """`/status`, `/health`"""

    def __init__(self, actor: Actor[Any]) -> None:
        self._actor = actor

    def routes(self) -> tuple[Route, ...]:
        return (
            Route(
                method="GET",
                path="/status",
                handler=self.status,
                summary="Who this actor is and how it is",
                roles=ANYBODY,
                answer=models.Status,
            ),
            Route(
                method="GET",
                path="/health",
                handler=self.health,
                summary="Whether the actor takes its turns",
                roles=frozenset(),
                answer=models.Health,
            ),
        )

    async def status(self, call: Call) -> models.Status:
        guest = call.caller is not None and call.caller.role == "guest"
        leases = list(self._actor.role.leases.values())
        if guest:
            leases = [r for r in leases if isinstance(r, GuestLease) and r.owner == call.by]
        party = self._actor.party
        return models.Status(
            name=party.name,
            role=self._actor.role.title,
            kid=party.kid,
            version=__version__,
            time=utc(self._actor.clock.tick()),
            leases=dict(sorted(Counter(state_of(record).value for record in leases).items())),
            counters={} if guest else dict(sorted(self._actor.counters.items())),
            peers=() if guest else self._peers(),
        )

    def _peers(self) -> tuple[models.Peer, ...]:
        waiting: Counter[str] = Counter()
        for _, _, kept in self._actor.role.kept():
            for kid, line in kept.lines.items():
                waiting[kid] += len(line.unacked)
        parties = self._actor.role.parties
        return tuple(
            models.Peer(
                name=party.name,
                kid=kid,
                url=party.url,
                skew_ms=self._actor.skews.get(kid),
                waiting=waiting[kid],
            )
            for kid, party in sorted(parties.items())
            if kid != self._actor.party.kid
        )

    async def health(self, _call: Call) -> models.Health:
        """A turn without a change: nothing is written for it."""
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._actor.submit(lambda _role, _now: None)
        except TimeoutError:
            raise Problem(503, "stuck", "the actor takes no turns", retry=True) from None
        return models.Health()
