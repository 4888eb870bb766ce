"""`shirako verify`: what signed statements and audit records prove, without asking an actor.

What is verified, and how, is in `shirako.verifying`; here files are read and facts are told.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shirako.cli import output

if TYPE_CHECKING:
    from shirako.trust import Pin

FILE_BYTES_MAX = 16 * 1024 * 1024
PIPED = Path("-")
_GOOD, _BAD, _UNREADABLE = 0, 1, 2


class _FileOrServer(click.Path):
    """A path, `-` for what is piped in, or as `str` the URL of a ledger on a server."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        from shirako.ledger.opening import SERVERS

        if value.startswith(SERVERS):
            return str(value)
        if "://" in value:  # not repeated: it may hold a password
            self.fail("a URL is that of a ledger: postgresql://USER@HOST/DATABASE", param, ctx)
        return super().convert(value, param, ctx)


@click.command(
    epilog="""\b
Examples:
  shirako lease proofs ID > lease.json && shirako verify lease.json
  shirako site conflicts --json | shirako verify -
  shirako verify receipt.jwt --key site.pub.jwk
  shirako verify run/state/site.sqlite
  shirako verify run/state/site.sqlite --head 3f9c...  (as an earlier run told it)
  shirako verify 'postgresql://shirako@db/shirako?passfile=/etc/shirako/pass' --actor site"""
)
@click.argument(
    "file", type=_FileOrServer(exists=True, dir_okay=False, allow_dash=True, path_type=Path)
)
@click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Public key of a site that you trust, NAME.pub.jwk; repeat.",
)
@click.option("--head", default="", help="A head of the audit record that you noted earlier.")
@click.option("--actor", default="", help="Whose ledger it is, where FILE is the URL of a server.")
@click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
def verify(file: Path | str, keys: tuple[Path, ...], head: str, actor: str, as_json: bool) -> None:
    """Verify FILE: a ticket, lease, receipt, revocation, succession of keys, conflict proof or
    envelope, a list of them, or an actor's ledger with its audit record.

    FILE may be - for what is piped in, or the URL of a ledger in PostgreSQL, as in actors.xml:
    then say with --actor whose. It is only read, and the actor may run. Others on your machine can
    see what you write in a command: have a password in a passfile.

    A ticket or proof states its site's key itself; say with --key which sites you trust.

    Exit status: 0 it holds, 1 it does not, 2 it can not be read.
    """
    from shirako.verifying import Refuted, Unreadable

    if isinstance(file, str) and not actor:
        raise click.UsageError("say with --actor whose ledger on that server it is")
    if isinstance(file, Path) and actor:
        raise click.UsageError("--actor is for the URL of a server: a file is one actor's ledger")
    told: list[dict[str, Any]] = []
    problem, where, status = "", "", _GOOD
    try:
        told.extend(_lines(file, keys, head, actor))
    except Refuted as error:
        problem, where, status = error.why, error.where, _BAD
    except Unreadable as error:
        problem, status = str(error), _UNREADABLE
    if as_json:
        good = status == _GOOD
        click.echo(
            json.dumps(
                {"good": good, "problem": problem, "where": where, "statements": told}, indent=2
            )
        )
    else:
        for line in told:
            click.echo("  " * int(line.get("depth", 0)) + output.plain(line["says"]))
        place = f"{output.plain(where)}: " if where else ""
        click.echo("good" if status == _GOOD else f"BAD: {place}{output.plain(problem)}")
    raise click.exceptions.Exit(status)


def _lines(
    file: Path | str, keys: tuple[Path, ...], head: str, actor: str
) -> Iterator[dict[str, Any]]:
    """What the file says, each thing once it is verified."""
    from shirako.cli import explaining
    from shirako.trust import lineage_in
    from shirako.verifying import Unreadable
    from shirako.verifying.audit import SQLITE, read_audit, read_audit_on_server
    from shirako.verifying.statements import parse
    from shirako.verifying.statements import verify as verified

    if isinstance(file, str):
        yield explaining.audit(read_audit_on_server(file, actor, head))
        return
    with click.open_file(str(file), "rb") as opened:
        start = opened.read(len(SQLITE))
        if start == SQLITE and file != PIPED:
            yield explaining.audit(read_audit(file, head))
            return
        if head:
            raise Unreadable(f"{file} is no ledger: --head is of audit records")
        data = start + opened.read(FILE_BYTES_MAX)
    if len(data) > FILE_BYTES_MAX:
        raise Unreadable(f"{file} is larger than {FILE_BYTES_MAX} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise Unreadable(f"{file} is neither JSON nor a token nor a ledger") from None
    pins = _pins(keys)
    trusted = {pin.key.kid: pin.key for pin in pins}
    lineages = {pin.key.kid: lineage_in(pin.lineage) for pin in pins if pin.lineage}
    for fact in verified(parse(text), trusted, lineages):
        yield from explaining.lines(fact)


def _pins(keys: tuple[Path, ...]) -> list[Pin]:
    from shirako.trust import Untrusted, read_pin
    from shirako.verifying import Unreadable

    try:
        return [read_pin(key) for key in keys]
    except (Untrusted, OSError) as error:
        raise Unreadable(str(error)) from None
