"""Delegating, as sites and brokers do it alike: one body, one answer; twice is once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shirako.actors.actor import Actor
from shirako.actors.audit import note
from shirako.actors.authority import Authority
from shirako.actors.broker import Broker
from shirako.actors.role import Refused
from shirako.api import models
from shirako.api.routes import Call, bad
from shirako.clock import tick_of
from shirako.core.claims import Party
from shirako.core.delegation import Delegation
from shirako.core.terms import Term


async def grant(
    actor: Actor[Any], call: Call, holders: Mapping[str, Party], resource: Mapping[str, str]
) -> tuple[Delegation, bool]:
    """The delegation that the body asks for, and whether it is new; raises `Problem`, `Refused`."""
    body: models.DelegationRequest = call.body
    if body.to not in holders:
        raise bad("to", f"one of: {', '.join(sorted(holders))}")

    def act(role: Authority | Broker, now: int) -> tuple[Delegation, bool]:
        known = role.granted().get(body.name)
        start = tick_of(body.start) if body.start else known.term.start if known else now
        end = tick_of(body.end)
        if known is None and end <= max(start, now):
            raise Refused("invalid", "end: the delegation would be over already", field="end")
        wanted = Delegation(
            id=body.name,
            holder=holders[body.to],
            type=body.type,
            units=body.units,
            term=Term(start, max(end, start + 1)),
            chain=(),
            overbooking=body.overbooking,
            name=body.name,
            resource=dict(resource),
        )
        if known is not None:
            _check_same(known, wanted)
            return known, False
        made = role.delegate(wanted)
        note(role, f"delegation/{made.id}", now, "Delegated", call.by, f"to {body.to}")
        return made, True

    return await actor.submit(act)


def _check_same(known: Delegation, wanted: Delegation) -> None:
    for name in ("holder", "type", "units", "term", "overbooking"):
        if getattr(known, name) != getattr(wanted, name):
            raise Refused("name_taken", f"{known.id!r} is another delegation: its {name} differs")
