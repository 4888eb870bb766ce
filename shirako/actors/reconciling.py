"""Holds what is against what the ledger says, and mends what differs: the ledger decides.

Drivers find the differences (`Driver.survey`) and mend them (`Driver.mend`). What is here decides
what each unit should be like, leaves out units that are in motion, makes sure that nothing else
runs on a unit while it is mended, and tells what became of each difference.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

from shirako.actors.actor import Actor
from shirako.actors.audit import note
from shirako.actors.authority import Authority, Unit
from shirako.actors.performing import Blind, Found, Pool, SitePerformer
from shirako.actors.role import Refused
from shirako.actors.standing import Standing, standing, units_at_work
from shirako.core.authority import Quarantine, SiteLease, UnitPhase
from shirako.core.machine import Key
from shirako.handlers import HandlerFailed, Unavailable, UnitJob, Unsuitable

MENDS_AT_ONCE = 8
MENDING_SECONDS = 900.0
"""No unit is begun with after this time: whoever waits for the report does get it."""
CHECK_SECONDS = 60.0
LINES_MAX = 200
LINE_CHARACTERS_MAX = 500

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One difference, and what became of it."""

    unit: str
    """Empty where it is about no unit."""
    where: str
    """`ledger`, or what a driver says: `node`, `directory`."""
    fault: str
    what: str
    lease: Key | None = None
    """Who holds the unit."""
    done: Literal["shown", "mended", "left"] = "shown"
    note: str = ""
    """Why it is left, or what to do about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a comparison found, and what is left of it."""

    dry_run: bool
    units: int
    """How many were looked at."""
    findings: tuple[Finding, ...]
    busy: tuple[str, ...]
    """Units that something was being done to: they were not looked at, or not mended."""
    blind: tuple[Blind, ...]
    """Drivers that could not look."""


async def reconcile(
    actor: Actor[Authority], performer: SitePerformer, *, dry_run: bool, by: str
) -> Report:
    """Compare ledger, directory and nodes, each way; mend what differs unless it is a dry run.

    Raises `Refused` when it should mend while the actor is held after a restore.
    """
    if not dry_run:
        actor.role.check_not_held()
    return await _Reconciliation(actor, performer, by).run(dry_run=dry_run)


async def fit_again(
    actor: Actor[Authority], performer: SitePerformer, name: str, *, by: str
) -> None:
    """End a unit's quarantine: clear it of all that is left, check it, hand it out again.

    Does nothing to one that is not in quarantine. Raises `Refused` while a lease has it, and
    `HandlerFailed` or `Unavailable` when it can not be said that it is fit; it is not let out then.
    """
    if not actor.role.units[name].quarantined:
        return
    actor.role.check_not_held()
    async with actor.handling.alone_with(name):
        job = await actor.submit(lambda role, now: _begin_release(role, performer, name, now, by))
        if job is None:
            return
        told: list[str] = []
        try:
            await _clear(performer, job, told)
        except (HandlerFailed, Unavailable) as error:
            reason = str(error)
            await actor.submit(
                lambda role, now: note(role, f"unit/{name}", now, "NotReleased", by, reason)
            )
            raise
        await actor.submit(lambda role, now: _end_release(role, job, now, by))


def _begin_release(
    role: Authority, performer: SitePerformer, name: str, now: int, by: str
) -> UnitJob | None:
    unit = role.units[name]
    if not unit.quarantined:
        return None
    if unit.owner is None and name in units_at_work(role):
        raise Refused("busy", f"{name} is still being cleaned; try again later", retry=True)
    epoch = role.fresh_epoch(name, now)  # what older handlers left running is ended by this
    note(role, f"unit/{name}", now, "Checking", by, unit.quarantined)
    return performer.job(name, epoch, None)


