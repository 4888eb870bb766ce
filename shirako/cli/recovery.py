"""`shirako backup`, `restore`, `recover`: for the day when an actor's ledger is lost."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shirako.cli import output
from shirako.cli.actors import read
from shirako.cli.connection import Connection, connected

if TYPE_CHECKING:
    from shirako.actors.restored import Restored
    from shirako.api.recovery_models import Recovery
    from shirako.descriptor import ActorSpec, Descriptor

_ACTORS = click.option(
    "--actors",
    "descriptor",
    default=Path("actors.xml"),
    show_default=True,
    envvar="SHIRAKO_ACTORS",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The descriptor that names the actor and where its ledger is.",
)
_JSON = click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
_KINDS_OF = {"unit": ("authority",), "delegation": ("authority", "broker"), "given": ("broker",)}
"""Kinds of records that only some roles keep."""


@click.command(
    epilog="""\b
Examples:
  shirako backup site -o site.backup
  shirako backup site -o "site-$(date +%F).backup" --actors /etc/shirako/actors.xml
  shirako verify site.backup"""
)
@click.argument("actor")
@click.option(
    "--output",
    "-o",
    "file",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file to make.",
)
@click.option("--force", is_flag=True, help="Also when FILE is there: it is replaced.")
@_ACTORS
@_JSON
def backup(actor: str, file: Path, force: bool, descriptor: Path, as_json: bool) -> None:
    """Copy the ledger of ACTOR into a file, as one moment left it. The actor may run.

    The file is the same for ledgers in SQLite and PostgreSQL, and can be restored into either. It
    is checked before this command calls it good. It holds no private key, but tickets and leases,
    and all that guests said about themselves: keep it as you keep the ledger.
    """
    from shirako.actors import restored
    from shirako.clock import RealClock
    from shirako.ledger import LedgerError
    from shirako.ledger.copying import reading
    from shirako.ledger.sqlite_copying import write_file

    known = read(descriptor, keys=False, as_json=as_json)
    spec = _spec(known, descriptor, actor)
    try:
        with reading(_ledger(known, spec), actor) as source:
            mark = restored.marked(
                _mark(source.find),
                actor=actor,
                role=spec.role,
                kid=_kid(spec),
                taken=RealClock().tick(),
            )
            with _Progress("copying") as tell:
                total = write_file(file, source, [restored.write(mark)], tell, replace=force)
    except LedgerError as error:
        raise click.ClickException(str(error)) from None
    told = {
        "good": True,
        "file": str(file),
        "bytes": file.stat().st_size,
        **_told(mark),
        "records": total.records,
        "links": total.links,
        "head": total.head,
    }
    if as_json:
        click.echo(json.dumps(told, indent=2))
    else:
        click.echo(
            f"{file}: good: {spec.role} {actor}, {total.records} records and {total.links} "
            f"entries of its log, {told['bytes']} bytes"
        )


@click.command(
    epilog="""\b
Examples:
  shirako restore site site.backup --dry-run     # checks it, and changes nothing
  shirako restore site site.backup
  shirako run actors.xml --actor site            # starts held
  shirako recover site --dry-run"""
)
@click.argument("actor")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--dry-run", is_flag=True, help="Check the backup and the place; change nothing.")
@_ACTORS
@_JSON
def restore(actor: str, file: Path, dry_run: bool, descriptor: Path, as_json: bool) -> None:
    """Put the backup FILE where ACTOR's ledger was lost. The actor must not run.

    A ledger that is there is never replaced. The actor starts held: no lease ends, nothing is sold
    or cleaned until `shirako recover` confirms it.
    """
    from shirako.actors import restored
    from shirako.ledger import LedgerError
    from shirako.ledger.copying import check_room
    from shirako.ledger.copying import restore as put
    from shirako.ledger.inspection import inspect_file
    from shirako.ledger.sqlite_copying import reading_file

    known = read(descriptor, keys=False, as_json=as_json)
    spec = _spec(known, descriptor, actor)
    where = _ledger(known, spec)
    try:
        with reading_file(file) as source:
            earlier = _mark(source.find)
            warnings = _fitting(file, spec, earlier)
            check_room(where, actor)
            with output.ticking(f"checking {file}"):
                inspect_file(file)
            taken = earlier.taken if earlier and not earlier.confirmed else source.tick
            kid = earlier.kid if earlier else _kid(spec)
            mark = restored.marked(earlier, actor=actor, role=spec.role, kid=kid, taken=taken)
            total = source.total
            if not dry_run:
                with _Progress("restoring") as tell:
                    total = put(where, actor, source, [restored.write(mark)], tell)
    except LedgerError as error:
        raise click.ClickException(str(error)) from None
    told = {"dry_run": dry_run, "file": str(file), **_told(mark), "records": total.records}
    told |= {"links": total.links, "head": total.head, "warnings": warnings}
    if as_json:
        click.echo(json.dumps(told, indent=2))
        return
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)
    would = "good, and can be restored" if dry_run else "restored"
    click.echo(
        f"{file}: {would}: {spec.role} {actor} as of {told['taken']}, {total.records} records"
    )
    if not dry_run:
        click.echo("start the actor, then look: shirako recover --dry-run", err=True)


@click.command(
    epilog="""\b
