"""Routes that every actor has: how it is, and what time it goes by."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from shirako import __version__
from shirako.actors.actor import Actor
from shirako.actors.audit import note
from shirako.actors.role import Role
from shirako.api import models
from shirako.api.problems import Problem
from shirako.api.recover import RecoveryRoutes, shown_restored
from shirako.api.routes import ANYBODY, Call, Route
from shirako.api.tokens import TokenRole
from shirako.clock import Clock, utc
from shirako.core.claims import Party
from shirako.core.guest import GuestLease
from shirako.core.machine import Key, state_of
from shirako.ledger import Lag

TURN_SECONDS = 5.0
"""Within this a healthy actor takes a turn."""
DUE_LISTED_MAX = 1000

_ADMINS: Mapping[str, frozenset[TokenRole]] = MappingProxyType(
    {
        "authority": frozenset(("site-admin",)),
        "broker": frozenset(("broker-admin",)),
        # guests have leases there; its machine is looked after by whoever runs the others
        "service-manager": frozenset(("site-admin", "broker-admin")),
    }
)
"""Who may tell an actor, by its role, what time it is, and that a restored one may go on."""


class StatusRoutes:
    """`/status`, `/health`, `/clock`, `/recovery`"""

    def __init__(
        self,
        actor: Actor[Any],
        certificate_ends: Callable[[], datetime] | None,
        lag: Callable[[], Lag] | None = None,
    ) -> None:
        self._actor = actor
        self._certificate_ends = certificate_ends
        self._lag = lag

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
            Route(
                method="POST",
                path="/clock/confirm",
                handler=self.confirm_clock,
                summary="Follow the machine's clock after it jumped: it is right",
                roles=_ADMINS[self._actor.role.title],
                body=models.ClockRequest,
                answer=models.ClockConfirmation,
                while_held=True,
            ),
            *RecoveryRoutes(self._actor, _ADMINS[self._actor.role.title]).routes(),
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
            clock=_clock(self._actor.clock),
            leases=dict(sorted(Counter(state_of(record).value for record in leases).items())),
            counters={} if guest else dict(sorted(self._actor.counters.items())),
            peers=() if guest else self._peers(),
            restored=shown_restored(self._actor),
            certificate_ends=self._certificate_ends() if self._certificate_ends else None,
            mirror=_mirror(self._lag()) if self._lag and not guest else None,
        )

    def _peers(self) -> tuple[models.Peer, ...]:
        waiting: Counter[str] = Counter()
        for _, _, kept in self._actor.role.kept():
            for kid, line in kept.lines.items():
                waiting[kid] += len(line.unacked)
        parties = self._actor.role.parties
        return tuple(
            self._peer(party, waiting[kid])
            for kid, party in sorted(parties.items())
            if kid != self._actor.party.kid
        )

    def _peer(self, party: Party, waiting: int) -> models.Peer:
        courier = self._actor.couriers.get(party.kid)
        since = courier.unreachable_since if courier else None
        return models.Peer(
            name=party.name,
            kid=party.kid,
            url=party.url,
            skew_ms=self._actor.skews.get(party.kid),
            waiting=waiting,
            failures=courier.failures if courier else 0,
            unreachable_since=None if since is None else utc(since),
        )

    async def health(self, _call: Call) -> models.Health:
        """A turn without a change: nothing is written for it."""
        try:
            async with asyncio.timeout(TURN_SECONDS):
                await self._actor.submit(lambda _role, _now: None)
        except TimeoutError:
            raise Problem(503, "stuck", "the actor takes no turns", retry=True) from None
        return models.Health()

    async def confirm_clock(self, call: Call) -> models.ClockConfirmation:
        """Leases whose term ends by the new time end at once: a dry run tells which."""
        clock, dry_run = self._actor.clock, call.body.dry_run

        def act(role: Role[Any], now: int) -> models.ClockConfirmation:
            jump = clock.jump_ms()
            ends = sorted(_due(role, now, (clock.milliseconds() + jump) // 1000))
            if jump and not dry_run:
                clock.confirm()
                text = f"a jump of {_seconds(jump)} s; {len(ends)} leases end by it"
                note(role, "clock", now, "ClockConfirmed", call.by, text)
            return models.ClockConfirmation(
                dry_run=dry_run,
                clock=_clock(clock),
                jump_seconds=_seconds(jump),
                due=tuple(_due_lease(role.leases[key]) for _, key in ends[:DUE_LISTED_MAX]),
                more=max(len(ends) - DUE_LISTED_MAX, 0),
            )

        return await self._actor.submit(act)


def _mirror(lag: Lag) -> models.Mirror:
    return models.Mirror(
        commits_behind=lag.commits, seconds_behind=round(lag.seconds, 3), trouble=lag.trouble
    )


def _clock(clock: Clock) -> models.Clock:
    tick = clock.tick()
    return models.Clock(tick=tick, time=utc(tick), jump_seconds=_seconds(clock.jump_ms()))


def _seconds(milliseconds: int) -> int:
    return round(milliseconds / 1000)


def _due(role: Role[Any], now: int, then: int) -> list[tuple[int, Key]]:
    """When the term of each live lease is over that ends by `then`, and did not by `now`."""
    return [
        (record.term.end, key)
        for key, record in role.leases.items()
        if now < record.term.end <= then and not state_of(record).final
    ]


def _due_lease(record: Any) -> models.DueLease:
    return models.DueLease(
        holder=record.guest.kid,
        id=record.id,
        slice=record.slice,
        units=record.units,
        end=utc(record.term.end),
    )