async def _clear(performer: SitePerformer, job: UnitJob, told: list[str]) -> None:
    pool = performer.pools[job.type]
    found, blind = await performer.survey(pool, [job])
    if blind:
        raise Unavailable(blind[0].reason)
    own = [one for one in found if one.difference.unit == job.unit]
    for driver, mine in _by_driver(job, own):
        await performer.mend(pool, driver, [one.difference for one in mine], job, told.append)
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            await performer.probe(job.unit, job.epoch, told.append)
    except TimeoutError as error:
        raise Unavailable(f"no answer within {CHECK_SECONDS:g} s") from error


def _end_release(role: Authority, job: UnitJob, now: int, by: str) -> None:
    unit = role.units[job.unit]
    if (unit.epoch, unit.owner) != (job.epoch, None):
        raise Refused("busy", f"{unit.name} changed while it was checked; try again", retry=True)
    role.lift_quarantine(unit.name, now)
    note(role, f"unit/{unit.name}", now, "QuarantineLifted", by, unit.quarantined)


class _Spot(NamedTuple):
    """Tells a difference from all others: the same in two looks is the same one."""

    pool: Pool
    found: Found

    @property
    def key(self) -> tuple[str, Found]:
        return (self.pool.type, self.found)

    @property
    def unit(self) -> str:
        return self.found.difference.unit


@dataclass(slots=True)
class _Look:
    """What one comparison saw."""

    jobs: dict[str, UnitJob] = field(default_factory=dict)
    """What each unit should be like that stood still from before the comparison to its end."""
    leases: dict[str, Key] = field(default_factory=dict)
    busy: set[str] = field(default_factory=set)
    spots: list[_Spot] = field(default_factory=list)
    blind: list[Blind] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Outcome:
    done: Literal["mended", "left"]
    note: str = ""


_IN_MOTION = _Outcome("left", "something is being done to the unit: run it again later")


