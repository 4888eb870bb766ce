"""What `site delegate` and `broker delegate` ask for, and how delegations are shown."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from shirako.cli import output, values
from shirako.cli.connection import Connection, misused
from shirako.clock import RealClock, utc

if TYPE_CHECKING:
    from shirako.api.models import Delegation, DelegationRequest

_OPTIONS = (
    click.argument("name"),
    click.option("--to", "broker", required=True, metavar="BROKER", help="Who may sell them."),
    click.option("--type", "kind", required=True, metavar="TYPE", help="Resource type."),
    click.option("--units", required=True, type=int),
    click.option("--for", "duration", type=values.duration, help="How long, as 90d."),
    click.option("--until", type=values.time, help="Until when."),
    click.option("--start", type=values.time, help="From when; else now."),
    click.option(
        "--overbooking", default=1.0, show_default=True, help="May be sold so many times."
    ),
)


def delegating(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the arguments of a command that delegates."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def delegation_of(
    *,
    name: str,
    broker: str,
    kind: str,
    units: int,
    duration: int | None,
    until: datetime | None,
    start: datetime | None,
    overbooking: float,
) -> DelegationRequest:
    """What is asked for; raises click.UsageError."""
    from pydantic import ValidationError

    from shirako.api.models import DelegationRequest

    if (duration is None) == (until is None):
        raise click.UsageError("say how long: --for 90d, or --until TIME")
    begin = start or utc(RealClock().tick())
    try:
        return DelegationRequest(
            name=name,
            to=broker,
            type=kind,
            units=units,
            start=start,
            end=until or begin + timedelta(seconds=duration or 0),
            overbooking=overbooking,
        )
    except ValidationError as error:
        raise misused(error) from None


def print_delegations(to: Connection, found: tuple[Delegation, ...]) -> None:
    if to.json:
        output.as_json(found)
        return
    rows = [
        (
            one.name,
            one.site,
            one.broker,
            one.type,
            one.units if one.left is None else f"{one.left} of {one.units}",
            f"{one.overbooking:g}",
            output.short(one.start),
            output.short(one.end),
            one.revoked or (f"renews {one.renews}" if one.renews else ""),
        )
        for one in found
    ]
    headings = ("NAME", "SITE", "BROKER", "TYPE", "UNITS", "OVERBOOKING", "START", "END", "NOTE")
    output.table(headings, rows)
