"""`shirako keys`: make the actors' keys, and replace them while their leases go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shirako.cli import output
from shirako.cli.actors import DESCRIPTOR, read
from shirako.cli.values import duration

if TYPE_CHECKING:
    from shirako.rotation import Rotation

_DONE = {
    "rotated": "replaced",
    "finished": "finished what was interrupted",
    "kept": "kept: it was replaced less than an hour ago (--again replaces it all the same)",
}


class _Keys(click.Group):
    """A group that makes keys when its first word is no command: `shirako keys actors.xml`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args or (args[0] not in self.commands and args[0] not in ctx.help_option_names):
            args = ["make", *args]
        return super().parse_args(ctx, args)


@click.group(
    cls=_Keys,
    epilog="""\b
Examples:
  shirako keys actors.xml
  shirako keys rotate site actors.xml --dry-run
  shirako keys rotate site actors.xml""",
)
def keys() -> None:
    """Make the actors' keys, and replace them. Without a command: `make`."""


@keys.command(epilog="\b\nExample:\n  shirako keys make actors.xml")
@DESCRIPTOR
@click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
def make(descriptor: Path, as_json: bool) -> None:
    """Make the keys of DESCRIPTOR's actors that are not there yet. Never overwrites one."""
    from shirako.trust import PrivateKey, public_path

    made = []
    for actor in read(descriptor, keys=False, as_json=as_json).actors:
        fresh = not actor.key.exists()
        if fresh:
            if public_path(actor.key).exists():
                raise click.ClickException(
                    f"{public_path(actor.key)} is there, {actor.key} is not: peers may have pinned "
                    "it; put the private key back, or remove the public one"
                )
            PrivateKey.generate().write(actor.key)
        kid = PrivateKey.read(actor.key).public.kid
        told = {"actor": actor.name, "key": str(actor.key), "kid": kid, "made": fresh}
        made.append(told)
        if not as_json:
            click.echo(f"{'made' if fresh else 'kept'}  {actor.name}  {actor.key}  {kid}")
    if as_json:
        click.echo(json.dumps(made, indent=2))


@keys.command(
    epilog="""\b
Examples:
  shirako keys rotate site actors.xml --dry-run
  shirako keys rotate site actors.xml
  shirako keys rotate broker actors.xml --grace 0s    # the old key may be known to somebody"""
)
@click.argument("actor")
@DESCRIPTOR
@click.option(
    "--grace",
    type=duration,
    default="30d",
    show_default=True,
    help="How long tickets and receipts that the old key has signed are still taken by who has "
    "not seen them before. 0s when somebody else may have that key.",
)
@click.option("--again", is_flag=True, help="Also when the key was replaced less than an hour ago.")
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
@click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
def rotate(
    actor: str, descriptor: Path, grace: int, again: bool, dry_run: bool, as_json: bool
) -> None:
    """Give ACTOR a new key. It stays who it is: leases, tickets and peers' files stay good.

    The old key signs that the new one follows it, and everything that the new one signs carries
    that. What was interrupted is finished by the same command.
    """
    from shirako.clock import RealClock
    from shirako.rotation import RotationRefused
    from shirako.rotation import rotate as replace_key
    from shirako.trust import Untrusted

    actors = {one.name: one for one in read(descriptor, as_json=as_json).actors}
    if actor not in actors:
        raise click.UsageError(f"no actor {actor!r}; {descriptor} has {', '.join(actors)}")
    try:
        done = replace_key(
            actors[actor].key, RealClock().tick(), grace, again=again, dry_run=dry_run
        )
    except (RotationRefused, Untrusted) as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        click.echo(json.dumps(_told(actor, done, dry_run=dry_run), indent=2))
        return
    for line in _lines(actor, done, dry_run=dry_run):
        click.echo(line)


def _told(actor: str, done: Rotation, *, dry_run: bool) -> dict[str, Any]:
    from shirako.clock import utc

    return {
        "actor": actor,
        "done": done.done,
        "dry_run": dry_run,
        "identity": done.identity,
        "number": done.number,
        "kid": done.key or None,
        "since": utc(done.since).isoformat(),
        "old_until": utc(done.until).isoformat(),
        "key": str(done.file),
        "public": str(done.public),
        "retired": str(done.retired),
    }


def _lines(actor: str, done: Rotation, *, dry_run: bool) -> list[str]:
    from shirako.clock import utc

    return [
        f"{'would be ' if dry_run else ''}{_DONE[done.done]}: the key of {actor}",
        f"  who it is        {done.identity} (as before)",
        f"  key {done.number}            {done.key or 'not made yet'}, in {done.file}",
        f"  key {done.number - 1}, retired   {done.retired}",
        f"  what key {done.number - 1} has signed is taken until {output.short(utc(done.until))}",
        "",
        f"Next: restart {actor}; until then it goes on with the key before.",
        f"      Give {done.public} to who pins it later. Peers that have an older copy may keep",
        "      it: they learn of the new key as soon as it is used.",
        f"      Delete {done.retired.name} when {actor} runs with the new key.",
    ]
