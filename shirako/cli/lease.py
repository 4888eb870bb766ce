"""`shirako lease`: what a guest does with leases."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING

import click

from shirako.cli import output, values
from shirako.cli.connection import Connection, connected, misused

if TYPE_CHECKING:
    from shirako.api.models import Extension, Lease

_FOR = click.option("--for", "duration", type=values.duration, help="How long, as 2h or 1h30m.")
_UNTIL = click.option("--until", type=values.time, help="Until when, as 2026-12-01T10:00+01:00.")


@click.group()
def lease() -> None:
    """A guest's leases, at its service manager."""


@lease.command(
    epilog="""\b
Examples:
  shirako lease request --slice blue --type node.small --units 2 --for 2h \\
      --ssh-key ~/.ssh/id_ed25519.pub --wait
  shirako lease request --slice blue --type node.small --for 1d \\
      --start 2026-12-01T10:00+01:00"""
)
@click.option("--slice", "slice_name", required=True, metavar="NAME", help="What it is for.")
@click.option("--type", "kind", required=True, metavar="TYPE", help="Resource type of the units.")
@click.option("--units", default=1, show_default=True, type=int)
@click.option("--least", type=int, help="Fewer units that will do; else all or none.")
@_FOR
@_UNTIL
@click.option("--start", type=values.time, help="From when; else now. +30m is from now.")
@click.option(
    "--ssh-key",
    "keys",
    multiple=True,
    type=values.public_keys,
    metavar="FILE",
    help="Public key to log in with; repeat.",
)
@click.option(
    "--request",
    multiple=True,
    type=values.pair,
    metavar="NAME=VALUE",
    help="Property for the broker; repeat.",
)
@click.option(
    "--config",
    "configuration",
    multiple=True,
    type=values.pair,
    metavar="NAME=VALUE",
    help="Property for the site; repeat.",
)
@click.option("--renew", is_flag=True, help="Extend it by the same length again and again.")
@click.option("--broker", metavar="NAME", help="Needed where there is more than one.")
@click.option("--key", metavar="KEY", help="The same key again is the same lease.")
@click.option("--wait", is_flag=True, help="Show progress until it can be used.")
@connected
def request(
    to: Connection,
    *,
    slice_name: str,
    kind: str,
    units: int,
    least: int | None,
    duration: int | None,
    until: datetime | None,
    start: datetime | None,
    keys: tuple[tuple[str, ...], ...],
    request: tuple[tuple[str, str], ...],
    configuration: tuple[tuple[str, str], ...],
    renew: bool,
    broker: str | None,
    key: str | None,
    wait: bool,
) -> None:
    """Ask for a lease."""
    from pydantic import ValidationError

    from shirako.api.models import LeaseRequest

    if (duration is None) == (until is None):
        raise click.UsageError("say how long: --for 2h, or --until TIME")
    try:
        wanted = LeaseRequest(
            slice=slice_name,
            type=kind,
            units=units,
            least_units=least,
            start=start,
            end=until,
            duration=duration,
            ssh_keys=tuple(one for file in keys for one in file),
            request=dict(request),
            configuration=dict(configuration),
            renew=renew,
            broker=broker,
        )
    except ValidationError as error:
        raise misused(error) from None
    made = to.run(lambda client: client.request_lease(wanted, key=key or ""))
    if not wait:
        output.as_json(made) if to.json else click.echo(made.id)
        return
    from shirako.cli.waiting import follow

    click.echo(f"lease {made.id} is asked for", err=True)
    final = follow(to, made.id, until_active=True)
    _print_lease(to, final)
    if final.final:
        raise click.exceptions.Exit(1)


@lease.command("list", epilog="\b\nExample:\n  shirako lease list --state Active")
@click.option("--state", multiple=True, metavar="STATE", help="Only these; repeat.")
@click.option("--slice", "slice_name", default="", metavar="NAME", help="Only of this slice.")
@click.option("--limit", default=0, type=click.IntRange(0), help="No more than so many.")
@connected
def listed(to: Connection, *, state: tuple[str, ...], slice_name: str, limit: int) -> None:
    """List leases, also those that ended not long ago."""
    found = to.run(lambda client: client.leases(state=state, slice_name=slice_name, limit=limit))
    if to.json:
        output.as_json(found)
        return
    rows = [
        (
            one.id,
            one.slice,
            one.type,
            one.units,
            f"{one.state}, degraded" if one.degraded else one.state,
            output.short(one.start),
            output.short(one.end),
            "" if one.final else output.ahead(one.end),
            one.owner or "",
        )
        for one in found
    ]
    output.table(("ID", "SLICE", "TYPE", "UNITS", "STATE", "START", "END", "ENDS", "OWNER"), rows)


