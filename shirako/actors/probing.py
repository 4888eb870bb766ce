"""Looks at every unit from time to time, and takes one that is no longer fit from its lease.

Each pool has a rota: its units are spread evenly over the interval, so that the work is even too.
Nothing is written while all is well; what the last look found is kept in memory.

A look is no proof. It is repeated before it counts, and it counts only while another unit of the
pool answers: when none does, it may be this site's own network that is down, and taking all units
from all leases would be the worse damage.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from shirako.actors.actor import Actor
from shirako.actors.audit import note
from shirako.actors.authority import Authority
from shirako.actors.role import Refused
from shirako.actors.standing import Standing, standing
from shirako.handlers import HandlerFailed, Unavailable

PROBES_AT_ONCE = 16
PROBE_SECONDS = 45.0
"""A unit that does not answer within this time is unfit. No handler of its runs meanwhile."""
ATTEMPTS = 3
"""Probes in a row that have to fail before a unit is given up."""
PAUSE_SECONDS_MAX = 15.0
"""Between these attempts: a machine that only restarts some service is not lost."""
PAUSE_SHARE = 0.1
"""The same, as a share of the interval, for pools that are looked at more often."""
WITNESSES = 3
"""Other units of the pool that are asked whether it is the unit or the network."""
BREATH_SECONDS = 0.25
"""The rota sleeps no shorter: of a large pool it takes all that is due in one go."""
NOTE_CHARACTERS_MAX = 500

Verdict = Literal["fit", "unfit", "unknown"]
"""`unknown`: something else that the look needs did not answer."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Probe:
    """What a look at a unit found, and when."""

    tick: int
    verdict: Verdict
    note: str = ""


