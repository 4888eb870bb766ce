"""`shirako site reconcile`, `quarantine`, `release`: keeping a site's nodes in order."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from shirako.cli import output
from shirako.cli.connection import Connection, connected

if TYPE_CHECKING:
    from shirako.api.models import Reconciliation, SiteDifference


@click.command(
    epilog="""\b
Examples:
  shirako site reconcile --dry-run     # what differs; changes nothing
  shirako site reconcile --yes         # mends it, without asking
  shirako site reconcile --dry-run --json | jq '.differences[].what'"""
)
@click.option("--dry-run", is_flag=True, help="Show what differs, and change nothing.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@connected
def reconcile(to: Connection, *, dry_run: bool, yes: bool) -> None:
    """Compare ledger, directory and nodes, each way, and mend what differs.

    Accounts, keys, processes and entries that no lease owns are removed, what is missing for one
    is made again, and a node that can not be mended is quarantined; its lease gets another one.
    Units that are being set up or cleaned are left out. On a terminal what was found is shown
    first.

    Exit status: 0 nothing differs any more, 1 something does or could not be looked at.
    """
    ask = not (dry_run or yes or to.json) and sys.stdin.isatty()
    if ask:
        shown = _run(to, dry_run=True)
        _print(shown)
        if not shown.counts:
            raise click.exceptions.Exit(1 if shown.unavailable else 0)
        click.confirm("Mend this?", abort=True, err=True)
    found = _run(to, dry_run=dry_run)
    output.as_json(found) if to.json else _print(found)
    if found.unavailable or set(found.counts) - {"mended"}:
        raise click.exceptions.Exit(1)


def _run(to: Connection, *, dry_run: bool) -> Reconciliation:
    doing = "looking at" if dry_run else "looking at and mending"
    with output.ticking(f"{doing} nodes and directory"):
        return to.run(lambda client: client.reconcile(dry_run=dry_run))


def _print(found: Reconciliation) -> None:
    """What was found goes to standard output, all about it to standard error."""
    for blind in found.unavailable:
        click.echo(
            f"could not look: {blind.driver} of {blind.type}: {output.plain(blind.reason)}",
            err=True,
        )
    if found.busy:
        click.echo(f"left out, something is being done to them: {_some(found.busy)}", err=True)
    if found.differences:
        headings = ("UNIT", "WHERE", "FAULT", "WHAT", "LEASE", "DONE", "NOTE")
        output.table(headings, map(_row, found.differences))
    if found.more:
        click.echo(f"and {found.more} more", err=True)
    counts = ", ".join(f"{number} {done}" for done, number in sorted(found.counts.items()))
    click.echo(f"{found.units} units compared: {counts or 'nothing differs'}", err=True)


def _row(one: SiteDifference) -> tuple[str, ...]:
    lease = one.lease.id if one.lease else ""
    return (one.unit or "-", one.where, one.fault, one.what, lease, one.done, one.note)


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


@click.command(epilog="\b\nExample:\n  shirako site quarantine n3 --reason 'fan is broken'")
@click.argument("node")
@click.option("--reason", required=True, help="For whoever finds it in quarantine.")
@click.option("--yes", "-y", is_flag=True, help="Also when it works for a lease.")
@connected
def quarantine(to: Connection, *, node: str, reason: str, yes: bool) -> None:
    """Hand a node out no more, until it is released.

    In a lease it is replaced by a free node of its type. While there is none, the lease goes on
    without it and is shown as degraded.
    """
    nodes = to.run(lambda client: client.nodes())
    found = next((one for one in nodes if one.name == node), None)
    if found is None:
        raise click.ClickException(f"there is no node {node} here")
    replace = found.state == "leased" and found.lease is not None
    if replace and not yes:
        free = sum(1 for one in nodes if (one.type, one.state) == (found.type, "free"))
        instead = (
            f"{free} free nodes are there to replace it"
            if free
            else ("no node is free to replace it: the lease will be degraded")
        )
        lease = found.lease.id if found.lease else ""
        told = f"{node} works for the lease {lease} of {found.guest}; {instead}."
        if not sys.stdin.isatty():
            raise click.ClickException(f"{told}\n  nothing has changed; --yes goes on all the same")
        click.confirm(f"{told} Go on?", abort=True, err=True)
    made = to.run(lambda client: client.quarantine_node(node, reason, replace=replace))
    output.as_json(made) if to.json else click.echo(f"{made.name} {made.state}: {made.quarantined}")


@click.command(epilog="\b\nExample:\n  shirako site release n3")
@click.argument("node")
@connected
def release(to: Connection, *, node: str) -> None:
    """Clear and check a quarantined node, and hand it out again if it is fit.

    What a lease has left on it is removed. It stays in quarantine unless all checks pass.
    """
    with output.ticking(f"clearing and checking {node}"):
        found = to.run(lambda client: client.release_node(node))
    output.as_json(found) if to.json else click.echo(f"{found.name} {found.state}")
