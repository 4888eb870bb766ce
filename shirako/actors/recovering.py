"""What ends the hold of a restored actor: what would happen by it, and the operator's word.

Confirming is one commit. What it sets free then happens as ever: timers that are due, handlers
that are pending. Units whose nodes are not as the books say are put into quarantine in that same
commit, so that no lease gets them before somebody has cleared them (`site reconcile`, `release`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from msgspec.structs import replace

from shirako.actors.actor import Actor
from shirako.actors.audit import note
from shirako.actors.authority import Authority
from shirako.actors.broker import Broker
from shirako.actors.performing import SitePerformer
from shirako.actors.reconciling import Finding, Report, reconcile
from shirako.actors.restored import Restored
from shirako.actors.role import Role
from shirako.actors.service_manager import ServiceManager
from shirako.core.authority import HOLD_TICKS, SiteState
from shirako.core.guest import GuestState
from shirako.core.machine import Handler, Key, state_of

Due = Literal["torn down", "refused", "left and closed", "closed", "given up", "over"]


@dataclass(frozen=True, slots=True)
class DueLease:
    """A lease whose term is over by the restored books, and what the end of the hold does to it."""

    key: Key
    slice: str
    end: int
    does: Due
    units: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pending:
    """A handler that starts when the hold ends."""

    key: Key
    handler: Handler
    unit: str
    epoch: int


@dataclass(frozen=True, slots=True)
class Suspect:
    """A unit that no lease gets before it was released, and why: for a person."""

    unit: str
    why: str
    lease: Key | None = None
    """Who has it by the books, and keeps it."""


@dataclass(frozen=True, slots=True)
class Unsold:
    """A delegation of which more may be sold than the backup knows."""

    id: str
    type: str
    units: int
    until: int
    """Nothing of it is sold before this tick, unless the backup was current."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the end of the hold means, or meant."""

    restored: Restored | None
    """None: this ledger is from no backup."""
    held: bool
    due: tuple[DueLease, ...] = ()
    pending: tuple[Pending, ...] = ()
    suspects: tuple[Suspect, ...] = ()
    unsold: tuple[Unsold, ...] = ()
    unheard: int = 0
    """Messages that peers have not taken yet: what they know of the time after the backup may not
    be learnt yet."""


async def recover(actor: Actor[Any], *, dry_run: bool, backup_was_current: bool, by: str) -> Plan:
    """End the hold of a restored actor, or say what that would do. A second time: no change.

    `backup_was_current`: nobody sold anything after the backup, so a broker may go on selling.
    Raises `Refused`.
    """
    await actor.settled()
    suspects: tuple[Suspect, ...] = ()
    if actor.role.held and isinstance(actor.performer, SitePerformer):
        report = await reconcile(actor, actor.performer, dry_run=True, by=by)
        suspects = tuple(_suspects(actor.role, report))

    def act(role: Role[Any], now: int) -> Plan:
        plan = _plan(role, now, suspects)
        if plan.held and not dry_run:
            _confirm(role, plan, now, by, backup_was_current=backup_was_current)
        return plan

    return await actor.submit(act)


def _plan(role: Role[Any], now: int, suspects: tuple[Suspect, ...]) -> Plan:
    if not role.held:
        return Plan(restored=role.restored, held=False, unsold=tuple(_unsold(role, now)))
    return Plan(
        restored=role.restored,
        held=True,
        due=tuple(sorted(_due(role, now), key=lambda one: (one.end, one.key))),
        pending=tuple(_pending(role)),
        suspects=suspects,
        unsold=tuple(_unsold(role, now)),
        unheard=sum(len(line.unacked) for *_, kept in role.kept() for line in kept.lines.values()),
    )


def _confirm(role: Role[Any], plan: Plan, now: int, by: str, *, backup_was_current: bool) -> None:
    if role.restored is None:
        raise AssertionError("only what was restored is held")
    if isinstance(role, Authority):
        for suspect in plan.suspects:
            if not role.units[suspect.unit].quarantined:
                role.suspect(suspect.unit, suspect.why)
                note(role, f"unit/{suspect.unit}", now, "Quarantined", by, suspect.why)
    unsold = {} if backup_was_current else role.restored.unsold
    role.keep_restored(replace(role.restored, confirmed=now, by=by, unsold=unsold))
    text = f"{len(plan.due)} leases due, {len(plan.pending)} handlers pending"
    if isinstance(role, Broker):
        text = "the backup was current" if backup_was_current else "the backup may be old"
    note(role, "ledger", now, "RestoreConfirmed", by, text)


def _due(role: Role[Any], now: int) -> Iterator[DueLease]:
    for key, record in role.leases.items():
        if state_of(record).final or record.wake is None or record.wake > now:
            continue
        does = _does(role, record, now)
        if does is not None:
            units = tuple(a.unit for a in record.live) if isinstance(role, Authority) else ()
            yield DueLease(key, record.slice, record.term.end, does, units)


def _does(role: Role[Any], record: Any, now: int) -> Due | None:
    """What waking the record does; None where its term is not over, and a policy is asked."""
    if isinstance(role, Authority):
        if record.state is not SiteState.REDEEMING:
            return "torn down"
        return "refused" if now >= min(record.term.start + HOLD_TICKS, record.term.end) else None
    if isinstance(role, ServiceManager):
        if record.term.end > now:
            return None
        if record.state in (GuestState.TICKETING, GuestState.CANCELLING):
            return "given up"
        joined = bool(record.joined) and record.state is not GuestState.CLOSE_WAIT
        return "left and closed" if joined else "closed"
    return "over"


def _pending(role: Role[Any]) -> Iterator[Pending]:
    for key, record in role.leases.items():
        for work in record.work:
            yield Pending(key, work.handler, work.unit, work.epoch)


def _unsold(role: Role[Any], now: int) -> Iterator[Unsold]:
    if not isinstance(role, Broker):
        return
    for name, until in sorted(role.unsold().items()):
        held = role.delegations.get(name)
        if held is not None and until > now:
            yield Unsold(name, held.type, held.units, until)


def _suspects(role: Authority, report: Report) -> Iterator[Suspect]:
    """Units that differ from the books, and idle ones that could not be looked at."""
    differs: dict[str, list[Finding]] = {}
    for finding in report.findings:
        if finding.unit in role.units:
            differs.setdefault(finding.unit, []).append(finding)
    for unit, findings in sorted(differs.items()):
        told = "; ".join(f"{one.where}: {one.what} ({one.fault})" for one in findings[:5])
        yield Suspect(unit, f"after a restore, {told}", findings[0].lease)
    for blind in report.blind:
        why = f"after a restore, {blind.driver} could not look: {blind.reason}"
        for idle in role.units.values():
            if (idle.type, idle.owner) == (blind.type, None) and idle.name not in differs:
                differs[idle.name] = []
                yield Suspect(idle.name, why)