Examples:
  shirako recover site --dry-run                 # what would end, run, be quarantined
  shirako recover site --yes
  shirako recover broker --backup-was-current    # nothing was sold or given back after it"""
)
@click.argument("actor", required=False)
@click.option("--dry-run", is_flag=True, help="Show what would happen, and change nothing.")
@click.option(
    "--backup-was-current",
    is_flag=True,
    help="Of a broker: nothing was sold or given back after the backup, so it may sell all it "
    "holds. Without this it sells nothing of what it held, until those delegations are over.",
)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@connected
def recover(
    to: Connection, *, actor: str | None, dry_run: bool, backup_was_current: bool, yes: bool
) -> None:
    """Let an actor go on that was restored from a backup, and is held since.

    Leases whose term is over by its books end then, pending handlers run, and nodes that are not
    as its books say are quarantined. Before, compare: what happened after the backup is not in it.
    """
    if actor is not None:
        name = to.run(lambda client: client.status()).name
        if name != actor:
            raise click.UsageError(f"{to.url} is the actor {name}, not {actor}: see --url")
    if not (dry_run or yes):
        _ask(to, backup_was_current=backup_was_current)
    told = _run(to, dry_run=dry_run, backup_was_current=backup_was_current)
    output.as_json(told) if to.json else _print(told)


def _run(to: Connection, *, dry_run: bool, backup_was_current: bool) -> Recovery:
    with output.ticking("looking at what is there"):
        return to.run(
            lambda client: client.recover(dry_run=dry_run, backup_was_current=backup_was_current)
        )


def _ask(to: Connection, *, backup_was_current: bool) -> None:
    """Show what it means, and go on only when told to."""
    ahead = _run(to, dry_run=True, backup_was_current=backup_was_current)
    if not ahead.held:
        return
    if not sys.stdin.isatty():
        raise click.ClickException(
            "look at what would happen with --dry-run, and say --yes if that is right"
        )
    _print(ahead)
    if ahead.unsold:
        said = "sell all of it: the backup was current" if backup_was_current else "sell none of it"
        click.echo(f"Of these delegations this broker would {said}.", err=True)
    click.confirm("End the hold?", abort=True, err=True)


