"""`shirako site`: what a site's admin does."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from shirako.cli import output
from shirako.cli.conflicts import conflicts
from shirako.cli.connection import Connection, connected
from shirako.cli.delegating import delegating, delegation_of, print_delegations
from shirako.cli.revoking import drain, renew, revoke, undrain
from shirako.cli.upkeep import quarantine, reconcile, release

if TYPE_CHECKING:
    from shirako.api.models import SiteLease, SiteNode

_HOLDER = click.option("--holder", metavar="KID", help="Whose, where two guests use one id.")


@click.group()
def site() -> None:
    """A site: its nodes, the leases on them, and what it delegates to brokers."""


site.add_command(quarantine)
site.add_command(conflicts)
site.add_command(release)
site.add_command(reconcile)
site.add_command(revoke)
site.add_command(renew)
site.add_command(drain)
site.add_command(undrain)


@site.command(epilog="\b\nExample:\n  shirako site nodes --state quarantined")
@click.option("--state", type=click.Choice(("free", "leased", "quarantined", "drained")))
@connected
def nodes(to: Connection, *, state: str | None) -> None:
    """List the units: free, leased (to whom), quarantined or drained (why), and what the last look
    found. A drained unit keeps the lease that it has; `--state drained` lists it, too."""
    found = to.run(lambda client: client.nodes())
    found = tuple(
        one for one in found if state in (None, one.state) or (state == "drained" and one.drained)
    )
    if to.json:
        output.as_json(found)
        return
    rows = [
        (
            one.name,
            one.type,
            one.state,
            one.lease.id if one.lease else "",
            one.guest or "",
            one.slice or "",
            one.host or "",
            f"{one.probe.verdict} {one.probe.time:%H:%M:%S}Z" if one.probe else "",
            _why(one),
        )
        for one in found
    ]
    headings = ("NODE", "TYPE", "STATE", "LEASE", "GUEST", "SLICE", "HOST", "PROBE", "WHY")
    output.table(headings, rows)


def _why(node: SiteNode) -> str:
    """Why it is not handed out, or what is the matter with it."""
    told = [node.quarantined, f"drained: {node.drained}" if node.drained else ""]
    if not node.quarantined and node.probe is not None:
        told.append(node.probe.note)
    return "; ".join(one for one in told if one)


@site.command(epilog="\b\nExample:\n  shirako site leases --state CloseFailed")
@click.option("--state", multiple=True, metavar="STATE", help="Only these; repeat.")
@connected
def leases(to: Connection, *, state: tuple[str, ...]) -> None:
    """List the leases on this site."""
    found = to.run(lambda client: client.site_leases(state=state))
    if to.json:
        output.as_json(found)
        return
    rows = [
        (
            one.id,
            one.guest,
            one.slice,
            one.type,
            one.units,
            one.state,
            output.short(one.end),
            ",".join(a.unit for a in one.assignments if not a.swapped),
            f"degraded: {one.degraded}" if one.degraded else one.revoked or one.reason,
        )
        for one in found
    ]
    output.table(("ID", "GUEST", "SLICE", "TYPE", "UNITS", "STATE", "END", "NODES", "REASON"), rows)


@site.command(
    epilog="""\b
Example:
  shirako site delegate summer --to broker --type node.small --units 20 --for 90d"""
)
@delegating
@connected
def delegate(to: Connection, **asked: Any) -> None:
    """Let a broker sell units of a pool. The same NAME again is the same delegation."""
    wanted = delegation_of(**asked)
    print_delegations(to, (to.run(lambda client: client.delegate(wanted)),))


@site.command(epilog="\b\nExample:\n  shirako site delegations --json")
@connected
def delegations(to: Connection) -> None:
    """List what brokers may sell."""
    print_delegations(to, to.run(lambda client: client.delegations()))


@site.command(epilog="\b\nExample:\n  shirako site story ID")
@click.argument("lease_id", metavar="ID")
@_HOLDER
@connected
def story(to: Connection, *, lease_id: str, holder: str | None) -> None:
    """Show all that happened to a lease here, with what its handlers wrote."""
    found = _find(to, lease_id, holder)
    lines = to.run(lambda client: client.site_story(found.holder, found.id))
    if to.json:
        output.as_json(lines)
        return
    rows = [
        (f"{one.time:%Y-%m-%d %H:%M:%S}Z", one.what, one.state, one.by, one.note) for one in lines
    ]
    output.table(("TIME", "WHAT", "STATE", "BY", "NOTE"), rows)


@site.command(epilog="\b\nExample:\n  shirako site close ID --reason maintenance")
@click.argument("lease_id", metavar="ID")
@_HOLDER
@click.option("--reason", default="", help="Told to the guest.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@connected
def close(to: Connection, *, lease_id: str, holder: str | None, reason: str, yes: bool) -> None:
    """End a guest's lease now."""
    found = _find(to, lease_id, holder)
    _confirm(f"Close the lease {found.id} of {found.guest}?", yes=yes)
    ended = to.run(lambda client: client.close_at_site(found.holder, found.id, reason))
    output.as_json(ended) if to.json else click.echo(f"{ended.id} {ended.state}")


@site.command(epilog="\b\nExample:\n  shirako site retry ID")
@click.argument("lease_id", metavar="ID")
@_HOLDER
@connected
def retry(to: Connection, *, lease_id: str, holder: str | None) -> None:
    """Try again to tear down a lease that is CloseFailed."""
    found = _find(to, lease_id, holder)
    tried = to.run(lambda client: client.retry_teardown(found.holder, found.id))
    output.as_json(tried) if to.json else click.echo(f"{tried.id} {tried.state}")


def _confirm(question: str, *, yes: bool) -> None:
    if not yes and sys.stdin.isatty():
        click.confirm(question, abort=True, err=True)


def _find(to: Connection, lease: str, holder: str | None) -> SiteLease:
    """The lease by its id, which two guests may both use."""
    found = to.run(lambda client: client.site_leases(lease=lease))
    chosen = [one for one in found if holder in (None, one.holder)]
    if len(chosen) > 1:
        who = ", ".join(f"--holder {one.holder} ({one.guest})" for one in chosen)
        raise click.UsageError(f"{len(chosen)} guests have a lease {lease}: {who}")
    if not chosen:
        raise click.ClickException(f"there is no lease {lease} here")
    return chosen[0]
