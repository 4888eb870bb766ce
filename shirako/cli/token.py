"""`shirako token`: makes, lists and revokes bearer tokens, on the machine of the actors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from shirako.cli import output
from shirako.cli.actors import read

if TYPE_CHECKING:
    from shirako.api.tokens import TokenRole, Tokens

_ROLES = ("guest", "site-admin", "broker-admin", "viewer")
_ACTORS = click.option(
    "--actors",
    "descriptor",
    default=Path("actors.xml"),
    show_default=True,
    envvar="SHIRAKO_ACTORS",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The descriptor whose actors take the token.",
)


def _tokens(descriptor: Path) -> Tokens:
    from shirako.api.tokens import Tokens

    return Tokens(read(descriptor, keys=False).state)


@click.group()
def token() -> None:
    """Bearer tokens: who may do what. Actors that run see changes at once."""


@token.command(
    epilog="""\b
Examples:
  shirako token create ann --role guest
  export SHIRAKO_TOKEN=$(shirako token create ops --role site-admin --actor site)"""
)
@click.argument("name")
@click.option("--role", required=True, type=click.Choice(_ROLES), help="What it is good for.")
@click.option("--actor", metavar="NAME", help="Good at this actor alone.")
@_ACTORS
def create(name: str, role: str, actor: str | None, descriptor: Path) -> None:
    """Make a token and print it: this once. A guest's leases belong to NAME."""
    known = read(descriptor, keys=False)
    if actor is not None and actor not in {one.name for one in known.actors}:
        raise click.UsageError(f"--actor {actor}: {descriptor} has no such actor")
    try:
        secret = _tokens(descriptor).create(name, cast("TokenRole", role), actor)
    except ValueError as error:
        raise click.ClickException(str(error)) from None
    click.echo(secret)


@token.command("list", epilog="\b\nExample:\n  shirako token list")
@_ACTORS
@click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
def listed(descriptor: Path, as_json: bool) -> None:
    """List the tokens, without their secrets."""
    from shirako.api.tokens import TokensUnreadable
    from shirako.clock import utc

    try:
        tokens = _tokens(descriptor).listed()
    except TokensUnreadable as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        told = [
            {
                "name": one.name,
                "role": one.role,
                "actor": one.actor,
                "created": utc(one.created).isoformat().replace("+00:00", "Z"),
            }
            for one in tokens
        ]
        click.echo(json.dumps(told, indent=2))
        return
    rows = [(t.name, t.role, t.actor or "all", output.both(utc(t.created))) for t in tokens]
    output.table(("NAME", "ROLE", "ACTOR", "CREATED"), rows)


@token.command(epilog="\b\nExample:\n  shirako token revoke ann")
@click.argument("name")
@_ACTORS
def revoke(name: str, descriptor: Path) -> None:
    """Take a token away; what it asked for stays."""
    if not _tokens(descriptor).revoke(name):
        raise click.ClickException(f"there is no token {name!r}")
    click.echo(f"revoked {name}")
