"""`shirako broker`: what a broker's admin does."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import click

from shirako.cli import output, values
from shirako.cli.connection import Connection, connected
from shirako.cli.delegating import delegating, delegation_of, print_delegations

_BAR = 20


@click.group()
def broker() -> None:
    """A broker: its calendar, its tickets, and what sites have delegated to it."""


@broker.command(
    epilog="""\b
Example:
  shirako broker calendar --start +0s --end +1d"""
)
@click.option("--start", type=values.time, help="From when; else from the beginning.")
@click.option("--end", type=values.time, help="Until when.")
@connected
def calendar(to: Connection, *, start: datetime | None, end: datetime | None) -> None:
    """Show what is sold of each delegation, and when."""
    from shirako.api.models import CalendarWindow

    window = CalendarWindow(start=start, end=end)
    found = to.run(lambda client: client.calendar(window))
    if to.json:
        output.as_json(found)
        return
    for one in found.calendar:
        until = output.short(one.end)
        click.echo(f"{one.delegation}: {one.capacity} x {one.type} of {one.site} until {until}")
        for step in one.steps:
            filled = round(_BAR * min(step.booked / max(one.capacity, 1), 1))
            bar = "#" * filled + "." * (_BAR - filled)
            click.echo(f"  {output.short(step.start)}  {bar}  {step.booked}/{one.capacity}")
        if one.truncated:
            click.echo("  there is more: ask for less with --start and --end")
    if not found.calendar:
        click.echo("nothing is delegated to this broker", err=True)


@broker.command(epilog="\b\nExample:\n  shirako broker leases --state Ticketed")
@click.option("--state", multiple=True, metavar="STATE", help="Only these; repeat.")
@connected
def leases(to: Connection, *, state: tuple[str, ...]) -> None:
    """List the tickets that were asked for and sold."""
    found = to.run(lambda client: client.broker_leases(state=state))
    if to.json:
        output.as_json(found.leases)
        return
    rows = [
        (
            one.id,
            one.guest,
            one.slice,
            one.type,
            one.units,
            one.state,
            output.short(one.start),
            output.short(one.end),
            ",".join(grant.delegation for grant in one.grants),
            one.reason,
        )
        for one in found.leases
    ]
    output.table(
        ("ID", "GUEST", "SLICE", "TYPE", "UNITS", "STATE", "START", "END", "FROM", "REASON"), rows
    )


@broker.command(epilog="\b\nExample:\n  shirako broker delegations --json")
@connected
def delegations(to: Connection) -> None:
    """List what is delegated to this broker, and by it to brokers below."""
    print_delegations(to, to.run(lambda client: client.broker_delegations()))


@broker.command(
    epilog="""\b
Example:
  shirako broker delegate east --to east-broker --type node.small --units 5 --for 30d"""
)
@delegating
@connected
def delegate(to: Connection, **asked: Any) -> None:
    """Let a broker below sell a share. The same NAME again is the same delegation."""
    wanted = delegation_of(**asked)
    print_delegations(to, (to.run(lambda client: client.delegate_below(wanted)),))