class Probing:
    """The rotas of one authority."""

    def __init__(self, actor: Actor[Authority], intervals: Mapping[str, float]) -> None:
        """`intervals`: seconds between two looks at a unit, by resource type; 0: never."""
        self._actor = actor
        self._intervals = intervals
        self._slots = asyncio.Semaphore(PROBES_AT_ONCE)
        self._walks: list[asyncio.Task[None]] = []
        self._visits: set[asyncio.Task[None]] = set()
        self.results: dict[str, Probe] = {}
        """What the last look at each unit found."""

    def start(self) -> None:
        """The first round begins after one interval: nodes may come up just as this site does."""
        loop = asyncio.get_running_loop()
        for kind, interval in self._intervals.items():
            names = self._units(kind)
            if interval > 0 and names:
                walk = self._walk(names, interval)
                self._walks.append(loop.create_task(walk, name=f"probing {kind}"))

    async def stop(self) -> None:
        tasks = [*self._walks, *self._visits]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._walks.clear()

    def _units(self, kind: str) -> list[str]:
        return [unit.name for unit in self._actor.role.units.values() if unit.type == kind]

    # The rota ---------------------------------------------------------------------------------

    async def _walk(self, names: Sequence[str], interval: float) -> None:
        loop = asyncio.get_running_loop()
        step = interval / len(names)
        due = loop.time() + interval
        for name in itertools.cycle(names):
            ahead = due - loop.time()
            if ahead > 0:
                await asyncio.sleep(max(ahead, BREATH_SECONDS))
            # what could not be done in time is not made up for: the round takes longer
            due = max(due + step, loop.time() - max(step, BREATH_SECONDS))
            if self._standing(name) is None:
                continue
            await self._slots.acquire()
            visit = loop.create_task(self._visit(name, interval), name=f"probe {name}")
            self._visits.add(visit)
            visit.add_done_callback(self._visits.discard)

    def _standing(self, name: str) -> Standing | None:
        """A unit to look at. One in quarantine is out of use: its release looks at it."""
        role = self._actor.role
        if role.held:  # what its books say of a unit may be long over
            return None
        return None if role.units[name].quarantined else standing(role, name)

    async def _visit(self, name: str, interval: float) -> None:
        pause = min(interval * PAUSE_SHARE, PAUSE_SECONDS_MAX)
        try:
            await self._examine(name, pause)
        except Refused as error:
            log.warning("%s stays as it is for now: %s", name, error)
        except Exception:
            log.exception("probing %s broke", name)
        finally:
            self._slots.release()

    # One unit ---------------------------------------------------------------------------------

    async def _examine(self, name: str, pause: float) -> None:
        before = self._standing(name)
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(pause * self._actor.entropy.jitter())
            if before is None or not before.is_as(self._standing(name)):
                return
            probe = await self._probe(name, before)
            if probe is None or probe.verdict != "unfit":
                return
        if before is not None and before.lease is None:
            before, probe = await self._probe_anew(name, before)
        if before is None or probe is None or probe.verdict != "unfit":
            return
        if not await self._any_other_answers(name):
            self._actor.counters["probes.unproven"] += 1
            log.warning("%s does not work, nor do others: nobody is blamed: %s", name, probe.note)
            return
        probe = await self._probe(name, before)  # what was down may be up again since
        if probe is not None and probe.verdict == "unfit":
            await self._give_up(name, before, probe.note)

    async def _probe(self, name: str, before: Standing) -> Probe | None:
        """One look; None when the unit changed hands meanwhile, and nothing can be said."""
        unit = before.unit
        verdict: Verdict = "fit"
        told = ""
        async with self._actor.handling.alone_with(name):
            if not before.is_as(self._standing(name)):
                return None
            try:
                async with asyncio.timeout(PROBE_SECONDS):
                    await self._actor.performer.probe(name, unit.epoch, _unheard, unit.owner)
            except HandlerFailed as error:
                verdict, told = "unfit", str(error)
            except TimeoutError:
                verdict, told = "unfit", f"no answer within {PROBE_SECONDS:g} s"
            except Unavailable as error:
                verdict, told = "unknown", str(error)
            except Exception as error:  # the driver's fault, and not the unit's
                log.exception("the probe of %s broke", name)
                verdict, told = "unknown", f"{type(error).__name__}: {error}"
            if not before.is_as(self._standing(name)):
                return None
        found = Probe(self._actor.clock.tick(), verdict, told[:NOTE_CHARACTERS_MAX])
        self._actor.counters[f"probes.{verdict}"] += 1
        self.results[name] = found
        return found

    async def _probe_anew(
        self, name: str, before: Standing
    ) -> tuple[Standing | None, Probe | None]:
        """One look more at an idle unit, in the name of a new epoch.

        A node refuses looks in the name of an older epoch than it has seen. This site's is older
        after its ledger was restored, or when it is new and the node is not.
        """

        def act(role: Authority, now: int) -> Standing | None:
            if not before.is_as(self._standing(name)):
                return None
            role.fresh_epoch(name, now)
            return self._standing(name)

        fresh = await self._actor.submit(act)
        return fresh, await self._probe(name, fresh) if fresh is not None else None

    async def _any_other_answers(self, name: str) -> bool:
        """Whether this site still reaches other units of the pool, or there are none to ask."""
        kind = self._actor.role.units[name].type
        asked = 0
        for other in sorted(self._units(kind), key=self._last_fit, reverse=True):
            found = self._standing(other)
            if other == name or found is None:
                continue
            if asked == WITNESSES:
                break
            asked += 1
            probe = await self._probe(other, found)
            if probe is not None and probe.verdict == "fit":
                return True
        return asked == 0

    def _last_fit(self, name: str) -> int:
        last = self.results.get(name)
        return last.tick if last is not None and last.verdict == "fit" else 0

    async def _give_up(self, name: str, before: Standing, reason: str) -> None:
        def act(role: Authority, now: int) -> bool:
            if not before.is_as(self._standing(name)):
                return False
            role.unit_lost(name, reason, now, by="probe")
            note(role, f"unit/{name}", now, "Quarantined", "probe", reason)
            return True

        if await self._actor.submit(act):
            self._actor.counters["probes.lost"] += 1
            log.warning("%s is given up: %s", name, reason)


def _unheard(_line: str) -> None:
    """A look leaves no story; its end says it all."""
