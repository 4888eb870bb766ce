"""The site's operator: has failed teardowns tried again, and mended nodes handed out again."""

from __future__ import annotations

import asyncio

from bench.faulting.stand import Tell
from shirako.api.models import SiteLease, SiteNode
from shirako.client import Client, Problem, Unreachable

PAUSE_SECONDS = 1.0


class Operator:
    """Works through the site's API, like any operator."""

    def __init__(self, site: Client, tell: Tell) -> None:
        self.retried = 0
        self.released = 0
        self.refused: dict[str, str] = {}
        """What the site said last when a node could not be released or a teardown not be tried."""
        self._site = site
        self._tell = tell

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.round()
            await asyncio.sleep(PAUSE_SECONDS)

    async def round(self) -> bool:
        """Look once, do what can be done; whether there was nothing to do."""
        try:
            failed = await self._site.site_leases(state=["CloseFailed"])
            nodes = await self._site.nodes()
        except (Problem, Unreachable):
            return False
        waiting = {a.unit for lease in failed for a in lease.assignments if a.phase == "failed"}
        quarantined = [node for node in nodes if node.state == "quarantined"]
        for lease in failed:
            await self._retry(lease)
        for node in quarantined:
            # first the teardown, in the name of the lease that the unit was given out to
            if node.name not in waiting:
                await self._release(node)
        return not failed and not quarantined

    async def _retry(self, lease: SiteLease) -> None:
        try:
            await self._site.retry_teardown(lease.holder, lease.id)
        except (Problem, Unreachable) as error:
            self.refused[f"lease {lease.id}"] = str(error)
        else:
            self.retried += 1
            self._tell(f"  operator: teardown of {lease.id} is tried again ({lease.reason})")

    async def _release(self, node: SiteNode) -> None:
        try:
            await self._site.release_node(node.name)
        except (Problem, Unreachable) as error:
            self.refused[f"node {node.name}"] = str(error)
        else:
            self.released += 1
            self.refused.pop(f"node {node.name}", None)
            self._tell(f"  operator: {node.name} is handed out again ({node.quarantined})")
