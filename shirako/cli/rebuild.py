"""`shirako rebuild`: a ledger that was lost, made again from its mirror."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from shirako.cli import output
from shirako.cli.actors import read

if TYPE_CHECKING:
    from shirako.descriptor import ActorSpec
    from shirako.ledger import Write
    from shirako.ledger.copies import Source


@click.command(
    epilog="""\b
Examples:
  shirako rebuild site --from-mirror --dry-run     # whether the mirror is whole, and how far it is
  shirako rebuild site --from-mirror
  shirako run actors.xml --actor site              # starts held
  shirako recover site --dry-run"""
)
@click.argument("actor")
@click.option("--from-mirror", is_flag=True, help="From the directory that it names for it.")
@click.option("--dry-run", is_flag=True, help="Read and check all, write nothing.")
@click.option(
    "--actors",
    "descriptor",
    default=Path("actors.xml"),
    show_default=True,
    envvar="SHIRAKO_ACTORS",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The descriptor that names the actor, its mirror, and where its ledger is.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
def rebuild(actor: str, descriptor: Path, from_mirror: bool, dry_run: bool, as_json: bool) -> None:
    """Make the ledger of ACTOR, which was lost, from its mirror in a directory.

    The actor must not run, and must not have a ledger: what is left of one may be newer than the
    mirror. When it is started it is held until `shirako recover` confirms, for the mirror may lack
    the last moments before the loss.
    """
    from shirako.clock import utc
    from shirako.ledger import LedgerError
    from shirako.ledger.copying import check_room, restore
    from shirako.ledger.mirror.reading import read_mirror
    from shirako.ledger.mirror.rebuilding import source_of

    if not from_mirror:
        raise click.UsageError("say from what: --from-mirror")
    found = read(descriptor, keys=False, as_json=as_json)
    known = {one.name: one for one in found.actors}
    if actor not in known:
        raise click.UsageError(f"{descriptor} has no actor {actor}: it has {', '.join(known)}")
    spec = known[actor]
    if spec.mirror is None:
        raise click.UsageError(f"{actor} has no <mirror> in {descriptor}")
    where: str | Path = found.ledger or found.state / f"{actor}.sqlite"
    try:
        check_room(where, actor)
        mirrored = read_mirror(spec.mirror, actor)
        if not dry_run:
            source = source_of(mirrored, spec.mirror)
            restore(where, actor, source, [_mark(spec, source)], lambda _done, _all: None)
    except LedgerError as error:
        raise click.ClickException(str(error)) from None
    head = mirrored.head
    told = {
        "actor": actor,
        "ledger": output.plain(str(where)),
        "mirror": f"{spec.mirror.url} {spec.mirror.base}",
        "commits": head.commits,
        "records": head.records,
        "last_tick": head.tick,
        "log_before": {"entries": head.links, "hash": head.head},
        "dry_run": dry_run,
    }
    if as_json:
        output.as_json(told)
        return
    done = "can be rebuilt" if dry_run else "is rebuilt, and held when it starts"
    click.echo(f"{actor} {done}: {head.records} records as of commit {head.commits}")
    click.echo(f"the last entry of its log was at {utc(head.tick):%Y-%m-%d %H:%M:%S}Z")


def _mark(spec: ActorSpec, source: Source) -> Write:
    """What holds the actor when it is started: its ledger is a past that went on without it."""
    from shirako.actors import restored

    body = source.find(restored.KIND, "/".join(restored.KEY))
    earlier = None if body is None else restored.decode(body)
    # which key it had is not in the mirror
    return restored.write(
        restored.marked(earlier, actor=spec.name, role=spec.role, kid="", taken=source.tick)
    )