@lease.command(epilog="\b\nExample:\n  shirako lease show ID --story")
@click.argument("lease_id", metavar="ID")
@click.option("--story", is_flag=True, help="Also all that happened to it.")
@connected
def show(to: Connection, *, lease_id: str, story: bool) -> None:
    """Show one lease: its units, how to reach them, when it ends and what caps that."""
    found = to.run(lambda client: client.lease(lease_id))
    lines = to.run(lambda client: client.story(lease_id)) if story else ()
    if to.json:
        told = found.model_dump(mode="json")
        if story:
            told["story"] = [line.model_dump(mode="json") for line in lines]
        output.as_json(told)
        return
    _print_lease(to, found)
    if lines:
        click.echo()
        output.table(
            ("TIME", "WHAT", "STATE", "BY", "NOTE"),
            [
                (f"{line.time:%Y-%m-%d %H:%M:%S}Z", line.what, line.state, line.by, line.note)
                for line in lines
            ],
        )


@lease.command(epilog="\b\nExample:\n  shirako lease watch ID")
@click.argument("lease_id", metavar="ID")
@click.option("--until-active", is_flag=True, help="Stop once it can be used.")
@connected
def watch(to: Connection, *, lease_id: str, until_active: bool) -> None:
    """Show what happens to a lease as it happens, until it is over."""
    from shirako.cli.waiting import follow

    final = follow(to, lease_id, until_active=until_active)
    _print_lease(to, final)
    if final.state == "Failed" or (until_active and final.final):
        raise click.exceptions.Exit(1)


@lease.command(
    epilog="""\b
Examples:
  shirako lease extend ID --for 1h
  shirako lease extend ID --until 2026-12-01T18:00+01:00 --at-least 2026-12-01T15:00+01:00"""
)
@click.argument("lease_id", metavar="ID")
@click.option("--for", "by", type=values.duration, help="So much later than it ends now.")
@_UNTIL
@click.option("--at-least", type=values.time, help="An earlier end that will do as well.")
@connected
def extend(
    to: Connection,
    *,
    lease_id: str,
    by: int | None,
    until: datetime | None,
    at_least: datetime | None,
) -> None:
    """Ask for a later end. Says the end that was granted, the latest possible, and what caps it."""
    from pydantic import ValidationError

    from shirako.api.models import ExtendRequest

    if (by is None) == (until is None):
        raise click.UsageError("say how long: --for 1h, or --until TIME")
    try:
        wanted = ExtendRequest(by=by, end=until, at_least=at_least)
    except ValidationError as error:
        raise misused(error) from None
    answer = to.run(lambda client: client.extend(lease_id, wanted), explain=_offered)
    if to.json:
        output.as_json(answer)
    else:
        _print_extension(answer)
    if answer.pending:
        click.echo(f"no answer yet; go on with: shirako lease show {lease_id}", err=True)
        raise click.exceptions.Exit(1)


def _offered(members: dict[str, object]) -> list[str]:
    """What a refused extension could have had."""
    latest = members.get("latest_end")
    if not isinstance(latest, str):
        return []
    cap = _CAPS.get(str(members.get("cap")), "")
    moment = output.both(datetime.fromisoformat(latest))
    return [f"  the latest possible end is {moment}{cap and f': {cap}'}", "  nothing has changed"]


_CAPS = {
    "booked": "from then on somebody else has booked the units",
    "delegation": "the site has not delegated them to the broker for longer",
}


def _print_extension(answer: Extension) -> None:
    output.facts(
        [
            ("ends", f"{output.both(answer.new_end)}, {output.ahead(answer.new_end)}"),
            ("ended", output.both(answer.old_end)),
            (
                "asked for",
                output.both(answer.asked_end) if answer.asked_end != answer.new_end else "",
            ),
            ("latest", output.both(answer.latest_end) if answer.latest_end else ""),
            ("capped by", _CAPS.get(answer.cap, answer.cap)),
        ]
    )


