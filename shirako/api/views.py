"""From the actors' records to what people see."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Literal

from shirako.actors.authority import Authority
from shirako.actors.authority import Unit as UnitRecord
from shirako.actors.probing import Probe
from shirako.actors.reconciling import Finding, Report
from shirako.actors.revoking import Cut, Effect
from shirako.api import models
from shirako.clock import utc
from shirako.core import authority, broker, guest, messages
from shirako.core import delegation as granted
from shirako.core.claims import Party
from shirako.core.terms import FOREVER
from shirako.ledger import Entry

_PORT = re.compile(r"[0-9]{1,5}\Z", re.A)


def lease(record: guest.GuestLease, *, own: bool) -> models.Lease:
    """`own`: for its owner, with properties and keys; otherwise for who looks after the actor."""
    term = record.asked_term or record.term
    answer = extension(record.answer, record.state) if record.answer else None
    latest = answer.latest_end if answer else _moment(record.offer.latest_end)
    refused = record.state is guest.GuestState.FAILED and not record.ticket
    refused = refused and record.offer != messages.Offer()
    return models.Lease(
        id=record.id,
        slice=record.slice,
        type=record.type,
        state=record.state.value,
        final=record.state.final,
        units=record.units,
        start=utc(record.term.start),
        end=utc(record.term.end),
        asked=models.Asked(
            units=record.asked_units or record.units,
            least_units=record.least_units,
            start=utc(term.start),
            end=utc(term.end),
        ),
        latest_end=None if refused else latest,
        cap=(answer.cap if answer else record.offer.cap) or "",
        reason=record.reason,
        degraded=record.degraded,
        revoked=record.revoked,
        renew=record.renew,
        held=tuple(unit(held, own=own) for held in record.held),
        answer=answer,
        offer=offer(record.offer) if refused else None,
        owner=record.owner,
        site=_name(record.site) if record.site else None,
        broker=_name(record.broker),
        ssh_keys=record.keys if own else (),
        request=record.request if own else {},
        configuration=record.configuration if own else {},
        resource=record.resource if own else {},
    )


EXTENDING = (
    guest.GuestState.EXTENDING_TICKET,
    guest.GuestState.ACTIVE_TICKETED,
    guest.GuestState.EXTENDING_LEASE,
)


def extension(answer: guest.Answer, state: guest.GuestState) -> models.Extension:
    """What came of an extension; nothing is granted before the site has said so as well."""
    pending = state in EXTENDING
    return models.Extension(
        old_end=utc(answer.old_end),
        asked_end=utc(answer.asked_end),
        new_end=utc(answer.old_end if pending else answer.granted_end),
        latest_end=_moment(answer.latest_end),
        cap=answer.cap,
        refused=answer.refused,
        pending=pending,
    )


def offer(told: messages.Offer) -> models.Offer:
    return models.Offer(
        units=told.units,
        start=_moment(told.start),
        latest_end=_moment(told.latest_end),
        cap=told.cap,
    )


def unit(held: messages.UnitState, *, own: bool) -> models.Unit:
    if not own:
        return models.Unit(name=held.unit)
    told = held.properties
    port = told.get("port", "")
    return models.Unit(
        name=held.unit,
        host=told.get("host"),
        port=int(port) if _PORT.match(port) else None,
        user=told.get("user"),
        host_key=told.get("host_key"),
        properties=told,
    )


def story_line(entry: Entry) -> models.StoryLine:
    return models.StoryLine(
        time=utc(entry.tick), what=entry.what, state=entry.state, by=entry.by, note=entry.note
    )


def site_node(
    record: UnitRecord, site: Authority, attributes: Mapping[str, str], probe: Probe | None
) -> models.SiteNode:
    holder = site.leases.get(record.owner) if record.owner else None
    return models.SiteNode(
        name=record.name,
        type=record.type,
        state=_node_state(record),
        lease=models.LeaseName(holder=record.owner[0], id=record.owner[1])
        if record.owner
        else None,
        guest=_name(holder.guest) if holder else None,
        slice=holder.slice if holder else None,
        lease_end=utc(holder.term.end) if holder else None,
        quarantined=record.quarantined,
        drained=record.drained,
        probe=models.SiteProbe(time=utc(probe.tick), verdict=probe.verdict, note=probe.note)
        if probe
        else None,
        epoch=record.epoch,
        host=attributes.get("host"),
        port=attributes.get("port"),
    )


def _node_state(record: UnitRecord) -> Literal["free", "leased", "quarantined", "drained"]:
    if record.quarantined:
        return "quarantined"
    if record.owner:
        return "leased"
    return "drained" if record.drained else "free"


def site_lease(record: authority.SiteLease) -> models.SiteLease:
    return models.SiteLease(
        holder=record.guest.kid,
        id=record.id,
        guest=_name(record.guest),
        slice=record.slice,
        type=record.type,
        units=record.units,
        state=record.state.value,
        final=record.state.final,
        start=utc(record.term.start),
        end=utc(record.term.end),
        reason=record.reason,
        degraded=record.degraded,
        revoked=record.revoked,
        broker=_name(record.broker),
        assignments=tuple(
            models.SiteUnit(
                unit=a.unit,
                epoch=a.epoch,
                phase=a.phase.value,
                swapped=a.swapped,
                checks=a.checks,
                message=a.message,
            )
            for a in record.assignments
        ),
    )


DIFFERENCES_MAX = 10_000
"""More than that nobody reads, and no client should have to hold."""


def reconciliation(report: Report) -> models.Reconciliation:
    listed = report.findings[:DIFFERENCES_MAX]
    return models.Reconciliation(
        dry_run=report.dry_run,
        units=report.units,
        differences=tuple(map(_difference, listed)),
        more=len(report.findings) - len(listed),
        busy=report.busy,
        unavailable=tuple(
            models.SiteUnavailable(type=one.type, driver=one.driver, reason=one.reason)
            for one in report.blind
        ),
        counts=dict(Counter(finding.done for finding in report.findings)),
    )


def _difference(finding: Finding) -> models.SiteDifference:
    return models.SiteDifference(
        unit=finding.unit,
        where=finding.where,
        fault=finding.fault,
        what=finding.what,
        lease=models.LeaseName(holder=finding.lease[0], id=finding.lease[1])
        if finding.lease
        else None,
        done=finding.done,
        note=finding.note,
    )


def delegation(record: granted.Delegation, site: Party) -> models.Delegation:
    return models.Delegation(
        name=record.id,
        type=record.type,
        units=record.units,
        overbooking=record.overbooking,
        start=utc(record.term.start),
        end=utc(record.term.end),
        site=_name(site),
        broker=_name(record.holder),
        left=record.revoked.units if record.revoked else None,
        revoked=record.why_revoked,
        renews=record.renews,
        properties=record.resource,
    )


_UNDER_WAY = (authority.SiteState.REDEEMING, authority.SiteState.PRIMING)
LEASES_MAX = 1000
"""More than that nobody reads before deciding."""


def revocation(effect: Effect, *, dry_run: bool, closed: bool) -> models.Revocation:
    pool, kind = effect.pool, effect.cuts[0].before.type
    return models.Revocation(
        dry_run=dry_run,
        delegations=tuple(map(_cut, effect.cuts)),
        leases=tuple(map(site_lease, effect.leases[:LEASES_MAX])),
        more=max(len(effect.leases) - LEASES_MAX, 0),
        under_way=sum(1 for one in effect.leases if one.state in _UNDER_WAY),
        closed=closed,
        pool=models.PoolUse(
            type=kind,
            units=pool.units,
            fit=pool.fit,
            delegated=pool.delegated,
            delegated_after=pool.delegated_after,
        ),
    )


def _cut(cut: Cut) -> models.DelegationCut:
    before, after = cut.before, cut.after
    return models.DelegationCut(
        name=before.id,
        broker=_name(before.holder),
        start=utc(before.term.start),
        end=utc(before.term.end),
        units=before.units,
        left_before=before.revoked.units if before.revoked else before.units,
        left=after.revoked.units if after.revoked else after.units,
        redeemed=cut.redeemed,
        unredeemed_at_most=cut.unredeemed,
    )


def broker_lease(record: broker.BrokerLease) -> models.BrokerLease:
    return models.BrokerLease(
        holder=record.guest.kid,
        id=record.id,
        guest=_name(record.guest),
        slice=record.slice,
        type=record.type,
        units=record.units,
        state=record.state.value,
        final=record.state.final,
        start=utc(record.term.start),
        end=utc(record.term.end),
        reason=record.reason,
        grants=tuple(
            models.Grant(
                delegation=g.delegation,
                units=g.units,
                start=utc(g.term.start),
                end=utc(g.term.end),
            )
            for g in record.grants
        ),
    )


def _moment(tick: int | None) -> models.Instant | None:
    """Of a tick that a peer named: what it says is no reason to say nothing at all."""
    return None if tick is None else utc(min(max(tick, 0), FOREVER))


def _name(party: Party) -> str:
    return party.name or party.kid[:12]