def _print(told: Recovery) -> None:
    if told.restored is None:
        click.echo("this actor's ledger is from no backup: there is nothing to confirm", err=True)
        return
    confirmed = told.restored.confirmed
    output.facts(
        [
            ("backup of", output.both(told.restored.taken)),
            ("started", output.both(told.restored.begun) if told.restored.begun else ""),
            ("confirmed", f"{output.both(confirmed)}, by {told.restored.by}" if confirmed else ""),
        ]
    )
    if told.due:
        rows = [
            (one.id, one.slice, output.both(one.end), one.does, ", ".join(one.units) or "-")
            for one in told.due
        ]
        output.table(("LEASE", "SLICE", "TERM ENDED", "IS", "UNITS"), rows)
    if told.pending:
        work = [(one.handler, one.unit, one.epoch, one.id) for one in told.pending]
        output.table(("HANDLER", "UNIT", "EPOCH", "LEASE"), work)
    if told.suspects:
        units = [(one.unit, one.id or "-", one.why) for one in told.suspects]
        output.table(("QUARANTINED UNIT", "LEASE", "WHY"), units)
    if told.unsold:
        sold = [(one.id, one.type, one.units, output.both(one.until)) for one in told.unsold]
        output.table(("DELEGATION", "TYPE", "UNITS", "NOT SOLD UNTIL"), sold)
    if told.more:
        click.echo(f"and {told.more} more", err=True)
    if told.unheard:
        click.echo(
            f"{told.unheard} messages are not taken by their peers yet, who may know more: better "
            "wait until they are",
            err=True,
        )
    counts = (
        f"{len(told.due)} leases whose term is over, {len(told.pending)} handlers, "
        f"{len(told.suspects)} units to quarantine"
    )
    if not told.held:
        click.echo("it is not held", err=True)
    else:
        click.echo(f"{'held: ' if told.dry_run else 'the hold has ended: '}{counts}", err=True)


# What the descriptor and a backup say ------------------------------------------------------------


def _spec(known: Descriptor, descriptor: Path, actor: str) -> ActorSpec:
    for spec in known.actors:
        if spec.name == actor:
            return spec
    names = ", ".join(spec.name for spec in known.actors)
    raise click.UsageError(f"{descriptor} has no actor {actor}: it has {names}")


def _ledger(known: Descriptor, spec: ActorSpec) -> str | Path:
    return known.ledger or known.state / f"{spec.name}.sqlite"


def _kid(spec: ActorSpec) -> str:
    """The thumbprint of the actor's key; empty where there is no key to read."""
    from shirako.trust import Untrusted, public_path, read_public

    try:
        return read_public(public_path(spec.key)).kid
    except (OSError, Untrusted):
        return ""


def _mark(find: Any) -> Restored | None:
    """What a ledger says of being from a backup. Raises `LedgerError`."""
    import msgspec

    from shirako.actors import restored
    from shirako.ledger import LedgerError

    body = find(restored.KIND, "/".join(restored.KEY))
    try:
        return None if body is None else restored.decode(body)
    except msgspec.DecodeError as error:
        raise LedgerError(f"its mark can not be read: {error}") from None


def _fitting(file: Path, spec: ActorSpec, mark: Restored | None) -> list[str]:
    """What a person should know; raises `LedgerError` when it is another actor's."""
    from shirako.ledger import LedgerError
    from shirako.ledger.sqlite_copying import kinds_of

    wrong = [kind for kind in kinds_of(file) if spec.role not in _KINDS_OF.get(kind, (spec.role,))]
    if wrong or (mark is not None and mark.role != spec.role):
        whose = f"role {mark.role}" if mark is not None else f"another role: it keeps {wrong[0]}s"
        raise LedgerError(f"{file} is of {whose}, and {spec.name} is of role {spec.role}")
    if mark is None:
        return ["it was not made by shirako backup: whose it is can not be told"]
    if mark.actor != spec.name:
        raise LedgerError(
            f"{file} is a backup of the actor {mark.actor}, not of {spec.name}: its peers would "
            "take none of what it says for another one's"
        )
    kid = _kid(spec)
    if mark.kid and kid and mark.kid != kid:
        return [f"the actor's key was {mark.kid} then, and is {kid} now"]
    return []


def _told(mark: Restored) -> dict[str, Any]:
    from shirako.clock import utc

    return {
        "actor": mark.actor,
        "role": mark.role,
        "taken": utc(mark.taken).isoformat().replace("+00:00", "Z"),
    }


class _Progress:
    """How much is done, on a terminal; gone when it is done."""

    def __init__(self, doing: str) -> None:
        self._doing = doing
        self._shows = sys.stderr.isatty()
        self._percent = -1

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._shows:
            click.echo("\r\x1b[K", nl=False, err=True)

    def __call__(self, done: int, of: int) -> None:
        percent = done * 100 // max(of, 1)
        if self._shows and percent != self._percent:
            self._percent = percent
            click.echo(f"\r{self._doing} ... {percent} %", nl=False, err=True)
