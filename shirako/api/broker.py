"""Routes of a broker: what it holds, what of it is sold, and to whom."""

from __future__ import annotations

from functools import partial

from shirako.actors.actor import Actor
from shirako.actors.broker import Broker
from shirako.api import models, views
from shirako.api.granting import grant
from shirako.api.records import key_of, select, story_of
from shirako.api.routes import READERS, Call, Reply, Route, among_states
from shirako.api.tokens import TokenRole
from shirako.clock import tick_of, utc
from shirako.core.broker import BrokerState
from shirako.core.calendar import Calendar
from shirako.core.claims import Party
from shirako.core.delegation import Delegation
from shirako.core.terms import FOREVER

STEPS_MAX = 5000

_ADMIN: frozenset[TokenRole] = frozenset(("broker-admin",))


class BrokerRoutes:
    """`/broker`"""

    def __init__(self, actor: Actor[Broker]) -> None:
        self._actor = actor

    def routes(self) -> tuple[Route, ...]:
        read = partial(Route, method="GET", roles=READERS)
        return (
            read(
                path="/broker/calendar",
                handler=self.calendar,
                summary="What is sold of each delegation, and when",
                query=models.CalendarWindow,
                answer=models.Calendar,
            ),
            read(
                path="/broker/leases",
                handler=self.leases,
                summary="Tickets, by holder and id",
                query=models.PeerLeasePage,
                choices=among_states(BrokerState),
                answer=models.BrokerLeases,
            ),
            read(
                path="/broker/leases/{holder}/{id}/story",
                handler=self.story,
                summary="All that happened to it here",
                answer=models.Story,
            ),
            read(
                path="/broker/delegations",
                handler=self.delegations,
                summary="What is delegated to this broker, and by it to brokers below",
                answer=models.Delegations,
            ),
            Route(
                method="POST",
                path="/broker/delegations",
                roles=_ADMIN,
                handler=self.delegate,
                summary="Let a broker below sell a share of what this one holds",
                body=models.DelegationRequest,
                answer=models.Delegation,
                statuses={201: "Delegated", 200: "Was delegated before, by the same name"},
            ),
        )

    async def leases(self, call: Call) -> models.BrokerLeases:
        leases, following = select(self._actor, call, views.broker_lease)
        return models.BrokerLeases(leases=leases, next=following)

    async def story(self, call: Call) -> models.Story:
        return await story_of(self._actor, key_of(self._actor, call))

    async def delegations(self, _call: Call) -> models.Delegations:
        role = self._actor.role
        held = sorted(role.delegations.values(), key=lambda one: one.id)
        given = sorted(role.given.values(), key=lambda one: one.id)
        return models.Delegations(
            delegations=tuple(views.delegation(one, self._site(one)) for one in (*held, *given))
        )

    async def delegate(self, call: Call) -> Reply:
        below = {party.name: party for party in self._actor.role.guests.values()}
        record, made = await grant(self._actor, call, below, {})
        return Reply(views.delegation(record, self._site(record)), 201 if made else 200)

    def _site(self, delegation: Delegation) -> Party:
        site = self._actor.role.verifier.chain(delegation.chain)[0].site
        return site or Party("", "", "", "?")

    async def calendar(self, call: Call) -> models.Calendar:
        window: models.CalendarWindow = call.query
        role = self._actor.role
        shares = (share for shares in role.shares.values() for share in shares)
        return models.Calendar(
            calendar=tuple(
                self._shown(role.delegations[share.delegation], share.calendar, window)
                for share in sorted(shares, key=lambda share: share.delegation)
            )
        )

    def _shown(
        self, delegation: Delegation, calendar: Calendar, window: models.CalendarWindow
    ) -> models.DelegationCalendar:
        start = tick_of(window.start) if window.start else 0
        end = tick_of(window.end) if window.end else FOREVER
        steps = calendar.steps()
        # the step before the window still governs its beginning
        first = max(sum(1 for tick, _ in steps if tick <= start) - 1, 0)
        within = [step for step in steps[first : first + STEPS_MAX + 1] if step[0] < end]
        return models.DelegationCalendar(
            delegation=delegation.id,
            site=self._site(delegation).name,
            type=delegation.type,
            capacity=calendar.capacity,
            start=utc(calendar.term.start),
            end=utc(calendar.term.end),
            steps=tuple(
                models.Step(start=utc(tick), booked=booked) for tick, booked in within[:STEPS_MAX]
            ),
            truncated=len(within) > STEPS_MAX,
        )
