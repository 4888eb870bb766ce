"""`shirako site revoke`, `renew`, `drain`, `undrain`: what a site takes back, and goes on with."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import click

from shirako.cli import output, values
from shirako.cli.connection import Connection, connected, misused
from shirako.cli.delegating import print_delegations

if TYPE_CHECKING:
    from shirako.api.models import Revocation, SiteNode


@click.command(
    epilog="""\b
Examples:
  shirako site revoke summer --dry-run                # who is concerned; changes nothing
  shirako site revoke summer --reason 'sold' --yes    # nothing more of it is redeemed
  shirako site revoke summer --units 12 --yes         # shrink it: leave 12 units
  shirako site revoke summer --close-leases           # end the leases under it, too"""
)
@click.argument("name")
@click.option("--units", type=int, default=0, show_default=True, help="Units to leave.")
@click.option("--reason", default="", help="Told to brokers and guests.")
@click.option("--close-leases", is_flag=True, help="End the leases under it, too.")
@click.option("--dry-run", is_flag=True, help="Show what it would mean, and change nothing.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@connected
def revoke(
    to: Connection,
    *,
    name: str,
    units: int,
    reason: str,
    close_leases: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Take back a delegation and what renews it: wholly, or all but some units.

    It counts at once: later redeems and extensions are refused. Live leases run on to their ends,
    unless they are closed as well. Brokers and guests are told. As many units as were delegated
    give everything back.
    """
    from pydantic import ValidationError

    from shirako.api.models import RevokeRequest

    try:
        wanted = RevokeRequest(units=units, reason=reason, close_leases=close_leases)
    except ValidationError as error:
        raise misused(error) from None
    shown = wanted.model_copy(update={"dry_run": True})
    if dry_run or not yes:
        found = to.run(lambda client: client.revoke_delegation(name, shown))
        if dry_run:
            output.as_json(found) if to.json else _print(found)
            return
        if any(one.left < one.left_before for one in found.delegations) or close_leases:
            _ask(to, found)
    done = to.run(lambda client: client.revoke_delegation(name, wanted))
    output.as_json(done) if to.json else _print(done)


def _ask(to: Connection, found: Revocation) -> None:
    """Show what it would mean, and ask; without a terminal nothing is destroyed unasked."""
    if to.json or not sys.stdin.isatty():
        raise click.ClickException(
            "nothing has changed; --dry-run shows what it would mean, --yes goes on"
        )
    _print(found)
    click.confirm("Take this back?", abort=True, err=True)


def _print(found: Revocation) -> None:
    """The leases go to standard output, all about them to standard error."""
    for one in found.delegations:
        click.echo(
            f"{one.name} to {one.broker}, until {output.short(one.end)}: "
            f"{one.left} of {one.units} units left, before {one.left_before}; "
            f"{one.redeemed} are redeemed now, tickets on at most {one.unredeemed_at_most} more "
            "may be out",
            err=True,
        )
    pool = found.pool
    click.echo(
        f"pool {pool.type}: {pool.units} units, {pool.fit} fit; "
        f"{pool.delegated} delegated before, {pool.delegated_after} after",
        err=True,
    )
    if found.leases:
        rows = [
            (one.id, one.guest, one.slice, one.units, one.state, output.short(one.end))
            for one in found.leases
        ]
        output.table(("LEASE", "GUEST", "SLICE", "UNITS", "STATE", "END"), rows)
    if found.more:
        click.echo(f"and {found.more} more leases", err=True)
    fate = "are ended, too" if found.closed else "run on to their ends"
    number = len(found.leases) + found.more
    click.echo(
        f"{number} live leases under it {fate}; {found.under_way} of them are being set up"
        if number
        else "no live lease is under it",
        err=True,
    )
    if found.dry_run:
        click.echo("nothing has changed", err=True)


@click.command(
    epilog="""\b
Examples:
  shirako site renew summer --for 90d
  shirako site renew summer --until 2027-01-01T00:00Z --units 12"""
)
@click.argument("name")
@click.option("--for", "duration", type=values.duration, help="How much longer, as 90d.")
@click.option("--until", type=values.time, help="Until when.")
@click.option("--units", type=int, help="How many from then on; else as many as are left now.")
@connected
def renew(
    to: Connection,
    *,
    name: str,
    duration: int | None,
    until: datetime | None,
    units: int | None,
) -> None:
    """Go on with a delegation, by another one that begins where it ends.

    With --until the same command again is the same delegation.
    """
    from pydantic import ValidationError

    from shirako.api.models import RenewRequest

    if (duration is None) == (until is None):
        raise click.UsageError("say how long: --for 90d, or --until TIME")
    if until is None:
        until = _end_of(to, name) + timedelta(seconds=duration or 0)
    try:
        wanted = RenewRequest(end=until, units=units)
    except ValidationError as error:
        raise misused(error) from None
    print_delegations(to, (to.run(lambda client: client.renew_delegation(name, wanted)),))


def _end_of(to: Connection, name: str) -> datetime:
    """Until when a delegation goes on, with all that renews it."""
    found = {one.name: one for one in to.run(lambda client: client.delegations())}
    if name not in found:
        raise click.ClickException(f"there is no delegation {name} here")
    following = {one.renews: one for one in found.values() if one.renews}
    last = found[name]
    while last.name in following:
        last = following[last.name]
    return last.end


@click.command(
    epilog="""\b
Examples:
  shirako site drain n3 --reason 'a new disk on Monday'
  shirako site drain n3 --dry-run"""
)
@click.argument("node")
@click.option("--reason", default="drained", show_default=True, help="For whoever finds it so.")
@click.option("--dry-run", is_flag=True, help="Show whose lease has it, and change nothing.")
@connected
def drain(to: Connection, *, node: str, reason: str, dry_run: bool) -> None:
    """Give a node to no lease any more. The lease that has it keeps it to its end."""
    if dry_run:
        nodes = to.run(lambda client: client.nodes())
        found = next((one for one in nodes if one.name == node), None)
        if found is None:
            raise click.ClickException(f"there is no node {node} here")
    else:
        found = to.run(lambda client: client.drain_node(node, reason))
    output.as_json(found) if to.json else click.echo(_whose(found))


def _whose(node: SiteNode) -> str:
    if node.lease is None or node.lease_end is None:
        return f"{node.name} {node.state}: no lease has it"
    return (
        f"{node.name} {node.state}: the lease {node.lease.id} of {node.guest} has it until "
        f"{output.both(node.lease_end)}"
    )


@click.command(epilog="\b\nExample:\n  shirako site undrain n3")
@click.argument("node")
@connected
def undrain(to: Connection, *, node: str) -> None:
    """Hand a drained node out again, first to who waits for one."""
    found = to.run(lambda client: client.undrain_node(node))
    output.as_json(found) if to.json else click.echo(f"{found.name} {found.state}")