class _Reconciliation:
    def __init__(self, actor: Actor[Authority], performer: SitePerformer, by: str) -> None:
        self._actor = actor
        self._performer = performer
        self._by = by
        self._slots = asyncio.Semaphore(MENDS_AT_ONCE)
        self._deadline = asyncio.get_running_loop().time() + MENDING_SECONDS
        self._outcomes: dict[tuple[str, Found], _Outcome] = {}

    async def run(self, *, dry_run: bool) -> Report:
        await self._actor.settled()
        inconsistent = tuple(contradictions(self._actor.role))
        pools = tuple(self._performer.pools.values())
        first = await self._look(pools)
        if dry_run:
            findings = [*inconsistent, *(self._finding(first, spot) for spot in first.spots)]
            return self._report(first, findings, first.busy, first.blind, dry_run=True)
        orphans = await self._actor.submit(
            lambda role, now: take_from_nobody(role, self._by, now) if inconsistent else frozenset()
        )
        await self._mend_all(first)
        touched = {spot.pool.type: spot.pool for spot in first.spots}
        second = await self._look(tuple(touched.values()))
        findings = [
            replace(
                finding,
                done="mended"
                if finding.fault == "left over" and finding.unit in orphans
                else "left",
            )
            for finding in inconsistent
        ]
        findings += self._judge(first, second)
        busy = first.busy | second.busy
        return self._report(first, findings, busy, [*first.blind, *second.blind], dry_run=False)

    def _report(
        self,
        look: _Look,
        findings: Iterable[Finding],
        busy: Iterable[str],
        blind: Iterable[Blind],
        *,
        dry_run: bool,
    ) -> Report:
        return Report(
            dry_run=dry_run,
            units=len(look.jobs),
            findings=tuple(dict.fromkeys(findings)),
            busy=tuple(sorted(set(busy))),
            blind=tuple(dict.fromkeys(blind)),
        )

    # Looking ----------------------------------------------------------------------------------

    async def _look(self, pools: Sequence[Pool]) -> _Look:
        look = _Look()
        await self._actor.settled()
        role = self._actor.role
        at_work = units_at_work(role)
        for pool in pools:
            for name in pool.units:
                found = standing(role, name, at_work)
                if found is None:
                    look.busy.add(name)
                    continue
                look.jobs[name] = self._job(found)
                if found.lease is not None:
                    look.leases[name] = found.lease.key
        asked = [[look.jobs[name] for name in pool.units if name in look.jobs] for pool in pools]
        surveys = await asyncio.gather(*map(self._performer.survey, pools, asked))
        await self._actor.settled()
        for pool, (found_here, blind) in zip(pools, surveys, strict=True):
            look.blind += blind
            for one in found_here:
                spot = _Spot(pool, one)
                if self._is_ours_to_tell(spot, look):
                    look.spots.append(spot)
        return look

    def _is_ours_to_tell(self, spot: _Spot, look: _Look) -> bool:
        """Whether the books still say what the unit was compared with."""
        if spot.unit not in self._actor.role.units:
            return True  # of no unit, or of one that the site no longer has
        if spot.unit not in spot.pool.units:
            return False  # another pool's drivers tell that
        if spot.unit in look.jobs and self._job_now(spot.unit) == look.jobs[spot.unit]:
            return True
        look.busy.add(spot.unit)
        return False

    def _job(self, found: Standing) -> UnitJob:
        return self._performer.job(found.unit.name, found.unit.epoch, found.lease)

    def _job_now(self, name: str) -> UnitJob | None:
        found = standing(self._actor.role, name)
        return None if found is None else self._job(found)

    def _finding(self, look: _Look, spot: _Spot, outcome: _Outcome | None = None) -> Finding:
        difference = spot.found.difference
        return Finding(
            unit=difference.unit,
            where=difference.where,
            fault=difference.fault,
            what=difference.what,
            lease=look.leases.get(difference.unit),
            done=outcome.done if outcome else "shown",
            note=outcome.note if outcome else "",
        )

    def _judge(self, first: _Look, second: _Look) -> Iterator[Finding]:
        """What became of each difference, as the second look shows it."""
        there = {spot.key for spot in second.spots}
        unseen = {(blind.type, blind.driver) for blind in second.blind}
        known = {spot.key for spot in first.spots}
        for spot in first.spots:
            outcome = self._outcomes[spot.key]
            if outcome.done == "mended" and spot.key in there:
                outcome = _Outcome("left", "it is still there after mending")
            elif (spot.pool.type, spot.pool.driver_name(spot.found.driver)) in unseen:
                outcome = _Outcome(outcome.done, outcome.note or "not looked at again")
            yield self._finding(first, spot, outcome)
        for spot in second.spots:
            if spot.key not in known:
                yield self._finding(second, spot, _Outcome("left", "it turned up meanwhile"))

    # Mending ----------------------------------------------------------------------------------

    async def _mend_all(self, look: _Look) -> None:
        of_units: defaultdict[str, list[_Spot]] = defaultdict(list)
        of_none: defaultdict[tuple[str, int], list[_Spot]] = defaultdict(list)
        for spot in look.spots:
            if spot.unit in look.jobs:
                of_units[spot.unit].append(spot)
            else:
                of_none[spot.pool.type, spot.found.driver].append(spot)
        await asyncio.gather(
            *(self._mend_unit(look.jobs[unit], spots) for unit, spots in of_units.items()),
        )
        for spots in of_none.values():  # last: what stands above units is only then free of them
            await self._mend_rest(spots)

    async def _mend_unit(self, job: UnitJob, spots: list[_Spot]) -> None:
        async with self._slots:
            if asyncio.get_running_loop().time() > self._deadline:
                self._settle(spots, _Outcome("left", "there was no time left for it: run it again"))
                return
            if self._job_now(job.unit) != job:
                self._settle(spots, _IN_MOTION)
                return
            try:
                async with self._actor.handling.alone_with(job.unit):
                    await self._mend_alone(job, spots)
            except Refused as error:
                self._settle(spots, _Outcome("left", error.reason))

    async def _mend_alone(self, job: UnitJob, spots: list[_Spot]) -> None:
        about = "; ".join(_told(spot) for spot in spots)
        begun = await self._actor.submit(lambda role, now: self._begin(role, job, about, now))
        if begun is None:
            self._settle(spots, _IN_MOTION)
            return
        lines: list[str] = []
        blamed = await self._mend(begun, spots, lines)
        failed = "; ".join(
            f"{_told(spot)}: {self._outcomes[spot.key].note}"
            for spot in spots
            if self._outcomes[spot.key].done == "left"
        )
        what, text = ("MendFailed", failed) if failed else ("Mended", about)
        await self._actor.submit(
            lambda role, now: self._end(role, begun, blamed, lines, (what, text), now)
        )

    def _begin(self, role: Authority, job: UnitJob, about: str, now: int) -> UnitJob | None:
        """What to mend the unit to; None when the books say something else by now."""
        if self._job_now(job.unit) != job:
            return None
        note(role, f"unit/{job.unit}", now, "Mending", self._by, about)
        # whatever an older handler left running may not come in between
        return job if job.lease else replace(job, epoch=role.fresh_epoch(job.unit, now))

    async def _mend(self, job: UnitJob, spots: list[_Spot], lines: list[str]) -> str:
        """Let each driver mend what it found; returns why the unit is unfit, if it is."""
        pool = spots[0].pool
        founds = [spot.found for spot in spots]
        self._settle(spots, _Outcome("left", "what had to be mended before it was not"))

        def tell(line: str) -> None:
            if len(lines) < LINES_MAX:
                lines.append(line[:LINE_CHARACTERS_MAX])

        for driver, mine in _by_driver(job, founds):
            own = [_Spot(pool, one) for one in mine]
            try:
                differences = [one.difference for one in mine]
                await self._performer.mend(pool, driver, differences, job, tell)
            except (Unavailable, Unsuitable) as error:
                self._settle(own, _Outcome("left", str(error)))
            except HandlerFailed as error:
                self._settle(own, _Outcome("left", str(error)))
                return str(error)
            except Exception as error:  # the driver's fault, and not the unit's
                log.exception("mending %s broke", job.unit)
                self._settle(own, _Outcome("left", f"{type(error).__name__}: {error}"))
            else:
                self._settle(own, _Outcome("mended"))
        return ""

    def _end(
        self,
        role: Authority,
        job: UnitJob,
        blamed: str,
        lines: list[str],
        outcome: tuple[str, str],
        now: int,
    ) -> None:
        about = f"unit/{job.unit}"
        found = standing(role, job.unit)
        for line in lines:
            if found is not None and found.lease is not None and job.lease:
                role.tell(found.lease, now, "log", f"mend {job.unit}", line)
            else:
                note(role, about, now, "log", f"mend {job.unit}", line)
        what, text = outcome
        note(role, about, now, what, self._by, text)
        if not blamed or found is None or self._job(found) != job or found.unit.quarantined:
            return
        role.unit_lost(job.unit, blamed, now, self._by)
        note(role, about, now, "Quarantined", self._by, blamed)

    async def _mend_rest(self, spots: list[_Spot]) -> None:
        """What is about no unit of this site."""
        pool, driver = spots[0].pool, spots[0].found.driver
        differences = [spot.found.difference for spot in spots]
        about = "; ".join(_told(spot) for spot in spots)
        place = f"pool/{pool.type}"
        lines: list[str] = []
        try:
            await self._actor.submit(
                lambda role, now: note(role, place, now, "Mending", self._by, about)
            )
            await self._performer.mend(pool, driver, differences, None, lines.append)
        except (Unavailable, HandlerFailed, Unsuitable, Refused) as error:
            self._settle(spots, _Outcome("left", str(error)))
        except Exception as error:
            log.exception("mending what is about no unit broke")
            self._settle(spots, _Outcome("left", f"{type(error).__name__}: {error}"))
        else:
            self._settle(spots, _Outcome("mended"))

    def _settle(self, spots: Iterable[_Spot], outcome: _Outcome) -> None:
        self._outcomes.update((spot.key, outcome) for spot in spots)


