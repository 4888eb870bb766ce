"""`shirako run` and `check`: from a descriptor to running actors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from shirako.descriptor import Descriptor

DESCRIPTOR = click.argument(
    "descriptor",
    default=Path("actors.xml"),
    type=click.Path(dir_okay=False, path_type=Path),
)


def read(path: Path, *, keys: bool = True, as_json: bool = False) -> Descriptor:
    """The descriptor; its faults are printed and end the command with status 2."""
    from shirako.descriptor import DescriptorInvalid, read_descriptor

    try:
        return read_descriptor(path, keys=keys)
    except DescriptorInvalid as invalid:
        if as_json:
            faults = [
                {
                    "path": str(fault.path),
                    "line": fault.line,
                    "message": fault.message,
                    "mend": fault.mend,
                }
                for fault in invalid.faults
            ]
            click.echo(json.dumps({"ok": False, "faults": faults}, indent=2))
        else:
            for fault in invalid.faults:
                click.echo(str(fault), err=True)
        raise click.exceptions.Exit(2) from None


@click.command(
    epilog="""\b
Examples:
  shirako run actors.xml                    # all actors in one process
  shirako run actors.xml --actor site       # this one; the others run elsewhere
  shirako run actors.xml --actor site --standby   # on another machine: takes over"""
)
@DESCRIPTOR
@click.option("--actor", "names", multiple=True, metavar="NAME", help="Only this actor; repeat.")
@click.option(
    "--standby",
    is_flag=True,
    help="Wait while another process runs the actor, and take over when it ends (PostgreSQL).",
)
@click.option("--verbose", "-v", is_flag=True, help="Log more.")
def run(descriptor: Path, names: tuple[str, ...], standby: bool, verbose: bool) -> None:
    """Run the actors of DESCRIPTOR until SIGTERM or Ctrl-C."""
    import uvloop

    from shirako.assembly import run as run_actors
    from shirako.descriptor import DescriptorInvalid
    from shirako.ledger import LedgerError
    from shirako.logs import write_to_standard_error
    from shirako.trust import Untrusted

    read(descriptor)
    write_to_standard_error(verbose=verbose)
    try:
        uvloop.run(run_actors(descriptor, names, standby=standby))
    except DescriptorInvalid as invalid:
        raise click.ClickException(str(invalid)) from None
    except LookupError as error:
        raise click.UsageError(str(error.args[0] if error.args else error)) from None
    except (LedgerError, Untrusted) as error:
        raise click.ClickException(str(error)) from None


@click.command(
    epilog="""\b
Examples:
  shirako check actors.xml
  shirako check actors.xml --json | jq '.faults[].message'"""
)
@DESCRIPTOR
@click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
def check(descriptor: Path, as_json: bool) -> None:
    """Print every fault of DESCRIPTOR and how to mend it; exit status 2 when there are any."""
    found = read(descriptor, as_json=as_json)
    actors = [{"name": one.name, "role": one.role, "url": one.url} for one in found.actors]
    if as_json:
        told = {"ok": True, "faults": [], "actors": actors, "state": str(found.state)}
        click.echo(json.dumps(told, indent=2))
        return
    names = ", ".join(f"{one['role']} {one['name']}" for one in actors)
    click.echo(f"{descriptor}: good: {names}; {len(found.edges)} edges")