@lease.command(epilog="\b\nExample:\n  shirako lease renew ID --off")
@click.argument("lease_id", metavar="ID")
@click.option("--on/--off", "renew", default=True, show_default=True)
@connected
def renew(to: Connection, *, lease_id: str, renew: bool) -> None:
    """Extend a lease by the same length again and again, or no longer."""
    found = to.run(lambda client: client.set_renew(lease_id, renew=renew))
    if to.json:
        output.as_json(found)
    else:
        click.echo(f"{found.id} {'renews' if found.renew else 'does not renew'}")


@lease.command(epilog="\b\nExample:\n  shirako lease close ID --yes")
@click.argument("lease_id", metavar="ID")
@click.option("--reason", default="", help="For its story.")
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@connected
def close(to: Connection, *, lease_id: str, reason: str, yes: bool) -> None:
    """End a lease now. Its units are torn down, and what is on them is gone."""
    if not yes and sys.stdin.isatty():
        click.confirm(f"Close {lease_id}? What is on its units is gone then", abort=True, err=True)
    found = to.run(lambda client: client.close(lease_id, reason))
    output.as_json(found) if to.json else click.echo(f"{found.id} {found.state}")


@lease.command(
    epilog="""\b
Example:
  shirako lease proofs ID > lease.json && shirako verify lease.json"""
)
@click.argument("lease_id", metavar="ID")
@connected
def proofs(to: Connection, *, lease_id: str) -> None:
    """Print the signed statements behind a lease: ticket, lease, receipt."""
    output.as_json(to.run(lambda client: client.proofs(lease_id)))


@lease.command(
    context_settings={"ignore_unknown_options": True},
    epilog="""\b
Examples:
  shirako lease ssh ID
  shirako lease ssh ID --unit n2 -i ~/.ssh/id_ed25519 -- uname -a""",
)
@click.argument("lease_id", metavar="ID")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--unit", metavar="NAME", help="Which unit, where there is more than one.")
@click.option(
    "-i", "--identity", type=click.Path(exists=True, dir_okay=False), help="Your private key."
)
@connected
def ssh(
    to: Connection,
    *,
    lease_id: str,
    command: tuple[str, ...],
    unit: str | None,
    identity: str | None,
) -> None:
    """Log in to a unit, held to the host key that the site told."""
    from shirako.cli.login import log_in

    found = to.run(lambda client: client.lease(lease_id))
    raise click.exceptions.Exit(log_in(found, unit, identity, command))


def _print_lease(to: Connection, found: Lease) -> None:
    if to.json:
        output.as_json(found)
        return
    granted = f"{found.units} x {found.type}"
    if found.units != found.asked.units:
        granted += f" (asked for {found.asked.units})"
    left = "" if found.final else f", {output.ahead(found.end)}"
    output.facts(
        [
            ("lease", found.id),
            ("slice", found.slice),
            ("state", found.state),
            ("degraded", found.degraded),
            ("revoked", found.revoked),
            ("units", granted),
            ("starts", output.both(found.start)),
            ("ends", f"{output.both(found.end)}{left}"),
            ("latest end", output.both(found.latest_end) if found.latest_end else ""),
            ("capped by", _CAPS.get(found.cap, found.cap)),
            ("renews", "yes" if found.renew else ""),
            ("site", found.site),
            ("broker", found.broker),
            ("owner", found.owner),
            ("reason", found.reason),
            *_offer_facts(found),
        ]
    )
    if found.held:
        click.echo()
        rows = [(u.name, u.host or "", u.port or "", u.user or "") for u in found.held]
        output.table(("UNIT", "HOST", "PORT", "USER"), rows)


def _offer_facts(found: Lease) -> list[tuple[str, str]]:
    """What would have worked instead of a refused request."""
    if found.offer is None:
        return []
    offer = found.offer
    return [
        ("would work", f"{offer.units} units" if offer.units else ""),
        ("would work", f"from {output.both(offer.start)} on" if offer.start else ""),
        ("would work", f"until {output.both(offer.latest_end)}" if offer.latest_end else ""),
    ]