def _told(spot: _Spot) -> str:
    difference = spot.found.difference
    return f"{difference.where}: {difference.what} ({difference.fault})"


def _by_driver(job: UnitJob, found: Iterable[Found]) -> Iterator[tuple[int, list[Found]]]:
    """Differences by driver: what is made again in the order of a set-up, else of a teardown."""
    of: Mapping[int, list[Found]] = defaultdict(list)
    for one in found:
        of[one.driver].append(one)
    for driver in sorted(of, reverse=not job.lease):
        yield driver, of[driver]


# The ledger with itself ------------------------------------------------------------------------


def contradictions(role: Authority) -> Iterator[Finding]:
    """What two parts of the ledger say differently."""
    for unit in role.units.values():
        if unit.owner is not None and not _is_owned(role, unit):
            yield _contradiction(
                unit.name,
                "left over",
                f"it is given to the lease {unit.owner[1]}, which does not have it",
                unit.owner,
                "it is put in quarantine; release it then",
            )
    for lease in role.leases.values():
        if not lease.state.final:
            yield from _contradictions_of(role, lease)


def _is_owned(role: Authority, unit: Unit) -> bool:
    """Whether the lease that a unit is given to has it, or still cleans it."""
    lease = role.leases.get(unit.owner) if unit.owner else None
    done = (UnitPhase.CLOSED, UnitPhase.FAILED)
    return lease is not None and any(
        (a.unit, a.epoch) == (unit.name, unit.epoch) and a.phase not in done
        for a in lease.assignments
    )


