"""Routes of an authority: its units, the leases on them, and what it delegates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from shirako.actors.actor import Actor
from shirako.actors.audit import note
from shirako.actors.authority import Authority, Unit
from shirako.actors.performing import SitePerformer
from shirako.actors.probing import Probing
from shirako.actors.reconciling import fit_again, reconcile
from shirako.actors.role import Refused
from shirako.actors.standing import standing
from shirako.api import convictions, models, revoking, views
from shirako.api.granting import grant
from shirako.api.problems import Problem
from shirako.api.records import key_of, record_of, select, story_of
from shirako.api.routes import READERS, Call, Reply, Route, among_states
from shirako.api.tokens import TokenRole
from shirako.core.authority import CloseAsked, SiteLease, SiteState
from shirako.core.delegation import Delegation
from shirako.handlers import HandlerFailed, Unavailable

_ADMIN: frozenset[TokenRole] = frozenset(("site-admin",))


class Described(Protocol):
    """The descriptor, as far as it matters here."""

    @property
    def actors(self) -> Sequence[Any]: ...


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What looks after a site's units, beside the actor itself."""

    performer: SitePerformer
    probing: Probing


class SiteRoutes:
    """`/site`"""

    def __init__(
        self, actor: Actor[Authority], descriptor: Described | None, upkeep: Upkeep
    ) -> None:
        self._actor = actor
        self._upkeep = upkeep
        self._reconciling = False
        specs = descriptor.actors if descriptor else ()
        own = next((spec for spec in specs if spec.name == actor.party.name), None)
        pools = own.pools if own else ()
        self._attributes = {unit.name: unit.attributes for pool in pools for unit in pool.units}
        self._resource = {pool.type: dict(pool.properties) for pool in pools}

    def routes(self) -> tuple[Route, ...]:
        lease = "/site/leases/{holder}/{id}"
        read = partial(Route, method="GET", roles=READERS)
        change = partial(Route, method="POST", roles=_ADMIN)
        return (
            read(
                path="/site/nodes",
                handler=self.nodes,
                summary="All units: free, leased, quarantined",
                answer=models.SiteNodes,
            ),
            change(
                path="/site/nodes/{name}/quarantine",
                handler=self.quarantine,
                summary="Hand a unit out no more; in a lease it is replaced",
                body=models.QuarantineRequest,
                answer=models.SiteNode,
            ),
            change(
                path="/site/nodes/{name}/release",
                handler=self.release,
                summary="Clear and check a quarantined unit, and hand it out again if it is fit",
                answer=models.SiteNode,
            ),
            change(
                path="/site/nodes/{name}/drain",
                handler=self.drain,
                summary="Give a unit to no lease any more; one that has it keeps it",
                body=models.DrainRequest,
                answer=models.SiteNode,
            ),
            change(
                path="/site/nodes/{name}/undrain",
                handler=self.undrain,
                summary="Hand a drained unit out again",
                answer=models.SiteNode,
            ),
            change(
                path="/site/reconcile",
                handler=self.reconcile,
                summary="Compare ledger, directory and nodes, and mend what differs",
                body=models.ReconcileRequest,
                answer=models.Reconciliation,
                while_held=True,  # as a dry run
            ),
            read(
                path="/site/leases",
                handler=self.leases,
                summary="Leases, by holder and id",
                query=models.PeerLeasePage,
                choices=among_states(SiteState),
                answer=models.SiteLeases,
            ),
            read(path=lease, handler=self.lease, summary="One lease", answer=models.SiteLease),
            read(
                path=f"{lease}/story",
                handler=self.story,
                summary="All that happened to it here",
                answer=models.Story,
            ),
            change(
                path=f"{lease}/close",
                handler=self.close,
                summary="End it now",
                body=models.CloseRequest,
                answer=models.SiteLease,
            ),
            change(
                path=f"{lease}/retry",
                handler=self.retry,
                summary="Try again to tear down what is CloseFailed",
                answer=models.SiteLease,
            ),
            read(
                path="/site/delegations",
                handler=self.delegations,
                summary="What brokers may sell",
                answer=models.Delegations,
            ),
            change(
                path="/site/delegations",
                handler=self.delegate,
                summary="Let a broker sell units of a pool",
                body=models.DelegationRequest,
                answer=models.Delegation,
                statuses={201: "Delegated", 200: "Was delegated before, by the same name"},
            ),
            *revoking.routes(self._actor, _ADMIN),
            *convictions.routes(self._actor),
        )

    # Units ------------------------------------------------------------------------------------

    async def nodes(self, _call: Call) -> models.SiteNodes:
        return models.SiteNodes(nodes=tuple(map(self._node, self._actor.role.units.values())))

    def _node(self, unit: Unit) -> models.SiteNode:
        attributes = self._attributes.get(unit.name, {})
        probe = self._upkeep.probing.results.get(unit.name)
        return views.site_node(unit, self._actor.role, attributes, probe)

    def _named(self, call: Call) -> str:
        """The unit that a path names. Raises `Problem`."""
        name = call.part("name")
        if name not in self._actor.role.units:
            raise Problem(404, "not_found", "there is no such unit")
        return name

    async def quarantine(self, call: Call) -> models.SiteNode:
        name, wanted = self._named(call), call.body

        def act(role: Authority, now: int) -> None:
            held = standing(role, name)
            lease = held.lease if held is not None else None
            if lease is None and role.units[name].quarantined:
                return
            if lease is not None and not wanted.replace:
                raise Refused(
                    "in_use",
                    f"{name} works for the lease {lease.id} of {lease.guest.name}: say that it "
                    "is to be replaced there, or close the lease first",
                )
            role.unit_lost(name, wanted.reason, now, call.by)
            note(role, f"unit/{name}", now, "Quarantined", call.by, wanted.reason)

        await self._actor.submit(act)
        return self._node(self._actor.role.units[name])

    async def release(self, call: Call) -> models.SiteNode:
        """End a quarantine: only after a check that the unit is fit has passed."""
        name = self._named(call)
        try:
            await fit_again(self._actor, self._upkeep.performer, name, by=call.by)
        except HandlerFailed as error:
            raise Problem(409, "unfit", f"{name} stays in quarantine: {error}") from error
        except Unavailable as error:
            reason = f"{name} can not be checked now: {error}"
            raise Problem(503, "unavailable", reason, retry=True) from error
        return self._node(self._actor.role.units[name])

    async def drain(self, call: Call) -> models.SiteNode:
        """The same again changes the reason, and nothing else."""
        name, reason = self._named(call), call.body.reason

        def act(role: Authority, now: int) -> None:
            if role.units[name].drained != reason:
                role.drain(name, reason)
                note(role, f"unit/{name}", now, "Drained", call.by, reason)

        await self._actor.submit(act)
        return self._node(self._actor.role.units[name])

    async def undrain(self, call: Call) -> models.SiteNode:
        name = self._named(call)

        def act(role: Authority, now: int) -> None:
            if role.units[name].drained:
                role.undrain(name, now)
                note(role, f"unit/{name}", now, "Undrained", call.by)

        await self._actor.submit(act)
        return self._node(self._actor.role.units[name])

    async def reconcile(self, call: Call) -> models.Reconciliation:
        if self._reconciling:
            raise Refused("busy", "somebody else reconciles just now; try again later", retry=True)
        self._reconciling = True
        try:
            report = await reconcile(
                self._actor, self._upkeep.performer, dry_run=call.body.dry_run, by=call.by
            )
        finally:
            self._reconciling = False
        return views.reconciliation(report)

    # Leases -----------------------------------------------------------------------------------

    async def leases(self, call: Call) -> models.SiteLeases:
        leases, following = select(self._actor, call, views.site_lease)
        return models.SiteLeases(leases=leases, next=following)

    async def lease(self, call: Call) -> models.SiteLease:
        return views.site_lease(self._actor.role.leases[key_of(self._actor, call)])

    async def story(self, call: Call) -> models.Story:
        return await story_of(self._actor, key_of(self._actor, call))

    async def close(self, call: Call) -> models.SiteLease:
        key, reason = key_of(self._actor, call), call.body.reason or "closed by the site"

        def act(role: Authority, now: int) -> SiteLease:
            record = record_of(role, key)
            if record.state.final or record.state is SiteState.CLOSING:
                return record
            return role.apply(record, CloseAsked(now=now, reason=reason), call.by)

        return views.site_lease(await self._actor.submit(act))

    async def retry(self, call: Call) -> models.SiteLease:
        key = key_of(self._actor, call)

        def act(role: Authority, now: int) -> SiteLease:
            return role.retry(record_of(role, key).key, now, call.by)

        return views.site_lease(await self._actor.submit(act))

    # Delegations ------------------------------------------------------------------------------

    async def delegations(self, _call: Call) -> models.Delegations:
        held = sorted(self._actor.role.delegations.values(), key=lambda one: one.id)
        return models.Delegations(delegations=tuple(map(self._delegation, held)))

    def _delegation(self, record: Delegation) -> models.Delegation:
        return views.delegation(record, self._actor.party)

    async def delegate(self, call: Call) -> Reply:
        brokers = {party.name: party for party in self._actor.role.brokers.values()}
        resource = self._resource.get(call.body.type, {})
        record, made = await grant(self._actor, call, brokers, resource)
        return Reply(self._delegation(record), 201 if made else 200)
