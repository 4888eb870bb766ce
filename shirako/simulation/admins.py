"""Site admins: they repair nodes, retry failed teardowns, lift quarantines; some of them change
their minds about what they delegated, and take nodes out of use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from shirako.actors.actor import Actor
from shirako.actors.authority import Authority
from shirako.actors.performing import SitePerformer
from shirako.actors.reconciling import fit_again, reconcile
from shirako.actors.revoking import renew, revoke
from shirako.actors.role import Refused
from shirako.core.authority import CloseAsked, SiteState
from shirako.core.machine import Key
from shirako.handlers import HandlerFailed, Unavailable
from shirako.simulation.chance import Stream
from shirako.simulation.facts import Facts
from shirako.simulation.nodes import Node
from shirako.simulation.records import DelegationRecord, SiteRecord, UnitRecord
from shirako.simulation.restorations import Restorer
from shirako.simulation.seats import Down, Seat

ROUND_SECONDS = 45.0
TRIES = 40
FICKLE = 0.4
"""Part of the admins who take back and give again what they delegated, and drain nodes."""


@dataclass
class Admin:
    """The person behind one site."""

    seat: Seat
    nodes: dict[str, Node]
    restorer: Restorer
    facts: Facts
    source: Stream
    plans: Stream
    """What else the admin does, of free will."""
    now: Callable[[], float]

    async def work(self, until: float) -> None:
        """Look around, again and again."""
        fickle = self.plans.random() < FICKLE
        while self.now() < until:
            await asyncio.sleep(ROUND_SECONDS * (0.5 + self.source.random()))
            if fickle and self.plans.random() < 0.6:
                await self._change_plans()
            if self.source.random() < 0.1:
                await self._compare()
            for record in list(self.seat.kept.values()):
                if isinstance(record, SiteRecord) and record.state == "CloseFailed":
                    await self._clear(record)
                elif isinstance(record, UnitRecord) and record.quarantined:
                    await self._release(record)
                elif isinstance(record, SiteRecord) and record.state == "Active":
                    await self._perhaps_close(record)

    async def do(self, what: str, act: Callable[[Authority, int], Any]) -> Any:
        """Have the authority do something; again while nobody answers. None: refused."""
        for _ in range(TRIES):
            try:
                return await self.seat.submit(act)
            except Down:
                await asyncio.sleep(1.0 + 8.0 * self.source.random())
            except Refused as refused:
                self.facts.note(self.seat.name, f"refuses {what}: {refused}")
                if not refused.retry:
                    return None
                await asyncio.sleep(1.0 + 8.0 * self.source.random())
        return None

    async def _change_plans(self) -> None:
        """Take back what was delegated, or give it again; renew it; drain a node, or have it
        back."""
        kept = list(self.seat.kept.values())
        delegations = [one for one in kept if isinstance(one, DelegationRecord)]
        units = [one for one in kept if isinstance(one, UnitRecord)]
        what = self.plans.choice(("revoke", "shrink", "give back", "renew", "drain", "undrain"))
        if what in ("drain", "undrain") and units:
            await self._drain(self.plans.choice(units).name, what)
        elif delegations:
            await self._withdraw(self.plans.choice(delegations), what)

    async def _drain(self, unit: str, what: str) -> None:
        def act(role: Authority, now: int) -> None:
            if what == "drain":
                role.drain(unit, "a new disk")
            else:
                role.undrain(unit, now)

        self.facts.note("admin", f"{what}s {unit}")
        await self.do(what, act)

    async def _withdraw(self, one: DelegationRecord, what: str) -> None:
        left = {"revoke": 0, "shrink": self.plans.randint(0, one.units)}.get(what, one.units)
        closes = self.plans.random() < 0.2
        later = self.plans.randint(200, 900)

        def act(role: Authority, now: int) -> None:
            if what == "renew":
                renew(role, one.id, one.term.end + later, None, now)
            else:
                revoke(role, one.id, left, what, now, "admin", close_leases=closes)

        self.facts.note("admin", f"{what}s {one.id}, {left} units are left")
        await self.do(what, act)

    async def _clear(self, lease: SiteRecord) -> None:
        """Repair what has failed, and have it torn down again."""
        if self.source.random() < 0.4:
            return
        if not self.restorer.all_free([a.unit for a in lease.assignments], self.seat.tick()):
            return
        for assignment in lease.assignments:
            if assignment.phase == "failed":
                self._repair(self.nodes[assignment.unit])
        key = lease.key

        def act(role: Authority, now: int) -> None:
            record = role.leases.get(key)
            if record is not None and record.state is SiteState.CLOSE_FAILED:
                role.retry(record.key, now, "admin")

        await self.do("retry", act)

    async def _release(self, unit: UnitRecord) -> None:
        """Repair the unit, have it checked and handed out again."""
        if self.source.random() < 0.4 or not self.restorer.may_use(unit.name, self.seat.tick()):
            return
        self._repair(self.nodes[unit.name])

        async def doing(actor: Actor[Authority]) -> None:
            performer = actor.performer
            if isinstance(performer, SitePerformer):
                await fit_again(actor, performer, unit.name, by="admin")

        try:
            await self.seat.ask(doing)
        except Down:
            return
        except (Refused, HandlerFailed, Unavailable) as error:
            self.facts.note("admin", f"{unit.name} stays in quarantine: {error}")

    async def _compare(self) -> None:
        """Hold what is against what should be, and mend it."""
        units = [unit.name for unit in self.seat.kept.values() if isinstance(unit, UnitRecord)]
        if not self.restorer.all_free(units, self.seat.tick()):
            return

        async def doing(actor: Actor[Authority]) -> str:
            performer = actor.performer
            if not isinstance(performer, SitePerformer):
                return "nothing"
            report = await reconcile(actor, performer, dry_run=False, by="admin")
            return ", ".join(f"{f.unit} {f.what} {f.fault}: {f.done}" for f in report.findings)

        try:
            found = await self.seat.ask(doing)
        except (Down, Refused):
            return
        self.facts.note("admin", f"{self.seat.name} is compared: {found or 'all is as it should'}")

    def _repair(self, node: Node) -> None:
        if node.jammed or not node.reachable:
            replaced = self.source.random() < 0.3
            how = "by a new machine" if replaced else "as it was"
            self.facts.note("admin", f"repairs {node.name}, {how}")
            node.repair(replaced=replaced)

    async def _perhaps_close(self, lease: SiteRecord) -> None:
        if self.source.random() > 0.04:
            return
        key: Key = lease.key

        def act(role: Authority, now: int) -> None:
            record = role.leases.get(key)
            if record is None or record.state.final or record.state is SiteState.CLOSING:
                return
            role.apply(record, CloseAsked(now=now, reason="closed by the site"), "admin")

        await self.do("close", act)