def take_from_nobody(role: Authority, by: str, now: int) -> frozenset[str]:
    """Put units in quarantine that are given to leases which do not have them; returns which."""
    reason = "the lease that it was given to does not have it"
    orphans = []
    for unit in list(role.units.values()):
        if unit.owner is None or _is_owned(role, unit):
            continue
        orphans.append(unit.name)
        role.carry_out(unit.owner, Quarantine(unit=unit.name, epoch=unit.epoch, reason=reason), now)
        note(role, f"unit/{unit.name}", now, "Quarantined", by, reason)
    return frozenset(orphans)


def _contradictions_of(role: Authority, lease: SiteLease) -> Iterator[Finding]:
    if lease.type not in role.policies:
        yield _contradiction(
            "",
            "missing",
            f"there is no pool of {lease.type} any more, and the lease {lease.id} is of that type",
            lease.key,
            "put the pool back into the descriptor, or close the lease",
        )
    for assignment in lease.live:
        if assignment.phase not in (UnitPhase.PRIMING, UnitPhase.ACTIVE):
            continue
        unit = role.units.get(assignment.unit)
        if unit is None:
            yield _contradiction(
                assignment.unit,
                "missing",
                f"it is no unit of this site any more, and the lease {lease.id} has it",
                lease.key,
                "put it back into the descriptor, or close the lease",
            )
        elif (unit.owner, unit.epoch) != (lease.key, assignment.epoch):
            whose = f"the lease {unit.owner[1]}" if unit.owner else "nobody"
            yield _contradiction(
                assignment.unit,
                "changed",
                f"the lease {lease.id} has it under epoch {assignment.epoch}, and the unit's "
                f"record gives it to {whose} under epoch {unit.epoch}",
                lease.key,
                "close the lease",
            )


def _contradiction(unit: str, fault: str, what: str, lease: Key | None, mend: str) -> Finding:
    return Finding(unit=unit, where="ledger", fault=fault, what=what, lease=lease, note=mend)
