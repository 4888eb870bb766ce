"""`shirako clock`: the time an actor goes by, and what to do after the machine's clock jumped."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from shirako.cli import output
from shirako.cli.connection import Connection, connected

if TYPE_CHECKING:
    from shirako.api.models import Clock, ClockConfirmation


@click.group()
def clock() -> None:
    """The time that an actor goes by.

    When the machine's clock jumps, an actor does not follow it: leases would end at once that are
    far from over. Time goes on as before, until the jump is undone or confirmed here.
    """


@clock.command(epilog="\b\nExample:\n  shirako clock show --url http://127.0.0.1:7701")
@connected
def show(to: Connection) -> None:
    """Show an actor's time, and whether the machine's clock has jumped away from it."""
    status = to.run(lambda client: client.status())
    if to.json:
        output.as_json(status.clock)
        return
    held = "restored from a backup: see shirako recover --dry-run"
    output.facts(
        [
            ("actor", f"{status.role} {status.name}"),
            *_facts(status.clock),
            ("held", held if status.restored is not None and status.restored.held else ""),
        ]
    )


@clock.command(
    epilog="""\b
Examples:
  shirako clock confirm --dry-run      # which leases would end by it
  shirako clock confirm --yes"""
)
@click.option("--dry-run", is_flag=True, help="Show what would be due then, and change nothing.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@connected
def confirm(to: Connection, *, dry_run: bool, yes: bool) -> None:
    """Follow the machine's clock after a jump: it is right.

    Leases whose term is over by the new time end at once, and what is on their units is gone.
    """
    if not (dry_run or yes):
        _ask(to)
    told = to.run(lambda client: client.confirm_clock(dry_run=dry_run))
    output.as_json(told) if to.json else _print(told)


def _ask(to: Connection) -> None:
    """Show what it means, and go on only when told to, or when nothing ends by it."""
    ahead = to.run(lambda client: client.confirm_clock(dry_run=True))
    if not ahead.due:
        return
    if not sys.stdin.isatty():
        raise click.ClickException(
            f"{len(ahead.due) + ahead.more} leases would end at once; look at them with --dry-run, "
            "and say --yes if that is right"
        )
    if not to.json:
        _print(ahead)
    click.confirm("Follow the machine's clock?", abort=True, err=True)


def _facts(clock: Clock) -> list[tuple[str, object]]:
    jump = f"{clock.jump_seconds:+} s, not followed" if clock.jump_seconds else "none"
    return [("time", output.both(clock.time)), ("tick", clock.tick), ("jump", jump)]


def _print(told: ClockConfirmation) -> None:
    output.facts(_facts(told.clock))
    if not told.jump_seconds:
        click.echo("there is no jump to confirm", err=True)
        return
    if told.due:
        rows = [(one.id, one.slice, one.units, output.both(one.end)) for one in told.due]
        output.table(("LEASE", "SLICE", "UNITS", "ENDS"), rows)
    would = "would end" if told.dry_run else "end"
    number = len(told.due) + told.more
    click.echo(f"{number} leases {would} by a jump of {told.jump_seconds:+} s", err=True)
